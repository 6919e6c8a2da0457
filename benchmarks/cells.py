"""What is simulated: the worlds of quality with the cases judged in each, and the machines on which speed is timed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.timed_worlds import Machine
from benchmarks.worlds import World, entropy_at
from llmbench.config.parity import ParityConfig

MARGIN = ParityConfig().margins.perplexity
SIZES = (100, 200, 400, 1000)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Candidates of known truth, judged together."""

    place: str  # of their entropy, in words
    entropy: float
    deltas: tuple[float, ...]  # true Delta at each k, k rising
    share: float = 1.0  # of the planned studies

    @property
    def steps(self) -> range:
        """K."""
        return range(1, len(self.deltas) + 1)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A world with all the cases that are judged in it."""

    world: World
    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True)
class Race:
    """A machine with the truth of each candidate's speedup, k rising."""

    machine: Machine
    truths: tuple[float, ...] = (1.0,)


def middle(low: float, high: float) -> tuple[str, float]:
    """The entropy half way between LLaMA's at two temperatures."""
    return f"between {low:g} and {high:g}", (entropy_at(low) + entropy_at(high)) / 2


KNOT = ("on 0.6", entropy_at(0.6))
COARSE = (middle(0.2, 0.4), KNOT, middle(0.8, 1.0))
FINE = (middle(0.2, 0.3), KNOT, middle(0.8, 0.9))
OUTSIDE = (("below the curve", 2.58), ("above the curve", 3.44))
TENTHS = tuple(i / 10 for i in range(11))
WORSE = -0.3
"""Delta at which `not_reached` is right."""


def _at(places: Iterable[tuple[str, float]], *deltas: float, share: float = 1.0) -> tuple[Case, ...]:
    return tuple(Case(place=name, entropy=e, deltas=(d,), share=share) for name, e in places for d in deltas)


_POWER = _at(COARSE, 0.0, WORSE, share=0.25)
_TAILS = (*_at((KNOT, COARSE[2]), -MARGIN), *_at((KNOT,), 0.0, share=0.25))
_SEQUENCE = (Case(place="between 0.2 and 0.4", entropy=COARSE[0][1], deltas=(-MARGIN, -MARGIN, 0.0)),)


def _setting(*cases: Case, **world: Any) -> Setting:
    return Setting(world=World(prompts=0, shifts=(), entropies=(), **world), cases=cases)


QUALITY: dict[str, Setting] = {
    "clean": _setting(*_at((*COARSE, *OUTSIDE), -MARGIN), *_POWER, *_SEQUENCE),
    "clusters of 4, icc 0.3": _setting(*_at(COARSE, -MARGIN), *_POWER, per_document=4, icc=0.3),
    "clusters of 4, icc 0.6": _setting(*_at(COARSE, -MARGIN), *_POWER, per_document=4, icc=0.6),
    "grid of 0.1": _setting(*_at(FINE, -MARGIN), *_at(FINE[1:], 0.0, share=0.25), temperatures=TENTHS),
    "strong bend": _setting(*_at(COARSE, -MARGIN), *_at(COARSE[1:], 0.0, share=0.25), bend=5.0),
    "strong bend, grid of 0.1": _setting(*_at(FINE, -MARGIN), temperatures=TENTHS, bend=5.0),
    "1 % catastrophes": _setting(*_TAILS, collapse=0.01),
    "5 % catastrophes": _setting(*_TAILS, collapse=0.05),
    "Pareto tail": _setting(*_TAILS, pareto=0.3),
    "lognormal 0.5": _setting(*_TAILS, skew=0.5),
    "lognormal 0.8": _setting(*_TAILS, skew=0.8),
    "looping": _setting(*_at((KNOT,), 0.2, share=0.25), looping=0.3),
    "unrelated to the prompt": _setting(*_at((KNOT,), 0.2, share=0.25), relevance=-0.03),
}


def _races() -> dict[str, Race]:
    found = {}
    for truth in (1.0, 0.98):
        for level, size in (("steady", 0.0), ("one shift", 0.05), ("own level", 0.05), ("drift", 0.05)):
            found[f"{_CHANGES[level]}, truth {truth:g}"] = Race(
                machine=Machine(level=level, size=size),  # type: ignore[arg-type]
                truths=(truth,),
            )
        for size in (0.3, 1.0):
            name = f"blocks {1 + size:g} times as slow, truth {truth:g}"
            found[name] = Race(machine=Machine(level="blocks", size=size), truths=(truth,))
    for level in ("steady", "one shift", "own level"):
        name = _CHANGES[level]
        found[f"{name}, noise 0.5 %"] = Race(machine=Machine(level=level, noise=0.005))  # type: ignore[arg-type]
        found[f"{name}, 12 repeats"] = Race(machine=Machine(level=level, repeats=12))  # type: ignore[arg-type]
        found[f"{name}, 4 batches"] = Race(machine=Machine(level=level, batches=4))  # type: ignore[arg-type]
        found[f"{name}, 4 k of truth 1"] = Race(machine=Machine(level=level), truths=(1.0,) * 4)  # type: ignore[arg-type]
    return found


_CHANGES = {
    "steady": "steady",
    "one shift": "one shift of 5 %",
    "own level": "each job at one of two levels 5 % apart",
    "drift": "drift of 5 %",
}

SPEED = _races()
