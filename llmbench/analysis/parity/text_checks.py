"""What texts must pass besides the metric, at equal diversity: relevance to the prompt, no copying, no looping.

Each is compared with the baseline's at equal entropy, with the same shares of the curve's knots; off the curve with its
nearest end. They stop a k from passing; none of them shows that a k is worse.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmbench.analysis.parity.bounds import Clusters, Ratio, bound
from llmbench.analysis.parity.curve import Match, mixed
from llmbench.analysis.parity.sides import Side, remembered
from llmbench.analysis.parity.sums import Read, ratios_of, reader, share_below
from llmbench.analysis.parity.verdict import MATCHED, Check, CheckName
from llmbench.metrics import quality
from llmbench.metrics.quality import Terms
from llmbench.record import Record

RELEVANCE_MARGIN = 0.05
"""Nats per token: how much less than the baseline's text a text may depend on its prompt."""

COPYING_MARGIN = 0.25
"""Share of 4-grams that occur in outputs of other prompts, above the baseline's."""

REPETITION_MARGIN = 0.1
"""Share of tokens in repeated 4-grams of the whole output, above the baseline's."""

SHORT_MARGIN = 0.05
"""By how much the shares of outputs shorter than the entropy's prefix may differ."""


class TextChecks:
    """The Checks on texts of one set; what cannot be measured fails."""

    def __init__(
        self, baseline: Side, points: Sequence[Side], prompts: Sequence[str], by: Clusters, prefix: int | None
    ) -> None:
        """Read the baseline's values at each knot.

        Args:
            baseline: the side whose texts the floors are made for.
            points: the knots of its curve.
            prompts: in the order of the influences.
            by: their clusters.
            prefix: over which entropy was taken.
        """
        self._points, self._prompts, self._by, self._prefix = points, prompts, by, prefix
        self._relevance = self._knots(reader("quality/relevance"))
        self._wrong = self._knots(_under_other_prompt)
        self._copying = self._knots(_whole("quality/shared_4grams"))
        self._repetition = self._knots(reader("quality/repetition"))
        echoes = ratios_of([baseline], _of_echo, prompts)
        self._echo = echoes[0] if echoes else None
        self._made: dict[tuple[Any, ...], list[Check]] = {}

    def _knots(self, read: Read) -> list[Ratio] | None:
        return ratios_of(self._points, read, self._prompts)

    def of(self, side: Side, match: Match, alpha: float) -> list[Check]:
        """Every Check of one k.

        Args:
            side: the candidate at k.
            match: its place against the curve.
            alpha: of each one-sided bound.
        """
        place = (side.steps, match.weights, alpha)
        if place not in self._made:
            self._made[place] = self._checks(side, match, alpha)
        return self._made[place]

    def _checks(self, side: Side, match: Match, alpha: float) -> list[Check]:
        return [
            *self._relevance_checks(side, match, alpha),
            self._above(CheckName.COPYING, side, match, _whole("quality/shared_4grams"), self._copying, COPYING_MARGIN),
            self._above(
                CheckName.REPETITION, side, match, reader("quality/repetition"), self._repetition, REPETITION_MARGIN
            ),
            self._short(side, match),
        ]

    def _relevance_checks(self, side: Side, match: Match, alpha: float) -> list[Check]:
        found = ratios_of([side], reader("quality/relevance"), self._prompts)
        known = self._relevance, self._wrong, self._echo
        if found is None or any(item is None for item in known):
            return [_check(CheckName.RELEVANCE, side, passed=False, values={"measured": "no"})]
        own, at = found[0], mixed(self._relevance or [], match)
        wrong = mixed(self._wrong or [], match)
        assert self._echo is not None
        limit = at + (self._echo - at) * 0.5
        low, high, apart = (bound(item, self._by) for item in (own - at, own - limit, at - wrong))
        values: dict[str, float | str] = {"value": own.value, "reference": at.value, "difference": low.delta}
        values |= {"lower": low.lower(alpha), "limit": -RELEVANCE_MARGIN, "sd": low.sd}
        return [
            _check(CheckName.RELEVANCE, side, passed=low.lower(alpha) >= -RELEVANCE_MARGIN, values=values),
            _check(
                CheckName.ECHO,
                side,
                passed=high.upper(alpha) <= 0,
                values={"value": own.value, "limit": limit.value, "upper": high.upper(alpha), "sd": high.sd}
                | {"echo": self._echo.value, "difference": high.delta},
            ),
            _check(
                CheckName.RELEVANCE_ASSAY,
                side,
                passed=apart.lower(alpha) > RELEVANCE_MARGIN,
                values={"value": at.value, "floor": wrong.value, "lower": apart.lower(alpha)}
                | {"limit": RELEVANCE_MARGIN},
            ),
        ]

    def _above(
        self, name: CheckName, side: Side, match: Match, read: Read, knots: list[Ratio] | None, margin: float
    ) -> Check:
        """A share that may lie above the baseline's by at most a margin."""
        found = ratios_of([side], read, self._prompts)
        if found is None or knots is None:
            return _check(name, side, passed=False, values={"measured": "no"})
        own, at = found[0].value, mixed(knots, match).value
        return _check(
            name, side, passed=own <= at + margin, values={"value": own, "reference": at, "limit": at + margin}
        )

    def _short(self, side: Side, match: Match) -> Check:
        """Whether as many outputs are shorter than the prefix: length must not become diversity."""
        prefix = self._prefix or 0
        own = _share_below(side, prefix)
        at = math.fsum(share * _share_below(self._points[place], prefix) for place, share in match.weights)
        values: dict[str, float | str] = {"value": own, "reference": at, "limit": SHORT_MARGIN, "prefix": float(prefix)}
        return _check(CheckName.SHORT, side, passed=abs(own - at) <= SHORT_MARGIN, values=values)


def _under_other_prompt(record: Record) -> dict[str, Terms]:
    return remembered(record, "other prompt", lambda: quality.relevance_under_other_prompt(record))


def _of_echo(record: Record) -> dict[str, Terms]:
    return remembered(record, "echo", lambda: quality.terms_of(record, "quality/relevance", "prompt_tail"))


def halves(checks: Sequence[Check]) -> list[tuple[float, float]]:
    """Room and sd of the two tests of relevance, for the prompts that would decide."""
    found = []
    for check in checks:
        sd, difference = check.values.get("sd"), check.values.get("difference")
        if isinstance(sd, float) and isinstance(difference, float):
            room = difference + RELEVANCE_MARGIN if check.name is CheckName.RELEVANCE else -difference
            found.append((room, sd))
    return found


def no_spread(ratio: Ratio, side: Side, metric: str) -> Check | None:
    """A failed Check where all prompts of a side have one score; None otherwise."""
    if len(ratio.influence) < 2 or np.ptp(ratio.influence) > 1e-9 * max(1.0, abs(ratio.value)):
        return None
    values: dict[str, float | str] = {"label": side.label, "value": ratio.value}
    steps = side.steps
    return Check(
        name=CheckName.NO_SPREAD, passed=False, blocks="reached", steps=steps, metrics=(metric,), values=values
    )


def _whole(metric: str) -> Read:
    """Reads a metric that a text may be too short for: it then counts as nothing."""
    read = reader(metric)

    def terms(record: Record) -> dict[str, Terms]:
        found = read(record)
        absent = {o.prompt_id: (0.0, 0.0) for o in record.outputs if o.prompt_id not in found and o.text is not None}
        return {**absent, **found} if found else {}

    return lambda record: remembered(record, ("whole", metric), lambda: terms(record))


def _share_below(side: Side, prefix: int) -> float:
    shares = [share_below([s for s in r.scores if s.subject == "output"], prefix) for r in side.records]
    return math.fsum(shares) / len(shares)


def _check(name: CheckName, side: Side, *, passed: bool, values: Mapping[str, float | str]) -> Check:
    """A Check of texts; values that are no numbers were not measured."""
    if not all(math.isfinite(value) for value in values.values() if isinstance(value, float)):
        passed, values = False, {"measured": "no"}
    return Check(
        name=name,
        passed=bool(passed),
        blocks="reached",
        steps=side.steps,
        metrics=(*MATCHED,),
        values={"label": side.label, **values},
    )
