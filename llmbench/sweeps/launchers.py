"""Where do a sweep's jobs run? In this process, or wherever one of Hydra's launchers puts them.

A launcher gets the folders of jobs whose entries stand in `plan.json` beside them, in the plan's order. Nothing else
travels: Hydra's launchers know single jobs and no units of them, so those that use several workers keep neither a
baseline's curve nor a baseline and its candidates in one process. `Record.process` tells where each job ran.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmbench.errors import ConfigError
from llmbench.sweeps.job_task import JobResult, run_planned
from llmbench.sweeps.plan import Cell


class Launcher(Protocol):
    """Runs jobs that were planned."""

    def __call__(self, folders: Sequence[Path]) -> list[JobResult]:
        """Run the job of each folder; one that fails says so in its result and stops no other."""


def in_process(progress: bool = True) -> Launcher:
    """One job after the other, here; `progress`: shown on the standard error stream."""
    return lambda folders: [run_planned(folder, progress) for folder in folders]


def through_hydra(launcher: Any) -> Launcher:
    """Hydra's launcher (basic, joblib, submitit, Ray): each job is a call of `job_task.run_hydra_job` in its folder."""

    def launch(folders: Sequence[Path]) -> list[JobResult]:
        batch = [
            [f"hydra.sweep.dir={_quoted(str(folder.parent))}", f"hydra.sweep.subdir={_quoted(folder.name)}"]
            for folder in folders
        ]
        return [job.return_value for job in launcher.launch(batch, initial_job_idx=0)] if batch else []

    return launch


def _quoted(text: str) -> str:
    """A string as Hydra's override grammar takes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def warn_parallel_launcher(cells: Sequence[Cell], launcher: Mapping[str, Any]) -> str:
    """A warning when the launcher may run jobs of this plan at the same time; "" when it cannot.

    Args:
        cells: the plan.
        launcher: `hydra.launcher`: its `_target_` and, for joblib, `n_jobs`.

    Raises:
        ConfigError: several jobs at once on a GPU: each would be timed and weighed with the others on the device.
    """
    name, at_once = str(launcher.get("_target_", "")).rpartition(".")[2], launcher.get("n_jobs")
    waiting = [cell for cell in cells if cell.reused is None]
    if name == "BasicLauncher" or at_once == 1 or len(waiting) < 2:
        return ""
    if at_once is not None and any(cell.prepared.job.hardware.device == "cuda" for cell in waiting):
        raise ConfigError(
            f"hydra.launcher.n_jobs={at_once}: jobs at once on a GPU would measure each other; "
            "use hydra.launcher.n_jobs=1, or leave hydra/launcher out"
        )
    count = "several jobs" if at_once is None or at_once < 0 else f"{at_once} jobs"
    return (
        f"Warning: {name} may run {count} at once; on one machine they disturb each other's timings, "
        "and each may get fewer threads"
    )
