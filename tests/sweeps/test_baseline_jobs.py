"""Jobs of the baseline that a sweep plans by itself: which there are, in which order, and where there are none."""

import dataclasses
import json

import pytest
from composition import composed
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmbench.analysis.parity.grouping import VARIED
from llmbench.job.prepare import conditions
from llmbench.sweeps import baseline_jobs, console, plan, state
from records import make_record

SMALL = ["hardware=cpu", "canvas=8", "workload.prompts=4", "batch=2", "metric.likelihood=false"]
PAIR = ["model=llama,llada", "steps=4,8"]


def build(*overrides: str) -> list[plan.Cell]:
    """What was asked for."""
    grid = plan.expand(OverridesParser.create().parse_overrides([*SMALL, *overrides]))
    return plan.build(grid, lambda cell: composed(*cell))


def curves(*overrides: str) -> list[plan.Cell]:
    return [cell for cell in baseline_jobs.with_curves(build(*overrides)) if cell.role == "curve"]


def temperatures(cells: list[plan.Cell]) -> list[float]:
    return [cell.prepared.job.model.decoder.temperature for cell in cells]


def retimed(cells: list[plan.Cell]) -> list[plan.Cell]:
    return [cell for cell in baseline_jobs.with_retimed(cells) if cell.role == "retimed"]


def taken_over(cells: list[plan.Cell], *places: int) -> list[plan.Cell]:
    """The same plan, in which some jobs were finished by an earlier process."""
    return [
        dataclasses.replace(cell, reused=make_record() if place in places else None) for place, cell in enumerate(cells)
    ]


def on_gpu(cell: plan.Cell) -> plan.Cell:
    """The same job for a CUDA device; nothing of it runs."""
    job = cell.prepared.job
    job = dataclasses.replace(job, hardware=dataclasses.replace(job.hardware, device="cuda"))
    return dataclasses.replace(cell, prepared=dataclasses.replace(cell.prepared, job=job))


def test_the_plan_is_baselines_then_their_curve_then_candidates_then_baselines_again():
    for models in ("llama,llada", "llada,llama"):
        cells = baseline_jobs.with_retimed(baseline_jobs.with_curves(build(f"model={models}", "steps=4,8")))
        assert [cell.title for cell in cells] == [
            "llama",
            *(f"llama temperature={t} (curve)" for t in ("0", "0.2", "0.4", "0.6", "0.8", "1")),
            "llada k=4",
            "llada k=8",
            "llama (timed again)",
        ]
        assert len({cell.prepared.identity for cell in cells}) == len(cells)
        assert cells[1].name == f"llama-curve-{cells[1].prepared.identity}"


def test_a_point_has_the_conditions_of_the_candidates_and_measures_no_time():
    cells = baseline_jobs.with_curves(build(*PAIR))
    point, candidate = (conditions(cells[place].prepared, "", {}) for place in (1, -1))
    assert [point.get(key) for key in VARIED] == [candidate.get(key) for key in VARIED]
    assert point["encoder"] != "none"  # a condition, though nothing is compared by it
    job = cells[1].prepared.job
    assert (job.timing.repeats, job.timing.token_timing_repeats) == (1, 0)
    assert (job.metric.likelihood, job.metric.roofline) == (False, False)
    assert plan.generations(cells[1].prepared) == (1, 1)
    assert plan.generations(cells[0].prepared) == (1 + 1 + 5 + 1, 1)


def test_a_full_job_serves_as_the_point_at_its_temperature():
    assert temperatures(curves(*PAIR, "temperature=0.6")) == [0, 0.2, 0.4, 0.8, 1]
    assert temperatures(curves(*PAIR, "temperature=0,0.7")) == [0.2, 0.4, 0.6, 0.8, 1]
    # an untimed point is the same text, however often full jobs are repeated
    assert temperatures(curves(*PAIR, "temperature=0.6", "timing.repeats=6,7")) == [0, 0.2, 0.4, 0.8, 1]


def test_the_temperatures_can_be_chosen_and_a_gpu_has_more_of_them():
    assert temperatures(curves(*PAIR, "parity.baseline_temperatures=[0.5,0,0.7,0.5]")) == [0, 0.5]
    cells = baseline_jobs.with_curves([on_gpu(cell) for cell in build(*PAIR)])
    found = temperatures([cell for cell in cells if cell.role == "curve"])
    assert found == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1]  # 0.7 was asked for


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=llama"],
        ["model=llada", "steps=4,8"],
        [*PAIR, "metric=speed"],
        [*PAIR, "metric.perplexity.judge=null"],
        [*PAIR, "metric=speed", "weights=dummy"],
        [*PAIR, "parity.baseline_temperatures=[]"],
    ],
)
def test_no_curve_without_two_sides_and_a_judge_of_texts(overrides):
    assert curves(*overrides) == []


def test_every_seed_has_its_curve_and_greedy_is_once():
    found = curves(*PAIR, "seed=1,2", "parity.baseline_temperatures=[0,0.5]")
    assert [cell.title for cell in found] == [
        "llama temperature=0 (curve)",
        "llama seed=1 temperature=0.5 (curve)",
        "llama seed=2 temperature=0.5 (curve)",
    ]
    # a greedy baseline reads no seed, its candidates do
    greedy = curves(
        *PAIR, "seed=1,2", "temperature=0", "diffusion_temperature=0.7", "parity.baseline_temperatures=[0.5]"
    )
    assert [cell.prepared.job.seed for cell in greedy] == [1, 2]


def test_every_combination_that_has_a_candidate_has_its_curve():
    found = curves(*PAIR, "batch=1,2", "parity.baseline_temperatures=[0]")
    assert [cell.prepared.job.batch for cell in found] == [1, 2]
    lonely = [*build("model=llama", "batch=1,2"), *build("model=llada", "batch=2")]
    points = [cell for cell in baseline_jobs.with_curves(lonely) if cell.role == "curve"]
    assert {cell.prepared.job.batch for cell in points} == {2}


def test_temperatures_of_candidates_share_one_curve():
    alone = curves(*PAIR)
    several = curves(*PAIR, "diffusion_temperature=1.0,1.4")
    assert [cell.prepared.identity for cell in several] == [cell.prepared.identity for cell in alone]


def test_the_plainest_baseline_draws_the_curve():
    only = "parity.baseline_temperatures=[0]"
    for models, kind in {
        "llama,llama_generate,llada": "autoregressive",
        "llama,llama_server,llada": "autoregressive",
        "llama_generate,llada": "transformers",
        "llama_server,llada": "server",
    }.items():
        found = curves(f"model={models}", "steps=4", only, "server.trust_same_hardware=true")
        assert [cell.prepared.job.model.decoder.kind for cell in found] == [kind]
    assert curves("model=llama_server,llada", "steps=4", only) == []  # no verdict rests on it
    both = [*build("model=llama_generate", "model.decoder.cache=dynamic,static", only), *build("model=llada", only)]
    assert len(baseline_jobs.with_curves(both)) == len(both) + 1  # two caches write one text


def points(*overrides: str) -> list[plan.Cell]:
    """The curve's jobs, all of the plain decoder."""
    found = [cell for cell in baseline_jobs.with_curves(build(*overrides)) if cell.role == "curve"]
    assert {(cell.prepared.job.model.decoder.draft, cell.prepared.draft) for cell in found} <= {(None, None)}
    return found


def identities(cells: list[plan.Cell]) -> set[str]:
    return {cell.prepared.identity for cell in cells}


def test_the_curve_of_a_job_with_drafts_is_the_plain_decoders():
    """At 0.7 its text has other noise, so the plain decoder writes there too; at 0 both write the same."""
    few = "parity.baseline_temperatures=[0,0.5]"
    undrafted = points(*PAIR, few)
    for draft in ("lookup", "llada"):
        alone = points(*PAIR, few, f"draft={draft}")
        assert temperatures(alone) == [0, 0.5, 0.7]
        assert identities(undrafted) < identities(alone)
    assert [cell.title for cell in alone] == [f"llama temperature={t} (curve)" for t in ("0", "0.5", "0.7")]
    assert sorted(temperatures(points(*PAIR, few, "draft=lookup", "temperature=0,0.7"))) == [0.5, 0.7]
    assert points(*PAIR, "draft=lookup", "parity.baseline_temperatures=[]") == []


def test_plain_and_drafted_jobs_share_one_curve():
    few = "parity.baseline_temperatures=[0,0.5]"
    undrafted = points(*PAIR, few)
    for order in ("null,lookup,llada", "llada,null"):
        both = points(*PAIR, few, f"draft={order}", "draft_tokens=3,7")
        assert [cell.title for cell in both] == [cell.title for cell in undrafted]
        assert identities(both) == identities(undrafted)
    several = points(*PAIR, few, "draft=lookup,llada", "seed=1,2")
    assert [cell.title for cell in several] == [
        "llama temperature=0 (curve)",
        "llama seed=1 temperature=0.5 (curve)",
        "llama seed=1 temperature=0.7 (curve)",
        "llama seed=2 temperature=0.5 (curve)",
        "llama seed=2 temperature=0.7 (curve)",
    ]


def test_the_plain_form_of_drafts_is_plainer_than_another_decoder():
    asked = ["model=llama,llama_generate,llada", "steps=4", "draft=lookup", "batch=1"]
    found = points(*asked, "parity.baseline_temperatures=[0]")
    assert {cell.prepared.job.model.decoder.kind for cell in found} == {"autoregressive"}


def test_every_implementation_is_timed_again():
    assert [cell.title for cell in retimed(build(*PAIR, "draft=null,lookup"))] == [
        "llama draft=null (timed again)",
        "llama draft=lookup (timed again)",
    ]


def test_the_baseline_is_timed_again_after_the_candidates():
    cells = build(*PAIR, "batch=1,2")
    again = baseline_jobs.with_retimed(cells)
    assert [cell.role for cell in again] == ["timed"] * 6 + ["retimed"] * 2
    assert [cell.prepared.job.retiming for cell in again[6:]] == ["after", "after"]
    assert [cell.title for cell in again[6:]] == ["llama batch=1 (timed again)", "llama batch=2 (timed again)"]
    timing = again[6].prepared.job.timing
    assert (timing.repeats, timing.token_timing_repeats, timing.energy_seconds) == (6, 0, 0.0)
    assert plan.generations(again[7].prepared) == (7, 0)  # the repeated batch alone: warm-up and 6 repeats
    assert len(retimed(build(*PAIR, "metric=speed", "weights=dummy"))) == 1


def test_a_baseline_of_an_earlier_process_is_timed_before_the_first_candidate_that_is_left():
    cells = taken_over(build(*PAIR), 0, 1)
    again = baseline_jobs.with_retimed(cells)
    titles = ["llama", "llada k=4", "llama (timed again first)", "llada k=8", "llama (timed again)"]
    assert [cell.title for cell in again] == titles
    assert again[2].reused is None
    assert len({cell.prepared.identity for cell in again}) == 5


def test_a_baseline_is_timed_again_for_candidates_of_its_own_seed():
    cells = build(*PAIR, "seed=1,2")  # llama, llama, then k = 4 and 8 of each seed
    left = taken_over(cells, *(n for n, cell in enumerate(cells) if cell.prepared.job.seed == 2))
    assert [cell.title for cell in retimed(left)] == ["llama seed=1 (timed again)"]
    greedy = build(*PAIR, "seed=1,2", "temperature=0", "diffusion_temperature=0.7")
    assert len(retimed(taken_over(greedy, 1, 2, 3))) == 1  # it reads no seed


def test_nothing_is_timed_again_where_nothing_is_compared():
    cells = build(*PAIR)
    assert retimed(taken_over(cells, 0, 1, 2)) == []
    assert retimed(taken_over(cells, 1, 2)) == []  # the candidates are of another process
    assert retimed(build("model=llama")) == []
    assert retimed(build("model=llada", "steps=4,8")) == []
    assert retimed(build(*PAIR, "timing.repeats=1")) == []
    assert retimed(build("model=llama_server,llada", "steps=4")) == []


def test_a_curve_is_taken_over_and_a_retimed_record_is_not(tmp_path):
    cells = baseline_jobs.with_retimed(baseline_jobs.with_curves(build(*PAIR)))
    left = make_record("llama")
    for cell in (cells[0], cells[1], cells[-1]):
        found = dataclasses.replace(left, identity=cell.prepared.identity, role=cell.role)
        found.save(tmp_path / "earlier" / cell.name)
    (tmp_path / "earlier" / state.SWEEP_FILE).write_text(json.dumps({"ended": False}))
    asked = baseline_jobs.with_curves(build(*PAIR))
    again = baseline_jobs.with_retimed(plan.reuse(asked, "interrupted", [tmp_path], lambda cell: left.environment))
    assert [cell.role for cell in again if cell.reused] == ["timed", "curve"]
    assert [cell.prepared.job.retiming for cell in again if cell.role == "retimed"] == ["before", "after"]


def test_the_screen_shows_a_line_for_a_curve_and_one_for_what_is_timed_again():
    cells = baseline_jobs.with_retimed(baseline_jobs.with_curves(build(*PAIR)))
    said = console.plan(cells, grid=4).splitlines()
    assert said[0].startswith("3 jobs (4 cells of the grid) and 7 more of the baseline on cpu")
    assert sum("llama-curve" in line for line in said) == 0
    # 6 jobs of 2 batches of 8 tokens; 7 generations of one of them
    curve = "curve: llama at temperature 0, 0.2, 0.4, 0.6, 0.8, 1 (6 jobs, texts only, 96 forwards)"
    assert said[-2:] == [curve, "timed again after the candidates: llama (1 job, times only, 56 forwards)"]
    recorded = console.plan(taken_over(cells, 0, 1, 2), grid=4)
    assert "texts only, 96 forwards, 2 recorded already)" in recorded


def test_the_screen_names_both_temperatures():
    cells = build(*PAIR, "diffusion_temperature=1.4")
    head = console.plan(cells, grid=4).splitlines()[0]
    assert head.endswith(", temperature 0.7 (autoregressive) and 1.4 (diffusion)")


INTERLEAVED = "sweep.order=interleaved"


def titles(cells: list[plan.Cell]) -> list[str]:
    return [cell.title for cell in cells]


def test_interleaved_every_candidate_stands_directly_between_timings_of_the_baseline():
    cells = baseline_jobs.with_retimed(build(*PAIR, INTERLEAVED))
    again = ["llama (timed again after candidate 1)", "llama (timed again after candidate 2)"]
    assert titles(cells) == ["llama", "llada k=4", again[0], "llada k=8", again[1]]
    assert len({cell.prepared.identity for cell in cells}) == len({cell.name for cell in cells}) == 5
    # behind a curve the baseline's own job is no neighbour
    curved = baseline_jobs.with_retimed(
        baseline_jobs.with_curves(build(*PAIR, INTERLEAVED, "parity.baseline_temperatures=[0]"))
    )
    first = ["llama", "llama temperature=0 (curve)", "llama (timed again before candidate 1)"]
    assert titles(curved) == [*first, "llada k=4", again[0], "llada k=8", again[1]]
    # what is taken over is no neighbour either
    goes_on = baseline_jobs.with_retimed(taken_over(build(*PAIR, INTERLEAVED), 0))
    before = "llama (timed again before candidate 1)"
    assert titles(goes_on) == ["llama", before, "llada k=4", again[0], "llada k=8", again[1]]


def test_interleaved_each_candidate_has_the_baselines_that_it_is_compared_with():
    cells = baseline_jobs.with_retimed(build("model=llama,llada", "steps=4", "batch=1,2", INTERLEAVED))
    assert titles(cells) == [
        "llama batch=1",
        "llama batch=2",
        "llada k=4 batch=1",
        "llama batch=1 (timed again after candidate 1)",
        "llama batch=2 (timed again before candidate 2)",
        "llada k=4 batch=2",
        "llama batch=2 (timed again after candidate 2)",
    ]
    assert titles(baseline_jobs.with_retimed(build("model=llada", "steps=4,8", INTERLEAVED))) == [
        "llada k=4",
        "llada k=8",
    ]


def test_random_candidates_are_shuffled_by_the_seed_between_the_baseline_and_the_baseline_again():
    grid = ["model=llama,llada", "steps=1,2,3,4,5,6"]
    usual = titles(build(*grid))
    orders = []
    for seed in (0, 0, 1):
        cells = build(*grid, "sweep.order=random", f"sweep.order_seed={seed}")
        orders.append(titles(baseline_jobs.with_retimed(baseline_jobs.in_order(cells))))
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert (order[0], order[-1]) == ("llama", "llama (timed again)")
        assert sorted(order[1:-1]) == sorted(usual[1:])
        assert order[1:-1] != usual[1:]
    assert titles(baseline_jobs.in_order(build(*grid))) == usual


def test_the_screen_says_what_an_order_costs():
    cells = baseline_jobs.with_retimed(build(*PAIR, INTERLEAVED))
    last = console.plan(cells, grid=4).splitlines()[-1]
    assert last == "timed again before and after each candidate: llama (2 jobs, times only, 112 forwards)"
    drawn = build(*PAIR, "sweep.order=random", "sweep.order_seed=3")
    head = console.plan(drawn, grid=4).splitlines()[0]
    assert head.endswith("; LLaDA's jobs in an order drawn from seed 3")
