"""What Hydra calls for each of its jobs: one job that runs alone, or a block of a sweep in a launcher's worker."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.errors import JobsFailedError, LlmbenchError
from llmbench.sweeps.block_task import on_its_card, run_launched
from llmbench.sweeps.job_task import (
    JobResult,
    command,
    expected,
    forecasts,
    measure,
    pages,
    quiet_libraries,
    refusals,
    refuse_isolation,
    require_servers,
    sync_command,
    take_over,
    track,
)
from llmbench.system.output import Level, emit, emit_document, level, logged, wants_document
from llmbench.system.paths import results
from llmbench.system.terminal import doing, width_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from llmbench.sweeps.plan import Cell
    from llmbench.tracking import Store


def run_hydra_job(tree: "DictConfig") -> JobResult | list[JobResult]:
    """Run the job of a composed tree, or in a sweep the planned block whose folder is Hydra's output folder.

    Raises:
        SystemExit: carrying an LlmbenchError, in a run of one job; Hydra would print more than one line of any other
            exception. Inside a sweep nothing is raised: the result says what happened.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    runtime = OmegaConf.to_container(HydraConfig.get().runtime, resolve=False)  # a folder's ${x} is no reference
    folder = Path(runtime["output_dir"])  # type: ignore[call-overload, index]
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_launched(folder)
    try:
        return _run_alone(tree, folder)
    except LlmbenchError as error:
        raise SystemExit(error) from error
    finally:
        _remove_empty(folder)


def _run_alone(tree: "DictConfig", folder: Path) -> JobResult:
    """A run of one job: checked first, then measured, logged without a parent, and printed."""
    from llmbench import tracking
    from llmbench.config.build import build_job, unread_options
    from llmbench.job.prepare import prepare_job
    from llmbench.sweeps import console, document, plan, threads

    quiet_libraries()
    with doing("planning"):
        built = build_job(tree)
        refuse_isolation(built, "llmbench -m ...")
        policy = "all" if built.reuse == "all" else "none"  # one job is no sweep that was interrupted
        unread = frozenset(unread_options(tree, built))
        (cell,) = take_over([plan.Cell(swept={}, prepared=prepare_job(built), unread=unread)], policy, [folder.parent])
    if built.dry_run:
        with doing("asking for bounds of time and memory"):
            refused, predicted = refusals([cell]), forecasts([cell], [folder.parent])
        emit(console.plan(cells=[cell], grid=1, forecasts=predicted, refusals=refused))
        if wants_document():
            times = expected([cell], [folder.parent])
            emit_document(document.text(document.of_plan(command(), [cell], times, refused)))
        return JobResult(folder="", label=built.label, status="finished", reason=None, tracked=None)
    for note in plan.notes([cell]):
        emit(note, sys.stderr, at=Level.NORMAL)
    if cell.reused is None:
        require_servers([built])
    with doing("opening the MLflow store"):
        store = tracking.open_store(built.tracking)  # an unreachable store is refused before any work
    with doing("choosing the number of CPU threads"):
        (cell,) = threads.with_threads([cell])
    if cell.reused is None:
        emit(console.expectation(list(expected([cell], [folder.parent]).values())), sys.stderr, at=Level.NORMAL)
    with logged(folder):
        return _run_and_print(cell, folder, store)


def _run_and_print(cell: "Cell", folder: Path, store: "Store") -> JobResult:
    """Measure, log and print a job that was prepared."""
    from llmbench.sweeps import console, document

    built = cell.prepared.job
    with on_its_card([built] if cell.reused is None else []):
        record = cell.reused or measure(built, built.label, cell.prepared)
    path = record.save(folder)
    with doing("writing to MLflow"):
        result = track(record, folder, built.label, built.tracking)
    where = [] if result.tracked else [f"Its run: {pages(store)}"]
    taken = cell.reused is not None
    width = width_of(sys.stdout)
    emit(console.job_ending(record, path, where, command(), taken=taken, width=width, level=level()))
    sends = f"{sync_command(folder, built.tracking.uri, built.tracking.experiment)} sends it"
    unlogged = f"not in MLflow ({result.tracked}); {sends}" if result.tracked else ""
    if wants_document():
        made = document.of_alone(command=command(), title=built.label, record=record, path=path, unlogged=unlogged)
        emit_document(document.text(made))
    if result.status != "finished" or unlogged:
        raise JobsFailedError(f"{result.label}: {'; '.join(filter(None, [result.reason, unlogged]))}")
    return result


def _remove_empty(folder: Path) -> None:
    """Take back the folder that Hydra made for a job, where nothing was written into it."""
    with contextlib.suppress(OSError):  # not empty, or gone
        folder.rmdir()
        if folder.parent == results():
            folder.parent.rmdir()
