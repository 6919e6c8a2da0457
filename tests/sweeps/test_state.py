"""Who may write into a sweep's folder: one sweep at a time, and whoever comes after one that is gone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.errors import ConfigError
from llmbench.sweeps import state

ROOT = Path(__file__).parents[2]


def write(folder, **more):
    told = {
        "parent": "",
        "store": "",
        "host": socket.gethostname(),
        "pid": os.getppid(),
        "started": "2026",
        "ended": False,
    }
    (folder / state.SWEEP_FILE).write_text(json.dumps(told | more))


def test_of_processes_that_want_one_folder_at_once_one_gets_it(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from llmbench import errors; from llmbench.sweeps import state as books\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try: books.acquire(Path(sys.argv[1])); print('mine', flush=True)\n"
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


def test_a_folder_without_books_is_whole_and_as_old_as_its_name(tmp_path):
    assert state.ended(tmp_path)
    assert state.started(tmp_path / "2026-11-26") == "2026-11-26"
    write(tmp_path)
    assert not state.ended(tmp_path)
    assert state.started(tmp_path) == "2026"
