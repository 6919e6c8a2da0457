"""Calls that only have kernels compiled must be calls that the kernels take: shapes, dtypes and widths as in a step."""

import pytest
import torch

from llmbench.models.compiling import Sizes


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("causal", "groups"), [(True, 2), (False, 4)])
def test_every_call_runs_by_itself(causal: bool, groups: int, padded: bool) -> None:
    tables = {name: torch.rand(300, 8) for name in ("cos", "sin")}
    norm = torch.ones(64, dtype=torch.bfloat16)
    sizes = Sizes(norm=norm, epsilon=1e-5, **tables, heads=4, groups=groups, both=96, causal=causal)
    calls = sizes.calls(padded=padded)
    assert len(calls) == (8 if causal else 7)
    for call in calls:
        call()
