"""Where do the YAML groups lie, and what do they compose to?"""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def conf_folder() -> Path:
    """Where the YAML groups lie: beside the package in a checkout, inside it when installed from a wheel."""
    beside = _PACKAGE.parent / "conf"
    return beside if (beside / "config.yaml").is_file() else _PACKAGE / "conf"
