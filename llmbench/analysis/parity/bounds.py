"""Bounds of a difference from what each prompt adds to it. docs/method.md gives the formulas and their sources.

A value is a ratio of sums over prompts, R = sum a / sum b, and prompt i moves it by its influence
(a_i - R b_i) / mean b, in units of R times n. `Ratio` carries both through sums and products with numbers, so that a
difference of many ratios has the influences of the difference. Prompts of one document are a cluster and tasks are
strata:

    Var = n^-2 sum over strata h of C_h / (C_h - 1) sum over clusters c in h of (u_c - mean u_h)^2
    lower = delta - max(t, Hall's t) sqrt(Var)         t with C - strata degrees of freedom
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmbench.analysis.estimates import Interval

Array = NDArray[np.float64]

LEAST_SD = 1e-4
"""Differences between prompts below this are noise of floating point: they count as this much, without skew."""

SKEW_CLUSTERS = 25
"""C >= 25 G^2: Cochran's rule for when a normal bound of a skewed mean holds."""


@dataclass(frozen=True)
class Ratio:
    """A value with the influence of each prompt on it; both are linear."""

    value: float
    influence: Array  # (n,), of sum 0

    def __add__(self, other: "Ratio") -> "Ratio":
        """The sum."""
        return Ratio(self.value + other.value, self.influence + other.influence)

    def __sub__(self, other: "Ratio") -> "Ratio":
        """The difference."""
        return Ratio(self.value - other.value, self.influence - other.influence)

    def __mul__(self, factor: float) -> "Ratio":
        """A multiple."""
        return Ratio(self.value * factor, self.influence * factor)


def ratio(terms: Array) -> Ratio:
    """One ratio of sums.

    Args:
        terms: numerator and denominator of each prompt, shape (n, 2). Without a denominator the value is NaN.
    """
    numerator, denominator = terms[:, 0], terms[:, 1]
    mean = denominator.mean() if len(terms) else math.nan
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = numerator.mean() / mean if len(terms) else math.nan
        return Ratio(float(value), (numerator - value * denominator) / mean)


def smooth(function: Callable[..., float], ratios: Sequence[Ratio]) -> Ratio:
    """A smooth function of values, with the influence of each prompt on it (delta method).

    Args:
        function: of as many numbers as there are ratios.
        ratios: its arguments.
    """
    at = [item.value for item in ratios]
    influence = np.zeros_like(ratios[0].influence)
    for place, item in enumerate(ratios):
        step = 1e-6 * max(1.0, abs(item.value))
        above, below = ([*at[:place], at[place] + sign * step, *at[place + 1 :]] for sign in (1, -1))
        influence = influence + (function(*above) - function(*below)) / (2 * step) * item.influence
    return Ratio(function(*at), influence)


@dataclass(frozen=True)
class Clusters:
    """Which prompts belong together."""

    cluster: NDArray[np.int64]  # (n,), of each prompt
    stratum: NDArray[np.int64]  # (C,), of each cluster

    @property
    def count(self) -> int:
        """C."""
        return len(self.stratum)

    @property
    def strata(self) -> int:
        """How many strata."""
        return len(np.unique(self.stratum))

    @property
    def weights(self) -> Array:
        """C_h / (C_h - 1) of each cluster's stratum; infinite for a stratum of one."""
        sizes = np.bincount(self.stratum)[self.stratum].astype(np.float64)
        with np.errstate(divide="ignore"):
            weights: Array = sizes / (sizes - 1)
        return weights

    def residuals(self, influence: Array) -> Array:
        """u_c less the mean of its stratum, shape (C,)."""
        sums = np.bincount(self.cluster, influence, self.count)
        means = np.bincount(self.stratum, sums) / np.maximum(np.bincount(self.stratum), 1)
        centred: Array = sums - means[self.stratum]
        return centred


def clusters(documents: Sequence[str | None], tasks: Sequence[str]) -> Clusters:
    """Documents as clusters, tasks as strata.

    A prompt without a document is a cluster of its own; a document in two tasks is a stratum of its own. Strata with
    one cluster are joined, and where that leaves one cluster alone, with the largest stratum.
    """
    names = [f"document {document}" if document is not None else f"prompt {i}" for i, document in enumerate(documents)]
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of_cluster: dict[str, set[str]] = {}
    for name, task in zip(names, tasks, strict=True):
        of_cluster.setdefault(name, set()).add(task)
    own = [next(iter(found)) if len(found) == 1 else f"several {name}" for name, found in of_cluster.items()]
    sizes = Counter(own)
    alone = [name for name in own if sizes[name] == 1]
    joined = "joined" if len(alone) != 1 else max(sizes, key=lambda name: sizes[name])
    own = [joined if sizes[name] == 1 else name for name in own]
    strata = {name: i for i, name in enumerate(dict.fromkeys(own))}
    return Clusters(
        cluster=np.array([places[name] for name in names], dtype=np.int64),
        stratum=np.array([strata[name] for name in own], dtype=np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A difference with what its bounds are made of."""

    delta: float
    se: float
    skewness: float  # of the clusters' residuals, corrected for C
    clusters: int  # C
    freedom: int  # C - strata
    prompts: int

    @property
    def sd(self) -> float:
        """Standard deviation per prompt: se sqrt(n)."""
        return self.se * math.sqrt(self.prompts)

    def lower(self, alpha: float) -> float:
        """The one-sided lower bound; NaN from fewer than three clusters."""
        return self.delta - self._width(alpha, self.skewness)

    def upper(self, alpha: float) -> float:
        """The one-sided upper bound; NaN from fewer than three clusters."""
        return self.delta + self._width(alpha, -self.skewness)

    def is_enough(self, room: float, alpha: float) -> bool:
        """Whether the lower bound may be trusted: it lies far inside the margin, or C >= 25 G^2.

        Args:
            room: delta + margin, how far the estimate lies inside.
            alpha: of the bound.
        """
        if room >= 2 * self._width(alpha, self.skewness):
            return True
        return self.clusters >= SKEW_CLUSTERS * min(self._skewness_limit(self.skewness), 0) ** 2

    def _skewness_limit(self, skewness: float) -> float:
        """The 95 % lower limit of skewness: a sample that lacks its rare texts shows too little of it."""
        n = self.clusters
        if n < 3 or skewness == 0:
            return math.nan if n < 3 else 0.0
        return skewness - 1.645 * math.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3)))

    def _width(self, alpha: float, skewness: float) -> float:
        """How far a bound lies away: that of t, or of Hall's transformation where that is farther."""
        from scipy.special import stdtrit

        if self.clusters < 3 or self.freedom < 1:
            return math.nan
        t = float(stdtrit(self.freedom, 1 - alpha))
        a = min(self._skewness_limit(skewness) / math.sqrt(self.clusters), -1e-9)
        hall = 3 / a * (float(np.cbrt(1 + a * (t - a / 6))) - 1)
        return max(t, hall) * self.se


def bound(found: Ratio, by: Clusters) -> Bound:
    """The bounds of a value or a difference."""
    n, c = len(found.influence), by.count
    residuals = by.residuals(found.influence)
    with np.errstate(invalid="ignore", over="ignore"):
        variance = float(np.sum(by.weights * np.square(residuals))) / n**2 if n else math.nan
        second = float(np.mean(np.square(residuals))) if c else math.nan
        third = float(np.mean(residuals**3)) if c else math.nan
    se, skewness = math.sqrt(variance) if variance >= 0 else math.nan, 0.0
    if se * math.sqrt(n) < LEAST_SD:
        se = LEAST_SD / math.sqrt(n)
    elif c > 2 and second > 0:
        skewness = third / second**1.5 * math.sqrt(c * (c - 1)) / (c - 2)
    return Bound(delta=found.value, se=se, skewness=skewness, clusters=c, freedom=c - by.strata, prompts=n)


def interval_of(terms: Array) -> Interval | None:
    """95 % interval of one ratio of sums over prompts that are independent; None below three prompts.

    Args:
        terms: numerator and denominator of each prompt, shape (n, 2).
    """
    by = clusters([None] * len(terms), ["all"] * len(terms))
    found = bound(ratio(terms), by)
    low, high = found.lower(0.025), found.upper(0.025)
    return Interval(low=low, high=high) if math.isfinite(low) and math.isfinite(high) else None


def prompts_needed(halves: Sequence[tuple[float, float]], alpha: float, power: float = 0.8) -> int | None:
    """Prompts with which several tests would all reject with this power, were the estimates the truth.

    The chance that one of them fails is at most the sum of their chances (Bonferroni).

    Args:
        halves: of each test its room (distance of the estimate from the margin) and its sd per prompt.
        alpha: error of each.
        power: wanted of all of them together.

    Returns:
        None where one of them has no room.
    """
    from scipy.special import ndtr, ndtri

    if not halves or not all(room > 0 for room, _ in halves):
        return None
    z = float(ndtri(1 - alpha))

    def fails(n: float) -> float:
        return float(sum(ndtr(z - room * math.sqrt(n) / sd) for room, sd in halves))

    low, high = 2.0, 4.0
    while fails(high) > 1 - power:
        low, high = high, high * 2
        if high > 1e9:
            return None
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if fails(middle) > 1 - power else (low, middle)
    return max(2, math.ceil(high))
