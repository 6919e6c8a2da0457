"""The test of parity in one metric: from sums per prompt to a status that may be claimed (docs/metrics.md, Parity).

A k passes when the lower bound of its difference from the baseline, at equal diversity where the metric needs that, is
at least -margin, from prompts enough for their skewness, when the metric can tell the baseline from its floor there,
and when no Check forbids it. The sequence from the largest k downward stops at its first failure, so it needs no
correction.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmbench.analysis.parity.bounds import Bound, Clusters, Ratio, bound, prompts_needed
from llmbench.analysis.parity.curve import Knot, Match, matches, temperature_at
from llmbench.analysis.parity.sides import oriented
from llmbench.analysis.parity.verdict import Assay, Check, Curve, DeltaTest, MetricParity, Place, Status

_ROUNDING = 1e-12  # sums of equal numbers in another order


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Under which terms a metric is tested."""

    margin: float
    alpha: float  # of every one-sided test


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One k of one metric: what it is compared with."""

    steps: int
    value: Ratio
    entropy: Ratio | None
    matches: tuple[Match, ...]  # its own place first


def directly(steps: int, value: Ratio, baseline: Ratio) -> Compared:
    """A k of a metric that needs no curve."""
    match = Match(place=Place.DIRECT, delta=value - baseline, reference=baseline, weights=())
    return Compared(steps=steps, value=value, entropy=None, matches=(match,))


def at_equal_entropy(steps: int, value: Ratio, entropy: Ratio, knots: Sequence[Knot], by: Clusters) -> Compared:
    """A k of a metric that is compared at matched diversity."""
    return Compared(steps=steps, value=value, entropy=entropy, matches=tuple(matches(value, entropy, knots, by)))


def delta_test(
    compared: Compared, knots: Sequence[Knot], by: Clusters, terms: Terms, floor: Callable[[Match], Bound | None]
) -> DeltaTest:
    """The test at one k.

    Args:
        compared: what is tested.
        knots: of the curve; () for a metric without one.
        by: the clusters of the prompts.
        terms: margin and error.
        floor: the bound of reference - floor at a match; None where no floor was measured.
    """
    own, alpha = compared.matches[0], terms.alpha
    below = [item for match in compared.matches for item in _with_allowance(match.delta, match.below, -1, by)]
    above = [item for match in compared.matches for item in _with_allowance(match.delta, match.above, 1, by)]
    enough = all(item.is_enough(item.delta + terms.margin, alpha) for item in below)
    lower, upper = min(item.lower(alpha) for item in below), max(item.upper(alpha) for item in above)
    under = own.place is Place.BELOW
    assays = [assay for match in compared.matches if (assay := _assay(floor(match), terms)) is not None]
    return DeltaTest(
        steps=compared.steps,
        place=own.place,
        value=compared.value.value,
        reference=own.reference.value,
        temperature=temperature_at(own, knots) if own.weights else None,
        entropy=compared.entropy.value if compared.entropy else None,
        delta=own.delta.value,
        sd=below[0].sd,
        skewness=below[0].skewness,
        enough=enough,
        allowance=own.below.value if own.below else 0.0,
        lower=lower,
        upper=upper,
        low=min(item.lower(0.025) for item in below),
        high=max(item.upper(0.025) for item in above),
        passes=enough and not under and lower >= -terms.margin - _ROUNDING,
        worse=own.place is not Place.ABOVE and upper < -terms.margin - _ROUNDING,
        less_varied=under
        and compared.entropy is not None
        and bound(compared.entropy - knots[0].entropy, by).upper(alpha) < 0,
        assay=min(assays, key=lambda item: item.lower, default=None),
    )


def _with_allowance(delta: Ratio, allowance: Ratio | None, sign: int, by: Clusters) -> list[Bound]:
    """The bounds of a difference with its interpolation allowance: taken as known, and with its own error.

    A noisy knot moves both; the wider bound holds, so that the error of the allowance never makes a bound narrower.
    """
    plain = bound(delta, by)
    if allowance is None:
        return [plain]
    moved = bound(delta + allowance * sign, by)
    return [replace(plain, delta=moved.delta), moved]


def _assay(found: Bound | None, terms: Terms) -> Assay | None:
    """Reference - floor with its lower bound; None where it is no number."""
    if found is None or not math.isfinite(found.lower(terms.alpha)):
        return None
    return Assay(difference=found.delta, lower=found.lower(terms.alpha), needed=2 * terms.margin)


def decide(
    curve: Curve, tests: Sequence[DeltaTest], steps: Sequence[int], checks: Sequence[Check], terms: Terms, by: Clusters
) -> MetricParity:
    """The status of one metric from its tests and the Checks.

    Args:
        curve: its values as logged.
        tests: at every k that has sums.
        steps: K; a k without a test was not measured.
        checks: of the set and of each k.
        terms: margin and error.
        by: the clusters of the prompts.
    """
    metric, known = curve.metric, {item.steps: item for item in tests}
    removed = [k for k in steps if k not in known or _is_forbidden(checks, "verdict", metric, k)]
    made = MetricParity(
        curve=curve,
        status=Status.UNDECIDED,
        margin=terms.margin,
        prompts=len(by.cluster),
        documents=by.count,
        tests=tuple(tests),
        not_judged=tuple(removed),
        deltas=point_deltas(curve),
    )
    whole = any(check.forbids("verdict", metric) and check.steps is None for check in checks)
    if whole or not steps or steps[-1] in removed:
        return replace(made, status=Status.INVALID)
    judged = [known[k] for k in steps if k not in removed]
    if judged[-1].assay is None or not judged[-1].assay.sensitive:
        return replace(made, status=Status.INSENSITIVE)
    good = [k not in removed and may_pass(known[k], checks, metric) for k in steps]
    count = len(list(itertools.takewhile(bool, reversed(good))))
    passing = tuple(steps[len(steps) - count :])
    made = replace(made, passing=passing, stopped_at=steps[-count - 1] if count < len(steps) else None)
    if passing:
        return replace(made, status=Status.REACHED)
    if judged[-1].less_varied and not judged[-1].dominated:
        return replace(made, status=Status.DEGENERATE)
    if all(item.worse for item in judged):
        return replace(made, status=Status.NOT_REACHED)
    return made


def may_pass(test: DeltaTest, checks: Sequence[Check], metric: str) -> bool:
    """Whether a k that is judged passes."""
    sensitive = test.assay is not None and test.assay.sensitive
    return test.passes and sensitive and not _is_forbidden(checks, "reached", metric, test.steps)


def _is_forbidden(checks: Sequence[Check], blocks: str, metric: str, steps: int) -> bool:
    return any(check.forbids(blocks, metric, steps) for check in checks)  # type: ignore[arg-type]


def point_deltas(curve: Curve) -> tuple[tuple[int, float], ...]:
    """The f(k) - Q of the point estimate, oriented up; () without a Q."""
    if curve.baseline is None:
        return ()
    target = oriented(curve.metric, curve.baseline)
    return tuple((k, oriented(curve.metric, value) - target) for k, value in curve.values)


def needed(test: DeltaTest, others: Sequence[tuple[float, float]], terms: Terms, skew_prompts: float) -> int | None:
    """Prompts with which the verdict at one k would be decided four times in five, were the estimates the truth.

    Args:
        test: at the largest k.
        others: room and sd of what else must reject for it to pass.
        terms: margin and error.
        skew_prompts: prompts that the skewness asks for.
    """
    room = test.delta - test.allowance + terms.margin
    if test.place is Place.ABOVE and room < 0:
        return None  # what LLaMA does there is not known, whatever the number of prompts
    if test.place is Place.BELOW or room < 0:  # it would be shown to be worse
        return prompts_needed([(-(test.delta + terms.margin), test.sd)], terms.alpha)
    found = prompts_needed([(room, test.sd), *others], terms.alpha)
    return None if found is None else max(found, math.ceil(skew_prompts) if not test.enough else 0)


def both_judges(first: MetricParity, second: MetricParity) -> MetricParity:
    """The verdict of two judges: what both say; undecided where they differ, with both at hand."""
    agreed = first.status if first.status is second.status else Status.UNDECIDED
    if Status.INVALID in (first.status, second.status):
        agreed = Status.INVALID
    passing = tuple(k for k in first.passing if k in second.passing) if agreed is Status.REACHED else ()
    return replace(first, status=agreed, passing=passing, second=second, first_status=first.status)
