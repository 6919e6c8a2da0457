"""A sweep of which Records are missing: a line that says so, and what blocks its verdict.

A k whose job has no Record belongs to the plan all the same: it takes part as a failed job does, so that the plan is
not taken for another one, and blocks every claim: nobody knows the smallest k that matches before all have run.
"""

from dataclasses import replace

from llmbench.analysis.parity.grouping import comparison_groups
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.analysis.parity.verdict import Parity
from llmbench.record import Record
from llmbench.report.layout import counted
from llmbench.sweeps.recorded import RecordedSweep

_NAMED = 5
"""How many missing jobs a line names."""


def warning(sweep: RecordedSweep) -> str:
    """A line on a sweep of which Records are missing; "" for one that is whole."""
    if sweep.is_whole:
        return ""
    states = {"RUNNING": ", still running, or killed", "KILLED": ", interrupted"}
    done, jobs = len(sweep.records), len(sweep.planned) if sweep.planned is not None else sweep.jobs
    count = counted(done, "job") if jobs is None else f"{done} of {counted(jobs, 'job')}"
    more = f" and {len(sweep.missing) - _NAMED} more" if len(sweep.missing) > _NAMED else ""
    missing = f"; missing: {', '.join(sweep.missing[:_NAMED])}{more}" if sweep.missing else ""
    goes_on = f"; the same command goes on: {sweep.command}" if sweep.command else ""
    return f"PARTIAL: {count} of sweep {sweep.name}{states.get(sweep.status, '')}{missing}{goes_on}"


def stand_ins(sweep: RecordedSweep) -> list[Record]:
    """What takes part for the jobs without a Record, in every set of comparable Records; none for a whole sweep.

    One failed Record for each planned k that the set lacks, and one without k, which blocks the set that it joins.
    """
    if sweep.is_whole:
        return []
    planned = set(AnalysisPlan.from_json(sweep.registered).steps) if sweep.registered else set()
    found = []
    for members in comparison_groups(sweep.records):
        like = next((record for record in members if record.steps is not None), None)
        if like is not None:
            lacking = sorted(planned - {record.steps for record in members if record.steps is not None})
            found += [_failed(like, steps) for steps in (*lacking, None)]
    return found


def verdict(reached: Parity) -> Parity:
    """The same verdict, whose advice on jobs that did not run is to run them."""
    change = "the same command runs them"
    return replace(reached, gates=tuple(replace(g, change=change) if _REASON in g.reason else g for g in reached.gates))


_REASON = "the sweep did not come to its end"


def _failed(like: Record, steps: int | None) -> Record:
    name = f"k={steps}"
    return replace(like, identity=name, steps=steps, status="failed", reason=_REASON, outputs=(), scores=(), metrics={})
