"""Tables and figure of predicted times: the fitted numbers, their errors on rows held out, and where diffusion wins."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmbench.analysis import prediction
from llmbench.analysis.formats import number
from llmbench.analysis.prediction import Errors, Prediction, Timed
from llmbench.analysis.prediction_map import CACHES, Line, Place, Point, SpeedMap
from llmbench.report.colours import REFERENCE
from llmbench.report.layout import ABSENT, Table
from llmbench.system.plotting import own_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Predicted times"
MAP_TITLE = "Where diffusion is faster, predicted"
FORMULA = (
    "A forward takes ((F / (e_F R))^p + (Q / (e_Q W))^p)^(1/p) + c: F operations and Q bytes at least, on measured "
    "ceilings R (matrix product) and W (copy); least squares on the logarithm of the time."
)
NAMES = {"none": "no cache", "dual": "dual cache"}


def prediction_files(
    found: Prediction, source: str, notes: Sequence[str] = (), mapped: SpeedMap | None = None
) -> tuple[list[Table], list[Table], dict[str, str | bytes]]:
    """What is read first, that and every row, and the files beside the tables.

    Args:
        found: the fit.
        source: where the rows stand.
        notes: what was left out.
        mapped: where diffusion is faster; None: no map.
    """
    from llmbench.report.figures import to_png

    made = prediction_tables(found, source, notes)
    files: dict[str, str | bytes] = {"prediction.json": prediction_json(found, source, mapped)}
    if mapped is not None:
        made += map_tables(mapped, source, prediction.errors(found.model, found.held_out))
        with own_settings():
            files["prediction.png"] = to_png(map_figure(mapped), 110)
    return made, [*made, rows_table(found, source)], files


def prediction_tables(found: Prediction, source: str, notes: Sequence[str] = ()) -> list[Table]:
    """The fitted numbers, and the errors on rows that took no part in the fit.

    Args:
        found: the fit.
        source: where the rows stand.
        notes: what was left out.
    """
    model = found.model
    batches = ", ".join(map(str, found.batches))
    fitted = Table(
        title=TITLE,
        header=("fitted", "value"),
        rows=(
            ("e_F, share of the peak rate", number(model.flops_efficiency)),
            ("e_Q, share of the bandwidth", number(model.bytes_efficiency)),
            ("c, ms per forward", number(round(model.forward_ms, 4))),
            ("p, overlap of both", number(model.overlap)),
        ),
        notes=(FORMULA, f"Fitted on {len(found.fitted)} rows of {found.device} at batch {batches}.", *notes),
        provenance=source,
    )
    return [fitted, _errors(found, source)]


def _errors(found: Prediction, source: str) -> Table:
    groups: list[tuple[str, list[Timed]]] = [("fitted rows, for comparison", list(found.fitted))]
    own = [row for row in found.held_out if row.device == found.device]
    for batch in sorted({row.batch for row in own}):
        groups.append((f"{found.device}, batch {batch}", [row for row in own if row.batch == batch]))
    for device in sorted({row.device for row in found.held_out}):
        groups.append((f"{device}, all held out", [row for row in found.held_out if row.device == device]))
    for family in ("autoregressive", "diffusion"):
        groups.append((f"{family}, all held out", [row for row in found.held_out if row.family == family]))
    kinds = sorted({row.kind for row in found.held_out})
    groups += [(f"{kind}, all held out", [row for row in found.held_out if row.kind == kind]) for kind in kinds]
    groups.append(("all held out", list(found.held_out)))
    rows = [
        (name, str(error.rows), _percent(error.median), _percent(error.largest))
        for name, members in groups
        if (error := prediction.errors(found.model, members)) is not None
    ]
    return Table(
        title="Errors of predicted times",
        header=("rows", "count", "median error", "largest"),
        rows=tuple(rows),
        notes=("Error: |predicted / measured - 1|. Rows held out took no part in the fit.",),
        provenance=source,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def rows_table(found: Prediction, source: str) -> Table:
    """Every row: measured, predicted, and whether it was fitted."""
    cells = []
    for used, rows in (("fitted", found.fitted), ("held out", found.held_out)):
        for row in rows:
            predicted, each = found.model.ms(row.costs, row.ceilings), row.forwards
            cells.append(
                (row.name, row.kind, row.source, row.device, str(row.batch), number(row.ms / each, 4),
                 number(predicted / each, 4), f"{100 * (predicted / row.ms - 1):+.1f} %", used)
            )  # fmt: skip
    header = ("row", "what", "from", "device", "batch", "ms per forward", "predicted", "difference", "")
    return Table(title="Measured and predicted", header=header, rows=tuple(cells), provenance=source)


def map_tables(mapped: SpeedMap, source: str, error: Errors | None = None) -> list[Table]:
    """Speedups over batch and k, a table for each cache, and the measured ones beside the predicted."""
    place, made = mapped.place, []
    for cache in CACHES:
        rows = [
            (
                f"{line.batch}{'*' if line.extrapolated else ''}",
                f"{number(line.baseline_ms, 4)} ({line.implementation or 'predicted'})",
                *(number(line.speedups[k]) for k in place.steps),
                ABSENT if line.most_steps is None else str(line.most_steps),
            )
            for line in mapped.lines
            if line.cache == cache
        ]
        header = ("batch", "baseline, ms", *(f"k = {k}" for k in place.steps), "faster up to k")
        made.append(
            Table(
                title=f"{MAP_TITLE}: {NAMES[cache]}", header=header, rows=tuple(rows), notes=_map_notes(mapped, error),
                provenance=source,
            )
        )  # fmt: skip
    if mapped.points:
        cells = [
            (f"{point.batch}", f"{point.steps}", NAMES[point.cache], number(point.speedup), number(point.predicted),
             "whole generation" if point.whole else "sum of measured steps")
            for point in mapped.points
        ]  # fmt: skip
        header = ("batch", "k", "cache", "measured speedup", "predicted", "diffusion's time")
        made.append(Table(title="Measured speedups", header=header, rows=tuple(cells), provenance=source))
    return made


def _map_notes(mapped: SpeedMap, error: Errors | None) -> tuple[str, ...]:
    near = ""
    if error is not None:
        ends = f"{number(1 - error.largest)} and {number(1 + error.largest)}"
        near = f" Between {ends} the largest error of a row held out could turn it round."
    return (
        _where(mapped.place),
        f"Speedup: the baseline's time / LLaDA's predicted one; above 1 diffusion is faster.{near}",
        "Baseline: LLaMA's fastest measured generation at that batch, of the implementation in brackets, or predicted.",
        f"Measured of LLaDA: k = {mapped.measured_steps}. Another k is another number of the same steps.",
        "*: extrapolated: no batch as small or none as large was measured of one side, or not on this device or with "
        "these lengths.",
        "Speed alone: whether a k writes text as good is another question (`llmbench report parity`).",
    )


def _where(place: Place) -> str:
    rate, width = place.ceilings.flops_per_s / 1e12, place.ceilings.bytes_per_s / 1e12
    lengths = f"prompt {place.prompt}, canvas {place.canvas}, block {place.block}"
    return f"{place.device} ({rate:.0f} TFLOP/s, {width:.2f} TB/s), {lengths}."


def prediction_json(found: Prediction, source: str, mapped: SpeedMap | None = None) -> str:
    """All of it as plain data; milliseconds, errors as shares."""

    def row(item: Timed, used: str) -> dict[str, object]:
        kept = ("name", "kind", "source", "device", "family", "batch", "ms", "cache")
        return {key: getattr(item, key) for key in kept} | {
            "forwards": item.forwards,
            "predicted_ms": found.model.ms(item.costs, item.ceilings),
            "used": used,
        }

    held_out, fitted = (prediction.errors(found.model, rows) for rows in (found.held_out, found.fitted))
    values = {
        "source": source,
        "device": found.device,
        "batches": found.batches,
        "model": asdict(found.model),
        "errors": {"fitted": asdict(fitted) if fitted else None, "held_out": asdict(held_out) if held_out else None},
        "rows": [row(item, "fitted") for item in found.fitted] + [row(item, "held out") for item in found.held_out],
    }
    return json.dumps(values | ({"map": asdict(mapped)} if mapped else {}), indent=1)


# ----------------------------------------------------------------------------------------------------------------
# The figure


def map_figure(mapped: SpeedMap) -> "Figure":
    """The map as a heat map per cache: a line where both are equally fast, dots where both were measured."""
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 5.6), layout="constrained")
    figure.suptitle(MAP_TITLE, fontsize=13, fontweight="bold")
    values = [math.log2(speedup) for line in mapped.lines for speedup in line.speedups.values()]
    low, high = min(-1.0, *values), max(1.0, *values)
    for position, cache in enumerate(CACHES, start=1):
        axes = figure.add_subplot(1, len(CACHES), position)
        own = [line for line in mapped.lines if line.cache == cache]
        dots = [point for point in mapped.points if point.cache == cache]
        image = _panel(axes, own, dots, mapped.place, TwoSlopeNorm(0, low, high))
        axes.set_title(NAMES[cache], fontsize=10)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, label="speedup over the baseline")
    ticks = range(math.ceil(low), math.floor(high) + 1)
    bar.set_ticks(list(ticks), labels=[f"{2.0**tick:g}" for tick in ticks])
    figure.supxlabel(
        f"{_where(mapped.place)} Line: equally fast. *, hatched: extrapolated. Dots: both sides measured, with the\n"
        "measured speedup (hollow: the sum of measured steps). Speed alone: the map does not say which k writes well.",
        fontsize=8,
        color=REFERENCE,
    )
    return figure


def _panel(axes: "Axes", lines: Sequence[Line], points: Sequence[Point], place: Place, norm: Any) -> Any:
    """One heat map; returns its image."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    values = [[math.log2(line.speedups[k]) for k in place.steps] for line in lines]
    image = axes.imshow(values, cmap="PuOr", norm=norm, aspect="auto", origin="lower")
    measured = {(point.batch, point.steps): point for point in points}
    for y, line in enumerate(lines):
        if line.extrapolated:
            axes.add_patch(
                Rectangle((-0.5, y - 0.5), len(place.steps), 1, fill=False, hatch="///", edgecolor="#00000030", lw=0)
            )
        for x, k in enumerate(place.steps):
            point = measured.get((line.batch, k))
            dark = abs(norm(values[y][x]) - 0.5) > 0.36
            look = {"color": "white"} if dark else {"path_effects": [withStroke(linewidth=2, foreground="white")]}
            up = 0.22 if point else 0
            axes.text(x, y + up, number(line.speedups[k]), ha="center", va="center", fontsize=8, zorder=4, **look)
            if point:
                axes.plot(x - 0.25, y - 0.22, "o", color="black", markerfacecolor="black" if point.whole else "none")
                axes.text(x - 0.1, y - 0.22, number(point.speedup), va="center", fontsize=8, fontweight="bold")
    if min(map(min, values)) < 0 < max(map(max, values)) and len(lines) > 1 and len(place.steps) > 1:
        axes.contour(values, levels=[0.0], colors="black", linewidths=1.6)
    axes.set_xticks(range(len(place.steps)), [str(k) for k in place.steps])
    axes.set_yticks(range(len(lines)), [f"{line.batch}{'*' if line.extrapolated else ''}" for line in lines])
    axes.set_xlabel("diffusion steps k")
    axes.set_ylabel("batch")
    return image
