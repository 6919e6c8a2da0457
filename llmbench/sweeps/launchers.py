"""Where do a sweep's jobs run? In this process, or wherever one of Hydra's launchers puts them.

A launcher gets blocks (`sweeps.blocks`) whose jobs stand in `plan.json`. Nothing else travels, so any worker that sees
the folder can run one. A worker that dies costs the job it was at: what its block had left is launched again.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmbench import record
from llmbench.config.conf_files import override
from llmbench.errors import JobsFailedError, RecordError, one_line
from llmbench.sweeps import block_task, plan_file
from llmbench.sweeps.block_task import BLOCK_FILE, RECORD_FILE, Block
from llmbench.sweeps.job_task import JobResult, track
from llmbench.sweeps.plan import Cell
from llmbench.system.terminal import lent, share_terminal

_POLL_S = 1.0
_GOES_ON = "what is recorded is kept, the same command goes on"


class Launcher(Protocol):
    """Runs jobs that were planned."""

    name: str
    """As the launcher's class is called."""

    splits: bool
    """Whether it may run several blocks at once."""

    here: bool
    """Whether its jobs run on this machine, so that they can be refused before they start."""

    def __call__(self, blocks: Sequence[Block]) -> list[JobResult]:
        """Run the jobs of each block; one that fails says so in its result and stops no other.

        Raises:
            JobsFailedError: the launcher starts no job.
        """


class InProcess:
    """One job after the other, in this process or in one that it starts for each."""

    name, splits, here = "this process", False, True

    def __init__(self, progress: bool = True) -> None:
        """`progress`: shown on the standard error stream."""
        self._progress = progress

    def __call__(self, blocks: Sequence[Block]) -> list[JobResult]:
        """See `Launcher`."""
        return [
            result for block in blocks for result in block_task.run_block(block, apart=False, progress=self._progress)
        ]


class ThroughHydra:
    """Hydra's launcher (joblib, submitit, Ray): each block is a call of `hydra_task.run_hydra_job` in its folder."""

    def __init__(self, launcher: Any, name: str) -> None:
        """`name`: of the launcher's class."""
        self._launcher = launcher
        self.name, self.here = name, name == "JoblibLauncher"
        self.splits = True

    def __call__(self, blocks: Sequence[Block]) -> list[JobResult]:
        """See `Launcher`."""
        results: dict[str, JobResult] = {}
        left, before = [block for block in blocks if block.left()], 0
        while left:
            together, suspects = _begun_last([block for block in left if block.left()])
            for batch in (together, *([block] for block in suspects)):
                results |= self._launch(batch) if batch else {}
            left = [block for block in left if any(str(job) not in results for job in block.left())]
            begun = sum((block.folder / BLOCK_FILE).is_file() for block in blocks)
            done = sum(len(block.jobs) - len(block.left()) for block in blocks) + len(results) + begun
            if left and done == before:
                raise JobsFailedError(f"{self.name} returns without having run its jobs; {_GOES_ON}")
            before = done
        return [results.get(str(job)) or _recorded(job) for block in blocks for job in block.jobs]

    def _launch(self, blocks: Sequence[Block]) -> dict[str, JobResult]:
        """Run blocks once. Where workers die, some are left; of one block alone, the job that it was at has failed."""
        markers = {block: _marker(block) for block in blocks}
        share_terminal()
        try:
            with lent():
                returned = self._launcher.launch([_overrides(block) for block in blocks], initial_job_idx=0)
            results = [result for job in returned for result in job.return_value]
        except Exception as error:
            _wait_for(blocks)
            if all(_marker(block) == markers[block] and block.left() for block in blocks):
                raise JobsFailedError(f"{self.name} starts no job ({one_line(error)}); {_GOES_ON}") from error
            if len(blocks) > 1 or not blocks[0].left():
                return {}
            lost = blocks[0].left()[0]
            return {str(lost): block_task.died(lost, f"its worker died ({one_line(error)})")}
        _wait_for(blocks)
        return {result.folder: result for result in results}


def through_hydra(launcher: Any, name: str) -> Launcher:
    """Hydra's launcher by the name of its class; the basic one is this process."""
    return InProcess() if name == "BasicLauncher" else ThroughHydra(launcher, name)


def _overrides(block: Block) -> list[str]:
    place, name = str(block.folder.parent), block.folder.name
    return [override("hydra.sweep.dir", place), override("hydra.sweep.subdir", name)]


def _begun_last(blocks: Sequence[Block]) -> tuple[list[Block], list[Block]]:
    """Blocks that no worker has begun, and those at which one was when it ended: each is then launched alone."""
    begun = [block for block in blocks if (block.folder / BLOCK_FILE).is_file()]
    return [block for block in blocks if block not in begun], begun


def _marker(block: Block) -> bytes | None:
    path = block.folder / BLOCK_FILE
    return path.read_bytes() + str(path.stat().st_mtime_ns).encode() if path.is_file() else None


def _wait_for(blocks: Sequence[Block]) -> None:
    """Wait for workers that go on although the launcher has given up, as those of a queue do."""
    while any(block_task.is_held(block) for block in blocks):
        time.sleep(_POLL_S)


def _recorded(job: Path) -> JobResult:
    """The result of a job whose worker died after it had written the Record."""
    entry = plan_file.load(job.parent).jobs[job.name]
    try:
        return track(record.load(job / RECORD_FILE), job, entry.title, entry.job.tracking)
    except RecordError as error:
        return JobResult(folder=str(job), label=entry.title, status="failed", reason=str(error), tracked=None)


def warn_parallel_launcher(cells: Sequence[Cell], blocks: int, launcher: Mapping[str, Any]) -> str:
    """A warning when blocks of this plan may run at the same time on one CPU; "" when they cannot.

    Args:
        cells: the plan.
        blocks: how many blocks are left to run.
        launcher: `hydra.launcher`: its `_target_` and, for joblib, `n_jobs`.
    """
    name, at_once = str(launcher.get("_target_", "")).rpartition(".")[2], launcher.get("n_jobs")
    on_cpu = any(cell.prepared.job.hardware.device == "cpu" for cell in cells if cell.reused is None)
    if name == "BasicLauncher" or at_once == 1 or blocks < 2 or not on_cpu:
        return ""
    count = f"{blocks} blocks" if at_once is None or at_once < 0 else f"{min(at_once, blocks)} blocks"
    return (
        f"Warning: {name} may run {count} at once; on the CPUs of one machine they disturb each other's timings, "
        "and each may get fewer threads"
    )
