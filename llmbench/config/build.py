"""From Hydra's composed tree to a checked `Job`; whatever is wrong is one line that names the key as it is written."""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from llmbench.config.decoders import DECODERS, SERVERS, shared_keys
from llmbench.config.hydra_errors import renamed, renamed_choice
from llmbench.config.job import HUB_DATASET, PLANNED, Job
from llmbench.config.options import options
from llmbench.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def build_job(tree: "DictConfig") -> Job:
    """Build the checked configuration of one job.

    Options of decoders stand at the top of the tree, so that one sweep can tell them to every model. The chosen decoder
    gets those that it has; the others are checked and change nothing.

    Raises:
        ConfigError: one line that names the key, the value and what is expected.
    """
    from omegaconf import OmegaConf

    values = _values(tree)
    shared = {key: values.pop(key) for key in (*shared_keys(), *SERVERS) if key in values}
    pair = values.pop("pair", None) or {}  # the model and the judge have taken from it what they use
    if shared.get("draft") == "llada" and shared.get("draft_checkpoint") is None:
        shared["draft_checkpoint"] = pair.get("llada")
    for key in values.keys() & {item.name for item in dataclasses.fields(Job) if PLANNED in item.metadata}:
        raise ConfigError(f"{key}: no such key; see --help")
    _name_judge(values)
    decoder = _decoder(values)
    kind = DECODERS.get(str(decoder.get("kind")))
    read = _given_to(kind, shared) if kind else {}
    for name in sorted(read.keys() & decoder.keys()):
        raise ConfigError(
            f"model.decoder.{name}: write {_key_of(kind, name)}={decoder[name]}, which every model may be told"
        )
    _check_own(kind, shared)
    try:
        job = _JOB.validate_python(values | {"model": values["model"] | {"decoder": decoder | read}})
    except ValidationError as error:
        raw = OmegaConf.to_container(tree, resolve=False)
        raise ConfigError("; ".join(dict.fromkeys(_explain(item, raw, kind) for item in error.errors()))) from error
    _check_unread(kind, shared)
    return job


def _decoder(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the chosen decoder.

    Raises:
        ConfigError: no model, or no decoder, was chosen.
    """
    model = values.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    if not isinstance(decoder, dict):
        raise ConfigError("model: choose one, as model=llama (see --help model)")
    return decoder


def unread_options(tree: "DictConfig", job: Job) -> set[str]:
    """The keys of decoders that were turned and that this job does not read.

    Args:
        tree: what it was built from.
        job: the job.
    """
    usual = shared_keys()
    turned = {key for key, value in usual.items() if tree.get(key, value) != value}
    for key, (settings, _) in SERVERS.items():
        if key in tree and settings(**_plain(tree[key])) != settings():
            turned.add(key)
    return turned - keys_of(type(job.model.decoder))


def keys_of(kind: type) -> set[str]:
    """The keys at the top of the configuration that set an option of one way of generating text."""
    own = {key for about in options(kind).values() for key in (about.key, about.own_key) if key is not None}
    return own | {key for key, (_, decoder) in SERVERS.items() if decoder is kind}


def _plain(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)


def _values(tree: "DictConfig") -> dict[str, Any]:
    """The tree as plain data, interpolations resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        values: dict[str, Any] = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: needs a value{_wanted(tree, error.full_key)}") from error
    except OmegaConfBaseException as error:
        if tree.get("weights") not in ("real", "dummy"):  # conf/pair looks its pair up by it
            raise ConfigError(f"weights: input should be 'real' or 'dummy' (got {tree.get('weights')!r})") from error
        raise ConfigError(str(error).splitlines()[0]) from error
    return values


def _given_to(kind: type, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one way of generating text among those of all, by its field's names."""
    read = {name: shared[about.key] for name, about in options(kind).items() if about.key and about.key in shared}
    for name, about in options(kind).items():
        if about.own_key and shared.get(about.own_key) is not None:
            read[name] = shared[about.own_key]
    for key, (_, decoder) in SERVERS.items():
        if kind is decoder and isinstance(shared.get(key), dict):
            read |= shared[key]
    return read


def _key_of(kind: type | None, name: str) -> str:
    """The key that sets an option of a decoder."""
    about = options(kind).get(name) if kind else None
    if about is not None and about.key is not None:
        return about.key
    for key, (settings, decoder) in SERVERS.items():
        if kind is decoder and name in {item.name for item in dataclasses.fields(settings)}:
            return f"{key}.{name}"
    return f"model.decoder.{name}"


def _check_unread(kind: type | None, shared: Mapping[str, Any]) -> None:
    """Refuse bad values of options that the chosen decoder does not read."""
    for key, value in shared.items():
        if key in SERVERS:
            _check(TypeAdapter(SERVERS[key][0]), value, lambda name, key=key: f"{key}.{name}" if name else key)
        else:
            _check(_checker(key), value, lambda name, key=key: key)


def _check_own(kind: type | None, shared: Mapping[str, Any]) -> None:
    """Refuse bad values of keys that one way of generating has to itself, before they take another key's place."""
    keys = [about.own_key for about in options(kind).values() if about.own_key] if kind else []
    for key in filter(shared.__contains__, keys):
        _check(_checker(key), shared[key], lambda name, key=key: key)


def _check(adapter: "TypeAdapter[Any]", value: Any, key_of: Any) -> None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        item = error.errors()[0]
        name = ".".join(str(part) for part in item["loc"] if isinstance(part, str) and part not in _UNION_BRANCHES)
        raise ConfigError(_message(item, key_of(name))) from error


@functools.cache
def _checker(key: str) -> "TypeAdapter[Any]":
    """What an option may be, under any of the decoders that have it."""
    for kind in DECODERS.values():
        for name, about in options(kind).items():
            hint = get_type_hints(kind, include_extras=True)[name]
            if key in (about.key, about.own_key):
                return TypeAdapter(hint if key == about.key else hint | None)
    raise KeyError(key)


_UNION_BRANCHES = ("int", "float", "none")


def _name_judge(values: dict[str, Any]) -> None:
    """Put the places of judges for their names; the names themselves build nothing."""
    names = values.pop("judges", None) or {}
    if not isinstance(names, dict):
        raise ConfigError(f"judges: give names and places, as judges.mine=/path/to/folder (got {names!r})")
    match values:
        case {"metric": {"perplexity": dict(perplexity)}}:
            for key in ("judge", "second_judge"):
                if isinstance(name := perplexity.get(key), str):
                    perplexity[key] = _located(name, names, f"metric.perplexity.{key}")


def _located(name: str, names: dict[str, Any], key: str) -> Any:
    """The place that a judge's name stands for; a place stands for itself."""
    close = difflib.get_close_matches(name, names, n=1) if name.isidentifier() else []
    if name not in names and close:
        raise ConfigError(
            f"{key}: no judge is called {name}; did you mean {close[0]}? "
            f"(names: {', '.join(names)}; a folder: ./{name})"
        )
    return names.get(name, name)


def _wanted(tree: "DictConfig", key: object) -> str:
    """Of what kind a missing value is, where it is known."""
    if key != "workload.source":
        return ""
    if tree.workload.get("prompt_field") is None:
        return ", a JSONL file: workload.source=/path/to/prompts.jsonl"
    return (
        f", a data set: workload.source={HUB_DATASET}ORG/NAME, or a Parquet, JSON, CSV or TSV file, or a folder of them"
    )


_JOB: TypeAdapter[Job] = TypeAdapter(Job)


def _explain(item: Any, raw: Any, kind: type | None) -> str:
    """One validation error as `key: what is wrong (got value)`."""
    location = [str(part) for place, part in enumerate(item["loc"]) if place != 2 or part not in DECODERS]
    if location[:2] == ["model", "decoder"] and len(location) > 2:
        return _message(item, _key_of(kind, location[2]) if len(location) == 3 else ".".join(location))
    return _message(item, _written_key(location, raw))


def _message(item: Any, key: str) -> str:
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if item["type"] == "unexpected_keyword_argument":
        return renamed(key) or f"{key}: no such key; see --help"
    if item["type"] == "missing":
        return f"{key}: missing"
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return renamed_choice(key, item["input"]) or f"{key}: {message} (got {item['input']!r})"


def _written_key(location: list[str], raw: Any) -> str:
    """The key to change: follows `${key}`, so that a bad `batch` is called `batch`, not `workload.prompts`."""
    node = raw
    for part in location:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, str) and node.startswith("${") and node.endswith("}"):
        return node[2:-1]
    return ".".join(location)
