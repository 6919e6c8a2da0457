"""The figure of a verdict: quality, entropy and time over k, side by side, with LLaMA as a flat line.

`parity_figure` draws it with Matplotlib, `parity_html` with Plotly as one page that needs no network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmbench.analysis.parity.paired_sums import orientation
from llmbench.analysis.parity.sentences import NAMES, TITLES, number
from llmbench.analysis.parity.verdict import Curve, DeltaTest, Parity
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


def panels(records: Sequence[Record], parity: Parity) -> list[Panel]:
    """The panels of a verdict: quality and entropy where they were measured, and time."""
    head = next((item for item in parity.metrics if item.curve.metric == parity.headline), None)
    found = []
    if head is not None and (head.curve.values or head.curve.baseline is not None):  # else: no number on either side
        better = METRICS[head.curve.metric].better
        found.append(_quality(head.curve, f"{better} is better", head.reached, head.tests, head.margin))
    entropy = parity.curve("quality/entropy")
    if entropy is not None:
        plain = replace(entropy, floor=None)  # shuffled text has the entropy of its source: no floor for diversity
        tests, margin = (head.diversity, head.diversity_margin) if head else ((), None)
        panel = _quality(plain, "nats; lower is less diverse", head.reached if head else None, tests, margin)
        found.append(replace(panel, from_zero=False))  # the gap is what is to be seen
    if parity.speedups:
        found.append(_time(records, parity, head.reached if head else None))
    return found


def _quality(curve: Curve, unit: str, marked: int | None, tests: Sequence[DeltaTest], margin: float | None) -> Panel:
    """A metric over k. Bars: the paired bootstrap of f(k) - Q, laid at Q: off the line is a difference."""

    def value(delta: float) -> float:
        assert curve.baseline is not None
        if curve.metric == "quality/perplexity":
            return curve.baseline * math.exp(-delta)
        return curve.baseline + orientation(curve.metric) * delta

    drawn = {test.steps: sorted((value(test.drawn_low), value(test.drawn_high))) for test in tests}
    sides = [value for _, value in curve.values] + ([curve.baseline] if curve.baseline is not None else [])
    named = [
        (name, height) for name, height in (("human text", curve.human), ("floor", curve.floor)) if height is not None
    ]
    if margin and curve.baseline is not None:
        named.append(("margin", value(-margin)))
    low, high = min(sides) / 1.6, max(sides) * 1.6
    return Panel(
        title=TITLES[curve.metric],
        unit=unit,
        points=curve.values,
        baseline=curve.baseline,
        references=tuple((name, height) for name, height in named if low <= height <= high),
        outside=tuple(f"{name}: {number(height)}" for name, height in named if not low <= height <= high),
        bars=tuple((drawn[k][0], drawn[k][1]) for k, _ in curve.values) if len(drawn) == len(curve.values) else (),
        marked=marked,
    )


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
