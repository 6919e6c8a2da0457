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
        ("The answer is 42.", "42"),
        ("The answer is 3.50.", "3.50"),
        ("1,234, in all", "1234"),
        ("she owes -$5", "-5"),
        ("$-5", "-5"),
        ("it is −12.5 °C", "-12.5"),
        ("5 - 3 = 2", "2"),
        ("50% of them", "50"),
        ("it takes 60 minutes", "60"),
        ("$1,234.50/month", "1234.50"),
        ("**42**", "42"),
        ("\\boxed{72}", "72"),
        ("£7.00 and €8", "8"),
        ("#### 42 (that is 6 * 7)", "42"),  # what follows the answer explains it
        ("#### 42\nThe answer is: 41", "42"),
        ("####42", "42"),
        ("#### -$1,000.00.", "-1000"),
        ("it is 7 ####", None),  # cut off before the answer
        ("none at all", None),
        ("7 apples #### none", None),  # marked, and no number there
        ("", None),
    ],
)
def test_the_number_that_a_text_ends_on(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [  # the ends of what SmolLM2-135M-Instruct wrote for problems of GSM8K, greedily
        ("Henry traveled 25 miles between his first and second stops.\n#### 25\nThe answer is: 25", "25", True),
        ("Therefore, Elaine has 4 cards remaining.\n#### 4\nThe answer is: 4", "320", False),
        ("So, Ali has 9 dollars after buying the dinner.\n\nThe answer is 9.\n\nThe answer is 9.", "32", False),
        ("#### 3\nSally has 3 books.\n#### 2\nJaney has 3 books.\n#### 126\n#### 126", "9", False),
        ("is $30 + $30 = $60.\n\nSo, the answer is 60.", "28", False),
        ("is $7.00 + 20% = $10.00 + 20% = $20.00 =", "50", False),
        ("is $7.00 + 20% = $10.00 + 20% = $20.00 =", "20", True),
        ("$1100 / 1100 = 1.\n\nSo, the cost of one monitor is $1.", "1", True),
        ("The answer is 18.", "320", False),
        ("C: 30\nD: 40\nE: 50\nF:", "32", False),
        ("", "540", False),
    ],
)
def test_texts_of_a_real_model_are_graded_as_by_hand(text, answer, right):
    assert is_right(text, answer) is right


def test_right_and_wrong():
    assert is_right("so 18.0 dollars", "18")
    assert is_right("#### 1,000", "1000")
    assert not is_right("first 18, then 19", "18")
    assert not is_right("", "18")
