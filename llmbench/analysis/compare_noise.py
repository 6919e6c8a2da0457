"""How far apart may the times of two sweeps of one commit lie? Assumed, or measured by repeating a sweep.

One process per side shows nothing of how far two processes lie apart. `AssumedNoise`: the variance of a change in ln
L_e2e is the sum over both sides of

    process^2     process to process: assumed (`PROCESS_SD`)
    1.5 drift^2   job to job in one sweep: from baselines that were timed again; variance of their ln L_e2e
    repeats^2     variance of ln of the repeats of the job, not divided by their number: they share the machine's state

and bounds are t sqrt(variance) away, degrees of freedom by Satterthwaite (Biometrics Bulletin 2, 1946, 110-114); the
assumed part has infinitely many. They are no fewer than `LEAST_FREEDOM`: a sweep has one or two pairs of timings, and t
with one degree gives no bound. This, the weight of the drift and the repeats that are not divided are choices; their
error rates are simulated (docs/compare.md). `MeasuredNoise`: A was repeated, and the variance between these sweeps, of
each setting and of the mean over settings, counts for both sides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from llmbench.analysis.compare_match import match
from llmbench.analysis.compare_times import TimeChange, Variance, time_change
from llmbench.errors import ConfigError, RecordError
from llmbench.record import Record

PROCESS_SD = 0.0125
"""Assumed: two processes of one commit on one machine differ in ln L_e2e with this standard deviation each."""

DRIFT_WEIGHT = 1.5
"""Two sweeps lie farther apart in time than two jobs of one."""

LEAST_FREEDOM = 4

LEAST_SWEEPS = 5
"""A and its repeats: fewer give no variance that bounds could rest on."""

LEAST_MEASURED_SD = 0.002
"""A few sweeps may agree by chance."""


@dataclass(frozen=True, kw_only=True)
class AssumedNoise:
    """See the module docstring."""

    process_sd: float
    drift_a: Variance | None  # job to job, of ln L_e2e; None where no baseline was timed again
    drift_b: Variance | None

    def width(self, change: TimeChange, alpha: float) -> float | None:
        """Distance of both bounds of one setting's change, in ln; None where its repeats are too few.

        Args:
            change: of the setting.
            alpha: of each bound.
        """
        jobs = [own * (1 / change.seeds) for own in self._drifts()]
        return self._width([*jobs, *change.noise], alpha) if change.noise else None

    def joint_width(self, changes: Sequence[TimeChange], alpha: float) -> float:
        """The same for the mean of the changes of all settings: process and drift are one for all of them."""
        noise = [own * (1 / len(changes) ** 2) for change in changes for own in change.noise]
        return self._width([*self._drifts(), *noise], alpha)

    def _drifts(self) -> list[Variance]:
        return [own * DRIFT_WEIGHT for own in (self.drift_a, self.drift_b) if own is not None]

    def _width(self, estimated: Sequence[Variance], alpha: float) -> float:
        variance = 2 * self.process_sd**2 + sum(own.value for own in estimated)
        spread = sum(own.value**2 / own.freedom for own in estimated)
        freedom = max(variance**2 / spread, LEAST_FREEDOM) if spread else math.inf
        return _quantile(freedom, alpha) * math.sqrt(variance)


@dataclass(frozen=True, kw_only=True)
class MeasuredNoise:
    """See the module docstring."""

    sweeps: int  # A and its repeats
    settings: dict[str, float]  # standard deviation between sweeps, by identity of A's first Record
    together: float  # of the mean over settings

    def width(self, change: TimeChange, alpha: float) -> float | None:
        """Distance of both bounds of one setting's change, in ln; None where a repeat of A lacks the setting.

        Its own standard deviation, or that of all settings where that is larger: one of five values is uncertain.
        """
        own = self.settings.get(change.identity)
        if own is None:
            return None
        typical = math.sqrt(fmean(sd**2 for sd in self.settings.values()))
        return self._width(max(own, typical), change.noise, alpha)

    def joint_width(self, changes: Sequence[TimeChange], alpha: float) -> float:
        """The same for the mean of the changes of all settings."""
        noise = [own * (1 / len(changes) ** 2) for change in changes for own in change.noise]
        return self._width(self.together, noise, alpha)

    def _width(self, sd: float, repeats: Sequence[Variance], alpha: float) -> float:
        """Not less than independent repeats would give: pi / 2 of the variance of a mean is that of a median."""
        least = math.pi / 2 * sum(own.value / (own.freedom + 1) for own in repeats)
        return _quantile(self.sweeps - 1, alpha) * math.sqrt(max(2 * max(sd, LEAST_MEASURED_SD) ** 2, least))


Noise = AssumedNoise | MeasuredNoise


def measured_noise(a: Sequence[Record], repeats: Sequence[Sequence[Record]]) -> MeasuredNoise:
    """The noise between sweeps that should be equal.

    Args:
        a: the Records of a sweep.
        repeats: of further sweeps of the same commit under the same conditions.

    Raises:
        ConfigError: there are too few.
        RecordError: conditions differ, or a sweep is not another one.
    """
    if len(repeats) + 1 < LEAST_SWEEPS:
        raise ConfigError(f"repeats of A: {len(repeats)} given, at least {LEAST_SWEEPS - 1} are needed")
    known: dict[str, list[float]] = {}
    for number, records in enumerate(repeats, start=1):
        matched = match(a, records)
        if matched.differing:
            first = matched.differing[0]
            raise RecordError(f"repeat {number} of A is none: {first.key} is {first.a} and {first.b}")
        if matched.copies or not matched.settings:
            raise RecordError(
                f"repeat {number} of A {'is A itself' if matched.copies else 'shares no setting with it'}"
            )
        for setting in matched.settings:
            if (change := time_change(setting)) is not None:
                known.setdefault(change.identity, []).append(change.change)
    whole = {identity: [0.0, *changes] for identity, changes in known.items() if len(changes) == len(repeats)}
    if not whole:
        raise RecordError("no setting of A was timed in all of its repeats")
    means = np.mean(list(whole.values()), axis=0)
    return MeasuredNoise(
        sweeps=len(repeats) + 1,
        settings={identity: float(np.std(changes, ddof=1)) for identity, changes in whole.items()},
        together=float(np.std(means, ddof=1)),
    )


def _quantile(freedom: float, alpha: float) -> float:
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(freedom, 1 - alpha) if freedom < 1e6 else -ndtri(alpha))
