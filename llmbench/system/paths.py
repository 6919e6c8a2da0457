"""Where do results go? One rule for Records, the MLflow store, taking over, reports and notebooks.

Imports nothing: Hydra asks at every start, through `${results:}` in conf/config.yaml (`hydra_plugins`).
"""

import os
from pathlib import Path

FOLDER = "multirun"
"""Folder of sweeps and single jobs, of the SQLite store and its artifacts."""

VARIABLE = "LLMBENCH_RESULTS"
"""Environment variable that names another folder for all of it."""

ELSEWHERE = f"set {VARIABLE} to a folder that can be written, for Records and store together"
"""What helps where nothing can be written."""


def results() -> Path:
    """The folder of results, absolute; it need not exist.

    LLMBENCH_RESULTS, else the nearest `multirun` at or above the current folder, else `multirun` in the current one.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    here = Path.cwd()
    return next((above / FOLDER for above in (here, *here.parents) if (above / FOLDER).is_dir()), here / FOLDER)
