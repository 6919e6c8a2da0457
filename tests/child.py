"""llmbench's command line in a child process that has imported torch, Transformers and MLflow before it starts.

Importing them is most of what a small sweep costs. `multiprocessing`'s fork server imports them once and forks for
every command: a process of its own, with its own signals, environment, working directory and exit code. What is not
tested so is how `python -m llmbench` starts: tests that use `swept` of test_sweep.py run that.
"""

import atexit
import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

import pytest

HEAVY = [
    *("torch", "torch._dynamo", "torch.distributed.tensor", "transformers.modeling_utils"),
    *("transformers.models.llama.modeling_llama", "mlflow.artifacts", "mlflow.store.tracking.sqlalchemy_store"),
    *("hydra", "pandas", "scipy.stats", "matplotlib.figure", "plotly.graph_objects"),
]
"""Of others alone: ours are imported in the child, from where the test's process has them."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(HEAVY)


class Child:
    """A command that runs; what it prints is read at its end. With `-c`, a program as Python's own `-c` takes it.

    Its standard output and error may be other files, as a named pipe or a terminal.
    """

    def __init__(
        self,
        folder: Path,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        stdout: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        self._printed = tempfile.TemporaryDirectory()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # it is a thread
            forkserver.ensure_running()
        self._output = stdout or Path(self._printed.name) / "1"
        self._errors = stderr or Path(self._printed.name) / "2"
        asked = (str(folder), arguments, dict(environment), str(self._output), str(self._errors))
        self._process = _FORKS.Process(target=_main, args=asked)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def said(self) -> str:
        """Its standard error so far."""
        return self._errors.read_text() if self._errors.is_file() else ""

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Wait for its end; what it said `without_signs`.

        Raises:
            TimeoutExpired: it took longer, and was killed.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        printed = [path.read_text() if path.is_file() else "" for path in (self._output, self._errors)]
        self._printed.cleanup()
        if code is None:
            raise subprocess.TimeoutExpired("llmbench", timeout, *printed)
        return subprocess.CompletedProcess("llmbench", code, printed[0], without_signs(printed[1]))


def without_signs(text: str) -> str:
    """Without the lines that come when something takes long, or other programs run: on a busy machine anything may."""
    sign = re.compile(r"[a-zA-Z ]+, \d+ s$|CPU threads: \d+ of \d+ \(other programs keep ")
    return "".join(line for line in text.splitlines(keepends=True) if not sign.match(line))


def _main(folder: str, arguments: tuple[str, ...], environment: dict[str, str], *printed: str) -> None:
    """What the child does: as `python -m llmbench`, or `python`, from a shell with this environment and folder."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(printed, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from llmbench.cli.main import main

    program = arguments[:1] == ("-c",)
    sys.argv = ["-c", *arguments[2:]] if program else ["llmbench", *arguments]
    try:
        if program:
            exec(arguments[1], {"__name__": "__main__"})
        else:
            main()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        atexit._run_exitfuncs()
