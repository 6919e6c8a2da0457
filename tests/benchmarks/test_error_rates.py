"""The simulation of error rates: its worlds hold the truth that they claim, and the page says what was counted."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import error_page
from benchmarks.cells import MARGIN, QUALITY, SPEED, Case
from benchmarks.error_rates import judged, main, outcome, quality_chunk, speed_chunk, tasks
from benchmarks.timed_worlds import Level, Machine, passing_study, timed_study
from benchmarks.worlds import LEAST, MOST, World, entropy_at, quality_at, shift_for, study
from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.verdict import Status
from llmbench.record import Record


def candidate(**world: object) -> Record:
    """One candidate of 20,000 prompts at entropy 3 with Delta = -0.1."""
    made = World(prompts=20_000, shifts=(0.1,), entropies=(3.0,), temperatures=(), steps=(8,), **world)  # type: ignore[arg-type]
    return study(made, np.random.default_rng(1))[-1]


def nll_per_token(record: Record) -> list[float]:
    return [(s.nll_nats or 0.0) / (s.judged_tokens or 1) for s in record.scores if s.subject == "output"]


@pytest.mark.parametrize("tail", [{}, {"collapse": 0.05}, {"pareto": 0.3}, {"skew": 0.8}, {"icc": 0.6}])
def test_quality_is_what_the_world_says_whatever_the_noise_is(tail: dict[str, float]) -> None:
    values = np.array(nll_per_token(candidate(**tail)))
    error = values.std() / np.sqrt(len(values))
    assert values.mean() == pytest.approx(-quality_at(3.0) + 0.1, abs=4 * error)


@pytest.mark.parametrize("icc", [0.0, 0.3, 0.6])
def test_prompts_of_one_document_have_the_stated_share_of_variance_in_common(icc: float) -> None:
    values = np.array(nll_per_token(candidate(per_document=4, icc=icc))).reshape(-1, 4)
    within = values.var(axis=1, ddof=1).mean()
    common = values.mean(axis=1).var(ddof=1) - within / 4
    assert common / (common + within) == pytest.approx(icc, abs=0.03)


def test_off_the_curve_delta_is_against_its_nearest_end() -> None:
    assert shift_for(-0.1, 3.0) == pytest.approx(0.1)
    assert quality_at(2.5) - shift_for(-0.1, 2.5) == pytest.approx(quality_at(LEAST) - 0.1)
    assert quality_at(3.5, bend=5.0) - shift_for(0.2, 3.5, bend=5.0) == pytest.approx(quality_at(MOST, bend=5.0) + 0.2)


def test_the_verdict_estimates_the_true_delta() -> None:
    """On a knot, where the chords of the curve have no error of their own."""
    place = next(i for i, case in enumerate(QUALITY["clean"].cases) if case.place == "on 0.6")
    found = [verdict for i in range(20) for verdict in judged("clean", 100, i, [place], seed=1)]
    deltas = np.array([verdict.head.tests[-1].delta for verdict in found if verdict.head])
    assert len(deltas) == 20
    assert deltas.mean() == pytest.approx(-MARGIN, abs=4 * deltas.std() / np.sqrt(20))


@pytest.mark.parametrize(("shift", "status"), [(-0.3, Status.REACHED), (0.5, Status.NOT_REACHED)])
def test_a_world_almost_without_noise_is_decided_rightly(shift: float, status: Status) -> None:
    world = World(prompts=100, shifts=(shift,) * 2, entropies=(2.9,) * 2, spread=0.01, relevance=0.15, steps=(8, 16))
    verdict = parity(study(world, np.random.default_rng(0)))
    assert verdict.status is status
    assert (verdict.head is not None and verdict.head.reached) == (8 if status is Status.REACHED else None)


@pytest.mark.parametrize("name", ["looping", "unrelated to the prompt"])
def test_good_quality_of_bad_texts_is_never_reached(name: str) -> None:
    (counts,) = quality_chunk(name, 200, range(4), studies=16, seed=0)
    assert counts["studies"] == 4
    assert counts["reached"] == 0


def test_counts_do_not_depend_on_how_the_studies_are_cut() -> None:
    whole = quality_chunk("1 % catastrophes", 60, range(4), studies=4, seed=3)
    parts = [quality_chunk("1 % catastrophes", 60, part, studies=4, seed=3) for part in (range(1), range(1, 4))]
    assert whole == [one + two for one, two in zip(*parts, strict=True)]
    assert [counts["studies"] for counts in whole] == [4, 4, 1]  # a quarter of them for power
    assert tasks(100, 0)[0][0] == "quality"
    done = Counter[str]()
    for task in tasks(100, 0, only="looping"):
        done[f"n = {task[2]}"] += task[4] - task[3]
    assert done == {"n = 100": 100, "n = 200": 100, "n = 400": 100, "n = 1000": 50}


def test_a_claim_is_false_when_its_smallest_k_is_at_the_boundary() -> None:
    case = Case(place="on 0.6", entropy=entropy_at(0.6), deltas=(-MARGIN, 0.0))
    world = World(
        prompts=200, shifts=(-0.5, -0.5), entropies=(case.entropy,) * 2, spread=0.01, relevance=0.15, steps=(1, 2)
    )
    records = study(world, np.random.default_rng(0))
    assert outcome(case, parity(records)) == ["studies", "reached", "false"]  # both pass, and Delta is not 0
    assert outcome(case, parity([r for r in records if r.steps != 1])) == ["studies", "reached"]


# ----------------------------------------------------------------------------------------------------------------
# Speed


def levels(level: Level, size: float) -> list[set[float]]:
    """Of each job in one study, the levels of its repeats."""
    machine = Machine(level=level, size=size)
    both = timed_study(machine, (1.0,), passing_study(1, (16,)), np.random.default_rng(2))
    jobs = [[r for r in records if len(r.timings) == machine.repeats] for records in both]
    return [
        {round(a.e2e_ms / b.e2e_ms, 6) for a, b in zip(one.timings, other.timings, strict=True)}
        for one, other in zip(*jobs, strict=True)
    ]


def test_the_machine_changes_as_it_says() -> None:
    assert levels("steady", 0.05) == [{1.0}] * 3
    assert all(len(job) == 1 and job <= {1.0, 1.05} for job in levels("own level", 0.05))
    assert set.union(*levels("one shift", 0.05)) == {1.0, 1.05}
    assert sum(len(job) == 2 for job in levels("one shift", 0.05)) <= 1
    drifting = [sorted(job) for job in levels("drift", 0.05)]
    assert (min(map(min, drifting)), max(map(max, drifting))) == (1.0, 1.05)
    assert all(len(job) == 6 for job in drifting)
    assert set.union(*levels("blocks", 0.3)) == {1.0, 1.3}


def test_the_baseline_is_timed_before_and_after() -> None:
    machine = Machine(level="steady", noise=1e-9, batches=4)
    records, _ = timed_study(machine, (0.5, 2.0), passing_study(4, (8, 16)), np.random.default_rng(0))
    jobs = sorted((r for r in records if len(r.timings) == 24), key=lambda record: record.started_at)
    assert [(r.role, r.steps) for r in jobs] == [("timed", None), ("timed", 16), ("timed", 8), ("retimed", None)]
    assert {r.process for r in jobs} == {"one"}
    times = [r.metrics["latency/e2e_ms"] for r in jobs]
    assert times[0] == pytest.approx(times[3])


@pytest.mark.parametrize("truth", [0.5, 2.0])
def test_without_noise_speed_is_decided_rightly(truth: float) -> None:
    machine = Machine(level="steady", noise=1e-6)
    records, _ = timed_study(machine, (truth,), passing_study(1, (16,)), np.random.default_rng(0))
    verdict = parity(records)
    assert verdict.speed == ("viable" if truth > 1 else "inefficient")
    assert verdict.speedups[0].ratio == pytest.approx(truth, rel=1e-4)
    assert verdict.speedups[0].drift == pytest.approx(1.0, rel=1e-4)


def test_a_steady_machine_is_the_oracle_and_a_shift_widens_the_interval() -> None:
    steady = speed_chunk("steady, truth 1", range(4), seed=0)
    assert steady.widths == steady.oracle
    shifted = speed_chunk("one shift of 5 %, noise 0.5 %", range(4), seed=0)
    assert np.median(shifted.widths) > 2 * np.median(shifted.oracle)
    assert all(race.truths[0] in (1.0, 0.98) for race in SPEED.values())


# ----------------------------------------------------------------------------------------------------------------
# The page


def quality_row(**counts: object) -> error_page.Row:
    row = {"world": "clean", "prompts": 100, "place": "on 0.6", "entropy": 3.0, "deltas": [-0.1], "studies": 1000}
    return {**row, "covered": 950, **counts}


def speed_row(**counts: object) -> error_page.Row:
    row = {"world": "shifted", "truths": [1.0], "level": "one shift", "studies": 1000, "viable": 0, "covered": 990}
    return {**row, "width": 0.09, "oracle_width": 0.06, **counts}


def page(quality: list[error_page.Row], speed: list[error_page.Row]) -> str:
    made = {"command": "as typed", "commit": "abc", "minutes": 1.0, "processes": 2, "cpus": 2, "machine": "x"}
    data = {"made": {**made, "versions": {"numpy": "2"}}, "margin": 0.1, "quality": quality, "speed": speed}
    assert len(error_page.figure(data).axes) == 3
    return error_page.markdown(data)


def test_the_page_names_what_is_above_five_percent() -> None:
    text = page(
        [quality_row(reached=50), quality_row(prompts=200, reached=90), quality_row(deltas=[0.0], reached=700)],
        [speed_row(viable=200, covered=700, width=0.15)],
    )
    assert "| clean | on 0.6 | 5.0 (1.4) | **9.0 (1.8)** |" in text
    assert "| clean | on 0.6 | 70.0 (2.9) |" in text
    assert (
        "by more than two standard errors: `reached`, clean, on 0.6, n = 200: 9.0 (1.8); `viable`, shifted: 20.0 (2.5)."
        in text
    )
    assert "also with clusters of 4 at icc 0.3 | 9.0 (1.8): clean, on 0.6, n = 200 | **missed** |" in text
    assert "falsely `viable` at most 5 % | 20.0 (2.5): shifted | **missed** |" in text
    assert "coverage at least 93 % | 70.0 (2.9): shifted | **missed** |" in text
    assert "at most twice the oracle's | 2.50: shifted | **missed** |" in text


def test_the_page_says_what_is_met() -> None:
    text = page([quality_row(reached=60), quality_row(world="looping", deltas=[0.2], reached=1)], [speed_row()])
    assert text.count("| met |") == 4
    assert "**missed**" not in text
    assert "by more than two standard errors: `reached`, looping, on 0.6, n = 100: 0.1 (0.2)." in text
    assert "by less than that: `reached`, clean, on 0.6, n = 100: 6.0 (1.5)." in text


def test_the_command_writes_data_and_page_whatever_the_number_of_processes(tmp_path: Path) -> None:
    for processes in ("1", "2"):
        folder = tmp_path / processes
        wanted = ["--studies", "1", "--only", "looping", "--out", str(folder)]
        assert main([*wanted, "--processes", processes]) == 0
    one, two = (json.loads((tmp_path / name / "simulation.json").read_text()) for name in ("1", "2"))
    assert one["quality"] == two["quality"]
    assert [row["studies"] for row in one["quality"]] == [1, 1, 1, 1]
    written = (tmp_path / "1" / "simulation.md").read_text()
    assert main(["--page", "--out", str(tmp_path / "1")]) == 0
    assert (tmp_path / "1" / "simulation.md").read_text() == written
    assert (tmp_path / "1" / "simulation.png").stat().st_size > 0


def test_a_world_keeps_its_shape_when_it_is_replaced() -> None:
    world = replace(QUALITY["grid of 0.1"].world, prompts=40, shifts=(0.0,), entropies=(3.0,), steps=(8,))
    records = study(world, np.random.default_rng(0))
    assert [r.conditions["decoding.temperature"] for r in records[:-1]] == [f"{i / 10:g}" for i in range(11)]
    assert [r.role for r in records].count("timed") == 2
