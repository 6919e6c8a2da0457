"""Are the weight files of a folder whole, and do they fit the configuration? Their headers say it in milliseconds.

A safetensors file begins with the length of a JSON header that names every tensor, its shape and its place. Reading
that much finds a missing shard, a broken download, and a tensor that is absent or misshapen, before gigabytes are
read. Pickled weights are refused: unpickling runs whatever code the file contains. `llmbench.checkpoints` is the
caller.
"""

import json
import struct
from pathlib import Path

from llmbench.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a checkpoint, as Transformers would choose them.

    Args:
        folder: the checkpoint.
        name: what the user calls it, for messages.

    Raises:
        CheckpointError: there are none, or only pickles, or a shard is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return _shards(folder, name)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"checkpoint {name}: {pickles[0]} is a pickle, which can run code when it is read; convert it to {SINGLE}"
        )
    raise CheckpointError(f"checkpoint {name}: no weights in {folder}; expected {SINGLE} or {INDEX}")


def check(files: list[Path], expected: dict[str, tuple[int, ...]], name: str) -> None:
    """Compare the tensors in `files` with the names and shapes that the configuration asks for.

    Raises:
        CheckpointError: a file is damaged, or a tensor is missing or has another shape.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        found |= header(path, name)
    missing = sorted(expected.keys() - found.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"checkpoint {name}: its weights lack {missing[0]}{more}, config.json asks for it")
    for tensor, shape in expected.items():
        if found[tensor] != shape:
            raise CheckpointError(
                f"checkpoint {name}: {tensor} has shape {list(found[tensor])}, config.json asks for {list(shape)}"
            )


def header(path: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in one safetensors file.

    Raises:
        CheckpointError: the file is damaged or shorter than its header says.
    """
    broken = CheckpointError(f"checkpoint {name}: {path.name} is truncated or damaged; fetch or write it again")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise broken
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {key: tuple(entry["shape"]) for key, entry in entries.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken from error
    if size != 8 + length + end:
        raise broken
    return shapes


def _shards(folder: Path, name: str) -> list[Path]:
    try:
        files = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {name}: {INDEX} is damaged; fetch or write it again") from error
    for file in files:
        if not (folder / file).is_file():
            raise CheckpointError(f"checkpoint {name}: {INDEX} names {file}, which is missing; fetch it")
    return [folder / file for file in files]
