"""What the figures of the one page show: series of points with their intervals, in words, and the runs behind them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from llmbench.analysis.estimates import logged
from llmbench.analysis.formats import TITLES, UNITS, listed, number, signed, with_interval
from llmbench.analysis.parity.grouping import Group
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.sides import Side, as_logged
from llmbench.analysis.parity.verdict import DeltaTest, ExternalServer, MetricParity, Speedup
from llmbench.metrics.keys import METRICS
from llmbench.report.plane import AXIS, plane

Colour = Literal["baseline", "candidate", "reference"]
Form = Literal["points", "marks", "line", "dashes", "band"]
"""Joined points, points alone, a line without points, a dashed one, a filled area (its outline)."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One value of a series."""

    x: float
    y: float
    at: str = ""  # what it was measured at: `k = 8`
    said: str = ""  # the value with its interval, in words; "" where it is no value of its own (an outline)
    runs: tuple[str, ...] = ()  # behind the value
    low: float | None = None  # ends of a bar
    high: float | None = None
    tag: str = ""  # written beside the point


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that are switched on and off together."""

    name: str
    colour: Colour
    form: Form
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure. Without ticks an axis has those of its numbers."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_log: bool = True
    y_log: bool = True
    x_ticks: tuple[tuple[float, str], ...] = ()
    notes: tuple[str, ...] = ()  # what a bar is


def charts(parity: Parity, sides: Group, runs: Mapping[str, str]) -> list[Chart]:
    """The figures of a verdict: the headline over k, over diversity, time and speedup over k, then other metrics.

    Args:
        parity: the verdict.
        sides: of the Records behind it.
        runs: run id or folder by a Record's identity.
    """
    return list(_Maker(parity, sides, runs).charts())


@dataclass(frozen=True)
class _Maker:
    parity: Parity
    sides: Group
    runs: Mapping[str, str]

    def charts(self) -> Iterator[Chart]:
        head, *others = self.parity.metrics or (None,)
        if head is not None and head.curve.values:
            yield self.quality(head)
            yield from self.diversity(head)
        if self.parity.speedups:
            yield self.times()
            yield self.speedups()
        yield from (self.quality(item) for item in others if item is not None and item.curve.values)

    def of(self, side: Side | None) -> tuple[str, ...]:
        """The runs of a side, over its seeds."""
        return tuple(self.runs.get(r.identity, r.identity) for r in side.records) if side else ()

    def at(self, steps: int) -> tuple[str, ...]:
        """The runs of the candidate at one k."""
        return self.of(next((side for side in self.sides.candidates if side.steps == steps), None))

    def around(self, temperature: float | None) -> tuple[str, ...]:
        """The runs of the two points of the baseline's curve between which a temperature lies."""
        known = [side for side in self.sides.curve if side.temperature is not None]
        below = [side for side in known if (side.temperature or 0.0) <= (temperature or 0.0)][-1:]
        above = [side for side in known if (side.temperature or 0.0) >= (temperature or 0.0)][:1]
        return tuple(dict.fromkeys(run for side in (*below, *above) for run in self.of(side)))

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Every k, with the forwards that were made where they are not k."""
        made = dict(self.parity.forwards)
        return tuple((float(k), f"{k} ({made[k]:g})" if k in made else str(k)) for k in self.parity.steps)

    @property
    def steps_label(self) -> str:
        return f"diffusion steps k{' (forwards made)' if self.parity.forwards else ''}"

    def flat(self, name: str, colour: Colour, height: float, said: str, runs: tuple[str, ...]) -> Series:
        """A line over all k."""
        ends = sorted({float(k) for k in self.parity.steps})
        *others, last = [Dot(x=x, y=height) for x in ends]
        last = replace(last, at="every k", said=said, runs=runs, tag=name)
        return Series(name=name, colour=colour, form="dashes", dots=(*others, last))

    def quality(self, item: MetricParity) -> Chart:
        """A metric over k, with what it is tested against."""
        curve, (left, right) = item.curve, self.parity.names
        title, unit = TITLES[curve.metric], UNITS.get(curve.metric.removesuffix("_second"), "")
        dots, matched = [], []
        for k, value in curve.values:
            test = item.test(k)
            low, high = _ends(curve.metric, test) if test else (None, None)
            gap = "" if test is None else f"; difference {_difference(test)} {unit}".rstrip()
            said, own_runs = f"{title} {number(value)}{gap}", self.at(k)
            dots.append(Dot(x=k, y=value, at=f"k = {k}", said=said, runs=own_runs, low=low, high=high))
            if test and test.entropy is not None:
                equal = as_logged(curve.metric, test.reference)
                where = f"k = {k}" if test.temperature is None else f"k = {k}, temperature {test.temperature:.2f}"
                said = f"{title} {number(equal)} at entropy {test.entropy:.2f}"
                matched.append(Dot(x=k, y=equal, at=where, said=said, runs=self.around(test.temperature)))
        series = [Series(name=right, colour="candidate", form="points", dots=tuple(dots))]
        if matched:
            series.append(
                Series(name=f"{left} at equal entropy", colour="baseline", form="points", dots=tuple(matched))
            )
        own = self.of(self.sides.baseline)
        values = [dot.y for dot in (*dots, *matched)]
        if curve.baseline is not None:
            values.append(curve.baseline)
            said = f"{title} {number(curve.baseline)}"
            series.append(self.flat(f"{left} as run", "baseline", curve.baseline, said, own))
        outside = []
        for name, height in (("human text", curve.human), ("floor", curve.floor)):
            if height is not None and min(values) / 1.6 <= height <= max(values) * 1.6:
                series.append(self.flat(name, "reference", height, f"{title} {number(height)}", own))
            elif height is not None:
                outside.append(f"{name.capitalize()}: {number(height)} (not drawn; {listed(own)}).")
        against = f"{left} at equal entropy" if matched else left
        bars = f"Bars: 95 % interval of the difference from {against}, laid at {against}'s value."
        return Chart(
            title=f"{title} over k",
            x_label=self.steps_label,
            y_label=f"{title} ({METRICS[curve.metric].better} is better)",
            series=tuple(series),
            y_log=curve.metric == "quality/perplexity",
            x_ticks=self.ticks,
            notes=(*([bars] if item.tests else []), *outside),
        )

    def diversity(self, item: MetricParity) -> Iterator[Chart]:
        """The test: quality over the diversity of the text."""
        found = plane(self.parity, item)
        if found is None:
            return
        left, right = self.parity.names
        title, curve = TITLES[item.curve.metric], found.curve
        band = [(x, y) for x, y, _ in curve] + [(x, worse) for x, _, worse in reversed(curve)]
        by_temperature = {
            f"{side.temperature:g}": self.of(side) for side in self.sides.curve if side.temperature is not None
        }
        knots = tuple(
            Dot(x=p.entropy, y=p.value, at=f"temperature {p.label}", tag=f"T = {p.label}",
                said=f"{title} {number(p.value)} at entropy {p.entropy:.2f}", runs=by_temperature.get(p.label, ()))
            for p in found.knots
        )  # fmt: skip
        points = tuple(
            Dot(x=gap.point.entropy, y=gap.point.value, at=f"k = {gap.point.label}", tag=f"k = {gap.point.label}",
                said=f"{title} {number(gap.point.value)} at entropy {gap.point.entropy:.2f}; {left} there "
                f"{number(gap.reference)}, with the difference's 95 % interval {number(gap.low)} to {number(gap.high)}",
                runs=self.at(int(gap.point.label)), low=gap.low, high=gap.high)
            for gap in found.gaps
        )  # fmt: skip
        yield Chart(
            title=found.title,
            x_label=AXIS,
            y_label=found.unit,
            series=(
                Series(name="margin", colour="baseline", form="band", dots=tuple(Dot(x=x, y=y) for x, y in band)),
                Series(name=f"{left}'s curve", colour="baseline", form="dashes",
                       dots=tuple(Dot(x=x, y=y) for x, y, _ in curve)),
                Series(name=left, colour="baseline", form="marks", dots=knots),
                Series(name=right, colour="candidate", form="marks", dots=points),
            ),
            x_log=False,
            y_log=found.log,
            notes=(_PLANE_NOTE,),
        )  # fmt: skip

    def times(self) -> Chart:
        """L_e2e of both sides over k."""
        left, right = self.parity.names
        dots = []
        for item in self.parity.speedups:
            own = [r for side in self.sides.candidates if side.steps == item.steps for r in side.records]
            found = logged(own[0], "latency/e2e_ms") if len(own) == 1 else None
            low, high = (found.low, found.high) if found else (None, None)
            said = with_interval(item.candidate_ms, low, high, " ms")
            own_runs = self.at(item.steps)
            dots.append(
                Dot(
                    x=item.steps,
                    y=item.candidate_ms,
                    at=f"k = {item.steps}",
                    said=said,
                    runs=own_runs,
                    low=low,
                    high=high,
                )
            )
        chosen = self.parity.implementations[:1]
        several = len(self.parity.implementations) > 1 and chosen[0].name is not None
        name = str(chosen[0].name) if several else left
        height = self.parity.speedups[0].baseline_ms
        again = tuple(self.runs.get(r.identity, r.identity) for r in self.sides.retimed)
        said = f"{number(height)} ms{', mean of the timings before and after' if again else ''}"
        return Chart(
            title="end-to-end latency over k",
            x_label=self.steps_label,
            y_label="ms per batch (lower is better)",
            series=(
                Series(name=right, colour="candidate", form="points", dots=tuple(dots)),
                self.flat(name, "baseline", height, said, (*self.of(self.sides.baseline), *again)),
            ),
            x_ticks=self.ticks,
            notes=("Bars: 95 % interval of the median over repeats.",),
        )

    def speedups(self) -> Chart:
        """How many times as fast the candidate is."""
        left, right = self.parity.names
        own = self.of(self.sides.baseline)

        def ratio(item: Speedup, runs: tuple[str, ...]) -> Dot:
            said = with_interval(item.ratio, item.low, item.high, "x")
            return Dot(
                x=item.steps, y=item.ratio, at=f"k = {item.steps}", said=said, runs=runs, low=item.low, high=item.high
            )

        def server(item: ExternalServer) -> Series:
            name = f"{'of' if item.candidate else 'against'} {item.label}, wall clock"
            found = []
            for speed in item.speedups:
                sides = [side for side in self.sides.external_servers if side.records[0].side == item.label]
                served = [run for side in sides if side.steps in (None, speed.steps) for run in self.of(side)]
                found.append(ratio(speed, (*served, *(own if item.candidate else self.at(speed.steps)))))
            return Series(name=name, colour="reference", form="points", dots=tuple(found))

        dots = tuple(ratio(item, (*self.at(item.steps), *own)) for item in self.parity.speedups)
        return Chart(
            title=f"speedup over k, against {left}",
            x_label=self.steps_label,
            y_label="times as fast (above 1: faster)",
            series=(
                Series(name=right, colour="candidate", form="points", dots=dots),
                *(server(item) for item in self.parity.external_servers if item.speedups),
                self.flat("equal speed", "reference", 1.0, "", ()),
            ),
            x_ticks=self.ticks,
            notes=("Bars: 95 % interval, by bootstrap over batches, then repeats.",),
        )


def _ends(metric: str, test: DeltaTest) -> tuple[float, float]:
    """The interval of a difference, laid at its reference."""
    ends = as_logged(metric, test.reference + test.low), as_logged(metric, test.reference + test.high)
    return min(ends), max(ends)


def _difference(test: DeltaTest) -> str:
    return f"{signed(test.delta)} [95 % {signed(test.low)} to {signed(test.high)}]"


_PLANE_NOTE = (
    "Bars: 95 % interval of the difference, laid at the curve. What is tested is the vertical distance of a point from "
    "the curve; a point inside the margin's area is not worse by more than the margin."
)
