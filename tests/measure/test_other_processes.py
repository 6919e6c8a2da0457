"""Whose share of the GPU is another process's? By a driver's library that the tests write."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from llmbench.measure.nvml import Nvml
from llmbench.measure.other_processes import WINDOW_S, OtherProcesses

MINE, OTHER, THIRD = os.getpid(), 4_000_001, 4_000_002


class Driver:
    """Stands where pynvml does: processes with their memory, and samples of their use."""

    NVMLError, NVMLError_NotFound = pynvml.NVMLError, pynvml.NVMLError_NotFound

    def __init__(self, memory: dict[int, int | None] | None, samples: list[tuple[int, int, int]] | None = None) -> None:
        self.memory, self.samples = memory, samples

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        if self.memory is None:
            raise self.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.memory.items()]

    def nvmlDeviceGetProcessUtilization(self, handle: str, since: int) -> list[Any]:
        if self.samples is None:
            raise self.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if not any(at > since for _, at, _ in self.samples):
            raise self.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [SimpleNamespace(pid=pid, timeStamp=at, smUtil=share) for pid, at, share in self.samples]


def watched(driver: Driver, looks: int = 2) -> tuple[float | None, list[float]]:
    """What is said after so many looks, 0.1 s after the beginning, and the waits."""
    times = iter([100, 100_100])
    waits: list[float] = []
    watch = OtherProcesses(Nvml("a", driver), now_us=lambda: next(times), sleep=waits.append)
    for _ in range(looks):
        watch.look()
    return watch.busiest_percent(), waits


@pytest.mark.parametrize(
    ("samples", "percent"),
    [
        ([(MINE, 200, 90)], 0.0),
        ([(MINE, 200, 60), (OTHER, 200, 40)], 40.0),
        ([(OTHER, 200, 98)], 98.0),  # also while this process waits
        ([(MINE, 200, 10), (OTHER, 200, 20), (THIRD, 200, 50)], 50.0),
        ([(OTHER, 90, 99), (MINE, 200, 90)], 0.0),  # before the timed pass
        ([(MINE, 200, 10), (OTHER, 200, 2**32 - 1)], 0.0),  # no share
        ([(OTHER, 90, 99)], None),  # nothing was sampled
        (None, None),
    ],
)
def test_the_busiest_other_process(samples: list[tuple[int, int, int]] | None, percent: float | None) -> None:
    found, waits = watched(Driver({MINE: 10**9}, samples))
    assert found == percent
    assert waits == [pytest.approx(WINDOW_S - 0.1)]  # a short pass is looked at for as long as samples take


def test_a_mean_is_over_time() -> None:
    """100 microseconds at 30 %, then 300 in which the other one is idle."""
    driver = Driver({MINE: 10**9}, [(MINE, 200, 50), (OTHER, 200, 30)])
    times = iter([100, 10**7])
    watch = OtherProcesses(Nvml("a", driver), now_us=lambda: next(times), sleep=lambda seconds: None)
    watch.look()
    driver.samples = [(MINE, 500, 50)]
    assert watch.busiest_percent() == 30 * 100 / 400


def test_nothing_is_said_where_the_driver_does_not_know_this_process() -> None:
    samples = [(71, 200, 90), (OTHER, 200, 90)]  # in a container it has another pid than for the driver
    assert watched(Driver({71: 10**9, OTHER: 10**9}, samples))[0] is None
    assert watched(Driver(None, samples))[0] is None
    assert OtherProcesses(None).busiest_percent() is None


def test_a_child_of_this_process_is_none_of_the_others() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        samples = [(MINE, 200, 50), (child.pid, 200, 40), (OTHER, 200, 7)]
        assert watched(Driver({MINE: 10**9}, samples))[0] == 7.0
        child.communicate(b"\n")
