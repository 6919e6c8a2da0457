"""One number of CPU threads for all jobs of a sweep, and the same when it goes on."""

import json
from dataclasses import replace

import pytest
from composition import composed
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmbench.config.job import to_dict
from llmbench.job.prepare import prepare_job
from llmbench.measure.threads import ThreadChoice
from llmbench.sweeps import plan, plan_file, state, threads
from records import make_record

PAIR = ["model=llama,llada", "steps=4,8"]
SLOW = ThreadChoice(threads=3, default=4, times_ms={1: 20.0, 3: 9.0, 4: 31.0}, cores=4, others=1.02)


def build(*overrides: str) -> list[plan.Cell]:
    small = ["hardware=cpu", "canvas=8", "workload.prompts=4", "batch=2", "metric.likelihood=false", *overrides]
    return plan.build(plan.expand(OverridesParser.create().parse_overrides(small)), lambda cell: composed(*cell))


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths for which a probe was asked; it answers `SLOW`."""
    asked: list[int] = []
    monkeypatch.setattr(threads.probe, "choose", lambda width: asked.append(width) or SLOW)
    monkeypatch.setattr(threads, "default_threads", lambda: 4)
    return asked


def numbers(cells: list[plan.Cell]) -> list[int | None]:
    return [cell.prepared.job.hardware.threads for cell in cells]


def test_every_job_gets_the_number_of_one_probe_and_stays_the_same_job(probed, tmp_path, capsys):
    cells = build(*PAIR)
    chosen = threads.with_threads(cells)
    assert probed == [256]
    assert numbers(chosen) == [3, 3, 3]
    assert [cell.prepared.identity for cell in chosen] == [cell.prepared.identity for cell in cells]
    assert capsys.readouterr().err == (
        "CPU threads: 3 of 4 (other programs keep 1.0 of 4 cores busy; a probe took 20 ms with 1, 9 ms with 3, 31 ms "
        "with 4); hardware.threads=N sets another number\n"
    )
    entry = plan.entry(chosen[1], "sqlite:///x", "sweep", "parent", (4, 8))
    plan_file.PlanFile(command="", recipe="", steps_axis=(4, 8), parity=entry.job.parity, jobs={"llada": entry}).save(
        tmp_path
    )
    elsewhere = prepare_job(plan_file.load(tmp_path).jobs["llada"].job)  # as another process does
    assert (elsewhere.job.hardware.threads, elsewhere.identity) == (3, cells[1].prepared.identity)
    assert to_dict(elsewhere.job)["threads_probed"] is True
    assert "CPU threads: 3 of 4, by a probe before the first job" in entry.notes


def test_a_number_that_was_set_is_taken_and_is_another_job(probed):
    cells = build(*PAIR, "hardware.threads=2")
    assert numbers(threads.with_threads(cells)) == [2, 2, 2]
    assert probed == []
    assert {c.prepared.identity for c in cells}.isdisjoint(c.prepared.identity for c in build(*PAIR))


def test_a_sweep_that_goes_on_keeps_the_threads_of_what_it_takes_over(probed, tmp_path):
    cells = build(*PAIR)
    made = make_record()
    now = replace(made.environment, threads=4)
    for cell, number in zip(cells, (3, 3, 2), strict=True):  # the last one of a sweep that began under another number
        found = replace(made, identity=cell.prepared.identity, environment=replace(made.environment, threads=number))
        found.save(tmp_path / "earlier" / cell.name)
    (tmp_path / "earlier" / state.SWEEP_FILE).write_text(json.dumps({"ended": False}))

    again = plan.reuse(cells, "interrupted", [tmp_path], lambda cell: now)
    assert [cell.reused is not None for cell in again] == [True, True, False]
    assert numbers(threads.with_threads(again)) == [None, None, 3]
    assert probed == []

    fewer = plan.reuse(cells, "interrupted", [tmp_path], lambda cell: replace(now, threads=2))
    assert [cell.reused is not None for cell in fewer] == [False, False, True]  # this machine has no three threads
    one = build(*PAIR, "hardware.threads=4")
    assert all(cell.reused is None for cell in plan.reuse(one, "interrupted", [tmp_path], lambda cell: now))
