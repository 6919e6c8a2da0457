"""Who may write into a sweep's folder: one sweep at a time, and whoever comes after one that is gone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.config.job import TrackingConfig
from llmbench.errors import ConfigError
from llmbench.sweeps import state
from llmbench.tracking import open_store

ROOT = Path(__file__).parents[2]


def write(folder, **more):
    values = {
        "parent": "",
        "store": "",
        "host": socket.gethostname(),
        "pid": os.getppid(),
        "started": "2026",
        "ended": False,
    }
    (folder / state.SWEEP_FILE).write_text(json.dumps(values | more))


def test_of_processes_that_want_one_folder_at_once_one_gets_it(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from llmbench import errors; from llmbench.sweeps import state\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: state.acquire(Path(sys.argv[1])); print('mine', flush=True)\n"
        "except errors.ConfigError as error: print(error, flush=True)\n"
        "sys.stdin.readline()\n"  # the sweep goes on until everybody has asked
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    command = [sys.executable, "-c", program, str(tmp_path / "new" / "mine")]
    started = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(6)]
    assert {process.stdout.readline() for process in started} == {"ready\n"}
    for process in started:
        process.stdin.write("\n")
    said = sorted(process.stdout.readline() for process in started)
    for process in started:
        process.communicate("\n")
    assert said[-1] == "mine\n"
    winner = json.loads((tmp_path / "new" / "mine" / state.SWEEP_FILE).read_text())["pid"]
    assert all(f"the sweep of process {winner} is writing there; name another" in line for line in said[:-1])


def test_a_running_sweep_keeps_its_folder_and_one_that_is_gone_or_ended_does_not(tmp_path):
    write(tmp_path)
    with pytest.raises(ConfigError, match=f"the sweep of process {os.getppid()} is writing there"):
        state.acquire(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for gone in ({"ended": True}, {"pid": ended.pid}, {"host": "another"}):
        write(tmp_path, **gone)
        state.acquire(tmp_path)
        assert json.loads((tmp_path / state.SWEEP_FILE).read_text())["pid"] == os.getpid()
        assert not state.ended(tmp_path)
    (tmp_path / state.SWEEP_FILE).write_text("{damaged")
    state.acquire(tmp_path)


def test_a_folder_that_cannot_be_is_one_line():
    with pytest.raises(ConfigError, match=r"^hydra\.sweep\.dir=/proc/nowhere: .+; name another, or "):
        state.acquire(Path("/proc/nowhere"))
    with pytest.raises(ConfigError, match=r"Hydra reads \$\{ as a reference; name another, or set LLMBENCH_RESULTS"):
        state.acquire(Path("/tmp/${x}"))


def test_a_folder_without_state_has_ended_and_is_as_old_as_its_name(tmp_path):
    assert state.ended(tmp_path)
    assert state.read(tmp_path) is None
    assert state.started(tmp_path / "2026-11-26") == "2026-11-26"
    write(tmp_path)
    assert not state.ended(tmp_path)
    assert state.started(tmp_path) == "2026"


@pytest.mark.parametrize(
    "text", ["", "{damaged", "[]", "null", '{"pid": "x"}', '{"ended": 1, "failed": 3}', "[" * 100_000]
)
def test_a_damaged_state_stops_nothing_and_is_a_sweep_that_did_not_end(text, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / state.SWEEP_FILE).write_text(text)
    assert not state.ended(tmp_path / "s")
    assert state.started(tmp_path / "s") == "s"
    state.abort_orphans(None, [tmp_path])
    state.acquire(tmp_path / "s")
    assert state.read(tmp_path / "s").pid == os.getpid()


def test_a_sweep_is_running_until_it_ends_and_aborted_where_it_stops(tmp_path):
    store = open_store(TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="x"))
    parents = [store.start_sweep(name=name, command="", jobs=1) for name in ("a", "b", "c")]
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        state.acquire(folder)
    with state.running(folders[0], store, parents[0]) as end:
        assert state.read(folders[0]).is_running
        end(logged=True, verdict="reached", failed=["llada k=8"], history=["{}"])
    ended = state.read(folders[0])
    assert (ended.parent, ended.ended, ended.verdict, ended.failed) == (parents[0], True, "reached", ("llada k=8",))
    with pytest.raises(ValueError, match="stop"), state.running(folders[1], store, parents[1]):
        raise ValueError("stop")
    assert store.sweep("b").status == "KILLED"
    with state.running(folders[2], store, parents[2]) as end:
        end(logged=False)
    store.finish_sweep(parents[2], [], [], unlogged=["llama"])
    gone = json.loads((folders[2] / state.SWEEP_FILE).read_text()) | {"pid": 2**22 + 1}
    (folders[2] / state.SWEEP_FILE).write_text(json.dumps(gone))
    state.abort_orphans(store, [tmp_path])
    assert store.sweep("c").status == "FAILED", "what has ended is no orphan"
    write(folders[1], parent=store.start_sweep(name="d", command="", jobs=1), store=store.uri, pid=2**22 + 1)
    state.abort_orphans(store, [tmp_path])
    assert store.sweep("d").status == "KILLED"
