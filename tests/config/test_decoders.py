"""What a diffusion decoder's settings come to before a model is there: the schedule and its forwards, by hand."""

import pytest

from llmbench.config.decoders import Diffusion
from llmbench.config.schedules import at_least, chances, even, over_timesteps, rounded


def settings(**changes):
    base = {"kind": "diffusion", "steps": 8, "canvas": 16, "block_length": 16, "temperature": 0.0}
    return Diffusion(**(base | changes))


@pytest.mark.parametrize(
    ("masked", "steps", "expected"),
    [
        (10, 4, [3, 3, 2, 2]),
        (8, 4, [2, 2, 2, 2]),
        (4, 8, [1, 1, 1, 1, 0, 0, 0, 0]),
        (5, 1, [5]),
    ],
)
def test_a_schedule_is_even_with_the_remainder_first(masked, steps, expected):
    assert even(masked, steps) == expected


def test_a_rounded_schedule_by_hand():
    assert rounded(10, 4) == [2, 3, 2, 3]  # 10/4 -> 2, 8/3 -> 3, 5/2 -> 2, 3
    assert rounded(32, 12) == [3, 3, 3, 3, 3, 2, 3, 2, 3, 2, 3, 2]  # 20/8 is a little above 2.5 in float32
    assert rounded(8, 4) == [2, 2, 2, 2]


def test_a_schedule_with_a_least_number_by_hand():
    assert at_least([4, 4, 4, 4], 6) == [6, 6, 4]
    assert at_least([4, 3, 3], 1) == [4, 3, 3]
    assert at_least([2, 2, 0], 2) == [2, 2]


def test_chances_over_timesteps_by_hand():
    """4 steps: the times are 1, 0.75025, 0.5005, 0.25075 and 0.001, and the last step takes all."""
    assert chances(4) == pytest.approx([0.24975, 1 - 0.5005 / 0.75025, 1 - 0.25075 / 0.5005, 1], abs=1e-6)
    assert chances(1) == (1.0,)


@pytest.mark.parametrize(
    ("masked", "steps", "expected"),
    [
        (10, 4, [2, 2, 2, 4]),  # 2.4975, 8 * 0.33289, 6 * 0.499
        (16, 1, [16]),
        (8, 8, [0, 1, 1, 1, 1, 1, 1, 2]),  # the first share of 8 is 0.999
        (4, 6, [0, 0, 0, 1, 1, 2]),  # 0.666, 0.799, 0.9985, 4 * 0.33267, 3 * 0.4985
    ],
)
def test_a_schedule_over_timesteps_by_hand(masked, steps, expected):
    assert over_timesteps(masked, steps) == expected


def test_a_schedule_over_timesteps_is_that_of_float32_arithmetic():
    """Some shares lie next to a whole number of tokens: there float64 makes another one."""
    torch = pytest.importorskip("torch")
    for steps in (1, 2, 7, 8, 20, 48, 64, 128, 256, 500, 512, 768, 1000):
        times = torch.linspace(1, 1e-3, steps + 1)
        for masked in (1, 10, 32, 64, 256, 512, 768, 1024):
            left, expected = masked, []
            for step in range(steps):
                share = 1 - times[step + 1] / times[step] if step < steps - 1 else 1
                expected.append(int(torch.tensor(left) / 1 * share))
                left -= expected[-1]
            assert over_timesteps(masked, steps) == expected, (masked, steps)
            assert sum(expected) == masked


@pytest.mark.parametrize(
    ("changes", "schedule", "idle", "uneven"),
    [
        ({}, [0, *[1] * 14, 2], 1, False),
        ({"block_length": 8}, [0, 1, 1, 1, 1, 1, 1, 2], 2, False),
        ({"threshold": 0.9}, [1] * 16, 0, True),
        ({"fixed_tokens_per_forward": 6}, [6, 6, 4], 0, False),
        ({"remasking": "origin"}, [0] * 15 + [16], 0, True),
        ({"remasking": "origin", "fixed_tokens_per_forward": 6}, [6, 6, 4], 0, False),
    ],
)
def test_the_schedule_of_a_block_over_timesteps(changes, schedule, idle, uneven):
    made = settings(**({"steps": 16, "tokens_per_step": "timesteps"} | changes))
    assert (made.schedule, made.idle_steps, made.uneven) == (schedule, idle, uneven)


@pytest.mark.parametrize(
    ("changes", "stochastic"),
    [
        ({"remasking": "entropy"}, False),
        ({"remasking": "entropy", "remasking_temperature": 0.1}, True),
        ({"remasking": "origin", "tokens_per_step": "timesteps"}, True),
    ],
)
def test_the_seed_counts_where_positions_are_drawn(changes, stochastic):
    assert settings(**changes).stochastic == stochastic


@pytest.mark.parametrize(
    ("changes", "schedule", "forwards"),
    [
        ({}, [2] * 8, 8),
        ({"block_length": 4}, [2, 2], 8),
        ({"block_length": 4, "cfg_scale": 1.0}, [2, 2], 16),
        ({"block_length": 4, "fixed_tokens_per_forward": 3}, [3, 1], 8),
        ({"block_length": 4, "fixed_tokens_per_forward": 4}, [4], 4),
        ({"fixed_tokens_per_forward": 6, "cfg_scale": 1.0}, [6, 6, 4], 6),
        ({"steps": 24, "block_length": 8}, [1] * 8 + [0] * 4, 24),
        ({"steps": 24, "block_length": 8, "threshold": 0.9}, [1] * 8, 16),  # full after 8 steps at the latest
        ({"steps": 24, "block_length": 8, "factor": 1.0, "fixed_tokens_per_forward": 1}, [1] * 8, 16),
    ],
)
def test_the_schedule_of_a_block_and_the_most_forwards(changes, schedule, forwards):
    made = settings(**changes)
    assert (made.schedule, made.forwards) == (schedule, forwards)


@pytest.mark.parametrize(
    ("steps", "block_length", "least"),
    [(4, 16, 4), (8, 4, 2), (6, 16, 3), (16, 16, 1), (32, 8, 1)],  # 16 in 6 steps: 3, 3, 3, 3, 2, 2
)
def test_a_forced_number_is_what_runs_or_is_refused(steps, block_length, least):
    for each in range(1, 18):
        changes = {"steps": steps, "block_length": block_length, "fixed_tokens_per_forward": each}
        if least <= each <= block_length:
            *first, last = settings(**changes).schedule
            assert set(first) <= {each}
            assert 0 < last <= each
        else:
            runs = least if each < least else block_length
            with pytest.raises(ValueError, match=rf"fixed_tokens_per_forward {each} .*: {runs} would run; "):
                settings(**changes)
