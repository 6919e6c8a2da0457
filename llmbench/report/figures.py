"""The figure of a verdict: quality over k, quality over the diversity of the text, and time over k.

The second panel is the test (`plane`). `parity_figure` draws with Matplotlib, `parity_html` with Plotly as one page
that needs no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmbench.analysis.formats import TITLES, number
from llmbench.analysis.parity.grouping import is_external_server
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Curve, MetricParity
from llmbench.metrics.keys import METRICS
from llmbench.record import Record
from llmbench.report.axes import SMALL, logarithmic
from llmbench.report.colours import BASELINE, CANDIDATE, REFERENCE
from llmbench.report.plane import AXIS, Plane, draw_plane, place_labels, plane, plane_traces, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = {"human text": ":", "floor": "-."}


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
    baseline_name: str = ""  # what it is called here; "" for that of the side
    forwards: tuple[tuple[int, float], ...] = ()  # (k, forwards made), where they are not k
    log: bool = False  # whether heights are on a logarithmic axis
    note: str = ""  # what a bar is

    @property
    def ticks(self) -> list[str]:
        """K of each point, with the forwards behind it."""
        known = dict(self.forwards)
        return [f"{k} ({known[k]:g})" if k in known else str(k) for k, _ in self.points]

    @property
    def axis(self) -> str:
        """What the ticks say."""
        return f"diffusion steps k{' (forwards made)' if self.forwards else ''}"

    @property
    def top(self) -> float:
        """The highest value of both sides, bars included."""
        ends = [value for _, value in self.points] + [high for _, high in self.bars]
        return max(ends + ([self.baseline] if self.baseline is not None else []))


def panels(records: Sequence[Record], parity: Parity) -> list[Panel | Plane]:
    """The panels of a verdict: quality over k, the plane of entropy and quality, and time; those that were measured."""
    head, found = parity.head, list[Panel | Plane]()
    if head is not None and (head.curve.values or head.curve.baseline is not None):  # else: no number on either side
        found.append(_quality(head.curve, head))
        if (tests := plane(parity, head)) is not None:
            found.append(tests)
    if parity.speedups:
        found.append(_time(records, parity, head.reached if head else None))
    return [replace(item, forwards=parity.forwards) if isinstance(item, Panel) else item for item in found]


def _quality(curve: Curve, head: MetricParity) -> Panel:
    """A metric over k, as logged."""
    sides = [value for _, value in curve.values] + ([curve.baseline] if curve.baseline is not None else [])
    named = [
        (name, height) for name, height in (("human text", curve.human), ("floor", curve.floor)) if height is not None
    ]
    low, high = min(sides) / 1.6, max(sides) * 1.6
    return Panel(
        title=f"{TITLES[curve.metric]} over k",
        unit=f"{TITLES[curve.metric]} ({METRICS[curve.metric].better} is better)",
        points=curve.values,
        baseline=curve.baseline,
        references=tuple((name, height) for name, height in named if low <= height <= high),
        outside=tuple(f"{name}: {number(height)}" for name, height in named if not low <= height <= high),
        marked=head.reached,
    )


def _time(records: Sequence[Record], parity: Parity, marked: int | None) -> Panel:
    sides = [r for r in records if r.identity in parity.identities and not is_external_server(r)]
    own = {r.steps: r.metrics for r in sides if r.family == "diffusion"}
    bounds = []
    for item in parity.speedups:
        metrics = own.get(item.steps, {})
        low = metrics.get("latency/e2e_ms_ci_low", item.candidate_ms)
        bounds.append((low, metrics.get("latency/e2e_ms_ci_high", item.candidate_ms)))
    return Panel(
        title="end-to-end latency",
        unit="ms per batch (labels: speedup)",
        log=True,
        note="bars: 95 % interval of L_e2e",
        points=tuple((item.steps, item.candidate_ms) for item in parity.speedups),
        baseline=parity.speedups[0].baseline_ms,
        bars=tuple(bounds),
        labels=tuple(f"{number(item.ratio)}x" for item in parity.speedups),
        marked=marked,
        baseline_name=_timed_baseline(parity),
    )


def _timed_baseline(parity: Parity) -> str:
    """Which implementation was the fastest, where there was a choice."""
    named = [item.name for item in parity.implementations[:1] if item.name is not None]
    return str(named[0]) if named and len(parity.implementations) > 1 else ""


def parity_figure(records: Sequence[Record], parity: Parity, width: float | None = None) -> "Figure":
    """The picture of a verdict; its title is the verdict, its subtitle the conditions.

    Args:
        records: that the verdict was made from.
        parity: the verdict.
        width: in inches, for print: without title and subtitle, which a caption holds there.
    """
    from matplotlib.figure import Figure

    drawn = panels(records, parity)
    widths = _widths(drawn)
    size = (max(4.2 * sum(widths), 6.4), 4.5) if width is None else (width, 0.4 * width)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(1, max(len(drawn), 1), width_ratios=widths or None)
    if width is None:
        figure.suptitle(f"{parity.title}\n", fontsize=13, fontweight="bold")
        figure.text(0.5, 0.91, parity.where, ha="center", fontsize=9, color=REFERENCE)
    known: dict[str, Any] = {}
    for place, panel in enumerate(drawn):
        axes = figure.add_subplot(grid[place])
        if isinstance(panel, Plane):
            draw_plane(axes, panel, parity.names)
        else:
            _draw(axes, panel, parity.names)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=7, frameon=False)
    figure.draw_without_rendering()  # lays the panels out: labels are placed by their size
    figure.set_layout_engine("none")
    for axes, panel in zip(figure.axes, drawn, strict=True):
        if isinstance(panel, Plane):
            place_labels(axes, panel)
    return figure


def _widths(drawn: Sequence[Panel | Plane]) -> list[float]:
    """The test has more to show."""
    return [1.5 if isinstance(panel, Plane) else 1.0 for panel in drawn]


def _draw(axes: "Axes", panel: Panel, names: tuple[str, str]) -> None:
    from matplotlib import rcParams
    from matplotlib.patheffects import AbstractPathEffect, withStroke
    from matplotlib.ticker import NullLocator

    steps, values = [k for k, _ in panel.points], [value for _, value in panel.points]
    wide = rcParams["lines.linewidth"]
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, panel.ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    if panel.baseline is not None:
        axes.axhline(panel.baseline, color=BASELINE, linestyle="--", label=panel.baseline_name or names[0])
    axes.plot(steps, values, color=CANDIDATE, marker="o", label=names[1])
    if panel.bars:
        spans = [[max(v - low, 0) for v, (low, _) in zip(values, panel.bars, strict=True)]]
        spans.append([max(high - v, 0) for v, (_, high) in zip(values, panel.bars, strict=True)])
        axes.errorbar(steps, values, yerr=spans, fmt="none", ecolor=CANDIDATE, capsize=3)
    if panel.marked is not None:
        axes.axvline(panel.marked, color=CANDIDATE, linewidth=6, alpha=0.15, label="parity")
    for name, height in panel.references:
        axes.axhline(height, color=REFERENCE, linewidth=0.7 * wide, linestyle=_STYLES.get(name, ":"), label=name)
    halo: list[AbstractPathEffect] = [withStroke(linewidth=3, foreground="white")]
    for (k, value), label in zip(panel.points, panel.labels, strict=False):
        text = axes.annotate(
            label, (k, value), (-2, 6), textcoords="offset points", ha="center", fontsize=SMALL, zorder=5
        )
        text.set_path_effects(halo)
    if panel.log:
        logarithmic(axes, "y", [*values, *(end for bar in panel.bars for end in bar), panel.baseline or values[0]])
        axes.margins(y=0.15)
    else:
        axes.set_ylim(bottom=0, top=1.18 * max([panel.top, *(height for _, height in panel.references)]))
    if panel.outside:
        axes.text(0.98, 0.98, "\n".join(panel.outside), transform=axes.transAxes, ha="right", va="top", fontsize=SMALL)
    axes.margins(x=0.16)
    axes.set_title(titled(panel), fontsize=SMALL)
    axes.set_xlabel(panel.axis)
    axes.set_ylabel(panel.unit)
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
        rows=1,
        cols=max(len(drawn), 1),
        column_widths=_widths(drawn) or None,
        subplot_titles=[titled(panel).replace("\n", "<br>") for panel in drawn] or None,
    )
    for column, panel in enumerate(drawn, start=1):
        figure.update_yaxes(title=panel.unit, row=1, col=column)
        if isinstance(panel, Plane):
            figure.add_traces(plane_traces(panel, parity.names), rows=1, cols=column)
            figure.update_xaxes(title=AXIS, row=1, col=column)
            if panel.log:
                ticks = panel.ticks
                figure.update_yaxes(
                    type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], row=1, col=column
                )
            continue
        figure.add_traces(_traces(panel, parity.names, shown=column == 1), rows=1, cols=column)
        steps = [k for k, _ in panel.points]
        figure.update_xaxes(type="log", tickvals=steps, ticktext=panel.ticks, title=panel.axis, row=1, col=column)
        if panel.log:
            figure.update_yaxes(type="log", dtick="D2", row=1, col=column)
    title = f"<b>{parity.title}</b><br><sup>{parity.where}</sup>"
    figure.update_layout(
        title=title, template="plotly_white", margin={"t": 120}, legend={"orientation": "h", "y": -0.2}
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False, "responsive": True})
    return page


def _traces(panel: Panel, names: tuple[str, str], shown: bool) -> list[Any]:
    from plotly import graph_objects

    steps = [k for k, _ in panel.points]

    def flat(name: str, height: float, colour: str, dash: str, listed: bool) -> Any:
        line = {"color": colour, "dash": dash}
        return graph_objects.Scatter(
            x=steps, y=[height] * len(steps), name=name, mode="lines", line=line, legendgroup=name, showlegend=listed
        )

    traces = [flat(name, height, REFERENCE, "dot", shown) for name, height in panel.references]
    if panel.baseline is not None:
        own = panel.baseline_name
        traces.append(flat(own or names[0], panel.baseline, BASELINE, "dash", shown or bool(own)))
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
