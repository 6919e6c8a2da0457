"""From a folder of Records into a store: what a store lacks of them, from any machine, and nothing twice.

A sweep whose store was away, that was killed, or that was measured elsewhere: its Records lie in its folder. They go
into the parent run that the store has of it, or into a new one. The verdict is made of them once all are there.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench import record
from llmbench.analysis.formats import counted
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.errors import RecordError
from llmbench.sweeps import state
from llmbench.sweeps.conclusion import conclude
from llmbench.sweeps.folder import RECORD_FILE, is_sweep, read_sweep, sweep_folders
from llmbench.sweeps.recorded import RecordedSweep

if TYPE_CHECKING:
    from llmbench.tracking import Store


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of one folder."""

    folder: Path
    run_id: str = ""  # of the sweep's parent, or of a single job; "" where nothing was sent
    sent: int = 0  # Records that the store lacked
    there: int = 0  # Records that it had
    status: str = ""  # of that run now
    problem: str = ""  # why not everything is there

    def __str__(self) -> str:
        """One line."""
        count = f"{counted(self.sent, 'Record')} sent, {self.there} there already"
        run = f"; run {self.run_id}, {self.status.lower()}" if self.run_id else ""
        return f"{self.folder}: {count}{run}{f'; {self.problem}' if self.problem else ''}"


def sync(folder: Path, store: "Store") -> Iterator[Sent]:
    """Send what a store lacks of a folder: a sweep's, a single job's, or all of those in it, oldest first.

    Raises:
        RecordError: there is no such folder, or nothing was recorded in it.
        TrackingError: the store cannot be written.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder")
    alone = (
        [folder]
        if (folder / RECORD_FILE).is_file()
        else sorted(path.parent for path in folder.glob(f"*/{RECORD_FILE}"))
    )
    sweeps = sweep_folders(folder)[::-1]
    if not sweeps and not alone:
        raise RecordError(
            f"{folder}: nothing was recorded there; name the folder of a sweep, or one that holds several"
        )
    for place in sweeps if is_sweep(folder) else [*sweeps, *alone]:
        try:
            yield _send_sweep(place, store) if is_sweep(place) else _send_job(place, store)
        except RecordError as error:
            yield Sent(folder=place, problem=str(error))


def _send_job(folder: Path, store: "Store") -> Sent:
    """A job that ran alone."""
    found = record.load(folder / RECORD_FILE)
    if found.context.parent:
        raise RecordError(f"{folder} is a job of a sweep; name {folder.parent}")
    before = store.find_job(found, None)
    run_id = before or store.log_job(found, parent=None, steps_axis=(), swept={})
    return Sent(folder=folder, run_id=run_id, sent=not before, there=bool(before), status=found.status)


def _send_sweep(folder: Path, store: "Store") -> Sent:
    """Parent run, Records and verdict of a sweep."""
    if state.is_running(folder):
        return Sent(folder=folder, problem="the sweep is still running, and sends its Records by itself")
    found = read_sweep(folder)
    if not found.records:
        return Sent(folder=folder, problem="no job has left a Record")
    parent = store.find_sweep_run(_key(found)) or _start(found, folder, store)
    there = {item.identity for item in store.records(parent)}
    lacking = [item for item in found.records if item.identity not in there]
    for item in lacking:
        store.log_job(item, parent=parent, steps_axis=item.context.steps_axis, swept=item.context.swept)
    problem = ""
    if not found.is_whole:
        store.abort_sweep(parent)
        problem = f"the sweep was interrupted; missing: {', '.join(found.missing) or 'nobody knows what'}"
    elif lacking or not store.is_concluded(parent):
        _conclude(found, folder, store, parent)
    count = len(lacking)
    status = store.status(parent)
    return Sent(
        folder=folder, run_id=parent, sent=count, there=len(found.records) - count, status=status, problem=problem
    )


def _key(found: RecordedSweep) -> str:
    """What tells this sweep from all others: the run id of its first parent, which its Records know, too."""
    known = (item.context.parent for item in found.records if item.context.parent)
    return found.run_id or next(known, "") or f"{found.name} {found.records[0].started_at}"


def _start(found: RecordedSweep, folder: Path, store: "Store") -> str:
    """A parent run for a sweep that the store does not know."""
    from llmbench.tracking import axes_of

    begun = min(datetime.fromisoformat(item.started_at) for item in found.records)
    return store.start_sweep(
        name=found.name,
        command=found.command or "",
        jobs=len(found.records) if found.jobs is None else found.jobs,
        recipe=found.recipe or "",
        registered=found.registered or "",
        planned=found.planned_identities,
        axes=axes_of(found.records),
        folder=str(folder.resolve()),
        key=_key(found),
        began_ms=int(begun.timestamp() * 1000),
    )


def _conclude(found: RecordedSweep, folder: Path, store: "Store", parent: str) -> None:
    """Make the verdict of a whole sweep, write it to the parent run and end it."""
    known = list(found.history)
    known += [item for item in store.past_analyses(parent) if item not in known]
    options = AnalysisPlan.from_json(found.registered).options if found.registered else None
    recipe, command = found.recipe or "", found.command or ""
    reached, shown = conclude(found.records, options=options, history=known, recipe=recipe, command=command)
    failed = [item.label for item in found.records if item.status != "finished"]
    ends = [datetime.fromisoformat(item.started_at) + timedelta(seconds=item.duration_s) for item in found.records]
    store.finish_sweep(
        parent,
        reached,
        found.records,
        failed=failed,
        note=shown.note,
        files=shown.files,
        ended_ms=int(max(ends).timestamp() * 1000),
    )
    own = state.read(folder)
    if own is not None and own.parent == parent and not own.ended:
        with suppress(OSError):  # a folder that can only be read
            verdict = ", ".join(dict.fromkeys(item.status.value for item in reached))
            state.mark_logged(folder, store, parent, verdict=verdict, failed=failed)
