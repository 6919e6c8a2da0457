"""Whose share of the GPU is another process's? By a driver's library that the tests write."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from llmbench.measure.nvml import Nvml
from llmbench.measure.other_processes import PROOF_BYTES, OtherProcesses, own_pid

MINE, OTHER, THIRD = 71, 4001, 4002


class Driver:
    """Stands where pynvml does: processes with their memory, and samples of their use."""

    contexts = 1  # of each process
    NVMLError, NVMLError_NotFound = pynvml.NVMLError, pynvml.NVMLError_NotFound

    def __init__(self, memory: dict[int, int | None] | None, samples: list[tuple[int, int, int]] | None = None) -> None:
        self.memory, self.samples = memory, samples

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        if self.memory is None:
            raise self.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.memory.items()] * self.contexts

    def nvmlDeviceGetProcessUtilization(self, handle: str, since: int) -> list[Any]:
        if self.samples is None:
            raise self.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if not any(at > since for _, at, _ in self.samples):
            raise self.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [SimpleNamespace(pid=pid, timeStamp=at, smUtil=share) for pid, at, share in self.samples]


@pytest.mark.parametrize("before", [{OTHER: 10**9}, {OTHER: 10**9, MINE: 10**8}])  # it has no context yet, or has one
def test_this_process_is_the_one_whose_memory_grows_by_what_it_takes(before: dict[int, int | None]) -> None:
    driver = Driver(before)

    def allocate(size: int) -> None:
        driver.memory = {**before, MINE: (before.get(MINE) or 4 * 10**8) + size}

    assert own_pid(Nvml("a", driver), allocate, lambda: None) == MINE


def test_it_is_not_guessed_where_two_grow_or_nothing_is_told() -> None:
    nothing = Driver({OTHER: None, os.getpid(): None})
    assert own_pid(Nvml("a", nothing), lambda size: None, lambda: None) is None
    assert own_pid(Nvml("a", Driver(None)), lambda size: None, lambda: None) is None
    assert own_pid(Nvml("a", Driver({})), lambda size: None, lambda: None) is None

    driver = Driver({OTHER: 0, MINE: 0})
    others = [PROOF_BYTES, PROOF_BYTES, 0]  # another one grows as much, twice

    def allocate(size: int) -> None:
        driver.memory = {OTHER: 10**9 + others.pop(0), MINE: size}

    def release() -> None:
        driver.memory = {OTHER: 10**9, MINE: 0}

    assert own_pid(Nvml("a", driver), allocate, release) == MINE
    assert driver.memory == {OTHER: 10**9, MINE: 0}

    def full(size: int) -> None:
        raise RuntimeError("out of memory")

    assert own_pid(Nvml("a", driver), full, lambda: None) is None


def busiest(samples: list[tuple[int, int, int]] | None, own: int | None = MINE, contexts: int = 1) -> float | None:
    driver = Driver({MINE: 10**9} if contexts else {}, samples)
    driver.contexts = contexts
    watch = OtherProcesses(Nvml("a", driver), own, now_us=lambda: 100)
    watch.look()
    watch.look()  # what was seen counts once
    return watch.busiest_percent()


@pytest.mark.parametrize(
    ("samples", "percent"),
    [
        ([(MINE, 110, 90), (MINE, 120, 80)], 0.0),
        ([(MINE, 110, 60), (OTHER, 110, 40), (MINE, 120, 50), (OTHER, 120, 50)], 45.0),
        ([(MINE, 110, 90), (MINE, 120, 80), (OTHER, 120, 30)], 15.0),  # it was idle in one of two samples
        ([(MINE, 110, 10), (OTHER, 110, 20), (THIRD, 110, 50)], 50.0),
        ([(OTHER, 90, 99), (MINE, 110, 90)], 0.0),  # before the timed pass
        ([(MINE, 110, 10), (OTHER, 110, 2**32 - 1)], 0.0),  # no share
        ([(OTHER, 90, 99)], None),  # nobody was sampled, this busy process neither
        ([(OTHER, 110, 99)], None),  # this one is told under another pid, or was not sampled
        (None, None),
    ],
)
def test_the_busiest_other_process(samples: list[tuple[int, int, int]] | None, percent: float | None) -> None:
    assert busiest(samples) == percent


def test_nothing_is_said_where_this_process_is_not_known() -> None:
    assert busiest([(OTHER, 110, 90)], own=None) is None
    assert busiest([(MINE, 110, 90)], contexts=0) == 0.0  # not listed, but sampled
    assert busiest([(MINE, 110, 90)], contexts=2) is None  # a sandbox: one of the two is another process
    assert OtherProcesses(None, None).busiest_percent() is None


def test_a_child_of_this_process_is_none_of_the_others() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        samples = [(os.getpid(), 110, 50), (child.pid, 110, 40), (OTHER, 110, 7)]
        assert busiest(samples, own=os.getpid()) == 7.0
        assert busiest([(MINE, 110, 50), (child.pid, 110, 40)]) == 40.0  # a pid of another namespace
        child.communicate(b"\n")
