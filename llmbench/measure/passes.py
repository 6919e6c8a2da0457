"""In which order is a job warmed up, timed and instrumented, so that no instrument touches the time that is reported?

Each instrument has a pass of its own; the timed pass has none (AR: one unsynchronised event after the first token).

    warm up    the repeated batches, whole generations: kernels, allocator and caches see the real shapes
    settle     CUDA: clean, then every batch once, so that the timed pass waits neither for the emptied allocator cache
               nor for the first kernel of a shape
    timed      repeat 0 = every batch of the partition, repeats 1.. = the repeated batches; peaks are read at its end.
               `timing.until` adds repeats while the interval of L_e2e is wide (`measure.stopping`)
    marked     the repeated batches, a mark at every token or step
    energy     CUDA: generations back to back over a window that is long for the driver's counter
    profile    CUDA, last of what is timed, because a profiler can outstay its session: the time in which a kernel runs
    trace      CUDA: bytes reserved and allocated at every token or step, of an eager engine: static memory is constant

A point of the baseline's curve needs texts and no times: `write` generates every batch once.

M_peak is the most reserved over settle and timed pass together: generation from a clean allocator, without set-up.
A throttled batch is generated again, at most `throttle_retries` times (nvbench issue 231: discarding without a limit
left no result at all); the last sample is kept and marked, and a note counts what was replaced. The texts that are
scored are those of repeat 0: should a later repeat write other tokens, a note says so. Nothing here knows a model.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch

from llmbench.config.job import TimingConfig
from llmbench.measure import stopping
from llmbench.measure.nvml import FAULTS, POWER_CAP
from llmbench.measure.probes import Probe
from llmbench.measure.timing import MarkMode, OnStep, Reading, time_region
from llmbench.record import DeviceUse, Marks, Stopping, Timing, total

PROFILE_FORWARDS = 1024
"""No profile of a longer generation: a forward is up to 500 kernels, and every launch leaves records in host memory."""

RETRY_PAUSE_S = 0.25
"""Seconds of pause before the first retry of a throttled batch; retry n waits n times as long."""


class GeneratedBatch(Protocol):
    """A batch of outputs, as far as the passes read it."""

    @property
    def nfe(self) -> float | None:
        """Forwards made, guidance counted twice; None where nobody knows. Read outside timed regions."""

    @property
    def longest_row(self) -> int | None:
        """Tokens of the longest row, where they stand for forwards that are not known."""

    @property
    def first_text(self) -> int:
        """Calls of `on_step` until the first text is final."""

    @property
    def tokens(self) -> torch.Tensor:
        """Output ids, [B, <= G]."""


G = TypeVar("G", bound=GeneratedBatch)

HalfWidth = Callable[[Sequence[Timing], Sequence[int]], float | None]

Tick = Callable[[str, int, int], None]
"""Progress: phase, done, total. Called outside timed regions."""


@dataclass(frozen=True, kw_only=True)
class Measured(Generic[G]):
    """What the passes saw."""

    timings: tuple[Timing, ...]
    marks: tuple[Marks, ...]
    device_use: DeviceUse
    notes: tuple[str, ...]
    stopping: Stopping | None = None  # with `timing.until`
    first_pass: list[G]  # the generations of repeat 0, one per batch: the outputs that are scored


def measure(
    generate: Callable[[int, OnStep | None], G],
    *,
    batches: int,
    repeated: Sequence[int],
    plan: TimingConfig,
    probe: Probe,
    marks_first: bool,
    valid: Callable[[int, G], tuple[int, int | None]],
    tick: Tick,
    half_width: HalfWidth = lambda timings, batches: None,
    growing: Callable[[], Callable[[int, OnStep | None], G]] | None = None,
) -> Measured[G]:
    """Run all passes of one job.

    Args:
        generate: generates one batch, by index; calls `on_step` when a token or step is final. Equal calls write
            equal tokens.
        batches: size of the partition.
        repeated: the fixed part of it that repeats, marks and instruments use.
        plan: how often.
        probe: the device.
        marks_first: time the first token too (a decoder whose tokens come one by one).
        valid: valid tokens and UTF-8 bytes (None: no text) of a generation of a batch; called outside timed regions.
        tick: progress.
        half_width: of the interval of L_e2e over its median, from times of these batches; None where there is none yet.
        growing: ends `generate`, and gives one whose memory grows while it generates, for the trace; None keeps
            `generate`.
    """
    bench = _Passes(
        generate=generate,
        repeated=tuple(repeated),
        plan=plan,
        probe=probe,
        valid=valid,
        tick=tick,
        half_width=half_width,
    )
    bench.warm_up()
    setup_peak = probe.peak_reserved_bytes()
    bench.settle(batches)
    clock_before = probe.sm_clock_mhz()
    timings, first_pass = bench.timed(batches, "first" if marks_first else "none")
    use = DeviceUse(
        setup_peak_reserved_bytes=setup_peak,
        sm_clock_mhz_before=clock_before,
        sm_clock_mhz_after=probe.sm_clock_mhz(),
        peak_reserved_bytes=probe.peak_reserved_bytes(),
        peak_allocated_bytes=probe.peak_allocated_bytes(),
        device_used_bytes=probe.device_used_bytes(),  # the allocator still holds its peak here
        peak_rss_bytes=probe.peak_rss_bytes(),
        other_sm_percent=bench.other_sm_percent,
        throttle_reasons=None if bench.reasons is None else tuple(sorted(bench.reasons & set(FAULTS.values()))),
    )
    marks = bench.marked()
    if probe.kind == "cuda":
        use = bench.energy(use)
        use = bench.profile(use, first_pass[repeated[0]].nfe)
        if plan.memory_trace:
            use = bench.trace(use, growing() if growing else generate)
    return Measured(
        timings=timings,
        marks=marks,
        device_use=use,
        notes=(*bench.notes, *probe.notes()),
        stopping=bench.stopping,
        first_pass=first_pass,
    )


def write(generate: Callable[[int, OnStep | None], G], *, batches: int, tick: Tick) -> Measured[G]:
    """Generate every batch once, for its texts alone: nothing is warmed up, timed or read from the device.

    Args:
        generate: as in `measure`.
        batches: size of the partition.
        tick: progress.
    """
    first_pass: list[G] = []
    for batch in range(batches):
        tick("write", batch, batches)
        first_pass.append(generate(batch, None))
    tick("write", batches, batches)
    return Measured(timings=(), marks=(), device_use=DeviceUse(), notes=(), first_pass=first_pass)


class _Passes(Generic[G]):
    """The passes of one job, and what they have in common: how to generate, on what, and what to tell the reader."""

    def __init__(
        self,
        *,
        generate: Callable[[int, OnStep | None], G],
        repeated: tuple[int, ...],
        plan: TimingConfig,
        probe: Probe,
        valid: Callable[[int, G], tuple[int, int | None]],
        tick: Tick,
        half_width: HalfWidth,
    ) -> None:
        self._generate, self._repeated, self._plan = generate, repeated, plan
        self._probe, self._valid, self._tick, self._half_width = probe, valid, tick, half_width
        self.notes: list[str] = []
        self.reasons: set[str] | None = None  # seen in the timed pass; None = the device does not tell
        self.other_sm_percent: float | None = None  # likewise
        self.stopping: Stopping | None = None

    def _time(self, batch: int, marks: MarkMode) -> tuple[Reading, G]:
        return time_region(self._probe.clock(), lambda on_step: self._generate(batch, on_step), marks)

    def _rounds(self, phase: str, count: int) -> list[tuple[int, int]]:
        """(round, batch) of `count` rounds over the repeated batches; announces the phase."""
        self._tick(phase, 0, count * len(self._repeated))
        return [(number, batch) for number in range(count) for batch in self._repeated]

    def warm_up(self) -> None:
        """Whole generations of the repeated batches, untimed."""
        rounds = self._rounds("warm up", self._plan.warmup)
        for done, (_, batch) in enumerate(rounds, start=1):
            self._generate(batch, None)
            self._tick("warm up", done, len(rounds))
        self._probe.synchronize()

    def settle(self, batches: int) -> None:
        """Clean and reset peaks; on CUDA, generate every batch once, so that the allocator has blocks of each shape."""
        self._probe.clean()
        if self._probe.kind == "cuda":
            for batch in range(batches):
                self._generate(batch, None)
            self._probe.synchronize()

    def timed(self, batches: int, marks: MarkMode) -> tuple[tuple[Timing, ...], list[G]]:
        """Repeat 0 over the whole partition, then the repeated batches: times, and the generations of repeat 0."""
        timings: list[Timing] = []
        total = batches + (self._plan.repeats - 1) * len(self._repeated)
        first_pass: list[G] = []
        differing = capped = 0
        others = self._probe.other_processes()
        for done, (repeat, batch) in enumerate(self._order(batches, timings)):
            self._tick("timed", done, max(total, done + 1))
            reading, generation, reasons = self._retried(repeat, batch, marks)
            others.look()
            if repeat == 0:
                first_pass.append(generation)
            elif not torch.equal(generation.tokens, first_pass[batch].tokens):
                differing += 1
            if reasons is not None:
                self.reasons = (self.reasons or set()) | reasons
                capped += bool(reasons & set(POWER_CAP.values()))
            tokens, utf8_bytes = self._valid(batch, generation)
            timings.append(
                Timing(
                    batch=batch,
                    repeat=repeat,
                    e2e_ms=reading.e2e_ms,
                    e2e_wall_ms=reading.wall_ms,
                    prefill_ms=reading.marks_ms[0] if reading.marks_ms else None,
                    forwards=generation.nfe,
                    longest_row=generation.longest_row,
                    tokens=tokens,
                    utf8_bytes=utf8_bytes,
                    throttled=None if reasons is None else _throttled(reasons),
                )
            )
        self._tick("timed", len(timings), len(timings))
        self.other_sm_percent = others.busiest_percent()
        if differing:
            self.notes.append(
                f"{differing} of {len(timings) - batches} repeats wrote other tokens than repeat 0, which is scored"
            )
        if capped:
            self.notes.append(
                f"the power limit held the clocks in {capped} of {len(timings)} timed batches (not throttling)"
            )
        return tuple(timings), first_pass

    def _order(self, batches: int, timings: Sequence[Timing]) -> Iterator[tuple[int, int]]:
        """(repeat, batch) of the timed pass, in order; `timings` fills while it is gone through."""
        yield from ((0, batch) for batch in range(batches))
        made, width = 1, None
        while made < self._plan.repeats or stopping.goes_on(self._plan, made, width):
            yield from ((made, batch) for batch in self._repeated)
            made += 1
            width = None if self._plan.until is None else self._half_width(timings, self._repeated)
        self.stopping = stopping.stopped(self._plan, made, width)
        if self.stopping is not None:
            self.notes.append(stopping.note(self.stopping))

    def _retried(self, repeat: int, batch: int, marks: MarkMode) -> tuple[Reading, G, set[str] | None]:
        """Time one batch; while it is throttled, again, at most `throttle_retries` times."""
        retry = 0
        while True:
            before = self._probe.throttle_reasons()
            reading, generation = self._time(batch, marks)
            after = self._probe.throttle_reasons()
            reasons = None if before is None or after is None else {*before, *after}
            throttled = reasons is not None and _throttled(reasons)
            if not throttled or retry == self._plan.throttle_retries:
                break
            retry += 1
            time.sleep(RETRY_PAUSE_S * retry)
        if retry or throttled:
            outcome = "still throttled" if throttled else "then clear"
            self.notes.append(f"batch {batch}, repeat {repeat}: throttled, generated again {retry} times, {outcome}")
        return reading, generation, reasons

    def marked(self) -> tuple[Marks, ...]:
        """A mark at every token or step; its own pass, because a mark costs a little each time."""
        marks: list[Marks] = []
        rounds = self._rounds("marked", self._plan.token_timing_repeats)
        for repeat, batch in rounds:
            reading, made = self._time(batch, "every")
            marks.append(Marks(batch=batch, repeat=repeat, at_ms=reading.marks_ms, first_text=made.first_text))
            self._tick("marked", len(marks), len(rounds))
        return tuple(marks)

    def trace(self, use: DeviceUse, generate: Callable[[int, OnStep | None], G]) -> DeviceUse:
        """M_reserved(t), and what live tensors take, over one generation of the first repeated batch.

        From a clean allocator. Both are counts of the host's: reading them waits for nothing.
        """
        self._tick("trace", 0, 1)
        self._probe.clean()
        reserved: list[int | None] = []
        allocated: list[int | None] = []

        def look(_: int) -> None:
            reserved.append(self._probe.reserved_bytes())
            allocated.append(self._probe.allocated_bytes())

        generate(self._repeated[0], look)
        self._probe.synchronize()
        self._tick("trace", 1, 1)
        return replace(use, reserved_trace_bytes=_known(reserved), allocated_trace_bytes=_known(allocated))

    def energy(self, use: DeviceUse) -> DeviceUse:
        """Energy of generations back to back over the planned window; what they wrote is counted afterwards.

        The device is synchronised at both ends and after each generation (else the host would queue work past the
        window's end). One generation before the window brings clocks and power up.
        """
        seconds = self._plan.energy_seconds
        if not seconds:
            return use
        probe, written = self._probe, list[tuple[int, G]]()
        self._tick("energy", 0, 100)
        self._generate(self._repeated[0], None)
        probe.synchronize()
        joules_before, begin, elapsed = probe.energy_joules(), time.perf_counter(), 0.0
        if joules_before is None:
            self.notes.append("energy/* is absent: the driver has no energy counter for this device")
            self._tick("energy", 100, 100)
            return use
        while elapsed < seconds:
            for batch in self._repeated:
                written.append((batch, self._generate(batch, None)))
                probe.synchronize()
            elapsed = time.perf_counter() - begin
        joules_after = probe.energy_joules()
        self._tick("energy", 100, 100)
        if joules_after is None:
            return use
        sizes = [self._valid(batch, generation) for batch, generation in written]
        return replace(
            use,
            energy_joules=joules_after - joules_before,
            energy_window_s=elapsed,
            energy_tokens=sum(tokens for tokens, _ in sizes),
            energy_utf8_bytes=total(utf8_bytes for _, utf8_bytes in sizes),
        )

    def profile(self, use: DeviceUse, forwards: float | None) -> DeviceUse:
        """Time in which a kernel runs, and L_e2e, in one profiled generation of the first repeated batch."""
        if not self._plan.profile:
            return use
        if forwards is not None and forwards > PROFILE_FORWARDS:
            self.notes.append(
                f"latency/host_overhead_ms is absent: {forwards} forwards, profiled are at most {PROFILE_FORWARDS}"
            )
            return use
        self._tick("profile", 0, 1)
        kernel_ms, (reading, _) = self._probe.busy_ms(lambda: self._time(self._repeated[0], "none"))
        self._tick("profile", 1, 1)
        return use if kernel_ms is None else replace(use, kernel_ms=kernel_ms, profiled_e2e_ms=reading.e2e_ms)


def _throttled(reasons: set[str]) -> bool:
    return not reasons.isdisjoint(FAULTS.values())


def _known(values: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(value for value in values if value is not None)
