"""Composes the real `conf/`, each choice of groups once in a process: Hydra takes a tenth of a second for it."""

from typing import Any

from hydra import compose, initialize_config_dir

from llmbench.config.compose import composed_once
from llmbench.config.conf_files import conf_folder


def _compose(overrides: list[str]) -> Any:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=overrides)


_COMPOSED = composed_once(_compose)


def composed(*overrides: str) -> Any:
    """The tree that these overrides make, as a sweep composes the cells of its grid."""
    return _COMPOSED(overrides)
