"""What goes on around one job, in the process that runs it: progress, its Record on disk, its run in MLflow.

Hydra's launcher calls `task` once per job of a sweep, in the sweep's process or in another one; all that a job needs
travels in its overrides. Without -m Hydra calls it for the only job, which is then checked first and printed at the
end. A job that raises becomes a FAILED Record with its reason. Each Record is on disk before anything else happens to
it, so a crash loses at most the job in flight. `llmbench.sweeps.run` goes around many of them.
"""

import contextlib
import datetime
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.config.decoders import ServerDecoder
from llmbench.errors import JobsFailedError, LlmbenchError
from llmbench.system import signals
from llmbench.system.output import emit
from llmbench.system.paths import results

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from llmbench.config.job import Job
    from llmbench.record import Record
    from llmbench.sweeps.forecast import Forecast
    from llmbench.sweeps.plan import Cell
    from llmbench.tracking import Store


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a launcher brings back from one job; small, because it may cross processes."""

    folder: str
    label: str
    status: str
    reason: str | None
    tracked: str | None  # why tracking failed, if it did


def task(tree: "DictConfig") -> JobResult:
    """Run one job; Hydra's launcher (or Hydra itself, without -m) calls it with the composed tree.

    Raises:
        SystemExit: carrying an LlmbenchError, in a run of one job; Hydra would print more than one line of any other
            exception. Inside a sweep nothing is raised: the Outcome says what happened.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    quiet()
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN:
        folder = Path(hydra.runtime.output_dir)
        try:
            return _single(tree, folder)
        except LlmbenchError as error:
            raise SystemExit(error) from error
        finally:
            _remove_empty(folder)
    from llmbench.config.job import build_job

    built = build_job(tree)
    folder = Path(hydra.runtime.output_dir)
    record = _measure(built)
    try:
        record.save(folder)
    except OSError as error:  # nothing may escape: Hydra would end the sweep
        reason = f"cannot write {error.filename or folder}: {error.strerror}"
        return JobResult(folder=str(folder), label=_title(built), status="failed", reason=reason, tracked=None)
    return track(record, folder, built)


def _single(tree: "DictConfig", folder: Path) -> JobResult:
    """A run of one job: checked first, then measured, logged without a parent, and printed."""
    from llmbench import tracking
    from llmbench.config.job import build_job
    from llmbench.job.prepare import prepare_job
    from llmbench.sweeps import console, plan

    built = build_job(tree)
    policy = "all" if built.reuse == "all" else "none"  # one job is no sweep that was interrupted
    (cell,) = take_over([plan.Cell(overrides=(), swept={}, prepared=prepare_job(built))], policy, [folder.parent])
    if built.dry_run:
        said = console.plan([cell], grid=1, forecasts=forecasts([cell], [folder.parent]), refusals=refusals([cell]))
        emit(said)
        return JobResult(folder="", label=built.label, status="finished", reason=None, tracked=None)
    for note in plan.notes([cell]):
        emit(note, sys.stderr)
    if cell.reused is None:
        require_servers([built])
    store = tracking.open_store(built.tracking)  # an unreachable store is refused before any work
    record = cell.reused or _measure(built)
    path = record.save(folder)
    outcome = track(record, folder, built)
    where = [] if outcome.tracked else [f"Its run: {pages(store)}"]
    emit(console.job_ending(record, path, where, command(), taken=cell.reused is not None))
    if outcome.status != "finished" or outcome.tracked:
        raise JobsFailedError(f"{outcome.label}: {outcome.reason or outcome.tracked}")
    return outcome


def _remove_empty(folder: Path) -> None:
    """Take back the folder that Hydra made for a job, where nothing was written into it."""
    with contextlib.suppress(OSError):  # not empty, or gone
        folder.rmdir()
        if folder.parent == results():
            folder.parent.rmdir()


def quiet() -> None:
    """Keep libraries from talking over the progress display and from reaching for the network on their own."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        os.environ.setdefault(name, value)


def _measure(built: "Job") -> "Record":
    """Run a job with its progress on the screen; a failure becomes a Record that says why."""
    from llmbench.job.prepare import prepare_job
    from llmbench.job.run import failed_record, run_job
    from llmbench.sweeps import console

    begun = datetime.datetime.now(datetime.UTC)
    prepared = None
    with console.Progress(_title(built)) as progress:

        def tick(phase: str, done: int, total: int) -> None:
            signals.raise_if_stopped()
            progress.tick(phase, done, total)

        try:
            signals.raise_if_stopped()
            prepared = prepare_job(built)
            return run_job(prepared, tick)
        except Exception as error:
            if not isinstance(error, LlmbenchError):
                emit(traceback.format_exc().rstrip(), sys.stderr)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            progress.failed(reason)
            return failed_record(built, prepared, reason, begun)


def _title(built: "Job") -> str:
    """What the plan called this job."""
    from llmbench.sweeps import plan

    return plan.title(built.label, json.loads(built.tracking.swept))


def track(record: "Record", folder: Path, built: "Job") -> JobResult:
    """Log a Record as a child run. A store that fails here costs the log entry, never the Record."""
    from llmbench import tracking

    tracked = None
    try:
        own = built.tracking
        store = tracking.open_store(own)
        store.log_job(record, parent=own.parent, steps_axis=own.steps_axis, swept=json.loads(own.swept))
    except Exception as error:
        said = tracking.redact(" ".join(str(error).split()))
        tracked = f"not logged to MLflow ({said}); the record is in {folder}"
    name = _title(built)
    return JobResult(folder=str(folder), label=name, status=record.status, reason=record.reason, tracked=tracked)


def require_servers(jobs: "list[Job]") -> None:
    """Refuse servers that would not answer, before the first job; each is asked once."""
    from llmbench.job import server

    asked: list[object] = []
    for built in jobs:
        settings = built.model.decoder
        if isinstance(settings, ServerDecoder):
            place = settings.base, settings.served_model, settings.api, settings.extra
            if place not in asked:
                asked.append(place)
                server.require(settings)


def take_over(cells: "list[Cell]", policy: str, beside: Sequence[Path]) -> "list[Cell]":
    """Mark cells whose Records exist already; `beside`: where this run writes, besides the folder of results."""
    from llmbench.measure import device
    from llmbench.sweeps import plan

    return plan.reuse(cells, policy, [*beside, results()], lambda cell: device.environment(cell.prepared.job.hardware))


def refusals(cells: "list[Cell]") -> list[str]:
    """Why these jobs would be refused if they were to run now: servers and the store, which a plan alone never asks."""
    from llmbench import tracking

    found = []
    try:
        require_servers([cell.prepared.job for cell in cells if cell.reused is None])
    except LlmbenchError as error:
        found.append(str(error))
    return [*found, *filter(None, [tracking.refusal(cells[0].prepared.job.tracking)])]


def forecasts(cells: "list[Cell]", beside: Sequence[Path]) -> "list[Forecast]":
    """What is known of each job before it runs; `beside` as in `take_over`."""
    from llmbench.measure import device
    from llmbench.sweeps import forecast, plan

    name = device.environment(cells[0].prepared.job.hardware).device_name
    earlier = plan.recorded(cells, [*beside, results()], name)
    return [forecast.predict(cell.prepared, earlier.get(cell.prepared.identity)) for cell in cells]


def pages(store: "Store") -> str:
    """What opens MLflow's pages."""
    return f"{'' if store.options else '`make ui` or '}python -m llmbench report ui{store.options}"


def command() -> str:
    """The line that was typed, without a password: it stands in tables and logs."""
    from llmbench import tracking

    return str(tracking.redact("python -m llmbench " + " ".join(sys.argv[1:])))
