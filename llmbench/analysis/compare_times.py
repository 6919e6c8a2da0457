"""How much does the time of a setting differ between two sweeps? The change, and the variances that the sweeps show.

The change of a setting is ln x_B - ln x_A, with x the L_e2e of a job: the median over repeats of the mean over the
batches that both sides repeated and that hold the same prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmbench.analysis.compare_match import Setting
from llmbench.analysis.parity.time_intervals import MIN_REPEATS, repeat_times, shared_batches
from llmbench.record import Record, from_server

_SCORING = ("judge", "second_judge", "encoder")
"""Conditions that a baseline which is timed again does not have."""


def is_busy(record: Record) -> bool:
    """Whether other work ran on the CPU that timed a job: load average above 1.5 x threads + 1 when it began.

    Two processes then differ by any factor, and each may be steady within itself: nothing bounds the noise.
    """
    where = record.environment
    return where.device == "cpu" and (where.load_average or 0.0) > 1.5 * where.threads + 1


@dataclass(frozen=True)
class Variance:
    """An estimated variance of ln L_e2e."""

    value: float
    freedom: int

    def __mul__(self, factor: float) -> "Variance":
        """A multiple."""
        return Variance(self.value * factor, self.freedom)


@dataclass(frozen=True, kw_only=True)
class TimeChange:
    """The time of a setting on both sides."""

    label: str
    identity: str  # of A's Record, the first over seeds
    a_ms: float
    b_ms: float
    change: float  # ln of the ratio B over A, the mean over seeds
    seeds: int
    batches: int  # that both repeated, of the same prompts
    tokens: float | None  # of these batches, B over A; None where A wrote none
    noise: tuple[Variance, ...]  # of the repeats; () where a job has fewer than MIN_REPEATS


def time_change(setting: Setting) -> TimeChange | None:
    """The change of one setting; None where no batch of the same prompts was timed on both sides."""
    clocked = [_one_clock(pair) for pair in setting.pairs]
    shared = [_same_batches(*pair) for pair in clocked]
    if not all(shared):
        return None
    rows = [[repeat_times(record, batches) for record in pair] for pair, batches in zip(clocked, shared, strict=True)]
    if any(not len(times) or times.min() <= 0 for pair in rows for times in pair):
        return None
    middles = [[float(np.median(times.mean(axis=1))) for times in pair] for pair in rows]
    count = len(rows)
    few = any(len(times) < MIN_REPEATS for pair in rows for times in pair)
    wrote = [[_tokens(record, batches) for record in pair] for pair, batches in zip(clocked, shared, strict=True)]
    before, after = (sum(pair[side] for pair in wrote) for side in (0, 1))
    return TimeChange(
        label=setting.label,
        identity=setting.pairs[0][0].identity,
        a_ms=float(np.mean([a for a, _ in middles])),
        b_ms=float(np.mean([b for _, b in middles])),
        change=float(np.mean([math.log(b / a) for a, b in middles])),
        seeds=count,
        batches=len(shared[0]),
        tokens=after / before if before else None,
        noise=() if few else tuple(_of_repeats(times) * (1 / count**2) for pair in rows for times in pair),
    )


def _of_repeats(times: np.ndarray) -> Variance:
    logs = np.log(times.mean(axis=1))
    return Variance(float(np.var(logs, ddof=1)), len(logs) - 1)


def _tokens(record: Record, batches: Sequence[int]) -> int:
    return sum(item.tokens for item in record.timings if item.repeat == 0 and item.batch in batches)


def _one_clock(pair: tuple[Record, Record]) -> tuple[Record, ...]:
    """Both by the host clock, where one is a server: it has no other."""
    if not any(map(from_server, pair)):
        return pair
    return tuple(
        replace(record, timings=tuple(replace(item, e2e_ms=item.e2e_wall_ms) for item in record.timings))
        for record in pair
    )


def _same_batches(a: Record, b: Record) -> list[int]:
    """The batches that both repeated and that hold the same prompts."""
    prompts = [{output.prompt_id: output.prompt for output in record.outputs} for record in (a, b)]
    texts_known = a.conditions.get("workload") == b.conditions.get("workload")

    def same(batch: int) -> bool:
        if batch >= min(len(a.partition), len(b.partition)) or a.partition[batch] != b.partition[batch]:
            return False
        own = a.partition[batch]
        return texts_known or all(prompts[0].get(p) is not None and prompts[0][p] == prompts[1].get(p) for p in own)

    return [batch for batch in shared_batches((a, b)) if same(batch)]


def drift(records: Sequence[Record]) -> Variance | None:
    """Variance of ln L_e2e from job to job of one setting in a sweep; None where none was timed again.

    Args:
        records: of the sweep, with baselines of the role "retimed".
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if record.status == "finished" and record.role != "curve" and record.timings:
            known = tuple(sorted(pair for pair in record.conditions.items() if pair[0] not in _SCORING))
            groups.setdefault((record.model, record.steps, known), []).append(record)
    squares, freedom = 0.0, 0
    for members in groups.values():
        batches = shared_batches(members)
        rows = [times for record in members if len(times := repeat_times(record, batches)) and batches]
        logs = [math.log(value) for times in rows if (value := float(np.median(times.mean(axis=1)))) > 0]
        if len(logs) > 1:
            squares += float(np.var(logs, ddof=1)) * (len(logs) - 1)
            freedom += len(logs) - 1
    return Variance(squares / freedom, freedom) if freedom else None
