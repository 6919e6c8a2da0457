"""What do overrides compose to, in Python as on the command line?"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from llmbench.config.conf_files import conf_folder
from llmbench.config.hydra_errors import explain
from llmbench.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed_once(compose: "Callable[[list[str]], DictConfig]") -> "Callable[[Sequence[str]], DictConfig]":
    """The same function, faster for the cells of a grid: what differs in plain values alone is composed once.

    Args:
        compose: from overrides to a configuration. It is called for every new choice of groups, and for a key that is
            not there, which it refuses.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from llmbench.config.conf_files import groups

    parser = OverridesParser.create()
    made: dict[tuple[str, ...], DictConfig] = {}

    def composed(overrides: Sequence[str]) -> "DictConfig":
        plain = {key: text for text in overrides if (key := text.partition("=")[0]).replace(".", "_").isidentifier()}
        values = {key: text for key, text in plain.items() if key not in groups() and not key.startswith("hydra")}
        others = tuple(text for text in overrides if text not in values.values())
        if others not in made:
            made[others] = compose(list(others))
        tree = copy.deepcopy(made[others])
        try:
            for key, text in values.items():
                OmegaConf.update(tree, key, parser.parse_override(text).value(), merge=True)
        except OmegaConfBaseException:
            return compose(list(overrides))
        return tree

    return composed


@contextlib.contextmanager
def composing() -> "Iterator[Callable[..., DictConfig]]":
    """Hand out a function from overrides (`["steps=8"]`) to a configuration, as the command line composes it.

    Raises:
        ConfigError: an override is wrong; one line that says what to write.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import get_gh_backup, restore_gh_from_backup

    def composed(overrides: list[str], **more: bool) -> "DictConfig":
        try:
            made: DictConfig = compose("config", overrides=overrides, **more)
        except Exception as error:
            line = explain(error, overrides)
            if line is None:
                raise
            raise ConfigError(line) from error
        return made

    outer = get_gh_backup()  # of a program that uses Hydra itself
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            yield composed
    finally:
        restore_gh_from_backup(outer)
