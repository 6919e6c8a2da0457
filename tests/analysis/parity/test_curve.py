"""The baseline's quality over the diversity of its text: knots, segments, allowance and ends, worked by hand."""

import math

import numpy as np
import pytest

from llmbench.analysis.parity.bounds import Clusters, Ratio, clusters
from llmbench.analysis.parity.curve import Knot, Match, kept_knots, matches, mixed, temperature_at
from llmbench.analysis.parity.verdict import Place

BY = clusters([None] * 4, ["all"] * 4)
RNG = np.random.default_rng(0)


def drawn(value: float, scale: float = 1e-3) -> Ratio:
    """A value whose prompts differ."""
    influence = scale * RNG.standard_normal(4)
    return Ratio(value, influence - influence.mean())


def curve(*points: tuple[float, float]) -> list[Knot]:
    return [Knot(temperature=i / 5, entropy=drawn(h), quality=drawn(g)) for i, (h, g) in enumerate(points)]


def allowances(match: Match) -> tuple[float, float]:
    """Those of the lower and of the upper bound."""
    assert match.below is not None
    assert match.above is not None
    return match.below.value, match.above.value


CONCAVE = curve((2.0, -1.0), (2.5, -2.0), (3.0, -3.5))  # slopes -2 and -3


@pytest.mark.parametrize(
    ("entropies", "kept"),
    [
        ((2.0, 2.1, 2.2), (0, 1, 2)),
        ((2.0, 2.019, 2.021), (0, 2)),  # measured from the last that was kept
        ((2.0, 1.9, 2.05), (0, 2)),
        ((2.0, 2.0201, 2.0402), (0, 1, 2)),
        ((2.0, math.nan, 2.05), (0, 2)),
    ],
)
def test_a_knot_needs_a_fiftieth_of_a_nat_more_than_the_last(
    entropies: tuple[float, ...], kept: tuple[int, ...]
) -> None:
    knots = curve(*((h, -h) for h in entropies))
    found, dropped = kept_knots(knots[::-1])  # in the order of temperature, not as given
    assert found == [knots[i] for i in kept]
    assert dropped == [knot for i, knot in enumerate(knots) if i not in kept]


def test_between_two_knots_by_hand() -> None:
    quality, entropy = drawn(-1.2), drawn(2.2)
    (match,) = matches(quality, entropy, CONCAVE, BY)
    left, right, _ = CONCAVE
    assert match.place is Place.ON
    assert match.weights == ((0, pytest.approx(0.6)), (1, pytest.approx(0.4)))
    assert (match.reference.value, match.delta.value) == pytest.approx((-1.4, 0.2))
    level = 0.6 * left.entropy.influence + 0.4 * right.entropy.influence
    chord = 0.6 * left.quality.influence + 0.4 * right.quality.influence
    assert match.delta.influence == pytest.approx(quality.influence - chord + 2.0 * (entropy.influence - level))
    assert temperature_at(match, CONCAVE) == pytest.approx(0.08)
    assert mixed([drawn(10.0), drawn(20.0), drawn(99.0)], match).value == pytest.approx(14.0)


def test_the_allowance_is_the_bend_between_chord_and_curve() -> None:
    (match,) = matches(drawn(-1.2), drawn(2.2), CONCAVE, BY)
    # second divided difference (-3 - -2) / 1; 0.4 x 0.6 x 0.5^2
    assert allowances(match) == (pytest.approx(0.06), 0.0)
    convex = curve((2.0, -1.0), (2.5, -2.5), (3.0, -3.5))
    (match,) = matches(drawn(-1.2), drawn(2.2), convex, BY)
    assert allowances(match) == (0.0, pytest.approx(0.06))
    straight = curve((2.0, -1.0), (2.5, -2.0), (3.0, -3.0))
    (match,) = matches(drawn(-1.2), drawn(2.2), straight, BY)
    assert allowances(match) == pytest.approx((0.0, 0.0))


def test_an_allowance_of_nothing_is_uncertain_too() -> None:
    convex = curve((2.0, -1.0), (2.5, -2.5), (3.0, -3.5))
    (match,) = matches(drawn(-1.2), drawn(2.2), convex, BY)
    assert match.below is not None
    assert (match.below.value, bool(np.abs(match.below.influence).max() > 1e-5)) == (0.0, True)


def test_inside_the_curve_the_smaller_of_two_bends_counts() -> None:
    knots = curve((2.0, -1.0), (2.5, -1.5), (3.0, -2.5), (3.5, -5.0))  # slopes -1, -2, -5: bends -1 and -3
    (match,) = matches(drawn(-2.0), drawn(2.75), knots, BY)
    assert allowances(match) == (pytest.approx(0.25 * 0.25 * 3), 0.0)


def test_every_knot_around_has_its_influence_on_the_allowance() -> None:
    """A = -c (E - 2)(2.5 - E): by hand for knots that are half a nat apart."""
    plain = curve((2.0, -1.0), (2.5, -2.0), (3.0, -3.5))
    still = [Knot(temperature=k.temperature, entropy=k.entropy * 1.0, quality=k.quality) for k in plain]
    for knot in still:
        knot.entropy.influence[:] = 0.0
    (match,) = matches(drawn(-1.2), Ratio(2.2, np.zeros(4)), still, BY)
    assert match.below is not None
    first, middle, last = (knot.quality.influence for knot in still)  # c = 2 g0 - 4 g1 + 2 g2
    assert match.below.influence == pytest.approx(-0.06 * (2 * first - 4 * middle + 2 * last), abs=1e-9)
    moved = Ratio(2.2, np.array([1e-3, -1e-3, 1e-3, -1e-3]))
    (other,) = matches(drawn(-1.2), moved, still, BY)
    assert other.below is not None
    slope = 2.0 + 2.5 - 2 * 2.2  # d/dE of (E - 2)(2.5 - E)
    assert other.below.influence - match.below.influence == pytest.approx(slope * moved.influence, abs=1e-9)


def test_within_one_standard_error_of_a_knot_both_segments_are_given() -> None:
    quality, near = drawn(-2.0), Ratio(2.51, np.array([0.1, -0.1, 0.1, -0.1]))  # se 0.058
    own, other = matches(quality, near, CONCAVE, BY)
    assert (own.weights, other.weights) == (
        ((1, pytest.approx(0.98)), (2, pytest.approx(0.02))),
        ((0, pytest.approx(-0.02)), (1, pytest.approx(1.02))),
    )
    assert own.delta.value == pytest.approx(0.03)
    assert other.delta.value == pytest.approx(0.02)  # the left knot's chord, though the knot itself is better
    level = -0.02 * CONCAVE[0].entropy.influence + 1.02 * CONCAVE[1].entropy.influence
    chord = -0.02 * CONCAVE[0].quality.influence + 1.02 * CONCAVE[1].quality.influence
    assert other.delta.influence == pytest.approx(quality.influence - chord + 2.0 * (near.influence - level))
    assert allowances(other)[0] == 0.0  # beyond its end a chord lies above a concave curve
    (alone,) = matches(quality, drawn(2.51), CONCAVE, BY)  # se 0.0005
    assert alone.weights == own.weights
    below = matches(quality, Ratio(2.49, near.influence), CONCAVE, BY)
    assert [match.weights[0][0] for match in below] == [0, 1]


def test_the_ends_are_no_knots_between_two_segments() -> None:
    wide = np.array([0.5, -0.5, 0.5, -0.5])
    assert len(matches(drawn(-1.0), Ratio(2.01, wide), CONCAVE[:2], BY)) == 1


def test_text_that_is_better_and_more_varied_is_what_counts() -> None:
    knots = curve((2.0, -2.0), (2.5, -3.0), (3.0, -1.5))
    quality = drawn(-1.7)
    (match,) = matches(quality, drawn(2.2), knots, BY)
    assert (match.place, match.reference.value) == (Place.ON, -1.5)
    assert match.delta.influence == pytest.approx(quality.influence - knots[2].quality.influence)
    assert (match.below, match.above) == (None, None)


@pytest.mark.parametrize(
    ("entropy", "place", "knot"), [(1.99, Place.BELOW, 0), (3.01, Place.ABOVE, 2), (9.0, Place.ABOVE, 2)]
)
def test_off_the_curve_the_nearest_end_counts_and_nothing_is_extrapolated(
    entropy: float, place: Place, knot: int
) -> None:
    quality, end = drawn(-1.2), CONCAVE[knot].quality
    (match,) = matches(quality, drawn(entropy), CONCAVE, BY)
    assert (match.place, match.weights, match.reference) == (place, ((knot, 1.0),), end)
    assert match.delta.influence == pytest.approx(quality.influence - end.influence)
    assert (match.below, match.above) == (None, None)
    assert mixed([drawn(10.0), drawn(20.0), drawn(30.0)], match).value == 10.0 * (knot + 1)


def test_the_ends_themselves_are_on_the_curve() -> None:
    for knot in (0, 2):
        end = CONCAVE[knot]
        (match,) = matches(drawn(-1.2), end.entropy, CONCAVE, BY)
        assert match.place is Place.ON
        assert match.reference.value == pytest.approx(end.quality.value)


@pytest.mark.parametrize(("entropy", "place"), [(1.9, Place.BELOW), (2.0, Place.ABOVE), (2.1, Place.ABOVE)])
def test_one_knot_is_no_curve(entropy: float, place: Place) -> None:
    (match,) = matches(drawn(-1.2), drawn(entropy), CONCAVE[:1], BY)
    assert (match.place, match.delta.value) == (place, pytest.approx(-0.2))


def test_between_two_knots_alone_the_curve_may_lie_anywhere_between_their_qualities() -> None:
    (match,) = matches(drawn(-1.2), drawn(2.2), CONCAVE[:2], BY)
    assert match.reference.value == pytest.approx(-1.4)
    assert allowances(match) == pytest.approx((0.4, 0.6))


def test_clusters_decide_how_near_a_knot_is() -> None:
    """The same numbers: prompts of one document agree, so that the error is larger."""
    influence = np.array([0.012, 0.012, -0.012, -0.012])
    pairs: Clusters = clusters(["a", "a", "b", "b"], ["all"] * 4)
    entropy = Ratio(2.51, influence)  # se 0.0069 of four prompts, 0.012 of two documents
    knots = [
        Knot(temperature=k.temperature, entropy=Ratio(k.entropy.value, 0 * influence), quality=k.quality)
        for k in CONCAVE
    ]
    assert len(matches(drawn(-2.0), entropy, knots, BY)) == 1
    assert len(matches(drawn(-2.0), entropy, knots, pairs)) == 2
