"""Which texts and prompts stand for "another one"? Fixed draws: seed 0, and the order of the prompts alone decides."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

OUTPUTS = 47
"""Outputs of other prompts that an output's 4-grams are looked up in."""


def derangement(size: int) -> list[int]:
    """A fixed random cycle through `size` places (Sattolo 1986): from two places on, none keeps its own."""
    order, draw = list(range(size)), random.Random(0).random
    for last in range(size - 1, 0, -1):
        other = int(draw() * last)
        order[last], order[other] = order[other], order[last]
    return order


def two_others(tasks: Sequence[str], documents: Sequence[str | None]) -> list[tuple[int, int] | None]:
    """For every prompt the indices of two others of its task and of other documents.

    Of any task where its own has fewer than two such prompts; None where there are fewer than two at all.

    Args:
        tasks: of each prompt.
        documents: of each prompt; None is a document of its own.
    """
    whole = list(range(len(tasks)))
    of_task: dict[str, list[int]] = {}
    for index, task in enumerate(tasks):
        of_task.setdefault(task, []).append(index)
    sources = [(document, None if document is not None else index) for index, document in enumerate(documents)]
    same_source, same_both = Counter(sources), Counter(zip(sources, tasks, strict=True))
    draw = random.Random(0).random
    found: list[tuple[int, int] | None] = []
    for source, task in zip(sources, tasks, strict=True):
        if len(of_task[task]) - same_both[source, task] >= 2:
            pool = of_task[task]
        elif len(whole) - same_source[source] >= 2:
            pool = whole
        else:
            found.append(None)
            continue
        first, second = _sample(draw, pool, 2, sources, source)
        found.append((first, second))
    return found


def other_outputs(size: int, count: int = OUTPUTS) -> list[set[int]]:
    """For each of `size` outputs the indices of `count` others; of all others where there are fewer."""
    draw, whole = random.Random(0).random, range(size)
    if size - 1 <= count:
        return [{*whole} - {own} for own in whole]
    return [{*_sample(draw, whole, count, whole, own)} for own in whole]


def _sample(
    draw: Callable[[], float], pool: Sequence[int], count: int, sources: Sequence[object], own: object
) -> list[int]:
    """`count` different members of `pool` that are not from the source `own`; there must be so many."""
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        member = pool[int(draw() * len(pool))]
        if sources[member] != own:
            chosen[member] = None
    return list(chosen)
