"""How do floor and decoder take turns? In bursts that let a GPU's clocks settle, and in turns of one step beside.

A GPU at its power limit lowers its clocks some time after the power was drawn, too far, and raises them again. In
bursts of a full canvas a step took 9.8 ms one second after the begin, 10.5 a third of a second later, and 10.2 half a
second later, the same in every burst, while the floor's fell from 9.5 to 8.6 (one H100). So floor and decoder run in
*bursts*, of which the first second is not timed and the next ones are; a sample is the mean over some 0.4 s of a burst,
a ratio is taken per pair of samples. The ratio in turns of one step stands beside it. Between the bursts the loops of
others have a turn.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.engine.cases import FLOOR, FLOOR_TURNS, OURS, OURS_TURNS
from llmbench.errors import one_line
from llmbench.measure.probes import Probe
from llmbench.measure.timing import OnStep, time_region

BURSTS = 3
"""Bursts of floor and decoder in a step case, each pair followed by a turn of every other loop."""

SETTLE_MS, TIMED_MS, SAMPLE_MS = 1000.0, 3000.0, 400.0
"""So long a burst runs before it is timed; so long at least it is timed; so long at least a sample takes."""


@dataclass
class Row:
    """What was measured of one case; `samples` in milliseconds, per step or per generation."""

    name: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    setup_s: float | None = None
    over_model_bytes: int | None = None
    prefill_ms: list[float] = field(default_factory=list)
    sm_clock_mhz: dict[str, list[int]] = field(default_factory=dict)  # under load, at the end of each burst
    profile: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None
    missing: dict[str, str] = field(default_factory=dict)  # parts that failed while the others are there, and why
    engine: dict[str, str] | None = None  # what the other engine says of itself: version, settings


class Bursts:
    """Takes the samples of one step case."""

    def __init__(self, row: Row, probe: Probe, *, smoke: bool) -> None:
        """Fill `row`, by the clocks of a device; a trial run settles nothing."""
        self._row, self._probe, self._smoke = row, probe, smoke

    def run(
        self,
        products: Callable[[], None],
        begin: Callable[[], None],
        steps: Sequence[Callable[[], object]],
        portion: int,
        others: "dict[str, Callable[[], float]]",
    ) -> None:
        """Samples of floor and decoder: in bursts, then in turns of one step.

        Args:
            products: the floor of one step.
            begin: goes before a round; not timed.
            steps: of one round.
            portion: the fewest steps of a sample.
            others: loops that have a turn behind every burst of ours.
        """
        round_ms = self._steady(None, begin, steps, len(steps), 0, 1)[0] * len(steps)
        settle = 0 if self._smoke else math.ceil(SETTLE_MS / round_ms * len(steps))
        fewest = 2 if len(steps) == portion else 1  # samples
        rounds = 1 if self._smoke else max(fewest, math.ceil(TIMED_MS / round_ms))
        together = 1 if self._smoke else math.ceil(SAMPLE_MS / round_ms * len(steps) / portion)
        turns = Others(self._row, others)
        for _ in range(BURSTS):
            for name, first, each in ((FLOOR, _nothing, [products] * len(steps)), (OURS, begin, steps)):
                found = means(self._steady(name, first, each, portion, settle, rounds), together)
                self._row.samples.setdefault(name, []).extend(found)
            turns.take()
        for _ in range(BURSTS):
            self._turns(products, begin, steps[:portion])

    def _steady(
        self,
        name: str | None,
        begin: Callable[[], None],
        steps: Sequence[Callable[[], object]],
        portion: int,
        settle: int,
        rounds: int,
    ) -> list[float]:
        """Milliseconds per step of every portion of some rounds, behind `settle` steps that are not timed.

        With a name the clock is read while the last of what was launched still runs.
        """
        whole = len(steps) // portion * portion
        unsettled = [steps[: settle - done] for done in range(0, settle, len(steps))]

        def play(mark: OnStep | None) -> None:
            assert mark is not None
            for part in unsettled:
                begin()
                for step in part:
                    step()
            number = itertools.count()
            for _ in range(rounds):
                begin()
                for at in range(0, whole, portion):
                    mark(next(number))
                    for step in steps[at : at + portion]:
                        step()
                mark(next(number))
            mhz = self._probe.sm_clock_mhz() if name else None
            if name and mhz is not None:
                self._row.sm_clock_mhz.setdefault(name, []).append(mhz)

        reading, _ = time_region(self._probe.clock(), play, "every")
        per_round = whole // portion + 1
        marks = [reading.marks_ms[i : i + per_round] for i in range(0, len(reading.marks_ms), per_round)]
        return [(after - before) / portion for each in marks for before, after in itertools.pairwise(each)]

    def _turns(
        self,
        products: Callable[[], None],
        begin: Callable[[], None],
        steps: Sequence[Callable[[], object]],
    ) -> None:
        """One sample of the floor and one of ours, per step, in turns of one step each."""

        def play(mark: OnStep | None) -> None:
            assert mark is not None
            begin()
            mark(0)
            for number, step in enumerate(steps):
                products()
                mark(2 * number + 1)
                step()
                mark(2 * number + 2)

        reading, _ = time_region(self._probe.clock(), play, "every")
        spans = [after - before for before, after in itertools.pairwise(reading.marks_ms)]
        self._row.samples.setdefault(FLOOR_TURNS, []).append(sum(spans[::2]) / len(steps))
        self._row.samples.setdefault(OURS_TURNS, []).append(sum(spans[1::2]) / len(steps))


def means(values: Sequence[float], size: int) -> list[float]:
    """Of consecutive values, `size` and more together; all of them together where there are fewer."""
    groups = max(1, len(values) // size)
    edges = [number * len(values) // groups for number in range(groups + 1)]
    return [statistics.fmean(values[begin:end]) for begin, end in itertools.pairwise(edges)]


class Others:
    """Loops of others, which have a turn now and then; one that fails is left out from then on."""

    def __init__(self, row: Row, loops: dict[str, Callable[[], float]]) -> None:
        """Run each once, untimed: that compiles, and fills what is filled once."""
        self._row, self._loops = row, dict(loops)
        self._run()

    def take(self) -> None:
        """A sample of each."""
        for name, sample in self._run().items():
            self._row.samples.setdefault(name, []).append(sample)

    def _run(self) -> dict[str, float]:
        samples = {}
        for name, loop in list(self._loops.items()):
            try:
                samples[name] = loop()
            except Exception as error:
                self._row.missing[name] = reason(error)
                del self._loops[name]
        return samples


def reason(error: Exception) -> str:
    """An error as it stands on the page."""
    return f"{type(error).__name__}: {one_line(error, 1000)}"


def _nothing() -> None: ...
