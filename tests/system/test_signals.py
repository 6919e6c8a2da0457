"""Signals that end a sweep, in real processes: also one whose exception is dropped on its way."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FINALIZER = """
import os, signal, sys
from llmbench.system import signals

signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and `&` had it ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signals.install_signal_handlers()

class Held:
    def __del__(self):  # what is raised in here goes no further
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(3):
            pass

try:
    del_me = Held()
    del del_me
    print("went on", flush=True)
    signals.raise_if_stopped()
    print("was never told")
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_that_a_finalizer_swallowed_ends_the_program_at_its_next_step(name, code):
    done = subprocess.run([sys.executable, "-c", FINALIZER, name], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "went on\n"
    assert done.returncode == code, done.stderr


def test_what_nohup_ignores_stays_ignored():
    program = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from llmbench.system import signals; signals.install_signal_handlers()\n"
        "os.kill(os.getpid(), signal.SIGHUP); signals.raise_if_stopped(); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "still here\n", done.stderr


def test_nothing_is_raised_before_anything_came():
    from llmbench.system import signals

    signals.raise_if_stopped()
    assert set(signals.REASONS) == {128 + signal.SIGTERM, 128 + signal.SIGHUP}
