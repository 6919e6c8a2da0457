"""How far is a job, and how far its sweep? `job 3 of 12: llada k=8, about 4 min left`.

The sweep's part is read from its folder (the plan, and which Records are there), so it is the same in whichever
process a job runs.
"""

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llmbench.errors import RecordError
from llmbench.sweeps import plan_file
from llmbench.system.output import Level, emit
from llmbench.system.terminal import Activity, doing, say_or_draw, tick

RECORD_FILE = "record.json"


class Progress:
    """Progress of one job: `with Progress("llada k=8") as progress: job.run(prepared, progress.tick)`."""

    def __init__(self, label: str, shown: bool = True, place: "Place | None" = None) -> None:
        """`label`: the job's title; `place`: in its sweep."""
        self._label, self._shown, self._place = label, shown, place
        self._stack = contextlib.ExitStack()
        self._activity: Activity | None = None
        self._begun = time.monotonic()
        self._reason: str | None = None

    def __enter__(self) -> "Progress":
        if self._shown:
            head = self._place.line if self._place else str
            if self._place:
                say_or_draw(self._place.line())
            self._activity = self._stack.enter_context(doing("prepare", self._label, head))
        return self

    def tick(self, phase: str, done: int, total: int) -> None:
        """Say that `done` of `total` parts of a phase are finished."""
        if self._activity is not None:
            tick(self._activity, phase, done, total)

    def failed(self, reason: str) -> None:
        """Remember why the job ends here."""
        self._reason = reason

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        seconds = time.monotonic() - self._begun
        if kind is None and self._shown:
            if self._reason:
                emit(f"{self._label}: FAILED after {seconds:.0f} s: {self._reason}", sys.stderr)
            else:
                emit(f"{self._label}: done in {seconds:.0f} s", sys.stderr, at=Level.NORMAL)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A job among those of its sweep."""

    title: str
    number: int  # from 1
    jobs: int
    left_s: float | None  # expected from its begin to the end of the sweep; None: not known
    later_s: float | None  # of it, the jobs after this one
    begun: float  # monotonic

    def line(self) -> str:
        """`job 3 of 12: llada k=8, about 4 min left`."""
        said = f"job {self.number} of {self.jobs}: {self.title}"
        if self.left_s is None:
            return said
        spent = time.monotonic() - self.begun
        return f"{said}, about {duration(max(self.left_s - spent, self.later_s or 0.0))} left"


def place_of(folder: Path) -> Place | None:
    """The place of the job of a folder in its sweep; None where there is no plan."""
    try:
        plan = plan_file.load(folder.parent)
    except RecordError:
        return None
    entry = plan.jobs.get(folder.name)
    if entry is None:
        return None
    done = {name for name in plan.jobs if (folder.parent / name / RECORD_FILE).is_file()}
    expected = {name: item.expected_s for name, item in plan.jobs.items()}
    ran = [expected[name] for name in done if not plan.jobs[name].taken]
    elapsed = time.time() - plan.begun if plan.begun else None
    left = [name for name in plan.jobs if name not in done]
    return Place(
        title=entry.title,
        number=len(done) + 1,
        jobs=len(plan.jobs),
        left_s=left_s(ran, elapsed, [expected[name] for name in left]),
        later_s=left_s(ran, elapsed, [expected[name] for name in left if name != folder.name]),
        begun=time.monotonic(),
    )


def left_s(ran: Sequence[float | None], elapsed_s: float | None, left: Sequence[float | None]) -> float | None:
    """Seconds that jobs probably take: as expected, times what the others took of their expected time.

    A job of unknown time takes as long as the mean of the others.

    Args:
        ran: expected times of the jobs that have run; None: it was not known.
        elapsed_s: what they took together.
        left: expected times of those that are left.

    Returns:
        None where nothing has run, and a time is not known.
    """
    known = math.fsum(value for value in left if value is not None)
    unknown = sum(value is None for value in left)
    if not ran or elapsed_s is None:
        return None if unknown else known
    each, foreseen = elapsed_s / len(ran), math.fsum(value or 0.0 for value in ran)
    if None in ran or not foreseen:
        return each * len(left)
    return known * elapsed_s / foreseen + unknown * each


def duration(seconds: float) -> str:
    """`40 s`, `4 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
