"""Are the weight files of a folder whole, and do they fit the configuration? Their headers say so in milliseconds.

A safetensors file begins with a JSON header that names every tensor, its type, its shape and its place. The safetensors
library checks that the header describes the file to its last byte. The checks here find a missing shard and a tensor
that is absent, unknown, misshapen or quantized, before gigabytes are read. Pickled weights are refused: unpickling runs
whatever code the file contains. Files may be links, because the hub's cache is made of them, but a name in an index
never leaves the folder.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from llmbench.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Types that weights may have. Integers and 8-bit floats mean nothing without the scales they were quantized with."""

_COMPUTED = ("rotary_emb.inv_freq",)
"""Ends of names that old files hold and nobody reads."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a tensor lies."""

    path: Path
    begin: int  # byte of the file
    dtype: str  # as safetensors calls it
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def find(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a checkpoint, as Transformers would choose them in a folder.

    In the hub's cache they are those that `hub.weight_files` fetches: where there is an index, what it lists, also when
    another program has fetched the same weights in one file, so that a checkpoint's digest stays what it was.

    Args:
        folder: the checkpoint.
        name: what the user calls it, for messages.

    Raises:
        CheckpointError: there are none, or only pickles, or a shard is missing.
    """
    sharded = (folder / INDEX).is_file()
    if (folder / SINGLE).is_file() and not (sharded and folder.parent.name == "snapshots"):
        return [folder / SINGLE]
    if sharded:
        return _existing(folder, shards(folder, name), name)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"checkpoint {name}: {pickles[0]} is a pickle, which can run code when it is read; convert it to {SINGLE}"
        )
    raise CheckpointError(f"checkpoint {name}: no weights in {folder}; expected {SINGLE} or {INDEX}")


def shards(folder: Path, name: str) -> list[str]:
    """Names of the files that the index of a folder lists.

    Raises:
        CheckpointError: the index is damaged, or names something outside the folder.
    """
    try:
        files = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        if not files or not all(isinstance(file, str) for file in files):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {name}: {INDEX} is damaged; fetch or write it again") from error
    for file in files:
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"checkpoint {name}: {INDEX} names {file!r}, which is no safetensors file in the checkpoint's folder"
            )
    return files


def locate(
    files: Iterable[Path],
    expected: dict[str, tuple[int, ...]],
    name: str,
    *,
    stored_name: Callable[[str], str] = lambda name: name,
    optional: frozenset[str] = frozenset(),
) -> dict[str, Stored]:
    """Find the tensors that a configuration asks for, and compare names and shapes.

    Args:
        files: of one checkpoint.
        expected: shapes by the names that Transformers uses. Empty: any tensor will do, only the files are looked at.
        name: of the checkpoint, for messages.
        stored_name: from such a name to that in the files.
        optional: names in `expected` that need not be there.

    Returns:
        Where each of `expected` lies.

    Raises:
        CheckpointError: a file is damaged, or a tensor is missing, unknown, there twice, or of another shape or type.
    """
    found: dict[str, Stored] = {}
    for path in files:
        for key, stored in header(path, name).items():
            if key in found:
                raise CheckpointError(f"checkpoint {name}: {key} is in {found[key].path.name} and in {path.name}")
            found[key] = stored
    if not expected:
        return {}
    wanted = {tensor: stored_name(tensor) for tensor in expected}
    missing = sorted(stored for tensor, stored in wanted.items() if stored not in found and tensor not in optional)
    if missing:
        raise CheckpointError(
            f"checkpoint {name}: its weights lack {missing[0]}{_more(missing)}, config.json asks for it"
        )
    unknown = sorted(key for key in found.keys() - set(wanted.values()) if not key.endswith(_COMPUTED))
    if unknown:
        raise CheckpointError(
            f"checkpoint {name}: its weights hold {unknown[0]}{_more(unknown)}, which a model of this config.json "
            "does not have"
        )
    for tensor, shape in expected.items():
        if wanted[tensor] in found:
            _require_fit(wanted[tensor], found[wanted[tensor]], shape, name)
    return {tensor: found[stored] for tensor, stored in wanted.items() if stored in found}


def header(path: Path, name: str) -> dict[str, Stored]:
    """The tensors in one safetensors file.

    Raises:
        CheckpointError: the file is damaged, contradicts itself, or is shorter than its header says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):  # refuses a header that does not describe the file to its last byte
            pass
        with path.open("rb") as file:  # the library does not say where a tensor begins
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {name}: {path.name} is truncated or damaged; fetch or write it again"
        ) from error
    entries.pop("__metadata__", None)
    return {
        key: Stored(
            path=path,
            begin=8 + length + entry["data_offsets"][0],
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
        )
        for key, entry in entries.items()
    }


def _require_fit(key: str, stored: Stored, shape: tuple[int, ...], name: str) -> None:
    if stored.shape != shape:
        raise CheckpointError(
            f"checkpoint {name}: {key} has shape {list(stored.shape)}, config.json asks for {list(shape)}"
        )
    if stored.dtype not in BYTES:
        raise CheckpointError(
            f"checkpoint {name}: {key} is stored as {stored.dtype}; weights must be {', '.join(BYTES)}: use the "
            "original ones, and hardware.quantization to quantize them here"
        )


def _existing(folder: Path, files: list[str], name: str) -> list[Path]:
    for file in files:
        if not (folder / file).is_file():
            raise CheckpointError(f"checkpoint {name}: {INDEX} names {file}, which is missing; fetch it")
    return [folder / file for file in files]


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
