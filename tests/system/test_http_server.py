"""A whole sweep against an MLflow server: while it answers, when it dies in the middle, and when it comes back."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from child import Child

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.verdict import Status
from llmbench.cli.report import main
from llmbench.config.job import TrackingConfig
from llmbench.errors import TrackingError
from llmbench.sweeps import state
from llmbench.tracking import open_store
from records import make_sweep

REPOSITORY = Path(__file__).parents[2]
SWEEP = [
    "-m",
    "model=llama,llada",
    "steps=2,4",
    "metric=speed",
    "metric.roofline=false",
    "workload.prompts=4",
    "batch=2",
    "canvas=8",
    "timing.repeats=2",
    "hardware=cpu",
]


def environment() -> dict[str, str]:
    settings = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return os.environ | settings | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def llmbench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return Child(folder, arguments, environment()).communicate()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def serve(tmp_path: Path, port: int) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a server over one and the same store, each time it is called; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        options += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
        options += ["--artifacts-destination", str(tmp_path / "artifacts")]
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                return process
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)

    yield start
    for process in started:
        kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End a server with its workers, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def runs(port: int) -> dict[str | None, list]:
    """Runs of the server by parent; None holds the sweeps themselves."""
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{port}")
    experiment = client.get_experiment_by_name("llmbench")
    found: dict[str | None, list] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=100):
        found.setdefault(run.data.tags.get("mlflow.parentRunId"), []).append(run)
    return found


def test_a_sweep_is_logged_to_a_server_and_its_last_line_finds_it_there(tmp_path, port, serve):
    serve()
    result = llmbench(tmp_path, *SWEEP, f"tracking.uri=http://127.0.0.1:{port}")
    assert result.returncode == 0, result.stderr
    (parent,) = runs(port)[None]
    assert parent.info.status == "FINISHED"
    children = runs(port)[parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == ["llada k=2", "llada k=4", "llama", "llama (timed again)"]
    assert {run.info.status for run in children} == {"FINISHED"}
    assert not list(tmp_path.rglob("mlflow.db"))

    line = next(line for line in result.stdout.splitlines() if line.startswith("This table again: "))
    again = llmbench(tmp_path, *line.partition("This table again: llmbench ")[2].split())
    assert again.returncode == 0, again.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith(("llama ", "llada k="))]
    assert len(rows) == 3
    assert all(row in again.stdout for row in rows)


def test_a_server_that_hangs_costs_no_record_and_one_command_sends_what_is_missing(tmp_path, port, serve):
    server = serve()
    uri = f"http://127.0.0.1:{port}"
    sweep = Child(tmp_path, (*SWEEP, f"tracking.uri={uri}"), environment())
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("multirun/*/plan.json")):  # the sweep is in the store, and no job has ended
        assert sweep.poll() is None, "the sweep ended before the server hung"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(server.pid, signal.SIGSTOP)  # it accepts connections, and answers nothing
    ended = sweep.communicate(timeout=120)
    assert ended.returncode == 4
    (folder,) = tmp_path.glob("multirun/*")
    assert len(list(folder.glob("*/record.json"))) == 4
    assert "Steps to quality parity" in ended.stdout
    assert "Traceback" not in ended.stderr
    line = ended.stderr.splitlines()[-1]
    assert "not in MLflow: " in line
    command = re.search("llmbench (sync .*) sends what is missing", line)[1].split()
    assert command == ["sync", str(folder), "--uri", uri]

    os.killpg(server.pid, signal.SIGCONT)
    sent = llmbench(tmp_path, *command)
    assert sent.returncode == 0, sent.stderr
    again = llmbench(tmp_path, *command)
    assert re.search("0 Records sent, 4 there already; run .*, finished", again.stdout), again.stdout
    (parent,) = runs(port)[None]
    assert (parent.info.status, parent.data.tags["verdict"]) == ("FINISHED", "no_quality")
    children = runs(port)[parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == ["llada k=2", "llada k=4", "llama", "llama (timed again)"]
    assert {run.info.status for run in children} == {"FINISHED"}
    assert state.ended(folder), "the same command begins anew"


def test_a_server_that_is_away_for_some_jobs_and_back_for_the_verdict_loses_none(
    tmp_path, port, serve, monkeypatch, capsys
):
    """The store alone says what it lacks; with the sweep's folder at hand the table is whole."""
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path / "results"))
    server = serve()
    uri = f"http://127.0.0.1:{port}"
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    records, folder = make_sweep(), tmp_path / "results" / "swept"
    planned = {record.identity: record.label for record in records}
    parent = store.start_sweep(name="swept", command="as typed", jobs=5, recipe="parity", planned=planned)
    unlogged = []
    with state.held(folder), state.running(folder, store, parent) as end:
        for record in records:
            record.save(folder / f"{record.model}-{record.identity}")
            if record.steps == 8:
                kill(server)
            try:
                store.log_job(record, parent=parent, steps_axis=[8, 16, 32, 64], swept={})
            except TrackingError:
                unlogged.append(record.label)
            if record.steps == 16:
                server = serve()
        store.finish_sweep(parent, verdicts(records), records, unlogged=unlogged)
        end(logged=not unlogged, verdict="reached")
    assert unlogged == ["llada k=8", "llada k=16"]
    assert store.sweep(parent).status == "FAILED"
    assert not state.ended(folder), "the same command takes its Records over"

    arguments = ["parity", "--uri", uri, "--sweep", parent, "--out", str(tmp_path / "paper")]
    assert main(arguments) == 0
    assert str(verdicts(records)[0]) in capsys.readouterr().out
    folder.rename(tmp_path / "away")
    assert main(arguments) == 3
    shown = capsys.readouterr().out
    assert shown.startswith("PARTIAL: 3 of 5 jobs of sweep swept; missing: llada k=8, llada k=16; ")
    assert f"{Status.INVALID.value.upper()}. " in shown
