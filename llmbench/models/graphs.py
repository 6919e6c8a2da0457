"""One step as one CUDA graph: what the host would launch a few hundred times is launched once.

A graph replays kernels with the arguments that they were captured with, so a step may only touch memory that stays,
and must not ask the device anything. Random numbers are drawn anew at every replay: the generator is registered, and
its seed and offset are read when the graph is launched. Graphs of one engine share a memory pool; they never overlap,
and nothing that one leaves in the pool is read by another.
"""

from collections.abc import Callable
from typing import Any

import torch

WARMUPS = 1
"""Runs before capture, on a stream of their own: kernels that have not compiled do, and cuBLAS and cuDNN choose theirs.

More would cost a large batch seconds: at 32 sequences a step of an 8B model takes 0.27 s, and it has eight sizes.
"""


class Graph:
    """A captured step; call it to replay."""

    def __init__(
        self, step: Callable[[], None], reset: Callable[[], None], generator: torch.Generator | None, pool: Any
    ) -> None:
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUPS):
                reset()
                step()
            reset()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        if generator is not None:
            self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph, pool=pool):
            step()

    def __call__(self) -> None:
        """Launch the step; returns before it has run."""
        self._graph.replay()
