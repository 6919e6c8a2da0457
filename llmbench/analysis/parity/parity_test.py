"""The test of parity in one metric: from sums per prompt to a status that may be claimed (docs/metrics.md, Parity).

A k passes when the lower bound of Delta(k) is at least -delta, from prompts enough for their skewness, and, where the
metric rewards repetition, that of entropy at least -delta_H: two tests that must both reject (intersection-union), so
each keeps the whole alpha. The sequence from the largest k downward stops at its first failure, so it too needs no
correction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llmbench.analysis.parity.paired_sums import PairedSums
from llmbench.analysis.parity.statistics import (
    SKEW_PROMPTS,
    Array,
    difference,
    passed_from_the_top,
    prompts_needed,
    resampled_ratios,
)
from llmbench.analysis.parity.verdict import Assay, DeltaTest, Status

FEW_PROMPTS = 32
"""The fewest that the simulation of the error rates goes down to."""

RESAMPLES = 10_000
"""Of prompts: 1,000 prompts and 8 settings take a fraction of a second."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What the tests of one metric say; the fields are those of `MetricParity`."""

    status: Status
    reason: str
    tests: tuple[DeltaTest, ...] = ()
    diversity: tuple[DeltaTest, ...] = ()
    assay: Assay | None = None
    reached: int | None = None
    stopped_at: int | None = None
    stopped_by: str = ""
    prompts_needed: int | None = None
    frequencies: tuple[tuple[int | None, float], ...] = ()


def run_test(
    sums: PairedSums,
    diversity: PairedSums | None,
    *,
    margin: float,
    diversity_margin: float,
    blocked: Mapping[int, str],
    set_blocked: str,
    alpha: float,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Tested:
    """Test one metric.

    Args:
        sums: its sums.
        diversity: those of entropy, for a metric that rewards repetition.
        margin: delta.
        diversity_margin: delta_H.
        blocked: k and the gate that blocks it.
        set_blocked: the gate that blocks everything; empty when none does.
        alpha: error of each one-sided test.
        rng: of the bootstrap, which draws the figure and the frequencies and decides nothing.
        resamples: its size.
    """
    tests, frequencies = delta_tests(sums, margin, alpha, rng, resamples)
    varied = delta_tests(diversity, diversity_margin, alpha, rng, resamples)[0] if diversity else ()
    known = Tested(
        status=Status.UNDECIDED, reason="", tests=tests, diversity=varied, assay=_assay(sums, margin, alpha),
        frequencies=frequencies,
    )  # fmt: skip
    top = max(sums.candidates.keys() | blocked.keys())
    invalid = set_blocked or blocked.get(top, "")
    numbers = [[t.delta, t.lower, t.upper, t.drawn_low, t.drawn_high] for t in (*tests, *varied)]
    if not np.isfinite(numbers).all():  # what is no number is not handed on
        known = replace(known, tests=(), diversity=(), frequencies=())
        invalid = invalid or f"no finite bound from {len(sums.prompts)} prompts"
    if invalid:
        return replace(known, status=Status.INVALID, reason=invalid)
    if known.assay is None or not known.assay.sensitive:
        return replace(known, status=Status.INSENSITIVE, reason=_insensitive(known.assay))
    return _decide(known, blocked, margin, diversity_margin, alpha)


def delta_tests(
    sums: PairedSums, margin: float, alpha: float, rng: np.random.Generator, resamples: int
) -> tuple[tuple[DeltaTest, ...], tuple[tuple[int | None, float], ...]]:
    """Delta(k) with its bounds for each k, and the bootstrap frequencies of the point estimate S_parity."""
    steps = sorted(sums.candidates)
    above = np.stack([sums.candidates[k] for k in steps])
    found = difference(sums.baseline, above)
    lower, upper, enough = found.lower(alpha), found.upper(alpha), found.enough_below()
    plain = found.lower_t(alpha)
    outer = found.lower(0.025), found.upper(0.025)
    ratios = resampled_ratios(np.concatenate([sums.baseline[None], above]), rng, resamples)
    drawn = ratios[:, 1:] - ratios[:, :1]
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0) if np.isfinite(drawn).any(axis=0).all() else drawn[:2]
    tests = tuple(
        DeltaTest(
            steps=k,
            delta=float(found.delta[i]),
            sd=float(found.sd[i]),
            skewness=float(found.skewness[i]),
            enough=bool(enough[i]),
            lower=float(lower[i]),
            upper=float(upper[i]),
            low=float(outer[0][i]),
            high=float(outer[1][i]),
            drawn_low=float(low[i]),
            drawn_high=float(high[i]),
            passes=bool(enough[i] and lower[i] >= -margin - _ROUNDING),
            lower_t=float(plain[i]),
        )
        for i, k in enumerate(steps)
    )
    return tests, _frequencies(steps, drawn)


_ROUNDING = 1e-12  # sums of equal numbers in another order


def _frequencies(steps: list[int], drawn: Array) -> tuple[tuple[int | None, float], ...]:
    """How often each k would have been the point estimate S_parity."""
    good = drawn >= -_ROUNDING
    first = np.where(good.any(axis=1), good.argmax(axis=1), len(steps))
    shares = np.bincount(first, minlength=len(steps) + 1) / len(drawn)
    named: list[int | None] = [*steps, None]
    return tuple((k, float(share)) for k, share in zip(named, shares, strict=True) if share > 0)


def _assay(sums: PairedSums, margin: float, alpha: float) -> Assay | None:
    """Q - floor with its lower bound; None where no floor was measured."""
    if sums.floor is None or len(sums.floor[0]) < 2:
        return None
    own, floor = sums.floor
    found = difference(floor, own)
    lower = float(found.lower(alpha))
    return Assay(difference=float(found.delta), lower=lower, needed=2 * margin) if np.isfinite(lower) else None


def _decide(
    known: Tested,
    blocked: Mapping[int, str],
    margin: float,
    diversity_margin: float,
    alpha: float,
) -> Tested:
    """The first status that matches, of those that rest on the tests."""
    tests, varied = {item.steps: item for item in known.tests}, {item.steps: item for item in known.diversity}
    steps = sorted(tests.keys() | blocked.keys())  # a k whose job failed is blocked and has no test
    passes = [k not in blocked and tests[k].passes and (not varied or varied[k].passes) for k in steps]
    count = int(passed_from_the_top(np.array(passes)))
    if count < len(steps):
        stop = steps[-count - 1]
        why = _stopped_by(tests.get(stop), varied.get(stop), blocked.get(stop, ""), margin, diversity_margin)
        known = replace(known, stopped_at=stop, stopped_by=why)
    if count:
        return replace(known, status=Status.REACHED, reason="", reached=steps[-count])
    top = tests[steps[-1]]
    if top.passes:
        return replace(known, status=Status.DEGENERATE, reason=known.stopped_by)
    if all(item.upper < -margin for item in known.tests):
        if blocked:  # a statement about every k cannot rest on one that is blocked
            return replace(known, status=Status.INVALID, reason=blocked[max(blocked)])
        return replace(known, status=Status.NOT_REACHED, reason=known.stopped_by)
    needed = _needed(top, varied.get(top.steps), margin, diversity_margin, alpha)
    return replace(known, reason=known.stopped_by, prompts_needed=needed)


def _insensitive(assay: Assay | None) -> str:
    if assay is None:
        return "no floor was measured"
    return (
        f"Q - floor is {assay.difference:.3g}, its lower bound {assay.lower:.3g}; "
        f"more than 2 margins, {assay.needed:.3g}, is needed"
    )


def _stopped_by(
    test: DeltaTest | None, varied: DeltaTest | None, blocked: str, margin: float, diversity_margin: float
) -> str:
    """Every reason why a k does not pass."""
    reasons = [blocked] if blocked else []
    for name, item, allowed in (("quality", test, margin), ("entropy", varied, diversity_margin)):
        if item is not None and item.lower < -allowed - _ROUNDING:
            reasons.append(f"{name}, lower bound {item.lower:+.3g} below {-allowed:+.3g}")
        elif item is not None and not item.passes:
            reasons.append(f"{name}, too few prompts for a sample of skewness {item.skewness:+.2g}")
    return "; ".join(reasons)


def _needed(
    test: DeltaTest, varied: DeltaTest | None, margin: float, diversity_margin: float, alpha: float
) -> int | None:
    """Prompts with which the largest k would pass four times in five, were the estimates the truth."""
    wanted: list[float | None] = [prompts_needed(test.sd, margin + test.delta, alpha)]
    if varied is not None and not varied.passes:
        wanted.append(prompts_needed(varied.sd, diversity_margin + varied.delta, alpha))
    wanted += [
        max(SKEW_PROMPTS * item.skewness**2, FEW_PROMPTS)
        for item in (test, varied)
        if item is not None and not item.enough
    ]
    known = [int(np.ceil(count)) for count in wanted if count is not None]
    return max(known) if len(known) == len(wanted) else None
