"""Hypothesis 1: is LLaDA's throughput superior at high batch?

    R(B) = T_LLaDA / T_LLaMA, both in valid bytes per second at the same batch size

Supported if R rises with B and crosses 1 from below, refuted if it crosses downward or falls below 1 (docs/method.md).
R's interval is that of the time ratio (`speed.speedup`), laid at R: the bytes are taken as written.
"Below", "above", "rises" and "falls" are said only of intervals that do not overlap, so a ratio without an interval
decides nothing. Where a gate forbids to quote a speedup, nothing is supported.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmbench.analysis.estimates import Estimate, logged_mean
from llmbench.analysis.formats import number
from llmbench.analysis.hypotheses.outcomes import (
    FEWEST_PROMPTS,
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
    too_few_prompts,
)
from llmbench.analysis.parity.check_sentences import reason
from llmbench.analysis.parity.grouping import VARIED, Group, check_shared_conditions, comparison_groups, group
from llmbench.analysis.parity.sides import Side
from llmbench.analysis.parity.speed import speedup
from llmbench.analysis.parity.speed_checks import speed_checks
from llmbench.config.job import SYNTHETIC
from llmbench.config.parity import ThresholdsConfig
from llmbench.record import Record

CLAIM = Claim(
    number=1,
    text="LLaDA's throughput is superior at high batch: R(B) rises with B and crosses 1 from below",
    recipe="throughput",
)

FEWEST = 3
"""Batch sizes: of two points nobody can tell whether R changes steadily."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """R at one batch size, or why there is none."""

    batch: int
    ratio: Estimate | None
    why_not: str = ""
    doubt: str = ""  # why a speedup may not be quoted there: the gates of the verdict on speed


@dataclass(frozen=True, kw_only=True)
class Course:
    """How R changes over B."""

    outcome: Outcome
    why: str
    crossing: float | None = None  # B*
    wanted: str = ""  # what would decide: "larger", "batches", "repeats", "bytes"


def throughput(records: Sequence[Record]) -> Hypothesis:
    """Judge hypothesis 1 for every diffusion setting and k.

    Raises:
        RecordError: device name or versions differ, or a side has two Records where one belongs.
    """
    known = finished(records)
    if known:
        check_shared_conditions(known, VARIED)
    points = _points(known)
    curves = series([record for record in known if id(record) in points], "batch")
    curves = [members for members in curves if any(points[id(record)].ratio for record in members)]
    names = labels([members[0] for members in curves], "batch")
    settings = [
        _judge_setting(name, members, sorted((points[id(r)] for r in members), key=lambda point: point.batch))
        for name, members in zip(names, curves, strict=True)
    ]
    missing = "no batch size was run with both models and text to count"
    return conclude(CLAIM, settings, missing, "llmbench -m experiment=throughput", known)


def course(points: Sequence[tuple[int, Estimate]]) -> Course:
    """Judge R over rising B."""
    if len(points) < FEWEST:
        return Course(
            outcome=Outcome.UNDECIDED,
            why=f"{len(points)} batch sizes are too few to see how R changes, {FEWEST} are needed",
            wanted="batches",
        )
    if any(ratio.low is None or ratio.high is None for _, ratio in points):
        why = "a ratio without an interval decides nothing: fewer than 6 repeats"
        return Course(outcome=Outcome.UNDECIDED, why=why, wanted="repeats")
    sizes = [size for size, _ in points]
    low, high = (np.array([getattr(ratio, end) for _, ratio in points], dtype=np.float64) for end in ("low", "high"))
    above, below = low > 1, high < 1
    pairs = [(i, j) for i in range(len(points)) for j in range(i + 1, len(points))]
    falls = [(i, j) for i, j in pairs if high[j] < low[i]]
    if down := [(i, j) for i, j in pairs if above[i] and below[j]]:
        i, j = max(down, key=lambda pair: (pair[1], pair[0]))
        star = _crossing(points[i : j + 1], down=True)
        return Course(outcome=Outcome.REFUTED, why=f"R crosses 1 downward at B* = {number(star)}", crossing=star)
    if below[0] and above[-1] and not falls:
        star = _crossing(points, down=False)
        why = f"R rises and crosses 1 from below at B* = {number(star)}"
        return Course(outcome=Outcome.SUPPORTED, why=why, crossing=star)
    if below.all() and (0, len(points) - 1) in falls:
        return Course(outcome=Outcome.REFUTED, why=f"R is below 1 at every B and falls to B = {sizes[-1]}")
    return _undecided(sizes, above, below, falls, rises=bool(low[-1] > high[0]))


def _undecided(
    sizes: Sequence[int],
    above: NDArray[np.bool_],
    below: NDArray[np.bool_],
    falls: Sequence[tuple[int, int]],
    rises: bool,
) -> Course:
    """Why neither can be said."""
    monotone = (
        "rises" if rises and not falls else "falls" if falls and not rises else "neither rises nor falls steadily"
    )
    if falls and not (above.all() or below.all()):
        i, j = falls[0]
        why = f"R does not rise steadily: it falls from B = {sizes[i]} to B = {sizes[j]}"
        return Course(outcome=Outcome.UNDECIDED, why=why, wanted="larger")
    if above.all():
        why = f"R is above 1 at every B, also at B = {sizes[0]}, and {monotone}: there is no crossing from below"
        return Course(outcome=Outcome.UNDECIDED, why=why, wanted="larger")
    if below.all():
        why = f"R is below 1 up to B = {sizes[-1]} and {monotone}"
        return Course(outcome=Outcome.UNDECIDED, why=why, wanted="larger")
    why = f"R {monotone}, and its intervals at B = {sizes[0]} and B = {sizes[-1]} do not show a crossing of 1"
    return Course(outcome=Outcome.UNDECIDED, why=why, wanted="larger" if rises else "repeats")


def _crossing(points: Sequence[tuple[int, Estimate]], *, down: bool) -> float:
    """B* of the last crossing in that direction, on straight lines between points in log B and log R.

    R = 0 has no logarithm: a crossing from or to it is put at the later of the two B.
    """
    star = float(points[-1][0])
    for (size, left), (after, right) in itertools.pairwise(points):
        if (left.value >= 1 > right.value) if down else (left.value < 1 <= right.value):
            known = left.value and right.value
            share = math.log(left.value) / math.log(left.value / right.value) if known else 1.0
            star = math.exp(math.log(size) + share * (math.log(after) - math.log(size)))
    return star


def _points(records: Sequence[Record]) -> dict[int, Point]:
    """R(B) of every diffusion Record (of the first one, over seeds), by its id."""
    found: dict[int, Point] = {}
    for members in comparison_groups(records):
        sides = group(members)
        for side in sides.candidates:
            found[id(side.records[0])] = _point(sides, side)
    return found


def _point(sides: Group, side: Side) -> Point:
    size = int(side.records[0].conditions["batch"])
    if sides.baseline is None:
        return Point(batch=size, ratio=None, why_not="no baseline was run there")
    own, other = (logged_mean(item.records, "throughput/bytes_per_s") for item in (side, sides.baseline))
    if own is None or other is None:
        return Point(batch=size, ratio=None, why_not="no text was written")
    if not other:
        return Point(batch=size, ratio=None, why_not="the baseline wrote nothing but empty outputs")
    ratio = own / other
    times = speedup(side.steps or 0, sides, side.records, np.random.default_rng(0))  # whatever the Records' order
    checks = speed_checks(sides, [times] if times else [], ThresholdsConfig().roofline_share)
    doubt = "; ".join(reason(check) for check in checks if check.blocks in ("speed", "viable"))
    if times is None or times.low is None or times.high is None:
        return Point(batch=size, ratio=Estimate(value=ratio), doubt=doubt)
    scale = ratio / times.ratio
    return Point(batch=size, ratio=Estimate(value=ratio, low=times.low * scale, high=times.high * scale), doubt=doubt)


def _judge_setting(name: str, members: Sequence[Record], over: Sequence[Point]) -> SettingOutcome:
    points = [(point.batch, point.ratio) for point in over if point.ratio is not None]
    found = course(points)
    if few := too_few_prompts(members):
        found = replace(found, outcome=Outcome.UNDECIDED, why=f"{few}; {found.why}", wanted=found.wanted or "repeats")
    doubts = [f"at B = {point.batch} ({point.doubt})" for point in over if point.doubt]
    if doubts and found.outcome is Outcome.SUPPORTED:
        why = f"{found.why}, but no speedup may be quoted {'; '.join(doubts)}"
        found = replace(found, outcome=Outcome.UNDECIDED, why=why, wanted="repeats")
    numbers = [(f"R({size})", ratio) for size, ratio in points]
    if found.crossing is not None:
        numbers.append(("B*", Estimate(value=found.crossing)))
    ends = [points[0], points[-1]] if len(points) > 1 else points
    shown = ", ".join(f"R({size}) = {span(ratio)}" for size, ratio in ends)
    left_out = "".join(f"; B = {point.batch} is not judged: {point.why_not}" for point in over if point.ratio is None)
    return SettingOutcome(
        setting=name,
        outcome=found.outcome,
        why=f"{found.why}; {shown}{left_out}",
        numbers=tuple(numbers),
        decide=_decide(members[0], [size for size, _ in points], found.wanted) if found.wanted else "",
    )


def _decide(record: Record, sizes: Sequence[int], wanted: str) -> str:
    """The sweep that decides, over these batch sizes and more."""
    batches, largest = list(sizes), sizes[-1]
    if wanted == "larger":
        batches += [2 * largest, 4 * largest]
    elif wanted == "batches":
        batches = sorted({*sizes, 1, 4, 16, largest})
    synthetic = record.config.get("workload", {}).get("source") == SYNTHETIC
    prompts = [] if synthetic else [f"workload.prompts={max(FEWEST_PROMPTS, *batches)}"]
    repeats = "timing.repeats=20" if wanted == "repeats" else "timing.repeats=6"
    return sweep_that_decides(
        "throughput", f"steps={record.steps}", f"batch={','.join(map(str, batches))}", *prompts, repeats
    )
