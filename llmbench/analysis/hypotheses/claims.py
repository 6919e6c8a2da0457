"""The four hypotheses on the Records of a sweep: each is supported, refuted or undecided.

What a hypothesis needs is in the sweep of one recipe (`Claim.recipe`). Records that say nothing about a claim are
passed over; a claim without any is undecided.
"""

from collections.abc import Callable, Sequence

from llmbench.analysis.hypotheses import chat, memory, throughput
from llmbench.analysis.hypotheses.outcomes import Claim, Hypothesis
from llmbench.record import Record

Judge = Callable[[Sequence[Record]], Hypothesis]

CLAIMS: tuple[tuple[Claim, Judge], ...] = (
    (throughput.CLAIM, throughput.throughput),
    (memory.GROWTH, memory.growth),
    (memory.CONSTANT, memory.constant),
    (chat.CLAIM, chat.chat),
)


def hypotheses(records: Sequence[Record], recipe: str | None = None) -> tuple[Hypothesis, ...]:
    """Judge the four, or those of one recipe.

    Args:
        records: of one sweep; failed ones are passed over.
        recipe: file of conf/experiment; None judges all.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    return tuple(judge(records) for claim, judge in CLAIMS if recipe in (None, claim.recipe))
