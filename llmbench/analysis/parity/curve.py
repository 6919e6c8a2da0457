"""LLaMA's quality over the diversity of its text, and the candidate beside it (docs/metrics.md, Parity).

Generative perplexity is bought with diversity, so f(k) is compared with the baseline at the temperature at which its
text is equally varied. The curve joins the baseline's points (H_j, g_j) by straight lines. Nothing is extrapolated:
text that is less varied than the first knot's can only be dominated, text that is more varied than the last knot's
passes only against that knot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.analysis.parity.bounds import Clusters, Ratio, bound, smooth
from llmbench.analysis.parity.verdict import Place

LEAST_STEP = 0.02
"""Nats: a knot whose entropy lies less above that of the last one is dropped."""


@dataclass(frozen=True, kw_only=True)
class Knot:
    """The baseline at one temperature."""

    temperature: float
    entropy: Ratio
    quality: Ratio


@dataclass(frozen=True, kw_only=True)
class Match:
    """The candidate against the baseline at equal entropy, by one segment of the curve or one end of it."""

    place: Place
    delta: Ratio  # f - reference
    reference: Ratio  # Q(E)
    weights: tuple[tuple[int, float], ...]  # knots of equal entropy, and their shares
    below: Ratio | None = None  # interpolation allowance of the lower bound; None: nothing is interpolated
    above: Ratio | None = None  # of the upper bound


def kept_knots(knots: Sequence[Knot]) -> tuple[list[Knot], list[Knot]]:
    """The knots of a curve in the order of temperature, and those that are dropped."""
    kept: list[Knot] = []
    dropped: list[Knot] = []
    for knot in sorted(knots, key=lambda item: item.temperature):
        close = bool(kept) and not knot.entropy.value - kept[-1].entropy.value >= LEAST_STEP
        (dropped if close else kept).append(knot)
    return kept, dropped


def matches(quality: Ratio, entropy: Ratio, knots: Sequence[Knot], by: Clusters) -> list[Match]:
    """The comparisons of one k, that of its own place first.

    Within one standard error of a knot that joins two segments both are given; the wider bounds hold.

    Args:
        quality: f(k), oriented up.
        entropy: E.
        knots: of the curve, entropy rising; at least one.
        by: the clusters of the prompts.
    """
    last = len(knots) - 1
    if entropy.value < knots[0].entropy.value:
        return [_against_end(quality, knots[0], 0, Place.BELOW)]
    if last == 0 or entropy.value > knots[last].entropy.value:
        return [_against_end(quality, knots[last], last, Place.ABOVE)]
    own = max(j for j in range(last) if knots[j].entropy.value <= entropy.value)
    near = [j for j in range(1, last) if abs(entropy.value - knots[j].entropy.value) <= _error(entropy, knots[j], by)]
    segments = [own, *sorted({j + side for j in near if j in (own, own + 1) for side in (-1, 0)} - {own})]
    return [_on_segment(quality, entropy, knots, j) for j in segments]


def _error(entropy: Ratio, knot: Knot, by: Clusters) -> float:
    return bound(entropy - knot.entropy, by).se


def _against_end(quality: Ratio, knot: Knot, place: int, where: Place) -> Match:
    delta = quality - knot.quality
    return Match(place=where, delta=delta, reference=knot.quality, weights=((place, 1.0),))


def _on_segment(quality: Ratio, entropy: Ratio, knots: Sequence[Knot], j: int) -> Match:
    """By the chord from knot j to knot j + 1, or by a knot of larger entropy that is better than the chord."""
    left, right = knots[j], knots[j + 1]
    width = right.entropy.value - left.entropy.value
    w = (entropy.value - left.entropy.value) / width
    slope = (right.quality.value - left.quality.value) / width
    level = left.entropy * (1 - w) + right.entropy * w
    reference = left.quality * (1 - w) + right.quality * w + (entropy - level) * slope
    weights = ((j, 1 - w), (j + 1, w))
    beyond = [knot for knot in knots[j + 1 :] if knot.entropy.value > entropy.value]
    higher = [knot for knot in beyond if knot.quality.value > reference.value]
    if higher:
        best = max(higher, key=lambda knot: knot.quality.value).quality
        return Match(place=Place.ON, delta=quality - best, reference=best, weights=weights)
    below, above = _allowances(entropy, knots, j)
    return Match(
        place=Place.ON,
        delta=quality - reference,
        reference=reference,
        weights=weights,
        below=below,
        above=above,
    )


def _allowances(entropy: Ratio, knots: Sequence[Knot], j: int) -> tuple[Ratio, Ratio]:
    """How far the curve may lie above and below its chord: w (1 - w) width^2 times the second divided difference.

    An estimate of noisy knots, so each has its influences; one of 0 too, which may be 0 by chance. Of two knots the
    curvature is not known: the curve then lies between the qualities of both.
    """
    left, right = knots[j], knots[j + 1]
    if len(knots) == 2:
        ends = (left.quality, right.quality)
        best, worst = max(ends, key=lambda end: end.value), min(ends, key=lambda end: end.value)
        chord = smooth(_chord, (entropy, left.entropy, right.entropy, left.quality, right.quality))
        return best - chord, chord - worst
    around = [
        [value for knot in knots[i : i + 3] for value in (knot.entropy, knot.quality)]
        for i in (j - 1, j)
        if 0 <= i <= len(knots) - 3
    ]
    least = min(around, key=lambda three: _bend(*(item.value for item in three)))
    bent = smooth(_rise, (entropy, left.entropy, right.entropy, *least))
    return Ratio(max(0.0, -bent.value), -bent.influence), Ratio(max(0.0, bent.value), bent.influence)


def _chord(e: float, h0: float, h1: float, g0: float, g1: float) -> float:
    return g0 + (e - h0) / (h1 - h0) * (g1 - g0)


def _rise(e: float, h0: float, h1: float, *three: float) -> float:
    """Curve less chord at e, of a parabola through three knots: bend (e - h0)(h1 - e), with its sign turned."""
    return max((e - h0) * (h1 - e), 0.0) * _bend(*three)


def _bend(h0: float, g0: float, h1: float, g1: float, h2: float, g2: float) -> float:
    """The second divided difference of quality over entropy."""
    return ((g2 - g1) / (h2 - h1) - (g1 - g0) / (h1 - h0)) / (h2 - h0)


def temperature_at(match: Match, knots: Sequence[Knot]) -> float:
    """The baseline's temperature at equal entropy, between its knots."""
    return math.fsum(share * knots[place].temperature for place, share in match.weights)


def mixed(values: Sequence[Ratio], match: Match) -> Ratio:
    """Another value of the baseline at equal entropy, with the same shares of the knots.

    Args:
        values: at each knot.
        match: the candidate's place.
    """
    parts = [values[place] * share for place, share in match.weights]
    return parts[0] + parts[1] if len(parts) > 1 else parts[0]
