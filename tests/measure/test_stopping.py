"""What stopping on the width leaves of an interval: coverage, and no shift of the estimate."""

import statistics

import numpy as np

from llmbench.config.job import TimingConfig
from llmbench.measure.stopping import goes_on
from llmbench.metrics.performance import median_interval, relative_half_width
from llmbench.record import Timing


def timings(times: list[float]) -> list[Timing]:
    some = {"e2e_wall_ms": 0.0, "prefill_ms": None, "forwards": 1, "tokens": 1, "utf8_bytes": 1}
    return [Timing(batch=0, repeat=repeat, e2e_ms=ms, **some) for repeat, ms in enumerate(times)]  # type: ignore[arg-type]


def test_the_width_is_that_of_the_median_of_the_repeated_batches() -> None:
    assert relative_half_width(timings([100.0, 101.0, 102.0, 103.0, 104.0, 110.0]), (0,)) == 5.0 / 102.5
    assert relative_half_width(timings([100.0] * 5), (0,)) is None
    assert relative_half_width(timings([100.0] * 6), (0, 1)) is None  # batch 1 was not repeated


def test_skewed_times_keep_most_of_the_coverage_and_are_not_shifted() -> None:
    rng, plan, drawn = np.random.default_rng(0), TimingConfig(until=0.01), []
    for _ in range(400):
        times = list(100 + 2 * np.exp(0.8 * rng.standard_normal(6)))
        while goes_on(plan, len(times), relative_half_width(timings(times), (0,))):
            times.append(100 + 2 * np.exp(0.8 * rng.standard_normal()))
        low, high = median_interval(times) or (0.0, 0.0)
        drawn.append((low <= 102 <= high, statistics.median(times), len(times)))
    covered, medians, repeats = (np.mean([item[i] for item in drawn]) for i in range(3))
    assert covered > 0.90
    assert abs(medians / 102 - 1) < 0.001
    assert 10 < repeats < 30
