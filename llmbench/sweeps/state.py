"""Which sweep writes into a folder, and did it end? Its `sweep.json` tells, and its parent run in MLflow likewise.

A sweep that was cut off has a `sweep.json` that has not ended and names a process that is gone. The same command then
goes on from there.
"""

import contextlib
import datetime
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmbench.errors import ConfigError
from llmbench.system.files import lock, write_atomic
from llmbench.system.paths import ELSEWHERE

if TYPE_CHECKING:
    from llmbench.tracking import Store

SWEEP_FILE = "sweep.json"
"""In a sweep's folder: a `SweepState`, which `reuse=interrupted` looks for."""

_LOCK_FILE = ".sweep.lock"
_TIME = "%Y-%m-%d_%H-%M-%S-%f"
"""As conf/config.yaml names folders, so that the times of both compare."""


@dataclass(frozen=True, kw_only=True)
class SweepState:
    """What a sweep's folder knows of its sweep besides plan and Records."""

    parent: str = ""  # run id in MLflow
    store: str = ""  # its URI, without credentials
    host: str = ""
    pid: int = 0
    started: str = ""  # as folders are named by default
    ended: bool = False  # whether it came to its end, and everything is in MLflow
    verdict: str | None = None  # statuses of its verdicts; None while it runs
    failed: tuple[str, ...] = ()  # names of the jobs that failed
    history: tuple[str, ...] = ()  # analyses of earlier sweeps that its verdicts counted, as JSON

    @property
    def is_running(self) -> bool:
        """Whether its process is alive, on this host."""
        import psutil

        return not self.ended and self.host == socket.gethostname() and bool(psutil.pid_exists(self.pid))


class EndSweep(Protocol):
    """Writes that a sweep has come to its end."""

    def __call__(
        self, *, logged: bool, verdict: str = "", failed: Sequence[str] = (), history: Sequence[str] = ()
    ) -> None:
        """Fields of `SweepState`; a sweep that is not `logged` whole has not ended: its Records are taken over."""


def acquire(folder: Path) -> None:
    """Make the sweep's folder and write this process into it, before MLflow is told of a sweep.

    Of several processes that want one folder in the same instant, one gets it.

    Raises:
        ConfigError: it cannot be written, Hydra cannot name it, or a sweep that is still running writes there.
    """
    if "${" in str(folder):
        raise ConfigError(f"hydra.sweep.dir={folder}: Hydra reads ${{ as a reference; name another, or {ELSEWHERE}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        with lock(folder / _LOCK_FILE):
            earlier = read(folder)
            if earlier is not None and earlier.is_running and earlier.pid != os.getpid():
                busy = f"the sweep of process {earlier.pid} is writing there; name another"
                raise ConfigError(f"hydra.sweep.dir={folder}: {busy}")
            _write(folder, _of_this_process())
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir={folder}: {error.strerror}; name another, or {ELSEWHERE}") from error


@contextlib.contextmanager
def running(folder: Path, store: "Store", parent: str) -> Iterator[EndSweep]:
    """Keep `sweep.json` and the parent run true: running, then ended; aborted when something stops the sweep."""
    state = _of_this_process(parent=parent, store=store.uri)
    has_ended = False

    def end(*, logged: bool, verdict: str = "", failed: Sequence[str] = (), history: Sequence[str] = ()) -> None:
        nonlocal has_ended
        has_ended = True
        more = {"ended": logged, "verdict": verdict, "failed": tuple(failed), "history": tuple(history)}
        _write(folder, SweepState(**asdict(state) | more))

    _write(folder, state)
    try:
        yield end
    finally:
        if not has_ended:
            with contextlib.suppress(Exception):
                store.abort_sweep(parent)


def abort_orphans(store: "Store", roots: Sequence[Path]) -> None:
    """End the parent runs of sweeps whose process was killed: MLflow would show them as running for ever."""
    for folder in {path.parent.resolve() for root in roots for path in root.glob(f"*/{SWEEP_FILE}")}:
        state = read(folder)
        if state is None or state.ended or state.is_running:
            continue
        if state.parent and state.store == store.uri and state.host == socket.gethostname():
            with contextlib.suppress(Exception):  # deleted, for example
                store.abort_sweep(state.parent)


def read(folder: Path) -> SweepState | None:
    """The state of the sweep in a folder; None where there is none, one without values where it is unreadable."""
    try:
        values = json.loads((folder / SWEEP_FILE).read_bytes())
        known = {item.name: values[item.name] for item in fields(SweepState) if item.name in values}
        known |= {name: tuple(map(str, known[name])) for name in ("failed", "history") if name in known}
        return SweepState(**known | {"pid": int(known.get("pid", 0)), "ended": bool(known.get("ended", False))})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return SweepState()


def ended(folder: Path) -> bool:
    """Whether the sweep of a folder came to its end. A folder without `sweep.json` holds a single job: it has."""
    state = read(folder)
    return state is None or state.ended


def started(folder: Path) -> str:
    """When a sweep began, as folders are named by default; a folder's name may be chosen."""
    state = read(folder)
    return state.started if state is not None and state.started else folder.name


def _of_this_process(parent: str = "", store: str = "") -> SweepState:
    now = datetime.datetime.now().strftime(_TIME)
    return SweepState(parent=parent, store=store, host=socket.gethostname(), pid=os.getpid(), started=now)


def _write(folder: Path, state: SweepState) -> None:
    write_atomic(folder / SWEEP_FILE, json.dumps(asdict(state)))
