"""Files that survive a kill or a loss of power, and locks between processes."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def write_atomic(path: Path, data: bytes | str) -> Path:
    """Write a file whole or not at all, and make its folder where it is missing; returns the path.

    Whoever reads meanwhile sees the earlier file or this one. On return it is on the disk.

    Args:
        path: an earlier file there is replaced.
        data: text is written as UTF-8.

    Raises:
        OSError: it cannot be written, which file is in `filename`; an earlier file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
            file.flush()
            os.fsync(file.fileno())
        replace_synced(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):  # of a full disk it names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return path


def replace_synced(source: Path, target: Path) -> None:
    """Rename a file of the same folder over another, and write the folder's entry to the disk."""
    source.replace(target)
    with contextlib.suppress(OSError):  # some systems open no folders, some file systems sync none
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def lock(path: Path, wait_s: float = -1) -> Iterator[bool]:
    """Hold a lock file; yields whether it is held: on a file system without locks it is not.

    A process that dies lets it go.

    Args:
        path: of the lock file, which is made where it is missing.
        wait_s: how long to wait while another holder has it; below 0 for ever.

    Raises:
        TimeoutError: another holder has it.
        OSError: the lock file cannot be made.
    """
    import filelock

    held, locked = filelock.FileLock(path), False
    try:
        held.acquire(timeout=wait_s)
        locked = True
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield locked
    finally:
        held.release()
