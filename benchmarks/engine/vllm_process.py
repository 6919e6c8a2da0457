"""How is vLLM run under another interpreter? As a process that answers line by line (`vllm_script`).

The process leads a group of its own: vLLM starts more processes, and all of them end with it.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from llmbench.errors import one_line

SCRIPT = Path(__file__).with_name("vllm_script.py")

START_S, ANSWER_S, END_S = 900.0, 300.0, 30.0
"""So long a start, a generation and an end may take."""

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
"""Everything that is needed is here, and nobody is told."""


class VllmError(Exception):
    """vLLM gave no answer, or a wrong one."""


class Vllm:
    """A vLLM that is ready; `about` is what it says of itself."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Talk to a process that runs `vllm_script`."""
        self._process = process
        self.about: dict[str, str] = {}

    def start(self, arguments: dict[str, Any]) -> None:
        """Build `LLM` with these arguments.

        Raises:
            VllmError: it could not be built.
        """
        self.about = self._ask(arguments, START_S)["about"]

    def generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Milliseconds of one greedy generation of all prompts together, by the other process's host clock.

        Raises:
            VllmError: it failed, or a row has another number of tokens.
        """
        answer = self._ask({"prompts": prompts, "new_tokens": new_tokens}, ANSWER_S)
        if answer["tokens"] != [new_tokens] * len(prompts):
            raise VllmError(f"{len(prompts)} x {new_tokens} tokens were asked for, and {answer['tokens']} came")
        return float(answer["ms"])

    def _ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """One line there, one line back; past the limit the process is killed, which ends both pipes."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            _kill(self._process)

        watch = threading.Timer(limit_s, kill)
        watch.start()
        try:
            line = self._exchange(json.dumps(request))
        finally:
            watch.cancel()
        if late.is_set():
            raise VllmError(f"no answer within {limit_s:g} s")
        if not line:
            raise VllmError(f"its process has ended, exit code {self._process.wait(END_S)}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise VllmError(answer["failed"])
        return answer

    def _exchange(self, request: str) -> str:
        """The answer; "" when the process has ended."""
        there, back = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            there.write(request + "\n")
            there.flush()
        except (BrokenPipeError, ValueError):  # what it said before it ended can still be read
            pass
        return back.readline()


@contextlib.contextmanager
def started(command: str, arguments: dict[str, Any]) -> Iterator[Vllm]:
    """A vLLM that is ready; afterwards none of its processes is left.

    Args:
        command: an interpreter that has vLLM, as one types it; an environment may stand before it (`env A=b python3`).
        arguments: of `LLM`.

    Raises:
        VllmError: it did not become ready.
    """
    process = subprocess.Popen(
        [*shlex.split(command), str(SCRIPT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
        start_new_session=True,
    )
    try:
        vllm = Vllm(process)
        vllm.start(arguments)
        yield vllm
    finally:
        with contextlib.suppress(BrokenPipeError):
            cast(IO[str], process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        _kill(process)
        process.wait()
        cast(IO[str], process.stdout).close()


def missing(command: str) -> str | None:
    """Why a command cannot run vLLM, found without importing it; None where nothing speaks against it."""
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        words = [*shlex.split(command), "-c", probe]
        found = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"it cannot be run: {one_line(error)}"
    if found.returncode == 0:
        return None
    said = found.stderr.strip().splitlines()
    return said[-1] if said else "it has no vLLM; where it is in a folder of its own: env PYTHONPATH=FOLDER python3"


def _kill(process: "subprocess.Popen[str]") -> None:
    """End every process of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
