"""One number of CPU threads for all jobs of a sweep, where `hardware.threads` is null.

A sweep that goes on where another stopped keeps the number of the Records that it takes over; else a probe chooses
(`measure.threads`). The number travels in the planned job, so that every process that runs one takes the same.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from llmbench.job.prepared import Prepared
from llmbench.measure import threads as probe
from llmbench.measure.threads import ThreadChoice, default_threads
from llmbench.sweeps.plan import Cell
from llmbench.system.output import Level, emit


def with_threads(cells: Sequence[Cell], *, here: bool = True) -> list[Cell]:
    """The plan with the threads of every job that is left to run; a line on standard error where they are unusual.

    Args:
        cells: the plan, in which what is taken over is marked.
        here: they run in this process, one after the other; several workers have the cores that a launcher leaves them.
    """
    mine = [cell for cell in cells if cell.prepared.job.leaves_threads_open]
    left = [cell.prepared for cell in mine if cell.reused is None]
    taken = [cell.reused.environment.threads for cell in mine if cell.reused is not None]
    if not left or not (taken or here):
        return list(cells)
    if taken:
        number = taken[0]
        line = f"CPU threads: {number}, as in the jobs that are taken over" if number != default_threads() else ""
    else:
        choice = probe.choose(max(_width(prepared) for prepared in left))
        number, line = choice.threads, probe_line(choice)
    if line:
        emit(line, sys.stderr, at=Level.NORMAL)
    made = {item.identity: with_number(item, number) for item in left}
    return [replace(cell, prepared=made.get(cell.prepared.identity, cell.prepared)) for cell in cells]


def probe_line(choice: ThreadChoice) -> str:
    """A line on a machine that is busy, or where fewer threads than torch's own choice were taken; else ""."""
    if not choice.busy and choice.threads == choice.default:
        return ""
    tried = ", ".join(f"{ms:.3g} ms with {number}" for number, ms in choice.times_ms.items())
    why = [f"other programs keep {choice.others:.1f} of {choice.cores} cores busy"] if choice.busy else []
    why += [f"a probe took {tried}"] if tried else []
    return (
        f"CPU threads: {choice.threads} of {choice.default} ({'; '.join(why)}); hardware.threads=N sets another number"
    )


def with_number(prepared: Prepared, number: int) -> Prepared:
    """The job with its number of threads; its identity is that of the null."""
    job, default = prepared.job, default_threads()
    note = f"CPU threads: {number} of {default}, by a probe before the first job"
    notes = (*prepared.notes, note) if number != default else prepared.notes
    job = replace(job, hardware=replace(job.hardware, threads=number), threads_probed=True)
    return replace(prepared, job=job, notes=notes)


def _width(prepared: Prepared) -> int:
    return int(getattr(prepared.checkpoint.config, "hidden_size", 256))
