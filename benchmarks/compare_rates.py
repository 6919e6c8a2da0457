"""How often does `llmbench report compare` find a change where there is none? Simulated pairs of sweeps of one commit.

    python -m benchmarks.compare_rates --studies 2000        prints the tables of docs/compare.md

Every pair goes through `analysis.compare.compare`, as users get it. A world says how times are drawn: a level of the
process, of the job, correlated repeats, and what the machine does besides. A sweep is a baseline, its candidates one
after another and the baseline again, 6 repeats each. `found` is the share in which B with all times x 1.06 is worse.
"""

import argparse
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.timed_worlds import passing_study
from benchmarks.worlds import World, study, timing
from llmbench.analysis.compare import TIME, Outcome, compare
from llmbench.record import Record

Array = NDArray[np.float64]

REPEATS = 6


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How ln of a time is drawn; standard deviations, and sizes of what the machine does besides."""

    process: float = 0.003
    job: float = 0.002
    repeat: float = 0.003
    correlation: float = 0.5  # of a repeat with the one before it, within a job
    besides: Literal["", "shift", "walk", "slow waves", "level of a job", "level of a process", "spikes"] = ""
    settings: int = 3


WORLDS = {
    "quiet card": Machine(),
    "processes 1 %, repeats 1 %": Machine(process=0.01, job=0.005, repeat=0.01),
    "the same, 12 settings": Machine(process=0.01, job=0.005, repeat=0.01, settings=12),
    "processes 2 %": Machine(process=0.02, job=0.005, repeat=0.01),
    "jobs 1 %, repeats 2 % at correlation 0.8": Machine(process=0.01, job=0.01, repeat=0.02, correlation=0.8),
    "jobs 3 %, repeats 5 % at correlation 0.8": Machine(process=0.01, job=0.03, repeat=0.05, correlation=0.8),
    "the same, 12 settings ": Machine(process=0.01, job=0.03, repeat=0.05, correlation=0.8, settings=12),
    "jobs 10 %, repeats 10 % at correlation 0.9": Machine(process=0.03, job=0.1, repeat=0.1, correlation=0.9),
    "one shift of 5 % at a random moment": Machine(process=0.005, job=0.005, repeat=0.005, besides="shift"),
    "random walk, 3 % over a sweep": Machine(process=0.005, job=0.005, repeat=0.005, besides="walk"),
    "waves of 5 % over 20 repeats": Machine(process=0.005, job=0.005, repeat=0.005, besides="slow waves"),
    "every job at one of two levels 5 % apart": Machine(repeat=0.01, besides="level of a job"),
    "every process at one of two levels 5 % apart": Machine(repeat=0.01, besides="level of a process"),
    "a repeat in ten is 1.6 times slower": Machine(repeat=0.01, besides="spikes"),
}


def logs(machine: Machine, rng: np.random.Generator) -> Array:
    """Logarithms of the times of one sweep, shape (jobs, repeats)."""
    jobs = machine.settings + 1
    shape = (jobs, REPEATS)
    made = machine.process * rng.standard_normal() + machine.job * rng.standard_normal((jobs, 1))
    made = made + machine.repeat * correlated(shape, machine.correlation, rng)
    moment = np.arange(jobs * REPEATS).reshape(shape)
    if machine.besides == "shift":
        made = made + rng.choice([-0.05, 0.05]) * (moment >= rng.integers(jobs * REPEATS))
    elif machine.besides == "walk":
        made = made + (0.03 * np.cumsum(rng.standard_normal(moment.size)) / np.sqrt(moment.size)).reshape(shape)
    elif machine.besides == "slow waves":
        made = made + 0.05 * correlated((1, moment.size), 0.95, rng).reshape(shape)
    elif machine.besides == "level of a job":
        made = made + 0.05 * rng.integers(0, 2, (jobs, 1))
    elif machine.besides == "level of a process":
        made = made + 0.05 * rng.integers(0, 2)
    elif machine.besides == "spikes":
        made = made + 0.5 * (rng.random(shape) < 0.1)
    drawn: Array = made
    return drawn


def correlated(shape: tuple[int, int], correlation: float, rng: np.random.Generator) -> Array:
    """AR(1) of variance 1 along each row."""
    drawn: Array = rng.standard_normal(shape)
    for i in range(1, shape[1]):
        drawn[:, i] = correlation * drawn[:, i - 1] + np.sqrt(1 - correlation**2) * drawn[:, i]
    return drawn


def sweep(templates: Sequence[Record], drawn: Array, factor: float = 1.0) -> list[Record]:
    """The Records with these times in ms; the last one is the baseline again."""
    return [
        replace(
            record,
            timings=tuple(timing(0, r, float(100 * factor * np.exp(value)), 100) for r, value in enumerate(row)),
            repeated_batches=(0,),
            scores=(),
        )
        for record, row in zip(templates, drawn, strict=True)
    ]


def time_rates(name: str, studies: int, repeats: int = 0) -> tuple[float, float, float]:
    """Shares of pairs with a change where there is none, and with x 1.06 found; median width of a setting's bounds.

    Args:
        name: of WORLDS.
        studies: how many pairs.
        repeats: further sweeps like A, from which the noise is measured.
    """
    machine = WORLDS[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    written = passing_study(1, tuple(range(1, machine.settings)))
    timed = [record for record in written if record.role == "timed"]
    templates = [*timed, replace(next(r for r in timed if r.steps is None), role="retimed")]
    false, found, widths = 0, 0, []
    for _ in range(studies):
        drawn = logs(machine, rng), logs(machine, rng)
        a, b, slower = sweep(templates, drawn[0]), sweep(templates, drawn[1]), sweep(templates, drawn[1], 1.06)
        again = [
            [replace(record, process=f"other {i}") for record in sweep(templates, logs(machine, rng))]
            for i in range(repeats)
        ]
        same, worse = (compare(a, other, repeats_of_a=again) for other in (b, slower))
        false += bool(same.beyond_noise)
        found += any(item.outcome is Outcome.WORSE for item in worse.changes)
        own = [item for item in same.changes if item.metric == TIME]
        widths.append(own[-1].change / (own[-1].low or np.nan) - 1)
    return false / studies, found / studies, float(np.median(widths))


def quality_rates(world: World, same: float, studies: int, seed: int) -> tuple[float, float]:
    """Shares of pairs with a change where there is none, and of those with 0.2 nats per token lost that are found.

    Args:
        world: how both sides are drawn.
        same: share of the prompts whose texts are the same on both sides.
        studies: how many.
        seed: of all chance.
    """
    rng = np.random.default_rng(seed)
    lost = replace(world, shifts=tuple(shift + 0.2 for shift in world.shifts))
    false, found = 0, 0
    for _ in range(studies):
        a = [record for record in study(world, rng) if record.role == "timed"]
        for place, other in enumerate((world, lost)):
            drawn = [record for record in study(other, rng) if record.role == "timed"]
            kept = {o.prompt_id for o in a[0].outputs if rng.random() < same} if not place else set()
            b = [_mixed(first, second, kept) for first, second in zip(a, drawn, strict=True)]
            changes = compare(a, b)
            if place:
                found += any(item.outcome is Outcome.WORSE for item in changes.beyond_noise)
            else:
                false += bool(changes.beyond_noise)
    return false / studies, found / studies


def _mixed(a: Record, b: Record, kept: set[str]) -> Record:
    """B with the scores of A at these prompts."""
    scores = tuple(
        one if one.prompt_id in kept else other
        for one, other in zip(a.scores, b.scores, strict=True)
    )  # fmt: skip
    return replace(b, scores=scores)


QUALITY = {
    "all texts differ, 100 prompts": (World(prompts=100, shifts=(0.0, 0.0), entropies=(3.0, 3.0), steps=(8, 16)), 0.0),
    "one text in ten differs, 400 prompts": (
        World(prompts=400, shifts=(0.0, 0.0), entropies=(3.0, 3.0), steps=(8, 16)),
        0.9,
    ),
    "documents of 4, icc 0.3, skewed, 200 prompts": (
        World(prompts=200, shifts=(0.0, 0.0), entropies=(3.0, 3.0), steps=(8, 16), per_document=4, icc=0.3, skew=0.5),
        0.0,
    ),
    "16 prompts": (World(prompts=16, shifts=(0.0, 0.0), entropies=(3.0, 3.0), steps=(8, 16)), 0.0),
}


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--studies", type=int, default=2000)
    studies = options.parse_args().studies
    error = (0.05 * 0.95 / studies) ** 0.5
    print(f"{studies} pairs a row, half of them with repeats, a quarter for qualities; error at 5 %: {error:.1%}\n")
    measured = "with four repeats of A: "
    print(
        f"| times | false alarms | 1.06 found | {measured}false alarms | 1.06 found |\n|---|---|---|---|---|",
        flush=True,
    )
    for name in WORLDS:
        false, found, _ = time_rates(name, studies)
        with_repeats = time_rates(name, studies // 2, repeats=4)
        row = (name.strip(), f"{false:.1%}", f"{found:.0%}", f"{with_repeats[0]:.1%}", f"{with_repeats[1]:.0%}")
        print(f"| {' | '.join(row)} |", flush=True)
    print("\n| qualities | false alarms | 0.2 nats per token found |\n|---|---|---|", flush=True)
    for seed, (name, (world, same)) in enumerate(QUALITY.items()):
        false, found = quality_rates(world, same, max(studies // 4, 1), seed)
        print(f"| {name} | {false:.1%} | {found:.0%} |", flush=True)


if __name__ == "__main__":
    main()
