"""What tells contents apart: digests of 12 hexadecimal digits, and stamps that change when a file does."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[tuple[str, int, int], ...]
"""Path, bytes and time of change in nanoseconds of each file."""


def digest(text: str) -> str:
    """The first 12 hexadecimal digits of a text's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def sha256(path: Path) -> str:
    """The sha256 of a file's contents, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(paths: Iterable[Path]) -> Stamp:
    """What changes when a file does, without reading it; paths that are no files are left out."""
    found = ((path, path.stat()) for path in paths if path.is_file())
    return tuple((str(path), status.st_size, status.st_mtime_ns) for path, status in found)
