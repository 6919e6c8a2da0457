"""Which GPUs may this process use, and who times on one right now?

A lock file per card, in a folder that all users of a host share: two sweeps never time on one card at once. The kernel
lets go of what a dead process held. Where no lock can be made (a file system without locks, a folder that cannot be
written) nothing is held, and nobody waits.
"""

import contextlib
import functools
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock

VISIBLE = "CUDA_VISIBLE_DEVICES"

_POLL_S = 0.5


@functools.cache
def visible_cards() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES may name, one by one: UUIDs where the driver tells them, else as it stands there.

    Asks the driver, and makes no CUDA context. () where there is no card. On a host with cards of several names CUDA
    counts them in another order than the driver, unless CUDA_DEVICE_ORDER=PCI_BUS_ID: numbers then stay numbers.
    """
    named = os.environ.get(VISIBLE)
    asked = None if named is None else [part.strip() for part in named.split(",") if part.strip()]
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            found = [(pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)) for handle in handles]
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no library, no driver, or forbidden
        return tuple(asked or ())
    uuids = [uuid.decode() if isinstance(uuid, bytes) else uuid for uuid, _ in found]
    if asked is None:
        return tuple(uuids)
    if len({name for _, name in found}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return tuple(asked)
    return tuple(uuids[int(part)] if part.isdigit() and int(part) < len(uuids) else part for part in asked)


@contextlib.contextmanager
def held(cards: Sequence[str], waiting: Callable[[], None] = lambda: None) -> Iterator[str | None]:
    """Hold one of these cards, the first that nobody times on; waits while all are taken.

    Args:
        cards: as `visible_cards` names them; () holds nothing.
        waiting: called once where all are taken.

    Yields:
        The card.
    """
    locks = [_lock(card) for card in cards]
    taken = _first_free(locks)
    if taken is None and locks:
        waiting()
    while taken is None and locks:
        time.sleep(_POLL_S)
        taken = _first_free(locks)
    try:
        yield None if taken is None else cards[taken]
    finally:
        if taken is not None:
            locks[taken].release()


def others_held(own: str | None) -> int:
    """How many other cards of this host are held now; `own`: UUID of this process' card, with or without `GPU-`."""
    names = {_file_name(own), _file_name(f"GPU-{own}")} if own else set()
    return sum(_is_held(path) for path in _folder().glob("*.lock") if path.name not in names)


def _first_free(locks: Sequence[filelock.BaseFileLock]) -> int | None:
    for place, lock in enumerate(locks):
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            continue
        except (OSError, NotImplementedError):
            pass
        return place
    return None


def _is_held(path: Path) -> bool:
    probe = filelock.FileLock(path, mode=0o666)
    try:
        with probe.acquire(blocking=False):
            return False
    except filelock.Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _lock(card: str) -> filelock.BaseFileLock:
    return filelock.FileLock(_folder() / _file_name(card), mode=0o666)


def _file_name(card: str) -> str:
    own_numbers = "" if card.startswith(("GPU-", "MIG-")) else f"{socket.gethostname()}-"
    return f"{own_numbers}{card.replace('/', '-')}.lock"


def _folder() -> Path:
    """The same for all users and processes of this host."""
    common = Path("/tmp")  # TMPDIR may be a job's own
    folder = (common if common.is_dir() else Path(tempfile.gettempdir())) / "llmbench-cards"
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        # for all users; with a sticky bit Linux lets nobody open what another user made (fs.protected_regular)
        folder.chmod(0o777)
    return folder
