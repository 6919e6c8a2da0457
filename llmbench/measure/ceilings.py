"""What can this device do at most? Two numbers, measured in the same process as the job that is held against them.

Peak rate: a large square matrix product in the job's dtype, on random data (zeros draw less power and so run faster).
Peak bandwidth: the better of a large copy (bytes read + bytes written) and a matrix-vector product (bytes read), each
larger than the last-level cache; the second is what a decoding step with one row does, and on CPUs it beats the copy,
which also reads the lines that it overwrites. Reported is the best of a few runs, not the median: noise only ever
slows, and a ceiling is what the device *can* do.

Where the weights (nearly) fit in the cache, bandwidth to memory does not bound a forward: `judged` is then False, and
the efficiency is shown but no gate uses it.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from llmbench.config.job import HardwareConfig
from llmbench.measure.timing import Clock, CudaClock, HostClock, time_region
from llmbench.record import Ceilings

CACHE_FACTOR = 4
"""Weights below so many times the last-level cache are not judged (docs/metrics.md)."""

_MIB = 2**20


def measure(hardware: HardwareConfig, weight_bytes: int) -> Ceilings:
    """Measure the ceilings of a resolved hardware, once per process, and judge whether they bound these weights."""
    flops, bandwidth = _rates(hardware.device, hardware.dtype, hardware.threads)
    cache = last_level_cache_bytes(hardware.device)
    return Ceilings(
        flops_per_s=flops,
        bytes_per_s=bandwidth,
        last_level_cache_bytes=cache,
        judged=cache is not None and weight_bytes > CACHE_FACTOR * cache,
    )


@functools.cache
def cpu_flops_per_s() -> float:
    """FLOP/s of this CPU in float32 with torch's threads as they are; takes a tenth of a second."""
    with torch.inference_mode():
        return _flops_per_s("cpu", torch.float32)


@functools.cache
def _rates(device: str, dtype_name: str, threads: int | None) -> tuple[float, float]:
    """(FLOP/s, bytes/s). `threads` is a key of the cache alone: the number is set already."""
    del threads
    dtype: torch.dtype = getattr(torch, dtype_name)
    with torch.inference_mode():
        rates = _flops_per_s(device, dtype), _bytes_per_s(device, dtype)
    if device == "cuda":
        torch.cuda.empty_cache()
    return rates


def _flops_per_s(device: str, dtype: torch.dtype) -> float:
    """A product of two square random matrices: 2 n^3 operations."""
    side = 8192 if device == "cuda" else 1536
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    product = torch.empty_like(left)
    return 2 * side**3 / _best_s(device, lambda: torch.mm(left, right, out=product))


def _bytes_per_s(device: str, dtype: torch.dtype) -> float:
    """The better of copying a large matrix (read + written) and multiplying it with a vector (read)."""
    size = 512 * _MIB if device == "cuda" else _cpu_buffer_bytes()
    columns = 4096
    source = torch.ones(size // dtype.itemsize // columns, columns, device=device, dtype=dtype)
    target = torch.empty_like(source)
    vector = torch.ones(columns, device=device, dtype=dtype)
    copied = 2 * source.nbytes / _best_s(device, lambda: target.copy_(source))
    return max(copied, source.nbytes / _best_s(device, lambda: torch.mv(source, vector)))


def _best_s(device: str, run: Callable[[], object]) -> float:
    """Shortest of some timed calls in seconds, after an untimed one."""
    clock: Clock = CudaClock() if device == "cuda" else HostClock()
    run()
    return min(time_region(clock, lambda _: run())[0].e2e_ms for _ in range(10 if device == "cuda" else 3)) / 1e3


def _cpu_buffer_bytes() -> int:
    """Twice the last-level cache, within 64 and 512 MiB."""
    return min(512 * _MIB, max(64 * _MIB, 2 * (last_level_cache_bytes("cpu") or 0)))


@functools.cache
def last_level_cache_bytes(device: str, caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Size of the last cache before memory: L2 on CUDA, the highest level of the first core on Linux, else None."""
    if device == "cuda":
        size = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "L2_cache_size", None)
        return int(size) if size else None
    sizes: dict[int, int] = {}
    try:
        for index in caches.glob("index*"):
            if (index / "type").read_text().strip() != "Instruction":
                sizes[int((index / "level").read_text())] = _parse_size((index / "size").read_text().strip())
    except (OSError, ValueError):
        return None
    return sizes[max(sizes)] if sizes else None


def _parse_size(text: str) -> int:
    """Bytes of sysfs's `49152K`."""
    unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1)
    return int(text.rstrip("KMG")) * unit
