"""The panel of the test: quality over the diversity of the text.

LLaMA's curve over temperature, LLaDA at each k, and the vertical gap between them that is tested. Left of the curve the
gap goes to LLaMA's least varied text, right of it to its most varied.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmbench.analysis.formats import TITLES
from llmbench.analysis.parity.sides import as_logged, oriented
from llmbench.analysis.parity.verdict import DeltaTest, MetricParity, Verdict
from llmbench.metrics.keys import METRICS
from llmbench.report.axes import SMALL
from llmbench.report.colours import BASELINE, CANDIDATE, REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

AXIS = "entropy of the text (nats; right is more varied)"

_TICKS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
"""First digits on a logarithmic axis."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A text's diversity and quality, as logged, with its name."""

    entropy: float
    value: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What is tested at one k."""

    point: Point
    reference: float  # the baseline at equal entropy: the other end
    low: float  # 95 % interval of the difference, laid at the reference
    high: float


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The baseline's curve, and the candidate at each k."""

    title: str
    unit: str
    log: bool
    knots: tuple[Point, ...]
    margin: tuple[float, ...]  # at each knot, the value that is worse by the margin
    gaps: tuple[Gap, ...]
    note: str = "bars: 95 % interval of the gap to the curve"

    @property
    def curve(self) -> list[tuple[float, float, float]]:
        """Entropy, value and margin's value of the curve, drawn on flat to the points left and right of it."""
        ends = [gap.point.entropy for gap in self.gaps]
        made = [(p.entropy, p.value, worse) for p, worse in zip(self.knots, self.margin, strict=True)]
        left, right = min(ends), max(ends)
        return [
            *([(left, *made[0][1:])] if left < made[0][0] else []),
            *made,
            *([(right, *made[-1][1:])] if right > made[-1][0] else []),
        ]

    @property
    def ticks(self) -> list[float]:
        """Heights with a label on a logarithmic axis; neighbours are not too close to each other."""
        values = [v for _, *own in self.curve for v in own] + [v for g in self.gaps for v in (g.low, g.high)]
        low, high = math.log(min(values)), math.log(max(values))
        found: list[float] = []
        for power in range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1):
            for digit in _TICKS:
                at = math.log(digit * 10.0**power)
                if low <= at <= high and (not found or at - math.log(found[-1]) > (high - low) / 10):
                    found.append(digit * 10.0**power)
        return found


def plane(verdict: Verdict, head: MetricParity) -> Plane | None:
    """The tests as they are made; None for a metric that is compared without a curve."""
    metric = head.curve.metric
    knots = [
        Point(entropy=p.entropy, value=dict(p.values)[metric], label=f"{p.temperature:g}")
        for p in verdict.points
        if p.kept and metric in dict(p.values)
    ]
    gaps = [_gap(metric, test, test.entropy) for test in head.tests if test.entropy is not None]
    if not gaps or not knots:
        return None
    return Plane(
        title=f"{TITLES[metric]} at equal entropy: the test",
        unit=f"{TITLES[metric]} ({METRICS[metric].better} is better)",
        log=metric == "quality/perplexity",
        knots=tuple(knots),
        margin=tuple(as_logged(metric, oriented(metric, p.value) - head.margin) for p in knots),
        gaps=tuple(gaps),
    )


def _gap(metric: str, test: DeltaTest, entropy: float) -> Gap:
    ends = as_logged(metric, test.reference + test.low), as_logged(metric, test.reference + test.high)
    return Gap(
        point=Point(entropy=entropy, value=as_logged(metric, test.value), label=str(test.steps)),
        reference=as_logged(metric, test.reference),
        low=min(ends),
        high=max(ends),
    )


class Titled(Protocol):
    """A panel."""

    @property
    def title(self) -> str:
        """What it shows."""

    @property
    def note(self) -> str:
        """What a bar is."""


def titled(panel: Titled) -> str:
    """What stands above a panel."""
    return "\n".join(filter(None, [panel.title, panel.note]))


def draw_plane(axes: "Axes", plane: Plane, names: tuple[str, str]) -> None:
    """With Matplotlib; `place_labels` writes the temperatures and k when the layout is known."""
    from matplotlib import rcParams
    from matplotlib.ticker import NullLocator

    if plane.log:
        axes.set_yscale("log")
        axes.set_yticks(plane.ticks, [f"{tick:g}" for tick in plane.ticks])
        axes.yaxis.set_minor_locator(NullLocator())
    curve = plane.curve
    entropies, values, worse = zip(*curve, strict=True)
    axes.fill_between(entropies, values, worse, color=BASELINE, alpha=0.15, linewidth=0, label="margin")
    axes.plot(entropies, values, color=BASELINE, linestyle="--", label=names[0])
    axes.plot(
        [p.entropy for p in plane.knots],
        [p.value for p in plane.knots],
        "o",
        color=BASELINE,
        markersize=0.7 * rcParams["lines.markersize"],
    )
    for gap in plane.gaps:
        at = [gap.point.entropy, gap.point.entropy]
        axes.plot(at, [gap.point.value, gap.reference], color=REFERENCE, linestyle=":", label="gap")
        spans = [[max(gap.point.value - gap.low, 0)], [max(gap.high - gap.point.value, 0)]]
        axes.errorbar(*_xy(gap.point), yerr=spans, fmt="o", color=CANDIDATE, capsize=3)
    axes.margins(x=0.17, y=0.18)
    axes.set_title(titled(plane), fontsize=SMALL)
    axes.set_xlabel(AXIS)
    axes.set_ylabel(plane.unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _xy(point: Point) -> tuple[list[float], list[float]]:
    return [point.entropy], [point.value]


_OFFSETS: tuple[tuple[int, int], ...] = ((0, 9), (-7, 4), (7, -4), (0, -9), (-7, -4), (7, 4))
"""Where the label of a k may stand beside its point, in points; the first that is free is taken."""


def place_labels(axes: "Axes", plane: Plane) -> None:
    """Every k, and the temperatures for which there is room, none over another, over the curve or over a gap.

    Needs a figure that was laid out.
    """
    from matplotlib.transforms import Bbox

    # k first, then the ends of the curve, then what is between them
    knots = [plane.knots[0], plane.knots[-1], *plane.knots[1:-1]] if len(plane.knots) > 1 else list(plane.knots)
    wanted = [(gap.point, f"k = {gap.point.label}", CANDIDATE, SMALL, _OFFSETS) for gap in plane.gaps]
    wanted += [(p, f"T = {p.label}", BASELINE, SMALL, ((0, -9), (7, -4))) for p in knots]
    taken = []
    for gap in plane.gaps:
        ends = gap.low, gap.high, gap.reference
        (x, low), (_, high) = axes.transData.transform([(gap.point.entropy, end) for end in (min(ends), max(ends))])
        taken.append(Bbox.from_extents(x - 4, low, x + 4, high))
    dots = axes.transData.transform([(p.entropy, p.value) for p in (*plane.knots, *(g.point for g in plane.gaps))])
    taken += [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    line = axes.transData.transform([(entropy, value) for entropy, value, _ in plane.curve])
    for point, text, colour, size, offsets in wanted:
        for offset in offsets:
            made = _label(axes, point, text, colour, size, offset)
            box = made.get_window_extent()
            if not box.count_overlaps(taken) and not _crosses(box, line):
                taken.append(box)
                break
            made.remove()
        else:
            if colour == CANDIDATE:  # no k is left out
                taken.append(_label(axes, point, text, colour, size, offsets[0]).get_window_extent())


def _label(axes: "Axes", point: Point, text: str, colour: str, size: str, offset: tuple[int, int]) -> "Annotation":
    right, up = offset
    sides = {-1: "right", 0: "center", 1: "left"}, {-1: "top", 0: "center", 1: "bottom"}
    return axes.annotate(
        text,
        (point.entropy, point.value),
        offset,
        textcoords="offset points",
        ha=sides[0][(right > 0) - (right < 0)],
        va=sides[1][(up > 0) - (up < 0)],
        fontsize=size,
        color=colour,
    )


def _crosses(box: Any, line: Any) -> bool:
    """Whether a polyline goes through a box."""
    from matplotlib.path import Path

    return bool(Path(line).intersects_bbox(box, filled=False))


def plane_traces(plane: Plane, names: tuple[str, str]) -> list[Any]:
    """With Plotly."""
    from plotly import graph_objects

    entropies, values, worse = zip(*plane.curve, strict=True)
    band = graph_objects.Scatter(
        x=[*entropies, *reversed(entropies)],
        y=[*values, *reversed(worse)],
        name="margin",
        fill="toself",
        fillcolor="rgba(31, 95, 168, 0.15)",
        line={"width": 0},
        hoverinfo="skip",
    )
    line = graph_objects.Scatter(
        x=entropies,
        y=values,
        mode="lines",
        line={"color": BASELINE, "dash": "dash"},
        showlegend=False,
        hoverinfo="skip",
    )
    flat = [(g.point.entropy, y) for g in plane.gaps for y in (g.point.value, g.reference, None)]
    gap = graph_objects.Scatter(
        x=[x for x, _ in flat],
        y=[y for _, y in flat],
        name="gap",
        mode="lines",
        line={"color": REFERENCE, "dash": "dot"},
        hoverinfo="skip",
    )
    points = [gap.point for gap in plane.gaps]
    upper, lower = [g.high - g.point.value for g in plane.gaps], [g.point.value - g.low for g in plane.gaps]
    bars = {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower}
    return [
        band,
        line,
        gap,
        _markers(plane.knots, names[0], BASELINE, "T", "bottom right"),
        _markers(points, names[1], CANDIDATE, "k", "top center", error_y=bars),
    ]


def _markers(points: Sequence[Point], name: str, colour: str, what: str, place: str, **more: Any) -> Any:
    from plotly import graph_objects

    return graph_objects.Scatter(
        x=[p.entropy for p in points],
        y=[p.value for p in points],
        text=[f"{what} = {p.label}" for p in points],
        name=name,
        mode="markers+text",
        marker={"color": colour},
        textfont={"color": colour},
        textposition=place,
        legendgroup=name,
        showlegend=False,
        **more,
    )
