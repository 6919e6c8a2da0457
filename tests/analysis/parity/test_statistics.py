"""The speedup's interval: its estimand, its pairing, and when it is refused."""

import itertools
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from llmbench.analysis.parity.statistics import (
    MIN_REPEATS,
    Interval,
    difference,
    passed_from_the_top,
    prompts_needed,
    repeat_times,
    resampled_ratios,
    shared_batches,
)
from llmbench.analysis.parity.statistics import speedup_interval as interval_of_sides
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


def speedup_interval(
    baseline: Record, candidate: Record, rng: np.random.Generator, resamples: int = 2000
) -> Interval | None:
    """With one seed a side."""
    return interval_of_sides((baseline,), (candidate,), rng, resamples)


def test_equal_times_give_the_ratio_exactly() -> None:
    interval = speedup_interval(timed("llama", [[30.0]] * 6), timed("llada", [[20.0]] * 6), np.random.default_rng(0))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((1.5, 1.5))


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
    assert (interval.low, interval.high) == pytest.approx((2.0, 2.0))


def test_the_choice_of_batches_widens_the_interval_by_what_so_few_can_hide() -> None:
    # ratio 1 on batch 0, 3 on batch 1; drawing (0,0), (0,1), (1,1) gives 1, 40/20, 3: on the log scale -ln 2, 0, ln 1.5
    # around the point 2, stretched by t(1; 0.975) / z sqrt(2 / 1) = 12.706 / 1.960 * 1.414 = 9.168
    interval = speedup_interval(
        timed("llama", [[10.0, 30.0]] * 6), timed("llada", [[10.0, 10.0]] * 6), np.random.default_rng(0)
    )
    assert interval is not None
    assert interval.low == pytest.approx(2 * 0.5**9.168, rel=1e-3)
    assert interval.high == pytest.approx(2 * 1.5**9.168, rel=1e-3)


def test_seeds_share_the_drawn_batches_and_average_their_times() -> None:
    # the second seed's texts take twice as long on both sides: (10 + 20) / (5 + 10) = 2
    sides = [
        [timed(model, [[ms]] * 6), timed(model, [[2 * ms]] * 6)] for model, ms in (("llama", 10.0), ("llada", 5.0))
    ]
    interval = interval_of_sides(sides[0], sides[1], np.random.default_rng(0))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((2.0, 2.0))
    short = [sides[0][0], timed("llama", [[10.0]] * 5)]
    assert interval_of_sides(short, sides[1], np.random.default_rng(0)) is None


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
    assert shared_batches((make_record("llama", repeated=2), make_record("llada", 8, repeated=1))) == (0,)


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


# ----------------------------------------------------------------------------------------------------------------
# Quality

BASELINE = np.array([[-2.0, 1.0], [-6.0, 2.0], [-3.0, 1.0], [-8.0, 4.0]])  # -19 / 8
CANDIDATE = np.array([[-3.0, 1.0], [-4.0, 2.0], [-4.0, 2.0], [-9.0, 3.0]])  # -20 / 8


def test_the_difference_is_one_ratio_of_sums_and_its_spread_that_of_the_linearised_ratio() -> None:
    found = difference(BASELINE, CANDIDATE)
    assert found.delta == pytest.approx(-20 / 8 + 19 / 8)
    # z = (c + 2.5 d) / 2 - (a + 2.375 b) / 2: prompt 1 (-0.5 - 0.375) / 2, and so on
    z = [(-0.5 - 0.375) / 2, (1.0 + 1.25) / 2, (1.0 + 0.625) / 2, (-1.5 - 1.5) / 2]
    assert sum(z) == pytest.approx(0)
    assert found.sd == pytest.approx(np.std(z, ddof=1))


def test_the_spread_agrees_with_the_jackknife() -> None:
    """The slow twin: every prompt left out once."""
    rng = np.random.default_rng(0)
    sides = [np.stack([-rng.gamma(4, 10, 400), rng.integers(16, 65, 400)], axis=-1) for _ in range(2)]
    left_out = [float(difference(*(np.delete(side, i, axis=0) for side in sides)).delta) for i in range(400)]
    jackknife = np.sqrt(399 / 400 * np.sum(np.square(np.array(left_out) - np.mean(left_out))))
    assert float(difference(*sides).sd) / 20 == pytest.approx(jackknife, rel=0.02)


def test_the_bound_is_that_of_t_where_nothing_is_skewed_to_the_bad_side_and_lower_where_it_is() -> None:
    zeros = np.stack([np.zeros(32), np.ones(32)], axis=-1)

    def lower(values: np.ndarray) -> float:
        return float(difference(zeros, np.stack([values, np.ones(32)], axis=-1)).lower(0.05))

    skewed = np.r_[np.zeros(28), np.ones(4)]
    t_bound = skewed.mean() - 1.6955 * skewed.std(ddof=1) / np.sqrt(32)  # t(31; 0.95)
    assert lower(skewed) == pytest.approx(t_bound, abs=1e-4)
    assert lower(-skewed) < -skewed.mean() - 1.6955 * skewed.std(ddof=1) / np.sqrt(32) - 0.01


def test_a_lower_bound_and_an_upper_one_are_each_other_s_mirror() -> None:
    found, mirrored = difference(BASELINE, CANDIDATE), difference(CANDIDATE, BASELINE)
    assert float(found.lower(0.05)) == pytest.approx(-float(mirrored.upper(0.05)))


def test_a_sample_too_small_for_its_skewness_is_not_enough() -> None:
    zeros = np.stack([np.zeros(64), np.ones(64)], axis=-1)
    rare = np.stack([np.r_[np.zeros(63), -1.0], np.ones(64)], axis=-1)  # skewness about -8: 25 x 64 prompts
    assert not difference(zeros, rare).enough_below()
    assert difference(rare, zeros).enough_below()  # the good side
    assert difference(zeros, zeros).enough_below()


def test_the_fixed_sequence_stops_at_its_first_failure() -> None:
    passes = np.array([[True, True, True], [True, False, True], [True, True, False], [False, False, False]])
    assert passed_from_the_top(passes).tolist() == [3, 1, 0, 0]


def test_the_prompts_that_would_decide() -> None:
    assert prompts_needed(0.6, 0.1, 0.05) == 223  # ((1.645 + 0.842) 0.6 / 0.1)^2 = 222.6
    assert prompts_needed(0.6, 0.0, 0.05) is None
    assert prompts_needed(0.6, -0.1, 0.05) is None


def test_a_resample_draws_prompts_whole_and_the_same_ones_for_every_setting() -> None:
    ratios = resampled_ratios(
        np.stack([BASELINE, BASELINE + np.array([1.0, 0.0]) * BASELINE[:, 1:]]), generator(), 1234
    )
    assert ratios.shape == (1234, 2)
    assert ratios[:, 1] - ratios[:, 0] == pytest.approx(np.ones(1234))
    possible = {
        round(sum(BASELINE[i, 0] for i in draw) / sum(BASELINE[i, 1] for i in draw), 9)
        for draw in itertools.product(range(4), repeat=4)
    }
    assert {round(float(value), 9) for value in ratios[:, 0]} <= possible


def generator() -> np.random.Generator:
    return np.random.default_rng(0)
