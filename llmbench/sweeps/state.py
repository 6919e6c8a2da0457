"""Which sweep writes into a folder, and is it still at work? Its `sweep.json` tells, and its parent run in MLflow.

A sweep holds a lock in its folder from its first to its last line; the kernel lets it go when the process dies, however
it dies. A sweep of another host, whose lock cannot be seen from here, touches `sweep.json` every few seconds. A sweep
that has not ended and does neither is gone: its runs in MLflow are ended, and the same command goes on from there.
"""

import contextlib
import datetime
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmbench.errors import ConfigError
from llmbench.system.files import lock, write_atomic
from llmbench.system.output import emit
from llmbench.system.paths import ELSEWHERE

if TYPE_CHECKING:
    from llmbench.tracking import Store

SWEEP_FILE = "sweep.json"
"""In a sweep's folder: a `SweepState`, which `reuse=interrupted` looks for."""

_LOCK_FILE = ".sweep.lock"
_LOCK_SECONDS = 2.0
"""How long a sweep waits for its folder: whoever asks whether a folder is free holds its lock for an instant."""

_BEAT_SECONDS = 10.0
_SILENT_SECONDS = 60.0
"""A sweep of another host that has not touched its `sweep.json` for so long is gone."""

_TIME = "%Y-%m-%d_%H-%M-%S-%f"
"""As conf/config.yaml names folders, so that the times of both compare."""


@dataclass(frozen=True, kw_only=True)
class SweepState:
    """What a sweep's folder knows of its sweep besides plan and Records."""

    parent: str = ""  # run id in MLflow
    store: str = ""  # its URI, without credentials
    host: str = ""
    pid: int = 0
    created: float = 0.0  # when that process began, seconds since 1970; 0: not known
    started: str = ""  # as folders are named by default
    ended: bool = False  # whether it came to its end, and everything is in MLflow
    verdict: str | None = None  # statuses of its verdicts; None while it runs
    failed: tuple[str, ...] = ()  # names of the jobs that failed
    history: tuple[str, ...] = ()  # analyses of earlier sweeps that its verdicts counted, as JSON


class EndSweep(Protocol):
    """Writes that a sweep has come to its end."""

    def __call__(
        self, *, logged: bool, verdict: str = "", failed: Sequence[str] = (), history: Sequence[str] = ()
    ) -> None:
        """Fields of `SweepState`; a sweep that is not `logged` whole has not ended: its Records are taken over."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the sweep's folder, write this process into it, and keep every other sweep out of it.

    Raises:
        ConfigError: it cannot be written, or a sweep that is still running writes there.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            try:
                locks = stack.enter_context(lock(folder / _LOCK_FILE, _LOCK_SECONDS))
            except TimeoutError:
                raise ConfigError(_busy(folder)) from None
            if _runs_unlocked(folder, locks):
                raise ConfigError(_busy(folder))
            _write(folder, _of_this_process())
        except OSError as error:
            raise ConfigError(f"hydra.sweep.dir={folder}: {error.strerror}; name another, or {ELSEWHERE}") from error
        stack.enter_context(_heartbeat(folder / SWEEP_FILE))
        yield


def is_running(folder: Path) -> bool:
    """Whether the sweep of a folder is at work, in any process of this host or on another one."""
    state = read(folder)
    if state is None or state.ended:
        return False
    path = folder / _LOCK_FILE
    try:
        if not path.exists():  # an earlier version's, or a copy
            return _runs_unlocked(folder, locks=True)
        with lock(path, 0) as locks:
            return _runs_unlocked(folder, locks)
    except TimeoutError:
        return True
    except OSError:  # a folder that can only be read
        return _runs_unlocked(folder, locks=False)


@contextlib.contextmanager
def running(folder: Path, store: "Store", parent: str) -> Iterator[EndSweep]:
    """Keep `sweep.json` and the parent run true: running, then ended; aborted when something stops the sweep."""
    state = _of_this_process(parent=parent, store=store.uri)
    has_ended = False

    def end(*, logged: bool, verdict: str = "", failed: Sequence[str] = (), history: Sequence[str] = ()) -> None:
        nonlocal has_ended
        has_ended = True
        more = {"ended": logged, "verdict": verdict, "failed": tuple(failed), "history": tuple(history)}
        try:
            _write(folder, SweepState(**asdict(state) | more))
        except OSError as error:  # a full disk: what was measured is told all the same
            emit(f"{error.filename}: {error.strerror}; that the sweep has ended is not written", sys.stderr)

    _write(folder, state)
    try:
        yield end
    finally:
        if not has_ended:
            with contextlib.suppress(Exception):
                store.abort_sweep(parent)


def abort_orphans(store: "Store", roots: Sequence[Path]) -> None:
    """End the runs of sweeps that are gone, and what a killed process was logging: MLflow would show them for ever.

    Args:
        store: whose runs.
        roots: folders of results; a sweep's folder is also found where its run says it was written.
    """
    from llmbench.errors import TrackingError

    with contextlib.suppress(TrackingError):  # the sweep's own first request says what is wrong
        running_now = store.running_sweeps()
        places = _folders(roots) if running_now else {}
        for run_id, tags in running_now.items():
            written = [Path(tags["folder"])] if tags.get("folder") else []
            if any(_is_gone(folder, run_id, tags) for folder in [*places.get(run_id, []), *written]):
                store.abort_sweep(run_id)
        store.abort_jobs()


def read(folder: Path) -> SweepState | None:
    """The state of the sweep in a folder; None where there is none, one without values where it is unreadable."""
    try:
        values = json.loads((folder / SWEEP_FILE).read_bytes())
        known = {item.name: values[item.name] for item in fields(SweepState) if item.name in values}
        known |= {name: tuple(map(str, known[name])) for name in ("failed", "history") if name in known}
        known |= {name: str(known[name]) for name in ("parent", "store", "host", "started") if name in known}
        numbers = {"pid": int(known.get("pid", 0)), "created": float(known.get("created", 0))}
        return SweepState(**known | numbers | {"ended": bool(known.get("ended", False))})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return SweepState()


def ended(folder: Path) -> bool:
    """Whether the sweep of a folder came to its end. A folder without `sweep.json` holds a single job: it has."""
    state = read(folder)
    return state is None or state.ended


def started(folder: Path) -> str:
    """When a sweep began, as folders are named by default; a folder's name may be chosen."""
    state = read(folder)
    return state.started if state is not None and state.started else folder.name


def mark_logged(folder: Path, store: "Store", parent: str, *, verdict: str, failed: Sequence[str]) -> None:
    """Write that everything of a sweep is in a store now, with its verdict.

    Raises:
        OSError: it cannot be written.
    """
    known = asdict(read(folder) or SweepState())
    more = {"parent": parent, "store": store.uri, "ended": True, "verdict": verdict, "failed": tuple(failed)}
    _write(folder, SweepState(**known | more))


def _folders(roots: Sequence[Path]) -> dict[str, list[Path]]:
    """Folders of sweeps by the run that each one names."""
    found: dict[str, list[Path]] = {}
    for folder in {path.parent.resolve() for root in roots for path in root.glob(f"*/{SWEEP_FILE}")}:
        state = read(folder)
        if state is not None and state.parent:
            found.setdefault(state.parent, []).append(folder)
    return found


def _is_gone(folder: Path, run_id: str, tags: Mapping[str, str]) -> bool:
    """Whether a folder shows that the sweep of a run is no longer at work.

    Args:
        folder: names the run, or is where the run says that its sweep writes.
        run_id: of the parent.
        tags: its own: `folder`, and `host`.
    """
    state, here = read(folder), socket.gethostname()
    if state is None:
        return False
    is_own = str(folder) == tags.get("folder") or state.host == here  # not a copy from a host that is still at work
    if state.parent not in ("", run_id):  # a later sweep holds the folder
        return tags.get("host") == here
    return is_own and (state.ended or not is_running(folder))


def _runs_unlocked(folder: Path, locks: bool) -> bool:
    """Whether the sweep of a folder whose lock nobody is seen to hold is at work.

    Args:
        folder: of the sweep.
        locks: whether a lock of a process of this host would have been seen.
    """
    state = read(folder)
    if state is None or state.ended or not state.host:
        return False
    if state.host != socket.gethostname():
        with contextlib.suppress(OSError):
            return time.time() - (folder / SWEEP_FILE).stat().st_mtime < _SILENT_SECONDS
        return False
    return not locks and _is_alive(state)


def _is_alive(state: SweepState) -> bool:
    """Whether a process of this host lives; another one with its number is not the same."""
    import psutil

    try:
        begun = float(psutil.Process(state.pid).create_time())
    except (psutil.Error, ValueError, OverflowError):
        return False
    return not state.created or abs(begun - state.created) < 2


@contextlib.contextmanager
def _heartbeat(file: Path) -> Iterator[None]:
    """Touch a file every few seconds, until the end or until the process dies."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _busy(folder: Path) -> str:
    state = read(folder)
    who = f"the sweep of process {state.pid} on {state.host}" if state is not None and state.pid else "another sweep"
    return f"hydra.sweep.dir={folder}: {who} is writing there; name another"


def _of_this_process(parent: str = "", store: str = "") -> SweepState:
    import psutil

    return SweepState(
        parent=parent,
        store=store,
        host=socket.gethostname(),
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        started=datetime.datetime.now().strftime(_TIME),
    )


def _write(folder: Path, state: SweepState) -> None:
    write_atomic(folder / SWEEP_FILE, json.dumps(asdict(state)))
