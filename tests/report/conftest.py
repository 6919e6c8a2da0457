"""A simulated study that several tests read: it takes half a second to draw and to judge."""

import numpy as np
import pytest

from benchmarks.worlds import World, study
from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record


@pytest.fixture(scope="session")
def studied() -> tuple[list[Record], Parity]:
    """k = 8 less varied than any of LLaMA's, 16 and 32 on its curve, 64 more varied."""
    world = World(prompts=60, shifts=(0.9, 0.6, 0.3, 0.1), entropies=(2.5, 2.8, 2.9, 3.6))
    records = study(world, np.random.default_rng(0))
    return records, parity(records)
