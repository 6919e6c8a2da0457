"""What does a checkpoint say about itself? Its configuration, its special tokens, and a digest of its files.

Everything is checked before any weight is read; an error is one line that names the checkpoint. A configuration is
built from Transformers' own classes alone: `auto_map`, which points to code that came with the weights, is dropped.
"""

import json
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.errors import CheckpointError, EditableCheckpointError, LlmbenchError, first_cause, one_line
from llmbench.system import digests
from llmbench.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from llmbench.checkpoints.layouts import Layout


def read(folder: Path, name: str, own_layout: str | None = None) -> "tuple[Any, Layout | None]":
    """Transformers' configuration object of a folder, and the layout through which it was read.

    Args:
        folder: the checkpoint.
        name: what the user calls it, for messages.
        own_layout: a layout file that the user names; None looks among the bundled ones.

    Raises:
        CheckpointError: config.json is missing or wrong, or describes something that is neither built in nor laid out.
    """
    from transformers import __version__ as version

    from llmbench.checkpoints import layouts
    from llmbench.models import llama

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"checkpoint {name}: no config.json in {folder}; give the folder that holds it")
    values = {key: value for key, value in _json(folder / "config.json", name).items() if key not in _UNREAD}
    if values.get("quantization_config") is not None:
        raise CheckpointError(
            f"checkpoint {name}: its weights are quantized already (quantization_config); use the original ones, and "
            "hardware.quantization to quantize them here"
        )
    layout = layouts.find(values.get("model_type"), own_layout)
    if layout is not None:
        values = layouts.translate(layout, values, name)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in _language_models():
        raise CheckpointError(
            f"checkpoint {name}: model_type {kind!r} in config.json is no language model that transformers {version} "
            "contains, and there is no layout for it (docs/checkpoints.md); code that comes with a checkpoint is "
            "never run"
        )
    _require_numbers(values, name)
    if kind in llama.BLOCKS:
        _require_no_guess(values, name)
    built_in = _class(kind)
    try:
        with quiet_transformers():  # its warnings are about what the checks here and in `special_ids` decide
            config = built_in.from_dict(values)
    except ImportError:  # not a fault of the file
        raise
    except Exception as error:  # each version of Transformers validates in its own way
        raise CheckpointError(f"checkpoint {name}: config.json is wrong: {one_line(error)}") from error
    if layout is not None:
        layouts.require_known(layout, built_in(), name)
    _read_modes(config, name)
    return config, layout


def _read_modes(config: Any, name: str) -> None:
    """Check the modes of a configuration, and say in it what the modules themselves read of them."""
    from llmbench.config import modes

    try:
        found = modes.of_config(config)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {name}: {error}") from error
    if getattr(config, "modes", None) is not None:
        config.is_causal = any(mode.causal_prompt for mode in found.values())


def _language_models() -> Container[str]:
    """Every `model_type` that Transformers has a language model of. Raises LlmbenchError: it cannot be imported."""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError as error:
        raise import_failure("model", error) from error
    kinds: Container[str] = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return kinds


def _class(kind: str) -> Any:
    """Transformers' configuration class of a kind, which it imports now.

    Raises:
        LlmbenchError: Transformers cannot import it, whatever config.json says.
    """
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[kind]
    except Exception as error:  # it wraps what an import raises
        raise import_failure(kind, error) from error


def import_failure(kind: str, error: Exception) -> LlmbenchError:
    """What to raise where Transformers cannot import its classes of a kind: no fault of the checkpoint."""
    from importlib.metadata import version

    return LlmbenchError(
        f"transformers {version('transformers')} cannot import its own {kind} classes beside torch {version('torch')} "
        f"({one_line(first_cause(error))}): type pip install --upgrade torch transformers"
    )


_UNREAD = ("auto_map", "torch_dtype", "dtype", "attn_implementation", "_attn_implementation", "id2label", "label2id",
           "return_dict", "use_return_dict", "output_attentions", "output_hidden_states")  # fmt: skip
"""Keys of config.json that are not read: they name code, settings of llmbench, or outputs that nobody asks for."""

_SIZES = {"vocab_size": 2**31, "hidden_size": 2**31, "intermediate_size": 2**31, "num_hidden_layers": 1000,
          "num_attention_heads": 2**16, "num_key_value_heads": 2**16, "head_dim": 2**16,
          "max_position_embeddings": 2**31, "num_labels": 2**20}  # fmt: skip
_POSITIVE = ("rms_norm_eps", "rope_theta")


def _require_numbers(values: dict[str, Any], name: str) -> None:
    """Refuse sizes that are too large to build a model of, and numbers that Transformers would divide by."""
    for key, most in _SIZES.items():
        value = values.get(key)
        if value is not None and not isinstance(value, list) and not (type(value) is int and 0 < value <= most):
            raise CheckpointError(f"checkpoint {name}: {key} is {value!r} in config.json; it must be in 1..{most}")
    for key in _POSITIVE:
        value = values.get(key)
        if value is not None and not (type(value) in (int, float) and 0 < value < float("inf")):
            raise CheckpointError(f"checkpoint {name}: {key} is {value!r} in config.json; it must be a positive number")


def _require_no_guess(values: dict[str, Any], name: str) -> None:
    """Refuse missing or misspelt values that Transformers would replace by a default of another model."""
    causal = values.get("is_causal")
    if causal is not None and type(causal) is not bool:
        raise CheckpointError(f"checkpoint {name}: is_causal is {causal!r} in config.json; it must be true or false")
    if values.get("rms_norm_eps") is None:
        raise EditableCheckpointError(f"checkpoint {name}: config.json has no rms_norm_eps; add it")
    ropes = [value for key in ("rope_parameters", "rope_scaling") if isinstance(value := values.get(key), dict)]
    ropes += [part for rope in ropes for part in rope.values() if isinstance(part, dict)]  # one per kind of layer
    if all(part.get("rope_theta") is None for part in (values, *ropes)) and not _older_than_theta(values):
        raise EditableCheckpointError(f"checkpoint {name}: config.json has no rope_theta; add it")
    if values["model_type"] == "ministral3":  # its forward multiplies with them, and knows no default
        for key in ("llama_4_scaling_beta", "original_max_position_embeddings"):
            if all(rope.get(key) is None for rope in ropes):
                raise EditableCheckpointError(f"checkpoint {name}: config.json has no {key} in rope_parameters; add it")
    for rope in ropes:
        for key, value in rope.items():
            numbers = value if isinstance(value, list) else [value]
            if any(type(number) in (int, float) and not 0 < number < float("inf") for number in numbers):
                raise CheckpointError(
                    f"checkpoint {name}: {key} of its rope is {value!r} in config.json; it must be a positive number"
                )


def _older_than_theta(values: dict[str, Any]) -> bool:
    """Whether it is LLaMA-1's or LLaMA-2's config.json: those do not say rope_theta, which was always 10000.

    `LlamaConfig` documents that number and fills it in. Models of that time with a longer context say
    `rope_scaling: {"type": "linear", "factor": 4.0}`, or dynamic. A bidirectional model, or a file that says something
    else of its rotation, is of another origin.
    """
    causal = values["model_type"] == "llama" and values.get("is_causal") is not False
    said = {key: value for key, value in values.items() if ("rope" in key or "theta" in key) and value is not None}
    scaling = said.pop("rope_scaling", {"type": "linear", "factor": 1})
    old = isinstance(scaling, dict) and set(scaling) == {"type", "factor"} and scaling["type"] in ("linear", "dynamic")
    return causal and old and not said


def context(config: Any, name: str) -> int:
    """Most tokens of a sequence: `max_position_embeddings`, or a sliding window that is narrower.

    Inside the window sliding attention is full attention, and that is what the engines compute.

    Raises:
        CheckpointError: config.json does not say it.
    """
    longest = field(config, "max_position_embeddings", name)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = isinstance(window, int) and (kinds is None or "sliding_attention" in kinds)
    return min(longest, window) if slides and isinstance(window, int) else longest


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
        CheckpointError: a diffusion mode without a mask token, an id outside the vocabulary, one id in two roles.
    """
    from llmbench.config import modes

    generation = _json(folder / "generation_config.json", name)
    named = [getattr(config, "eos_token_id", None), generation.get("eos_token_id")]
    flat = [i for value in named if value is not None for i in (value if isinstance(value, list) else [value])]
    if strange := [i for i in flat if type(i) is not int]:
        raise EditableCheckpointError(
            f"checkpoint {name}: eos_token_id {strange[0]!r} is no token's number; set one, or a list"
        )
    stop = tuple(dict.fromkeys(flat))
    mask = getattr(config, "mask_token_id", None)
    pads = (getattr(config, "pad_token_id", None), generation.get("pad_token_id"), *stop, 0)
    pad = next(i for i in pads if i is not None and i != -1)  # old Llama configurations say -1 for "none"
    if mask is None and "diffusion" in modes.of_config(config):
        raise EditableCheckpointError(
            f"checkpoint {name}: it has a diffusion mode and no mask_token_id; set it in config.json"
        )
    vocabulary = field(config, "vocab_size", name)
    for key, value in (("pad_token_id", pad), ("mask_token_id", mask), *(("eos_token_id", i) for i in stop)):
        if value is not None and not (type(value) is int and 0 <= value < vocabulary):
            raise EditableCheckpointError(
                f"checkpoint {name}: {key} {value!r} is outside its vocabulary of {vocabulary}"
            )
    if mask is not None and mask in (pad, *stop):
        role = "pad_token_id" if mask == pad else "eos_token_id"
        raise EditableCheckpointError(f"checkpoint {name}: mask_token_id {mask} is its {role} too; they must differ")
    begin = (getattr(config, "bos_token_id", None), generation.get("bos_token_id"))
    named_ids = frozenset(i for i in (*stop, pad, mask, *begin) if isinstance(i, int))
    return SpecialIds(stop=stop, pad=pad, mask=mask, all=named_ids)


def field(config: Any, key: str, name: str) -> int:
    """A whole number that the configuration must state. Raises CheckpointError."""
    value = getattr(config, key, None)
    if not isinstance(value, int):
        raise EditableCheckpointError(f"checkpoint {name}: config.json has no {key}; add it")
    return value


def _json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object, or {} where the file does not exist."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {name}: {path.name} is not JSON: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"checkpoint {name}: {path.name} holds no JSON object")
    return values


def digest(files: Iterable[Path]) -> str:
    """sha256 over names and contents of files, 12 hexadecimal digits; neither their order nor their folder matters.

    Files are read at the same time: hashing one is slower than a disk.

    Raises:
        CheckpointError: a file of the hub's cache is not what the hub said it was.
    """
    from concurrent.futures import ThreadPoolExecutor

    ordered = sorted(files, key=lambda path: path.name)
    with ThreadPoolExecutor(max_workers=4) as pool:
        contents = list(pool.map(_sha256, ordered))
    return digests.digest("".join(f"{path.name}\0{each}\n" for path, each in zip(ordered, contents, strict=True)))


def _sha256(path: Path) -> str:
    """sha256 of a file; the hub's cache names large files after it, so damage shows."""
    contents = digests.sha256(path)
    target = path.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name) and target.name != contents:
        raise CheckpointError(f"{path.name} was damaged after its download; delete {target} and run again")
    return contents


_SHA256 = re.compile("[0-9a-f]{64}")
