"""How is a checkpoint read that Transformers has no code for, but whose blocks are those of a model it has? As data.

A *layout* is a YAML file that says which of Transformers' fields come from which keys of config.json, what config.json
must say for the blocks to be the same, and what the tensors are called. `bundled/layouts/` holds one per model_type,
chosen by what config.json says; `model.layout=/path.yaml` names another. So LLaDA, Dream and iLLaDA are three files
and no branch, and nothing that came with a checkpoint is run. `docs/checkpoints.md` shows how to write one.

A layout also sets what llmbench reads: `mask_token_id`, `rope_full_precision`, and `modes`, the ways in which the model
can be decoded (`config.modes`).
"""

import math
import re
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from llmbench.errors import CheckpointError, EditableCheckpointError

FOLDER = Path(__file__).parents[1] / "bundled" / "layouts"

Value = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Layout:
    """One file; every part but the first two may be left out."""

    blocks: str  # the model_type of Transformers whose modules compute it
    fields: dict[str, str | list[str]]  # its field: a key in config.json, or a list of which the first set one counts
    path: Path  # of the file
    defaults: dict[str, Value] = field(default_factory=dict)  # of fields that config.json may leave out
    constants: dict[str, Value] = field(default_factory=dict)  # fields that config.json does not decide
    modes: dict[str, Any] = field(default_factory=dict)  # by family: attention, logit_shift, ... (`config.modes.Mode`)
    at_most: dict[str, int] = field(default_factory=dict)  # a field is this where config.json says more
    stop_ids: list[int] = field(default_factory=list)  # end an output beside eos_token_id
    require: dict[str, Value | list[Value]] = field(default_factory=dict)  # a key: the value or values it must have
    if_set: dict[str, Value | list[Value]] = field(default_factory=dict)  # the same, but the key may be absent
    tensors: dict[str, str] = field(default_factory=dict)  # Transformers' name: the files' name, with {i} for the layer
    tokenizer: str | None = None  # the model_type whose tokenizer class reads the tokenizer; None: as its files say

    def stored_name(self, name: str) -> str:
        """What the weight files call a tensor."""
        if not self.tensors:
            return name
        layer = re.search(r"\.(\d+)\.", name)
        if layer is None:
            return self.tensors.get(name, name)
        template = f"{name[: layer.start(1)]}{{i}}{name[layer.end(1) :]}"
        return self.tensors.get(template, template).replace("{i}", layer[1])


def find(model_type: object, own: str | None) -> Layout | None:
    """The layout of a model type: the user's own, the bundled one, or None where there is none.

    Raises:
        CheckpointError: the file is not a layout.
    """
    if own is not None:
        return read(Path(own).expanduser().absolute())
    bundled = {path.stem: path for path in FOLDER.glob("*.yaml")}  # model_type is foreign: it never becomes a path
    path = bundled.get(str(model_type).lower())
    return None if path is None else read(path)


def read(path: Path) -> Layout:
    """A layout from its file.

    Raises:
        CheckpointError: it cannot be read, or says something that a layout does not have.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Once)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise CheckpointError(f"model.layout {path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or "path" in values:
        raise CheckpointError(f"model.layout {path}: no layout; llmbench/bundled/layouts/llada.yaml shows one")
    try:
        return Layout(**{str(key): value for key, value in values.items()}, path=path)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:2])
        raise CheckpointError(f"model.layout {path}: {where}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


class _Once(yaml.SafeLoader):
    """YAML in which no key may stand twice in one mapping: the last one would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping. Raises ConstructorError."""
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def translate(layout: Layout, values: dict[str, Any], name: str) -> dict[str, Any]:
    """What Transformers' own configuration of the blocks would say, from a foreign config.json.

    Args:
        layout: of this model type.
        values: config.json.
        name: of the checkpoint, for messages.

    Raises:
        CheckpointError: config.json lacks a key, or describes a model that the blocks do not compute.
    """
    for key, allowed in {**layout.require, **layout.if_set}.items():
        present, found = _looked_up(values, key)
        if not present and key not in layout.require:
            continue
        options = allowed if isinstance(allowed, list) else [allowed]
        if not any(type(found) is type(option) and found == option for option in options):
            shown = repr(found) if present else "missing"
            raise CheckpointError(
                f"checkpoint {name}: {key} is {shown} in config.json; the blocks of {layout.path.stem} that llmbench "
                f"computes have {' or '.join(map(repr, options))}"
            )
    native: dict[str, Any] = {"model_type": layout.blocks, **layout.constants}
    if layout.modes:
        native["modes"] = layout.modes
    for own, keys in layout.fields.items():
        candidates = [keys] if isinstance(keys, str) else keys
        found = next((value for key in candidates if (value := _stated(values, key)) is not None), None)
        if found is None and own not in layout.defaults:
            raise EditableCheckpointError(f"checkpoint {name}: config.json has no {candidates[0]}; add it")
        if own in layout.at_most and isinstance(found, int):
            found = min(found, layout.at_most[own])
        native[own] = found
    size = native.get("vocab_size")
    for own, default in layout.defaults.items():
        if native.get(own) is None and not (own in _OPTIONAL_IDS and _outside(default, size)):
            native[own] = default
    stated = native.get("eos_token_id")
    stop = stated if isinstance(stated, list) else [] if stated is None else [stated]
    more = [i for i in layout.stop_ids if not _outside(i, size) and i not in stop]
    return native | ({"eos_token_id": [*stop, *more]} if more else {})


def _stated(values: dict[str, Any], key: str) -> Any:
    """What config.json says under a key, or the product of whole numbers under `one * another`; None: nothing."""
    factors = [_looked_up(values, factor)[1] for factor in key.split(" * ")]
    if len(factors) == 1:
        return factors[0]
    return math.prod(factors) if all(type(factor) is int for factor in factors) else None


def _looked_up(values: Any, key: str) -> tuple[bool, Any]:
    """Whether config.json has a key, and what it says there, else None; `outer.inner` is a key of an object in it."""
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False, None
        values = values[part]
    return True, values


def require_known(layout: Layout, blocks: Any, name: str) -> None:
    """Refuse a field that the blocks' configuration does not have, because Transformers would ignore it.

    Args:
        layout: of this checkpoint.
        blocks: the configuration of its blocks, as Transformers fills it in.
        name: of the checkpoint, for messages.

    Raises:
        CheckpointError: naming the field.
    """
    for field_name in (*layout.fields, *layout.constants, *layout.defaults):
        if field_name not in _OWN_FIELDS and not hasattr(blocks, field_name):
            raise CheckpointError(
                f"checkpoint {name}: {layout.path.name} sets {field_name}, which {blocks.model_type} does not have; "
                "docs/checkpoints.md shows the names"
            )


_OWN_FIELDS = ("is_causal", "mask_token_id", "logit_shift", "rope_full_precision", "rope_theta", "modes")
"""Those that llmbench reads, and one that Transformers moves into `rope_parameters`."""

_OPTIONAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _outside(token: Value, vocabulary: object) -> bool:
    """Whether a token of a layout is outside the vocabulary of this model."""
    return isinstance(token, int) and isinstance(vocabulary, int) and token >= vocabulary
