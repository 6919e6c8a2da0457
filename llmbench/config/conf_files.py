"""What does `conf/` hold: its groups, their choices and keys, and how a value is written for Hydra."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmbench.system import shell

_PACKAGE = Path(__file__).parents[1]


def conf_folder() -> Path:
    """Where the YAML groups lie: beside the package in a checkout, inside it when installed from a wheel."""
    beside = _PACKAGE.parent / "conf"
    return beside if (beside / "config.yaml").is_file() else _PACKAGE / "conf"


def override(key: str, value: Any) -> str:
    """`key=value` as Hydra's grammar takes it, for a Python value: text stays text, lists and dicts are one value."""
    return f"{key}={written(value)}"


def written(value: Any) -> str:
    """A Python value as Hydra's grammar takes it."""
    if hasattr(value, "item") and not isinstance(value, str):  # a number of NumPy or torch
        value = value.item()
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, int | float):
        return str(value)
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """A text in quotes: Hydra reads backslashes before a quote as escapes, OmegaConf those before `${`, others stay."""
    plain = re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", text)
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), plain) + "'"


def typed(key: str, value: str) -> str:
    """`key=value` for a path or a URI as it is typed into a shell: in quotes where Hydra or the shell need them."""
    plain = re.fullmatch(r"(?!(null|true|false|nan|inf)$)[a-z/][\w/.:%@+-]*", value, flags=re.ASCII | re.IGNORECASE)
    return f"{key}={value}" if plain else shell.quoted(override(key, value))


@functools.cache
def groups() -> dict[str, list[tuple[str, str]]]:
    """Every configuration group with its choices and the comment that each file begins with."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(conf_folder().glob("*/**/*.yaml")):
        lines = (line for line in path.read_text().splitlines() if not line.startswith("# @package"))
        first = next(lines, "")
        group = path.parent.relative_to(conf_folder()).as_posix()
        found.setdefault(group, []).append((path.stem, first.removeprefix("# ") if first.startswith("# ") else ""))
    return found


@functools.cache
def keys() -> dict[str, list[str]]:
    """Every dotted key that may be set, with the choices (`workload=math`) under which it exists; [] for all.

    Recipes, checkpoints and ways of decoding set keys of others, and have none of their own.
    """
    found: dict[str, list[str]] = {key: [] for key in _dotted(_read(conf_folder() / "config.yaml"))}
    for group, choices in groups().items():
        if group in ("experiment", "checkpoint", "decoding"):
            continue
        for choice, _ in choices:
            for key in _dotted(_read(conf_folder() / group / f"{choice}.yaml")):
                full = f"{group}.{key}"
                found[full] = [*found.get(full, []), f"{group}={choice}"]
    return {key: choices if len(choices) < len(groups().get(key.partition(".")[0], ())) else []
            for key, choices in found.items()}  # fmt: skip


def recipe_axes(name: str) -> dict[str, str]:
    """The axes that a file of conf/experiment sweeps over, with their values; none for a file that is not there."""
    path = conf_folder() / "experiment" / f"{name}.yaml"
    tree = _read(path) if path.is_file() else {}
    params: dict[str, str] = tree.get("hydra", {}).get("sweeper", {}).get("params", {})
    return {key: str(values) for key, values in params.items()}


def takes_list(key: str) -> bool:
    """Whether a key's own value is a list, so that a list given for it is one value and no axis."""
    from typing import get_type_hints

    from llmbench.config.job import Job

    node: Any = Job
    for part in key.split("."):
        node = get_type_hints(node).get(part) if isinstance(node, type) else None
    return "list[" in str(node) or "tuple[" in str(node)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text()) or {}


def _dotted(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys of single values."""
    for key, value in tree.items():
        if not above and key in ("defaults", "hydra", "judges"):
            continue
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"
