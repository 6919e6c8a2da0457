"""speedup(k) = L_e2e(baseline) / L_e2e(candidate at k), and whether the candidate may be called faster.

A machine's level of speed shifts between jobs. So the baseline is timed before and after the candidates in their
process and on their card (Record.role "retimed"): its time is the geometric mean of both, and the interval is the hull
of the intervals against each.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, quantiles

import numpy as np

from llmbench.analysis.estimates import Estimate, Interval, logged_mean
from llmbench.analysis.parity.grouping import Group, seed_of
from llmbench.analysis.parity.sides import Side
from llmbench.analysis.parity.time_intervals import MIN_REPEATS, repeat_times, shared_batches, speedup_interval
from llmbench.analysis.parity.verdict import Check, ExternalServer, MetricParity, Speed, Speedup
from llmbench.record import Record, from_server

UNSTEADY = 1.5
"""Quartiles of a batch's repeats that differ by more than this factor: other work ran on the device."""


def speedup(steps: int, group: Group, records: Sequence[Record], rng: np.random.Generator) -> Speedup | None:
    """The ratio at one k with its interval; None where a side was not timed.

    Args:
        steps: k.
        group: whose baseline is the numerator.
        records: of the candidate, one per seed.
        rng: of the bootstrap.
    """
    if group.baseline is None:
        return None
    made = [
        found
        for baseline in baselines_beside(group, records)
        if (found := _against(steps, baseline, records, rng)) is not None
    ]
    if not made:
        return None
    first, last = made[0], made[-1]
    lows, highs = [item.low for item in made], [item.high for item in made]
    bounded = None not in (*lows, *highs)
    baseline_ms = math.sqrt(first.baseline_ms * last.baseline_ms)
    factor = unsteadiness((*(r for baseline in baselines_beside(group, records) for r in baseline), *records))
    return Speedup(
        steps=steps,
        ratio=math.sqrt(first.ratio * last.ratio),
        low=min(low for low in lows if low is not None) / (factor or 1.0) if bounded else None,
        high=max(high for high in highs if high is not None) * (factor or 1.0) if bounded else None,
        baseline_ms=baseline_ms,
        candidate_ms=first.candidate_ms,
        drift=last.baseline_ms / first.baseline_ms if len(made) > 1 else None,
        unsteady=factor,
    )


def baselines_beside(group: Group, candidate: Sequence[Record]) -> list[tuple[Record, ...]]:
    """The baseline's Records before and after these candidates, in their process and on their card.

    One tuple where it was timed once; the baseline's own Records where none shares process and card.
    """
    assert group.baseline is not None
    timed = (*group.baseline.records, *group.retimed)
    before = [_nearest(timed, record, later=False) for record in candidate]
    after = [_nearest(timed, record, later=True) for record in candidate]
    whole = [[record for record in found if record is not None] for found in (before, after) if None not in found]
    return [tuple({id(record): record for record in found}.values()) for found in whole] or [group.baseline.records]


def _nearest(timed: Sequence[Record], candidate: Record, *, later: bool) -> Record | None:
    """The baseline's Record that was begun last before a candidate, or first after it, of its seed where there is one.

    Where nothing tells processes apart (older Records), the baseline's own Record stands before.
    """
    here = [r for r in timed if _place(r) == _place(candidate) and (r.started_at > candidate.started_at) is later]
    if not candidate.process:
        here = [] if later else [r for r in timed if r.role == "timed"]
    same = [r for r in here if seed_of(r) in (seed_of(candidate), "")] or here
    return (min if later else max)(same, key=lambda r: r.started_at, default=None)


def _place(record: Record) -> tuple[str, str | None]:
    return record.process, record.environment.device_uuid


def shares_place(group: Group, candidate: Sequence[Record]) -> bool:
    """Whether the baseline was timed in the candidates' process and on their card, as far as that is known."""
    if group.baseline is None:
        return True
    timed = (*group.baseline.records, *group.retimed)
    return all(not r.process or any(_place(r) == _place(other) for other in timed) for r in candidate)


def _against(
    steps: int, baseline: Sequence[Record], candidate: Sequence[Record], rng: np.random.Generator
) -> Speedup | None:
    """The ratio of the logged L_e2e; where Records repeated different batches, over those that all repeated.

    By the device's clock; where a server is one of the sides, both by the host clock, the only one that it has.
    """
    if any(map(from_server, (*baseline, *candidate))):
        baseline, candidate = tuple(map(_by_wall, baseline)), tuple(map(_by_wall, candidate))
    both = (*baseline, *candidate)
    shared = shared_batches(both)
    alike = all(set(record.repeated_batches) == set(shared) for record in both)
    upper, lower = (
        logged_mean(side, "latency/e2e_ms") if alike else _e2e_of(side, shared) for side in (baseline, candidate)
    )
    if upper is None or not lower:
        return None
    interval: Interval | None = speedup_interval(baseline, candidate, rng)
    return Speedup(
        steps=steps,
        ratio=upper / lower,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        baseline_ms=upper,
        candidate_ms=lower,
    )


def implementation_speedup(group: Group, records: Sequence[Record], rng: np.random.Generator) -> Estimate | None:
    """L_e2e of the baseline / that of another implementation of it, as `speedup`.

    Without an interval where the baseline was not timed in their process and on their card.

    Args:
        group: whose baseline is the numerator.
        records: of the other implementation, one per seed.
        rng: of the bootstrap.
    """
    made = speedup(0, group, records, rng)
    if made is None:
        return None
    if not shares_place(group, records):
        return Estimate(value=made.ratio)
    return Estimate(value=made.ratio, low=made.low, high=made.high)


def against_servers(group: Group, rng: np.random.Generator) -> tuple[ExternalServer, ...]:
    """The times of every external server: over the candidates', or under the baseline's; by the host clock."""
    baselines = [side for side in group.external_servers if side.steps is None]
    served: dict[str, list[Side]] = {}
    for side in group.external_servers:
        if side.steps is not None:
            served.setdefault(side.records[0].side, []).append(side)
    found = [_against_server(side, group, rng) for side in baselines]
    return (*found, *(_served_candidates(label, sides, group, rng) for label, sides in served.items()))


def _served_candidates(label: str, sides: Sequence[Side], group: Group, rng: np.random.Generator) -> ExternalServer:
    baseline = group.baseline.records if group.baseline else ()
    places = dict.fromkeys(side.records[0].conditions.get("device_name", "") for side in sides)
    made = [_against(side.steps or 0, baseline, side.records, rng) for side in sides] if baseline else []
    speedups = tuple(item for item in made if item is not None)
    return ExternalServer(label=label, where=", ".join(places), speedups=speedups, candidate=True)


def _against_server(server: Side, group: Group, rng: np.random.Generator) -> ExternalServer:
    found = [
        _against(side.steps, server.records, side.records, rng) for side in group.candidates if side.steps is not None
    ]
    return ExternalServer(
        label=server.label,
        where=server.records[0].conditions.get("device_name", ""),
        speedups=tuple(item for item in found if item is not None),
    )


def _by_wall(record: Record) -> Record:
    """The Record with the host clock's times in place of the device's; a server has no other."""
    if from_server(record):
        return record
    metrics = record.metrics
    if "latency/e2e_wall_ms" in metrics:
        metrics = metrics | {"latency/e2e_ms": metrics["latency/e2e_wall_ms"]}
    timings = tuple(replace(timing, e2e_ms=timing.e2e_wall_ms) for timing in record.timings)
    return replace(record, metrics=metrics, timings=timings)


def _e2e_of(side: Sequence[Record], batches: Sequence[int]) -> float | None:
    """L_e2e over some of the repeated batches: those that both sides have, where they repeated different ones."""
    times = [repeat_times(record, batches) for record in side]
    if not batches or not all(len(rows) for rows in times):
        return None
    return fmean(float(np.median(rows.mean(axis=1))) for rows in times)


def unsteadiness(records: Sequence[Record]) -> float | None:
    """The largest ratio of the quartiles of one batch's repeats, if it exceeds `UNSTEADY`."""
    worst = 1.0
    for record in records:
        repeats: dict[int, list[float]] = {}
        for timing in record.timings:
            repeats.setdefault(timing.batch, []).append(timing.e2e_ms)
        for times in repeats.values():
            if len(times) >= MIN_REPEATS:
                low, _, high = quantiles(times, n=4, method="inclusive")
                worst = max(worst, high / low)
    return worst if worst > UNSTEADY else None


def claim(head: MetricParity | None, speedups: Sequence[Speedup], checks: Sequence[Check]) -> Speed:
    """Viable, inefficient or open, over every k at which the headline passes."""
    if head is None or not head.passing:
        return Speed.NO_PARITY
    passing = [item for item in speedups if item.steps in head.passing]

    def forbidden(steps: int, *blocks: str) -> bool:
        return any(check.forbids(kind, None, steps) for check in checks for kind in blocks)  # type: ignore[arg-type]

    if any(s.low is not None and s.low > 1 and not forbidden(s.steps, "speed", "viable") for s in passing):
        return Speed.VIABLE
    slower = [s for s in passing if s.high is not None and s.high < 1 and not forbidden(s.steps, "speed")]
    return Speed.INEFFICIENT if passing and len(slower) == len(head.passing) else Speed.OPEN
