"""What does a forward cost at least if nothing but its matrix products ran? The floor that every ratio stands on.

All projections of a model at one shape through cuBLAS, on random data, in one CUDA graph: query, key and value as one
product, output, gate and up as one, down, for every block; then the head at the positions whose logits are asked for.
No attention, no norms, no sampling. A decoder can fall below it only by leaving work out (ours computes the last
block's queries where logits are asked for, and nowhere else).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear

from llmbench.models.graphs import Graph


def capture(engine: Any, rows: int, heads: int) -> Callable[[], None]:
    """The products of one forward over `rows` positions with logits at `heads` of them, ready to be replayed."""
    weights, head = engine.products()
    device, dtype = head.device, head.dtype
    channels, wide = head.shape[1], weights[0][3].shape[1]
    x, inner, asked = (
        torch.randn(n, width, device=device).to(dtype)
        for n, width in ((rows, channels), (rows, wide), (heads, channels))
    )
    mixed = torch.randn(rows, weights[0][1].shape[1], device=device).to(dtype)

    def products() -> None:
        for qkv, out, gate_up, down in weights:
            linear(x, qkv)
            linear(mixed, out)
            linear(x, gate_up)
            linear(inner, down)
        linear(asked, head)

    if device.type != "cuda":
        return products
    return Graph(products, lambda: None, None, torch.cuda.graph_pool_handle())
