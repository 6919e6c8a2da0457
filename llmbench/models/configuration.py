"""What does a checkpoint say about itself? Its configuration, its special tokens, and a digest of its files.

Read and checked before any weight is; every complaint is one line that names the checkpoint. A configuration is built
from Transformers' own classes alone: `auto_map`, which points to code that came with the weights, is dropped.
`llmbench.checkpoints` is the caller.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.errors import CheckpointError


def read(folder: Path, name: str) -> Any:
    """Transformers' configuration object of a folder.

    Raises:
        CheckpointError: config.json is missing or wrong, or describes something that is not built in.
    """
    from transformers import CONFIG_MAPPING
    from transformers import __version__ as version
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"checkpoint {name}: no config.json in {folder}; give the folder that holds it")
    values = _json(folder / "config.json", name)
    kind = values.get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"checkpoint {name}: model_type {kind!r} in config.json is no language model that transformers {version} "
            "contains; code that comes with a checkpoint is never run"
        )
    if "quantization_config" in values:
        raise CheckpointError(f"checkpoint {name}: quantized weights are not supported; use the original ones")
    values.pop("auto_map", None)
    try:
        return CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:  # each version of Transformers validates in its own way
        raise CheckpointError(f"checkpoint {name}: config.json is wrong: {one_line(error)}") from error


def read_gguf(folder: Path, file: str, name: str) -> Any:
    """Transformers' configuration object of a GGUF file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, gguf_file=file, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the parser raises whatever a damaged file leads it to
        raise CheckpointError(f"checkpoint {name}: {file} cannot be read: {one_line(error)}") from error


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Tokens that mean something to a decoder."""

    stop: tuple[int, ...]  # that end an output; may be empty
    pad: int
    mask: int | None  # None for models that know none
    all: frozenset[int]  # these and the beginning of a text


def special_ids(config: Any, folder: Path, name: str) -> SpecialIds:
    """Find stop, padding and mask tokens, and check that they can work together.

    Stop tokens are those of config.json and generation_config.json, in that order. Without a padding token the first
    stop token pads: padding is never looked at.

    Raises:
        CheckpointError: a bidirectional model without a mask token, an id outside the vocabulary, one id in two roles.
    """
    generation = _json(folder / "generation_config.json", name)
    named = [getattr(config, "eos_token_id", None), generation.get("eos_token_id")]
    flat = [i for value in named if value is not None for i in (value if isinstance(value, list) else [value])]
    stop = tuple(dict.fromkeys(flat))
    mask = getattr(config, "mask_token_id", None)
    pads = (getattr(config, "pad_token_id", None), generation.get("pad_token_id"), *stop, 0)
    pad = next(i for i in pads if i is not None and i != -1)  # old Llama configurations say -1 for "none"
    if mask is None and getattr(config, "is_causal", True) is False:
        raise CheckpointError(f"checkpoint {name}: is_causal is false and mask_token_id missing; set it in config.json")
    vocabulary = field(config, "vocab_size", name)
    for key, value in (("pad_token_id", pad), ("mask_token_id", mask), *(("eos_token_id", i) for i in stop)):
        if value is not None and not (isinstance(value, int) and 0 <= value < vocabulary):
            raise CheckpointError(f"checkpoint {name}: {key} {value} is outside its vocabulary of {vocabulary}")
    if mask is not None and mask in (pad, *stop):
        role = "pad_token_id" if mask == pad else "eos_token_id"
        raise CheckpointError(f"checkpoint {name}: mask_token_id {mask} is its {role} too; they must differ")
    begin = (getattr(config, "bos_token_id", None), generation.get("bos_token_id"))
    named_ids = frozenset(i for i in (*stop, pad, mask, *begin) if isinstance(i, int))
    return SpecialIds(stop=stop, pad=pad, mask=mask, all=named_ids)


def field(config: Any, key: str, name: str) -> int:
    """A whole number that the configuration must state. Raises CheckpointError."""
    value = getattr(config, key, None)
    if not isinstance(value, int):
        raise CheckpointError(f"checkpoint {name}: config.json has no {key}; add it")
    return value


def _json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object, or {} where the file does not exist."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"checkpoint {name}: {path.name} is not JSON: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"checkpoint {name}: {path.name} holds no JSON object")
    return values


def digest(files: Iterable[Path]) -> str:
    """sha256 over names and contents of files, 12 hexadecimal digits; neither their order nor their folder matters."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:12]


def one_line(error: Exception) -> str:
    """What a foreign exception says, on one line and short enough to stand in one of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."
