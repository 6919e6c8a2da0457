"""The place of a job in its sweep, and the time that is left: numbers worked by hand."""

import pytest

from llmbench.sweeps.progress import duration, left_s


@pytest.mark.parametrize(
    ("ran", "elapsed", "left", "said"),
    [
        ([], None, [10.0, 20.0], 30.0),  # as planned
        ([], None, [10.0, None], None),
        ([10.0], 5.0, [10.0, 20.0], 15.0),  # twice as fast as expected
        ([10.0, 30.0], 80.0, [20.0, None], 80.0),  # 2 x 20, and the mean 40
        ([None, 10.0], 60.0, [10.0, 10.0, 10.0], 90.0),  # nothing to compare with: 30 each
        ([0.0], 7.0, [1.0], 7.0),
        ([10.0], 5.0, [], 0.0),
    ],
)
def test_what_has_run_corrects_what_is_expected_of_the_rest(ran, elapsed, left, said):
    assert left_s(ran, elapsed, left) == (None if said is None else pytest.approx(said))


def test_durations_are_short_words():
    found = [duration(seconds) for seconds in (0.4, 89, 100, 3600, 7800)]
    assert found == ["0 s", "89 s", "2 min", "60 min", "2 h 10 min"]
