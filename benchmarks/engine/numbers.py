"""What is a row of the bench judged by? Ratios over pairs of samples that were taken one after the other.

The interval is that of `metrics.performance`, from order statistics. `page` shows these, `__main__` keeps them.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.engine import cases
from benchmarks.engine.cases import FLOOR, OFFICIAL, OURS, VLLM
from llmbench.metrics.performance import median_interval


def kept(row: dict[str, Any], settings: dict[str, Any]) -> dict[str, float | None] | None:
    """What a row is judged by, as it is kept in the JSON: median and 95 % interval; None for a row without samples."""
    case = next(case for case in cases.ALL if case.name == row["name"])
    found = values(case, row, settings)
    if not found:
        return None
    low, high = median_interval(found) or (None, None)
    return {"median": statistics.median(found), "ci_low": low, "ci_high": high}


def values(case: Any, row: dict[str, Any], settings: dict[str, Any]) -> list[float]:
    """Of every pair of samples what the bar is about."""
    ours = row["samples"].get(OURS, [])
    if isinstance(case, cases.StepCase):
        return ratios(ours, row["samples"].get(FLOOR, []))
    if isinstance(case, cases.VllmCase):
        return ratios(row["samples"].get(VLLM, []), ours)
    other = against(row, settings)
    return ratios(ours, other) if case.better == "lower" else ratios(other, ours)


def against(row: dict[str, Any], settings: dict[str, Any]) -> list[float]:
    """What a whole generation is held against."""
    return row["samples"].get(OFFICIAL) or _sums(row, settings["canvas"] - 1)


def later_tokens(whole: Sequence[float], one: Sequence[float], tokens: int) -> list[float]:
    """Milliseconds of each token after the first: a generation minus one of a single token, pair by pair."""
    return [(a - b) / (tokens - 1) for a, b in zip(whole, one, strict=False)]


def _sums(row: dict[str, Any], tokens: int) -> list[float]:
    """Prefill plus all later tokens at the inter-token time of the same repeat."""
    later = row["samples"].get("inter-token", [])
    return [prefill + tokens * each for prefill, each in zip(row["prefill_ms"], later, strict=True)]


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Pair by pair; what is left over at the end of the longer one is not looked at."""
    return [a / b for a, b in zip(over, under, strict=False)]
