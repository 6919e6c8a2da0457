"""A chart as inline SVG with its legend and its values as a table: no script is needed to see or to switch it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmbench.report.html_charts import Chart, Dot, Series
from llmbench.report.html_parts import escape, run_list

WIDTH, HEIGHT = 560, 350
LEFT, RIGHT, TOP, BOTTOM = 64, 18, 16, 50
_CHARACTER = 6.4
"""Width of a character of a label, in units of the picture."""

_DIGITS = ((1, (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)), (3, (1.0, 2.0, 5.0)), (math.inf, (1.0,)))
"""First digits on a logarithmic axis of at most so many decades."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Axis:
    """Where a value stands between two ends of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        """The place of a value."""
        turn: Callable[[float], float] = math.log if self.log else float
        share = (turn(value) - turn(self.low)) / (turn(self.high) - turn(self.low))
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Values with a label: round numbers, at least an eighth of the axis apart."""
        if not self.log:
            size = 10.0 ** math.floor(math.log10(self.high - self.low))
            step = next(s * size for s in (0.1, 0.2, 0.5, 1.0, 2.0) if (self.high - self.low) / (s * size) <= 7)
            first = math.ceil(self.low / step)
            return [step * (first + i) for i in range(math.floor(self.high / step) - first + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        wide = math.log10(self.high / self.low)
        digits = next(own for most, own in _DIGITS if wide <= most)
        found: list[float] = []
        for value in (digit * 10.0**power for power in decades for digit in digits):
            apart = not found or math.log10(value / found[-1]) > wide / 8
            if self.low <= value <= self.high and apart:
                found.append(value)
        return found


def figure(chart: Chart) -> str:
    """A chart as HTML."""
    dots = [dot for series in chart.series for dot in series.dots]
    heights = [v for dot in dots for v in (dot.y, dot.low, dot.high) if v is not None and (v > 0 or not chart.y_log)]
    places = [dot.x for dot in dots] + [x for x, _ in chart.x_ticks]
    x = _axis(places, LEFT, WIDTH - RIGHT, log=chart.x_log)
    y = _axis(heights, HEIGHT - BOTTOM, TOP, log=chart.y_log)
    shown = [_series(place, series, x, y) for place, series in enumerate(chart.series)]
    label = escape(f"{chart.title}: {chart.y_label}, over {chart.x_label}. The values stand in the table below.")
    picture = "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{label}">',
            *_frame(chart, x, y),
            *shown,
            *_tags(chart.series, x, y),
            "</svg>",
        ]
    )
    legend = "".join(
        f'<label class="{series.colour}"><input type="checkbox" value="{place}" checked>'
        f'<span class="key {series.form}"></span>{escape(series.name)}</label>'
        for place, series in enumerate(chart.series)
    )
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in chart.notes)
    return (
        f"<figure class=switch><figcaption>{escape(chart.title)}</figcaption>"
        f'<div class=legend role=group aria-label="Series shown">{legend}</div>'
        f"{picture}{notes}{_values(chart)}</figure>"
    )


def _axis(values: Sequence[float], start: float, end: float, *, log: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.08, 1.05)
        return Axis(low / room, high * room, start, end, log=True)
    room = max(0.08 * (high - low), 0.02 * abs(high), 1e-6)
    return Axis(low - room, high + room, start, end, log=False)


def _frame(chart: Chart, x: Axis, y: Axis) -> list[str]:
    """Grid, ticks and the axes' names."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class=axis d="M{LEFT} {TOP}V{bottom}H{right}"/>']
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(f'<path class=grid d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for value, text in chart.x_ticks or [(tick, f"{tick:.6g}") for tick in x.ticks]:
        at = x.at(value)
        parts.append(f'<path class=grid d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>')
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(chart.y_label)}</text>"
    )
    return parts


def _series(place: int, series: Series, x: Axis, y: Axis) -> str:
    """The line, the bars and the points of a series."""
    ends = [f"{x.at(dot.x):.1f} {y.at(dot.y):.1f}" for dot in series.dots]
    parts = [f'<g class="s{place} {series.colour}">']
    if series.form == "band":
        parts.append(f'<path class=band d="M{"L".join(ends)}Z"/>')
    elif series.form != "marks" and len(ends) > 1:
        parts.append(f'<path class="{"dashes" if series.form == "dashes" else "line"}" d="M{"L".join(ends)}"/>')
    parts += [_dot(series, dot, x, y) for dot in series.dots if dot.said]
    return "".join([*parts, "</g>"])


def _dot(series: Series, dot: Dot, x: Axis, y: Axis) -> str:
    """A point with its bar; its title is what a reader sees who points at it."""
    across, up = x.at(dot.x), y.at(dot.y)
    bar = ""
    if dot.low is not None and dot.high is not None and (dot.low > 0 or not y.log):
        low, high = y.at(dot.low), y.at(dot.high)
        caps = "".join(f"M{across - 4:.1f} {end:.1f}h8" for end in (low, high))
        bar = f'<path class=bar d="M{across:.1f} {low:.1f}V{high:.1f}{caps}"/>'
    small = ' class=end r="3"' if series.form == "dashes" else ' r="4.5"'
    spot = (
        f'<circle cx="{across:.1f}" cy="{up:.1f}"{small}/><circle class=reach cx="{across:.1f}" cy="{up:.1f}" r="12"/>'
    )
    said = f"{series.name}, {dot.at}: {dot.said}; {_runs(dot)}"
    return f'<g class=dot tabindex="0" role="img"><title>{escape(said)}</title>{bar}{spot}</g>'


def _runs(dot: Dot) -> str:
    return f"{'runs' if len(dot.runs) > 1 else 'run'} {', '.join(dot.runs)}" if dot.runs else "no run of its own"


_OFFSETS = ((8, 4), (-8, 4), (0, -10), (0, 18), (8, 15), (8, -8), (-8, -8), (-8, 15), (16, 20))
"""Where a tag may stand beside its point; the first that is free is taken."""


def _tags(series: Sequence[Series], x: Axis, y: Axis) -> list[str]:
    """What is written beside points, none over another, a point or a line; one without room is left to its title."""
    taken = [box for own in series for box in _drawn(own, x, y)]
    made = []
    for place, own in sorted(enumerate(series), key=lambda pair: pair[1].colour != "candidate"):
        for dot in own.dots:
            for right, down in _OFFSETS if dot.tag else ():
                across, up = x.at(dot.x) + right, y.at(dot.y) + down
                wide = len(dot.tag) * _CHARACTER
                anchor, first = ("start", across) if right > 0 else ("end", across - wide)
                if right == 0:
                    anchor, first = "middle", across - wide / 2
                box = (first, up - 10, first + wide, up + 2)
                if box[0] < LEFT or box[2] > WIDTH or box[1] < 0 or any(_overlap(box, other) for other in taken):
                    continue
                taken.append(box)
                made.append(
                    f'<text class="tag s{place} {own.colour}" x="{across:.1f}" y="{up:.1f}" text-anchor="{anchor}">'
                    f"{escape(dot.tag)}</text>"
                )
                break
    return made


def _drawn(own: Series, x: Axis, y: Axis) -> list[Box]:
    """What a series covers: its points with their bars, and its line in small pieces."""
    boxes = []
    for dot in own.dots if own.form != "band" else ():
        across, ends = (
            x.at(dot.x),
            [y.at(v) for v in (dot.y, dot.low, dot.high) if v is not None and (v > 0 or not y.log)],
        )
        boxes.append((across - 5, min(ends) - 5, across + 5, max(ends) + 5))
    for one, other in zip(own.dots, own.dots[1:], strict=False) if own.form in ("points", "line", "dashes") else ():
        (a, b), (c, d) = (x.at(one.x), y.at(one.y)), (x.at(other.x), y.at(other.y))
        pieces = int(max(abs(c - a), abs(d - b)) / 4) + 1
        for i in range(pieces):
            u, v = a + (c - a) * i / pieces, b + (d - b) * i / pieces
            boxes.append((u - 1, v - 1, u + 1, v + 1))
    return boxes


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _values(chart: Chart) -> str:
    """Every value of a figure as a table."""
    rows = "".join(
        f"<tr><th scope=row>{escape(series.name)}</th><td>{escape(dot.at)}</td><td>{escape(dot.said)}</td>"
        f"<td>{run_list(dot.runs)}</td></tr>"
        for series in chart.series
        for dot in series.dots
        if dot.said
    )
    head = "".join(f"<th scope=col>{name}</th>" for name in ("series", "at", "value", "run"))
    return (
        f"<details><summary>Values and runs</summary><div class=scroll><table><caption>{escape(chart.title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
