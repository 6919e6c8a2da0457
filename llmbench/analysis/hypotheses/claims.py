"""Which hypotheses of the brief do these Records support? Four claims, each supported, refuted or undecided.

Pure over Records. What a hypothesis needs is in one recipe's sweep (`Claim.recipe`), but any Records will do: those
that cannot speak to a claim are passed over, and a claim nobody speaks to is undecided with the command that would
decide. Called by `llmbench.report`.
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
    """Judge the four, or those that a recipe speaks to.

    Args:
        records: of one sweep; failed ones are passed over.
        recipe: file of conf/experiment; None judges all.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    return tuple(judge(records) for claim, judge in CLAIMS if recipe in (None, claim.recipe))
