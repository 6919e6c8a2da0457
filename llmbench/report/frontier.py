"""Table and figure of the frontier: quality against latency for every setting of both sides, with entropy.

One row per metric, two panels that share its axis: on the left against L_e2e, on the right against entropy. Settings on
the frontier are numbered and listed; with few settings all are. A setting with a dashed ring is beaten in time and
quality, but only by text that is less varied.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmbench.analysis.estimates import Estimate
from llmbench.analysis.formats import NAMES, TITLES, number
from llmbench.analysis.frontier import Front, Frontier, Setting
from llmbench.metrics.keys import METRICS
from llmbench.record import Record
from llmbench.report.axes import SMALL, by_number, logarithmic, styles_of
from llmbench.report.cells import in_order, interval, provenance
from llmbench.report.colours import REFERENCE
from llmbench.report.layout import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS = "bars: 95 % intervals of each setting, of time over repeats, of quality over prompts"

FEW = 8
"""So many settings are all numbered."""

_LISTED = 14
"""Lines of the list beside a row."""

_DRAWN = ("quality/perplexity", "quality/bertscore_f1", "quality/accuracy")
"""Bits per byte is perplexity on another scale: in the table."""


# ----------------------------------------------------------------------------------------------------------------
# The table


def frontier_tables(
    records: Sequence[Record], found: Sequence[Frontier], command: str = "", source: str = ""
) -> list[Table]:
    """For each frontier the settings that nothing dominates in some metric, fastest first.

    Args:
        records: of a sweep.
        found: its frontiers.
        command: what was typed.
        source: which sweep it is, where a reader could not know.
    """
    return [
        _table([r for r in in_order(records) if r.identity in item.identities], item, command, source) for item in found
    ]


def _table(records: Sequence[Record], item: Frontier, command: str, source: str) -> Table:
    kept = sorted({place for front in item.fronts for place in (*front.on, *front.varied)})
    header = ["", "L_e2e ms [95 %]"]
    header += [f"{TITLES[front.metric]} [95 %]" for front in item.fronts]
    header += ["entropy [95 %]", "on the frontier of"]
    rows = [
        (
            item.settings[place].label,
            interval(item.settings[place].ms),
            *(interval(item.settings[place].qualities.get(front.metric)) for front in item.fronts),
            interval(item.settings[place].entropy),
            _fronts(place, item.fronts),
        )
        for place in kept
    ]
    notes = [
        f"{len(kept)} of {len(item.settings)} settings; {item.where}.",
        "On the frontier: no other setting is at least as fast and as good, and better in one; with *: some are, but "
        "only with text of lower entropy. Intervals are each setting's own; for a difference, read the parity verdict.",
    ]
    notes += [f"Left out: {', '.join(item.left_out)}."] if item.left_out else []
    notes += [f"{source}."] if source else []
    return Table(
        title="Settings that nothing dominates",
        header=tuple(header),
        rows=tuple(rows),
        notes=tuple(notes),
        provenance=provenance(records, command),
    )


def _fronts(place: int, fronts: Sequence[Front]) -> str:
    said = []
    for front in fronts:
        if place in front.on:
            said.append(TITLES[front.metric])
        elif place in front.varied:
            said.append(f"{TITLES[front.metric]}*")
    return ", ".join(said)


# ----------------------------------------------------------------------------------------------------------------
# The figure


def frontier_figure(item: Frontier, source: str = "") -> "Figure":
    """Draw one frontier; see the module docstring. `source`: which sweep it is, where a reader could not know."""
    from matplotlib.figure import Figure

    fronts = [front for front in item.fronts if front.metric in _DRAWN] or list(item.fronts[:1])
    varied = any(setting.entropy is not None for setting in item.settings)
    figure = Figure(figsize=(15.0 if varied else 11.0, 4.7 * len(fronts) + 0.7), layout="constrained")
    figure.suptitle("Quality against latency, every setting", fontsize=13, fontweight="bold")
    widths = [1.25, 0.9, 1.1] if varied else [1.25, 1.1]
    grid = figure.add_gridspec(len(fronts), len(widths), width_ratios=widths)
    styles = styles_of(item.settings)
    for row, front in enumerate(fronts):
        left = figure.add_subplot(grid[row, 0])
        numbers = _numbers(front, item.settings)
        _against_time(left, front, item.settings, styles, numbers)
        if varied:
            right = figure.add_subplot(grid[row, 1], sharey=left)
            _against_entropy(right, front, item.settings, styles, numbers)
        _list(figure.add_subplot(grid[row, -1]), front, item.settings, numbers)
        if row == 0:
            left.set_title("\n".join(filter(None, [source, item.where])), fontsize=9, color=REFERENCE, loc="left")
    figure.supxlabel(_BARS, fontsize=8, color=REFERENCE)
    entries = _legend(item.settings, styles, fronts)
    figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 6), frameon=False, fontsize=9)
    return figure


def _numbers(front: Front, settings: Sequence[Setting]) -> dict[int, int]:
    """Which settings are numbered: those of the frontier, or all where they are few."""
    known = [place for place, item in enumerate(settings) if front.metric in item.qualities]
    chosen = known if len(known) <= FEW else front.on
    return {place: i for i, place in enumerate(chosen, start=1)}


def _against_time(
    axes: "Axes", front: Front, settings: Sequence[Setting], styles: Any, numbers: dict[int, int]
) -> None:
    points = {i: (s.ms, s.qualities[front.metric]) for i, s in enumerate(settings) if front.metric in s.qualities}
    _points(axes, front, settings, points, styles, numbers)
    stair = sorted((points[i][0].value, points[i][1].value) for i in front.on)
    axes.step(*zip(*stair, strict=True), where="post", color="#333333", linewidth=1.2, alpha=0.7, zorder=2)
    axes.set_xlabel("end-to-end latency (ms per batch)")
    better = METRICS[front.metric].better
    axes.set_ylabel(f"{TITLES[front.metric]} ({better} is better)")
    logarithmic(axes, "x", _ends([pair[0] for pair in points.values()]))
    if front.metric == "quality/perplexity":
        logarithmic(axes, "y", _ends([pair[1] for pair in points.values()]))


def _against_entropy(
    axes: "Axes", front: Front, settings: Sequence[Setting], styles: Any, numbers: dict[int, int]
) -> None:
    points = {
        i: (s.entropy, s.qualities[front.metric])
        for i, s in enumerate(settings)
        if front.metric in s.qualities and s.entropy is not None
    }
    _points(axes, front, settings, points, styles, numbers)
    axes.set_xlabel("entropy (nats; further left is less varied)")
    axes.tick_params(labelsize=SMALL, labelleft=False)


def _points(
    axes: "Axes",
    front: Front,
    settings: Sequence[Setting],
    points: dict[int, tuple[Estimate, Estimate]],
    styles: dict[str, tuple[str, Any]],
    numbers: dict[int, int],
) -> None:
    """Settings with their intervals; lines join the k of one curve."""
    crowded = len(points) > FEW
    for curve, (_, colour) in styles.items():
        own = sorted((settings[i].steps or 0, i) for i in points if settings[i].curve == curve)
        line = [(points[i][0].value, points[i][1].value) for _, i in own]
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), color=colour, linewidth=1, alpha=0.45, zorder=1)
    for i, (x, y) in points.items():
        marker, colour = styles[settings[i].curve]
        held, beaten_by_dull = i in front.on, i in front.varied and i not in front.on
        faint = 0.35 if crowded and not held else 0.8
        axes.errorbar(
            x.value,
            y.value,
            xerr=_bars(x),
            yerr=_bars(y),
            fmt="none",
            ecolor=colour,
            alpha=faint,
            linewidth=1,
            zorder=2,
        )
        axes.scatter(
            x.value,
            y.value,
            s=150 if i in numbers else 34,
            marker=marker,
            color=[colour],
            edgecolors="black" if held or beaten_by_dull else "white",
            linewidths=1.3 if held else 0.9 if beaten_by_dull else 0.5,
            linestyle="--" if beaten_by_dull else "-",
            zorder=5 if held else 4 if i in numbers else 3,
        )
        if i in numbers:
            ink = "white" if sum(colour) < 1.7 else "black"
            axes.text(
                x.value, y.value, str(numbers[i]), ha="center", va="center_baseline", fontsize=7, color=ink, zorder=6
            )
    axes.margins(x=0.08, y=0.1)
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def _bars(estimate: Estimate) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return [[max(estimate.value - estimate.low, 0.0)], [max(estimate.high - estimate.value, 0.0)]]


def _ends(estimates: Sequence[Estimate]) -> list[float]:
    """Values and ends of intervals."""
    return [end for e in estimates for end in (e.value, e.low, e.high) if end]


def _list(axes: "Axes", front: Front, settings: Sequence[Setting], numbers: dict[int, int]) -> None:
    """The numbered settings, beside the panels."""
    axes.axis("off")
    axes.text(0, 1, _heading(front, numbers), fontsize=9, fontweight="bold", va="top", transform=axes.transAxes)
    listed = [place for place in numbers if place in front.on] + [p for p in numbers if p not in front.on]
    lines = []
    for place in listed[:_LISTED]:
        item = settings[place]
        varied = f", H {number(item.entropy.value)}" if item.entropy is not None else ""
        values = f"{number(item.ms.value)} ms, {number(item.qualities[front.metric].value)}{varied}"
        lines.append((f"{numbers[place]}  {item.label}", values, place in front.on))
    if len(listed) > _LISTED:
        lines.append((f"and {len(listed) - _LISTED} more (in the table)", "", True))
    for line, (name, values, held) in enumerate(lines, start=1):
        top, ink = 1 - line * 0.066, "black" if held else REFERENCE
        axes.text(0, top, name, fontsize=7.5, va="top", color=ink, transform=axes.transAxes)
        axes.text(1, top, values, fontsize=7.5, va="top", ha="right", color=ink, transform=axes.transAxes)


def _heading(front: Front, numbers: dict[int, int]) -> str:
    return "on the frontier, fastest first" + ("; grey: not on it" if set(numbers) - set(front.on) else "")


def _legend(settings: Sequence[Setting], styles: dict[str, tuple[str, Any]], fronts: Sequence[Front]) -> list[Any]:
    from matplotlib.lines import Line2D

    def entry(label: str, **look: Any) -> Any:
        return Line2D([], [], label=label, **({"linestyle": "none"} | look))

    curves = {item.curve: item for item in settings}
    ordered = sorted(curves, key=lambda curve: (curves[curve].steps is not None, by_number(curve)))
    if len(ordered) > 12:  # one entry a side; the shades are said in words
        sides = {curves[curve].side: curve for curve in ordered}
        entries = [entry(_name(curves[c]), marker=styles[c][0], color=styles[c][1]) for c in sides.values()]
        entries.append(entry("darker: " + _shaded(settings), marker=None))
    else:
        entries = [
            entry(
                curve.replace(curves[curve].model, _name(curves[curve], model=True), 1),
                marker=styles[curve][0],
                color=styles[curve][1],
            )
            for curve in ordered
        ]
    entries.append(entry("frontier", linestyle="-", color="#333333"))
    if any(set(front.varied) - set(front.on) for front in fronts):
        look = {"markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 0.9}
        entries.append(entry("beaten only by less varied text", marker="o", **look))
    return entries


def _name(setting: Setting, model: bool = False) -> str:
    shown = NAMES.get(setting.model, setting.model)
    return shown if model else setting.side.replace(setting.model, shown, 1)


def _shaded(settings: Sequence[Setting]) -> str:
    """What differs between the curves of one side."""
    words = [word.partition("=")[0] for item in settings for word in item.curve.removeprefix(item.side).split()]
    names = {"T": "higher temperature"}
    return ", ".join(names.get(word, f"larger {word}") for word in dict.fromkeys(words)) or "other settings"
