"""Which kernels take the time of a step? What the page shows where a goal is missed."""

from collections.abc import Callable
from typing import Any

import torch

TOP = 12


def profile(run: Callable[[], object], device: str) -> list[dict[str, Any]]:
    """The kernels of one call that take most time: name, count, microseconds together, share; [] on a CPU."""
    if device != "cuda":
        return []
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as session

    run()
    torch.cuda.synchronize()
    with session(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in recorded.profiler.kineto_results.events():
        if event.device_type().name == "CUDA":
            found.setdefault(event.name(), []).append(event.duration_ns() / 1e3)
    total = sum(map(sum, found.values()))
    longest = sorted(found.items(), key=lambda item: -sum(item[1]))[:TOP]
    return [
        {"kernel": name, "count": len(spans), "us": sum(spans), "share": sum(spans) / total} for name, spans in longest
    ]
