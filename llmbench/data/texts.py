"""Reading files of text, lines of JSON, and cutting texts in words.

A *word* is what stands between blanks. Chinese and Japanese are written without blanks: there every character is a
word, with the punctuation behind it, as word counters count them.
"""

import bz2
import gzip
import json
import lzma
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmbench.errors import WorkloadError

_HAN_AND_KANA = "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
_HAN_AND_KANA += "\U00020000-\U0003ffff"
_PUNCTUATION = "\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff1f\uff3b-\uff3d\uff5b-\uff65"
_WORD = re.compile(rf"[{_HAN_AND_KANA}][{_PUNCTUATION}]*|[^\s{_HAN_AND_KANA}]+")

_NO_BLANKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]{8}")

_UNPACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\0": lzma.decompress,
}
"""How a compressed file begins, and what reads it."""

_PACKED = {b"\x28\xb5\x2f\xfd": "unzstd", b"PK\x03\x04": "unzip", b"7z\xbc\xaf": "7z x", b"Rar!": "unrar x",
           b"\x04\x22\x4d\x18": "unlz4", b"\x1f\x9d": "uncompress"}  # fmt: skip
"""How other compressed files begin, and what unpacks them."""

_COMPRESSED = (".gz", ".bz2", ".xz")


def suffix(path: Path) -> str:
    """The end of a file's name, in lower case; of a compressed one, that of what is in it (`.jsonl` of a.jsonl.gz)."""
    return (Path(path.stem) if path.suffix.lower() in _COMPRESSED else path).suffix.lower()


def read_utf8(path: Path, key: str) -> str:
    """A file of text, without the byte order mark that some editors write; gzip, bzip2 and xz are unpacked.

    Args:
        path: the file.
        key: the setting that names it.

    Raises:
        WorkloadError: it cannot be read or unpacked, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkloadError(f"{key}: cannot read {path}: {error.strerror}") from error
    for head, unpack in _UNPACKED.items():
        if data.startswith(head):
            try:
                data = unpack(data)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
                raise WorkloadError(f"{key}: {path} is compressed and damaged: {error}") from error
    if packed := [command for head, command in _PACKED.items() if data.startswith(head)]:
        raise WorkloadError(f"{key}: {path} is compressed; unpack it: {packed[0]} {shlex.quote(str(path))}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WorkloadError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def parse_json(text: str) -> Any:
    """What a text of JSON says. Raises ValueError: it is none, or a key stands twice in one object."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg} at {line}column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not usable JSON: nested too deeply") from error


def json_lines(text: str) -> Iterator[tuple[int, Any]]:
    """The number and the value of every line that is not blank. Raises ValueError as `parse_json`, with the line."""
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON text may hold U+2028
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. Raises ValueError for a key that stands twice: which of the two was meant is not known."""
    counts = Counter(key for key, _ in pairs)
    for key, count in counts.items():
        if count > 1:
            raise ValueError(f"{key!r} stands {count} times in one object; keep one")
    return dict(pairs)


def has_words(text: str) -> bool:
    """Whether words can be told apart: Thai, Lao, Burmese and Khmer have no blanks between them, nor a rule without."""
    return _NO_BLANKS.search(text) is None


def count_words(text: str) -> int:
    """How many words a text has."""
    return sum(1 for _ in _WORD.finditer(text))


def last_words(text: str, count: int | None) -> str:
    """The last `count` words of a text, with what stands between them; None keeps all."""
    words = list(_WORD.finditer(text))
    return text if count is None or count >= len(words) else text[words[-count].start() : words[-1].end()]


def first_words(text: str, count: int | None) -> str:
    """The first `count` words of a text, with what stands between them; None keeps all."""
    words = list(_WORD.finditer(text))
    return text if count is None or count >= len(words) else text[words[0].start() : words[count - 1].end()]
