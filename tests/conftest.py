"""For all tests: a job of the real `conf/`, one thread for this process, and Triton's interpreter without a GPU.

On models of a few thousand weights a second thread only waits for the first; where the machine has other work the
waiting is most of the time. Child processes (tests/system) choose for themselves.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from composition import composed

from llmbench.config.build import build_job
from llmbench.config.job import Job

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, its own library included


@pytest.fixture
def load() -> Callable[..., Job]:
    """Compose the real `conf/` with overrides and build the job."""

    def build(*overrides: str) -> Job:
        return build_job(composed(*overrides))

    return build


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a store without runs, to be copied: MLflow takes seconds to make one. All workers share it."""
    from llmbench.config.job import TrackingConfig
    from llmbench.system.files import lock
    from llmbench.tracking import open_store
    from llmbench.tracking.store_uri import sqlite_uri

    base = tmp_path_factory.getbasetemp()
    file = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "empty store" / "mlflow.db"
    file.parent.mkdir(exist_ok=True)
    with lock(file.with_name("lock")):
        if not file.exists():  # an experiment in it: a database without any is made anew
            open_store(TrackingConfig(uri=sqlite_uri(file), experiment="copied"))
    return file


SHARED = ("measured", "swept")
"""Fixtures of a module that take long: their tests run in one worker, so that each is made once."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell pytest-xdist which tests belong together (`--dist loadgroup`)."""
    for item in items:
        for name in SHARED:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{name}"))
