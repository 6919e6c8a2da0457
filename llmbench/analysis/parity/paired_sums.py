"""One metric's sums per prompt, both sides paired: what is resampled. Seeds are summed within a prompt first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.analysis.parity.grouping import Group
from llmbench.analysis.parity.statistics import Array
from llmbench.analysis.parity.verdict import Gate
from llmbench.metrics import quality
from llmbench.metrics.keys import METRICS
from llmbench.metrics.quality import Terms
from llmbench.record import Record


@dataclass(frozen=True, kw_only=True)
class PairedSums:
    """Oriented numerators and denominators, shape (n, 2) each, prompts in one order."""

    prompts: tuple[str, ...]
    baseline: Array
    candidates: dict[int, Array]
    floor: tuple[Array, Array] | None  # the baseline and its best floor text, over the prompts that have both


def pooled(records: Sequence[Record], key: str) -> dict[str, Terms]:
    """Numerator and denominator of each prompt, summed over the Records; empty for a metric without sums.

    A prompt that one of the Records lacks is left out.
    """
    try:
        each = [quality.per_prompt(record, key) for record in records]
    except KeyError:  # a value that a Record carries without the sums behind it
        return {}
    if not each:
        return {}
    shared = set.intersection(*(set(terms) for terms in each))
    return {
        prompt: (sum(terms[prompt][0] for terms in each), sum(terms[prompt][1] for terms in each))
        for prompt in each[0]
        if prompt in shared
    }


def measured(records: Sequence[Record], metric: str) -> bool:
    """Whether one of the Records holds a value of the metric or sums behind it, numbers or not."""
    return any(metric in record.metrics or pooled([record], metric) for record in records)


def side_value(side: Sequence[Record], metric: str) -> float | None:
    """A side's value: as logged; over several seeds from the sums of them all."""
    if len(side) == 1:
        return side[0].metrics.get(metric)
    if any(metric not in record.metrics for record in side):
        return None
    return pooled_value(side, metric)


def pooled_value(side: Sequence[Record], metric: str) -> float | None:
    """A side's value from the sums of all its seeds; None where there is nothing to divide by."""
    return quality.ratio(metric, pooled(side, metric).values())


def orientation(metric: str) -> float:
    """+1 or -1: what turns a metric's sums so that more is better (perplexity's are turned already)."""
    turned = METRICS[metric].better == "lower" and metric != "quality/perplexity"
    return -1.0 if turned else 1.0


def paired_sums(group: Group, metric: str) -> tuple[PairedSums | None, tuple[Gate, ...]]:
    """The sums of one metric, and what is wrong with them: prompts missing on a side, values that are no numbers.

    None for the sums where something is wrong with them.
    """
    sign = np.array([orientation(metric), 1.0])
    sides = {steps: pooled(records, metric) for steps, records in group.sides}
    wanted = {prompt for terms in sides.values() for prompt in terms}
    if wanted and metric != "quality/accuracy":  # not every prompt has an answer; every output has the rest
        written = [output for _, records in group.sides for record in records for output in record.outputs]
        wanted |= {output.prompt_id for output in written if output.text is not None}
    found: list[Gate] = []
    for steps, records in group.sides:
        terms, label = sides[steps], records[0].label
        if absent := sorted(wanted - terms.keys()):
            said = f"{label} has no {metric} for {len(absent)} of {len(wanted)} prompts ({', '.join(absent[:3])})"
            found.append(
                Gate(name="prompts missing", reason=said, steps=steps, metrics=(metric,), change=_LACKING[metric])
            )
        if non_finite := sorted(prompt for prompt, pair in terms.items() if not np.isfinite(pair).all()):
            said = (
                f"{label} has {metric} that is not finite for {len(non_finite)} prompts ({', '.join(non_finite[:3])})"
            )
            found.append(
                Gate(name="not finite", reason=said, steps=steps, metrics=(metric,), change=_NON_FINITE[metric])
            )
        elif terms and not absent and side_value(records, metric) is None:
            said = f"{label} has no {metric}: its sums give no finite number"
            found.append(
                Gate(name="not finite", reason=said, steps=steps, metrics=(metric,), change=_NON_FINITE[metric])
            )
    if not wanted:
        said = f"no sums of {metric} were recorded"
        found.append(Gate(name="prompts missing", reason=said, metrics=(metric,), change=_LACKING[metric]))
    if found:
        return None, tuple(found)
    prompts = tuple(sorted(wanted))
    arrays = {steps: _array(terms, prompts) * sign for steps, terms in sides.items()}
    made = PairedSums(
        prompts=prompts,
        baseline=arrays[None],
        candidates={steps: array for steps, array in arrays.items() if steps is not None},
        floor=_floor(group, metric, sides[None], sign),
    )
    return made, ()


_JUDGED = ("quality/perplexity", "quality/bits_per_byte", "quality/entropy")

_LACKING = dict.fromkeys(
    _JUDGED, "run both sides in one sweep, with one metric.perplexity.judge and the same workload.*"
) | {
    "quality/bertscore_f1": "metric.bertscore for both sides in one sweep, with a reference for every prompt "
    "(workload.reference_field), or metric.bertscore=null",
    "quality/accuracy": "run both sides in one sweep, with the same workload.* and an answer for every prompt "
    "(workload.answer_field)",
}
"""By metric: the settings that give every prompt its sums."""

_NON_FINITE = dict.fromkeys(
    _JUDGED, "another metric.perplexity.judge, or leave those prompts out of the workload (workload.tasks)"
) | {
    "quality/bertscore_f1": "another metric.bertscore, or metric.bertscore=null",
    "quality/accuracy": "leave those prompts out of the workload (workload.tasks)",
}
"""By metric: the settings that make its sums numbers."""


def _floor(group: Group, metric: str, own: dict[str, Terms], sign: Array) -> tuple[Array, Array] | None:
    """The baseline beside its floor text, paired by prompt."""
    below = pooled(group.baseline, f"{metric}_floor")
    shared = tuple(sorted(own.keys() & below.keys()))
    return (_array(own, shared) * sign, _array(below, shared) * sign) if shared else None


def _array(terms: dict[str, Terms], prompts: Sequence[str]) -> Array:
    return np.array([terms[prompt] for prompt in prompts], dtype=np.float64).reshape(len(prompts), 2)
