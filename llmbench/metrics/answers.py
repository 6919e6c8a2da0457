"""Is the answer right? GSM8K's numeric match: the last number of a text against the number that was asked for.

Of a solution that ends as the data set's own do (`#### 42`, Cobbe et al., arXiv 2110.14168) the first number after the
mark counts, as in the data set's own grader. Any other text is judged by its last number, the
"flexible" extraction of lm-evaluation-harness. Thousands separators, currency signs and units do not matter, and 18.0
is 18. A text without a number is wrong, not unknown.
"""

import re
from decimal import Decimal

_MARKED = re.compile(r"####\s*([^\n]*)")
_NUMBER = re.compile(r"[-−]?[$€£]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_WRITTEN = str.maketrans({"−": "-", **dict.fromkeys(",$€£")})


def final_number(text: str) -> Decimal | None:
    """The number that a text ends on, or None.

    Args:
        text: a solution; of several `####` the last one counts.
    """
    marked = _MARKED.findall(text)
    found = _NUMBER.findall(marked[-1] if marked else text)
    return Decimal(found[0 if marked else -1].translate(_WRITTEN)) if found else None


def is_right(text: str, answer: str) -> bool:
    """Whether a text ends on the answer's number."""
    expected = final_number(answer)
    return expected is not None and final_number(text) == expected
