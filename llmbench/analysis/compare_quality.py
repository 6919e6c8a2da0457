"""How much does the quality of a setting differ between two sweeps? Paired by prompt.

A prompt is the same on both sides when its id and its text are. What it adds to a difference of ratios of sums, and
the bounds, are those of the verdict (`analysis.parity.bounds`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from llmbench.analysis.compare_match import Setting
from llmbench.analysis.parity.bounds import Bound, bound, ratio
from llmbench.analysis.parity.sides import as_logged, orientation, pooled
from llmbench.analysis.parity.sums import documents_of
from llmbench.metrics.quality import Terms
from llmbench.record import Record

SCORED_BY = {
    "quality/perplexity": "judge",
    "quality/bits_per_byte": "judge",
    "quality/perplexity_second": "second_judge",
    "quality/bits_per_byte_second": "second_judge",
    "quality/entropy": "judge",
    "quality/bertscore_f1": "encoder",
    "quality/accuracy": "",
}
"""The metrics that are compared, and the condition that says what scored them; accuracy needs nothing."""


class Why(Enum):
    """Why something was not judged."""

    NOT_TIMED = "no batch of the same prompts was timed on both sides"
    FEW_REPEATS = "fewer than 6 repeats"
    BUSY = "the CPU did other work when a job began"
    OTHER_SCORER = "scored by another model"
    NO_SHARED_PROMPTS = "no prompt is the same on both sides"
    NOT_SCORED = "prompts without a score"
    NOT_FINITE = "scores that are no finite numbers"
    FEW_PROMPTS = "too few independent prompts"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A metric of a setting that was not judged."""

    setting: str
    metric: str
    why: Why
    side: Literal["A", "B", "both", ""] = ""  # whose fault it is; "" where it is nobody's


@dataclass(frozen=True, kw_only=True)
class QualityChange:
    """A metric of a setting on both sides."""

    setting: str
    metric: str
    a: float  # as logged, over the shared prompts
    b: float
    bound: Bound  # of B - A, more is better; perplexity in nats per token


def shared_prompts(setting: Setting) -> tuple[str, ...]:
    """The prompts of equal id and text in every Record of a setting, in order."""
    each = [{o.prompt_id: o.prompt for o in record.outputs} for pair in setting.pairs for record in pair]
    first, *others = each
    return tuple(sorted(p for p in first if all(p in other and other[p] == first[p] for other in others)))


def same_texts(setting: Setting, prompts: Sequence[str]) -> int:
    """How many of these prompts have equal texts on both sides, over all seeds; outputs without text do not count."""
    pairs = [[{o.prompt_id: o.text for o in record.outputs} for record in pair] for pair in setting.pairs]
    return sum(all(a[prompt] is not None and a[prompt] == b[prompt] for a, b in pairs) for prompt in prompts)


def quality_changes(setting: Setting) -> tuple[list[QualityChange], list[Skipped]]:
    """Every metric that a side measured: its change, or why there is none."""
    prompts = shared_prompts(setting)
    changes, skipped = [], []
    for metric in SCORED_BY:
        found = _change(setting, metric, prompts)
        if isinstance(found, QualityChange):
            changes.append(found)
        elif found is not None:
            skipped.append(found)
    return changes, skipped


def _change(setting: Setting, metric: str, prompts: Sequence[str]) -> QualityChange | Skipped | None:
    sides = [tuple(pair[side] for pair in setting.pairs) for side in (0, 1)]
    terms = [pooled(records, metric) for records in sides]
    if not any(terms):
        return None
    wanted = {prompt for own in terms for prompt in own} & set(prompts)
    if metric != "quality/accuracy":  # not every prompt has an answer; every output has the rest
        wanted |= _written(sides[0] + sides[1]) & set(prompts)
    ordered = sorted(wanted)
    if (fault := _fault(setting, metric, terms, ordered)) is not None:
        return fault
    sign = np.array([orientation(metric), 1.0])
    before, after = (ratio(np.array([own[prompt] for prompt in ordered]) * sign) for own in terms)
    found = bound(after - before, documents_of(sides[0], ordered))
    if not (math.isfinite(found.lower(0.025)) and math.isfinite(found.upper(0.025))):
        return Skipped(setting=setting.label, metric=metric, why=Why.FEW_PROMPTS)
    return QualityChange(
        setting=setting.label,
        metric=metric,
        a=as_logged(metric, before.value),
        b=as_logged(metric, after.value),
        bound=found,
    )


def _fault(setting: Setting, metric: str, terms: Sequence[dict[str, Terms]], prompts: Sequence[str]) -> Skipped | None:
    """What forbids a comparison over these prompts."""
    scorer = SCORED_BY[metric]
    named = list(zip("AB", terms, strict=True))
    lacking = [name for name, own in named if set(prompts) - own.keys()]
    if scorer and any(a.conditions.get(scorer) != b.conditions.get(scorer) for a, b in setting.pairs):
        why, side = Why.OTHER_SCORER, _side(())
    elif not prompts:
        why, side = Why.NO_SHARED_PROMPTS, _side(())
    elif lacking:
        why, side = Why.NOT_SCORED, _side(lacking)
    elif odd := [name for name, own in named if not _is_finite(own, prompts)]:
        why, side = Why.NOT_FINITE, _side(odd)
    else:
        return None
    return Skipped(setting=setting.label, metric=metric, why=why, side=side)


def _written(records: Sequence[Record]) -> set[str]:
    return {output.prompt_id for record in records for output in record.outputs if output.text is not None}


def _is_finite(terms: dict[str, Terms], prompts: Sequence[str]) -> bool:
    finite = all(math.isfinite(a) and math.isfinite(b) for a, b in (terms[prompt] for prompt in prompts))
    return finite and sum(terms[prompt][1] for prompt in prompts) > 0


def _side(names: Sequence[str]) -> Literal["A", "B", "both", ""]:
    if len(names) != 1:
        return "both" if names else ""
    return "A" if names[0] == "A" else "B"
