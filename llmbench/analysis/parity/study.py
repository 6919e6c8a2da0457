"""What every metric of one set of sides is tested with: the prefix of entropy, the baseline's curve, the texts."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmbench.analysis.parity import interim
from llmbench.analysis.parity.bounds import SKEW_CLUSTERS, Bound, Ratio, bound
from llmbench.analysis.parity.checks import empty_check, length_check
from llmbench.analysis.parity.curve import LEAST_STEP, Knot, Match, kept_knots, mixed
from llmbench.analysis.parity.grouping import Group
from llmbench.analysis.parity.metric_test import (
    Terms,
    at_equal_entropy,
    both_judges,
    decide,
    delta_test,
    directly,
    needed,
)
from llmbench.analysis.parity.sides import Side, is_measured, orientation, summed
from llmbench.analysis.parity.sums import (
    Read,
    Sums,
    common_prefix,
    documents_of,
    entropy_reader,
    metric_sums,
    ratios_of,
    reader,
    usable_points,
)
from llmbench.analysis.parity.text_checks import TextChecks, halves, no_spread
from llmbench.analysis.parity.verdict import (
    DIVERSITY,
    MATCHED,
    Check,
    CheckName,
    Curve,
    CurvePoint,
    DeltaTest,
    MetricParity,
    Status,
)
from llmbench.metrics import quality


@dataclass(frozen=True, kw_only=True)
class Study:
    """The texts of both sides: what every metric of a set is tested with."""

    sides: Group
    prefix: int | None  # judge tokens over which entropy is taken
    # by prompts and temperatures of the knots: metrics at matched diversity share their Checks
    _texts: dict[tuple[Any, ...], TextChecks] = field(default_factory=dict, init=False, repr=False, compare=False)

    @functools.cached_property
    def _read_entropy(self) -> Read:
        return entropy_reader(self.prefix)

    @classmethod
    def of(cls, sides: Group) -> "Study":
        """That of a group."""
        return cls(sides=sides, prefix=common_prefix((*sides.sides, *sides.curve)))

    def curve(self, metric: str) -> Curve:
        """The values of both sides; floor and human texts are the same for every job of a set."""
        members = [record for side in self.sides.sides for record in side.records]

        def value(side: Side) -> float | None:
            if metric != DIVERSITY or self.prefix is None:
                return side.value(metric)
            return quality.ratio(metric, self._entropy(side).values())

        def anywhere(key: str) -> float | None:
            return next((record.metrics[key] for record in members if key in record.metrics), None)

        values = [(side.steps or 0, value(side)) for side in self.sides.candidates]
        floor = anywhere(f"{metric}_floor")
        known = self.sides.baseline.records[0] if self.sides.baseline else None
        return Curve(
            metric=metric,
            baseline=value(self.sides.baseline) if self.sides.baseline else None,
            values=tuple((k, found) for k, found in values if found is not None),
            floor=floor,
            human=anywhere(f"{metric}_human"),
            floor_text=(quality.floor_subject(known, metric) or "") if known and floor is not None else "",
        )

    def points(self) -> tuple[CurvePoint, ...]:
        """The baseline over temperature."""
        usable = usable_points(self.sides.curve, MATCHED[0], self._read_entropy)
        knots = [(side, quality.ratio(DIVERSITY, self._entropy(side).values())) for side in usable]
        kept: list[float] = []
        made = []
        for side, entropy in knots:
            if entropy is None or side.temperature is None:
                continue
            keeps = not kept or entropy - kept[-1] >= LEAST_STEP
            kept += [entropy] if keeps else []
            values = tuple((key, found) for key in MATCHED if (found := side.value(key)) is not None)
            made.append(CurvePoint(temperature=side.temperature, entropy=entropy, values=values, kept=keeps))
        return tuple(made)

    def metric(
        self, key: str, found: tuple[Check, ...], terms: interim.Terms
    ) -> tuple[MetricParity, tuple[Check, ...]]:
        """Point estimate and test of one metric, and the Checks that its own sums and texts made."""
        made, more = self._tested(key, found, terms)
        second = f"{key}_second"
        if key in MATCHED and any(is_measured(side.records, second) for side in self.sides.sides):
            other, also = self._tested(second, (*found, *more), terms)
            made, more = both_judges(made, other), (*more, *also)
        return made, more

    def _tested(
        self, key: str, found: tuple[Check, ...], terms: interim.Terms
    ) -> tuple[MetricParity, tuple[Check, ...]]:
        base = key.removesuffix("_second")
        under = Terms(margin=getattr(terms.options.margins, base.partition("/")[2]), alpha=terms.alpha)
        steps = [side.steps or 0 for side in self.sides.candidates]
        steps = sorted({*steps, *(check.steps for check in found if check.steps is not None)})
        points = usable_points(self.sides.curve, key, self._read_entropy) if base in MATCHED else []
        sums, more = metric_sums(self.sides, key, points)
        entropies = None
        if sums is not None and base in MATCHED:
            entropies = ratios_of((*self._candidates(sums), *points), self._read_entropy, sums.prompts)
            if entropies is None or not points:
                values: dict[str, float | str] = {"points": float(len(points))}
                sums, more = None, (_unusable(CheckName.CURVE, key, values),)
        if sums is not None and sums.by.count - sums.by.strata < 2:
            few: dict[str, float | str] = {"prompts": float(len(sums.prompts))}
            sums, more = None, (_unusable(CheckName.FEW, key, few),)
        curve = self.curve(key)
        if sums is None:
            prompts = [o.prompt_id for o in self.sides.baseline.records[0].outputs] if self.sides.baseline else []
            by = documents_of(self.sides.records, prompts)
            return decide(curve, (), steps, (*found, *more), under, by), more
        tests, checks, room = self._compared(sums, entropies, points, key, under, terms)
        checks = [*more, *checks]
        made = decide(curve, tests, steps, (*found, *checks), under, sums.by)
        if made.status is Status.UNDECIDED and tests:
            made = replace(made, prompts_needed=needed(tests[-1], room, under, _for_skew(tests[-1])))
        return made, tuple(checks)

    def _compared(
        self,
        sums: Sums,
        entropies: Sequence[Ratio] | None,
        points: Sequence[Side],
        key: str,
        under: Terms,
        terms: interim.Terms,
    ) -> tuple[list[DeltaTest], list[Check], list[tuple[float, float]]]:
        """The tests at every k, the Checks on the texts, and room and sd of the Checks at the largest k."""
        candidates = self._candidates(sums)
        sides = [self.sides.baseline] if self.sides.baseline else []
        ratios = [sums.baseline, *sums.candidates.values()]
        checks = [
            check
            for side, own in zip((*sides, *candidates), ratios, strict=True)
            if (check := no_spread(own, side, key)) is not None
        ]
        knots: list[Knot] = []
        texts: TextChecks | None = None
        lengths: list[Ratio] | None = None
        empty: list[Ratio] | None = None
        if entropies is not None and self.sides.baseline is not None:
            at = zip(points, entropies[len(candidates) :], sums.curve, strict=True)
            every = [Knot(temperature=s.temperature or 0.0, entropy=e, quality=q) for s, e, q in at]
            knots, _ = kept_knots(every)
            kept = [points[every.index(knot)] for knot in knots]
            place = (sums.prompts, *(knot.temperature for knot in knots))
            if place not in self._texts:
                self._texts[place] = TextChecks(self.sides.baseline, kept, sums.prompts, sums.by, self.prefix)
            texts = self._texts[place]
            lengths, empty = (
                ratios_of(kept, reader(f"quality/{name}"), sums.prompts) for name in ("length_bytes", "empty_share")
            )
        floor = _Floor(self.sides, key, points, knots, sums)
        tests, room = [], list[tuple[float, float]]()
        for i, side in enumerate(candidates):
            value, steps = sums.candidates[side.steps or 0], side.steps or 0
            if entropies is None:
                compared = directly(steps, value, sums.baseline)
            elif not math.isfinite(entropies[i].value):  # all of its texts are empty
                continue
            else:
                compared = at_equal_entropy(steps, value, entropies[i], knots, sums.by)
            tests.append(delta_test(compared, knots, sums.by, under, floor.below))
            if texts is not None and not key.endswith("_second"):
                own = texts.of(side, compared.matches[0], under.alpha)
                room = halves(own)
                checks += [*own, *_length(side, compared.matches[0], lengths, sums.prompts, terms)]
                checks += _empty(side, self.sides.baseline, compared.matches[0], empty, terms)
        return tests, checks, room

    def _entropy(self, side: Side) -> dict[str, quality.Terms]:
        return summed([self._read_entropy(record) for record in side.records])

    def _candidates(self, sums: Sums) -> list[Side]:
        """Those whose sums can be used."""
        return [side for side in self.sides.candidates if side.steps in sums.candidates]


class _Floor:
    """The bound of reference - floor, over the prompts that have a floor text."""

    def __init__(self, sides: Group, key: str, points: Sequence[Side], knots: Sequence[Knot], sums: Sums) -> None:
        self._sums = sums
        below = sides.baseline.terms(f"{key}_floor") if sides.baseline else {}
        self._whole = all(prompt in below for prompt in sums.prompts)
        shared = tuple(prompt for prompt in sums.prompts if prompt in below)
        self._floor = ratios_of([sides.baseline], reader(f"{key}_floor"), shared) if sides.baseline and shared else None
        self._some: Sums | None = None
        if not self._whole and shared:
            self._some, _ = metric_sums(sides, key, points, frozenset(shared))
        self._sign = orientation(key)
        self._places = [i for i, own in enumerate(sums.curve) if any(own is knot.quality for knot in knots)]

    def below(self, match: Match) -> Bound | None:
        """Reference - floor at a match; None where no floor was measured."""
        if self._floor is None:
            return None
        floor = self._floor[0] * self._sign
        if self._whole:
            return bound(match.reference - floor, self._sums.by)
        if self._some is None:
            return None
        at = [self._some.curve[place] for place in self._places]  # without the error of the place on the curve
        reference = mixed(at, match) if match.weights else self._some.baseline
        return bound(reference - floor, self._some.by)


def _length(
    side: Side, match: Match, lengths: Sequence[Ratio] | None, prompts: Sequence[str], terms: interim.Terms
) -> list[Check]:
    """Realised length against the baseline's at equal entropy; nothing where it is not known."""
    own = ratios_of([side], reader("quality/length_bytes"), prompts)
    if own is None or lengths is None:
        return []
    limit = terms.options.thresholds.length_share
    return [length_check(side, own[0].value, mixed(lengths, match).value, limit)]


def _empty(
    side: Side, baseline: Side | None, match: Match, shares: Sequence[Ratio] | None, terms: interim.Terms
) -> list[Check]:
    """Empty outputs of the baseline at equal entropy; nothing where they are few or not known."""
    if shares is None or baseline is None:
        return []
    limit = terms.options.thresholds.empty_share
    found = empty_check(side, baseline.label, mixed(shares, match).value, limit)
    return [found] if found else []


def _unusable(name: CheckName, metric: str, values: dict[str, float | str]) -> Check:
    return Check(name=name, passed=False, blocks="verdict", metrics=(metric,), values=values)


def _for_skew(test: DeltaTest) -> float:
    return SKEW_CLUSTERS * test.skewness**2
