"""What goes on around one block, in the process that a launcher gives it.

The jobs of a block run one after the other on one card, which nobody else times on meanwhile. They run in this process,
or in processes of their own (`sweeps.worker`): one for each job (`isolation=process`), or one for the whole block where
a launcher has workers. Such a process may die of a full memory or a broken driver: that costs the job it was at.
"""

import contextlib
import functools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from llmbench import record
from llmbench.config.job import Job
from llmbench.errors import RecordError
from llmbench.measure import cards
from llmbench.sweeps import plan_file, state
from llmbench.sweeps.job_task import JobResult, quiet_libraries, run_planned, track
from llmbench.system.files import lock, write_atomic
from llmbench.system.output import Level, emit, terminal_descriptor
from llmbench.system.terminal import doing, lent
from llmbench.version import __file__ as _HERE

RECORD_FILE = "record.json"
BLOCK_FILE = "block.json"
"""In a block's folder: the worker that has begun it."""

_LOCK_FILE = ".block.lock"
_POLL_S, _MISSED = 2.0, 2
"""How often a worker looks for its sweep, and how often in turn it may miss it."""

_STOP_S = 1.0
"""How long a process may take to end by itself."""

_BURY_S = 120.0
"""How long it may take to write down that a job has failed."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Jobs that run one after the other on one card."""

    folder: Path  # in that of the sweep
    jobs: tuple[Path, ...]  # folders of its jobs, in order

    def left(self) -> list[Path]:
        """The jobs without a Record."""
        return [job for job in self.jobs if not (job / RECORD_FILE).is_file()]


def load(folder: Path) -> Block:
    """The block that a plan has under this folder's name.

    Raises:
        RecordError: there is none.
    """
    names = plan_file.load(folder.parent).blocks.get(folder.name)
    if names is None:
        raise RecordError(f"{folder} is in no plan")
    return Block(folder=folder, jobs=tuple(folder.parent / name for name in names))


def run_block(block: Block, *, apart: bool, progress: bool = True) -> list[JobResult]:
    """Run the jobs of a block that have no Record yet, until the sweep ends. Nothing is raised.

    Args:
        block: of a planned sweep.
        apart: in another process than this one, which may be lent by a launcher.
        progress: show it on the standard error stream.
    """
    quiet_libraries()
    plan = plan_file.load(block.folder.parent)
    jobs = [plan.jobs[folder.name].job for folder in block.jobs]
    one_each = any(job.isolation == "process" for job in jobs)
    with on_its_card(jobs, any_of_them=apart or one_each) as card:
        if not (apart or one_each):
            return [run_planned(folder, progress) for folder in block.jobs]
        runner = _Runner(sweep=block.folder.parent, block=block.folder.name, card=card, progress=progress)
        return list(runner.run(block.left(), one_each=one_each, timeout_s=jobs[0].timeout_s))


@contextlib.contextmanager
def on_its_card(jobs: Sequence[Job], *, any_of_them: bool = False) -> Iterator[str | None]:
    """Hold a card for jobs that time on one; nobody else does meanwhile. Waits, and says so.

    Args:
        jobs: on the CPU they hold nothing.
        any_of_them: of all that are visible; else CUDA's device in this process.
    """
    wanted: Sequence[str] = ()
    if any(job.hardware.device == "cuda" for job in jobs):
        wanted = cards.visible_cards() if any_of_them else _own_card()
    with cards.held(wanted, _say_that_it_waits) as card:
        yield card


def _say_that_it_waits() -> None:
    emit("Waiting for a GPU: another sweep is timing on it", sys.stderr, at=Level.NORMAL)


def _own_card() -> tuple[str, ...]:
    """CUDA's device in this process."""
    from llmbench.measure.probes import device_uuid

    uuid = device_uuid()
    return () if uuid is None else (f"GPU-{uuid.removeprefix('GPU-')}",)


def run_launched(folder: Path) -> list[JobResult]:
    """Run the block of a folder in a launcher's worker, unless another worker runs it. Nothing is raised."""
    try:
        block = load(folder)
    except RecordError as error:
        return [JobResult(folder=str(folder), label=folder.name, status="failed", reason=str(error), tracked=None)]
    try:
        with lock(folder / _LOCK_FILE, 0):
            if not state.is_running(folder.parent):
                return []
            _end_with_sweep(folder.parent)
            write_atomic(folder / BLOCK_FILE, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            return run_block(block, apart=True)
    except TimeoutError:
        return []


def is_held(block: Block) -> bool:
    """Whether a worker runs this block now."""
    if not block.folder.is_dir():
        return False
    try:
        with lock(block.folder / _LOCK_FILE, 0):
            return False
    except TimeoutError:
        return True


@functools.cache
def _end_with_sweep(folder: Path) -> None:
    """From here on this process ends without ado when a folder's sweep is killed: launchers leave their workers."""

    def watch() -> None:
        missed = 0
        while missed < _MISSED:
            time.sleep(_POLL_S)
            known = state.read(folder)
            if known is not None and known.ended:
                return
            missed = 0 if state.is_running(folder) else missed + 1
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def died(folder: Path, reason: str) -> JobResult:
    """The failed Record of a job whose process is gone, written by a process of its own.

    Args:
        folder: of the job.
        reason: one line.
    """
    runner = _Runner(sweep=folder.parent, block="", card=None, progress=True)
    return runner.bury(folder, reason)


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """Starts processes for jobs and sees how they end."""

    sweep: Path
    block: str
    card: str | None
    progress: bool

    def run(self, left: Sequence[Path], *, one_each: bool, timeout_s: float | None) -> Iterator[JobResult]:
        """Run jobs in order and log each Record. A job at which a process dies fails; the others go on in a new one."""
        waiting = list(left)
        while waiting:
            ending = ""
            with _Child(self._command(waiting[:1] if one_each else waiting), self._environment()) as child:
                for folder in waiting[:1] if one_each else tuple(waiting):
                    with lent():
                        ending, unsaved = child.next(timeout_s)
                    if ending:
                        break
                    waiting.remove(folder)
                    with doing("writing to MLflow"):
                        result = self._result(folder, unsaved)  # while nothing is timed
                    yield result
                    child.go_on()
            if ending:
                yield self.bury(waiting.pop(0), ending)

    def bury(self, folder: Path, reason: str) -> JobResult:
        """Write the failed Record of a job whose process has gone, if it left none."""
        unsaved = ""
        if not (folder / RECORD_FILE).is_file():
            with _Child([*self._command([folder]), "--died", reason], self._environment()) as child:
                ending, unsaved = child.next(_BURY_S)
                unsaved = unsaved or ending
        return self._result(folder, unsaved and f"{reason}; {unsaved}")

    def _result(self, folder: Path, unsaved: str) -> JobResult:
        entry = plan_file.load(self.sweep).jobs[folder.name]
        try:
            return track(record.load(folder / RECORD_FILE), folder, entry.title, entry.job.tracking)
        except RecordError as error:
            reason = unsaved or str(error)
            return JobResult(folder=str(folder), label=entry.title, status="failed", reason=reason, tracked=None)

    def _command(self, folders: Sequence[Path]) -> list[str]:
        known = state.read(self.sweep)
        session = known.started if known is not None else ""
        place = f"{socket.gethostname()}:{self.sweep.name}:{session}:{self.block}"
        more = ["--process", place] if self.block else []
        quiet = [] if self.progress else ["--quiet"]
        return [sys.executable, "-P", "-m", "llmbench.sweeps.worker", *map(str, folders), *more, *quiet]

    def _environment(self) -> dict[str, str]:
        """That of a process that finds this package, and sees this card alone."""
        package = str(Path(_HERE).resolve().parents[1])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, **({cards.VISIBLE: self.card} if self.card else {})}


@dataclass
class _Child:
    """A process that runs jobs and prints a line for each; it ends when this process does, however that ends."""

    command: list[str]
    environment: dict[str, str]
    _lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)

    def __enter__(self) -> "_Child":
        self._process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=terminal_descriptor(),
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.terminate()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # it ends by itself
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def next(self, timeout_s: float | None = None) -> tuple[str, str]:
        """Wait for the end of a job: why the process is gone ("" where it is not), and why there is no Record.

        Args:
            timeout_s: how long it may take; None: for ever.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            return f"it took longer than timeout_s={timeout_s:g}", ""
        if line is None:
            return _ending(self._process.wait()), ""
        return "", str(json.loads(line)["unsaved"])

    def go_on(self) -> None:
        """Let the process begin its next job."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def _ending(code: int) -> str:
    """How a process ended that should have gone on."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    full = " (as when the machine's memory is full)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{full}"
