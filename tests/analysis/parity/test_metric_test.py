"""The test at one k, and the status of a metric from the tests at every k and the Checks."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmbench.analysis.parity.bounds import Bound, Ratio, bound, clusters
from llmbench.analysis.parity.curve import Match
from llmbench.analysis.parity.metric_test import (
    Compared,
    Terms,
    both_judges,
    decide,
    delta_test,
    directly,
    needed,
    point_deltas,
)
from llmbench.analysis.parity.sides import oriented
from llmbench.analysis.parity.verdict import (
    Assay,
    Check,
    CheckName,
    Curve,
    DeltaTest,
    MetricParity,
    Place,
    Status,
)

METRIC = "quality/perplexity"
STEPS = (8, 16, 32)
BY = clusters([None] * 100, ["all"] * 100)
TERMS = Terms(margin=0.1, alpha=0.05)
NOISE = np.linspace(-1, 1, 100)  # no skew
SE = math.sqrt(100 / 99 * float(np.sum(NOISE**2))) / 100
T99 = 1.660391  # t(99; 0.95)


def value(at: float, scale: float = 0.1, shape: np.ndarray = NOISE) -> Ratio:
    return Ratio(at, scale * (shape - shape.mean()))


def match(delta: float, *, place: Place = Place.ON, scale: float = 0.1, **more: Any) -> Match:
    return Match(place=place, delta=value(delta, scale), reference=value(-3.0), weights=(), **more)


def measured(*matches: Match, floor: float | None = -6.0, terms: Terms = TERMS) -> DeltaTest:
    def bound_of_floor(at: Match) -> Bound | None:
        return None if floor is None else bound(at.reference - value(floor), BY)

    compared = Compared(steps=8, value=value(-3.0), entropy=value(2.6), matches=matches)
    knots = [_knot(2.7)]
    return delta_test(compared, knots, BY, terms, bound_of_floor)


def _knot(entropy: float) -> Any:
    from llmbench.analysis.parity.curve import Knot

    return Knot(temperature=0.0, entropy=value(entropy, 0.0), quality=value(-3.0))


def test_the_bounds_hold_the_allowance() -> None:
    found = measured(match(0.05, below=value(0.03, 0.0), above=value(0.02, 0.0)))
    # skewness of NOISE is 0 exactly or nearly: Hall's bound counts what a sample may hide
    plain = bound(value(0.05), BY)
    assert plain.lower(0.05) <= 0.05 - T99 * 0.1 * SE
    assert found.lower == pytest.approx(plain.lower(0.05) - 0.03)
    assert found.upper == pytest.approx(plain.upper(0.05) + 0.02)
    assert found.low == pytest.approx(plain.lower(0.025) - 0.03)
    assert found.high == pytest.approx(plain.upper(0.025) + 0.02)
    assert (found.delta, found.allowance, found.sd) == pytest.approx((0.05, 0.03, SE))


@pytest.mark.parametrize(("below", "passes"), [(0.0, True), (0.07, True), (0.1, False)])
def test_the_allowance_stops_a_k_from_passing(below: float, passes: bool) -> None:
    assert measured(match(0.0, below=value(below, 0.0))).passes is passes


def test_the_error_of_the_allowance_widens_a_bound_and_never_narrows_it() -> None:
    known = measured(match(0.05, below=value(0.03, 0.0), above=value(0.02, 0.0)))
    against = measured(match(0.05, below=value(0.03, -0.1), above=value(0.02, 0.1)))  # both move away together
    assert against.lower == pytest.approx(bound(value(0.02, 0.2), BY).lower(0.05))
    assert against.upper == pytest.approx(bound(value(0.07, 0.2), BY).upper(0.05))
    cancelling = measured(match(0.05, below=value(0.03, 0.1), above=value(0.02, -0.1)))
    assert (cancelling.lower, cancelling.upper) == pytest.approx((known.lower, known.upper))


def test_of_two_segments_the_wider_bounds_count() -> None:
    narrow, wide = match(0.0, scale=0.1), match(-0.02, scale=1.5)
    for matches in ((narrow, wide), (wide, narrow)):
        found = measured(*matches)
        assert found.lower == pytest.approx(bound(value(-0.02, 1.5), BY).lower(0.05))
        assert found.upper == pytest.approx(bound(value(-0.02, 1.5), BY).upper(0.05))
        assert not found.passes
        assert found.delta == matches[0].delta.value
    assert measured(narrow).passes


@pytest.mark.parametrize(
    ("place", "delta", "passes", "worse"),
    [
        (Place.ON, 0.0, True, False),
        (Place.ON, -0.3, False, True),
        (Place.ABOVE, 0.0, True, False),
        (Place.ABOVE, -0.3, False, False),  # nobody knows how LLaMA does there
        (Place.BELOW, 0.0, False, False),
        (Place.BELOW, 0.5, False, False),
        (Place.BELOW, -0.3, False, True),
        (Place.DIRECT, 0.0, True, False),
        (Place.DIRECT, -0.3, False, True),
    ],
)
def test_what_a_place_allows(place: Place, delta: float, passes: bool, worse: bool) -> None:
    found = measured(match(delta, place=place))
    assert (found.passes, found.worse) == (passes, worse)
    assert found.dominated is (place is Place.BELOW and worse)
    assert found.less_varied is (place is Place.BELOW)  # 2.6 against 2.7


def test_too_few_prompts_for_the_skewness_never_pass() -> None:
    """Two collapses among 100: delta lies near the margin, and 25 G^2 is far more."""
    rare = np.r_[np.zeros(98), -1.0, -1.0]
    skewed = Match(place=Place.ON, delta=value(0.0, 0.35, rare), reference=value(-3.0), weights=())
    found = measured(skewed, terms=Terms(margin=0.3, alpha=0.05))
    assert found.lower > -0.3
    assert (found.enough, found.passes) == (True, True)  # far inside the margin
    near = measured(skewed, terms=Terms(margin=-found.lower + 0.001, alpha=0.05))
    assert near.lower > -(-found.lower + 0.001)
    assert (near.enough, near.passes) == (False, False)


def test_a_text_against_itself_passes() -> None:
    found = delta_test(directly(8, value(-3.0), value(-3.0)), (), BY, TERMS, lambda _: None)
    assert (found.delta, found.passes, found.enough) == (0.0, True, True)
    assert found.lower == pytest.approx(-T99 * 1e-4 / 10)
    noisy = Ratio(-3.0, value(-3.0).influence + 1e-6 * NOISE**3)
    assert delta_test(directly(8, noisy, value(-3.0)), (), BY, TERMS, lambda _: None).lower == pytest.approx(
        found.lower
    )


@pytest.mark.parametrize(("floor", "sensitive"), [(-6.0, True), (-3.25, True), (-3.15, False), (-2.0, False)])
def test_the_assay_asks_for_twice_the_margin(floor: float, sensitive: bool) -> None:
    assay = measured(match(0.0), floor=floor).assay
    assert assay is not None
    assert (assay.difference, assay.needed) == pytest.approx((-3.0 - floor, 0.2))
    assert assay.sensitive is sensitive
    assert measured(match(0.0), floor=None).assay is None


# The status of a metric

GOOD, BAD, OPEN = "good", "bad", "open"


def at(steps: int, kind: str = GOOD, **changes: Any) -> DeltaTest:
    own = {
        GOOD: {"delta": 0.0, "lower": -0.02, "upper": 0.02, "passes": True, "worse": False},
        BAD: {"delta": -0.5, "lower": -0.6, "upper": -0.4, "passes": False, "worse": True},
        OPEN: {"delta": -0.1, "lower": -0.2, "upper": 0.0, "passes": False, "worse": False},
    }[kind]
    fixed: dict[str, Any] = {"place": Place.ON, "value": -3.0, "reference": -3.0, "sd": 0.1, "skewness": 0.0}
    fixed |= {"enough": True, "low": own["lower"], "high": own["upper"]}
    fixed |= {"assay": Assay(difference=3.0, lower=2.5, needed=0.2)}
    return DeltaTest(**{"steps": steps, **fixed, **own, **changes})


def decided(*tests: DeltaTest, checks: tuple[Check, ...] = (), steps: tuple[int, ...] = STEPS) -> MetricParity:
    return decide(Curve(metric=METRIC, baseline=20.0, values=()), tests, steps, checks, TERMS, BY)


def gate(steps: int | None, blocks: str = "verdict", metrics: tuple[str, ...] = ()) -> Check:
    return Check(name=CheckName.LENGTH, passed=False, blocks=blocks, steps=steps, metrics=metrics)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kinds", "status", "passing", "stopped"),
    [
        ((GOOD, GOOD, GOOD), Status.REACHED, (8, 16, 32), None),
        ((BAD, GOOD, GOOD), Status.REACHED, (16, 32), 8),
        ((GOOD, BAD, GOOD), Status.REACHED, (32,), 16),  # the sequence stops at its first failure
        ((GOOD, GOOD, BAD), Status.UNDECIDED, (), 32),
        ((GOOD, GOOD, OPEN), Status.UNDECIDED, (), 32),
        ((BAD, BAD, BAD), Status.NOT_REACHED, (), 32),
        ((OPEN, BAD, BAD), Status.UNDECIDED, (), 32),
    ],
)
def test_the_sequence_from_the_largest_k(
    kinds: tuple[str, ...], status: Status, passing: tuple[int, ...], stopped: int | None
) -> None:
    found = decided(*map(at, STEPS, kinds))
    assert (found.status, found.passing, found.stopped_at) == (status, passing, stopped)
    assert found.reached == (passing[0] if passing else None)


def test_a_gate_at_one_k_removes_it_and_the_others_are_judged() -> None:
    found = decided(at(8), at(16), at(32), checks=(gate(16),))
    assert (found.status, found.not_judged, found.passing, found.stopped_at) == (Status.REACHED, (16,), (32,), 16)
    found = decided(at(8), at(16, BAD), at(32, BAD), checks=(gate(8),))  # 8 would have passed
    assert (found.status, found.not_judged) == (Status.NOT_REACHED, (8,))
    found = decided(at(16, BAD), at(32, BAD))  # 8 was not measured
    assert (found.status, found.not_judged) == (Status.NOT_REACHED, (8,))


@pytest.mark.parametrize(
    "checks",
    [(gate(32),), (gate(None),), (gate(8), gate(16), gate(32)), (gate(None, metrics=(METRIC,)),)],
    ids=["largest", "baseline", "all", "metric"],
)
def test_a_gate_at_the_largest_k_or_the_baseline_is_invalid(checks: tuple[Check, ...]) -> None:
    found = decided(*map(at, STEPS), checks=checks)
    assert (found.status, found.passing, found.reached) == (Status.INVALID, (), None)


@pytest.mark.parametrize("check", [gate(None, metrics=("quality/bertscore_f1",)), gate(32, "note"), gate(32, "speed")])
def test_gates_of_other_things_leave_the_verdict(check: Check) -> None:
    assert decided(*map(at, STEPS), checks=(check,)).status is Status.REACHED


def test_a_check_may_stop_a_k_from_passing_and_never_makes_it_worse() -> None:
    found = decided(*map(at, STEPS), checks=(gate(32, "reached"),))
    assert (found.status, found.passing, found.not_judged) == (Status.UNDECIDED, (), ())
    found = decided(*map(at, STEPS), checks=(gate(8, "reached"),))
    assert (found.status, found.passing) == (Status.REACHED, (16, 32))
    found = decided(*(at(k, BAD) for k in STEPS), checks=(gate(32, "reached"),))
    assert found.status is Status.NOT_REACHED


def test_an_assay_that_fails_at_the_largest_k_is_insensitive_and_at_another_ends_the_sequence() -> None:
    weak = Assay(difference=0.3, lower=0.2, needed=0.2)
    assert decided(at(8), at(16), at(32, assay=weak)).status is Status.INSENSITIVE
    assert decided(at(8), at(16), at(32, assay=None)).status is Status.INSENSITIVE
    found = decided(at(8), at(16, assay=weak), at(32))
    assert (found.status, found.passing, found.stopped_at) == (Status.REACHED, (32,), 16)
    assert decided(at(8), at(16), at(32, BAD, assay=weak)).status is Status.INSENSITIVE


def test_degenerate_is_less_varied_and_not_shown_to_be_worse() -> None:
    below = {"place": Place.BELOW, "passes": False, "less_varied": True}
    found = decided(at(8), at(16), at(32, **below))
    assert (found.status, found.passing) == (Status.DEGENERATE, ())
    assert decided(at(8, BAD), at(16, BAD), at(32, OPEN, **below)).status is Status.DEGENERATE
    doubt = {**below, "less_varied": False}
    assert decided(at(8), at(16), at(32, OPEN, **doubt)).status is Status.UNDECIDED
    dominated = [at(k, BAD, **below) for k in STEPS]
    assert decided(*dominated).status is Status.NOT_REACHED
    assert decided(at(8, OPEN), *dominated[1:]).status is Status.UNDECIDED


def test_the_point_estimate_is_the_smallest_k_that_is_as_good() -> None:
    curve = Curve(metric=METRIC, baseline=45.0, values=((8, 80.0), (16, 45.0), (32, 50.0)))
    assert dict(point_deltas(curve)) == pytest.approx({8: math.log(45 / 80), 16: 0.0, 32: math.log(45 / 50)})
    assert replace(decided(*map(at, STEPS)), deltas=point_deltas(curve)).s_parity == 16
    assert point_deltas(replace(curve, baseline=None)) == ()
    assert oriented(f"{METRIC}_second", math.e) == oriented(METRIC, math.e) == -1
    assert oriented("quality/bits_per_byte", 1.5) == -1.5
    assert oriented("quality/bertscore_f1", 0.5) == 0.5


def test_two_judges_must_agree() -> None:
    passing = decided(at(8, BAD), at(16), at(32))
    later = decided(at(8, BAD), at(16, OPEN), at(32))
    bad = decided(*(at(k, BAD) for k in STEPS))
    gone = decided(*map(at, STEPS), checks=(gate(None),))
    both = both_judges(passing, later)
    assert (both.status, both.passing, both.reached, both.second) == (Status.REACHED, (32,), 32, later)
    for first, second in ((passing, bad), (bad, passing)):
        both = both_judges(first, second)
        assert (both.status, both.passing, both.second) == (Status.UNDECIDED, (), second)
        assert both.tests == first.tests
    assert both_judges(bad, bad).status is Status.NOT_REACHED
    assert both_judges(passing, gone).status is both_judges(gone, passing).status is Status.INVALID


def test_the_prompts_that_would_decide_count_everything_that_must_hold() -> None:
    near = at(32, OPEN, delta=0.0, sd=0.6, enough=True)
    assert needed(near, [], TERMS, 0.0) == 223
    assert needed(near, [(0.1, 0.6)], TERMS, 0.0) == 309
    assert needed(replace(near, allowance=0.05), [], TERMS, 0.0) == 891  # (2.486 x 0.6 / 0.05)^2 = 890.3
    assert needed(replace(near, enough=False), [], TERMS, 400.5) == 401
    assert needed(near, [], TERMS, 400.5) == 223
    assert needed(near, [(-0.1, 0.6)], TERMS, 0.0) is None
    worse = at(32, OPEN, delta=-0.2, sd=0.6)
    assert needed(worse, [(0.1, 0.6)], TERMS, 0.0) == 223  # what would show that it is worse
    assert needed(replace(worse, place=Place.ABOVE), [], TERMS, 0.0) is None  # the curve is too short, not the sample
