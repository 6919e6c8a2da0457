"""What do overrides compose to, in Python as on the command line?"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmbench.config.conf_files import conf_folder
from llmbench.config.hydra_errors import explain
from llmbench.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


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
