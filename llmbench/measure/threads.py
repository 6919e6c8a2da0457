"""How many CPU threads compute fastest here and now? A probe of about a second.

Threads of one product wait for each other at its end. Where another program takes a core, all of them wait at every
such barrier for the one that lost it, and a forward of small matrices has hundreds: two threads beside one busy loop
are then three times slower than one alone (docs/method.md). Nothing but trying tells how many are fastest, so the probe
tries: a few numbers in turn, on products of the model's width, forth and back so that a machine that gets busier does
not favour one of them.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
import torch

MARGIN = 1.1
"""More threads must be faster by this factor: what they gain less than that, the next disturbance takes."""

_ROUNDS, _SLOT_S, _LIMIT_S = 8, 0.04, 2.0
"""Rounds over the numbers tried, seconds of one thread's work in each, and seconds after which no round begins."""

_WIDEST = 2048
"""Matrices of wider models are cut to this width: their products have work enough for every thread."""


@dataclass(frozen=True, kw_only=True)
class ThreadChoice:
    """What the probe found."""

    threads: int  # to be taken
    default: int  # torch's own choice
    times_ms: Mapping[int, float]  # by number of threads: the median time of one block of a forward
    cores: int  # that this process may use
    others: float | None = None  # cores that other programs kept busy; None where the system does not tell

    @property
    def busy(self) -> bool:
        """Whether other programs leave fewer cores than torch has threads."""
        return self.others is not None and self.cores - self.others < self.default - 0.5


@functools.cache
def default_threads() -> int:
    """Torch's own choice, read before anybody changes it."""
    return torch.get_num_threads()


def choose(width: int) -> ThreadChoice:
    """Try 1, half and all of torch's threads. Leaves torch's number as it was.

    Args:
        width: of the model's hidden state.
    """
    default = default_threads()
    numbers = sorted({1, max(1, default // 2), default})
    others, cores = _others()
    times = _tried(numbers, _block(min(width, _WIDEST))) if len(numbers) > 1 else {}
    return ThreadChoice(
        threads=fastest(times) if times else default, default=default, times_ms=times, cores=cores, others=others
    )


def fastest(times_ms: Mapping[int, float]) -> int:
    """The fewest threads whose time is at most `MARGIN` times the best."""
    return min(number for number, ms in times_ms.items() if ms <= MARGIN * min(times_ms.values()))


def _tried(numbers: list[int], block: Callable[[], object]) -> dict[int, float]:
    """Median time in ms of a block by number of threads."""
    before, begun = torch.get_num_threads(), time.monotonic()
    seen: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        torch.set_num_threads(1)
        _seconds(block, 2)
        repeats = max(1, round(_SLOT_S / min(_seconds(block, 1) for _ in range(3))))
        for turn in range(_ROUNDS):
            if turn > 2 and time.monotonic() - begun > _LIMIT_S:
                break
            for number in numbers if turn % 2 == 0 else reversed(numbers):
                torch.set_num_threads(number)
                _seconds(block, 1)  # the library makes or ends its threads here
                seen[number].append(1e3 * _seconds(block, repeats) / repeats)
    finally:
        torch.set_num_threads(before)
    return {number: statistics.median(values) for number, values in seen.items()}


def _seconds(block: Callable[[], object], times: int) -> float:
    begun = time.perf_counter()
    with torch.inference_mode():
        for _ in range(times):
            block()
    return time.perf_counter() - begun


def _block(width: int) -> Callable[[], object]:
    """A feed-forward block of this width: two products, an activation and a norm, in float32."""
    noise, rows, inner = torch.Generator().manual_seed(0), max(64, 2**16 // width), width * 11 // 4
    state = torch.randn(rows, width, generator=noise)
    up, down = (torch.randn(*shape, generator=noise) / width for shape in ((width, inner), (inner, width)))

    def run() -> torch.Tensor:
        hidden = torch.nn.functional.silu(state @ up)
        return torch.nn.functional.rms_norm(state + hidden @ down, (width,))

    return run


def _others() -> tuple[float | None, int]:
    """Cores kept busy now by other programs among those that this process may use, and how many it may use.

    Counted while this thread sleeps.
    """
    mine = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    shares = psutil.cpu_percent(interval=0.2, percpu=True)
    known = [share for core, share in enumerate(shares) if mine is None or core in mine]
    return (sum(known) / 100 if known else None), len(known) or (psutil.cpu_count() or 1)
