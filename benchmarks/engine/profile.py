"""Which kernels take the time of a step? What the page shows where a goal is missed."""

from collections.abc import Callable
from typing import Any

from llmbench.measure.profiling import device_work

TOP = 12


def profile(run: Callable[[], object], device: str) -> list[dict[str, Any]]:
    """The kernels of one call that take most time: name, count, microseconds together, share; [] on a CPU.

    Raises:
        RuntimeError: the profiler does not tell.
    """
    if device != "cuda":
        return []
    run()
    work, _ = device_work(run)
    if isinstance(work, Exception):
        raise RuntimeError(f"the profiler failed: {work}")
    found: dict[str, list[float]] = {}
    for item in work:
        found.setdefault(item.name, []).append((item.end_ns - item.start_ns) / 1e3)
    total = sum(map(sum, found.values()))
    longest = sorted(found.items(), key=lambda item: -sum(item[1]))[:TOP]
    return [
        {"kernel": name, "count": len(spans), "us": sum(spans), "share": sum(spans) / total} for name, spans in longest
    ]
