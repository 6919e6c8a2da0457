"""Tables and figure of the plane on which engines are compared: speed of a user against speed of the device.

One panel for tokens and one for bytes. Lines join the batch sizes of one setting, whose numbers stand beside its
points. Points of the frontier have a dark edge; hollow ones are k that a verdict has shown to be worse than the
baseline.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmbench.analysis.formats import TITLES, counted, number
from llmbench.analysis.pareto import QUALITIES, UNITS, Judgement, Plane, Point
from llmbench.record import Record
from llmbench.report.axes import logarithmic, styles_of
from llmbench.report.cells import in_order, provenance
from llmbench.report.colours import REFERENCE
from llmbench.report.layout import ABSENT, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Speed per user against speed per device"

SPEED_ONLY = "The plane compares speed alone: a fast point may write worse text; its quality stands beside its name."

_Cell = Callable[[Point], str]


def pareto_tables(
    records: Sequence[Record], found: Sequence[Plane], command: str = "", source: str = ""
) -> list[Table]:
    """Every point of each plane, with its quality, energy and price; servers on unknown hardware in a table apart.

    Args:
        records: of a sweep.
        found: its planes.
        command: what was typed.
        source: which sweep it is, where a reader could not know.
    """
    made = []
    for item in found:
        own = [record for record in in_order(records) if record.identity in item.identities]
        line = provenance(own, command)
        if item.points:
            notes = [*_notes(item), *([f"{source}."] if source else [])]
            made.append(_table(TITLE, item, item.points, notes, line))
        if item.external:
            notes = [
                "On hardware that nobody vouched for: neither on the frontier nor compared with it. Where the server "
                "runs on this device, add server.trust_same_hardware=true."
            ]
            made.append(_table(f"{TITLE}: external servers", item, item.external, notes, line))
    return made


def _table(title: str, item: Plane, points: Sequence[Point], notes: Sequence[str], line: str) -> Table:
    places = {id(point): place for place, point in enumerate(item.points)}

    def front(point: Point) -> str:
        on = [unit for unit in UNITS if places.get(id(point)) in item.on.get(unit, ())]
        return ", ".join(on) or ABSENT

    columns: list[tuple[str, _Cell]] = [("", lambda point: point.name), ("batch", lambda point: str(point.batch))]
    for unit in UNITS:
        columns += [(f"{unit}/s per {whose}", _rate(unit, f"per_{whose}")) for whose in ("user", "device")]
    columns += [
        ("J/token", lambda point: _shown(point.joules_per_token)),
        ("J/byte", lambda point: _shown(point.joules_per_byte)),
        ("price of 1M tokens", lambda point: _shown(point.price)),
        *((TITLES[key], _quality(key)) for key in QUALITIES),
        ("parity", lambda point: ABSENT if point.judgement is None else point.judgement.value),
        ("on the frontier of", front),
    ]
    cells = [[cell(point) for _, cell in columns] for point in points]
    kept = [i for i in range(len(columns)) if any(row[i] != ABSENT for row in cells)]
    return Table(
        title=title,
        header=tuple(columns[i][0] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in cells),
        notes=tuple(notes),
        provenance=line,
    )


def _rate(unit: str, field: str) -> _Cell:
    return lambda point: number(getattr(point.rates[unit], field)) if unit in point.rates else ABSENT


def _quality(key: str) -> _Cell:
    return lambda point: _shown(point.qualities.get(key))


def _shown(value: float | None) -> str:
    return ABSENT if value is None else number(value)


def _notes(item: Plane) -> list[str]:
    notes = [
        f"{counted(len(item.points), 'point')}; {item.where}. {SPEED_ONLY}",
        "On the frontier: no other point is at least as fast for a user and for the device, and faster in one. Valid "
        "output only, of one device. Bytes are the fair axis where tokenizers differ.",
    ]
    if any(point.judgement is not None for point in item.points):
        notes.append(
            "Parity: whether the verdict lets quality parity be claimed at that k (reached), or has shown it to be "
            "worse than the margin (not reached)."
        )
    if item.price_per_hour is not None:
        notes.append(
            f"Price: in the unit of the price per hour, {item.price_per_hour:g} for the device, whole time at work."
        )
    return notes


def pareto_json(found: Sequence[Plane]) -> str:
    """All planes as plain data; units are those of the names."""
    return json.dumps([asdict(item) for item in found], indent=1)


# ----------------------------------------------------------------------------------------------------------------
# The figure


def pareto_figure(item: Plane, source: str = "") -> "Figure":
    """Draw one plane; see the module docstring. `source`: which sweep it is, where a reader could not know."""
    from matplotlib.figure import Figure

    units = [unit for unit in UNITS if unit in item.on]
    figure = Figure(figsize=(6.2 * max(len(units), 1) + 0.6, 6.2), layout="constrained")
    figure.suptitle(TITLE, fontsize=13, fontweight="bold")
    styles = styles_of(item.points)
    for place, unit in enumerate(units, start=1):
        axes = figure.add_subplot(1, len(units), place)
        _panel(axes, item, unit, styles)
        if place == 1:
            said = [source, item.where, SPEED_ONLY]
            axes.set_title("\n".join(filter(None, said)), fontsize=8, color=REFERENCE, loc="left")
    entries = _legend(item, styles)
    figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 3), frameon=False, fontsize=8)
    return figure


def _panel(axes: "Axes", item: Plane, unit: str, styles: dict[str, tuple[str, Any]]) -> None:
    known = [(i, point, point.rates[unit]) for i, point in enumerate(item.points) if unit in point.rates]
    for curve, (marker, colour) in styles.items():
        own = sorted((p.batch, i) for i, p, _ in known if p.curve == curve)
        line = [(item.points[i].rates[unit].per_user, item.points[i].rates[unit].per_device) for _, i in own]
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), color=colour, linewidth=1, alpha=0.5, zorder=1)
        for (x, y), (batch, i) in zip(line, own, strict=True):
            held, worse = i in item.on[unit], item.points[i].judgement is Judgement.NOT_REACHED
            axes.scatter(
                x, y, s=60, marker=marker, color=["white" if worse else colour], zorder=4 if held else 3,
                edgecolors="black" if held else [colour], linewidths=1.6 if held else 1.0,
            )  # fmt: skip
            axes.annotate(f"{batch}", (x, y), (5, 4), textcoords="offset points", fontsize=7, color=REFERENCE)
    stair = sorted((item.points[i].rates[unit].per_user, item.points[i].rates[unit].per_device) for i in item.on[unit])
    axes.step(*zip(*stair, strict=True), where="pre", color="#333333", linewidth=1.2, alpha=0.7, zorder=2)
    logarithmic(axes, "x", [rate.per_user for _, _, rate in known])
    logarithmic(axes, "y", [rate.per_device for _, _, rate in known])
    axes.margins(x=0.1, y=0.1)
    axes.set_xlabel(f"{unit}/s per user")
    axes.set_ylabel(f"{unit}/s per device (numbers: batch)")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def _quality_over(points: Sequence[Point]) -> str:
    """The quality of the points of a line, least to largest: `: perplexity 45.1`, `: accuracy 0.401 to 0.412`."""
    for key in ("quality/perplexity", "quality/accuracy"):
        if values := [point.qualities[key] for point in points if key in point.qualities]:
            ends = dict.fromkeys(map(number, (min(values), max(values))))
            return f": {TITLES[key]} {' to '.join(ends)}"
    return ""


def _legend(item: Plane, styles: dict[str, tuple[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D

    def entry(label: str, **look: Any) -> Any:
        return Line2D([], [], label=label, **({"linestyle": "none"} | look))

    curves: dict[str, list[Point]] = {}
    for point in item.points:
        curves.setdefault(point.curve, []).append(point)
    entries = [
        entry(f"{own[0].name}{_quality_over(own)}", marker=styles[curve][0], color=styles[curve][1])
        for curve, own in curves.items()
    ]
    entries.append(entry("frontier", linestyle="-", color="#333333"))
    if any(point.judgement is Judgement.NOT_REACHED for point in item.points):
        entries.append(entry("hollow: parity not reached", marker="o", markerfacecolor="none", color=REFERENCE))
    return entries
