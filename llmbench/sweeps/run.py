"""What goes on around many jobs: plan, parent run, launch, verdict.

Hydra's multirun calls `sweep` (through `hydra_plugins`): it plans the grid, opens the MLflow store, starts the parent
run, lets Hydra's launcher run the jobs that are left (each is a call of `job_task.task`), and ends with the parity
verdict. A job that fails does not stop the others.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.errors import JobsFailedError, RecordError, TrackingError
from llmbench.sweeps import state
from llmbench.sweeps.job_task import (
    JobResult,
    command,
    forecasts,
    pages,
    quiet,
    refusals,
    require_servers,
    take_over,
    track,
)
from llmbench.system import signals
from llmbench.system.output import emit
from llmbench.system.paths import results

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from llmbench.analysis.parity.interim import Taken
    from llmbench.analysis.parity.verdict import Parity
    from llmbench.config.parity import ParityConfig
    from llmbench.record import Record
    from llmbench.sweeps.plan import Cell
    from llmbench.tracking import Store


def sweep(arguments: list[str], config_loader: Any, hydra_config: "DictConfig", launcher: Any) -> list[JobResult]:
    """Run the whole grid; see the module docstring.

    Raises:
        UsageError: a cell is wrong or the store cannot be used; nothing has run.
        JobsFailedError: the sweep is complete, but jobs failed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from llmbench.sweeps import console, plan

    quiet()
    started = time.monotonic()
    grid = plan.expand(OverridesParser.create(config_loader=config_loader).parse_overrides(arguments))
    cells = plan.build(grid, lambda overrides: _without_hydra(config_loader.load_sweep_config(hydra_config, overrides)))
    first = cells[0].prepared.job
    folder = Path(str(hydra_config.hydra.sweep.dir)).resolve()
    cells = take_over(cells, first.reuse, [folder.parent])
    warning = plan.warn_parallel_launcher(cells, hydra_config.hydra.launcher)
    predicted = forecasts(cells, [folder.parent]) if first.dry_run else ()
    refused = refusals(cells) if first.dry_run else ()
    emit(console.plan(cells, grid=len(grid), forecasts=predicted, refusals=refused))
    if warning:
        emit(warning, sys.stderr)
    if first.dry_run:
        return []
    require_servers([cell.prepared.job for cell in cells if cell.reused is None])

    from llmbench import tracking
    from llmbench.analysis.parity import interim

    store = tracking.open_store(first.tracking)
    state.abort_orphans(store, [folder.parent, results()])  # also the one that this sweep's folder may still tell of
    state.acquire(folder)
    axis = plan.steps_axis(cells)
    recipe = str(hydra_config.hydra.runtime.choices.get("experiment") or "")
    signals.install_signal_handlers()
    registered = interim.registration(first.parity, axis)  # before the first job
    parent = store.start_sweep(
        name=folder.name,
        command=command(),
        jobs=len(cells),
        recipe=recipe,
        registered=registered,
        planned={cell.prepared.identity: cell.title for cell in cells},
        folder=str(folder),
    )
    with state.running(folder, store, parent) as end:
        outcomes = [_take(cell, folder, store, parent, axis) for cell in cells if cell.reused is not None]
        batch = [_overrides(cell, folder, store.uri, parent, axis) for cell in cells if cell.reused is None]
        if batch:
            returns = launcher.launch(batch, initial_job_idx=0)
            outcomes += [job_return.return_value for job_return in returns]
        seconds = time.monotonic() - started
        taken = [cell.reused for cell in cells if cell.reused is not None]
        history = _history(store, parent)
        text, unlogged, verdict = _finish(
            store, parent, outcomes, taken, folder, seconds, recipe, first.parity, history
        )
        end(
            logged=not unlogged and not any(outcome.tracked for outcome in outcomes),
            verdict=verdict,
            failed=[outcome.label for outcome in outcomes if outcome.status != "finished"],
            history=[item.dump() for item in history],
        )
    emit(text)
    failed = [outcome for outcome in outcomes if outcome.status != "finished" or outcome.tracked]
    if failed:
        reasons = "; ".join(f"{outcome.label}: {outcome.reason or outcome.tracked}" for outcome in failed)
        later = f"; {_LOG_LATER}" if any(outcome.tracked for outcome in outcomes) else ""
        raise JobsFailedError(f"{len(failed)} of {len(outcomes)} jobs failed: {reasons}{later}")
    if unlogged:
        raise JobsFailedError(f"{unlogged}; {_LOG_LATER}")
    return outcomes


_LOG_LATER = "when the store answers again, the same command logs what is recorded and measures nothing twice"


def _without_hydra(tree: "DictConfig") -> "DictConfig":
    """What a job sees of a composed tree; Hydra's own part needs a job number that no job has yet."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])


def _take(cell: "Cell", folder: Path, store: "Store", parent: str, axis: list[int]) -> JobResult:
    """Carry a finished Record into this sweep: its folder and its parent run."""
    assert cell.reused is not None
    target = folder / cell.name
    cell.reused.save(target)
    own = cell.prepared.job.tracking
    own = replace(own, uri=store.uri, parent=parent, steps_axis=axis, swept=json.dumps(cell.swept))
    return track(cell.reused, target, replace(cell.prepared.job, tracking=own))


def _overrides(cell: "Cell", folder: Path, uri: str, parent: str, axis: list[int]) -> list[str]:
    """A cell's overrides plus what the sweep knows: store, parent run, K and the folder."""
    own = {
        "tracking.uri": _quote(uri),
        "tracking.parent": parent,
        "tracking.steps_axis": str(axis).replace(" ", ""),
        "tracking.swept": _quote(json.dumps(cell.swept)),
    }
    return [
        *(text for text in cell.overrides if text.lstrip("+").partition("=")[0] not in own),
        *(f"++{key}={value}" for key, value in own.items()),
        f"hydra.sweep.dir={_quote(str(folder))}",
        f"hydra.sweep.subdir={cell.name}",
    ]


def _quote(text: str) -> str:
    """A string as Hydra's override grammar takes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _finish(
    store: "Store",
    parent: str,
    outcomes: list[JobResult],
    taken: "list[Record]",
    folder: Path,
    seconds: float,
    recipe: str,
    options: "ParityConfig",
    history: "list[Taken]",
) -> tuple[str, str, str]:
    """Read the Records back, reach the verdict and write it to the parent run.

    Returns:
        What the sweep prints last, why the verdict is not in the store ("" when it is), and the verdicts' statuses.
    """
    from llmbench import record
    from llmbench.analysis.parity.analyze import verdicts
    from llmbench.report.assemble import SweepReport, sweep_report
    from llmbench.sweeps import console, plan

    paths = [(outcome.label, Path(outcome.folder) / plan.RECORD_FILE) for outcome in outcomes]
    jobs = [(label, record.load(path)) for label, path in paths if path.is_file()]
    records = [found for _, found in jobs]
    reached: tuple[Parity, ...] = ()
    try:
        reached = verdicts(records, options=options, history=history)
        shown = sweep_report(records, reached, recipe=recipe, command=command())
    except RecordError as error:  # what was measured is kept; only the comparison is refused
        shown = SweepReport(text=f"No verdict: {error}", note=f"No verdict: {error}", files={})
    failed = [(outcome.label, outcome.reason) for outcome in outcomes if outcome.status != "finished"]
    unlogged = ""
    try:
        store.finish_sweep(
            parent,
            reached,
            records,
            failed=[name for name, _ in failed],
            unlogged=[outcome.label for outcome in outcomes if outcome.tracked],
            note=shown.note,
            files=shown.files,
        )
    except TrackingError as error:  # the table is printed all the same
        unlogged = f"the verdict is not in MLflow ({error})"
    ours = store.options  # "" for the store that is found without being named
    where = [
        f"Curves and runs: {pages(store)}; run {parent}",
        f"This table again: python -m llmbench report {recipe or 'parity'}{ours} --sweep {parent}",
    ]
    where = [f"{unlogged[0].upper()}{unlogged[1:]}"] if unlogged else where
    statuses = ", ".join(dict.fromkeys(item.status.value for item in reached))
    return console.ending(shown.text, jobs, failed, folder, where, seconds, taken), unlogged, statuses


def _history(store: "Store", parent: str) -> "list[Taken]":
    """Looks that earlier sweeps took; a store that does not answer is said, and costs no table."""
    try:
        return store.past_analyses(parent)
    except TrackingError as error:
        emit(f"Earlier looks are not counted ({error})", sys.stderr)
        return []
