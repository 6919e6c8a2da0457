"""The plan of a sweep: a grid is spanned, equal jobs merge, models are not interleaved, finished jobs are found."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from composition import composed
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmbench.checkpoints.resolve import BUNDLED
from llmbench.errors import CheckpointError, ConfigError, WorkloadError
from llmbench.sweeps import console, launchers, plan, state
from records import make_record


def expand(*overrides: str):
    return plan.expand(OverridesParser.create().parse_overrides(list(overrides)))


def build(*overrides: str):
    return plan.build(expand(*overrides), lambda cell: composed(*cell))


def test_the_grid_is_the_product_of_the_axes():
    grid = expand("model=llama,llada", "steps=8,16", "batch=2")
    assert len(grid) == 4
    assert grid[0] == (("model=llama", "steps=8", "batch=2"), {"model": "llama", "steps": "8"})
    assert grid[3][1] == {"model": "llada", "steps": "16"}


def test_a_later_override_of_a_recipe_wins():
    grid = expand("steps=8,16,32", "model=llada", "steps=4")
    assert [cell for cell, _ in grid] == [("steps=4", "model=llada")]


def test_intervals_are_refused():
    with pytest.raises(ConfigError, match="steps: give a list of values"):
        expand("steps=interval(4,64)")


def test_a_sweep_has_one_plan_and_does_not_try_several_margins():
    for override in ("parity.margins.perplexity=0.1,0.3", "parity.thresholds.empty_share=0.0,0.02", "parity=default,x"):
        with pytest.raises(ConfigError, match=r"parity.*: one plan a sweep"):
            expand("model=llama,llada", override)
    assert len(expand("model=llama,llada", "parity.margins.perplexity=0.3")) == 2


@pytest.mark.parametrize(
    "override",
    ["tracking.experiment=a,b", "tracking.uri=a,b", "reuse=all,none", "dry_run=true,false", "sweep.order=model,random"],
)
def test_what_holds_for_the_whole_sweep_has_one_value(override):
    with pytest.raises(ConfigError, match=r": it holds for the whole sweep; give one value$"):
        expand("model=llama,llada", override)


def test_a_path_that_a_comma_cut_into_a_sweep_is_shown_with_quotes():
    with pytest.raises(WorkloadError, match=r"does not exist; .* stands in quotes: \"workload.source='a,b.jsonl'\"$"):
        build("model=llama,llada", "workload=jsonl", "workload.source=a,b.jsonl", "hardware=cpu")
    with pytest.raises(WorkloadError) as caught:
        build("model=llama,llada", "workload=jsonl", "workload.source=a.jsonl", "hardware=cpu")
    assert "quotes" not in str(caught.value)


def test_settings_that_no_job_reads_are_said_in_one_line():
    small = ["hardware=cpu", "metric=speed", "canvas=8", "workload.prompts=1", "batch=1", "steps=8"]

    def said(*overrides):
        return [line for line in console.plan(build(*overrides, *small), grid=1).splitlines() if "Note: " in line]

    unread = ["block_length=4", "cache=dual", "threshold=0.9"]
    assert said("model=llama", *unread) == [
        "Note: no job here reads block_length, cache, threshold (model=llada does)",
    ]
    assert said("model=llama,llada", *unread) == said("model=llama") == said("model=llada") == []
    assert said("model=llada", "ignore_stop=true", "server.timeout_s=3") == [
        "Note: no job here reads ignore_stop (model=llama does)",
        "Note: no job here reads server (model=llama_server does)",
    ]


def test_keys_of_a_workload_that_nobody_reads_are_said_once_in_the_plan(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a b", "refrence": "c", "category": "x"}\n{"prompt": "d", "anwser": "3"}\n')
    small = ["hardware=cpu", "metric=speed", "canvas=8", "workload.prompts=2", "batch=2", "steps=4,8"]
    cells = build("model=llama,llada", "workload=jsonl", f"workload.source={path}", *small)
    note = f"Note: {path}: keys that are not read: 'anwser' (did you mean 'answer'?), 'category', 'refrence' (did you"
    assert console.plan(cells, grid=4).count(note) == 1


def test_the_plan_holds_the_number_of_prompts_that_null_stands_for():
    cells = build("model=llama,llada", "hardware=cpu", "metric=speed", "steps=4")
    assert [cell.prepared.job.workload.prompts for cell in cells] == [52, 52]
    assert len({cell.prepared.workload.digest for cell in cells}) == 1
    assert "; 52 prompts of continuation" in console.plan(cells, grid=2)
    named = build("model=llama,llada", "hardware=cpu", "metric=speed", "steps=4", "workload.prompts=52")
    assert [cell.prepared.identity for cell in named] == [cell.prepared.identity for cell in cells]


def test_jobs_of_one_sweep_whose_null_is_two_numbers_of_prompts_are_refused(load):
    def decided(*overrides):
        return load(*overrides).with_prompts()

    cuda = "hardware.device=cuda"
    plan._require_equal_counts([decided(cuda), decided(cuda, "model=llada"), decided("hardware.device=cpu")])
    plan._require_equal_counts([decided(cuda), decided(cuda, "workload=math")])
    with pytest.raises(ConfigError, match=r"workload.prompts is null, .* one for all: workload.prompts=52$"):
        plan._require_equal_counts([decided(cuda), decided(cuda, "model=llada", "checkpoint=llada_8b_base")])


def with_template(tmp_path, side):
    """The bundled model of a side, with a chat template."""
    folder = tmp_path / side
    shutil.copytree(BUNDLED / side, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}Q: {{ m.content }}\n{% endfor %}A:")
    return f"pair.{side}={folder}"


def test_both_sides_are_asked_in_the_same_role_or_nothing_runs(tmp_path):
    pair = ["model=llama,llada", "steps=8", "hardware=cpu", "metric=speed", "canvas=8", "workload=math"]
    llama, llada = (with_template(tmp_path, side) for side in ("llama", "llada"))
    with pytest.raises(ConfigError, match=r"the autoregressive side gets its chat template, .* add model.chat=false"):
        build(*pair, llama)
    with pytest.raises(ConfigError, match="the diffusion side gets its chat template"):
        build(*pair, llada)
    both = build(*pair, llama, llada)
    assert [cell.prepared.job.model.chat for cell in both] == [True, True]
    assert [cell.prepared.job.model.chat for cell in build(*pair, llama, "model.chat=false")] == [False, False]
    assert len(build(*pair, llama, llada, "model.chat=true,false")) == 4
    assert len({cell.prepared.identity for cell in [*both, *build(*pair, llama, llada, "model.chat=false")]}) == 4


def test_a_server_is_asked_as_it_likes_until_a_verdict_rests_on_it():
    sweep = ("model=llama,llama_server,llada", "metric=speed", "server.api=chat")
    assert len(build(*sweep)) == 3
    assert len(build(sweep[0].replace("llama,", ""), *sweep[1:])) == 2  # beside LLaDA alone
    with pytest.raises(ConfigError, match=r"trust_same_hardware=true makes a server one more side"):
        build(*sweep, "server.trust_same_hardware=true")
    assert len(build(*sweep[:2], "server.trust_same_hardware=true")) == 3


def test_llama_is_one_job_and_models_are_not_interleaved():
    cells = build("steps=8,16,32,64", "model=llama,llada", "hardware=cpu")
    assert [cell.prepared.job.label for cell in cells] == [
        "llama",
        "llada k=8",
        "llada k=16",
        "llada k=32",
        "llada k=64",
    ]
    assert [cell.merged for cell in cells] == [4, 1, 1, 1, 1]
    assert cells[0].swept == {"model": "llama"}  # it does not read steps
    assert cells[1].swept == {"model": "llada", "steps": "8"}
    assert plan.steps_axis(cells) == [8, 16, 32, 64]


def test_what_only_llada_reads_does_not_multiply_llama():
    cells = build("model=llama,llada", "steps=16", "block_length=16,32", "cache=none,dual", "hardware=cpu")
    assert [cell.prepared.job.label for cell in cells] == ["llama", *["llada k=16", "llada dual k=16"] * 2]
    assert cells[0].merged == 4


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        ("threshold=null,0.9", ["llada k=8", "llada threshold=0.9 k=8"]),
        ("factor=null,1.0", ["llada k=8", "llada factor=1.0 k=8"]),
        ("remasking=low_confidence,random", ["llada k=8", "llada remasking=random k=8"]),
        ("tokens_per_step=even,timesteps", ["llada k=8", "llada timesteps k=8"]),
        ("confidence=model,sampling", ["llada k=8", "llada confidence=sampling k=8"]),
        ("remasking_temperature=0.0,0.1", ["llada k=8", "llada remasking_temperature=0.1 k=8"]),
        ("cfg_scale=0.0,1.0", ["llada k=8", "llada cfg_scale=1.0 k=8"]),
        ("early_stop=false,true", ["llada k=8", "llada early_stop=true k=8"]),
    ],
)
def test_every_way_of_denoising_spans_a_sweep_of_both_sides(axis, labels):
    small = ["hardware=cpu", "metric=speed", "canvas=8", "workload.prompts=1", "batch=1", "steps=8", "block_length=4"]
    cells = build("model=llama,llada", axis, *small)
    assert [cell.prepared.job.label for cell in cells] == ["llama", *labels]
    assert cells[0].merged == 2
    assert cells[0].prepared.identity == build("model=llama", *small)[0].prepared.identity


def test_forced_tokens_stand_for_a_threshold_under_dummy_weights_beside_the_other_side():
    small = ["hardware=cpu", "metric=speed", "weights=dummy", "canvas=8", "workload.prompts=1", "batch=1", "steps=8"]
    with pytest.raises(ConfigError, match=r"threshold or factor would count .*; add fixed_tokens_per_forward=N$"):
        build("model=llama,llada", "threshold=0.9", *small)
    cells = build("model=llama,llada", "threshold=0.9", "fixed_tokens_per_forward=2,4", *small)
    assert [cell.title for cell in cells] == [
        "llama",
        "llada threshold=0.9 fixed=2 k=8",
        "llada threshold=0.9 fixed=4 k=8",
    ]


def with_gelu(tmp_path):
    """A folder of the bundled LLaDA whose configuration names an activation that the fused blocks do not compute."""
    shutil.copytree(BUNDLED / "llada", tmp_path / "gelu")
    config = json.loads((tmp_path / "gelu" / "config.json").read_text()) | {"hidden_act": "gelu"}
    (tmp_path / "gelu" / "config.json").write_text(json.dumps(config))
    return tmp_path / "gelu"


def test_both_sides_run_on_one_engine_where_nobody_chose_it(tmp_path):
    """Engines are conditions: were one side fused, and the other eager because it has to be, nothing could be said."""
    small = ("workload.prompts=2", "batch=1", "steps=2", "canvas=8", "metric=speed", "weights=dummy", "hardware=cpu")
    sides = ("model=llama,llada", f"pair.llada={with_gelu(tmp_path)}", "pair.llama=bundled:llama")

    def made(*overrides):
        return {(cell.prepared.job.model.name, cell.prepared.job.hardware.engine) for cell in build(*small, *overrides)}

    assert made("model=llama,llada") == {("llama", "fused"), ("llada", "fused")}
    assert made(*sides) == {("llama", "eager"), ("llada", "eager")}
    assert made(*sides, "hardware.engine=auto,eager") == {("llama", "eager"), ("llada", "eager")}
    assert made(*sides[:1], "hardware.engine=fused,eager") == {
        (name, engine) for name in ("llama", "llada") for engine in ("fused", "eager")
    }
    with pytest.raises(ConfigError, match=r"model=llada.*fused does not compute hidden_act gelu"):
        build(*small, *sides, "hardware.engine=fused")


def test_the_first_wrong_cell_is_named():
    with pytest.raises(ConfigError, match=r"^\[steps=12\] model.decoder: steps 12 must be a multiple"):
        build("model=llada", "steps=8,12", "block_length=8", "hardware=cpu")


def test_forwards_are_counted_over_all_passes():
    (cell,) = build("model=llada", "steps=8", "workload.prompts=8", "batch=4", "timing.repeats=3", "hardware=cpu")
    # 2 batches timed once, one of them: 1 warm-up, 2 more repeats, 1 marked
    assert plan.forwards(cell) == 8 * (2 + 1 + 2 + 1)
    (open_ended,) = build(
        "model=llada", "steps=8", "workload.prompts=8", "batch=4", "timing.until=0.02", "hardware=cpu"
    )
    assert plan.forwards(open_ended) == 8 * (2 + 1 + 59 + 1)  # at most
    assert plan.generations(open_ended.prepared) == (8, 1)  # at least
    (guided,) = build(
        "model=llada",
        "steps=8",
        "workload.prompts=8",
        "timing.repeats=3",
        "hardware=cpu",
        "cfg_scale=1.0",
    )
    assert plan.forwards(guided) == 2 * plan.forwards(cell)


def test_forwards_of_a_forced_number_of_tokens_are_those_that_it_takes():
    small = ["canvas=64", "block_length=32", "workload.prompts=4", "batch=4", "timing.repeats=1", "hardware=cpu"]
    forced = ["metric=speed", "weights=dummy", "timing.warmup=1", "timing.token_timing_repeats=0", "steps=64"]
    cells = build("model=llada", "fixed_tokens_per_forward=1,5,32", *forced, *small)
    # one batch, warmed up and timed: 2 generations of 2 blocks of 32 tokens, which are 7 times 5 or fewer
    assert [plan.forwards(cell) for cell in cells] == [2 * 64, 2 * 2 * 7, 2 * 2]


class TestReuse:
    def leave(self, root: Path, cell: plan.Cell, *, ended: bool, **changes):
        """What an earlier sweep left on the disk."""
        record = dataclasses.replace(make_record(), identity=cell.prepared.identity, **changes)
        record.save(root / "earlier" / cell.name)
        (root / "earlier" / state.SWEEP_FILE).write_text(json.dumps({"ended": ended}))
        return record

    def found(self, cells, policy, root, record) -> bool:
        return plan.reuse(cells, policy, [root], lambda cell: record.environment)[0].reused is not None

    @pytest.fixture
    def cells(self):
        return build("model=llama", "hardware=cpu")

    def test_an_interrupted_sweep_is_taken_up_and_an_ended_one_measured_anew(self, cells, tmp_path):
        record = self.leave(tmp_path, cells[0], ended=False)
        assert self.found(cells, "interrupted", tmp_path, record)
        assert not self.found(cells, "none", tmp_path, record)
        record = self.leave(tmp_path, cells[0], ended=True)
        assert not self.found(cells, "interrupted", tmp_path, record)
        assert self.found(cells, "all", tmp_path, record)

    def test_failed_jobs_and_other_versions_are_run_again(self, cells, tmp_path):
        record = self.leave(tmp_path, cells[0], ended=False, status="failed", reason="out of memory")
        assert not self.found(cells, "all", tmp_path, record)
        record = self.leave(tmp_path, cells[0], ended=False)
        for key, value in {
            "versions": {"torch": "9.9"},
            "device_name": "another",
            "threads": 0,  # fewer than made the Record; more is a choice of the probe (test_threads.py)
            "git_commit": "f00",
        }.items():
            other = dataclasses.replace(record.environment, **{key: value})
            assert plan.reuse(cells, "interrupted", [tmp_path], lambda cell, now=other: now)[0].reused is None
        dirty = dataclasses.replace(record.environment, git_dirty=True)
        assert plan.reuse(cells, "interrupted", [tmp_path], lambda cell: dirty)[0].reused is not None
        self.leave(tmp_path, cells[0], ended=True)
        assert plan.reuse(cells, "all", [tmp_path], lambda cell: dirty)[0].reused is None  # a commit says nothing now

    def test_a_damaged_record_is_run_again(self, cells, tmp_path):
        record = self.leave(tmp_path, cells[0], ended=False)
        (tmp_path / "earlier" / cells[0].name / plan.RECORD_FILE).write_text("{")
        assert not self.found(cells, "all", tmp_path, record)


JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}


def on_gpu(cell: plan.Cell) -> plan.Cell:
    """The same job for a CUDA device; nothing of it runs."""
    own = cell.prepared
    hardware = dataclasses.replace(own.job.hardware, device="cuda")
    return dataclasses.replace(
        cell, prepared=dataclasses.replace(own, job=dataclasses.replace(own.job, hardware=hardware))
    )


def test_blocks_at_once_are_warned_of_on_a_cpu_alone():
    cells = build("steps=8,16", "model=llada", "hardware=cpu")
    for launcher in (JOBLIB | {"n_jobs": 2}, JOBLIB | {"n_jobs": -1}, {"_target_": "somewhere.SlurmLauncher"}):
        assert launchers.warn_parallel_launcher(cells, 2, launcher) != ""
        assert launchers.warn_parallel_launcher(cells, 1, launcher) == ""
        assert launchers.warn_parallel_launcher([on_gpu(cell) for cell in cells], 2, launcher) == ""
    assert launchers.warn_parallel_launcher(cells, 2, JOBLIB | {"n_jobs": 1}) == ""


def test_the_plan_and_progress_tell_jobs_apart_that_their_labels_do_not():
    small = ["hardware=cpu", "metric=speed", "canvas=8", "workload.prompts=1", "batch=1", "steps=4"]
    cells = build("model=llama,llada", "temperature=0,0.7", "seed=1,2", "cache=none,prefix", *small)
    titles = [cell.title for cell in cells]
    assert len(set(titles)) == len(titles)
    assert titles[:2] == ["llama temperature=0", "llama temperature=0.7 seed=1"]  # no seed where none is read
    assert "llada prefix k=4 temperature=0.7 seed=2" in titles
    assert "llada k=4 temperature=0.7 seed=2 cache=none" in titles
    said = console.plan(cells, grid=16)
    assert all(any(title in line for line in said.splitlines()) for title in titles)
    head = said.splitlines()[0]
    assert head.endswith("on cpu, float32; 1 prompt of continuation")  # no temperature where it varies
    forced = ["fixed_tokens_per_forward=2,4", "early_stop=true,false", "block_length=4"]
    cells = build("model=llada", "weights=dummy", "threshold=0.9", *forced, *small)
    assert [cell.title for cell in cells] == [
        "llada threshold=0.9 fixed=2 early_stop=true k=4",
        "llada threshold=0.9 fixed=2 k=4 early_stop=False",
        "llada threshold=0.9 fixed=4 early_stop=true k=4",
        "llada threshold=0.9 fixed=4 k=4 early_stop=False",
    ]
    alike = build("model=llama,llada", "temperature=0.7", *small)
    assert [cell.title for cell in alike] == ["llama", "llada k=4"]
    assert console.plan(alike, grid=2).splitlines()[0].endswith(", temperature 0.7")


def test_only_llada_reads_its_own_temperature():
    small = ["hardware=cpu", "metric=speed", "canvas=8", "workload.prompts=1", "batch=1", "steps=4"]
    cells = build("model=llama,llada", "diffusion_temperature=1.0,1.4", *small)
    titles = ["llama", "llada k=4 diffusion_temperature=1.0", "llada k=4 diffusion_temperature=1.4"]
    assert [cell.title for cell in cells] == titles
    assert plan.notes(cells) == []
    alone = build("model=llama", "diffusion_temperature=1.4", *small)
    assert plan.notes(alone) == ["Note: no job here reads diffusion_temperature (model=llada does)"]


def test_steps_beyond_the_canvas_are_said_before_anything_runs():
    small = ["hardware=cpu", "metric=speed", "canvas=8", "workload.prompts=1", "batch=1"]
    line = "steps 16 exceed the canvas of 8 tokens: 8 of the steps run and make nothing final"
    for more in ((), ("block_length=4",)):
        cells = build("model=llama,llada", "steps=8,16", *more, *small)
        assert [line in text for text in console.plan(cells, grid=4).splitlines()].count(True) == 1
    assert "exceed the canvas" not in console.plan(build("model=llama,llada", "steps=4,8", *small), grid=4)


def test_a_bad_judge_is_not_blamed_on_the_model():
    small = ["hardware=cpu", "canvas=8", "steps=4"]
    with pytest.raises(CheckpointError, match=r"^metric.perplexity.judge: checkpoint gone: no such folder"):
        build("model=llama,llada", "metric.perplexity.judge=gone", *small)
    with pytest.raises(
        CheckpointError, match=r"^\[metric.perplexity.judge=gone\] metric.perplexity.judge: checkpoint gone"
    ):
        build("model=llama,llada", "metric.perplexity.judge=bundled:judge,gone", *small)
    with pytest.raises(CheckpointError, match=r"^\[judges.bundled=gone\] metric.perplexity.judge: checkpoint gone"):
        build("model=llama,llada", "judges.bundled=bundled:judge,gone", *small)
