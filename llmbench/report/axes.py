"""Markers, colours and axes of figures that show many settings of both sides."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmbench.report.colours import BASELINE, CANDIDATE, REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL = "small"
"""Type for labels inside a figure: Matplotlib's name for 0.83 times its `font.size`."""

_MARKERS = ("s", "o", "D", "h", "^", "v", "p", "P")


class Styled(Protocol):
    """What is drawn: one setting."""

    @property
    def model(self) -> str:
        """Its model."""

    @property
    def side(self) -> str:
        """Its label without k."""

    @property
    def curve(self) -> str:
        """What a line joins."""

    @property
    def steps(self) -> int | None:
        """k; None for the autoregressive side."""


def styles_of(settings: Sequence[Styled]) -> dict[str, tuple[str, Any]]:
    """Marker and colour of every curve: a marker per side, a colour per model, darker where the temperature is higher.

    What is no temperature (block length, guidance) also shades: curves of a side are ordered by their label.
    """
    from matplotlib.colors import to_rgb

    models = list(dict.fromkeys(item.model for item in sorted(settings, key=lambda s: (s.steps is not None, s.model))))
    colours = dict(zip(models, (BASELINE, CANDIDATE, "#4d8b57", "#7d5ba6"), strict=False))
    sides = list(dict.fromkeys(item.side for item in sorted(settings, key=lambda s: (s.steps is not None, s.side))))
    found: dict[str, tuple[str, Any]] = {}
    for side in sides:
        curves = sorted({item.curve for item in settings if item.side == side}, key=by_number)
        model = next(item.model for item in settings if item.side == side)
        base = to_rgb(colours.get(model, REFERENCE))
        for place, curve in enumerate(curves):
            light = 0.6 * (1 - place / (len(curves) - 1)) if len(curves) > 1 else 0.0
            colour = tuple(part + (1 - part) * light for part in base)
            found[curve] = (_MARKERS[sides.index(side) % len(_MARKERS)], colour)
    return found


def by_number(curve: str) -> list[tuple[float, str]]:
    """For sorting: numbers as numbers, so that T=10 comes after T=2."""
    parts = re.split(r"(\d+(?:\.\d+)?)", curve)
    return [(float(part), "") if place % 2 else (0.0, part) for place, part in enumerate(parts)]


def logarithmic(axes: "Axes", name: str, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers; few enough of them that they do not overlap."""
    from matplotlib.ticker import LogLocator, NullLocator

    wide = max(values) / min(values)
    fine, middle = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    subs = fine if wide < 4 else middle if wide < 12 else (1.0, 2.0, 5.0) if wide < 300 else (1.0,)
    axis = axes.xaxis if name == "x" else axes.yaxis
    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    axes.tick_params(which="both", labelsize=SMALL)
