"""What does the device use right now? `CpuProbe` and `CudaProbe` read what they can; the rest is None.

Cleaning belongs here too, because a reading means nothing without it: peaks count from the last reset, and what an
earlier model, judge or matrix product left in the allocator's cache would be charged to the next one.
"""

import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import torch

from llmbench.measure.nvml import Nvml
from llmbench.measure.other_processes import OtherProcesses
from llmbench.measure.profiling import device_work
from llmbench.measure.timing import Clock, CudaClock, HostClock

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class Probe:
    """Readings of a device; None where it does not tell. This class reads nothing but the host's clock."""

    kind: Literal["cpu", "cuda"] = "cpu"

    def clock(self) -> Clock:
        """The clock of this device."""
        return HostClock()

    def clean(self) -> None:
        """Collect garbage, empty the allocator's cache, reset all peaks."""
        gc.collect()

    def reset_peaks(self) -> None:
        """Count peaks from now on."""

    def synchronize(self) -> None:
        """Wait until the device is idle."""

    def reserved_bytes(self) -> int | None:
        """M_reserved now: what the caching allocator holds."""
        return None

    def allocated_bytes(self) -> int | None:
        """In live tensors now."""
        return None

    def peak_reserved_bytes(self) -> int | None:
        """Most reserved since the last reset."""
        return None

    def peak_allocated_bytes(self) -> int | None:
        """Most allocated in live tensors since the last reset."""
        return None

    def device_used_bytes(self) -> int | None:
        """In use on the device now by the driver's count, other processes included."""
        return None

    def peak_rss_bytes(self) -> int | None:
        """Peak resident set of the process since the last reset (CPU runs only)."""
        return None

    def energy_joules(self) -> float | None:
        """The device's energy counter."""
        return None

    def sm_clock_mhz(self) -> int | None:
        """Present clock."""
        return None

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """What holds the clocks down now (names of `llmbench.measure.nvml`)."""
        return None

    def other_processes(self) -> OtherProcesses:
        """What counts the use that other processes make of the device from now on."""
        return OtherProcesses(None)

    def busy_ms(self, run: Callable[[], T]) -> tuple[float | None, T]:
        """Run under a profiler: the time in which the device worked, and what `run` returned."""
        return None, run()

    def notes(self) -> tuple[str, ...]:
        """What a reader must know about these readings."""
        return ()


class CpuProbe(Probe):
    """The process itself. Linux resets the peak resident set; elsewhere the peak counts from the process's start."""

    def __init__(self) -> None:
        self._resettable = True

    def clean(self) -> None:
        """Collect garbage and reset the peak resident set."""
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc only: give freed pages back, or they count for ever
            ctypes.CDLL(None).malloc_trim(0)
        self.reset_peaks()

    def reset_peaks(self) -> None:
        """Set the kernel's high-water mark to the present resident set (proc(5): 5 into clear_refs)."""
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:
            self._resettable = False

    def peak_rss_bytes(self) -> int | None:
        """VmHWM of /proc/self/status, else getrusage's maximum resident set, else None."""
        try:
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        try:
            import resource
            import sys
        except ImportError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def notes(self) -> tuple[str, ...]:
        """Says so where the peak resident set could not be reset."""
        if self._resettable:
            return ()
        return ("memory/peak_rss_bytes counts from the start of the process: this system does not let it be reset",)


class CudaProbe(Probe):
    """The current CUDA device: torch's caching allocator, the driver, NVML and the profiler."""

    kind: Literal["cpu", "cuda"] = "cuda"

    def __init__(self) -> None:
        self._nvml = Nvml(device_uuid())
        self._doubts: list[str] = []

    def clock(self) -> Clock:
        """Pairs of CUDA events."""
        return CudaClock()

    def clean(self) -> None:
        """Collect garbage, drop cuBLAS workspaces, empty the cache, reset peaks.

        cuBLAS keeps a workspace (32 MiB on Hopper) inside torch's allocator from the first matrix product on; left
        there, the second job of a sweep would start heavier than the first.
        """
        gc.collect()
        torch.cuda.synchronize()
        clear_workspaces = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear_workspaces is not None:
            clear_workspaces()
        torch.cuda.empty_cache()
        self.reset_peaks()

    def reset_peaks(self) -> None:
        """Count peaks from now on."""
        torch.cuda.reset_peak_memory_stats()

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        torch.cuda.synchronize()

    def reserved_bytes(self) -> int | None:
        """M_reserved now. A host-side count: reading it waits for nothing."""
        return torch.cuda.memory_reserved()

    def allocated_bytes(self) -> int | None:
        """In live tensors now; as host-side as `reserved_bytes`."""
        return torch.cuda.memory_allocated()

    def peak_reserved_bytes(self) -> int | None:
        """Most reserved since the last reset."""
        return torch.cuda.max_memory_reserved()

    def peak_allocated_bytes(self) -> int | None:
        """Most allocated since the last reset; blind to memory inside replayed graphs."""
        return torch.cuda.max_memory_allocated()

    def device_used_bytes(self) -> int | None:
        """Total minus free by cudaMemGetInfo: context, libraries and other processes included."""
        free, total = torch.cuda.mem_get_info()
        return total - free

    def energy_joules(self) -> float | None:
        """NVML's total energy counter."""
        return self._nvml.energy_joules()

    def sm_clock_mhz(self) -> int | None:
        """NVML's present SM clock."""
        return self._nvml.sm_clock_mhz()

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """NVML's clock event reasons that limit."""
        return self._nvml.throttle_reasons()

    def other_processes(self) -> OtherProcesses:
        """By NVML's samples of processes."""
        return OtherProcesses(self._nvml)

    def busy_ms(self, run: Callable[[], T]) -> tuple[float | None, T]:
        """Run under torch.profiler and sum the time in which a kernel or copy runs."""
        work, result = device_work(run)
        if isinstance(work, Exception):
            self._doubts.append(
                f"latency/host_overhead_ms is absent: the profiler failed ({type(work).__name__}: {work})"
            )
            return None, result
        return union_ns([(item.start_ns, item.end_ns) for item in work]) / 1e6, result

    def notes(self) -> tuple[str, ...]:
        """NVML or profiler missing."""
        missing = (f"no energy, clocks or throttle reasons: {self._nvml.reason}",) if self._nvml.reason else ()
        return missing + tuple(self._doubts)


def union_ns(spans: list[tuple[int, int]]) -> int:
    """Length of the union of (start, end) intervals: time in which at least one of them runs."""
    total, reached = 0, -1
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


@functools.cache
def set_libraries_aside() -> None:
    """Keep what was imported so far out of every later garbage collection; once per process, before a model is loaded.

    Torch, Transformers and MLflow leave about a million objects that live as long as the process; each collection would
    visit them all. A model must not be among them: frozen objects are freed by their last reference alone.
    """
    gc.collect()
    gc.freeze()


def device_uuid() -> str | None:
    """UUID of the current CUDA device, None where torch does not know it."""
    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return None if uuid is None else str(uuid)
