"""From one Record's raw times to its latency, throughput, memory, energy and roofline values. Pure; no torch.

docs/metrics.md defines the values. A batch has a latency; a repeat's value is the mean over the repeated batches; the
logged value is the median over repeats. Throughput is one ratio of sums over *all* batches: what repeat 0 wrote, over
each batch's L_e2e (the median of its repeats; a batch that is not repeated has one time). What cannot be computed is a
missing key: one repeat has no quartiles, five have no interval, one forward has no gap.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llmbench.metrics.keys import METRICS
from llmbench.record import Ceilings, DeviceUse, ForwardCost, Marks, Record, Timing, from_server, total

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median of some samples, and how far they lie apart. None = too few samples to say."""

    median: float
    q1: float | None
    q3: float | None
    n: int
    ci_low: float | None = None
    ci_high: float | None = None


def compute(record: Record) -> dict[str, float]:
    """Every latency, throughput, memory, energy, hardware and roofline value that the Record supports.

    Keys are those of `METRICS` that apply to the job's family and device, with `SPREAD` suffixes where the
    registry says so.
    """
    values: dict[str, float | Spread | None] = {}
    for part in (_latency, throughput, _memory, _energy, _hardware, _roofline):
        values |= part(record)
    return {
        name: float(number)
        for key, value in values.items()
        if METRICS[key].applies(record.family, record.environment.device)
        for name, number in _flat(key, value).items()
        if number is not None
    }


def _flat(key: str, value: float | Spread | None) -> dict[str, float | None]:
    if not isinstance(value, Spread):
        return {key: value}
    flat: dict[str, float | None] = {key: value.median}
    if METRICS[key].spread:
        flat |= {f"{key}_q1": value.q1, f"{key}_q3": value.q3, f"{key}_n": value.n}
        flat |= {f"{key}_ci_low": value.ci_low, f"{key}_ci_high": value.ci_high}
    return flat


# ----------------------------------------------------------------------------------------------------------------
# Samples


def spread(samples: Sequence[float], *, interval: bool = True) -> Spread | None:
    """Median, quartiles, count and (with `interval`) a 95 % interval of the median; None for no samples.

    Quartiles interpolate linearly between order statistics (Hyndman and Fan 1996, type 7: numpy's default), from two
    samples on. `interval` is for independent samples: repeats, not the tokens of one generation.
    """
    if not samples:
        return None
    q1 = q3 = None
    if len(samples) > 1:
        q1, _, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    low, high = (median_interval(samples) if interval else None) or (None, None)
    return Spread(median=statistics.median(samples), q1=q1, q3=q3, n=len(samples), ci_low=low, ci_high=high)


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the median from order statistics: [x_(j), x_(n+1-j)], j as large as the coverage allows.

    Free of assumptions on the distribution: the number of samples below the median is Binomial(n, 1/2), so the interval
    covers with probability 1 - 2 P(Binomial(n, 1/2) < j) (David and Nagaraja, Order Statistics, 3rd ed., section 7.1;
    advised for benchmarks by Hoefler and Belli, SC15). n = 6 is the smallest count that reaches 95 %: [min, max]
    covers with 96.9 %. None below.
    """
    n = len(samples)
    outside, j = 0.0, 0  # outside = 2 P(Binomial(n, 1/2) < j)
    while (wider := outside + 2 * math.comb(n, j) / 2**n) <= 1 - CONFIDENCE:
        outside, j = wider, j + 1
    if j == 0:
        return None
    ordered = sorted(samples)
    return ordered[j - 1], ordered[n - j]


def relative_half_width(timings: Sequence[Timing], batches: Sequence[int]) -> float | None:
    """Half the 95 % interval of L_e2e over its median; None where there are too few repeats of these batches."""
    samples = _repeat_means(((t.repeat, t.batch, t.e2e_ms) for t in timings), batches)
    interval = median_interval(samples)
    return None if interval is None else (interval[1] - interval[0]) / 2 / statistics.median(samples)


def gaps(marks: Iterable[Marks]) -> list[float]:
    """Times between neighbouring marks, each generation by itself: R generations of F marks give R x (F - 1) samples.

    The time before a generation's first mark (prefill, or the first step with the set-up of the loop) is no gap.
    """
    return [later - earlier for mark in marks for earlier, later in zip(mark.at_ms, mark.at_ms[1:], strict=False)]


def per_repeat(record: Record, value: Callable[[Timing], float | None]) -> list[float]:
    """One sample per repeat: the mean of `value` over the repeated batches.

    A repeat in which a repeated batch is missing or has no value is left out: its mean would be of other batches.
    """
    return _repeat_means(((t.repeat, t.batch, value(t)) for t in record.timings), record.repeated_batches)


def _repeat_means(samples: Iterable[tuple[int, int, float | None]], batches: Sequence[int]) -> list[float]:
    """Means over `batches` of samples (repeat, batch, value), one for every repeat that has all of them."""
    found: dict[int, list[float]] = {}
    for repeat, batch, value in samples:
        if batch in batches and value is not None:
            found.setdefault(repeat, []).append(value)
    return [statistics.fmean(found[repeat]) for repeat in sorted(found) if len(found[repeat]) == len(batches)]


# ----------------------------------------------------------------------------------------------------------------
# Latency


def _latency(record: Record) -> dict[str, float | Spread | None]:
    between = spread(gaps(record.marks), interval=False)
    stepwise = record.family == "diffusion" or record.draft is not None  # a forward is no token
    use = record.device_use
    apart = None if from_server(record) else per_repeat(record, lambda timing: timing.e2e_wall_ms - timing.e2e_ms)
    return {
        "latency/e2e_ms": spread(per_repeat(record, lambda timing: timing.e2e_ms)),
        "latency/e2e_wall_ms": spread(per_repeat(record, lambda timing: timing.e2e_wall_ms)),
        "latency/clock_gap_ms": spread(apart or ()),
        "latency/host_overhead_ms": _difference(use.profiled_e2e_ms, use.kernel_ms),
        "latency/prefill_ms": spread(per_repeat(record, lambda timing: timing.prefill_ms)),
        "latency/itl_ms": None if record.draft else spread(per_repeat(record, inter_token_ms)),
        "latency/token_gap_ms": None if stepwise else between,
        "latency/step_ms": between if stepwise else None,
        "latency/first_text_ms": first_text(record),
        "latency/tokenize_ms": record.tokenize_ms,
    }


def inter_token_ms(timing: Timing) -> float | None:
    """L_itl = (L_e2e - L_prefill) / (F - 1) of one batch; None without a prefill time or with fewer than two forwards.

    F counts forwards executed, not valid tokens: a batch runs until its last row stops. A server's are not known: the
    tokens of the longest row stand for them.
    """
    steps = timing.longest_row if timing.forwards is None else timing.forwards
    if timing.prefill_ms is None or steps is None or steps < 2:
        return None
    return (timing.e2e_ms - timing.prefill_ms) / (steps - 1)


def first_text(record: Record) -> Spread | None:
    """When final text could first be shown: prefill (AR), end of the first block, or end of a whole canvas.

    The end of a block is read from the marked pass, the others from the timed pass. Marks are one per denoising step,
    also under guidance. Of a server it is the first text of the row that shows it last.
    """
    if record.family == "autoregressive" or from_server(record):
        return spread(per_repeat(record, lambda timing: timing.prefill_ms))
    if record.steps is None or record.canvas is None or record.block_length is None:
        return None
    if record.block_length >= record.canvas:
        return spread(per_repeat(record, lambda timing: timing.e2e_ms))
    per_block = record.steps * record.block_length // record.canvas  # of a Record that does not say when it was
    needed = [(mark, mark.first_text or per_block) for mark in record.marks]
    ends = ((mark.repeat, mark.batch, mark.at_ms[n - 1] if len(mark.at_ms) >= n else None) for mark, n in needed)
    return spread(_repeat_means(ends, record.repeated_batches))


# ----------------------------------------------------------------------------------------------------------------
# Throughput, memory, energy, clocks


def throughput(record: Record) -> dict[str, float | None]:
    """Ratios of sums over all batches: outputs of repeat 0, over the median of each batch's times.

    A device is busy for the time of each batch once; each of its prompts waits for it.
    """
    first = [timing for timing in record.timings if timing.repeat == 0]
    if not first:
        return {}
    times: dict[int, list[float]] = {}
    for timing in record.timings:
        times.setdefault(timing.batch, []).append(timing.e2e_ms)
    seconds = sum(statistics.median(times[timing.batch]) for timing in first) / 1e3
    tokens, size = sum(timing.tokens for timing in first), total(timing.utf8_bytes for timing in first)
    rows = {index: len(batch) for index, batch in enumerate(record.partition)}
    known = all(timing.batch in rows for timing in first)
    waited = sum(rows[t.batch] * statistics.median(times[t.batch]) for t in first) / 1e3 if known else None
    forwards = {timing.batch: timing.forwards for timing in first}
    written = sum(rows[t.batch] for t in first) * record.canvas if known and record.canvas is not None else None
    return {
        "throughput/tokens_per_s": _ratio(tokens, seconds),
        "throughput/bytes_per_s": _ratio(size, seconds),
        "throughput/tokens_per_s_per_user": _ratio(tokens, waited),
        "throughput/bytes_per_s_per_user": _ratio(size, waited),
        "throughput/canvas_tokens_per_s": _ratio(written, seconds),
        "throughput/forwarded_tokens": _forwarded(record),
        "throughput/nfe": _ratio(total(forwards.values()), len(first)),
        "throughput/tokens_per_forward": _ratio(
            tokens, total(n and rows[batch] * n for batch, n in forwards.items()) if known else None
        ),
    }


def _forwarded(record: Record) -> float | None:
    """Positions through the network per output, in the first repeated batch: guidance twice, refreshes included."""
    if not record.forward_costs or not record.repeated_batches or not record.partition:
        return None
    rows = len(record.partition[record.repeated_batches[0]])
    return sum(cost.count * cost.shape.rows * cost.shape.queries for cost in record.forward_costs) / rows


def _memory(record: Record) -> dict[str, float | Spread | None]:
    use = record.device_use
    condition = record.conditions.get
    compiled = (condition("decoding.kind"), condition("decoding.cache")) == ("transformers", "static")  # CUDA graphs
    eager = condition("engine", "eager") == "eager" and not compiled  # the allocator does not count replayed graphs
    return {
        "memory/peak_reserved_bytes": use.peak_reserved_bytes,
        "memory/setup_peak_reserved_bytes": use.setup_peak_reserved_bytes,
        "memory/model_reserved_bytes": use.model_reserved_bytes,
        "memory/over_model_bytes": _difference(use.peak_reserved_bytes, use.model_reserved_bytes),
        "memory/device_used_bytes": use.device_used_bytes,
        "memory/peak_allocated_bytes": use.peak_allocated_bytes if eager else None,
        "memory/peak_rss_bytes": use.peak_rss_bytes,
    }


def _energy(record: Record) -> dict[str, float | Spread | None]:
    use: DeviceUse = record.device_use
    return {
        "energy/joules_per_token": _ratio(use.energy_joules, use.energy_tokens),
        "energy/joules_per_byte": _ratio(use.energy_joules, use.energy_utf8_bytes),
    }


def _hardware(record: Record) -> dict[str, float | Spread | None]:
    """The clock around the timed pass, and the share of its batches (where it is known) that were throttled."""
    throttled = [timing.throttled for timing in record.timings if timing.throttled is not None]
    return {
        "hardware/sm_clock_mhz_before": record.device_use.sm_clock_mhz_before,
        "hardware/sm_clock_mhz": record.device_use.sm_clock_mhz_after,
        "hardware/throttled": _ratio(sum(throttled), len(throttled)),
    }


# ----------------------------------------------------------------------------------------------------------------
# Roofline


def _roofline(record: Record) -> dict[str, float | Spread | None]:
    """The least time for the forwards of a repeated batch, on average, against L_e2e.

    Roofline model (Williams, Waterman and Patterson, CACM 2009) per forward: max(FLOPs / peak rate, bytes / bandwidth).
    A Record that has the forwards of the first repeated batch alone (older ones) is judged by that batch's time.
    """
    ceilings = record.ceilings
    if ceilings is None or not record.forward_costs or not record.repeated_batches:
        return {}
    costs = (record.forward_costs, *record.other_forward_costs)
    limit_ms = statistics.fmean(_least_ms(own, ceilings) for own in costs)
    batches = record.repeated_batches[: len(costs)]
    times = _repeat_means(((t.repeat, t.batch, t.e2e_ms) for t in record.timings), batches)
    return {
        "roofline/limit_ms": limit_ms,
        "roofline/efficiency": _ratio(limit_ms, statistics.median(times) if times else None),
    }


def _least_ms(costs: Iterable[ForwardCost], ceilings: Ceilings) -> float:
    return 1e3 * sum(
        cost.count * max(cost.flops / ceilings.flops_per_s, cost.bytes / ceilings.bytes_per_s) for cost in costs
    )


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _difference(whole: float | None, part: float | None) -> float | None:
    return None if whole is None or part is None else whole - part
