"""Simulated studies whose speed is known: a baseline timed before and after its candidates, on a machine that changes.

The jobs run one after another: baseline, candidates (k falling), baseline again; each repeats its batches. A time is

    T x batch (mean 1, a part of it shared by both sides) x repeat x (repeat and batch) x level of the machine

T of the baseline is 100 ms, that of a candidate 100 ms / truth, so the truth of its speedup is known. One batch alone
has no effect of its own: the truth is that batch's.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.worlds import World, study, timing
from llmbench.metrics.performance import per_repeat
from llmbench.record import Record

Array = NDArray[np.float64]

Level = Literal["steady", "drift", "one shift", "own level", "blocks"]
"""How the machine changes: not at all; linearly; once, at a random moment, up or down; every job at one of two levels;
between a fast and a slow mode that last five repeats on average."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How times are drawn."""

    level: Level
    size: float = 0.05  # of the change: slower / faster - 1
    repeats: int = 6
    batches: int = 1
    noise: float = 0.02  # sd of the logarithm from repeat to repeat


def passing_study(batches: int, steps: Sequence[int]) -> list[Record]:
    """The Records of one study in which every k passes in quality: only times are left to decide."""
    world = World(
        prompts=100, shifts=(-0.5,) * len(steps), entropies=(2.976,) * len(steps), spread=0.05, relevance=0.15,
        steps=steps, batches=batches,
    )  # fmt: skip
    return study(world, np.random.default_rng(0))


def timed_study(
    machine: Machine, truths: Sequence[float], written: Sequence[Record], rng: np.random.Generator
) -> tuple[list[Record], list[Record]]:
    """One study with times, and the same on a machine that does not change.

    Args:
        machine: how times are drawn.
        truths: the true speedup of each candidate, k rising.
        written: from `passing_study`.
        rng: the only source of chance.
    """
    curve = [record for record in written if record.role == "curve"]
    baseline = next(record for record in written if record.family == "autoregressive" and record.role == "timed")
    candidates = [record for record in written if record.family == "diffusion"]
    jobs = [baseline, *reversed(candidates), replace(baseline, role="retimed", outputs=(), scores=())]
    speeds = [1.0, *reversed(truths), 1.0]
    effects = _effects(machine.batches, len(candidates), rng)
    levels = _levels(machine, len(jobs), rng)
    changed, steady = [*curve], [*curve]
    for place, (record, speed, effect) in enumerate(zip(jobs, speeds, effects, strict=True)):
        noise = machine.noise * rng.standard_normal((machine.repeats, 1))
        noise = noise + 0.4 * machine.noise * rng.standard_normal((machine.repeats, machine.batches))
        times = 100.0 / speed * effect * np.exp(noise)
        started = f"2026-11-30T10:{place:02d}:00+00:00"
        steady.append(_timed(record, times, started))
        changed.append(_timed(record, times * levels[place][:, None], started))
    return changed, steady


def _effects(batches: int, candidates: int, rng: np.random.Generator) -> list[Array]:
    """Of each batch, by job."""
    if batches == 1:
        return [np.ones(1)] * (candidates + 2)
    shared = rng.standard_normal(batches)
    sides = [np.exp(0.1 * (shared + rng.standard_normal(batches)) - 0.01) for _ in range(candidates + 1)]
    return [sides[0], *sides[1:], sides[0]]


def _levels(machine: Machine, jobs: int, rng: np.random.Generator) -> Array:
    """The machine's level in each repeat of each job: shape (jobs, repeats)."""
    shape, slow = (jobs, machine.repeats), 1 + machine.size
    moment = (np.arange(jobs * machine.repeats) / (jobs * machine.repeats - 1)).reshape(shape)
    if machine.level == "steady":
        return np.ones(shape)
    if machine.level == "drift":
        drifted: Array = 1 + machine.size * moment
        return drifted if rng.random() < 0.5 else drifted[::-1, ::-1]
    if machine.level == "one shift":
        late = moment > rng.random()
        return np.where(late if rng.random() < 0.5 else ~late, slow, 1.0)
    if machine.level == "own level":
        return np.where(rng.random((jobs, 1)) < 0.5, slow, 1.0) * np.ones(shape)
    stays = rng.random(jobs * machine.repeats) < 0.8
    mode = np.cumsum(~stays) + (rng.random() < 0.5)
    return np.where(mode.reshape(shape) % 2 == 1, slow, 1.0)


def _timed(record: Record, times: Array, started_at: str) -> Record:
    """The Record with these times (repeats, batches), begun at a moment of one process."""
    batches = range(times.shape[1])
    tokens = {item.batch: item.tokens for item in record.timings}
    timings = [timing(b, r, float(row[b]), tokens[b]) for r, row in enumerate(times) for b in batches]
    made = replace(
        record, timings=tuple(timings), repeated_batches=tuple(batches), started_at=started_at, process="one"
    )
    e2e_ms = statistics.median(per_repeat(made, lambda item: item.e2e_ms))
    return replace(made, metrics=record.metrics | {"latency/e2e_ms": e2e_ms})
