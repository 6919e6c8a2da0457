"""How do kernels compile side by side, before a first step would have them compiled one after the other?

Triton compiles a kernel when it is first called, and waits for other programs most of the time (ptxas, and a C compiler
for what launches the kernel). So each kernel of an engine is called once, in a thread of its own, with a few rows of
zeros: what is compiled depends on widths and dtypes, not on batch and length. What this misses is compiled at its first
call.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from llmbench.config.modes import Mode
from llmbench.models import kernels

_ROWS, _LENGTH = 16, 256


def together(calls: Sequence[Callable[[], object]], device: torch.device) -> None:
    """Run independent calls, each in a thread, and wait for the device.

    Raises:
        Exception: what the first of them raised.
    """

    def run(call: Callable[[], object]) -> None:
        with torch.cuda.device(device), torch.inference_mode():  # a thread inherits neither
            call()

    with ThreadPoolExecutor(max_workers=len(calls)) as pool:
        for running in [pool.submit(run, call) for call in calls]:
            running.result()
    torch.cuda.synchronize(device)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sizes:
    """What the kernels of a model depend on."""

    norm: torch.Tensor  # [C], a norm's weight
    epsilon: float
    cos: torch.Tensor  # [context, R] float32
    sin: torch.Tensor  # [context, R] float32
    heads: int
    groups: int
    both: int  # gate and up
    mode: Mode
    norm_heads: torch.Tensor | None  # [2, D], of the heads of queries and keys
    scaled: bool  # queries, by their position: where sequences are long

    def calls(self, *, padded: bool) -> list[Callable[[], object]]:
        """One for every kernel between the model's matrix products, those that take longest to compile first."""
        width, heads, groups = 2 * self.cos.shape[1], self.heads, self.groups

        def hidden(channels: int, count: int = _ROWS) -> torch.Tensor:
            return self.norm.new_zeros(count, channels)

        def cache() -> torch.Tensor:
            return self.norm.new_zeros(1, groups, _LENGTH, width)

        def at(count: int) -> torch.Tensor:
            return torch.zeros(count, dtype=torch.int64, device=self.norm.device)

        tables = self.cos, self.sin
        wide = (heads + 2 * groups) * width
        first = at(1) if padded else None
        few = hidden(heads * width, 1).view(1, 1, heads, width).transpose(1, 2)
        many = hidden(heads * width).view(1, _ROWS, heads, width).transpose(1, 2)
        one: list[Callable[[], object]] = [
            lambda: kernels.attend_one(hidden(wide, 1), cache(), cache(), *tables, at(1), first)
        ]
        normed, scale = self.norm_heads, torch.ones(_ROWS, device=self.norm.device) if self.scaled else None
        prepare: list[Callable[[], object]] = [
            lambda: kernels.prepare_heads_(
                hidden(wide).view(_ROWS, -1, width), heads, groups, normed, self.epsilon, scale
            )
        ]
        causal = self.mode.causal_prompt
        orders = {causal, False} if self.mode.in_blocks else {causal}
        return [
            *(one if self.mode.attention == "causal" else []),
            *(prepare if normed is not None or scale is not None else []),
            lambda: kernels.attend_few(few, cache(), cache(), first),
            *(
                functools.partial(kernels.attend_few, few, cache(), cache(), first, at(1), causal=order)
                for order in sorted(orders)
            ),
            lambda: scaled_dot_product_attention(  # compiles nothing, but its library is loaded at its first call
                many, cache(), cache(), is_causal=causal, enable_gqa=groups != heads
            ),
            lambda: kernels.norm(hidden(self.norm.numel()), self.norm, self.epsilon),
            lambda: kernels.gate(hidden(self.both)),
            lambda: kernels.rotate_(hidden(wide), heads, *tables, at(_ROWS)),
            lambda: kernels.place_(hidden(wide), cache(), cache(), *tables, at(_ROWS)),
        ]
