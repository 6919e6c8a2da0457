"""What a diffusion decoder's settings come to before a model is there: the schedule and its forwards, by hand."""

import pytest

from llmbench.config.decoders import Diffusion, at_least, even


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


def test_a_schedule_with_a_least_number_by_hand():
    assert at_least([4, 4, 4, 4], 6) == [6, 6, 4]
    assert at_least([4, 3, 3], 1) == [4, 3, 3]
    assert at_least([2, 2, 0], 2) == [2, 2]


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
