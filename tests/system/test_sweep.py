"""The whole program as a child process, on the bundled models and a real MLflow store: what a user would miss first.

The sweeps here are cut down (few prompts, a short canvas) so that the suite stays short; CI runs the README's own
command.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child import Child
from command_line import called

from llmbench import record
from llmbench.api import load
from llmbench.metrics.keys import METRICS
from llmbench.tracking.run_payload import metric_key

REPOSITORY = Path(__file__).parents[2]
SMALL = [
    "workload.prompts=8",
    "canvas=16",
    "workload.prompt_words=12",
    "workload.reference_words=12",
    "timing.repeats=2",
    "metric.likelihood_texts=2",
    "metric.likelihood_samples=2",
    "hardware=cpu",
    "parity.baseline_temperatures=[0]",
]
QUICK = ["metric=speed", "metric.roofline=false", "hardware=cpu", "hardware.threads=1"]
QUICK += ["canvas=8", "workload.prompts=2", "batch=2", "timing.repeats=1"]
GRID = ["-m", "model=llama,llada", "steps=4,8"]


def environment() -> dict[str, str]:
    clean = "0123456789abcdef0123456789abcdef01234567"  # as in a copy without changes: what is recorded can be reused
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "LLMBENCH_COMMIT": clean}


def llmbench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return Child(folder, arguments, environment()).communicate()


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """Where a sweep starts, with an empty store."""
    (tmp_path / "multirun").mkdir()
    shutil.copy(empty_store, tmp_path / "multirun")
    return tmp_path


def children(folder: Path) -> dict[str, list]:
    """Runs of the store by kind."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/multirun/mlflow.db")
    experiment = client.get_experiment_by_name("llmbench")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    return {
        "parents": [run for run in runs if "mlflow.parentRunId" not in run.data.tags],
        "children": [run for run in runs if "mlflow.parentRunId" in run.data.tags],
    }


def timed(runs: list) -> list:
    """Those of full measurements."""
    return [run for run in runs if run.data.tags["llmbench.role"] == "timed"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """As it is typed: Python starts with nothing imported."""
    folder = tmp_path_factory.mktemp("sweep")
    command = [sys.executable, "-m", "llmbench", *GRID, *SMALL]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240)
    return folder, done


def test_the_main_command_ends_with_table_verdict_and_where_to_look(swept):
    _, result = swept
    assert result.returncode == 0, result.stderr
    assert "3 jobs (4 cells of the grid)" in result.stdout
    for text in ("llama", "llada k=4", "llada k=8", "speedup", "perplexity", "entropy"):
        assert text.lower() in result.stdout.lower()
    assert "curve: llama at temperature 0 (1 job, texts only" in result.stdout
    assert "5 of 5 jobs finished" in result.stdout
    assert "llama temperature=0 (curve): done in" in result.stderr
    assert "llama (timed again): done in" in result.stderr
    (parent,) = children(swept[0])["parents"]
    (link,) = re.findall(r"^Charts and runs: llmbench ui opens http://127\.0\.0\.1:5000/#/(\S+)", result.stdout, re.M)
    assert f"viewStateShareKey={parent.info.run_id}&" in link
    assert parent.data.params["k"] == "4, 8"


def test_llama_runs_once_and_every_run_is_finished(swept):
    folder, _ = swept
    runs = children(folder)
    assert [run.info.status for run in runs["parents"]] == ["FINISHED"]
    assert [run.info.status for run in runs["children"]] == ["FINISHED"] * 5
    assert sorted(run.data.params["model"] for run in timed(runs["children"])) == ["llada", "llada", "llama"]


def test_children_carry_the_swept_axes_and_every_metric_that_applies(swept):
    folder, _ = swept
    for run in timed(children(folder)["children"]):
        family = run.data.params["family"]
        if family == "diffusion":
            assert run.data.params["k"] in ("4", "8")
        else:
            assert "k" not in run.data.params
        absent = {"quality/accuracy"}  # nothing to check in this workload
        absent |= {"quality/perplexity_second", "quality/bits_per_byte_second"}  # no second judge
        absent |= {"latency/step_ms"} if family == "autoregressive" else set()  # of drafts alone
        applying = {key for key, metric in METRICS.items() if metric.applies(family, "cpu")}
        expected = {metric_key(key) for key in applying - absent}
        assert expected <= set(run.data.metrics), expected - set(run.data.metrics)


def test_llama_is_a_flat_line_over_the_steps(swept):
    from mlflow import MlflowClient

    folder, _ = swept
    client = MlflowClient(f"sqlite:///{folder}/multirun/mlflow.db")
    (llama,) = [run for run in timed(children(folder)["children"]) if run.data.params["model"] == "llama"]
    history = client.get_metric_history(llama.info.run_id, "quality/perplexity")
    assert sorted({point.step for point in history}) == [4, 8]
    assert len({point.value for point in history}) == 1


def test_the_table_rebuilt_from_the_store_is_the_printed_one(swept):
    folder, result = swept
    rebuilt = llmbench(folder, "report", "parity", "--out", str(folder / "paper"))
    assert rebuilt.returncode == 0, rebuilt.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith(("llama", "llada k="))]
    assert len(rows) == 3
    for row in rows:
        assert row in rebuilt.stdout
    assert (folder / "paper" / "table4.md").is_file()
    assert (folder / "paper" / "table4.tex").is_file()


def test_outputs_and_raw_samples_are_in_the_record(swept):
    folder, _ = swept
    records = {path: record.load(path) for path in folder.glob("multirun/*/*/record.json")}
    assert sorted(loaded.role for loaded in records.values()) == ["curve", "retimed", "timed", "timed", "timed"]
    for path, loaded in records.items():
        if loaded.role != "timed":
            continue
        assert len(loaded.outputs) == 8
        assert {timing.repeat for timing in loaded.timings} == {0, 1}
        assert {timing.batch for timing in loaded.timings if timing.repeat == 0} == {0, 1}
        assert path.parent.name.endswith(loaded.identity)
        assert {score.subject for score in loaded.scores} == {"output", "human", "shuffled", "prompt_tail", "empty"}


def test_a_repeat_is_no_analysis_and_other_margins_over_the_same_prompts_are(swept):
    folder, _ = swept
    first = load(folder / "multirun").parity()
    again = llmbench(folder, *GRID, *SMALL, "reuse=all")
    second = load(folder / "multirun").parity()
    wider = llmbench(folder, *GRID, *SMALL, "reuse=all", "parity.margins.perplexity=0.2")
    third = load(folder / "multirun").parity()
    assert "done in" not in again.stderr + wider.stderr  # over the same Records
    found = [(item.analyses, item.unplanned) for item in (first, second, third)]
    assert found == [(1, ()), (1, ()), (2, ("parity.margins.perplexity",))]
    assert (third.head.margin, third.identities) == (0.2, first.identities)


def test_dry_run_prints_the_plan_and_leaves_nothing(tmp_path, capfd):
    result = called(capfd, *GRID, *SMALL, "dry_run=true", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "3 jobs (4 cells of the grid)" in result.stdout
    assert not list(tmp_path.iterdir())


def test_one_wrong_cell_refuses_the_grid_before_any_job(tmp_path, capfd):
    result = called(capfd, "-m", "model=llada", "steps=4,7", "block_length=8", *SMALL, folder=tmp_path)
    assert result.returncode == 2
    assert "[steps=7] model.decoder: steps 7 must be a multiple of the 2 blocks" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("record.json"))


def test_a_malformed_file_is_one_line_before_any_work(tmp_path, capfd):
    malformed = tmp_path / "malformed.jsonl"
    malformed.write_text('{"id": "a", "prompt": "Once upon a time", "reference": "there was"}\n{not json')
    own = ["workload=jsonl", f"workload.source={malformed}"]
    result = called(capfd, "-m", "model=llama,llada", "steps=4", *SMALL, *own, folder=tmp_path)
    assert result.returncode == 2, result.stdout
    (line,) = result.stderr.splitlines()
    assert "malformed.jsonl, line 2" in line
    assert [path.name for path in tmp_path.iterdir()] == ["malformed.jsonl"]


def test_a_failing_job_is_recorded_and_the_others_finish(folder):
    """A checkpoint whose weights are not numbers passes every check of its files and dies while it generates."""
    from safetensors.torch import load_file, save_file

    broken = folder / "broken"
    shutil.copytree(REPOSITORY / "llmbench" / "bundled" / "llada", broken)
    weights = load_file(broken / "model.safetensors")
    save_file(
        {name: tensor * float("nan") for name, tensor in weights.items()},
        broken / "model.safetensors",
        {"format": "pt"},
    )
    result = llmbench(folder, "-m", f"model.checkpoint=bundled:llada,{broken}", "model=llada", "steps=4", *QUICK)
    assert result.returncode == 4
    assert "1 of 2 jobs failed" in result.stderr
    runs = children(folder)
    assert sorted(run.info.status for run in runs["children"]) == ["FAILED", "FINISHED"]
    (failed,) = [run for run in runs["children"] if run.info.status == "FAILED"]
    assert failed.data.tags["reason"]
    assert [run.info.status for run in runs["parents"]] == ["FAILED"]


def stopped(folder: Path, arguments: list[str], number: int, once: str) -> tuple[int, str]:
    """Send a running sweep a signal as soon as a Record is there; its exit code, and its last line."""
    victim = Child(folder, tuple(arguments), environment())
    deadline = time.monotonic() + 120
    while not list(folder.glob(f"{once}-*/record.json")):
        assert victim.poll() is None, "the sweep ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    victim.send_signal(number)
    ended = victim.communicate()
    return ended.returncode, ended.stderr.splitlines()[-1]


def test_a_sweep_that_is_terminated_and_then_killed_goes_on_each_time_where_it_stopped(folder):
    chosen = folder / "mine"
    quick = ["metric=speed", "metric.roofline=false", "hardware.threads=1"]
    arguments = [*GRID, *SMALL, *quick, f"hydra.sweep.dir={chosen}"]
    code, said = stopped(folder, arguments, signal.SIGTERM, "mine/llama")
    assert said == "llmbench: terminated; finished jobs are kept, the same command goes on from there"
    assert code == 128 + signal.SIGTERM
    code, _ = stopped(folder, arguments, signal.SIGKILL, "mine/llada-k4")
    assert code == -signal.SIGKILL
    runs = children(folder)
    assert sorted(run.info.status for run in runs["parents"]) == ["KILLED", "RUNNING"]  # the second could tell nobody

    (cut,) = [run for run in runs["parents"] if run.info.status == "RUNNING"]
    shown = llmbench(folder, "report", "parity", "--sweep", cut.info.run_id)
    said = shown.stdout + shown.stderr
    assert "PARTIAL: " in said
    assert "the same command goes on: python -m llmbench -m model=llama,llada steps=4,8" in said
    assert "Traceback" not in said
    assert not (folder / "paper").exists()  # a partial table replaces none

    again = llmbench(folder, *arguments)
    assert again.returncode == 0, again.stderr
    assert "llama: done" not in again.stderr  # not measured again
    order = ["llama (timed again first): done", "llada k=8: done", "llama (timed again): done"]
    assert [line.partition(" in ")[0] for line in again.stderr.splitlines() if ": done in" in line] == order
    assert re.search(r"5 of 5 jobs finished in \d+ s, 2 of them taken over from earlier \(measured 20", again.stdout)
    runs = children(folder)
    assert sorted(run.info.status for run in runs["parents"]) == ["FINISHED", "KILLED", "KILLED"]
    assert "RUNNING" not in {run.info.status for run in runs["children"]}
    finished = [run for run in runs["children"] if run.info.status == "FINISHED"]
    made = [(run.data.tags["identity"], run.info.start_time, run.data.tags["llmbench.copy"]) for run in finished]
    originals = [one for one in made if one[2] == "false"]
    assert len(set(originals)) == len(originals) < len(finished), "what was taken over counts once"


def test_a_reader_that_goes_away_costs_no_result(folder):
    os.mkfifo(folder / "pipe")
    arguments = ("-m", "model=llama", "steps=4", *QUICK)
    sweep = Child(folder, arguments, environment(), stdout=folder / "pipe")
    with (folder / "pipe").open() as pipe:
        pipe.readline()  # and no more, as `| head -1` does
    ended = sweep.communicate()
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 141), ended.stderr
    assert [run.info.status for run in children(folder)["parents"]] == ["FINISHED"]
    (books,) = folder.glob("multirun/*/sweep.json")
    assert json.loads(books.read_text())["ended"] is True


def test_jobs_and_sweeps_that_start_together_share_no_folder(folder):
    together = [Child(folder, ("model=llama", *QUICK, f"seed={i}"), environment()) for i in (1, 2)]
    ended = [child.communicate() for child in together]
    assert [one.returncode for one in ended] == [0, 0], [one.stderr for one in ended]
    records = [record.load(path) for path in folder.glob("multirun/*/record.json")]
    assert sorted(found.config["seed"] for found in records) == [1, 2]


def test_one_job_writes_where_the_variable_says_and_is_taken_over_only_when_asked(tmp_path, empty_store):
    elsewhere, here = tmp_path / "${x} a\\b?c=1%20#", tmp_path / "here"
    here.mkdir()
    elsewhere.mkdir()
    shutil.copy(empty_store, elsewhere)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        there = environment() | {"LLMBENCH_RESULTS": str(elsewhere)}
        return Child(here, (*arguments, "steps=4", *QUICK), there).communicate()

    result = run("model=llada")
    assert result.returncode == 0, result.stderr
    assert "llada k=4: done" in result.stderr
    assert "L_e2e ms" in result.stdout
    assert "perplexity" not in result.stdout
    (path,) = elsewhere.glob("*/record.json")
    assert f"Record: {path}" in result.stdout
    assert "Its run: llmbench ui" in result.stdout
    assert "python -m llmbench model=llada steps=4" in result.stdout  # what recreates it
    assert not list(here.iterdir())

    taken = run("model=llada", "reuse=all")
    assert taken.returncode == 0, taken.stderr
    assert "nothing was measured now" in taken.stdout
    assert "done" not in taken.stderr
    assert run("-m", "model=llama,llada", "reuse=all", "dry_run=true").stdout.count("recorded already") == 1


def test_a_job_that_is_refused_leaves_no_folder(tmp_path, capfd):
    refused = ["model=llada", "steps=4", "metric=speed", *SMALL, "tracking.uri=/some/folder"]
    result = called(capfd, *refused, folder=tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert "sqlite:////some/folder/mlflow.db" in line
    assert not list(tmp_path.iterdir())
