"""How far could the speedup have come out otherwise? Intervals from the raw times that Records keep.

The estimand is the ratio of the logged values: speedup(k) = L_e2e(LLaMA) / L_e2e(LLaDA at k), where each L_e2e is the
median over repeats of the mean over the repeated batches (docs/metrics.md). Batches are shared between the two sides
(same prompts), so a resample draws one list of batches for both; repeats are not shared (nothing links the third
repeat of one job with the third of another), so each side draws its own. A repeat is drawn whole: batches of one pass
share the machine's mood.

What the interval covers: chance in repeats and in the choice of batches, within one process. With one repeated batch
(`timing.batches=1`) it speaks about that batch only. It does not cover another process, day or machine. Called by
`llmbench.analysis.parity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmbench.record import Record

MIN_REPEATS = 6
"""Fewer repeats give no interval: the bootstrap of so short a list is far too narrow."""

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def shared_batches(first: Record, second: Record) -> tuple[int, ...]:
    """Batches that both Records repeated, in order."""
    return tuple(sorted(set(first.repeated_batches) & set(second.repeated_batches)))


def repeat_times(record: Record, batches: Sequence[int]) -> NDArray[np.float64]:
    """L_e2e in ms, shape (repeats, batches): the repeats in which every one of `batches` was timed."""
    times = {(item.repeat, item.batch): item.e2e_ms for item in record.timings}
    repeats = sorted({repeat for repeat, _ in times})
    rows = [
        [times[repeat, batch] for batch in batches] for repeat in repeats if all((repeat, b) in times for b in batches)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(batches))


def speedup_interval(
    baseline: Record, candidate: Record, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval | None:
    """95 % percentile bootstrap interval of L_e2e(baseline) / L_e2e(candidate).

    Args:
        baseline: Record whose time is the numerator.
        candidate: Record of the same partition of prompts.
        rng: the only source of chance.
        resamples: bootstrap draws.

    Returns:
        None when a side has fewer than `MIN_REPEATS` repeats of the shared batches, or no batch is shared.
    """
    batches = shared_batches(baseline, candidate)
    sides = [repeat_times(record, batches) for record in (baseline, candidate)]
    if not batches or min(len(side) for side in sides) < MIN_REPEATS:
        return None
    drawn = rng.integers(len(batches), size=(resamples, len(batches)))
    upper, lower = (_resampled_medians(side, drawn, rng) for side in sides)
    low, high = np.percentile(upper / lower, [2.5, 97.5])
    return Interval(low=float(low), high=float(high))


def _resampled_medians(
    times: NDArray[np.float64], batches: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Median over drawn repeats of the mean over drawn batches: shape (resamples,).

    `times` is (repeats, batches), `batches` (resamples, batches) of column indices.
    """
    repeats = rng.integers(len(times), size=(len(batches), len(times)))
    drawn = times[repeats[:, :, None], batches[:, None, :]]  # (resamples, repeats, batches)
    medians: NDArray[np.float64] = np.median(drawn.mean(axis=2), axis=1)
    return medians
