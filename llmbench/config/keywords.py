"""Settings as keyword arguments of Python: which overrides of the command line are they?"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmbench.config.conf_files import groups, keys, takes_list, written
from llmbench.errors import ConfigError


def overrides(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, list[str]]]:
    """Every key with its values, as Hydra's grammar takes them.

    Args:
        settings: keyword arguments; a list is an axis, a dict holds the keys of a group.
        above: what stands before every key.

    Raises:
        ConfigError: an axis without values, or no choice of a group.
    """
    for name, value in settings.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and key not in (*keys(), "judges"):
            yield from overrides(value, f"{key}.")
        elif isinstance(value, Mapping):  # its keys are the user's own: server.extra, judges
            yield from ((f"++{key}.{own}", [written(item)]) for own, item in value.items())
        elif (axis := _axis(key, value)) is not None:
            if not axis:
                raise ConfigError(f"{key}: an axis needs at least one value")
            yield key, [written(item) for item in axis]
        elif value is None and key in groups():
            raise ConfigError(f"{key}: choose one of {', '.join(name for name, _ in groups()[key])}")
        else:
            yield key, [written(value)]


def _axis(key: str, value: Any) -> list[Any] | None:
    """The values of a sweep's axis; None for one value."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        return None
    values = list(value)
    one = takes_list(key) and not any(isinstance(item, list | tuple) for item in values)
    return None if one else values


def recipe(settings: Mapping[str, Any]) -> str:
    """The file of conf/experiment that is asked for; "" for none. Raises ConfigError: it is no name."""
    named = settings.get("experiment")
    if named is not None and not isinstance(named, str):
        raise ConfigError("experiment: one recipe at a time; a recipe brings its own sweep")
    return named or ""
