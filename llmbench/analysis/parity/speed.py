"""speedup(k) = L_e2e(baseline) / L_e2e(candidate at k), and whether the candidate may be called faster."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from llmbench.analysis.estimates import logged_mean
from llmbench.analysis.parity import sentences
from llmbench.analysis.parity.gates import THREADS
from llmbench.analysis.parity.grouping import Group
from llmbench.analysis.parity.statistics import repeat_times, shared_batches, speedup_interval
from llmbench.analysis.parity.verdict import ExternalServer, Gate, MetricParity, Speed, Speedup
from llmbench.record import Record


def speedup(
    steps: int, baseline: Sequence[Record], candidate: Sequence[Record], rng: np.random.Generator
) -> Speedup | None:
    """The ratio of the logged L_e2e at one k with its interval; None where a side was not timed.

    Where Records repeated different batches, ratio and interval are over those that all of them repeated.
    """
    both = (*baseline, *candidate)
    shared = shared_batches(both)
    alike = all(set(record.repeated_batches) == set(shared) for record in both)
    upper, lower = (
        logged_mean(side, "latency/e2e_ms") if alike else _e2e_of(side, shared) for side in (baseline, candidate)
    )
    if upper is None or not lower:
        return None
    interval = speedup_interval(baseline, candidate, rng)
    return Speedup(
        steps=steps,
        ratio=upper / lower,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        baseline_ms=upper,
        candidate_ms=lower,
    )


def against_server(side: Sequence[Record], sides: Group, rng: np.random.Generator) -> ExternalServer:
    """A server's times against the candidates', both by the host clock."""
    found = [speedup(k, side, tuple(map(_by_wall, candidate)), rng) for k, candidate in sides.candidates]
    return ExternalServer(
        label=side[0].label,
        where=side[0].conditions.get("device_name", ""),
        speedups=tuple(item for item in found if item is not None),
    )


def _by_wall(record: Record) -> Record:
    """The Record with the host clock's times in place of the device's."""
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


def claim(
    head: MetricParity | None, sides: Group, speedups: Sequence[Speedup], found: Sequence[Gate]
) -> tuple[Speed, str]:
    """Viable, inefficient or open, over every k at which the headline passes."""
    if head is None or head.reached is None:
        return Speed.NO_PARITY, ""
    name = sentences.named(sides.candidates[0][1][0])
    passing = [item for item in speedups if item.steps in head.passing]
    slow = [gate.reason for gate in found if gate.blocks == "speed"]
    unequal = any(gate.name == THREADS for gate in found)  # then slower says as little as faster
    faster = [item for item in passing if item.low is not None and item.low > 1]
    slower = [item for item in passing if item.high is not None and item.high < 1]
    if faster and not slow:
        return Speed.VIABLE, sentences.speed_sentence(Speed.VIABLE, name, faster, "")
    if passing and len(slower) == len(head.passing) and not unequal:
        return Speed.INEFFICIENT, sentences.speed_sentence(Speed.INEFFICIENT, name, passing, "; ".join(slow))
    return Speed.OPEN, sentences.speed_sentence(Speed.OPEN, name, passing, "; ".join(slow))
