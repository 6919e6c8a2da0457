"""Intervals of a ratio of times, by bootstrap over batches and repeats. docs/method.md gives the formulas.

Batches are shared between the two sides (same prompts), so a resample draws one list of batches for both; repeats are
not, so each Record draws its own. A repeat is drawn whole, because batches of one pass share the state of the machine.
The interval covers chance in repeats and in the choice of batches, within one process.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmbench.analysis.estimates import Interval
from llmbench.record import Record

Array = NDArray[np.float64]

MIN_REPEATS = 6
"""Fewer repeats give no interval: the bootstrap of so short a list is far too narrow."""

RESAMPLES = 2000


def shared_batches(records: Sequence[Record]) -> tuple[int, ...]:
    """Batches that every Record repeated, in order."""
    return tuple(sorted(set.intersection(*(set(record.repeated_batches) for record in records))))


def repeat_times(record: Record, batches: Sequence[int]) -> Array:
    """L_e2e in ms, shape (repeats, batches): the repeats in which every one of `batches` was timed."""
    times = {(item.repeat, item.batch): item.e2e_ms for item in record.timings}
    repeats = sorted({repeat for repeat, _ in times})
    rows = [
        [times[repeat, batch] for batch in batches] for repeat in repeats if all((repeat, b) in times for b in batches)
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(batches))


def speedup_interval(
    baseline: Sequence[Record], candidate: Sequence[Record], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval | None:
    """95 % percentile bootstrap interval of L_e2e(baseline) / L_e2e(candidate).

    Args:
        baseline: Records whose time is the numerator, one per seed.
        candidate: Records of the same partition of prompts, one per seed.
        rng: the only source of chance.
        resamples: bootstrap draws.

    Returns:
        None when a Record has fewer than `MIN_REPEATS` repeats of the shared batches, or no batch is shared.
    """
    batches = shared_batches((*baseline, *candidate))
    sides = [[repeat_times(record, batches) for record in side] for side in (baseline, candidate)]
    if not batches or min(len(times) for side in sides for times in side) < MIN_REPEATS:
        return None
    return ratio_interval(sides[0], sides[1], rng, resamples)


def ratio_interval(
    upper: Sequence[Array], lower: Sequence[Array], rng: np.random.Generator, resamples: int
) -> Interval:
    """The interval of `speedup_interval` from times of shape (repeats, batches), one array per seed of a side.

    On the log scale a draw is the point, plus what drawing batches changes, plus what drawing repeats changes. Few
    batches look more alike than they are: their part is stretched by t(m - 1) / z sqrt(m / (m - 1)), as for a mean.
    """
    from scipy.special import ndtri, stdtrit

    count = upper[0].shape[1]
    whole = np.broadcast_to(np.arange(count), (resamples, count))
    drawn = rng.integers(count, size=(resamples, count))
    point = _log_ratio(upper, lower, whole[:1], None)
    of_repeats = _log_ratio(upper, lower, whole, rng) - point
    stretch = float(stdtrit(count - 1, 0.975) / ndtri(0.975) * np.sqrt(count / (count - 1))) if count > 1 else 0.0
    of_batches = stretch * (_log_ratio(upper, lower, drawn, None) - point)
    low, high = np.exp(np.percentile(point + of_batches + of_repeats, [2.5, 97.5]))
    return Interval(low=float(low), high=float(high))


def _log_ratio(
    upper: Sequence[Array], lower: Sequence[Array], batches: NDArray[Any], rng: np.random.Generator | None
) -> Array:
    above, below = (np.mean([_medians(times, batches, rng) for times in side], axis=0) for side in (upper, lower))
    ratio: Array = np.log(above / below)
    return ratio


def _medians(times: Array, batches: NDArray[Any], rng: np.random.Generator | None) -> Array:
    """Median over repeats (drawn, if there is an `rng`) of the mean over the given batches: shape (resamples,).

    `times` is (repeats, batches), `batches` (resamples, batches) of column indices.
    """
    means = times.T[batches].mean(axis=1)  # (resamples, repeats)
    if rng is not None:
        means = np.take_along_axis(means, rng.integers(len(times), size=means.shape), axis=1)
    medians: Array = np.median(means, axis=1)
    return medians
