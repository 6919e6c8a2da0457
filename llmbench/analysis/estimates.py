"""Values with their intervals, and one value for a side that was run with several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from llmbench.record import Record


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


def mean_over_seeds(seeds: Sequence[Estimate | None]) -> Estimate | None:
    """The means of the values and of both ends, which is no narrower than the mean's interval; None where one lacks."""
    known = [item for item in seeds if item is not None]
    if not known or len(known) < len(seeds):
        return None
    low = [item.low for item in known if item.low is not None]
    high = [item.high for item in known if item.high is not None]
    bounded = len(low) == len(high) == len(known)
    return Estimate(
        value=fmean(item.value for item in known),
        low=fmean(low) if bounded else None,
        high=fmean(high) if bounded else None,
    )


def logged(record: Record, key: str) -> Estimate | None:
    """A metric as its job logged it, with its interval where it has one."""
    value = record.metrics.get(key)
    ends = record.metrics.get(f"{key}_ci_low"), record.metrics.get(f"{key}_ci_high")
    return None if value is None else Estimate(value=value, low=ends[0], high=ends[1])


def logged_mean(side: Sequence[Record], key: str) -> float | None:
    """The mean over seeds of a logged metric; None where one of the Records lacks it."""
    found = mean_over_seeds([logged(record, key) for record in side])
    return None if found is None else found.value
