"""Jobs in processes of their own and in launchers' workers: real processes that are killed, in real sweeps."""

import importlib.util
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from child import Child

from llmbench import record
from llmbench.api import load

REPOSITORY = Path(__file__).parents[2]
QUICK = ["hardware=cpu", "hardware.threads=1", "metric=speed", "metric.roofline=false"]
QUICK += ["canvas=8", "workload.prompts=2", "batch=2"]
ONCE = ["timing.repeats=1", "timing.token_timing_repeats=0"]
GRID = ["model=llama,llada", "steps=4", "seed=0,1", *QUICK, *ONCE]
"""Two blocks of two jobs."""

LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib_gpus", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local"],
    "ray": ["hydra/launcher=ray_gpus", "hydra.launcher.ray.remote.num_gpus=0"],
}


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """Where a sweep starts, with an empty store."""
    (tmp_path / "multirun").mkdir()
    shutil.copy(empty_store, tmp_path / "multirun")
    return tmp_path


def start(folder: Path, *arguments: str) -> Child:
    """A sweep; its workers begin as the launcher starts them, with nothing imported."""
    clean = {"LLMBENCH_COMMIT": "0" * 40, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return Child(folder, ("-m", "hydra.sweep.dir=multirun/here", *arguments), os.environ | clean)


def wait_until(condition: Callable[[], bool], process: Child) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "nothing happened for two minutes"
        assert process.poll() is None, process.communicate().stderr
        time.sleep(0.05)


def processes_of(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def test_a_process_that_is_killed_costs_its_own_job(folder):
    """Of two jobs one warms up for ever and is killed; the other finishes."""
    process = start(folder, "model=llama", "timing.warmup=10000001,1", "isolation=process", *QUICK, *ONCE)
    wait_until(lambda: "warm up" in process.said(), process)
    for child in psutil.Process(process.pid).children():
        child.kill()
    ended = process.communicate(timeout=180)
    assert ended.returncode == 4, ended.stderr
    found = load(folder / "multirun" / "here").records
    reasons = {item.context.swept["timing.warmup"]: item.reason for item in found}
    assert "SIGKILL" in str(reasons["10000001"])
    assert reasons["1"] is None
    assert processes_of(folder) == []


def test_a_process_that_takes_too_long_is_ended(folder):
    warmup = "timing.warmup=10000001"
    process = start(folder, "model=llama", warmup, "isolation=process", "timeout_s=0.5", *QUICK, *ONCE)
    ended = process.communicate(timeout=180)
    assert ended.returncode == 4, ended.stderr
    (found,) = load(folder / "multirun" / "here").records
    assert "timeout_s=0.5" in str(found.reason)
    assert processes_of(folder) == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_worker_that_dies_and_a_sweep_that_is_killed_lose_nothing(folder, name):
    if importlib.util.find_spec(f"hydra_plugins.hydra_{name}_launcher") is None:
        pytest.skip(f"the extra of {name} is not installed")
    sweep = folder / "multirun" / "here"
    process = start(folder, *LAUNCHERS[name], *GRID)
    wait_until(lambda: any(sweep.glob("*/block.json")), process)
    worker = json.loads(next(sweep.glob("*/block.json")).read_text())
    os.kill(worker["pid"], signal.SIGKILL)
    wait_until(lambda: len(list(sweep.glob("*/record.json"))) > 1, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 30
    while processes_of(folder) and time.monotonic() < until:
        time.sleep(0.2)
    assert processes_of(folder) == []

    before = {path.parent.name: record.load(path).started_at for path in sweep.glob("*/record.json")}
    again = start(folder, *LAUNCHERS[name], *GRID)
    ended = again.communicate(timeout=240)
    assert ended.returncode == 0, ended.stderr
    found = load(sweep)
    assert (len(found.records), found.missing) == (4, ())
    assert {item.status for item in found.records} == {"finished"}
    after = {path.parent.name: record.load(path).started_at for path in sweep.glob("*/record.json")}
    assert {job: after[job] for job in before} == before  # nothing was measured twice
