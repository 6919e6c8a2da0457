"""A sweep that was recorded: what it planned, the Records that are left of it, and what is missing.

It is read from its folder (`sweeps.folder`) or from an MLflow store (`sweeps.stored`). What was planned is compared
with what was read, whatever the sweep wrote at its end: a store may have been away, an artifact deleted, a run moved
to the trash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmbench.analysis.parity.interim import PastAnalysis
from llmbench.record import Record
from llmbench.tracking.summary import SweepSummary


@dataclass(frozen=True, kw_only=True)
class RecordedSweep(SweepSummary):
    """A sweep with its Records."""

    path: Path | None = None  # its folder, where it is at hand
    records: tuple[Record, ...] = ()  # as `record.sorted_records` has them
    planned: Mapping[str, str] | None = None  # title by identity (store) or job's folder; None: not known
    missing: tuple[str, ...] = ()  # titles of planned jobs without a Record, with the reason where one is known
    history: tuple[PastAnalysis, ...] = ()  # analyses of earlier sweeps that its verdicts count
    runs: Mapping[str, str] = field(default_factory=dict)  # MLflow run id, or job's folder, by a Record's identity

    @property
    def planned_identities(self) -> dict[str, str] | None:
        """The title of every planned job by its identity, with which the name of a job's folder ends."""
        if self.planned is None:
            return None
        return {name.rpartition("-")[2]: title for name, title in self.planned.items()}

    @property
    def is_whole(self) -> bool:
        """Whether nothing that was planned is known to be missing."""
        if self.missing:
            return False
        if self.planned is not None:
            return True
        return self.ended if self.jobs is None else len(self.records) >= self.jobs


class RecordedSweeps(Protocol):
    """Where sweeps are read from."""

    @property
    def location(self) -> str:
        """Store or folder, for messages."""

    @property
    def options(self) -> str:
        """What `report` needs to read from here again, with a space in front."""

    def newest_first(self) -> list[tuple[SweepSummary, int]]:
        """Every sweep, newest first, with the number of its Records.

        Raises:
            TrackingError: the place cannot be read.
        """

    def read(self, sweep: SweepSummary) -> RecordedSweep:
        """One of them with its Records.

        Raises:
            TrackingError: the place cannot be read.
        """
