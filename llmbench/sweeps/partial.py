"""A sweep of which Records are missing: a line that says so, and what blocks its verdict.

A k whose job has no Record belongs to the plan all the same: it takes part as a failed job does, so that the plan is
not taken for another one, and blocks every claim: nobody knows the smallest k that matches before all have run.
"""

from dataclasses import replace

from llmbench.analysis.formats import counted
from llmbench.analysis.parity.grouping import comparison_groups
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.record import Record
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

    One Record of status "missing" for each planned k that the set lacks, and one without k, which blocks its set.
    """
    if sweep.is_whole:
        return []
    planned = set(AnalysisPlan.from_json(sweep.registered).steps) if sweep.registered else set()
    found = []
    for members in comparison_groups(sweep.records):
        like = next((record for record in members if record.steps is not None), None)
        if like is not None:
            lacking = sorted(planned - {record.steps for record in members if record.steps is not None})
            found += [_missing(like, steps) for steps in (*lacking, None)]
    return found


def _missing(like: Record, steps: int | None) -> Record:
    name = f"k={steps}"
    return replace(
        like, identity=name, steps=steps, status="missing", reason="it has not run", outputs=(), scores=(), metrics={}
    )
