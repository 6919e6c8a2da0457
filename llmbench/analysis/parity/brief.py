"""A verdict in a few words: the name of a run, a cell of a table. Whole sentences: `sentences`."""

from collections import Counter
from collections.abc import Sequence

from llmbench.analysis.formats import number
from llmbench.analysis.parity.verdict import Verdict


def brief(verdicts: Sequence[Verdict]) -> str:
    """What a sweep came to: `not reached, 0.160x at k = 64`; of several verdicts `2 not reached, 1 undecided`."""
    statuses = [verdict.status.value.replace("_", " ") for verdict in verdicts]
    if len(verdicts) == 1:
        return ", ".join(filter(None, [*statuses, speedup(verdicts[0])]))
    return ", ".join(f"{count} {status}" for status, count in Counter(statuses).items()) or "no verdict"


def speedup(verdict: Verdict) -> str:
    """At the tested S, else at the largest k: `0.160x at k = 64`; "" where that was not timed."""
    reached = verdict.head.reached if verdict.head else None
    fast = verdict.speedup(reached if reached is not None else max(verdict.steps, default=None))
    return f"{number(fast.ratio)}x at k = {fast.steps}" if fast else ""


def s_parity(verdict: Verdict) -> str:
    """The tested S of the headline, and the point estimate where that differs: `none (point estimate 16)`."""
    head = verdict.head
    if head is None:
        return ""
    tested = "none" if head.reached is None else str(head.reached)
    differs = head.s_parity is not None and head.s_parity != head.reached
    return f"{tested} (point estimate {head.s_parity})" if differs else tested
