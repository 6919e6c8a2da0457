"""Bounds and intervals from what Records keep, all vectorised. docs/method.md gives the formulas and their sources.

*Quality.* The unit is the prompt, the value a ratio of sums over prompts, and the two sides are paired by prompt. With
(a, b) the baseline's numerator and denominator of a prompt and (c, d) the candidate's,

    Delta = sum c / sum d - sum a / sum b
    z_i   = (c_i - f d_i) / mean d - (a_i - Q b_i) / mean b        the linearised ratio, of mean 0
    lower = Delta - max(t, Hall's t) sd(z) / sqrt n                the one-sided bound that is tested

*Speed.* speedup(k) is the ratio of the logged L_e2e. Batches are shared between the two sides (same prompts), so a
resample draws one list of batches for both; repeats are not, so each Record draws its own. A repeat is drawn whole,
because batches of one pass share the state of the machine. The interval covers chance in repeats and in the choice of
batches, within one process; it does not cover another process, day or machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmbench.analysis.estimates import Interval
from llmbench.record import Record

Array = NDArray[np.float64]

MIN_REPEATS = 6
"""Fewer repeats give no interval: the bootstrap of so short a list is far too narrow."""

RESAMPLES = 2000
"""Of the speedup."""

_CHUNK = 500
"""Resamples at once: 4 MB of weights for 1,000 prompts, which stay in the cache."""


# ----------------------------------------------------------------------------------------------------------------
# Quality


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Delta of one or many comparisons, with what its bounds are made of; arrays of one shape."""

    delta: Array
    sd: Array  # of z
    skewness: Array  # of z, corrected for n
    prompts: int

    def lower(self, alpha: float) -> Array:
        """The one-sided lower bound: what is tested."""
        return self.delta - self._width(alpha, self._skewness_limit(self.skewness))

    def lower_t(self, alpha: float) -> Array:
        """The linearised-ratio t bound alone: what docs/metrics.md defines, recorded beside the one that is tested."""
        from scipy.special import stdtrit

        if self.prompts < 3:
            return np.full_like(self.sd, np.nan)
        bound: Array = self.delta - float(stdtrit(self.prompts - 1, 1 - alpha)) * self.sd / np.sqrt(self.prompts)
        return bound

    def upper(self, alpha: float) -> Array:
        """The one-sided upper bound."""
        return self.delta + self._width(alpha, self._skewness_limit(-self.skewness))

    def enough_below(self) -> NDArray[np.bool_]:
        """Whether the lower bound may be trusted: n >= 25 G^2, or nothing varies at all."""
        wanted = SKEW_PROMPTS * np.square(np.minimum(self._skewness_limit(self.skewness), 0))
        return np.asarray((self.prompts >= wanted) | (self.sd <= _NO_SPREAD))

    def _skewness_limit(self, skewness: Array) -> Array:
        """The 95 % lower limit of skewness: a sample that lacks its rare texts shows too little of it."""
        n = self.prompts
        if n < 3:
            return np.full_like(skewness, np.nan)
        return skewness - 1.645 * float(np.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3))))

    def _width(self, alpha: float, skewness: Array) -> Array:
        """How far a bound lies away: that of t, or of Hall's transformation where that is farther."""
        from scipy.special import stdtrit

        if self.prompts < 3:
            return np.full_like(self.sd, np.nan)
        t = float(stdtrit(self.prompts - 1, 1 - alpha))
        a = np.minimum(skewness / np.sqrt(self.prompts), -1e-9)
        hall = 3 / a * (np.cbrt(1 + a * (t - a / 6)) - 1)
        width: Array = np.maximum(t, hall) * self.sd / np.sqrt(self.prompts)
        return width


_NO_SPREAD = 1e-12

SKEW_PROMPTS = 25
"""n >= 25 G^2: Cochran's rule for when a normal bound of a skewed mean holds."""


def difference(baseline: Array, candidate: Array) -> Differences:
    """Delta, and spread and skewness of the linearised ratio.

    Args:
        baseline: numerator and denominator of each prompt, shape (..., n, 2).
        candidate: the same prompts in the same order; leading dimensions broadcast.

    Returns:
        Arrays of shape (...). Without a denominator they are not finite; nor are bounds of fewer than three prompts.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        (below, z_below), (above, z_above) = (_linearised(side) for side in (baseline, candidate))
        z = z_above - z_below
        z -= z.mean(axis=-1, keepdims=True)
        n = z.shape[-1]
        second = np.square(z).mean(axis=-1)
        third = np.einsum("...i,...i,...i->...", z, z, z) / n
        flat = second <= _NO_SPREAD**2  # no spread, no skew
        skewness = np.where(flat, 0.0, third / np.where(flat, 1.0, second) ** 1.5)
        return Differences(
            delta=above - below,
            sd=np.sqrt(second * (n / (n - 1) if n > 1 else np.nan)),
            skewness=skewness * (np.sqrt(n * (n - 1)) / (n - 2) if n > 2 else np.nan),
            prompts=n,
        )


def _linearised(terms: Array) -> tuple[Array, Array]:
    """The ratio, and each prompt's share in its error."""
    numerator, denominator = terms[..., 0], terms[..., 1]
    mean = denominator.mean(axis=-1)
    ratio = numerator.mean(axis=-1) / mean
    return ratio, (numerator - ratio[..., None] * denominator) / mean[..., None]


def ratio_interval_of(terms: Array) -> Interval | None:
    """95 % interval of one ratio of sums over prompts, by the rule of `Differences`; None below three prompts.

    Args:
        terms: numerator and denominator of each prompt, shape (n, 2).
    """
    nothing = np.tile([0.0, 1.0], (len(terms), 1))
    found = difference(nothing, terms)
    low, high = float(found.lower(0.025)), float(found.upper(0.025))
    return Interval(low=low, high=high) if np.isfinite([low, high]).all() else None


def prompts_needed(sd: float, room: float, alpha: float, power: float = 0.8) -> int | None:
    """Prompts that would decide: ((z(1 - alpha) + z(power)) sd / room)^2, room = delta + Delta; None: none would."""
    from scipy.special import ndtri

    if not room > 0:
        return None
    return max(2, int(np.ceil((float(ndtri(1 - alpha) + ndtri(power)) * sd / room) ** 2)))


def passed_from_the_top(passes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The fixed sequence: how many settings pass, counted from the last (the largest k) to the first failure.

    `passes` is (..., K), k rising; the result (...).
    """
    counted: NDArray[np.int64] = np.cumprod(passes[..., ::-1], axis=-1, dtype=np.int64).sum(axis=-1)
    return counted


def resampled_ratios(terms: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Ratios of sums over prompts drawn with replacement, the same draw for every setting.

    Args:
        terms: shape (settings, n, 2).
        rng: the only source of chance.
        resamples: how many draws.

    Returns:
        Shape (resamples, settings); not finite where a draw has no denominator.
    """
    settings, count, _ = terms.shape
    flat = np.ascontiguousarray(terms.transpose(1, 0, 2).reshape(count, settings * 2))
    sums = np.empty((resamples, settings * 2))
    for first in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - first)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        sums[first : first + rows] = weights.astype(np.float64) @ flat
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: Array = sums[:, 0::2] / sums[:, 1::2]
    return ratios


# ----------------------------------------------------------------------------------------------------------------
# Speed


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
