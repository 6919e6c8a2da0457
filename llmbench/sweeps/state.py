"""Which sweep writes into a folder, and did it end? Its `sweep.json` says so, and its parent run in MLflow likewise.

A sweep claims its folder, keeps both true while it runs, and closes them. One that was cut off is known by its books:
they say that it has not ended, and name a process that is gone. The same command then goes on from there.
"""

import contextlib
import datetime
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmbench.errors import ConfigError
from llmbench.system.paths import ELSEWHERE

if TYPE_CHECKING:
    from llmbench.tracking import Store

SWEEP_FILE = "sweep.json"
"""In a sweep's folder: its MLflow parent, its process, and whether it ended; what `reuse=interrupted` looks for."""

_LOCK_FILE = ".sweep.lock"
_TIME = "%Y-%m-%d_%H-%M-%S-%f"
"""As conf/config.yaml names folders, so that the times of both compare."""


class Close(Protocol):
    """What the sweep calls at its end."""

    def __call__(self, *, logged: bool) -> None:
        """Close the books; a sweep that could not log everything has not ended: its Records are taken over again."""


def acquire(folder: Path) -> None:
    """Make the sweep's folder and write this process into it, before MLflow is told of a sweep.

    Of several processes that want one folder in the same instant, one gets it.

    Raises:
        ConfigError: it cannot be written, or a sweep that is still running writes there.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        with contextlib.ExitStack() as held:
            with contextlib.suppress(NotImplementedError):  # a file system without locks
                held.enter_context(filelock.FileLock(folder / _LOCK_FILE))
            if pid := _writer(folder):
                busy = f"the sweep of process {pid} is writing there; name another"
                raise ConfigError(f"hydra.sweep.dir={folder}: {busy}")
            _write(folder, parent="", store="", started=_now(), ended=False)
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir={folder}: {error.strerror}; name another, or {ELSEWHERE}") from error


@contextlib.contextmanager
def running(folder: Path, store: "Store", parent: str) -> Iterator[Close]:
    """Keep `sweep.json` and the parent run true: running, then ended; aborted when something stops the sweep."""
    started, closed = _now(), False

    def close(*, logged: bool) -> None:
        nonlocal closed
        closed = True
        _write(folder, parent=parent, store=store.shown_uri, started=started, ended=logged)

    _write(folder, parent=parent, store=store.shown_uri, started=started, ended=False)
    try:
        yield close
    finally:
        if not closed:
            with contextlib.suppress(Exception):
                store.abort_sweep(parent)


def abort_orphans(store: "Store", roots: Sequence[Path]) -> None:
    """End the parent runs of sweeps whose process was killed: MLflow would show them as running for ever."""
    for path in {path.resolve() for root in roots for path in root.glob(f"*/{SWEEP_FILE}")}:
        with contextlib.suppress(Exception):  # another store's or an unreadable file: not ours to judge
            state = json.loads(path.read_text())
            ours = state["store"] == store.shown_uri and state["host"] == socket.gethostname()
            if ours and not state["ended"] and not _alive(state["pid"]):
                store.abort_sweep(state["parent"])


def ended(folder: Path) -> bool:
    """Whether a sweep closed its books. A folder without any holds a single job, which is always whole."""
    try:
        return bool(_read(folder)["ended"])
    except (OSError, ValueError, KeyError):
        return True


def started(folder: Path) -> str:
    """When a sweep began, as folders are named by default; a folder's name may be chosen."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(_read(folder)["started"])
    return folder.name


def _writer(folder: Path) -> int | None:
    """The other process of this host that is running a sweep in a folder; None where there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        state = _read(folder)
        running = not state["ended"] and state["host"] == socket.gethostname() and _alive(state["pid"])
        return int(state["pid"]) if running and state["pid"] != os.getpid() else None
    return None


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def _now() -> str:
    return datetime.datetime.now().strftime(_TIME)


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / SWEEP_FILE).read_text())
    return found


def _write(folder: Path, *, parent: str, store: str, started: str, ended: bool) -> None:
    state = {"parent": parent, "store": store, "host": socket.gethostname(), "pid": os.getpid()}
    (folder / SWEEP_FILE).write_text(json.dumps(state | {"started": started, "ended": ended}))
