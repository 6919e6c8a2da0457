"""Did the machine change its speed during a sweep? Every time over the minutes, as a share of its setting's median.

A time is divided by the median of all times of the same batch at the same setting (side, k, conditions), over all jobs
of the sweep: a batch with longer texts stays at 1, and a baseline that is timed again shows the drift since its first
timing. What was timed only once in its setting says nothing and is left out.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from llmbench.analysis.formats import counted
from llmbench.analysis.parity.speed_checks import DRIFT
from llmbench.record import ROLE_SUFFIX, Record
from llmbench.report.cells import provenance
from llmbench.report.colours import BASELINE, CANDIDATE, REFERENCE
from llmbench.report.layout import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True, kw_only=True)
class JobTimes:
    """The times of one job as shares of their settings' medians."""

    label: str
    side: str
    baseline: bool  # autoregressive
    setting: str  # what jobs of equal work share
    minutes: float  # from the start of the sweep's first job to the start of this one
    process: str
    card: str  # uuid; "" where the device has none
    shares: tuple[float, ...]  # one per batch and repeat; 1 is the median
    throttled: tuple[bool, ...]  # of each

    @property
    def place(self) -> tuple[str, str]:
        """The process and the card that timed it."""
        return self.process, self.card


def job_times(records: Sequence[Record]) -> tuple[JobTimes, ...]:
    """The normalised times of every job that was timed, in the order in which the jobs began.

    Args:
        records: of one sweep, of any role; failed ones and untimed points of the curve have no times.
    """
    if not records:
        return ()
    known: dict[tuple[str, int], list[float]] = {}
    for record in records:
        for timing in record.timings:
            known.setdefault((_setting(record), timing.batch), []).append(timing.e2e_ms)
    medians = {key: median(times) for key, times in known.items() if len(times) > 1 and median(times) > 0}
    first = min(_began(record) for record in records)
    found = []
    for record in sorted(records, key=_began):
        setting = _setting(record)
        kept = [timing for timing in record.timings if (setting, timing.batch) in medians]
        if kept:
            found.append(
                JobTimes(
                    label=record.label + ROLE_SUFFIX[record.role],
                    side=record.side,
                    baseline=record.family == "autoregressive",
                    setting=setting,
                    minutes=(_began(record) - first).total_seconds() / 60,
                    process=record.process,
                    card=record.environment.device_uuid or "",
                    shares=tuple(timing.e2e_ms / medians[setting, timing.batch] for timing in kept),
                    throttled=tuple(bool(timing.throttled) for timing in kept),
                )
            )
    return tuple(found)


def _began(record: Record) -> datetime.datetime:
    return datetime.datetime.fromisoformat(record.started_at)


def _setting(record: Record) -> str:
    """What jobs of equal work share; another seed writes texts of other lengths."""
    return "; ".join([record.label, *(f"{key}={value}" for key, value in sorted(record.conditions.items()))])


def drift_table(records: Sequence[Record], times: Sequence[JobTimes], command: str = "", source: str = "") -> Table:
    """A row per job, in the order in which they began.

    Args:
        records: of a sweep.
        times: from `job_times(records)`.
        command: what was typed.
        source: which sweep it is.
    """
    places = _places(times)
    rows = [
        (
            item.label,
            f"{item.minutes:.1f}",
            places[item.place],
            str(len(item.shares)),
            *(f"{share:.3f}" for share in (median(item.shares), min(item.shares), max(item.shares))),
            str(sum(item.throttled)),
        )
        for item in times
    ]
    outside = sum(abs(median(item.shares) - 1) > DRIFT for item in times)
    notes = [
        "Each time is divided by the median of its batch and setting over the whole sweep: 1.03 is 3 % slower.",
        f"{outside} of {counted(len(times), 'job')} with a median beyond {DRIFT:.0%}, where the verdict notes a drift.",
        *([f"{source}."] if source else []),
    ]
    header = ("", "began, min", "where", "times", "median", "lowest", "highest", "throttled")
    return Table(
        title="Times over the sweep",
        header=header,
        rows=tuple(rows),
        notes=tuple(notes),
        provenance=provenance(records, command, generated=False),
    )


def _places(times: Sequence[JobTimes]) -> dict[tuple[str, str], str]:
    """A short name of every process and card, in the order of their first jobs."""
    processes = list(dict.fromkeys(item.process for item in times))
    cards = list(dict.fromkeys(item.card for item in times))
    return {
        (process, card): f"process {processes.index(process) + 1}"
        + (f", card {cards.index(card) + 1}" if len(cards) > 1 else "")
        for process, card in dict.fromkeys(item.place for item in times)
    }


def caption_of(records: Sequence[Record], name: str = "") -> str:
    """Sweep, device and commit: what stands above the figure."""
    devices = dict.fromkeys(record.environment.device_name for record in records)
    commits = dict.fromkeys(r.environment.git_commit[:10] for r in records if r.environment.git_commit)
    return "; ".join(filter(None, [name, " / ".join(devices), f"commit {' / '.join(commits)}" if commits else ""]))


def drift_figure(times: Sequence[JobTimes], caption: str = "") -> "Figure":
    """Draw the times of a sweep.

    Args:
        times: from `job_times`.
        caption: from `caption_of`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.8), layout="constrained")
    figure.suptitle("Times over the sweep", fontsize=13, fontweight="bold")
    axes = figure.add_subplot()
    axes.set_title(caption, fontsize=9, color=REFERENCE)
    axes.axhspan(1 - DRIFT, 1 + DRIFT, color=REFERENCE, alpha=0.15, linewidth=0, label=f"±{DRIFT:.0%}")
    axes.axhline(1, color=REFERENCE, linewidth=0.8)
    _draw_lines(axes, times)
    _draw_points(axes, times)
    axes.set_xlabel("minutes since the first job began")
    axes.set_ylabel("L_e2e, median of its setting = 1")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw_lines(axes: "Axes", times: Sequence[JobTimes]) -> None:
    """The medians of a baseline's jobs, joined for each setting, process and card."""
    colours = _colours(times)
    lines: dict[tuple[str, str, str], list[JobTimes]] = {}
    for item in times:
        if item.baseline:
            lines.setdefault((item.setting, *item.place), []).append(item)
    for jobs in lines.values():
        middle = [median(item.shares) for item in jobs]
        axes.plot([item.minutes for item in jobs], middle, color=colours[jobs[0].side], linewidth=1.5)


def _draw_points(axes: "Axes", times: Sequence[JobTimes]) -> None:
    colours, places = _colours(times), _places(times)
    for item in times:
        name = item.side if len(places) == 1 else f"{item.side}, {places[item.place]}"
        marker = _MARKERS[list(places).index(item.place) % len(_MARKERS)]
        at = [item.minutes] * len(item.shares)
        axes.plot(at, item.shares, marker, color=colours[item.side], alpha=0.55, markersize=5, label=name)
        slow = [share for share, throttled in zip(item.shares, item.throttled, strict=True) if throttled]
        if slow:
            at = [item.minutes] * len(slow)
            axes.plot(at, slow, "x", color="black", markersize=9, label="throttled")


def _colours(times: Sequence[JobTimes]) -> dict[str, Any]:
    """A colour of every side, lighter for each further one of a family."""
    from matplotlib.colors import to_rgb

    found: dict[str, Any] = {}
    for baseline, base in ((True, BASELINE), (False, CANDIDATE)):
        sides = list(dict.fromkeys(item.side for item in times if item.baseline is baseline))
        for i, side in enumerate(sides):
            light = 0.6 * i / len(sides)
            found[side] = tuple(part + (1 - part) * light for part in to_rgb(base))
    return found
