"""Who may write into a sweep's folder, and what becomes of the runs of a sweep that is gone: with real processes."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmbench.config.job import TrackingConfig
from llmbench.errors import ConfigError
from llmbench.sweeps import state
from llmbench.tracking import Store, open_store
from records import make_record

ROOT = Path(__file__).parents[2]
HOLD = (
    "import sys, time; from pathlib import Path\n"
    "from llmbench import errors; from llmbench.sweeps import state\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "try:\n"
    "  with state.held(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.readline()\n"
    "except errors.ConfigError as error: print(error, flush=True); sys.stdin.readline()\n"
)


def start(folder: Path) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    return subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, **pipes)


@contextlib.contextmanager
def holder(folder: Path):
    """A process that holds a folder, as a sweep does."""
    process = start(folder)
    process.stdin.write("\n")
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "mine\n"]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def write(folder, **more):
    values = {"parent": "", "store": "", "host": socket.gethostname(), "pid": os.getpid(), "started": "2026"}
    (folder / state.SWEEP_FILE).write_text(json.dumps(values | {"ended": False} | more))


def test_of_processes_that_want_one_folder_at_once_one_gets_it(tmp_path):
    folder = tmp_path / "new" / "mine"
    started = [start(folder) for _ in range(4)]
    assert {process.stdout.readline() for process in started} == {"ready\n"}
    for process in started:
        process.stdin.write("\n")
    answers = sorted(process.stdout.readline() for process in started)
    for process in started:
        process.communicate("\n")
    assert answers[-1] == "mine\n"
    assert all("is writing there; name another" in line for line in answers[:-1])


def test_a_folder_is_held_until_the_process_dies_however_it_dies(tmp_path):
    with holder(tmp_path) as process:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            process.send_signal(number)
            assert state.is_running(tmp_path)
        busy = f"the sweep of process {process.pid} on {socket.gethostname()} is writing there"
        with pytest.raises(ConfigError, match=busy), state.held(tmp_path):
            pass
        process.kill()
        process.wait()
        assert not state.is_running(tmp_path)
        with state.held(tmp_path):
            assert state.read(tmp_path).pid == os.getpid()
            assert state.is_running(tmp_path)
    assert not state.is_running(tmp_path)
    assert not state.ended(tmp_path)


def test_a_process_that_got_the_number_of_a_dead_one_is_not_the_sweep(tmp_path):
    write(tmp_path)  # this very process, as in a container that was started again: number 1 each time
    assert not state.is_running(tmp_path)
    begun = psutil.Process().create_time()
    assert state._runs_unlocked(tmp_path, locks=False)  # a file system without locks: the number is all there is
    for created, alive in ((begun, True), (begun - 100, False)):
        write(tmp_path, created=created)
        assert state._runs_unlocked(tmp_path, locks=False) is alive


def test_a_sweep_of_another_host_runs_as_long_as_it_touches_its_file(tmp_path, monkeypatch):
    write(tmp_path, host="another")
    assert state.is_running(tmp_path)
    with (
        pytest.raises(ConfigError, match=r"the sweep of process \d+ on another is writing there"),
        state.held(tmp_path),
    ):
        pass
    long_ago = time.time() - 120
    os.utime(tmp_path / state.SWEEP_FILE, (long_ago, long_ago))
    assert not state.is_running(tmp_path)
    monkeypatch.setattr(state, "_BEAT_SECONDS", 0.01)
    with state.held(tmp_path):
        os.utime(tmp_path / state.SWEEP_FILE, (long_ago, long_ago))
        deadline = time.monotonic() + 60
        while (tmp_path / state.SWEEP_FILE).stat().st_mtime < long_ago + 60:
            assert time.monotonic() < deadline, "nothing touches the file"
            time.sleep(0.01)


def test_a_folder_that_cannot_be_is_one_line():
    refused = r"^hydra\.sweep\.dir=/proc/nowhere: .+; name another, or "
    with pytest.raises(ConfigError, match=refused), state.held(Path("/proc/nowhere")):
        pass


def test_a_folder_without_state_has_ended_and_is_as_old_as_its_name(tmp_path):
    assert state.ended(tmp_path)
    assert state.read(tmp_path) is None
    assert state.started(tmp_path / "2026-11-26") == "2026-11-26"
    write(tmp_path)
    assert not state.ended(tmp_path)
    assert state.started(tmp_path) == "2026"


DAMAGED = ["", "{damaged", "[]", "null", '{"pid": "x"}', '{"ended": 1, "failed": 3}', "[" * 100_000, '{"pid": 1e999}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_state_stops_nothing_and_is_a_sweep_that_did_not_end(text, tmp_path):
    (tmp_path / state.SWEEP_FILE).write_text(text)
    assert not state.ended(tmp_path)
    assert state.started(tmp_path) == tmp_path.name
    with state.held(tmp_path):
        assert state.read(tmp_path).pid == os.getpid()


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store) -> Store:
    file = shutil.copy(empty_store, tmp_path_factory.mktemp("store"))
    return open_store(TrackingConfig(uri=f"sqlite:///{file}", experiment="x"))


def test_a_sweep_is_running_until_it_ends_and_aborted_where_it_stops(tmp_path, store):
    parents = [store.start_sweep(name=name, command="", jobs=1) for name in ("a", "b", "c")]
    folders = [tmp_path / name for name in ("a", "b", "c")]
    with state.held(folders[0]), state.running(folders[0], store, parents[0]) as end:
        assert state.is_running(folders[0])
        end(logged=True, verdict="reached", failed=["llada k=8"], history=["{}"])
    ended = state.read(folders[0])
    assert (ended.parent, ended.ended, ended.verdict, ended.failed) == (parents[0], True, "reached", ("llada k=8",))
    with (
        pytest.raises(ValueError, match="stop"),
        state.held(folders[1]),
        state.running(folders[1], store, parents[1]),
    ):
        raise ValueError("stop")
    assert store.sweep("b").status == "KILLED"
    with state.held(folders[2]), state.running(folders[2], store, parents[2]) as end:
        end(logged=False)
    store.finish_sweep(parents[2], [], [], unlogged=["llama"])
    state.abort_orphans(store, [tmp_path])
    assert store.sweep("c").status == "FAILED", "what has ended is no orphan"


def half_logged(store: Store, parent: str) -> str:
    """The run of a job whose process was killed while it logged."""
    tags = {"kind": "job", "mlflow.parentRunId": parent, "identity": "half", "status": "finished"}
    return store.client.create_run(store.experiment_id, tags=tags).info.run_id


def test_sweeps_that_are_gone_are_ended_with_their_jobs_and_those_at_work_are_not(tmp_path, store):
    """Gone: killed, its file truncated, its folder taken by a later one. At work: here, on another host, elsewhere."""
    names = ("killed", "truncated", "replaced", "working", "remote", "elsewhere", "moved")
    runs = {name: store.start_sweep(name=name, command="", jobs=1, folder=str(tmp_path / name)) for name in names}
    jobs = {name: half_logged(store, run) for name, run in runs.items()}
    for name in ("killed", "truncated", "replaced", "remote"):
        (tmp_path / name).mkdir()
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved").rename(tmp_path / "moved away")
    write(tmp_path / "killed", parent=runs["killed"], pid=1)
    (tmp_path / "truncated" / state.SWEEP_FILE).write_text('{"parent": "')
    write(tmp_path / "replaced", parent="a later one", ended=True)
    write(tmp_path / "remote", parent=runs["remote"], host="another")
    write(tmp_path / "moved away", parent=runs["moved"])
    with holder(tmp_path / "working"):
        state.abort_orphans(store, [tmp_path])
    left = {name for name, run in runs.items() if store.status(run) == "RUNNING"}
    assert left == {"working", "remote", "elsewhere"}
    assert {name for name, run in jobs.items() if store.status(run) == "RUNNING"} == left
    state.abort_orphans(store, [tmp_path])
    assert store.status(runs["working"]) == "KILLED"


def test_a_job_that_was_left_half_logged_under_a_sweep_that_ended_is_ended_or_completed(store):
    record = make_record("llama", identity="half")
    parent = store.start_sweep(name="sweep", command="", jobs=1)
    empty = half_logged(store, parent)
    assert store.log_job(record, parent=parent, steps_axis=[8], swept={}) == empty, "it is completed in place"
    again = half_logged(store, parent)  # of a request whose answer was lost
    assert store.log_job(record, parent=parent, steps_axis=[8], swept={}) == empty, "what is whole is not logged again"
    store.finish_sweep(parent, [], [record])
    assert store.client.get_run(again).info.lifecycle_stage == "deleted"
    assert store.records(parent) == [record]
    late = half_logged(store, store.start_sweep(name="another", command="", jobs=1))
    store.abort_sweep(store.sweep("another").run_id)
    assert store.status(late) == "KILLED"
    lost = half_logged(store, parent)
    alone = {"kind": "job", "identity": "alone", "status": "finished"}
    began = (int((time.time() - hours * 3600) * 1000) for hours in (2, 0))
    old, new = (store.client.create_run(store.experiment_id, begun, alone).info.run_id for begun in began)
    state.abort_orphans(store, [])
    assert (store.status(old), store.status(new)) == ("KILLED", "RUNNING")
    assert store.client.get_run(lost).info.lifecycle_stage == "deleted"
