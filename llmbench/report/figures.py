"""The figure of a verdict: quality over k, quality over the diversity of the text, and time over k.

The second panel is the test: LLaMA's curve over temperature, LLaDA at each k, and the vertical gap between them.

`parity_figure` draws it with Matplotlib, `parity_html` with Plotly as one page that needs no network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmbench.analysis.formats import NAMES, TITLES, number
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.sides import orientation
from llmbench.analysis.parity.verdict import Curve, DeltaTest, MetricParity
from llmbench.metrics.keys import METRICS
from llmbench.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE, CANDIDATE, REFERENCE = "#1f5fa8", "#d1622b", "#7a7a7a"
"""Colours of the autoregressive side, of diffusion, and of what both are read against."""


_STYLES = {"human text": ":", "floor": "-.", "margin": "--"}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric over k: what both libraries draw."""

    title: str
    unit: str
    points: tuple[tuple[int, float], ...]  # (k, value) of the candidate
    baseline: float | None
    references: tuple[tuple[str, float], ...] = ()  # name and height of further flat lines, those that fit
    outside: tuple[str, ...] = ()  # what does not fit, as text
    bars: tuple[tuple[float, float], ...] = ()  # low and high of each point
    labels: tuple[str, ...] = ()  # beside each point
    marked: int | None = None  # where parity may be claimed from
    from_zero: bool = True  # the axis begins at 0

    @property
    def top(self) -> float:
        """The highest value of both sides, bars included."""
        ends = [value for _, value in self.points] + [high for _, high in self.bars]
        return max(ends + ([self.baseline] if self.baseline is not None else []))


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Quality over the diversity of the text: the baseline's curve, and the candidate at each k."""

    title: str
    unit: str
    knots: tuple[tuple[float, float, str], ...]  # entropy, value and temperature of the baseline
    points: tuple[tuple[float, float, str], ...]  # entropy, value and k of the candidate
    references: tuple[float, ...]  # what each point is tested against: the other end of the vertical gap
    bars: tuple[tuple[float, float], ...]  # 95 % of the difference, laid at the reference


def panels(records: Sequence[Record], parity: Parity) -> list[Panel | Plane]:
    """The panels of a verdict: quality over k, the plane of entropy and quality, and time; those that were measured."""
    head, found = parity.head, list[Panel | Plane]()
    if head is not None and (head.curve.values or head.curve.baseline is not None):  # else: no number on either side
        found.append(_quality(head.curve, f"{METRICS[head.curve.metric].better} is better", head))
        if (plane := _plane(parity, head)) is not None:
            found.append(plane)
    if parity.speedups:
        found.append(_time(records, parity, head.reached if head else None))
    return found


def _quality(curve: Curve, unit: str, head: MetricParity) -> Panel:
    """A metric over k, as logged."""
    sides = [value for _, value in curve.values] + ([curve.baseline] if curve.baseline is not None else [])
    named = [
        (name, height) for name, height in (("human text", curve.human), ("floor", curve.floor)) if height is not None
    ]
    low, high = min(sides) / 1.6, max(sides) * 1.6
    return Panel(
        title=TITLES[curve.metric],
        unit=unit,
        points=curve.values,
        baseline=curve.baseline,
        references=tuple((name, height) for name, height in named if low <= height <= high),
        outside=tuple(f"{name}: {number(height)}" for name, height in named if not low <= height <= high),
        marked=head.reached,
    )


def _plane(parity: Parity, head: MetricParity) -> Plane | None:
    """The tests as they are made; None for a metric that is compared without a curve."""
    metric = head.curve.metric
    tests = [test for test in head.tests if test.entropy is not None]
    if not tests or not parity.points:
        return None
    knots = [
        (p.entropy, dict(p.values)[metric], f"{p.temperature:g}") for p in parity.points if metric in dict(p.values)
    ]
    return Plane(
        title=f"{TITLES[metric]} over entropy",
        unit=f"{METRICS[metric].better} is better; nats; to the right is more varied",
        knots=tuple(knots),
        points=tuple((t.entropy, _as_logged(metric, t.value), str(t.steps)) for t in tests if t.entropy is not None),
        references=tuple(_as_logged(metric, test.reference) for test in tests),
        bars=tuple(_bar(metric, test) for test in tests),
    )


def _bar(metric: str, test: DeltaTest) -> tuple[float, float]:
    """The 95 % interval of the difference, laid at the reference."""
    ends = _as_logged(metric, test.reference + test.low), _as_logged(metric, test.reference + test.high)
    return min(ends), max(ends)


def _as_logged(metric: str, value: float) -> float:
    """An oriented value, turned back."""
    return math.exp(-value) if metric == "quality/perplexity" else orientation(metric) * value


def _time(records: Sequence[Record], parity: Parity, marked: int | None) -> Panel:
    own = {r.steps: r.metrics for r in records if r.identity in parity.identities and r.family == "diffusion"}
    bounds = []
    for item in parity.speedups:
        metrics = own.get(item.steps, {})
        low = metrics.get("latency/e2e_ms_ci_low", item.candidate_ms)
        bounds.append((low, metrics.get("latency/e2e_ms_ci_high", item.candidate_ms)))
    return Panel(
        title="end-to-end latency",
        unit="ms per batch; labels: speedup",
        points=tuple((item.steps, item.candidate_ms) for item in parity.speedups),
        baseline=parity.speedups[0].baseline_ms,
        bars=tuple(bounds),
        labels=tuple(f"{number(item.ratio)}x" for item in parity.speedups),
        marked=marked,
    )


def parity_figure(records: Sequence[Record], parity: Parity) -> "Figure":
    """The picture of a verdict; its title is the verdict, its subtitle the conditions."""
    from matplotlib.figure import Figure

    drawn = panels(records, parity)
    figure = Figure(figsize=(max(4.2 * len(drawn), 6.4), 4.5), layout="constrained")
    figure.suptitle(f"{parity.title}\n", fontsize=13, fontweight="bold")
    figure.text(0.5, 0.91, parity.where, ha="center", fontsize=9, color=REFERENCE)
    known: dict[str, Any] = {}
    for place, panel in enumerate(drawn, start=1):
        axes = figure.add_subplot(1, len(drawn), place)
        if isinstance(panel, Plane):
            _draw_plane(axes, panel, _names(parity))
        else:
            _draw(axes, panel, _names(parity))
        known = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) | known
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _names(parity: Parity) -> tuple[str, str]:
    left, right = parity.baseline or "baseline", parity.candidate or "candidate"
    return NAMES.get(left, left), NAMES.get(right, right)


def _draw(axes: "Axes", panel: Panel, names: tuple[str, str]) -> None:
    from matplotlib.patheffects import AbstractPathEffect, withStroke
    from matplotlib.ticker import NullLocator

    steps, values = [k for k, _ in panel.points], [value for _, value in panel.points]
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(k) for k in steps])
    axes.xaxis.set_minor_locator(NullLocator())
    if panel.baseline is not None:
        axes.axhline(panel.baseline, color=BASELINE, linewidth=2, linestyle="--", label=names[0])
    axes.plot(steps, values, color=CANDIDATE, linewidth=2, marker="o", label=names[1])
    if panel.bars:
        spans = [[max(v - low, 0) for v, (low, _) in zip(values, panel.bars, strict=True)]]
        spans.append([max(high - v, 0) for v, (_, high) in zip(values, panel.bars, strict=True)])
        axes.errorbar(steps, values, yerr=spans, fmt="none", ecolor=CANDIDATE, capsize=3)
    if panel.marked is not None:
        axes.axvline(panel.marked, color=CANDIDATE, linewidth=6, alpha=0.15, label="parity")
    for name, height in panel.references:
        axes.axhline(height, color=REFERENCE, linewidth=1.2, linestyle=_STYLES.get(name, ":"), label=name)
    halo: list[AbstractPathEffect] = [withStroke(linewidth=3, foreground="white")]
    for (k, value), label in zip(panel.points, panel.labels, strict=False):
        text = axes.annotate(label, (k, value), (-2, 9), textcoords="offset points", ha="center", fontsize=9, zorder=5)
        text.set_path_effects(halo)
    if panel.from_zero:
        axes.set_ylim(bottom=0, top=1.18 * max([panel.top, *(height for _, height in panel.references)]))
    if panel.outside:
        axes.text(0.98, 0.98, "\n".join(panel.outside), transform=axes.transAxes, ha="right", va="top", fontsize=9)
    axes.margins(x=0.12)
    axes.set_title(f"{panel.title} ({panel.unit})", fontsize=10)
    axes.set_xlabel("diffusion steps k")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_plane(axes: "Axes", plane: Plane, names: tuple[str, str]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    entropies, values = [x for x, _, _ in plane.knots], [y for _, y, _ in plane.knots]
    axes.plot(entropies, values, color=BASELINE, linewidth=2, linestyle="--", marker="o", markersize=4, label=names[0])
    for entropy, value, temperature in plane.knots:
        axes.annotate(
            f"T={temperature}", (entropy, value), (4, -9), textcoords="offset points", fontsize=7, color=BASELINE
        )
    for (entropy, value, k), reference, (low, high) in zip(plane.points, plane.references, plane.bars, strict=True):
        axes.plot([entropy, entropy], [value, reference], color=REFERENCE, linewidth=1, linestyle=":")
        axes.plot([entropy, entropy], [low, high], color=CANDIDATE, linewidth=1.5)
        axes.plot([entropy], [value], color=CANDIDATE, marker="o", linestyle="none")
        axes.annotate(f"k={k}", (entropy, value), (5, 4), textcoords="offset points", fontsize=8, color=CANDIDATE)
    axes.margins(x=0.12, y=0.12)
    axes.set_title(f"{plane.title} ({plane.unit})", fontsize=9)
    axes.set_xlabel("entropy of the text (nats); dotted: the tested gap")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def to_png(figure: "Figure", dots_per_inch: int = 150) -> bytes:
    """The figure as a PNG file."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch)
    return buffer.getvalue()


def parity_html(records: Sequence[Record], parity: Parity) -> str:
    """The same panels as one interactive page, with the library inside: opening it contacts nobody."""
    from plotly.subplots import make_subplots

    drawn = panels(records, parity)
    figure = make_subplots(
        rows=1, cols=max(len(drawn), 1), subplot_titles=[f"{p.title} ({p.unit})" for p in drawn] or None
    )
    for column, panel in enumerate(drawn, start=1):
        if isinstance(panel, Plane):
            for trace in _plane_traces(panel, _names(parity)):
                figure.add_trace(trace, row=1, col=column)
            figure.update_xaxes(title="entropy of the text (nats)", row=1, col=column)
            figure.update_yaxes(type="log", row=1, col=column)
            continue
        for trace in _traces(panel, _names(parity), shown=column == 1):
            figure.add_trace(trace, row=1, col=column)
        ticks = [k for k, _ in panel.points]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=ticks, title="diffusion steps k", row=1, col=column)
    title = f"<b>{parity.title}</b><br><sup>{parity.where}</sup>"
    figure.update_layout(
        title=title, template="plotly_white", margin={"t": 120}, legend={"orientation": "h", "y": -0.2}
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False, "responsive": True})
    return page


def _traces(panel: Panel, names: tuple[str, str], shown: bool) -> list[Any]:
    from plotly import graph_objects

    steps = [k for k, _ in panel.points]

    def flat(name: str, height: float, colour: str, dash: str) -> Any:
        line = {"color": colour, "dash": dash}
        return graph_objects.Scatter(
            x=steps, y=[height] * len(steps), name=name, mode="lines", line=line, legendgroup=name, showlegend=shown
        )

    traces = [flat(name, height, REFERENCE, "dot") for name, height in panel.references]
    if panel.baseline is not None:
        traces.append(flat(names[0], panel.baseline, BASELINE, "dash"))
    values = [value for _, value in panel.points]
    bars: dict[str, Any] = {}
    if panel.bars:
        upper = [high - value for value, (_, high) in zip(values, panel.bars, strict=True)]
        lower = [value - low for value, (low, _) in zip(values, panel.bars, strict=True)]
        bars["error_y"] = {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower}
    if panel.labels:
        bars |= {"text": list(panel.labels), "textposition": "top center"}
    traces.append(
        graph_objects.Scatter(
            x=steps,
            y=values,
            name=names[1],
            mode="lines+markers+text" if panel.labels else "lines+markers",
            line={"color": CANDIDATE},
            legendgroup=names[1],
            showlegend=shown,
            **bars,
        )
    )
    return traces


def _plane_traces(plane: Plane, names: tuple[str, str]) -> list[Any]:
    from plotly import graph_objects

    def line(points: Sequence[tuple[float, float, str]], name: str, colour: str, mark: str, mode: str) -> Any:
        return graph_objects.Scatter(
            x=[x for x, _, _ in points],
            y=[y for _, y, _ in points],
            text=[f"{mark}{label}" for _, _, label in points],
            name=name,
            mode=mode,
            line={"color": colour},
            textposition="top right",
            legendgroup=name,
            showlegend=False,
        )

    gaps: list[tuple[float | None, float | None]] = []
    for (entropy, value, _), reference in zip(plane.points, plane.references, strict=True):
        gaps += [(entropy, value), (entropy, reference), (None, None)]
    gap = graph_objects.Scatter(
        x=[x for x, _ in gaps],
        y=[y for _, y in gaps],
        mode="lines",
        line={"color": REFERENCE, "dash": "dot"},
        showlegend=False,
        hoverinfo="skip",
    )
    return [
        line(plane.knots, names[0], BASELINE, "T=", "lines+markers+text"),
        gap,
        line(plane.points, names[1], CANDIDATE, "k=", "markers+text"),
    ]
