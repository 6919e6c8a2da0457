"""Why a speedup may not be quoted, or what must be known beside it: Checks with their values."""

from collections.abc import Iterator, Sequence

from llmbench.analysis.implementations import implementation_name
from llmbench.analysis.parity.checks import note
from llmbench.analysis.parity.grouping import Group
from llmbench.analysis.parity.sides import Side
from llmbench.analysis.parity.speed import baselines_beside, shares_place
from llmbench.analysis.parity.verdict import Check, CheckName, Speedup
from llmbench.record import ROLE_SUFFIX, Record, from_server

OTHERS_PERCENT = 5.0
"""Mean share of the multiprocessors above which another process disturbs what is timed; a desktop takes less."""

DRIFT = 0.03
"""A change of the baseline's time between its two timings that a reader should know."""


def speed_checks(group: Group, speedups: Sequence[Speedup], roofline_share: float) -> tuple[Check, ...]:
    """Every Check on times that fails.

    Args:
        group: the sides.
        speedups: at each k.
        roofline_share: a baseline below this share of its roofline limit is slow.
    """
    return tuple(_found(group, speedups, roofline_share))


def _found(group: Group, speedups: Sequence[Speedup], roofline_share: float) -> Iterator[Check]:
    baseline = group.baseline.records if group.baseline else ()
    if (slow := slow_baseline(baseline, roofline_share)) is not None:
        yield slow
    if (threads := threads_differ(group.records)) is not None:
        yield threads
    for side in group.sides:
        if (others := other_busy(side, group)) is not None:
            yield others
    for side in group.candidates:
        cards = {r.environment.device_uuid for r in (*baseline, *side.records) if not from_server(r)} - {None}
        if not shares_place(group, side.records):
            name = CheckName.CARD
            yield note(name, {"label": side.label, "cards": float(len(cards))}, steps=side.steps, blocks="speed")
    for item in speedups:
        if item.unsteady is not None:
            straddles = item.low is None or item.high is None or item.low <= 1 <= item.high
            values: dict[str, float | str] = {"ratio": item.unsteady}
            yield note(CheckName.UNSTEADY, values, steps=item.steps, blocks="speed" if straddles else "note")
    drifts = [item.drift for item in speedups if item.drift is not None]
    worst = max(drifts, key=lambda drift: abs(drift - 1), default=1.0)
    if abs(worst - 1) > DRIFT:
        yield note(CheckName.DRIFT, {"ratio": worst})


def other_busy(side: Side, group: Group) -> Check | None:
    """Another process used the device while a side, or the baseline again beside a candidate, was timed."""
    beside = baselines_beside(group, side.records) if group.baseline and side.steps is not None else []
    again = [record for records in beside for record in records if record.role == "retimed"]
    shares = [(r.device_use.other_sm_percent or 0.0, r.label + ROLE_SUFFIX[r.role]) for r in (*side.records, *again)]
    percent, label = max(shares)
    if percent <= OTHERS_PERCENT:
        return None
    values: dict[str, float | str] = {"label": label, "value": percent / 100, "limit": OTHERS_PERCENT / 100}
    return note(CheckName.OTHERS, values, steps=side.steps, blocks="speed")


def slow_baseline(baseline: Sequence[Record], share: float) -> Check | None:
    """The baseline is under this share of its roofline, where the roofline can judge."""
    judged = [record for record in baseline if record.ceilings is not None and record.ceilings.judged]
    known = [r.metrics["roofline/efficiency"] for r in judged if "roofline/efficiency" in r.metrics]
    efficiency = min(known, default=None)
    if efficiency is None or efficiency >= share:
        return None
    values: dict[str, float | str] = {
        "label": str(implementation_name(baseline[0])),
        "value": efficiency,
        "limit": share,
    }
    return note(CheckName.SLOW_BASELINE, values, blocks="viable")


def threads_differ(records: Sequence[Record]) -> Check | None:
    """Sides ran on a CPU with other numbers of threads; a server's are not known."""
    here = [record for record in records if not from_server(record) and record.environment.device == "cpu"]
    counts: dict[int, str] = {}
    for record in here:
        counts.setdefault(record.environment.threads, record.label)
    if len(counts) < 2:
        return None
    return note(CheckName.THREADS, {label: float(count) for count, label in counts.items()}, blocks="speed")
