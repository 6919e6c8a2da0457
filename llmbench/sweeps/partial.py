"""What is said of a sweep that did not come to its end? That it is partial, and how it goes on; never a whole verdict.

Its parent run says how many jobs were planned and at which k. A k whose job did not run belongs to the plan all the
same: it takes part as a failed job does, so that the plan is not taken for another one, and blocks every claim: nobody
knows the smallest k that matches before all have run.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmbench.analysis.parity.grouping import comparison_groups
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.analysis.parity.verdict import Parity
from llmbench.record import Record
from llmbench.report.layout import counted

if TYPE_CHECKING:
    from llmbench.tracking import Sweep


def state(sweep: "Sweep", recorded: int) -> str:
    """A line on a sweep that did not come to its end; "" for one that did.

    Args:
        sweep: its parent run.
        recorded: how many of its jobs are in the store.
    """
    if sweep.ended:
        return ""
    what = "still running, or killed" if sweep.status == "RUNNING" else "interrupted"
    done = str(recorded) if sweep.jobs is None else f"{recorded} of {counted(sweep.jobs, 'job')}"
    goes_on = f"; the same command goes on: {sweep.command}" if sweep.command else ""
    return f"PARTIAL: {done} of sweep {sweep.name}, {what}{goes_on}"


def lacks(sweep: "Sweep", recorded: int) -> bool:
    """Whether jobs are missing that its table would need; a sweep that was cut off behind its last job is whole."""
    return not sweep.ended and (sweep.jobs is None or recorded < sweep.jobs)


def not_run(sweep: "Sweep", records: Sequence[Record]) -> list[Record]:
    """What stands for the planned k of which there is no Record, in every set of comparable Records.

    One failed Record for each of those k, and one without k, which blocks the set that it joins.
    """
    if sweep.ended:
        return []
    planned = set(AnalysisPlan.from_json(sweep.registered).steps) if sweep.registered else set()
    found = []
    for members in comparison_groups(records):
        known = {record.steps for record in members}
        like = next((record for record in members if record.steps is not None), None)
        if like is not None:
            missing = sorted(planned - known)
            found += [_failed(like, steps) for steps in (*missing, *([None] if missing else []))]
    return found


def verdict(found: Parity) -> Parity:
    """The same verdict, whose advice on jobs that did not run is to run them."""
    change = "the same command runs them"
    return replace(found, gates=tuple(replace(g, change=change) if _REASON in g.reason else g for g in found.gates))


_REASON = "the sweep did not come to its end"


def _failed(like: Record, steps: int | None) -> Record:
    name = f"k={steps}"
    return replace(like, identity=name, steps=steps, status="failed", reason=_REASON, outputs=(), scores=(), metrics={})
