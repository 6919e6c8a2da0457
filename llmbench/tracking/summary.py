"""A sweep as a list of sweeps shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmbench.errors import TrackingError


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """A sweep without its Records."""

    run_id: str  # of its parent in MLflow; "" where that is not known
    name: str  # of its folder
    status: str  # RUNNING, FINISHED, FAILED, KILLED
    recipe: str | None = None  # the file of conf/experiment
    command: str | None = None  # what was typed
    verdict: str | None = None  # status of the parity verdict
    registered: str | None = None  # what its verdict was to test, as JSON, written before the first job
    jobs: int | None = None  # planned

    @property
    def ended(self) -> bool:
        """Whether it came to its end, with failed jobs or without."""
        return self.status in ("FINISHED", "FAILED")

    @property
    def title(self) -> str:
        """Name and run id."""
        return f"sweep {self.name} ({self.run_id})" if self.run_id else f"sweep {self.name}"


def find_sweep(sweeps: Sequence[SweepSummary], named: str, where: object) -> SweepSummary:
    """One sweep, by its run id, its name, or the beginning of either that only one has.

    Args:
        sweeps: among which.
        named: what was typed.
        where: store or folder, for messages.

    Raises:
        TrackingError: there is none, or several.
    """
    found = [item for item in sweeps if named in (item.run_id, item.name)]
    found = found or [item for item in sweeps if item.run_id.startswith(named) or item.name.startswith(named)]
    if not found:
        raise TrackingError(f"there is no sweep {named} in {where}; `report sweeps` lists them")
    if len(found) > 1:
        few = ", ".join(f"{item.name} ({item.run_id})" for item in found[:3])
        raise TrackingError(f"{named} means {len(found)} sweeps: {few}{', ...' if len(found) > 3 else ''}")
    return found[0]
