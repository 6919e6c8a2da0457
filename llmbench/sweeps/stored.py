"""Recorded sweeps of an MLflow store. A Record that the store lacks is read from the sweep's folder, where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmbench.record import Record, sorted_records
from llmbench.sweeps import state
from llmbench.sweeps.folder import read_sweep
from llmbench.sweeps.recorded import RecordedSweep
from llmbench.system.paths import results
from llmbench.tracking import Store, SweepSummary
from llmbench.tracking.store_uri import sqlite_file


@dataclass(frozen=True)
class StoredSweeps:
    """The sweeps of an MLflow store."""

    store: Store

    @property
    def location(self) -> str:
        """The URI."""
        return self.store.uri

    @property
    def options(self) -> str:
        """`--uri` and `--experiment`, where they are not the usual ones."""
        return self.store.options

    def newest_first(self) -> list[tuple[SweepSummary, int]]:
        """See `RecordedSweeps`."""
        logged = self.store.logged()
        return [(sweep, logged.get(sweep.run_id, 0)) for sweep in self.store.sweeps()]

    def read(self, sweep: SweepSummary) -> RecordedSweep:
        """See `RecordedSweeps`."""
        return read_run(self.store, sweep)


def read_run(store: Store, sweep: SweepSummary) -> RecordedSweep:
    """A sweep of a store with its Records, completed from its folder where that is at hand.

    Raises:
        TrackingError: the store cannot be read.
    """
    records, reasons = store.read_records(sweep.run_id)
    planned = store.planned(sweep.run_id)
    found = RecordedSweep(
        **asdict(sweep),
        records=tuple(records),
        planned=planned,
        missing=_missing(planned, records, reasons),
        history=tuple(store.past_analyses(sweep.run_id)),
        runs=store.job_runs(sweep.run_id),
    )
    folder = None if found.is_whole else _folder(store, sweep)
    if folder is None:
        return found
    here = read_sweep(folder)
    planned = here.planned_identities if planned is None else planned
    known = {record.identity for record in records}
    wanted = here.records if planned is None else [record for record in here.records if record.identity in planned]
    both = sorted_records([*records, *(record for record in wanted if record.identity not in known)])
    return replace(
        found,
        path=folder,
        records=tuple(both),
        planned=planned,
        missing=_missing(planned, both, reasons),
        runs={**here.runs, **found.runs},
    )


def _missing(
    planned: Mapping[str, str] | None, records: Sequence[Record], reasons: Mapping[str, str]
) -> tuple[str, ...]:
    """Titles of the planned jobs without a Record, or of the unreadable ones where no plan is known."""
    known = {record.identity for record in records}
    if planned is None:
        return tuple(f"{identity} ({reason})" for identity, reason in reasons.items() if identity not in known)
    left = {identity: title for identity, title in planned.items() if identity not in known}
    return tuple(f"{title} ({reasons[key]})" if key in reasons else title for key, title in left.items())


def _folder(store: Store, sweep: SweepSummary) -> Path | None:
    """The folder of a sweep: beside the store, among the results, or where it was written; None where it is gone."""
    file, written = sqlite_file(store.uri), store.folder(sweep.run_id)
    near = [folder / sweep.name for folder in (file.parent if file else None, results()) if folder is not None]
    for folder in [*near, *([written] if written else [])]:
        here = state.read(folder)
        if here is not None and here.parent == sweep.run_id:
            return folder
    return None
