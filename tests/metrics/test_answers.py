"""Which number does a text end on, and is it the right one?"""

from decimal import Decimal

import pytest

from llmbench.metrics.answers import final_number, is_right


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 * 20 = 60 cards\n#### 320", "320"),
        ("#### 5\nno, wait\n#### $1,234.50 in all", "1234.50"),
        ("She has 3 apples and then 12.", "12"),
        ("It costs $224,000", "224000"),
        ("the result is -7", "-7"),
        ("from 10-12", "-12"),  # as lm-evaluation-harness reads it
        (".5 of it", ".5"),
        ("none at all", None),
        ("7 apples #### none", None),  # marked, and no number there
        ("", None),
    ],
)
def test_the_number_that_a_text_ends_on(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_right_and_wrong():
    assert is_right("so 18.0 dollars", "18")
    assert is_right("#### 1,000", "1000")
    assert not is_right("first 18, then 19", "18")
    assert not is_right("", "18")
