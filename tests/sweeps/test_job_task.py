"""Jobs travel as values: an entry of the plan is all that a worker needs, and a failure leaves its traceback."""

import dataclasses
import json
import os
import shutil

import pytest
from child import Child
from composition import composed

from llmbench import record
from llmbench.config.build import build_job
from llmbench.config.parity import ParityConfig
from llmbench.errors import RecordError
from llmbench.job import run
from llmbench.job.prepare import prepare_job
from llmbench.record import JobContext
from llmbench.sweeps import job_task, plan, plan_file

SMALL = ["hardware=cpu", "hardware.threads=1", "metric=speed", "metric.roofline=false"]
SMALL += ["canvas=8", "workload.prompts=2", "batch=2", "timing.repeats=1"]


@pytest.fixture
def planned(tmp_path, empty_store):
    """The folder of one job of a sweep whose plan is written, and the job as it was prepared."""
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    job = build_job(composed("model=llada", "steps=2", f"tracking.uri='{uri}'", *SMALL))
    cell = plan.Cell(swept={"model": "llada", "steps": "2", "seed": "0"}, prepared=prepare_job(job))
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    entry = plan.entry(cell, job.tracking.uri, sweep.name, "", [2, 4])
    file = plan_file.PlanFile(
        command="as typed", recipe="", steps_axis=(2, 4), parity=ParityConfig(), jobs={cell.name: entry}
    )
    file.save(sweep)
    assert plan_file.load(sweep) == file  # types come back, nested ones too
    return sweep / cell.name, cell


def test_another_process_runs_a_planned_job_from_its_folder_alone(planned):
    folder, cell = planned
    program = "import sys; from pathlib import Path; from llmbench.sweeps.job_task import run_planned\n"
    program += "print(run_planned(Path(sys.argv[1])))"
    done = Child(folder.parent, ("-c", program, str(folder)), os.environ | {"OMP_NUM_THREADS": "1"}).communicate()
    assert done.returncode == 0, done.stderr
    found = record.load(folder / "record.json")
    assert (found.status, found.identity, found.traceback) == ("finished", cell.prepared.identity, None)
    axes = {"model": "llada", "steps": "2", "seed": "0"}
    assert found.context == JobContext(sweep="sweep", parent="", steps_axis=(2, 4), swept=axes)
    assert "status='finished'" in done.stdout


def test_what_was_prepared_while_it_was_planned_is_not_prepared_again(planned, monkeypatch):
    folder, cell = planned
    job_task.keep_prepared(folder, cell.prepared)
    monkeypatch.setattr("llmbench.job.prepare.prepare_job", None)
    assert job_task.run_planned(folder, progress=False).status == "finished"


def test_a_job_that_dies_leaves_its_reason_and_its_traceback_in_its_record(planned, monkeypatch):
    folder, _ = planned

    def broken(*arguments):
        raise ZeroDivisionError("in the middle of it")

    monkeypatch.setattr(run, "_generate", broken)
    result = job_task.run_planned(folder, progress=False)
    found = record.load(folder / "record.json")
    assert (result.status, result.reason) == ("failed", "ZeroDivisionError: in the middle of it")
    assert (found.status, found.reason, found.metrics) == ("failed", result.reason, {})
    assert found.traceback.startswith("Traceback (most recent call last)")
    assert found.traceback.endswith("ZeroDivisionError: in the middle of it")
    assert found.context.steps_axis == (2, 4)


def test_a_worker_runs_what_was_planned_or_nothing(planned):
    """Its prompts have changed since: a finished Record would bear the identity of another job."""
    folder, cell = planned
    file = plan_file.load(folder.parent)
    entry = file.jobs[folder.name]
    other = dataclasses.replace(entry.job, seed=7)
    dataclasses.replace(file, jobs={folder.name: dataclasses.replace(entry, job=other)}).save(folder.parent)
    result = job_task.run_planned(folder, progress=False)
    found = record.load(folder / "record.json")
    assert (result.status, found.status, found.identity) == ("failed", "failed", cell.prepared.identity)
    assert "changed since it was planned" in found.reason


def test_a_name_with_a_slash_makes_one_folder(planned):
    _, cell = planned
    model = dataclasses.replace(cell.prepared.job.model, name="org/Model 8B")
    prepared = dataclasses.replace(cell.prepared, job=dataclasses.replace(cell.prepared.job, model=model))
    assert dataclasses.replace(cell, prepared=prepared).name == f"org-Model-8B-k2-{prepared.identity}"


def test_a_folder_that_stands_in_no_plan_is_a_failed_job_and_no_exception(planned):
    folder, _ = planned
    for odd in (folder.parent / "llada-k2-000000000000", folder.parent.parent / "nowhere" / "job"):
        result = job_task.run_planned(odd)
        assert (result.status, result.label) == ("failed", odd.name)
        assert "is in no plan" in result.reason
        assert not odd.exists()


@pytest.mark.parametrize("content", ["", "{}", '{"format": 2}', "[1]"])
def test_a_plan_that_cannot_be_read_is_one_line(planned, content):
    folder, _ = planned
    (folder.parent / plan_file.FILE).write_text(content)
    with pytest.raises(RecordError) as caught:
        plan_file.load(folder.parent)
    assert str(folder.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_holds_jobs_as_data_and_no_line_that_was_typed_for_hydra(planned):
    folder, cell = planned
    written = json.loads((folder.parent / plan_file.FILE).read_text())["jobs"][folder.name]
    assert written["job"]["model"]["decoder"] == dataclasses.asdict(cell.prepared.job.model.decoder)
    assert set(written) == {"identity", "title", "job", "context", "notes", "expected_s", "taken"}
