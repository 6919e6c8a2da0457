"""Calls that only have kernels compiled must be calls that the kernels take: shapes, dtypes and widths as in a step."""

import pytest
import torch

from llmbench.config.modes import Mode
from llmbench.models.compiling import Sizes


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("mode", "groups", "kernels"),
    [
        (Mode(attention="causal"), 2, 8),
        (Mode(attention="full"), 4, 7),
        (Mode(attention="causal_context", block_length=4), 2, 8),
    ],
)
def test_every_call_runs_by_itself(mode: Mode, groups: int, kernels: int, padded: bool) -> None:
    tables = {name: torch.rand(300, 8) for name in ("cos", "sin")}
    norm, of_heads = torch.ones(64, dtype=torch.bfloat16), torch.ones(2, 16, dtype=torch.bfloat16)
    for norm_heads, scaled in ((None, False), (of_heads, False), (None, True)):
        sizes = Sizes(norm=norm, epsilon=1e-5, **tables, heads=4, groups=groups, both=96, mode=mode,
                      norm_heads=norm_heads, scaled=scaled)  # fmt: skip
        calls = sizes.calls(padded=padded)
        assert len(calls) == kernels + (scaled or norm_heads is not None)
        for call in calls:
            call()
