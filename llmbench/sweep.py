"""What goes on around many jobs: plan, parent run, launch, verdict.

Hydra's multirun calls `sweep` (through `hydra_plugins`): it plans the grid, opens the MLflow store, starts the parent
run, lets Hydra's launcher run the jobs that are left (each is a call of `llmbench.task.task`), and ends with the parity
verdict. A job that fails does not stop the others.
"""

import contextlib
import datetime
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.errors import ConfigError, JobsFailedError, RecordError, TrackingError
from llmbench.folders import ELSEWHERE, results
from llmbench.task import Outcome, command, forecasts, pages, quiet, refusals, require_servers, take_over, track
from llmbench.terminal import say

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from llmbench.analysis.looks import Taken
    from llmbench.analysis.verdict import Parity
    from llmbench.parity_config import ParityConfig
    from llmbench.plan import Cell
    from llmbench.record import Record
    from llmbench.tracking import Store


def sweep(arguments: list[str], config_loader: Any, hydra_config: "DictConfig", launcher: Any) -> list[Outcome]:
    """Run the whole grid; see the module docstring.

    Raises:
        UsageError: a cell is wrong or the store cannot be used; nothing has run.
        JobsFailedError: the sweep is complete, but jobs failed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from llmbench import plan
    from llmbench.report import console

    quiet()
    started = time.monotonic()
    grid = plan.expand(OverridesParser.create(config_loader=config_loader).parse_overrides(arguments))
    cells = plan.build(grid, lambda overrides: _without_hydra(config_loader.load_sweep_config(hydra_config, overrides)))
    first = cells[0].prepared.job
    folder = Path(str(hydra_config.hydra.sweep.dir)).resolve()
    cells = take_over(cells, first.reuse, [folder.parent])
    warning = plan.neighbours(cells, hydra_config.hydra.launcher)
    predicted = forecasts(cells, [folder.parent]) if first.dry_run else ()
    refused = refusals(cells) if first.dry_run else ()
    say(console.plan(cells, grid=len(grid), forecasts=predicted, refusals=refused))
    if warning:
        say(warning, sys.stderr)
    if first.dry_run:
        return []
    require_servers([cell.prepared.job for cell in cells if cell.reused is None])

    from llmbench import tracking
    from llmbench.analysis import looks

    store = tracking.open_store(first.tracking)
    _claim(folder)
    _close_dead_sweeps(store, [folder.parent, results()])
    axis = plan.steps_axis(cells)
    recipe = str(hydra_config.hydra.runtime.choices.get("experiment") or "")
    _close_books_on_signals()
    registered = looks.registration(first.parity, axis)  # before the first job
    parent = store.start_sweep(
        name=folder.name, command=command(), jobs=len(cells), recipe=recipe, registered=registered
    )
    with _books(folder, store, parent) as close:
        outcomes = [_take(cell, folder, store, parent, axis) for cell in cells if cell.reused is not None]
        batch = [_overrides(cell, folder, store.uri, parent, axis) for cell in cells if cell.reused is None]
        if batch:
            returns = launcher.launch(batch, initial_job_idx=0)
            outcomes += [job_return.return_value for job_return in returns]
        seconds = time.monotonic() - started
        taken = [cell.reused for cell in cells if cell.reused is not None]
        text, unlogged = _finish(store, parent, outcomes, taken, folder, seconds, recipe, first.parity)
        close(logged=not unlogged and not any(outcome.tracked for outcome in outcomes))
    say(text)
    failed = [outcome for outcome in outcomes if outcome.status != "finished" or outcome.tracked]
    if failed:
        reasons = "; ".join(f"{outcome.label}: {outcome.reason or outcome.tracked}" for outcome in failed)
        later = f"; {_LOG_LATER}" if any(outcome.tracked for outcome in outcomes) else ""
        raise JobsFailedError(f"{len(failed)} of {len(outcomes)} jobs failed: {reasons}{later}")
    if unlogged:
        raise JobsFailedError(f"{unlogged}; {_LOG_LATER}")
    return outcomes


_TIME = "%Y-%m-%d_%H-%M-%S-%f"
"""As conf/config.yaml names folders, so that the times of both compare."""

_LOG_LATER = "when the store answers again, the same command logs what is recorded and measures nothing twice"


def _without_hydra(tree: "DictConfig") -> "DictConfig":
    """What a job sees of a composed tree; Hydra's own part needs a job number that no job has yet."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(tree, [str(key) for key in tree if key != "hydra"])


def _claim(folder: Path) -> None:
    """Make the sweep's folder and see that it can be written, before MLflow is told of a sweep.

    Raises:
        ConfigError: it cannot, or a sweep that is still running writes there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir={folder}: {error.strerror}; name another, or {ELSEWHERE}") from error
    if pid := _writer(folder):
        raise ConfigError(f"hydra.sweep.dir={folder}: the sweep of process {pid} is writing there; name another")


def _writer(folder: Path) -> int | None:
    """The process of this host that is running a sweep in a folder; None where there is none."""
    import psutil

    from llmbench.plan import SWEEP_FILE

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        state = json.loads((folder / SWEEP_FILE).read_text())
        running = not state["ended"] and state["host"] == socket.gethostname() and psutil.pid_exists(state["pid"])
        return int(state["pid"]) if running and state["pid"] != os.getpid() else None
    return None


def _take(cell: "Cell", folder: Path, store: "Store", parent: str, axis: list[int]) -> Outcome:
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


@contextlib.contextmanager
def _books(folder: Path, store: "Store", parent: str) -> "Iterator[Any]":
    """Keep `sweep.json` and the parent run true: running, then ended; aborted when something stops the sweep.

    A sweep that could not log everything has not ended: the same command takes its Records over, and logs them.
    """
    from llmbench.plan import SWEEP_FILE

    started = datetime.datetime.now().strftime(_TIME)

    def write(ended: bool) -> None:
        state: dict[str, Any] = {
            "parent": parent,
            "store": store.shown_uri,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": started,
            "ended": ended,
        }
        (folder / SWEEP_FILE).write_text(json.dumps(state))

    closed = False

    def close(*, logged: bool) -> None:
        nonlocal closed
        closed = True
        write(ended=logged)

    write(ended=False)
    try:
        yield close
    finally:
        if not closed:
            with contextlib.suppress(Exception):
                store.abort_sweep(parent)


def _close_dead_sweeps(store: "Store", roots: Sequence[Path]) -> None:
    """End the parent runs of sweeps whose process was killed: MLflow would show them as running for ever."""
    import psutil

    from llmbench.plan import SWEEP_FILE

    for path in {path.resolve() for root in roots for path in root.glob(f"*/{SWEEP_FILE}")}:
        with contextlib.suppress(Exception):  # another store's or an unreadable file: not ours to judge
            state = json.loads(path.read_text())
            ours = state["store"] == store.shown_uri and state["host"] == socket.gethostname()
            if ours and not state["ended"] and not psutil.pid_exists(state["pid"]):
                store.abort_sweep(state["parent"])


def _close_books_on_signals() -> None:
    """`kill` and a connection that is lost end the sweep as Ctrl-C does; only `kill -9` cannot."""
    signal.signal(signal.SIGTERM, _terminate)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:  # `nohup` ignores it
        signal.signal(hangup, _terminate)


def _terminate(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def _finish(
    store: "Store",
    parent: str,
    outcomes: list[Outcome],
    taken: "list[Record]",
    folder: Path,
    seconds: float,
    recipe: str,
    options: "ParityConfig",
) -> tuple[str, str]:
    """Read the Records back, reach the verdict and write it to the parent run.

    Returns:
        What the sweep prints last, and why the verdict is not in the store ("" when it is).
    """
    from llmbench import plan, record
    from llmbench.analysis import parity
    from llmbench.report import SweepReport, console, sweep_report

    paths = [(outcome.label, Path(outcome.folder) / plan.RECORD_FILE) for outcome in outcomes]
    jobs = [(label, record.load(path)) for label, path in paths if path.is_file()]
    records = [found for _, found in jobs]
    verdicts: tuple[Parity, ...] = ()
    try:
        verdicts = parity.verdicts(records, options=options, history=_history(store, parent))
        shown = sweep_report(records, verdicts, recipe=recipe, command=command())
    except RecordError as error:  # what was measured is kept; only the comparison is refused
        shown = SweepReport(text=f"No verdict: {error}", note=f"No verdict: {error}", files={})
    failed = [(outcome.label, outcome.reason) for outcome in outcomes if outcome.status != "finished"]
    unlogged = ""
    try:
        store.finish_sweep(
            parent, verdicts, records, failed=[name for name, _ in failed], note=shown.note, files=shown.files
        )
    except TrackingError as error:  # the table is printed all the same
        unlogged = f"the verdict is not in MLflow ({error})"
    ours = store.options  # "" for the store that is found without being named
    where = [
        f"Curves and runs: {pages(store)}; run {parent}",
        f"This table again: python -m llmbench.report {recipe or 'parity'}{ours} --sweep {parent}",
    ]
    where = [f"{unlogged[0].upper()}{unlogged[1:]}"] if unlogged else where
    return console.ending(shown.text, jobs, failed, folder, where, seconds, taken), unlogged


def _history(store: "Store", parent: str) -> "list[Taken]":
    """Looks that earlier sweeps took; a store that does not answer is said, and costs no table."""
    try:
        return store.looks(parent)
    except TrackingError as error:
        say(f"Earlier looks are not counted ({error})", sys.stderr)
        return []
