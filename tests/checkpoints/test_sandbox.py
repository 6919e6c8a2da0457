"""A process that may be killed: what comes back, what is left behind, and where there is none."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmbench.checkpoints import sandbox


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def fail():
    raise LookupError("no such thing")


def test_what_was_made_or_raised_comes_back_and_nothing_is_left():
    before = descriptors()
    assert sandbox.run(lambda: "ä" * 100_000) == "ä" * 100_000  # more than a pipe holds
    with pytest.raises(ValueError, match="no such thing"):
        sandbox.run(fail)
    with pytest.raises(sandbox.Unbounded):
        sandbox.run(lambda: os._exit(3))
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_where_there_is_no_such_process_errors_are_the_same(monkeypatch):
    def none():
        raise OSError("no memory")

    before = descriptors()
    monkeypatch.setattr(os, "fork", none)
    assert sandbox.run(lambda: "made") == "made"
    with pytest.raises(ValueError, match="no such thing"):
        sandbox.run(fail)
    assert descriptors() == before
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="no such thing"):
        sandbox.run(fail)


def test_a_parent_that_never_hears_of_its_children_still_gets_the_answer():
    earlier = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert sandbox.run(lambda: "made") == "made"
    finally:
        signal.signal(signal.SIGCHLD, earlier)


def test_an_interrupt_ends_the_child_too(tmp_path):
    """Ctrl-C at the parent alone, as a notebook sends it: the child, deaf in compiled code, must not go on."""
    program = f"""
import os, pathlib
from llmbench.checkpoints import sandbox
def deaf():
    pathlib.Path({str(tmp_path / "child")!r}).write_text(str(os.getpid()))
    return str(sum(range(10**12)))
sandbox.run(deaf)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    noted, patience = tmp_path / "child", time.monotonic() + 60
    while not (noted.exists() and noted.read_text()) and time.monotonic() < patience:
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(10) != 0
    assert not Path(f"/proc/{noted.read_text()}").exists()


def test_threads_of_the_parent_and_a_pool_of_many_workers_refuse_no_tokenizer():
    """A pool that starts in the child would need more stack than it may take, on a machine of many cores."""
    program = """
import os, resource, threading
os.environ.pop("TOKENIZERS_PARALLELISM", None)
os.environ["RAYON_NUM_THREADS"] = "600"
from llmbench.checkpoints import resolve, sandbox
files = resolve.resolve_checkpoint("bundled:llama")
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(sandbox.run(lambda: str(len(files.tokenizer(["one", "two"])["input_ids"]))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr
