"""The speedup's interval: its estimand, its pairing, and when it is refused."""

import itertools
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from llmbench.analysis.statistics import MIN_REPEATS, repeat_times, shared_batches, speedup_interval
from llmbench.record import Record, Timing
from records import make_record


def timed(model: str, rows: list[list[float]]) -> Record:
    """A Record with the given times (repeats x batches), all batches repeated."""
    timings = tuple(
        Timing(batch=b, repeat=r, e2e_ms=ms, e2e_wall_ms=ms, prefill_ms=None, forwards=1, tokens=1, utf8_bytes=1)
        for r, row in enumerate(rows)
        for b, ms in enumerate(row)
    )
    return replace(make_record(model), timings=timings, repeated_batches=tuple(range(len(rows[0]))))


def test_equal_times_give_the_ratio_exactly() -> None:
    interval = speedup_interval(timed("llama", [[30.0]] * 6), timed("llada", [[20.0]] * 6), np.random.default_rng(0))
    assert interval is not None
    assert (interval.low, interval.high) == (1.5, 1.5)


def test_the_interval_is_that_of_the_median_over_all_possible_resamples() -> None:
    times = [10.0, 11.0, 12.0, 14.0, 17.0, 25.0]
    every = sorted(median(draw) for draw in itertools.product(times, repeat=6))  # 6^6: the whole bootstrap distribution
    low, high = np.percentile(every, [2.5, 97.5])
    interval = speedup_interval(
        timed("llama", [[t] for t in times]), timed("llada", [[1.0]] * 6), np.random.default_rng(0), resamples=20_000
    )
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=0.51)  # the neighbouring values of a discrete distribution
    assert interval.high == pytest.approx(high, abs=2.1)


def test_batches_are_drawn_in_pairs_so_that_a_long_batch_on_both_sides_cancels() -> None:
    # batch 1 takes ten times as long on both sides: the ratio is 2 whichever batches are drawn
    slow = timed("llama", [[20.0, 200.0]] * 6)
    fast = timed("llada", [[10.0, 100.0]] * 6)
    interval = speedup_interval(slow, fast, np.random.default_rng(0))
    assert interval is not None
    assert (interval.low, interval.high) == (2.0, 2.0)


def test_the_choice_of_batches_widens_the_interval_where_the_ratio_differs_between_them() -> None:
    # ratio 1 on batch 0, 3 on batch 1; drawing (0,0), (0,1), (1,1) gives 1, 40/20, 3
    interval = speedup_interval(
        timed("llama", [[10.0, 30.0]] * 6), timed("llada", [[10.0, 10.0]] * 6), np.random.default_rng(0)
    )
    assert interval is not None
    assert (interval.low, interval.high) == (1.0, 3.0)


def test_repeats_are_drawn_whole() -> None:
    # within each repeat the two batches cancel: the mean over batches is always 15
    rows = [[10.0, 20.0], [20.0, 10.0]] * 3
    times = repeat_times(timed("llama", rows), (0, 1))
    assert times.shape == (6, 2)
    assert times.mean(axis=1).tolist() == [15.0] * 6


def test_a_repeat_that_lacks_a_shared_batch_is_left_out() -> None:
    record = make_record("llada", 8, prompts=8, batch=4, repeats=6, repeated=1)  # batch 1 only in the first repeat
    assert repeat_times(record, (0,)).shape == (6, 1)
    assert repeat_times(record, (0, 1)).shape == (1, 2)


def test_only_batches_that_both_sides_repeated_are_compared() -> None:
    assert shared_batches(make_record("llama", repeated=2), make_record("llada", 8, repeated=1)) == (0,)


@pytest.mark.parametrize(("left", "right"), [(MIN_REPEATS - 1, 6), (6, MIN_REPEATS - 1)])
def test_fewer_than_six_repeats_give_no_interval(left: int, right: int) -> None:
    sides = make_record("llama", repeats=left), make_record("llada", 8, repeats=right)
    assert speedup_interval(*sides, np.random.default_rng(0)) is None


def test_no_shared_batch_gives_no_interval() -> None:
    sides = make_record("llama"), replace(make_record("llada", 8), repeated_batches=())
    assert speedup_interval(*sides, np.random.default_rng(0)) is None


def test_the_seed_decides_and_zero_is_a_seed() -> None:
    sides = make_record("llama", spread=0.5, repeats=9), make_record("llada", 8, spread=0.5, repeats=9)
    first, again, other = (speedup_interval(*sides, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_point_is_the_ratio_of_the_logged_values() -> None:
    # medians over repeats of means over batches, worked by hand: 15.5 / 11
    llama = timed("llama", [[10.0, 20.0], [11.0, 21.0], [9.0, 23.0], [12.0, 19.0], [10.0, 21.0], [13.0, 18.0]])
    means = sorted(row.mean() for row in repeat_times(llama, (0, 1)))
    assert means == [15.0, 15.5, 15.5, 15.5, 16.0, 16.0]
    interval = speedup_interval(llama, timed("llada", [[11.0, 11.0]] * 6), np.random.default_rng(0))
    assert interval is not None
    assert interval.low <= 15.5 / 11 <= interval.high
