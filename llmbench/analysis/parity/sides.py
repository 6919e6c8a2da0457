"""One side of a comparison: its Records over seeds, and what they say together.

Seeds are summed within a prompt: the prompt stays the unit, because texts of one prompt are not independent.
"""

import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llmbench.analysis.estimates import logged_mean
from llmbench.metrics import quality
from llmbench.metrics.keys import METRICS
from llmbench.metrics.quality import Terms
from llmbench.record import Record

T = TypeVar("T")

_REMEMBERED: dict[int, dict[Hashable, Any]] = {}


def remembered(record: Record, what: Hashable, read: Callable[[], T]) -> T:
    """What was read of a Record, once for as long as it lives. Nobody changes the value.

    Args:
        record: whose.
        what: name of the value.
        read: reads it.
    """
    own = id(record)
    if own not in _REMEMBERED:
        _REMEMBERED[own] = {}
        weakref.finalize(record, _REMEMBERED.pop, own, None).atexit = False
    known = _REMEMBERED[own]
    if what not in known:
        known[what] = read()
    made: T = known[what]
    return made


@dataclass(frozen=True)
class Side:
    """The Records of one setting over seeds; at least one."""

    records: tuple[Record, ...]

    @property
    def steps(self) -> int | None:
        """k; None for the baseline."""
        return self.records[0].steps

    @property
    def label(self) -> str:
        """Its name for people: `llama`, `llada k=16`."""
        return self.records[0].label

    @property
    def temperature(self) -> float | None:
        """Of the decoder; None where it is not known."""
        return temperature_of(self.records[0])

    @property
    def latency(self) -> float | None:
        """L_e2e in ms, the mean over seeds; None where one was not timed."""
        return logged_mean(self.records, "latency/e2e_ms")

    def value(self, metric: str) -> float | None:
        """A metric as logged; over several seeds from the sums of them all."""
        return side_value(self.records, metric)

    def terms(self, metric: str) -> dict[str, Terms]:
        """Numerator and denominator of each prompt, summed over seeds."""
        return pooled(self.records, metric)


def temperature_of(record: Record) -> float | None:
    """The decoder's temperature; None where it is not known."""
    try:
        return float(record.conditions["decoding.temperature"])
    except (KeyError, ValueError):
        return None


def summed(each: Sequence[dict[str, Terms]]) -> dict[str, Terms]:
    """Terms of several Records added up prompt by prompt; a prompt that one of them lacks is left out."""
    if len(each) == 1:
        return each[0]
    shared = set.intersection(*map(set, each)) if each else set()
    return {
        prompt: (sum(terms[prompt][0] for terms in each), sum(terms[prompt][1] for terms in each))
        for prompt in (each[0] if each else ())
        if prompt in shared
    }


def pooled(records: Sequence[Record], metric: str) -> dict[str, Terms]:
    """Numerator and denominator of each prompt, summed over the Records; empty for a metric without sums."""
    try:
        return summed([_terms(record, metric) for record in records])
    except KeyError:  # a value that a Record carries without the sums behind it
        return {}


def _terms(record: Record, metric: str) -> dict[str, Terms]:
    return remembered(record, metric, lambda: quality.per_prompt(record, metric))


def is_measured(records: Sequence[Record], metric: str) -> bool:
    """Whether one of the Records holds a value of the metric or sums behind it, numbers or not."""
    return any(metric in record.metrics or pooled([record], metric) for record in records)


def side_value(records: Sequence[Record], metric: str) -> float | None:
    """A side's value: as logged; over several seeds from the sums of them all."""
    if len(records) == 1:
        return records[0].metrics.get(metric)
    if any(metric not in record.metrics for record in records):
        return None
    return quality.ratio(metric, pooled(records, metric).values())


def pooled_value(records: Sequence[Record], metric: str) -> float | None:
    """A side's value from its sums; None where there is nothing to divide by."""
    return quality.ratio(metric, pooled(records, metric).values())


def orientation(metric: str) -> float:
    """+1 or -1: what turns a metric's sums so that more is better (perplexity's are turned already)."""
    base = metric.removesuffix("_second")
    return -1.0 if METRICS[base].better == "lower" and base != "quality/perplexity" else 1.0


def oriented(metric: str, value: float) -> float:
    """A value as logged, turned so that more is better; perplexity becomes g = -NLL per token."""
    return -math.log(value) if metric in quality.PERPLEXITIES else orientation(metric) * value


def as_logged(metric: str, value: float) -> float:
    """The inverse of `oriented`."""
    return math.exp(-value) if metric in quality.PERPLEXITIES else orientation(metric) * value
