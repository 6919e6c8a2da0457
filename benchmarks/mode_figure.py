"""The picture of the page of three modes: tokens that must be exceeded to be faster than the AR mode, over batch."""

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import mode_page
from llmbench.report.colours import BASELINE, CANDIDATE, REFERENCE
from llmbench.system.plotting import own_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@own_settings()
def picture(results: Mapping[str, Any]) -> bytes:
    """A PNG: block diffusion left, self-speculation right, with what the maker claims."""
    from matplotlib.figure import Figure

    block = results["block"]
    costs = {int(batch): mode_page.of_rounds(samples, block) for batch, samples in results["rows"].items()}
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _line(left, {b: [each.tokens_per_forward() for each in rounds] for b, rounds in costs.items()}, "block diffusion")
    _claims(left, {f"{mode_page.DIFFUSION_CLAIM} per forward": mode_page.DIFFUSION_CLAIM})
    left.set(ylabel="tokens per forward, commits counted", title="To be as fast as AR: block diffusion")
    *short, most = mode_page.drafts(block)
    for place, drafted in enumerate(short):
        cycles = {b: [each.short_cycles[place] / each.step for each in rounds] for b, rounds in costs.items()}
        within = {b: [v if v <= drafted + 1 else None for v in values] for b, values in cycles.items()}
        _line(right, within, f"{drafted} drafted", ("o:", "s--")[place], offset=-12 if place == 0 else None)
    _line(right, {b: [each.tokens_per_cycle() for each in rounds] for b, rounds in costs.items()}, f"{most} drafted")
    claim = mode_page.SELF_CLAIM
    _claims(right, {f"{claim} per cycle": claim, f"{claim} per forward, {2 * claim} per cycle": 2 * claim})
    right.set(ylabel="tokens per draft and verification", title="To be as fast as AR: self-speculation")
    for axes in (left, right):
        axes.set_xlim(min(costs) / 1.25, max(costs) * 1.25)
        axes.set_ylim(0.9, 36)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks([*costs], [str(batch) for batch in costs])
        axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        axes.set_xlabel("batch")
        axes.grid(color="0.9")
        axes.legend(fontsize=8, loc="upper left")
    figure.suptitle(
        f"{results['checkpoint']}, dummy weights, on one {results['environment']['device_name']}", fontsize=9
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _line(
    axes: "Axes", rounds: Mapping[int, Sequence[float | None]], label: str, style: str = "o-", offset: int | None = 6
) -> None:
    """Medians over rounds; a batch at which a round has no value has no point.

    Args:
        axes: where to draw.
        rounds: values by batch.
        label: in the legend.
        style: of markers and line.
        offset: of a number from its marker, in points; None: no numbers.
    """
    points = {
        batch: statistics.median(value for value in values if value is not None)
        for batch, values in rounds.items()
        if None not in values
    }
    axes.plot([*points], [*points.values()], style, color=CANDIDATE, label=label)
    for batch, value in points.items() if offset is not None else ():
        axes.annotate(f"{value:.3g}", (batch, value), (0, offset), textcoords="offset points", ha="center", fontsize=7)


def _claims(axes: "Axes", claims: Mapping[str, float]) -> None:
    """What the maker claims, as lines across; below them a mode would be faster, if the claim held at that batch."""
    for (label, value), colour in zip(claims.items(), (BASELINE, REFERENCE), strict=False):
        axes.axhline(value, color=colour, linestyle="-.", linewidth=1, label=f"claimed: {label}")
