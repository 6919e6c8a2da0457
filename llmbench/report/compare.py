"""Tables, figure and plain data of a comparison of two sweeps: conditions that differ first, then times, then quality.

A bound is written behind its value in brackets; all bounds of a comparison hold together with 95 %.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmbench.analysis.compare import ALL_SETTINGS, TIME, Change, Comparison, Outcome
from llmbench.analysis.compare_noise import MeasuredNoise
from llmbench.analysis.compare_quality import Skipped
from llmbench.analysis.formats import TITLES, UNITS, counted, number, signed
from llmbench.report.axes import logarithmic
from llmbench.report.colours import BASELINE, CANDIDATE, REFERENCE
from llmbench.report.layout import ABSENT, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 6
"""How many settings a note names."""

_NOTHING = ("none that is known", ABSENT, ABSENT)

BARS = "Bars: intervals that hold together with 95 % over all settings and metrics."


def compare_tables(found: Comparison, a: str, b: str, fail_if_worse: float | None = None) -> list[Table]:
    """Conditions that differ, times, qualities; what has no row has no table.

    Args:
        found: the comparison.
        a: which sweep A is.
        b: which sweep B is.
        fail_if_worse: the share of a worsening that is asked about, if one is.
    """
    made = [_conditions(found, a, b)]
    times = [item for item in found.changes if item.metric == TIME]
    if times:
        made.append(_times(found, times, fail_if_worse))
    qualities = [item for item in found.changes if item.metric != TIME and not _is_same_text(found, item)]
    if qualities or any(item.metric != TIME for item in found.skipped):
        made.append(_qualities(found, qualities))
    return made


def _conditions(found: Comparison, a: str, b: str) -> Table:
    matched = found.matched
    notes = []
    if equal := [label for label, (same, prompts) in found.texts.items() if prompts and same == prompts]:
        notes.append(f"The same texts on both sides, and so the same quality: {_named(equal)}.")
    if matched.copies:
        notes.append(f"The same measurement on both sides, and not two: {counted(matched.copies, 'job')}.")
    if matched.uncommitted:
        notes.append("A side ran code with changes that no commit holds: that the code is equal is not known.")
    for name, only, failed in (("A", matched.only_a, matched.failed_a), ("B", matched.only_b, matched.failed_b)):
        if only:
            notes.append(f"Only in {name}, not compared: {_named(only)}.")
        if failed:
            notes.append(f"Failed in {name}: {_named(failed)}.")
    loads = [(name, load) for name, load in (("A", matched.load_a), ("B", matched.load_b)) if load is not None]
    if loads:
        notes.append(f"Load average when jobs began, median: {', '.join(f'{n} {number(load)}' for n, load in loads)}.")
    return Table(
        title="Conditions that differ",
        lead=(str(found), f"A: {a}", f"B: {b}"),
        header=("", "A", "B"),
        rows=tuple((item.key, _values(item.a), _values(item.b)) for item in matched.differing) or (_NOTHING,),
        notes=tuple(notes),
    )


def _is_same_text(found: Comparison, item: Change) -> bool:
    """Whether there is nothing to say of a quality: every text is the same, and so is its score."""
    same, prompts = found.texts[item.setting]
    return same == prompts > 0 and item.outcome is Outcome.NO_CHANGE


def _values(values: Sequence[str]) -> str:
    return " / ".join(value or "not known" for value in values)


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"{', '.join(labels[:_NAMED])}{more}"


def _times(found: Comparison, times: Sequence[Change], fail_if_worse: float | None) -> Table:
    across = any(setting.across_devices for setting in found.matched.settings)
    rows = [
        (
            item.setting,
            ABSENT if item.a is None else number(item.a),
            ABSENT if item.b is None else number(item.b),
            ratio_cell(item),
            item.outcome.value,
        )
        for item in times
    ]
    notes = [
        "B / A: L_e2e of B over that of A, median over repeats of the mean over the batches of the same prompts; 1.06 "
        "is 6 % slower. Bounds hold together with 95 % over all settings and metrics.",
        _noise(found),
        *_of_tokens(times),
        *_sensitivity(times, fail_if_worse),
        *_left_out([item for item in found.skipped if item.metric == TIME]),
    ]
    title = "Times on two devices: B / A for each setting" if across else "Times"
    return Table(title=title, header=("", "A, ms", "B, ms", "B / A", ""), rows=tuple(rows), notes=tuple(notes))


def ratio_cell(item: Change) -> str:
    """`1.060x [1.010, 1.112]`."""
    if item.low is None or item.high is None:
        return f"{number(item.change, 4)}x"
    return f"{number(item.change, 4)}x [{number(item.low, 4)}, {number(item.high, 4)}]"


def _noise(found: Comparison) -> str:
    noise = found.noise
    if isinstance(noise, MeasuredNoise):
        spread = [min(noise.settings.values()), max(noise.settings.values())]
        ends = " to ".join(dict.fromkeys(f"{sd:.1%}" for sd in spread))
        return (
            f"Noise in the bounds: measured between {noise.sweeps} sweeps, A and its repeats: {ends} by setting, "
            f"{noise.together:.1%} for all together."
        )
    drifts = [
        f"{name} {own.value**0.5:.1%} (from {counted(own.freedom, 'pair')} of timings)"
        if own is not None
        else f"{name} not known, because no baseline was timed again"
        for name, own in (("A", noise.drift_a), ("B", noise.drift_b))
    ]
    return (
        f"Noise in the bounds: {noise.process_sd:.2%} from process to process (assumed), from job to job "
        f"{', '.join(drifts)}, and the spread of the repeats."
    )


def _of_tokens(times: Sequence[Change]) -> list[str]:
    other = [item for item in times if item.tokens is not None and item.tokens != 1]
    if not other:
        return []
    said = ", ".join(f"{item.setting} {item.tokens:.3f}x" for item in other[:_NAMED])
    return [f"B wrote another number of tokens in the timed batches, which changes times too: {said}."]


def _sensitivity(times: Sequence[Change], fail_if_worse: float | None) -> list[str]:
    widths = sorted(item.change / item.low for item in times if item.low)
    if not widths:
        return []
    over = 1.0 + (fail_if_worse or 0.0)
    ends = dict.fromkeys(f"{number(width * over)}x" for width in (widths[0], widths[-1]))
    if fail_if_worse is None:
        return [f"A slowdown is seen from B / A of {' to '.join(ends)} on: so wide are the bounds."]
    return [f"--fail-if-worse={fail_if_worse:g} fails from B / A of {' to '.join(ends)} on: so wide are the bounds."]


def _qualities(found: Comparison, qualities: Sequence[Change]) -> Table:
    rows = [
        (
            item.setting,
            TITLES[item.metric],
            number(item.a or 0.0, 4),
            number(item.b or 0.0, 4),
            difference_cell(item),
            str(item.prompts),
            item.outcome.value,
        )
        for item in qualities
    ]
    notes = [
        "B - A: paired by prompt, more is better; perplexity in nats per token. Bounds hold together with 95 % over "
        "all settings and metrics.",
        *_left_out([item for item in found.skipped if item.metric != TIME]),
    ]
    header = ("", "metric", "A", "B", "B - A", "prompts", "")
    return Table(title="Quality", header=header, rows=tuple(rows), notes=tuple(notes))


def difference_cell(item: Change) -> str:
    """`-0.120 nats per token [-0.200, -0.0400]`."""
    unit = f" {UNITS[item.metric]}" if item.metric in UNITS else ""
    if item.low is None or item.high is None:
        return f"{signed(item.change)}{unit}"
    return f"{signed(item.change)}{unit} [{signed(item.low)}, {signed(item.high)}]"


def _left_out(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for item in skipped:
        side = f" in {item.side}" if item.side in ("A", "B") else ""
        name = "" if item.metric == TIME else f" {TITLES[item.metric]}"
        reasons.setdefault((item.why.value, side), []).append(f"{item.setting}{name}")
    return [f"Not judged, {why}{side}: {_named(labels)}." for (why, side), labels in reasons.items()]


def compare_json(found: Comparison, a: str, b: str, fail_if_worse: float | None = None) -> str:
    """Everything as plain data; units are those of the names, shares are shares."""
    matched = found.matched
    made: dict[str, Any] = {
        "a": a,
        "b": b,
        "sentence": str(found),
        "changed": [_plain(item) for item in found.beyond_noise],
        "conditions": [asdict(item) for item in matched.differing],
        "only_a": matched.only_a,
        "only_b": matched.only_b,
        "failed_a": matched.failed_a,
        "failed_b": matched.failed_b,
        "changes": [_plain(item) for item in found.changes],
        "not_judged": [asdict(item) | {"why": item.why.name.lower()} for item in found.skipped],
        "same_texts": {label: {"same": same, "prompts": n} for label, (same, n) in found.texts.items()},
        "across_devices": any(setting.across_devices for setting in matched.settings),
        "noise": asdict(found.noise),
    }
    if fail_if_worse is not None:
        worse = found.worse_than(fail_if_worse)
        made |= {"fail_if_worse": fail_if_worse, "failing": [_plain(item) for item in worse]}
    return json.dumps(made, indent=1)


def _plain(item: Change) -> dict[str, Any]:
    known = {key: value for key, value in asdict(item).items() if value is not None}
    known |= {"outcome": item.outcome.name.lower()}
    return known if item.worse_by is None else known | {"worse_by": item.worse_by}


def compare_figure(found: Comparison, a: str, b: str, fail_if_worse: float | None = None) -> "Figure | None":
    """The ratio of times of every setting with its interval, on a logarithmic axis; None where nothing was timed."""
    from matplotlib.figure import Figure

    times = [item for item in found.changes if item.metric == TIME]
    if not times:
        return None
    figure = Figure(figsize=(8.0, 1.8 + 0.34 * len(times)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"L_e2e of B over A\nA: {a}\nB: {b}", fontsize=9, loc="left")
    axes.axvline(1, color=REFERENCE, linewidth=0.9)
    if fail_if_worse is not None:
        axes.axvline(1 + fail_if_worse, color=CANDIDATE, linewidth=0.9, linestyle="--")
    colours = {Outcome.WORSE: CANDIDATE, Outcome.BETTER: BASELINE}
    for place, item in enumerate(times):
        colour = colours.get(item.outcome, REFERENCE)
        if item.low is not None and item.high is not None:
            axes.plot([item.low, item.high], [place, place], color=colour, linewidth=1.8)
        axes.plot([item.change], [place], "D" if item.setting == ALL_SETTINGS else "o", color=colour, markersize=6)
    axes.set_yticks(range(len(times)), [item.setting for item in times], fontsize=8)
    axes.invert_yaxis()
    ends = [end for item in times for end in (item.low, item.change, item.high) if end]
    logarithmic(axes, "x", [*ends, 0.95, 1.05])
    axes.set_xlabel(f"B / A, more than 1 is slower. {BARS}", fontsize=8)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
