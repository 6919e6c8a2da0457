"""Figures at the size of a page: a column of 3.3 inches or the text's 6.9, as PDF and SVG.

No title: that is the caption's. Every bar is a 95 % interval, and each figure says of what. Times, rates and energies
are on logarithmic axes.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmbench.analysis.estimates import Estimate, logged
from llmbench.analysis.formats import NAMES
from llmbench.analysis.frontier import Setting
from llmbench.analysis.implementations import row_labels
from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record
from llmbench.report.axes import SMALL, by_number, logarithmic, styles_of
from llmbench.report.cells import in_order
from llmbench.report.colours import BASELINE, CANDIDATE, REFERENCE
from llmbench.system.plotting import import_matplotlib, own_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, TEXT = 3.3, 6.9
"""Widths in inches."""

_MIB = 2.0**20

STYLE: Any = {
    "font.size": 8.0,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,  # TrueType: what conferences ask for
    "svg.hashsalt": "llmbench",  # the same figure is the same file
    "text.usetex": False,
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one side over something, or a height that is the same everywhere (x = None)."""

    name: str
    baseline: bool
    points: tuple[tuple[float | None, Estimate], ...]


def print_figures(records: Sequence[Record], verdicts: Sequence[Parity], recipe: str) -> dict[str, str | bytes]:
    """The figure of a recipe's sweep as files, by name; {} where there is nothing to draw.

    Args:
        records: of the sweep.
        verdicts: of the same Records.
        recipe: the file of conf/experiment.
    """
    import_matplotlib()
    import matplotlib

    with own_settings(), matplotlib.rc_context(STYLE):
        figure = _FIGURES[recipe](records, verdicts)
        return _files(figure, f"fig_{recipe}") if figure is not None else {}


def _files(figure: "Figure", stem: str) -> dict[str, str | bytes]:
    """As PDF and SVG, by name; the same figure gives the same bytes."""
    made: dict[str, str | bytes] = {}
    for form, metadata in (("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, metadata=metadata)
        made[f"{stem}.{form}"] = buffer.getvalue()
    made[f"{stem}.svg"] = reproducible(buffer.getvalue())
    return made


def reproducible(svg: bytes) -> bytes:
    """SVG of one figure in the same bytes each time.

    Matplotlib names some clip paths by an address in memory: they are numbered here. Its layout differs in the last
    bits from one call to the next, and a coordinate of seven decimals that ends in 5 is then printed with six of them
    in two ways: five decimals are kept.
    """
    for place, name in enumerate(dict.fromkeys(re.findall(rb'<clipPath id="(p[0-9a-f]{10})"', svg)), start=1):
        svg = svg.replace(name, b"clip%d" % place)
    return re.sub(rb"(?<![\d.])\d+\.\d{6}(?!\d)", lambda found: b"%.5f" % float(found[0]), svg)


def _latency(records: Sequence[Record], _: Sequence[Parity]) -> "Figure | None":
    lines = _lines(records, lambda r: r.steps, lambda r: logged(r, "latency/e2e_ms"))
    first = _lines(
        [r for r in records if r.steps is None], lambda r: r.steps, lambda r: logged(r, "latency/first_text_ms")
    )
    lines += [Line(name=f"{line.name}, first text", baseline=True, points=line.points) for line in first]
    return _over(lines, "diffusion steps k", "ms per request", "bars, bands: 95 % interval of the median over repeats")


def _throughput(records: Sequence[Record], _: Sequence[Parity]) -> "Figure | None":
    lines = _lines(records, _number("batch"), lambda r: logged(r, "throughput/bytes_per_s"), by_steps=True)
    return _over(lines, "batch", "valid output, bytes/s", "points: all output over all time, without an interval")


def _memory(records: Sequence[Record], _: Sequence[Parity]) -> "Figure | None":
    on_gpu = any("memory/peak_reserved_bytes" in record.metrics for record in records)
    key = "memory/peak_reserved_bytes" if on_gpu else "memory/peak_rss_bytes"

    def mib(record: Record) -> Estimate | None:
        found = record.metrics.get(key)
        return None if found is None else Estimate(value=found / _MIB)

    lines = _lines(records, _number("canvas"), mib, by_steps=True)
    name = "peak reserved memory, MiB" if on_gpu else "peak resident set of the process, MiB"
    return _over(lines, "canvas, tokens", name, "points: one peak of each job", y_log=False)


def _energy(records: Sequence[Record], _: Sequence[Parity]) -> "Figure | None":
    lines = _lines(records, lambda r: r.steps, lambda r: logged(r, "energy/joules_per_token"))
    return _over(lines, "diffusion steps k", "J per valid token", "points: one window of the counter for each job")


def _parity(records: Sequence[Record], verdicts: Sequence[Parity]) -> "Figure | None":
    from llmbench.report.figures import parity_figure

    drawn = next((verdict for verdict in verdicts if verdict.head or verdict.speedups), None)
    return None if drawn is None else parity_figure(records, drawn, width=TEXT)


def _acceleration(records: Sequence[Record], _: Sequence[Parity]) -> "Figure | None":
    """Quality and entropy against time, a point for each setting."""
    from matplotlib.figure import Figure

    from llmbench.analysis.frontier import every_setting
    from llmbench.analysis.parity.verdict import JUDGED

    settings = [item for item, _ in every_setting(records) if item.qualities]
    if not settings:
        return None
    settings.sort(key=lambda item: (item.steps is not None, by_number(item.label)))
    key = next(key for key in JUDGED if any(key in item.qualities for item in settings))
    figure = Figure(figsize=(TEXT, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = styles_of(settings)
    _scatter(left, settings, styles, lambda item: item.qualities.get(key))
    _scatter(right, settings, styles, lambda item: item.entropy)
    if key == "quality/perplexity":
        logarithmic(left, "y", _ends([item.qualities[key] for item in settings if key in item.qualities]))
    for axes, name in ((left, key.removeprefix("quality/").replace("_", " ")), (right, "entropy, nats")):
        logarithmic(axes, "x", _ends([item.ms for item in settings]))
        _finish(axes, "end-to-end latency, ms per batch", name)
    _note(left, "bars: 95 % interval, of time over repeats, of quality over prompts")
    handles, labels = left.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=0) > 28 else 3  # as the width has room for
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=1.0)
    return figure


_FIGURES: dict[str, Callable[[Sequence[Record], Sequence[Parity]], "Figure | None"]] = {
    "latency": _latency,
    "throughput": _throughput,
    "memory": _memory,
    "parity": _parity,
    "acceleration": _acceleration,
    "energy": _energy,
}


# ----------------------------------------------------------------------------------------------------------------
# Lines over k, batch or canvas


def _number(condition: str) -> Callable[[Record], float | None]:
    def read(record: Record) -> float | None:
        found = record.conditions.get(condition)
        return None if found is None else float(found)

    return read


def _lines(
    records: Iterable[Record],
    x: Callable[[Record], float | None],
    y: Callable[[Record], Estimate | None],
    *,
    by_steps: bool = False,
) -> list[Line]:
    """A line for each side (`by_steps`: and each k) in the order of the tables."""
    ordered = in_order(records)
    labels, found = row_labels(ordered), dict[str, list[tuple[float | None, Estimate]]]()
    family: dict[str, bool] = {}
    for record in ordered:
        if (estimate := y(record)) is None:
            continue
        label = labels[id(record)]
        name = _name(label if by_steps else label.replace(f" k={record.steps}", ""))
        found.setdefault(name, []).append((x(record), estimate))
        family[name] = record.family == "autoregressive"
    return [Line(name=name, baseline=family[name], points=tuple(points)) for name, points in found.items()]


def _name(label: str) -> str:
    """A label with its model's name in prose."""
    word, space, rest = label.partition(" ")
    said = re.sub(r"\bk=", "k = ", rest)
    return f"{NAMES.get(word, word)}{space}{said}"


def _over(lines: Sequence[Line], x_label: str, y_label: str, note: str, *, y_log: bool = True) -> "Figure | None":
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    if not lines:
        return None
    figure = Figure(figsize=(COLUMN, 2.5), layout="constrained")
    axes = figure.add_subplot()
    places = sorted({x for line in lines for x, _ in line.points if x is not None})
    styles = _styles(lines)
    for line in lines:
        colour, look, marker = styles[line.name]
        for x, estimate in line.points:
            if x is None:
                axes.axhline(estimate.value, color=colour, linestyle=look, label=line.name)
                if estimate.low is not None and estimate.high is not None:
                    axes.axhspan(estimate.low, estimate.high, color=colour, alpha=0.2, linewidth=0)
        if known := sorted(((x, e) for x, e in line.points if x is not None), key=lambda pair: pair[0]):
            axes.errorbar(
                [x for x, _ in known], [e.value for _, e in known], yerr=_spans([e for _, e in known]),
                color=colour, linestyle=look, marker=marker, capsize=1.5, elinewidth=0.8, label=line.name,
            )  # fmt: skip
    if places:
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xticks([])
    if y_log:
        logarithmic(axes, "y", _ends([estimate for line in lines for _, estimate in line.points]))
    else:
        axes.set_ylim(bottom=0)
    _finish(axes, x_label, y_label)
    _note(axes, note)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=1.8)
    return figure


def _styles(lines: Sequence[Line]) -> dict[str, tuple[Any, str, str]]:
    """Colour of the family, lighter for each further line of it; dashes and markers tell lines apart in grey."""
    from matplotlib.colors import to_rgb

    found: dict[str, tuple[Any, str, str]] = {}
    looks, markers = ("--", ":", "-.", "-"), ("o", "s", "^", "D", "v", "P")
    for baseline in (True, False):
        own = [line for line in lines if line.baseline is baseline]
        for place, line in enumerate(own):
            base, light = to_rgb(BASELINE if baseline else CANDIDATE), 0.55 * place / max(len(own), 1)
            colour = tuple(part + (1 - part) * light for part in base)
            look = looks[place % len(looks)] if baseline else "-"
            found[line.name] = colour, look, markers[(place + (0 if baseline else 1)) % len(markers)]
    return found


# ----------------------------------------------------------------------------------------------------------------
# Points and axes


def _scatter(
    axes: "Axes", settings: Sequence[Setting], styles: dict[str, tuple[str, Any]],
    y: Callable[[Setting], Estimate | None],
) -> None:  # fmt: skip
    for item in settings:
        marker, colour = styles[item.curve]
        found = y(item)
        if found is None:
            continue
        axes.errorbar(
            item.ms.value, found.value, xerr=_spans([item.ms]), yerr=_spans([found]), marker=marker, color=colour,
            linestyle="none", capsize=1.5, elinewidth=0.8, label=_name(item.label),
        )  # fmt: skip


def _spans(estimates: Sequence[Estimate]) -> list[list[float]] | None:
    """Lengths of bars below and above; None where one has no interval."""
    low, high = [], []
    for item in estimates:
        if item.low is None or item.high is None:
            return None
        low.append(max(item.value - item.low, 0.0))
        high.append(max(item.high - item.value, 0.0))
    return [low, high]


def _ends(estimates: Iterable[Estimate]) -> list[float]:
    """Values and ends of intervals that a logarithmic axis can show."""
    return [end for e in estimates for end in (e.value, e.low, e.high) if end]


def _finish(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.tick_params(which="both", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def _note(axes: "Axes", text: str) -> None:
    """What a bar is, above the panel."""
    axes.set_title(text, fontsize=SMALL, color=REFERENCE, loc="left")
