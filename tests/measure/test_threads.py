"""How many CPU threads are taken for which times, and that trying leaves the process as it was."""

import pytest
import torch

from llmbench.measure import threads


@pytest.mark.parametrize(
    ("times", "number"),
    [
        ({1: 1819.0, 2: 1396.0}, 2),
        ({1: 2215.0, 2: 6023.0}, 1),  # beside one busy loop
        ({1: 109.0, 2: 100.0}, 1),  # what the second gains, the next disturbance takes
        ({1: 112.0, 2: 100.0}, 2),
        ({1: 300.0, 8: 105.0, 16: 100.0}, 8),
    ],
)
def test_the_fewest_threads_are_taken_that_are_nearly_the_fastest(times: dict[int, float], number: int) -> None:
    assert threads.fastest(times) == number


def test_every_number_is_tried_and_the_threads_stay_as_they_were() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    times = threads._tried([2, 1], lambda: seen.append(torch.get_num_threads()))
    assert torch.get_num_threads() == before
    assert times.keys() == {1, 2}
    assert set(seen) == {1, 2}


def test_a_process_with_one_thread_tries_nothing() -> None:
    choice = threads.choose(256)  # tests/conftest.py leaves torch one
    assert (choice.threads, choice.default, choice.times_ms) == (1, 1, {})


@pytest.mark.parametrize(
    ("cores", "others", "busy"), [(2, 1.0, True), (2, 0.1, False), (64, 9.0, False), (64, 62.0, True), (2, None, False)]
)
def test_a_machine_is_busy_where_others_leave_fewer_cores_than_threads(
    cores: int, others: float | None, busy: bool
) -> None:
    default = 2 if cores == 2 else 32
    choice = threads.ThreadChoice(threads=1, default=default, times_ms={}, cores=cores, others=others)
    assert choice.busy is busy
