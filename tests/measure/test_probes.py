"""Readings of the process, and the arithmetic behind those of a GPU."""

import gc
import weakref
from pathlib import Path

import pytest

from llmbench.measure import probes
from llmbench.measure.probes import CpuProbe, union_ns


@pytest.mark.parametrize(
    ("spans", "length"),
    [
        ([], 0),
        ([(10, 30)], 20),
        ([(10, 30), (40, 50)], 30),  # a gap between kernels is not counted
        ([(10, 30), (20, 50)], 40),  # two streams at once are counted once
        ([(10, 50), (20, 30), (45, 60)], 50),  # one inside another
        ([(40, 50), (10, 30)], 30),  # in any order
        ([(10, 20), (20, 30)], 20),
    ],
)
def test_time_in_which_at_least_one_kernel_runs(spans: list[tuple[int, int]], length: int) -> None:
    assert union_ns(spans) == length


def test_cleaning_forgets_an_earlier_peak_of_the_resident_set() -> None:
    probe = CpuProbe()
    block = bytearray(b"x" * 200_000_000)
    probe.clean()
    with_block = probe.peak_rss_bytes()
    assert with_block is not None
    del block
    gc.collect()
    if probe.notes():  # a system that does not let the peak be reset says so
        assert "counts from the start of the process" in probe.notes()[0]
        return
    probe.clean()
    without_block = probe.peak_rss_bytes()
    assert without_block is not None
    assert with_block - without_block > 150_000_000


def test_setting_libraries_aside_still_frees_a_model_that_is_loaded_later() -> None:
    class Model:
        def __init__(self) -> None:
            self.itself = self  # only a collection can free it

    probes.set_libraries_aside()
    assert gc.get_freeze_count() > 100_000
    model = Model()
    probes.set_libraries_aside()  # every job calls it: the second time must not keep the first one's model
    gone = weakref.ref(model)
    del model
    CpuProbe().clean()
    assert gone() is None


def test_a_peak_that_cannot_be_reset_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probes, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    probe = CpuProbe()
    assert probe.notes() == ()
    probe.clean()
    assert "memory/peak_rss_bytes" in probe.notes()[0]


def test_without_proc_the_peak_comes_from_getrusage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probes, "_STATUS", tmp_path / "status")
    peak = CpuProbe().peak_rss_bytes()
    assert peak is not None
    assert 10_000_000 < peak < 1_000_000_000_000


def test_a_cpu_answers_none_to_what_only_a_gpu_knows() -> None:
    probe = CpuProbe()
    probe.synchronize()
    answers = [
        probe.reserved_bytes(),
        probe.allocated_bytes(),
        probe.peak_reserved_bytes(),
        probe.peak_allocated_bytes(),
        probe.device_used_bytes(),
        probe.energy_joules(),
        probe.sm_clock_mhz(),
        probe.throttle_reasons(),
    ]
    assert answers == [None] * 8
    assert probe.busy_ms(lambda: "text") == (None, "text")
