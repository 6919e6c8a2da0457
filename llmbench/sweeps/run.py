"""What goes on around many jobs: plan, parent run, launch, verdict.

The whole grid is planned before the first job, and the plan is written into the sweep's folder. A launcher runs the
jobs that are left. A job that fails does not stop the others. The sweep ends with the verdict.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.analysis.formats import counted
from llmbench.errors import JobsFailedError, TrackingError
from llmbench.sweeps import baseline_jobs, document, plan, plan_file, state
from llmbench.sweeps.block_task import BLOCK_FILE, Block
from llmbench.sweeps.blocks import blocks as cut
from llmbench.sweeps.job_task import (
    JobResult,
    command,
    expected,
    forecasts,
    keep_prepared,
    pages,
    quiet_libraries,
    refusals,
    require_servers,
    send_again,
    sync_command,
    take_over,
    track,
)
from llmbench.sweeps.launchers import Launcher, through_hydra, warn_parallel_launcher
from llmbench.sweeps.threads import with_threads
from llmbench.system import signals
from llmbench.system.output import LOG_FILE, Level, emit, emit_document, level, logged, to_log, wants_document
from llmbench.system.paths import results
from llmbench.system.terminal import doing, width_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from llmbench.analysis.parity.interim import PastAnalysis
    from llmbench.analysis.parity.parity import Parity
    from llmbench.config.parity import ParityConfig
    from llmbench.record import Record
    from llmbench.tracking import Store


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A sweep that came to its end."""

    folder: Path
    results: tuple[JobResult, ...]
    records: "tuple[Record, ...]"
    verdicts: "tuple[Parity, ...]"
    shown: "Callable[[int | None, Level], str]"  # tables and verdict for a terminal of that width
    document: dict[str, Any]  # the result for programs
    unlogged: str  # what is not in the store, why, and what sends it; "" when everything is there

    def require_success(self) -> None:
        """Raise where something failed.

        Raises:
            JobsFailedError: names the jobs and their reasons.
        """
        failed = [item for item in self.results if item.status != "finished"]
        reasons = "; ".join(f"{item.label}: {item.reason}" for item in failed)
        said = [f"{len(failed)} of {len(self.results)} jobs failed: {reasons}"] if failed else []
        if said or self.unlogged:
            raise JobsFailedError("; ".join([*said, *filter(None, [self.unlogged])]))


def sweep(arguments: list[str], config_loader: Any, hydra_config: "DictConfig", launcher: Any) -> list[JobResult]:
    """Run the grid that a command line spans.

    Raises:
        UsageError: a cell is wrong or the store cannot be used; nothing has run.
        JobsFailedError: the sweep is complete, but jobs failed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def compose(overrides: list[str]) -> "DictConfig":
        return _without_hydra(config_loader.load_sweep_config(hydra_config, overrides))

    signals.install_signal_handlers()
    grid = plan.expand(OverridesParser.create(config_loader=config_loader).parse_overrides(arguments))
    own = hydra_config.hydra.launcher
    done = run_grid(
        grid,
        compose,
        folder=Path(str(hydra_config.hydra.sweep.dir)).resolve(),
        launch=through_hydra(launcher, str(own.get("_target_", "")).rpartition(".")[2]),
        recipe=str(hydra_config.hydra.runtime.choices.get("experiment") or ""),
        typed=command(),
        parallel=lambda cells, blocks: warn_parallel_launcher(cells, blocks, own),
    )
    if done is None:
        return []
    emit(done.shown(width_of(sys.stdout), level()))
    if wants_document():
        emit_document(document.text(done.document))
    done.require_success()
    return list(done.results)


def run_grid(
    grid: Sequence[tuple[tuple[str, ...], dict[str, str]]],
    compose: "Callable[[list[str]], DictConfig]",
    *,
    folder: Path,
    launch: Launcher,
    recipe: str,
    typed: str,
    parallel: Callable[[Sequence[plan.Cell], int], str] = lambda cells, blocks: "",
    show: bool = True,
) -> Finished | None:
    """Plan a grid, run its jobs, and reach the verdict; None for a dry run, which ends with the plan.

    Args:
        grid: each cell's overrides, and its values on the swept axes.
        compose: makes the configuration of overrides.
        folder: of the sweep.
        launch: runs blocks of jobs.
        recipe: the file of conf/experiment; "" for none.
        typed: the command, without a password.
        parallel: a warning for so many blocks that may run at once; "" for none.
        show: print the plan.

    Raises:
        UsageError: a cell is wrong or the store cannot be used; nothing has run.
    """
    quiet_libraries()
    started = time.monotonic()
    with doing("planning"):
        cells = baseline_jobs.with_curves(plan.build(grid, compose, here=launch.here))
        first = cells[0].prepared.job
        cells = baseline_jobs.in_order(take_over(cells, first.reuse, [folder.parent]))
        cells = baseline_jobs.with_retimed(cells)
        times = expected(cells, [folder.parent])
    blocks = _blocks(cells, split=launch.splits)
    warning = parallel(cells, len(blocks))
    if show or first.dry_run:
        _show_plan(cells, len(grid), folder, times, typed)
    else:
        for note in plan.notes(cells):
            emit(note, sys.stderr, at=Level.NORMAL)
    if launch.splits:
        sizes = ", ".join(str(len(names)) for names in blocks.values())
        emit(f"{counted(len(blocks), 'block')} for {launch.name}; jobs in each: {sizes}", sys.stderr, at=Level.NORMAL)
    if warning:
        emit(warning, sys.stderr, at=Level.NORMAL)
    if first.dry_run:
        return None
    require_servers([cell.prepared.job for cell in cells if cell.reused is None])
    with doing("choosing the number of CPU threads"):
        cells = with_threads(cells, here=not launch.splits)
    return _run(cells, blocks, folder, launch, recipe, typed, started, times)


def _blocks(cells: "Sequence[plan.Cell]", *, split: bool) -> "dict[str, tuple[str, ...]]":
    """Names of the jobs that are left to run, block by block, by the name of the block's folder."""
    found = cut(cells) if split else [list(cells)]
    left = [tuple(cell.name for cell in block if cell.reused is None) for block in found]
    return {f"block-{number}": names for number, names in enumerate(filter(None, left))}


def _show_plan(
    cells: "Sequence[plan.Cell]", grid: int, folder: Path, times: "dict[str, float | None]", typed: str
) -> None:
    """Print the plan; of a dry run with bounds of time and memory, and with what would be refused."""
    from llmbench.sweeps import console

    if not cells[0].prepared.job.dry_run:
        emit(console.plan(cells, grid=grid, expected=times, width=width_of(sys.stdout)), at=Level.NORMAL)
        return
    with doing("asking for bounds of time and memory"):
        predicted, refused = forecasts(list(cells), [folder.parent]), refusals(list(cells))
    emit(console.plan(cells, grid=grid, forecasts=predicted, refusals=refused))
    if wants_document():
        emit_document(document.text(document.of_plan(typed, cells, times, refused)))


def _run(
    cells: "Sequence[plan.Cell]",
    blocks: "dict[str, tuple[str, ...]]",
    folder: Path,
    launch: Launcher,
    recipe: str,
    typed: str,
    started: float,
    times: "dict[str, float | None]",
) -> Finished:
    """Everything from the store to the verdict; the folder is this sweep's alone meanwhile."""
    from llmbench import tracking

    with doing("opening the MLflow store"):
        store = tracking.open_store(cells[0].prepared.job.tracking)
        state.abort_orphans(store, [folder.parent, results()])  # also the one that this sweep's folder may tell of
    with state.held(folder), logged(folder, others=not launch.splits):
        return _run_held(cells, blocks, folder, store, launch, recipe, typed, started, times)


def _run_held(
    cells: "Sequence[plan.Cell]",
    blocks: "dict[str, tuple[str, ...]]",
    folder: Path,
    store: "Store",
    launch: Launcher,
    recipe: str,
    typed: str,
    started: float,
    times: "dict[str, float | None]",
) -> Finished:
    """Everything from the parent run to the verdict."""
    from llmbench.analysis.parity.interim import AnalysisPlan

    first = cells[0].prepared.job
    axis = plan.steps_axis(cells)
    registered = AnalysisPlan(options=first.parity, steps=tuple(axis)).to_json()  # before the first job
    planned = {cell.prepared.identity: cell.title for cell in cells}
    with doing("writing the plan to MLflow"):
        parent = store.start_sweep(
            name=folder.name,
            command=typed,
            jobs=len(cells),
            recipe=recipe,
            registered=registered,
            planned=planned,
            axes=plan.axes(cells),
            folder=str(folder),
        )
    with state.running(folder, store, parent) as end:
        entries = {
            cell.name: plan.entry(cell, store.uri, folder.name, parent, axis, times.get(cell.prepared.identity))
            for cell in cells
        }
        plan_file.PlanFile(
            command=typed,
            recipe=recipe,
            steps_axis=tuple(axis),
            parity=first.parity,
            jobs=entries,
            blocks=blocks,
            begun=time.time(),
        ).save(folder)
        done = [_take(cell.reused, folder / cell.name, entries[cell.name]) for cell in cells if cell.reused is not None]
        left = [cell for cell in cells if cell.reused is None]
        for cell in left:
            (folder / cell.name / plan.RECORD_FILE).unlink(missing_ok=True)  # of an earlier sweep in this folder
            keep_prepared(folder / cell.name, replace(cell.prepared, job=entries[cell.name].job))
        for name in blocks:
            (folder / name / BLOCK_FILE).unlink(missing_ok=True)
        planned_blocks = [
            Block(folder=folder / name, jobs=tuple(folder / job for job in jobs)) for name, jobs in blocks.items()
        ]
        done += launch(planned_blocks)
        taken = [cell.reused for cell in cells if cell.reused is not None]
        with doing("writing to MLflow"):
            done, away = send_again(done, first.tracking)
            history = [] if away else _history(store, parent)
        seconds = time.monotonic() - started
        with doing("tables, figures and verdict"):
            ended = _finish(store, parent, done, taken, folder, seconds, recipe, typed, first.parity, history, away)
        end(
            logged=not ended.unlogged,
            verdict=", ".join(dict.fromkeys(item.status.value for item in ended.verdicts)),
            failed=[item.label for item in done if item.status != "finished"],
            history=[item.to_json() for item in history],
        )
    return ended


def _without_hydra(tree: "DictConfig") -> "DictConfig":
    """What a job sees of a composed tree; Hydra's own part needs a job number that no job has yet."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])


def _take(reused: "Record", folder: Path, entry: plan_file.Entry) -> JobResult:
    """Carry a finished Record into this sweep: its folder and its parent run."""
    record = replace(reused, context=entry.context)
    try:
        record.save(folder)
    except OSError as error:
        reason = f"cannot write {error.filename}: {error.strerror}"
        return JobResult(folder=str(folder), label=entry.title, status="failed", reason=reason, tracked=None)
    return track(record, folder, entry.title, entry.job.tracking)


def _finish(
    store: "Store",
    parent: str,
    done: Sequence[JobResult],
    taken: "Sequence[Record]",
    folder: Path,
    seconds: float,
    recipe: str,
    typed: str,
    options: "ParityConfig",
    history: "Sequence[PastAnalysis]",
    away: str,
) -> Finished:
    """Read the Records back, reach the verdict and write it to the parent run; `away`: why the store takes nothing."""
    from llmbench import record
    from llmbench.sweeps import console
    from llmbench.sweeps.conclusion import conclude

    paths = [(item.label, Path(item.folder) / plan.RECORD_FILE) for item in done]
    jobs = [(label, record.load(path)) for label, path in paths if path.is_file()]
    records = [found for _, found in jobs]
    reached, shown = conclude(records, options=options, history=history, recipe=recipe, command=typed)
    failed = [(item.label, item.reason) for item in done if item.status != "finished"]
    left = {item.label: item.tracked for item in done if item.tracked}
    if not away:
        try:
            store.finish_sweep(
                parent,
                reached,
                records,
                failed=[name for name, _ in failed],
                unlogged=list(left),
                note=shown.note,
                files=shown.files,
            )
        except TrackingError as error:  # the table is printed all the same
            away = str(error)
    lacking = [*([f"{len(left)} of {counted(len(done), 'job')}"] if left else []), *(["the verdict"] if away else [])]
    why = away or next(iter(left.values()), "")
    sends = f"{sync_command(folder, store.uri, store.experiment)} sends what is missing"
    unlogged = f"not in MLflow: {' and '.join(lacking)} ({why}); {sends}" if lacking else ""
    where = [] if away else [f"Charts and runs: {pages(store, parent)}"]
    where += [] if away else [f"This table again: llmbench report {recipe or 'parity'}{store.options} --sweep {parent}"]
    where += [f"{unlogged[0].upper()}{unlogged[1:]}"] if unlogged else []
    where.insert(0, f"Log, with every table and note: {folder / LOG_FILE}")
    last = [console.closing(jobs, len(done), seconds, taken, folder), *where]
    to_log("\n".join([shown.text, *last]))
    return Finished(
        folder=folder,
        results=tuple(done),
        records=tuple(records),
        verdicts=reached,
        shown=lambda width, level: console.ending(reached, shown, jobs, failed, last, width=width, level=level),
        document=document.of_sweep(
            command=typed,
            folder=folder,
            seconds=seconds,
            verdicts=reached,
            jobs=dict(jobs),
            failed={name: reason or "" for name, reason in failed},
            run="" if away else parent,
            unlogged=unlogged,
        ),
        unlogged=unlogged,
    )


def _history(store: "Store", parent: str) -> "list[PastAnalysis]":
    """The analyses that earlier sweeps made; a store that does not answer is said, and costs no table."""
    try:
        return store.past_analyses(parent)
    except TrackingError as error:
        emit(f"Earlier analyses are not counted ({error})", sys.stderr)
        return []
