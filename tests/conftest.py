"""For all tests: a job of the real `conf/`, one thread for this process, and Triton's interpreter without a GPU.

On models of a few thousand weights a second thread only waits for the first; where the machine has other work the
waiting is most of the time. Child processes (tests/system) choose for themselves.
"""

import os
from collections.abc import Callable

import pytest
import torch
from hydra import compose, initialize_config_dir

from llmbench.config.build import build_job
from llmbench.config.conf_files import conf_folder
from llmbench.config.job import Job

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, its own library included


@pytest.fixture
def load() -> Callable[..., Job]:
    """Compose the real `conf/` with overrides and build the job."""

    def build(*overrides: str) -> Job:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return build_job(compose("config", overrides=list(overrides)))

    return build


SHARED = ("measured", "swept")
"""Fixtures of a module that take long: their tests run in one worker, so that each is made once."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell pytest-xdist which tests belong together (`--dist loadgroup`)."""
    for item in items:
        for name in SHARED:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{name}"))
