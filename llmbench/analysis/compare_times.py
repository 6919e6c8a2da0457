"""How much does the time of a setting differ between two sweeps, and how much of that is noise?

With ln x of a job = the logarithm of its L_e2e (median over repeats of the mean over batches), a change is
d = ln x_B - ln x_A, and its variance is the sum over both sides of

    process^2     process to process: assumed (`PROCESS_SD`), because one process per side shows nothing of it
    1.5 drift^2   job to job in one sweep: from baselines that were timed again; variance of their ln x
    repeats^2     variance of ln of the repeats of the job, not divided by their number: they share the machine's state

Bounds are d -+ t sqrt(variance), the degrees of freedom by Satterthwaite (Biometrics Bulletin 2, 1946, 110-114); the
assumed part has infinitely many. They are no fewer than `LEAST_FREEDOM`: a sweep has one or two pairs of timings, and t
with one degree gives no bound. That, the weight of the drift and the repeats that are not divided are choices, whose
error rates are simulated (docs/compare.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmbench.analysis.compare_match import Setting
from llmbench.analysis.parity.time_intervals import MIN_REPEATS, repeat_times, shared_batches
from llmbench.record import Record, from_server

PROCESS_SD = 0.0125
"""Assumed: two processes of one commit on one machine differ in ln L_e2e with this standard deviation each."""

DRIFT_WEIGHT = 1.5
"""Two sweeps lie farther apart in time than two jobs of one."""

LEAST_FREEDOM = 4

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


def half_width(change: TimeChange, drifts: Sequence[Variance], process_sd: float, alpha: float) -> float:
    """Distance of both bounds of one setting's change, in ln; `alpha` is of each bound."""
    of_jobs = [own * (DRIFT_WEIGHT / change.seeds) for own in drifts]
    return _width([*of_jobs, *change.noise], process_sd, alpha)


def joint_half_width(
    changes: Sequence[TimeChange], drifts: Sequence[Variance], process_sd: float, alpha: float
) -> float:
    """The same for the mean of the changes of all settings: process and drift are one for all of them."""
    noise = [own * (1 / len(changes) ** 2) for change in changes for own in change.noise]
    return _width([*(own * DRIFT_WEIGHT for own in drifts), *noise], process_sd, alpha)


def _width(estimated: Sequence[Variance], process_sd: float, alpha: float) -> float:
    from scipy.special import ndtri, stdtrit

    variance = 2 * process_sd**2 + sum(own.value for own in estimated)
    spread = sum(own.value**2 / own.freedom for own in estimated)
    normal = float(-ndtri(alpha))
    freedom = max(variance**2 / spread, LEAST_FREEDOM) if spread else math.inf
    quantile = float(stdtrit(freedom, 1 - alpha)) if freedom < 1e6 else normal
    return quantile * math.sqrt(variance)
