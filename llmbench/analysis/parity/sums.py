"""One metric's ratio of sums for every side, with all prompts in one order; and what is wrong with the sums.

Every output counts: a prompt without a score on one side leaves the metric without a comparison.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.analysis.parity.bounds import Array, Clusters, Ratio, clusters, ratio
from llmbench.analysis.parity.grouping import Group
from llmbench.analysis.parity.sides import Side, orientation, pooled, remembered, side_value, summed
from llmbench.analysis.parity.verdict import Check, CheckName
from llmbench.metrics.quality import Terms
from llmbench.record import PromptScore, Record

Read = Callable[[Record], dict[str, Terms]]
"""Numerator and denominator of each prompt of a Record."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The ratios of one metric, oriented up."""

    prompts: tuple[str, ...]
    by: Clusters
    baseline: Ratio
    candidates: dict[int, Ratio]
    curve: tuple[Ratio, ...]  # at each of the given points


def common_prefix(sides: Sequence[Side]) -> int | None:
    """The longest prefix in judge tokens that at least 90 % of the outputs of every Record reach.

    The shortest that was measured where none does; None where no prefix was.
    """
    every = [[s for s in r.scores if s.subject == "output"] for side in sides for r in side.records]
    outputs = [scores for scores in every if not scores or any(s.text_tokens != 0 for s in scores)]  # not all empty
    measured = [{m for score in scores for m, _ in score.entropy_prefixes} for scores in outputs]
    grid = sorted(set.intersection(*measured)) if measured else []
    fitting = [m for m in grid if all(share_below(scores, m) <= 0.1 for scores in outputs)]
    return max(fitting, default=grid[0] if grid else None)


def share_below(scores: Sequence[PromptScore], prefix: int) -> float:
    """Share of the texts that are shorter than a prefix; 0 without texts."""
    return sum((score.text_tokens or 0) < prefix for score in scores) / len(scores) if scores else 0.0


def entropy_reader(prefix: int | None) -> Read:
    """Reads the entropy over a prefix; over `workload.diversity_tokens` where no prefixes were measured."""

    def terms(score: PromptScore) -> Terms | None:
        at = (nats for length, nats in score.entropy_prefixes if length == prefix)
        found = next(at, None) if prefix is not None else score.entropy_nats
        if found is None:  # an empty text has no distribution
            return (0.0, 0.0) if not (score.text_tokens or score.diversity_tokens or score.utf8_bytes) else None
        return (found, 1.0)

    def fresh(record: Record) -> dict[str, Terms]:
        each = {score.prompt_id: terms(score) for score in record.scores if score.subject == "output"}
        return {prompt: pair for prompt, pair in each.items() if pair is not None}

    def read(record: Record) -> dict[str, Terms]:
        return remembered(record, ("entropy", prefix), lambda: fresh(record))

    return read


def documents_of(records: Sequence[Record], prompts: Sequence[str]) -> Clusters:
    """The clusters of these prompts: documents, within tasks."""
    known = {output.prompt_id: output for record in records for output in record.outputs}
    outputs = [known.get(prompt) for prompt in prompts]
    return clusters(
        [output.document if output else None for output in outputs],
        [output.task if output else "" for output in outputs],
    )


def metric_sums(
    group: Group, metric: str, points: Sequence[Side], only: frozenset[str] | None = None
) -> tuple[Sums | None, tuple[Check, ...]]:
    """The sums of one metric, and a failed Check for each side whose sums are wrong.

    A candidate with such a Check is left out; with one of the baseline, or without candidates, there are no sums.

    Args:
        group: the sides.
        metric: of METRICS.
        points: of the baseline's curve, which have the metric.
        only: keep these prompts; None keeps all.
    """
    terms = [side.terms(metric) for side in group.sides]
    wanted = {prompt for own in terms for prompt in own}
    if wanted and metric != "quality/accuracy":  # not every prompt has an answer; every output has the rest
        wanted |= set().union(*map(_written, group.records))
    found = [check for side, own in zip(group.sides, terms, strict=True) for check in _wrong(side, own, wanted, metric)]
    if not wanted:
        found.append(_check(CheckName.PROMPTS, None, metric, {"missing": 0.0, "prompts": 0.0}))
    wrong = {check.steps for check in found}
    right = [(side, own) for side, own in zip(group.sides, terms, strict=True) if side.steps not in wrong]
    if None in wrong or len(right) < 2:
        return None, tuple(found)
    prompts = tuple(sorted(wanted if only is None else wanted & only))
    sign = orientation(metric)
    ratios = [_ratio(own, prompts, sign) for _, own in right]
    return (
        Sums(
            prompts=prompts,
            by=documents_of(group.records, prompts),
            baseline=ratios[0],
            candidates={side.steps or 0: own for (side, _), own in zip(right[1:], ratios[1:], strict=True)},
            curve=tuple(_ratio(side.terms(metric), prompts, sign) for side in points),
        ),
        tuple(found),
    )


def ratios_of(sides: Sequence[Side], read: Read, prompts: Sequence[str]) -> list[Ratio] | None:
    """Another value of each side over these prompts; None where one of them lacks a prompt.

    Args:
        sides: whose value is read.
        read: its terms.
        prompts: in the order of the influences.
    """
    terms = [summed([read(record) for record in side.records]) for side in sides]
    if any(prompt not in own for own in terms for prompt in prompts):
        return None
    return [_ratio(own, prompts) for own in terms]


def reader(metric: str) -> Read:
    """Reads the terms of a metric; nothing of a Record without sums of it."""
    return lambda record: pooled([record], metric)


def usable_points(points: Sequence[Side], metric: str, read_entropy: Read) -> list[Side]:
    """The points of a curve whose outputs all have finite sums of the metric and of entropy."""
    return [side for side in points if all(_is_whole(side, read) for read in (reader(metric), read_entropy))]


def _is_whole(side: Side, read: Read) -> bool:
    terms = summed([read(record) for record in side.records])
    counted = any(pair[1] for pair in terms.values())
    return counted and all(_written(r) <= terms.keys() for r in side.records) and not _odd(terms)


def _written(record: Record) -> set[str]:
    """The prompts that have a text."""
    return remembered(record, "written", lambda: {o.prompt_id for o in record.outputs if o.text is not None})


def _odd(terms: dict[str, Terms]) -> list[str]:
    """The prompts whose terms are no numbers."""
    return sorted(prompt for prompt, (a, b) in terms.items() if not (math.isfinite(a) and math.isfinite(b)))


def _wrong(side: Side, own: dict[str, Terms], wanted: set[str], metric: str) -> list[Check]:
    """What forbids a comparison by these sums."""
    if absent := sorted(wanted - own.keys()):
        values: dict[str, float | str] = {"missing": float(len(absent)), "prompts": float(len(wanted))}
        return [_check(CheckName.PROMPTS, side, metric, values | {"first": ", ".join(absent[:3])})]
    if (odd := _odd(own)) or (own and side_value(side.records, metric) is None):
        return [_check(CheckName.NOT_FINITE, side, metric, {"odd": float(len(odd)), "first": ", ".join(odd[:3])})]
    return []


def _check(name: CheckName, side: Side | None, metric: str, values: dict[str, float | str]) -> Check:
    return Check(
        name=name,
        passed=False,
        blocks="verdict",
        steps=side.steps if side else None,
        metrics=(metric,),
        values={**values, **({"label": side.label} if side else {})},
    )


def _ratio(terms: dict[str, Terms], prompts: Sequence[str], sign: float = 1.0) -> Ratio:
    return ratio(_array(terms, prompts) * np.array([sign, 1.0]))


def _array(terms: dict[str, Terms], prompts: Sequence[str]) -> Array:
    return np.array([terms[prompt] for prompt in prompts], dtype=np.float64).reshape(len(prompts), 2)
