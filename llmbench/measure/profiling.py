"""What ran on the device, kernel by kernel? torch.profiler with CUDA activity alone, around two of its faults.

- CUPTI stays attached after a session and slows everything after it by 10 to 20 % (pytorch issue 144455) unless it is
  told to detach.
- The first records of a session can carry a foreign time (pytorch issue 192021: one more per session of the process),
  so some kernels are spent before the region, and records outside the region are dropped.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_SLACK_NS = 10_000_000
"""Tolerated difference between the profiler's clock and the host's."""


@dataclass(frozen=True)
class Work:
    """One kernel, copy or fill on the device."""

    name: str
    start_ns: int
    end_ns: int


def device_work(run: Callable[[], T]) -> tuple[list[Work] | Exception, T]:
    """Run under the profiler: what the device did, or why that is not known; and what `run` returned."""
    if tuple(map(int, (torch.version.cuda or "0.0").split(".")[:2])) >= (12, 6):
        os.environ.setdefault("TEARDOWN_CUPTI", "1")  # before, a second session after a teardown could crash
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # none: its stage lines would land inside the progress display
    from torch.profiler import ProfilerActivity, profile

    session = profile(activities=[ProfilerActivity.CUDA])
    try:
        session.start()
    except Exception as error:
        return error, run()
    try:
        spent = torch.zeros(1, device="cuda")
        for _ in range(64):
            spent.add_(1)
        torch.cuda.synchronize()
        time.sleep(2 * _SLACK_NS / 1e9)
        begin = time.time_ns()  # kineto's records carry Unix time
        result = run()
        torch.cuda.synchronize()
        end = time.time_ns()
    except BaseException:
        with contextlib.suppress(Exception):
            session.stop()
        raise
    try:
        session.stop()
        recorded = _records(session)
    except Exception as error:
        return error, result
    inside = [work for work in recorded if begin - _SLACK_NS <= work.start_ns <= end + _SLACK_NS]
    if not inside:
        return LookupError(f"{len(recorded)} records, none inside the region"), result
    return inside, result


def _records(session: Any) -> list[Work]:
    """Kineto's raw records, not `session.events()`: that builds some 2 kB of Python objects per kernel."""
    return [
        Work(event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in session.profiler.kineto_results.events()
        if event.device_type().name == "CUDA"
        and not getattr(event, "is_user_annotation", lambda: False)()  # spans of other records, no work of its own
    ]
