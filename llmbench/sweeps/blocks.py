"""Which jobs of a plan run in one process on one card?

A ratio of times needs both of its sides from one card, and a card's drift is seen by the baseline before and after the
candidates. So the baseline, the candidates that are compared with it and the baseline timed again are one block. Seeds,
temperatures, workloads and batches make blocks of their own, which several workers share. The curve of one side, which
nobody times, is a block too.
"""

from collections.abc import Sequence

from llmbench.config.servers import ServerConfig
from llmbench.sweeps.baseline_jobs import Compared
from llmbench.sweeps.plan import Cell


def blocks(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cut a plan; each block keeps the plan's order, and those that are timed come first.

    Args:
        cells: the plan, with curves and retimed jobs, and with what is taken over.
    """
    place = {cell.prepared.identity: number for number, cell in enumerate(cells)}
    compared = Compared(cells)
    parent = list(range(len(cells)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    for number, cell in enumerate(cells):
        for other in _beside(cell, cells, compared):
            parent[root(place[other.prepared.identity])] = root(number)
    found: dict[int, list[Cell]] = {}
    for number, cell in enumerate(cells):
        found.setdefault(root(number), []).append(cell)
    return sorted(found.values(), key=lambda members: members[0].role == "curve")


def _beside(cell: Cell, cells: Sequence[Cell], compared: Compared) -> list[Cell]:
    """Jobs that must run where this one does; a server's times depend on no card of this machine."""
    decoder = cell.prepared.job.model.decoder
    if cell.role == "curve":
        return [other for other in cells if other.role == "curve" and _is_one_curve(cell, other)]
    if cell.role == "retimed":
        return [other for other in cells if other.role == "timed" and _is_same_baseline(cell, other)]
    if cell.family == "autoregressive" and not isinstance(decoder, ServerConfig):
        return compared.timed_against(cell)
    return []


def _is_one_curve(cell: Cell, other: Cell) -> bool:
    one, two = cell.prepared, other.prepared
    return (one.checkpoint.digest, one.workload.digest, one.job.batch) == (
        two.checkpoint.digest,
        two.workload.digest,
        two.job.batch,
    )


def _is_same_baseline(again: Cell, cell: Cell) -> bool:
    one, two = again.prepared.job, cell.prepared.job
    return (one.model, one.hardware, one.workload, one.batch, one.seed, one.weights) == (
        two.model,
        two.hardware,
        two.workload,
        two.batch,
        two.seed,
        two.weights,
    )
