"""Hypotheses 2 and 3: how does memory change during generation and with its length? CUDA only.

2. *LLaMA's memory grows linearly with length through the KV cache.* Over the canvas G at fixed P and B >= 8, the slope
   of the most bytes in live tensors (M_allocated) against what the cache takes by the architecture.
3. *LLaDA's memory depends on the full length from the start and does not grow during generation.* The trace of one
   generation does not rise after its first step, and what is reserved at that step rises with P + G.

M_reserved moves in segments of the allocator and grows by more than the tensors need, so M_allocated decides where a
Record has it. docs/method.md gives the limits and the reasons.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.analysis.estimates import Estimate
from llmbench.analysis.formats import number
from llmbench.analysis.hypotheses.outcomes import (
    Claim,
    Hypothesis,
    Outcome,
    SettingOutcome,
    conclude,
    finished,
    labels,
    series,
    span,
    sweep_that_decides,
)
from llmbench.analysis.parity.bounds import Array
from llmbench.analysis.parity.grouping import VARIED, check_shared_conditions
from llmbench.record import Record

GROWTH = Claim(number=2, text="LLaMA's memory grows linearly with the length, through the KV cache", recipe="memory")
CONSTANT = Claim(
    number=3,
    text="LLaDA's memory depends on the full length from the start and does not grow during generation",
    recipe="memory",
)

SEGMENT = 20 * 2**20
"""Bytes that PyTorch's allocator takes from the device at once for tensors of 1 to 10 MiB."""

FEWEST = 3
"""Lengths: two always lie on a line."""

ROWS = 8
"""B from which the cache, and not rounding, is what grows."""

_MIB = 2.0**20
_NEEDS_GPU = "M_reserved exists on CUDA only, and none was recorded: run the command below on a GPU"
_ON_GPU = (
    "llmbench -m experiment=memory pair=8b weights=dummy workload=synthetic canvas=256,512,1024,2048 hardware=cuda"
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A straight line through points: least squares, with the slope's 95 % interval by t(n - 2)."""

    slope: Estimate
    residual: float  # the largest, as a share of the line's rise over the points
    bent: bool  # the 95 % interval of a square term excludes 0; four points are the fewest that can tell


def line(lengths: Sequence[float], values: Sequence[float]) -> Line | None:
    """Fit; None for fewer than three points or one length only."""
    from scipy.special import stdtrit

    x, y = np.array(lengths, dtype=np.float64), np.array(values, dtype=np.float64)
    if len(x) < FEWEST or not np.ptp(x):
        return None
    away = x - x.mean()
    slope = float(away @ y / (away @ away))
    off = y - y.mean() - slope * away
    width = float(stdtrit(len(x) - 2, 0.975) * np.sqrt(off @ off / (len(x) - 2) / (away @ away)))
    rise = abs(slope) * float(np.ptp(x))
    residual = float(np.abs(off).max() / rise) if rise else float("inf")
    own = Estimate(value=slope, low=slope - width, high=slope + width)
    return Line(slope=own, residual=residual, bent=_bent(away / np.ptp(x), y))


def _bent(x: Array, y: Array) -> bool:
    from scipy.special import stdtrit

    if len(x) < FEWEST + 1:
        return False
    columns = np.stack([np.ones_like(x), x, x**2], axis=1)
    terms, *_ = np.linalg.lstsq(columns, y, rcond=None)
    off = y - columns @ terms
    variance = off @ off / (len(x) - 3) * np.linalg.pinv(columns.T @ columns)[2, 2]
    return bool(abs(terms[2]) > stdtrit(len(x) - 3, 0.975) * np.sqrt(variance) > 0)


def cache_bytes_per_token(record: Record) -> float | None:
    """What one more token adds to the keys and values of a whole batch, by the architecture; None where no cache grows.

    From the least bytes of two decoding steps that differ in their keys alone.
    """
    steps = {
        cost.shape.keys: cost.bytes for cost in record.forward_costs if cost.shape.queries == 1 and cost.shape.keys > 1
    }
    if len(steps) < 2:
        return None
    first, last = min(steps), max(steps)
    return (steps[last] - steps[first]) / (last - first)


# ----------------------------------------------------------------------------------------------------------------
# Hypothesis 2


def growth(records: Sequence[Record]) -> Hypothesis:
    """Judge hypothesis 2 for every setting of the autoregressive side.

    Raises:
        RecordError: device name or versions differ.
    """
    known = _traced(records, "autoregressive")
    own = [r for r in known if r.conditions.get("decoding.kind", "autoregressive") == "autoregressive"]
    curves = [sorted(members, key=_canvas) for members in series(own, "canvas")]
    names = labels([members[0] for members in curves], "canvas")
    settings = [_grows(name, members) for name, members in zip(names, curves, strict=True)]
    return conclude(GROWTH, settings, _NEEDS_GPU, _ON_GPU, known)


def _grows(name: str, members: Sequence[Record]) -> SettingOutcome:
    first = members[0]
    whole = [record for record in members if len(record.device_use.reserved_trace_bytes) == record.canvas]
    rows = int(first.conditions.get("batch", 0))
    expected = cache_bytes_per_token(whole[0]) if whole else None
    again = _again([_canvas(record) for record in members])
    if rows < ROWS:
        return _open(name, f"B = {rows}, and {ROWS} rows are needed", sweep_that_decides("memory", f"batch={ROWS}"))
    if len({_canvas(record) for record in whole}) < FEWEST:
        why = f"{len(whole)} lengths were generated in full, {FEWEST} are needed"
        return _open(name, why, again)
    if not expected:
        return _open(name, "the architecture's bytes per token were not recorded (metric.roofline)", again)
    lengths = [float(_canvas(record)) for record in whole]
    rise = expected * (lengths[-1] - lengths[0])
    tensors, reserved = _line(lengths, whole, _most_allocated), _line(lengths, whole, _most_reserved)
    decisive = tensors or reserved
    assert decisive is not None
    numbers = [
        ("of the cache, bytes/token", Estimate(value=expected)),
        *((f"{name}, bytes/token", own.slope) for name, own in (("tensors", tensors), ("M_reserved", reserved)) if own),
        ("slope / cache", _share(decisive, expected)),
        ("largest residual / rise", Estimate(value=decisive.residual)),
    ]
    peak = _line(lengths, whole, lambda record: record.metrics.get("memory/over_model_bytes"))
    numbers += [("M_peak slope / cache", _share(peak, expected))] if peak else []
    outcome, why = _line_says(decisive, _share(decisive, expected), rise, of_tensors=tensors is not None)
    decide = "" if outcome is not Outcome.UNDECIDED else _ON_GPU
    why = f"{why}: {span(decisive.slope, ' bytes')} a token, {number(expected)} by the architecture"
    return SettingOutcome(setting=name, outcome=outcome, why=why, numbers=tuple(numbers), decide=decide)


def _most_allocated(record: Record) -> float | None:
    return max(record.device_use.allocated_trace_bytes, default=None)


def _most_reserved(record: Record) -> float | None:
    return max(record.device_use.reserved_trace_bytes, default=None)


def _line(lengths: Sequence[float], members: Sequence[Record], value: Callable[[Record], float | None]) -> Line | None:
    known = [found for found in map(value, members) if found is not None]
    return line(lengths, known) if len(known) == len(members) else None


def _share(fitted: Line, expected: float) -> Estimate:
    slope = fitted.slope
    return Estimate(
        value=slope.value / expected, low=(slope.low or 0.0) / expected, high=(slope.high or 0.0) / expected
    )


def _line_says(fitted: Line, share: Estimate, rise: float, *, of_tensors: bool) -> tuple[Outcome, str]:
    """Outcome and reason: the first that applies."""
    low, high = share.low or 0.0, share.high or 0.0
    off = f"{100 * fitted.residual:.0f} % of the rise"
    cases = (
        (
            rise < 10 * SEGMENT,
            Outcome.UNDECIDED,
            f"the cache grows by {number(rise / _MIB)} MiB, fewer than ten of the allocator's segments",
        ),
        (high < 0.5, Outcome.REFUTED, "it grows by less than half of the cache"),
        (fitted.residual > 0.1 and fitted.bent, Outcome.REFUTED, f"it grows, but not linearly (off by {off})"),
        (low <= 0, Outcome.UNDECIDED, "a slope of 0 is not excluded"),
        (fitted.residual > 0.1, Outcome.UNDECIDED, f"it is off a line by {off}"),
        (low >= 0.5 and high <= 2, Outcome.SUPPORTED, "it grows linearly, by what the cache takes"),
        (low > 2 and of_tensors, Outcome.REFUTED, "it grows linearly, by more than twice the cache"),
        (low > 2, Outcome.UNDECIDED, "it grows by more than twice the cache, and live tensors were not recorded"),
    )
    for applies, outcome, why in cases:
        if applies:
            return outcome, why
    return Outcome.UNDECIDED, "it grows linearly, but whether by the cache alone cannot be said"


# ----------------------------------------------------------------------------------------------------------------
# Hypothesis 3


def constant(records: Sequence[Record]) -> Hypothesis:
    """Judge hypothesis 3 for every diffusion setting and k.

    Raises:
        RecordError: device name or versions differ.
    """
    known = _traced(records, "diffusion")
    curves = [sorted(members, key=_canvas) for members in series(known, "canvas")]
    names = labels([members[0] for members in curves], "canvas")
    settings = [_stays(name, members) for name, members in zip(names, curves, strict=True)]
    return conclude(CONSTANT, settings, _NEEDS_GPU, "llmbench -m experiment=memory, on a GPU", known)


def _stays(name: str, members: Sequence[Record]) -> SettingOutcome:
    again = _again([_canvas(record) for record in members])
    lengths = [_length(record) for record in members]
    taken = [_from_the_start(record) for record in members]
    numbers, grown = [], []
    for record, length, start in zip(members, lengths, taken, strict=True):
        trace = record.device_use.reserved_trace_bytes
        later = max(trace) - trace[0]
        grown += [(record, later)] if later > max(SEGMENT, 0.05 * start) else []
        numbers.append((f"MiB at step 1, P + G = {length}", Estimate(value=start / _MIB)))
        numbers.append((f"MiB more later, P + G = {length}", Estimate(value=later / _MIB)))
        peak = record.metrics.get("memory/over_model_bytes")
        numbers += [(f"M_peak over the model, MiB, P + G = {length}", Estimate(value=peak / _MIB))] if peak else []
    if grown:
        record, later = grown[-1]
        why = f"at G = {record.canvas} it grows by {number(later / _MIB)} MiB after the first step"
        return SettingOutcome(setting=name, outcome=Outcome.REFUTED, why=why, numbers=tuple(numbers))
    if any(len(record.device_use.reserved_trace_bytes) < 2 for record in members):
        return _open(
            name, "a generation of one step shows no growth", sweep_that_decides("memory", "steps=32"), numbers
        )
    if len(set(lengths)) < FEWEST:
        count = len(set(lengths))
        why = f"it does not grow during generation; {count} lengths are too few to see whether it depends on them"
        return _open(name, why, again, numbers)
    return _with_length(name, lengths, taken, numbers)


def _with_length(
    name: str, lengths: Sequence[int], taken: Sequence[int], numbers: Sequence[tuple[str, Estimate]]
) -> SettingOutcome:
    """What does not grow during generation: does it depend on the length from the start?"""
    flat = "it does not grow after the first step"
    rise, span_of = taken[-1] - taken[0], f"P + G = {lengths[0]} to {lengths[-1]}"
    drops = any(later < earlier - SEGMENT for earlier, later in itertools.pairwise(taken))
    shown = f"{number(taken[0] / _MIB)} to {number(taken[-1] / _MIB)} MiB over {span_of}"
    if rise > 2 * SEGMENT and not drops:
        why = f"{flat}, and what that step reserves rises with the length: {shown}"
        return SettingOutcome(setting=name, outcome=Outcome.SUPPORTED, why=why, numbers=tuple(numbers))
    said = "falls in between" if drops else "lies within two of the allocator's segments"
    return _open(name, f"{flat}, but its rise with the length ({shown}) {said}", _ON_GPU, numbers)


def _from_the_start(record: Record) -> int:
    """Reserved after the first step, over the model alone."""
    return record.device_use.reserved_trace_bytes[0] - (record.device_use.model_reserved_bytes or 0)


def _length(record: Record) -> int:
    """P + G: the longest sequence that a forward read, padding included."""
    return max((cost.shape.keys for cost in record.forward_costs), default=record.canvas or 0)


# ----------------------------------------------------------------------------------------------------------------


def _traced(records: Sequence[Record], family: str) -> list[Record]:
    """Finished Records of a family with a memory trace, made under equal conditions."""
    known = finished(records, lambda r: r.family == family and bool(r.device_use.reserved_trace_bytes))
    if known:
        check_shared_conditions(known, VARIED)
    return known


def _canvas(record: Record) -> int:
    return record.canvas or 0


def _again(lengths: Sequence[int]) -> str:
    """The recipe with more lengths."""
    wanted = sorted({*lengths, *(max(lengths) * factor for factor in (1, 2, 4))})
    return sweep_that_decides("memory", f"canvas={','.join(map(str, wanted))}")


def _open(name: str, why: str, decide: str, numbers: Sequence[tuple[str, Estimate]] = ()) -> SettingOutcome:
    return SettingOutcome(setting=name, outcome=Outcome.UNDECIDED, why=why, numbers=tuple(numbers), decide=decide)
