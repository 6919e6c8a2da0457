"""What did a sweep plan? `plan.json` in its folder: every job and what the sweep tells it, by the job's own folder.

Any worker that sees the folder can run a job from it. Whoever reads the results can tell which jobs are missing.
"""

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmbench.config.job import Job
from llmbench.config.parity import ParityConfig
from llmbench.errors import RecordError
from llmbench.record import JobContext
from llmbench.system.files import write_atomic

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One job of a plan."""

    identity: str
    title: str  # what tells this job from the others, for people
    job: Job  # hardware and chat resolved; the store's URI without credentials
    context: JobContext
    notes: tuple[str, ...] = ()  # what was left out while it was planned, and how to get it
    expected_s: float | None = None  # seconds that it probably takes; None: not known
    taken: bool = False  # over from an earlier sweep


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """A sweep as it was planned."""

    command: str  # what was typed, without a password
    recipe: str  # the file of conf/experiment; "" for none
    steps_axis: tuple[int, ...]  # K
    parity: ParityConfig
    jobs: dict[str, Entry]  # by the name of a job's folder
    blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # names of jobs that one worker runs in turn
    begun: float = 0.0  # when its jobs began, seconds since 1970; 0: not known
    working_directory: str = field(default_factory=os.getcwd)  # where relative paths of the jobs begin
    format: Literal[1] = 1

    def save(self, folder: Path) -> None:
        """Write the plan into a sweep's folder.

        Raises:
            OSError: it cannot be written.
        """
        write_atomic(folder / FILE, _adapter().dump_json(self, indent=1))


def load(folder: Path) -> PlanFile:
    """The plan in a sweep's folder.

    Raises:
        RecordError: there is none, or it cannot be read.
    """
    path = folder / FILE
    try:
        return _adapter().validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a plan: {str(error).splitlines()[0]}") from error


@functools.cache
def _adapter() -> "TypeAdapter[PlanFile]":
    from pydantic import TypeAdapter

    return TypeAdapter(PlanFile)
