"""Why a speedup may not be quoted: a slow baseline, other numbers of CPU threads, or times that vary too much."""

from collections.abc import Sequence
from statistics import quantiles

from llmbench.analysis.parity.grouping import Group
from llmbench.analysis.parity.sentences import named, number
from llmbench.record import Record, from_server


def slow_phrase(baseline: Sequence[Record], share: float) -> str:
    """The gate on speedups: said when the baseline is under this share of its roofline and the roofline can judge."""
    judged = [record for record in baseline if record.ceilings is not None and record.ceilings.judged]
    known = [r.metrics["roofline/efficiency"] for r in judged if "roofline/efficiency" in r.metrics]
    efficiency = min(known, default=None)
    if efficiency is None or efficiency >= share:
        return ""
    return f"{named(baseline[0])} at {100 * efficiency:.2g} % of its roofline limit: a speedup against a slow baseline"


UNSTEADY = 1.5
"""Quartiles of a batch's repeats that differ by more than this factor: other work ran on the device."""


def unsteady_phrase(records: Sequence[Record]) -> str:
    """The other gate on speedups: said of the side whose repeats of one batch differ most, if they differ too much."""
    from llmbench.analysis.parity.statistics import MIN_REPEATS

    found: list[tuple[float, str]] = []
    for record in records:
        repeats: dict[int, list[float]] = {}
        for timing in record.timings:
            repeats.setdefault(timing.batch, []).append(timing.e2e_ms)
        for times in repeats.values():
            if len(times) < MIN_REPEATS:
                continue
            low, _, high = quantiles(times, n=4, method="inclusive")
            if high > UNSTEADY * low:
                found.append((high / low, f"{record.label}: {number(low)} to {number(high)} ms"))
    if not found:
        return ""
    ratio, said = max(found)
    return (
        f"repeats of one batch differ {ratio:.1f}-fold between their quartiles ({said}): other work ran on this device"
    )


def threads_phrase(records: Sequence[Record]) -> str:
    """A gate on speedups: said when sides ran on a CPU with other numbers of threads; a server's are not known."""
    here = [record for record in records if not from_server(record) and record.environment.device == "cpu"]
    counts: dict[int, Record] = {}
    for record in here:
        counts.setdefault(record.environment.threads, record)
    if len(counts) < 2:
        return ""
    said = ", ".join(f"{count} at {record.label}" for count, record in counts.items())
    return f"CPU threads differ ({said})"


def doubt_phrase(sides: Group, share: float) -> str:
    """Every reason why a speedup may not be quoted; empty where there is none."""
    records = [record for _, members in sides.sides for record in members]
    found = [slow_phrase(sides.baseline, share), threads_phrase(records), unsteady_phrase(records)]
    return "; ".join(filter(None, found))
