"""How long did one generation take, and when was each token or step of it final?

A timed region is: device idle, t_start, generate, t_end, device idle. On CUDA both ends are events on the current
stream, because kernels are asynchronous and a host clock read without synchronising says when work was *queued*; the
host clock is read over the same region (after the last synchronisation) as a check. On the CPU the host clock is the
clock, and monotonic.

A *mark* inside the region is an event too and synchronises nothing: a host synchronisation per token would change the
loop that is measured. Marks become times after the region's last synchronisation. Every region owns its lists, so no
mark can leak into the next repeat: in optimum-benchmark (b263af4) they do, and 5 repeats of 4 tokens give 55 gaps, next
prefills included, instead of 15.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch

OnStep = Callable[[int], None]
"""What a decoder calls with 0, 1, 2, ... when that token (AR) or denoising step (diffusion) is final on the device."""

MarkMode = Literal["none", "first", "every"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Times of one region, in milliseconds since its start."""

    e2e_ms: float  # by the device's clock
    wall_ms: float  # the same region by the host clock
    marks_ms: tuple[float, ...] = ()


class Region(Protocol):
    """One open timed region."""

    def mark(self) -> None:
        """Note the present moment of the device's work, without waiting for it."""

    def stop(self) -> Reading:
        """Close the region: wait for the device, resolve the marks."""


class Clock(Protocol):
    """What opens regions."""

    def start(self) -> Region:
        """Wait until the device is idle and open a region."""


class HostClock:
    """The monotonic host clock, for the CPU, where a call returns when its work is done.

    Args:
        now_ns: a monotonic clock in nanoseconds; tests hand in their own.
    """

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now_ns = now_ns

    def start(self) -> Region:
        """Open a region now."""
        return _HostRegion(self._now_ns)


class _HostRegion:
    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._marks: list[int] = []
        self._begin = now_ns()

    def mark(self) -> None:
        self._marks.append(self._now_ns())

    def stop(self) -> Reading:
        e2e = (self._now_ns() - self._begin) / 1e6
        marks = tuple((mark - self._begin) / 1e6 for mark in self._marks)
        return Reading(e2e_ms=e2e, wall_ms=e2e, marks_ms=marks)


class CudaClock:
    """Pairs of `torch.cuda.Event` on the current stream, synchronised before the first and after the last."""

    def start(self) -> Region:
        """Synchronise the device and record the first event."""
        return _CudaRegion()


class _CudaRegion:
    def __init__(self) -> None:
        self._marks: list[torch.cuda.Event] = []
        self._begin, self._end = _event(), _event()
        torch.cuda.synchronize()
        self._begin_ns = time.perf_counter_ns()
        self._begin.record()

    def mark(self) -> None:
        event = _event()
        event.record()
        self._marks.append(event)

    def stop(self) -> Reading:
        self._end.record()
        torch.cuda.synchronize()
        wall = (time.perf_counter_ns() - self._begin_ns) / 1e6
        return Reading(
            e2e_ms=self._begin.elapsed_time(self._end),
            wall_ms=wall,
            marks_ms=tuple(self._begin.elapsed_time(mark) for mark in self._marks),
        )


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def time_region(clock: Clock, run: Callable[[OnStep | None], T], marks: MarkMode = "none") -> tuple[Reading, T]:
    """Time one call of `run`.

    Args:
        clock: the device's clock.
        run: the work; it is given what to call at each token or step, or None where nothing is to be marked.
        marks: `none`, `first` (one mark, at step 0: the prefill), or `every`.

    Returns:
        The times, and what `run` returned.
    """
    region = clock.start()
    result = run(_on_step(region, marks))
    return region.stop(), result


def _on_step(region: Region, marks: MarkMode) -> OnStep | None:
    if marks == "none":
        return None
    if marks == "every":
        return lambda _: region.mark()
    return lambda step: region.mark() if step == 0 else None
