"""For all tests: a job of the real `conf/`, and one thread for this process.

On models of a few thousand weights a second thread only waits for the first; where the machine has other work the
waiting is most of the time. Child processes (tests/system) choose for themselves.
"""

from collections.abc import Callable

import pytest
import torch
from hydra import compose, initialize_config_dir

from llmbench.config.build import build_job
from llmbench.config.conf_files import conf_folder
from llmbench.config.job import Job

torch.set_num_threads(1)


@pytest.fixture
def load() -> Callable[..., Job]:
    """Compose the real `conf/` with overrides and build the job."""

    def build(*overrides: str) -> Job:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return build_job(compose("config", overrides=list(overrides)))

    return build
