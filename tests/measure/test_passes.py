"""The passes of one job: which generations happen, in which order, and what of them is kept.

The decoder writes a log and turns a clock by hand. `Bench` is a device for the parts that the CPU does not have: it
plays the role `Probe` with readings from the test's script; passes, clock and counting are the real ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch

from llmbench.config.job import TimingConfig
from llmbench.measure import passes
from llmbench.measure.probes import CpuProbe
from llmbench.measure.timing import Clock, HostClock, OnStep
from llmbench.record import DeviceUse, Stopping


@dataclass
class Text:
    tokens: torch.Tensor
    nfe: int
    first_text: int = 1
    longest_row: int | None = None


@dataclass
class Bench:
    """A decoder of 4 forwards per batch and the device under it, on one hand-turned clock."""

    kind: Literal["cpu", "cuda"] = "cuda"
    reasons: list[tuple[str, ...] | None] = field(default_factory=list)  # answers in turn; then: none active
    wanders: bool = False  # write other tokens each time
    tells_energy: bool = True
    ns: int = 0
    log: list[str] = field(default_factory=list)
    cleaned_at: list[int] = field(default_factory=list)  # generations made before each cleaning
    reserved: int = 1000
    joules: float = 50.0
    written: int = 0
    looks: int = 0

    def generate(self, batch: int, on_step: OnStep | None) -> Text:
        self.log.append(f"generate {batch}")
        self.written += 1
        for i in range(4):
            self.ns += (200 if i == 0 else 10) * 1_000_000
            self.reserved += 8
            if on_step is not None:
                on_step(i)
        self.joules += 3.0
        return Text(torch.tensor([[batch, self.written if self.wanders else 7]]), 4)

    # the role Probe
    def clock(self) -> Clock:
        return HostClock(lambda: self.ns)

    def clean(self) -> None:
        self.log.append("clean")
        self.cleaned_at.append(self.written)
        self.reserved = 1000

    def reset_peaks(self) -> None: ...

    def synchronize(self) -> None: ...

    def reserved_bytes(self) -> int | None:
        return self.reserved

    def allocated_bytes(self) -> int | None:
        return self.reserved - 500

    def peak_reserved_bytes(self) -> int | None:
        self.log.append("peak")
        return self.reserved

    def peak_allocated_bytes(self) -> int | None:
        return None

    def device_used_bytes(self) -> int | None:
        return None

    def peak_rss_bytes(self) -> int | None:
        return None

    def energy_joules(self) -> float | None:
        return self.joules if self.tells_energy else None

    def sm_clock_mhz(self) -> int | None:
        return 1980

    def throttle_reasons(self) -> tuple[str, ...] | None:
        return self.reasons.pop(0) if self.reasons else ()

    def other_processes(self) -> "Bench":
        return self

    def look(self) -> None:
        self.looks += 1

    def busiest_percent(self) -> float | None:
        return float(self.looks)

    def busy_ms(self, run: Callable[[], Any]) -> tuple[float | None, Any]:
        self.log.append("profiled:")
        return 150.0, run()

    def notes(self) -> tuple[str, ...]:
        return ("a note of the probe",)


def plan(**changes: Any) -> TimingConfig:
    settings: dict[str, Any] = {"warmup": 1, "repeats": 3, "batches": 1, "token_timing_repeats": 2}
    off = {"memory_trace": False, "profile": False, "energy_seconds": 0.0}
    return TimingConfig(**(settings | off | changes))


def run(bench: Bench, timing: TimingConfig, **changes: Any) -> passes.Measured[Text]:
    settings: dict[str, Any] = {"batches": 3, "repeated": (0,), "probe": bench, "marks_first": True}
    settings |= {"valid": lambda batch, text: (5, 11), "tick": lambda phase, done, total: None}
    return passes.measure(bench.generate, plan=timing, **(settings | changes))


def test_repeat_0_covers_the_partition_and_later_repeats_the_repeated_batches() -> None:
    measured = run(Bench(), plan())
    assert [(timing.repeat, timing.batch) for timing in measured.timings] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
    assert [int(text.tokens[0, 0]) for text in measured.first_pass] == [0, 1, 2]
    first = measured.timings[0]
    assert (first.e2e_ms, first.prefill_ms, first.forwards, first.tokens, first.utf8_bytes) == (230, 200, 4, 5, 11)


def widths(*answers: float | None) -> Callable[[Any, Any], float | None]:
    """Half-widths in turn, after repeats 2, 3, ..."""
    left = list(answers)
    return lambda timings, batches: left.pop(0)


def test_repeats_go_on_until_the_interval_is_narrow_and_not_before_the_floor() -> None:
    half = widths(0.001, 0.001, 0.001, 0.001, 0.05, None, 0.03, 0.02)  # narrow before the floor of 6 counts for nothing
    measured = run(Bench(), plan(repeats=6, until=0.02), half_width=half)
    assert max(timing.repeat for timing in measured.timings) == 8
    assert len(measured.timings) == 3 + 8
    assert measured.stopping == Stopping(repeats=9, half_width=0.02, until=0.02, reason="narrow")
    assert measured.notes[0].startswith("stopped after 9 repeats: ")


def test_repeats_end_at_the_limit_however_wide_the_interval() -> None:
    ticks: list[tuple[int, int]] = []
    settings = plan(repeats=6, until=0.02, until_repeats=8)
    tick = lambda phase, done, total: ticks.append((done, total)) if phase == "timed" else None  # noqa: E731
    measured = run(Bench(), settings, half_width=lambda timings, batches: 0.5, tick=tick)
    assert measured.stopping == Stopping(repeats=8, half_width=0.5, until=0.02, reason="most repeats")
    assert ticks[-1] == (10, 10)
    assert run(Bench(), plan()).stopping is None


def test_other_processes_are_looked_at_after_each_timed_batch() -> None:
    assert run(Bench(), plan()).device_use.other_sm_percent == 5.0  # repeats and partition together have 5


def test_the_order_of_cleaning_generating_and_reading_peaks() -> None:
    bench = Bench()
    run(bench, plan(warmup=2, repeats=1, token_timing_repeats=0), batches=2)
    warm, settle, timed = (
        ["generate 0", "generate 0"],
        ["clean", "generate 0", "generate 1"],
        ["generate 0", "generate 1"],
    )
    assert bench.log == [*warm, "peak", *settle, *timed, "peak"]


def test_a_cpu_needs_no_settling_and_has_no_cuda_passes() -> None:
    bench = Bench(kind="cpu")
    run(bench, plan(repeats=1, token_timing_repeats=0, memory_trace=True, profile=True, energy_seconds=1.0), batches=1)
    assert bench.log == ["generate 0", "peak", "clean", "generate 0", "peak"]


def test_the_marked_pass_is_its_own_and_leaves_the_timed_one_alone() -> None:
    measured = run(Bench(), plan(), marks_first=False)
    assert all(timing.prefill_ms is None for timing in measured.timings)
    assert [(mark.repeat, mark.batch, mark.at_ms) for mark in measured.marks] == [
        (0, 0, (200, 210, 220, 230)),
        (1, 0, (200, 210, 220, 230)),
    ]


def test_outputs_that_differ_between_repeats_are_noted() -> None:
    assert run(Bench(), plan()).notes == ("a note of the probe",)
    note = run(Bench(wanders=True), plan()).notes[0]
    assert note == "2 of 2 repeats wrote other tokens than repeat 0, which is scored"


def test_a_throttled_batch_is_generated_again_and_the_clear_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "RETRY_PAUSE_S", 0.0)
    bench = Bench(reasons=[(), ("hw_thermal_slowdown",)])  # before, after the first try; then clear
    measured = run(bench, plan(repeats=1, token_timing_repeats=0), batches=1)
    assert [timing.throttled for timing in measured.timings] == [False]
    assert measured.notes[0] == "batch 0, repeat 0: throttled, generated again 1 times, then clear"
    assert bench.log.count("generate 0") == 4  # warm-up, settling, throttled, clear


def test_retries_are_bounded_and_the_last_sample_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "RETRY_PAUSE_S", 0.0)
    bench = Bench(reasons=[("hw_slowdown",)] * 6)
    measured = run(bench, plan(repeats=1, token_timing_repeats=0, throttle_retries=2), batches=1)
    assert [timing.throttled for timing in measured.timings] == [True]
    assert measured.notes[0].endswith("generated again 2 times, still throttled")
    assert measured.device_use.throttle_reasons == ("hw_slowdown",)
    assert bench.log.count("generate 0") == 5


def test_the_power_limit_is_noted_but_is_no_throttling() -> None:
    measured = run(Bench(reasons=[("sw_power_cap",), ("sw_power_cap",)]), plan(token_timing_repeats=0))
    assert [timing.throttled for timing in measured.timings] == [False] * 5
    assert measured.device_use.throttle_reasons == ()
    assert measured.notes[0] == "the power limit held the clocks in 1 of 5 timed batches (not throttling)"


def test_a_device_that_does_not_tell_throttling_leaves_it_open() -> None:
    measured = run(Bench(reasons=[None] * 10), plan(token_timing_repeats=0))
    assert {timing.throttled for timing in measured.timings} == {None}
    assert measured.device_use.throttle_reasons is None


def test_the_memory_trace_starts_clean_and_has_one_value_per_forward() -> None:
    measured = run(Bench(), plan(memory_trace=True))
    assert measured.device_use.reserved_trace_bytes == (1008, 1016, 1024, 1032)
    assert measured.device_use.allocated_trace_bytes == (508, 516, 524, 532)
    assert measured.device_use.peak_reserved_bytes == 1000 + 8 * 4 * (3 + 5)  # settling and the timed pass
    assert measured.device_use.setup_peak_reserved_bytes == 1000 + 8 * 4


def test_energy_is_counted_over_the_window_alone() -> None:
    use = run(Bench(), plan(energy_seconds=0.01)).device_use
    assert use.energy_joules is not None
    assert use.energy_tokens is not None
    generations = use.energy_joules / 3.0  # every generation uses 3 J
    assert generations >= 1
    assert use.energy_tokens == 5 * generations
    assert use.energy_utf8_bytes == 11 * generations
    assert use.energy_window_s is not None
    assert use.energy_window_s >= 0.01


def test_a_missing_energy_counter_is_noted_and_does_not_end_the_job() -> None:
    measured = run(Bench(tells_energy=False), plan(energy_seconds=0.01))
    assert measured.device_use.energy_joules is None
    assert measured.notes[0].startswith("energy/* is absent")


def test_the_trace_is_of_an_engine_that_grows_and_comes_last() -> None:
    bench, grown = Bench(), []

    def growing() -> Any:
        assert "profiled:" in bench.log
        return lambda batch, on_step: (grown.append(batch), bench.generate(batch, on_step))[1]

    measured = run(bench, plan(profile=True, memory_trace=True), growing=growing)
    assert grown == [0]
    assert len(measured.device_use.reserved_trace_bytes) == 4


def test_the_profile_comes_last_of_what_is_timed_and_brings_its_own_end_to_end_time() -> None:
    bench = Bench()
    use = run(bench, plan(profile=True, energy_seconds=0.001)).device_use
    assert (use.kernel_ms, use.profiled_e2e_ms) == (150.0, 230.0)
    assert bench.log[-2:] == ["profiled:", "generate 0"]


def test_no_profile_of_a_generation_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "PROFILE_FORWARDS", 3)
    bench = Bench()
    measured = run(bench, plan(profile=True))
    assert measured.device_use.kernel_ms is None
    assert "profiled:" not in bench.log
    assert measured.notes[0].startswith("latency/host_overhead_ms is absent: 4 forwards")


def test_texts_alone_are_written_once_and_nothing_is_read_from_the_device() -> None:
    bench, ticks = Bench(), list[tuple[str, int, int]]()
    made = passes.write(bench.generate, batches=3, tick=lambda *tick: ticks.append(tick))
    assert len(made.first_pass) == 3
    assert (made.timings, made.marks, made.device_use, made.notes) == ((), (), DeviceUse(), ())
    assert ticks == [("write", done, 3) for done in range(4)]


def test_progress_is_announced_and_completed_for_every_phase() -> None:
    ticks: list[tuple[str, int, int]] = []
    settings = plan(warmup=2, memory_trace=True, profile=True, energy_seconds=0.001)
    run(Bench(), settings, tick=lambda phase, done, total: ticks.append((phase, done, total)))
    assert list(dict.fromkeys(phase for phase, _, _ in ticks)) == [
        "warm up",
        "timed",
        "marked",
        "energy",
        "profile",
        "trace",
    ]
    last = {phase: (done, total) for phase, done, total in ticks}
    assert all(done == total for done, total in last.values())
    assert last["timed"] == (5, 5)
    assert last["warm up"] == (2, 2)


def test_on_the_real_cpu_a_job_has_times_and_a_resident_peak_and_nothing_of_a_gpu() -> None:
    def generate(batch: int, on_step: OnStep | None) -> Text:
        value = torch.ones(64, 64)
        for i in range(3):
            value = value @ value.T / 64
            if on_step is not None:
                on_step(i)
        return Text(torch.full((2, 3), batch), 3)

    measured = passes.measure(
        generate,
        batches=2,
        repeated=(0, 1),
        plan=TimingConfig(warmup=1, repeats=2, batches=2, token_timing_repeats=1),
        probe=CpuProbe(),
        marks_first=True,
        valid=lambda batch, text: (6, 12),
        tick=lambda phase, done, total: None,
    )
    use = measured.device_use
    assert len(measured.timings) == 4
    assert all(0 < (timing.prefill_ms or 0) < timing.e2e_ms for timing in measured.timings)
    assert all(mark.at_ms == tuple(sorted(mark.at_ms)) and len(mark.at_ms) == 3 for mark in measured.marks)
    assert use.peak_rss_bytes is not None
    assert use.peak_rss_bytes > 10_000_000
    assert use.peak_reserved_bytes is None
    assert use.energy_joules is None
    assert use.kernel_ms is None
    assert use.throttle_reasons is None
