"""What goes on around one job, in the process that runs it: progress, its Record on disk, its run in MLflow.

A job of a sweep is an entry of `plan.json`, found by the job's folder, so any process that sees the folder can run it.
A job that raises becomes a FAILED Record with its reason and traceback. Each Record is on disk before anything else
happens to it, so a crash loses at most the job in flight.
"""

import contextlib
import datetime
import functools
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.config.servers import ServerConfig
from llmbench.errors import ConfigError, JobsFailedError, LlmbenchError, RecordError
from llmbench.system import shell, signals
from llmbench.system.output import emit, logged
from llmbench.system.paths import results
from llmbench.system.terminal import doing

if TYPE_CHECKING:
    from llmbench.config.job import Job, TrackingConfig
    from llmbench.job.prepared import Prepared
    from llmbench.record import Record
    from llmbench.sweeps.forecast import Forecast
    from llmbench.sweeps.plan import Cell
    from llmbench.sweeps.progress import Place
    from llmbench.tracking import Store


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a launcher brings back from one job; small, because it may cross processes."""

    folder: str
    label: str
    status: str
    reason: str | None
    tracked: str | None  # why tracking failed, if it did


_prepared: "dict[Path, Prepared]" = {}
"""The jobs that this process has planned and prepared, by folder: they are not prepared again to be run."""


def keep_prepared(folder: Path, prepared: "Prepared") -> None:
    """Remember a job that was prepared while it was planned, for `run_planned` in this process."""
    _prepared[folder] = prepared


def run_planned(
    folder: Path, progress: bool = True, *, process: str = "", died: str = "", log: bool = True
) -> JobResult:
    """Run the job whose entry in the plan beside it has the folder's name. Nothing is raised.

    Args:
        folder: of the job, in that of its sweep.
        progress: show it on the standard error stream.
        process: what `Record.process` says; "" for this process.
        died: write the failed Record of a job that ended in this way, and measure nothing.
        log: to MLflow as well.
    """
    from llmbench.sweeps import plan_file
    from llmbench.sweeps.progress import place_of

    quiet_libraries()
    try:
        plan = plan_file.load(folder.parent)
        entry = plan.jobs[folder.name]
    except (RecordError, KeyError) as error:
        reason = f"{folder} is in no plan ({error})"
        return JobResult(folder=str(folder), label=folder.name, status="failed", reason=reason, tracked=None)
    prepared = _prepared.pop(folder, None)
    job = prepared.job if prepared else entry.job
    there = prepared is None and os.path.isdir(plan.working_directory)  # another host may have no such folder
    with contextlib.chdir(plan.working_directory) if there else contextlib.nullcontext():
        place = place_of(folder)
        with logged(folder.parent):
            record = measure(job, entry.title, prepared, progress, planned=entry.identity, died=died, place=place)
    notes = tuple(dict.fromkeys((*record.notes, *entry.notes)))
    own = process or record.process
    record = replace(record, identity=entry.identity, context=entry.context, notes=notes, process=own)
    try:
        record.save(folder)
    except OSError as error:
        reason = f"cannot write {error.filename or folder}: {error.strerror}"
        return JobResult(folder=str(folder), label=entry.title, status="failed", reason=reason, tracked=None)
    if log:
        with doing("writing to MLflow"):
            return track(record, folder, entry.title, job.tracking)
    return JobResult(folder=str(folder), label=entry.title, status=record.status, reason=record.reason, tracked=None)


def quiet_libraries() -> None:
    """Keep libraries from talking over the progress display and from reaching for the network on their own."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        os.environ.setdefault(name, value)


def measure(
    job: "Job",
    title: str,
    prepared: "Prepared | None" = None,
    progress: bool = True,
    planned: str = "",
    died: str = "",
    place: "Place | None" = None,
) -> "Record":
    """Run a job with its progress on the screen; a failure becomes a Record that says why.

    Args:
        job: to be run.
        title: what the plan calls it.
        prepared: the job, where it was prepared already.
        progress: show it on the standard error stream.
        planned: the identity that it must have; "" for any.
        died: how its process ended, which is all that is to be recorded; "" for a job that is to run.
        place: in its sweep.
    """
    from llmbench.config.identity import identity
    from llmbench.job.memory_estimate import require
    from llmbench.job.prepare import prepare_job
    from llmbench.job.run import failed_record, run_job
    from llmbench.sweeps.progress import Progress

    begun = datetime.datetime.now(datetime.UTC)
    with Progress(title, progress, place) as display:

        def tick(phase: str, done: int, total: int) -> None:
            signals.raise_if_stopped()
            display.tick(phase, done, total)

        try:
            signals.raise_if_stopped()
            if prepared is None:
                prepared = prepare_job(job)
                as_planned = replace(prepared.job, hardware=job.hardware)  # it may have been planned on another machine
                if planned and identity(as_planned, prepared.digests) != planned:
                    raise ConfigError("what the job reads has changed since it was planned; run the sweep again")
            else:
                require(prepared)  # memory may have gone since it was planned
            if died:
                raise JobsFailedError(died)
            return run_job(prepared, tick)
        except Exception as error:
            trace = None if isinstance(error, LlmbenchError) else traceback.format_exc().rstrip()
            if trace:
                emit(trace, sys.stderr)
            reason = died or " ".join(f"{type(error).__name__}: {error}".split())
            display.failed(reason)
            return failed_record(job, prepared, reason, begun, trace)


_unlogged: "dict[str, str]" = {}
"""Why this process logs nothing more of a sweep, by its parent run: a store that failed once costs no further job."""


def track(record: "Record", folder: Path, title: str, where: "TrackingConfig") -> JobResult:
    """Log a Record as a child run. A store that fails here costs the log entry, never the Record.

    Of a sweep that a store has failed once, nothing more is sent until its end.

    Args:
        record: finished or failed.
        folder: that holds it.
        title: what the plan calls the job.
        where: the store.
    """
    from llmbench import tracking

    context = record.context
    tracked = _unlogged.get(context.parent or "")
    if tracked is None:
        try:
            store = tracking.open_store(where)
            store.log_job(record, parent=context.parent, steps_axis=context.steps_axis, swept=context.swept)
        except Exception as error:
            tracked = str(tracking.redact(" ".join(str(error).split())))
            if context.parent:
                _unlogged[context.parent] = tracked
    return JobResult(folder=str(folder), label=title, status=record.status, reason=record.reason, tracked=tracked)


def send_again(results: Sequence[JobResult], where: "TrackingConfig") -> tuple[list[JobResult], str]:
    """Log what the store did not take, once more; also why the store cannot be used now, "" where it can.

    A store that still does not answer is asked once, and not for each job.
    """
    from llmbench import record, tracking

    done, away, answers = [], "", False
    for item in results:
        sent = item
        if item.tracked and not away:
            try:
                if not answers:
                    tracking.open_store(where)
                _unlogged.clear()
                found = record.load(Path(item.folder) / "record.json")
                sent = track(found, Path(item.folder), item.label, where)
                answers = sent.tracked is None
            except LlmbenchError as error:
                away = str(error)
        done.append(sent)
    return done, away


def sync_command(folder: Path, uri: str | None, experiment: str) -> str:
    """What sends the Records of a folder to a store."""
    from llmbench import tracking

    return f"llmbench sync {shell.quoted(str(folder))}{tracking.options(uri, experiment)}"


def refuse_isolation(job: "Job", instead: str) -> None:
    """Refuse a process of its own for a job that runs alone: it has this one for itself.

    Args:
        job: that runs alone.
        instead: what starts a sweep.

    Raises:
        ConfigError: it asks for one.
    """
    if job.isolation != "none":
        raise ConfigError(f"isolation={job.isolation} is for the jobs of a sweep: use {instead}")


def require_servers(jobs: "Sequence[Job]") -> None:
    """Refuse servers that would not answer, before the first job; each is asked once."""
    from llmbench.job import server

    asked: list[object] = []
    for built in jobs:
        settings = built.model.decoder
        if isinstance(settings, ServerConfig):
            place = settings.base, settings.served_model, settings.api, settings.extra
            if place not in asked:
                asked.append(place)
                server.require(settings)


def take_over(cells: "list[Cell]", policy: str, beside: Sequence[Path]) -> "list[Cell]":
    """Mark cells whose Records exist already; `beside`: where this run writes, besides the folder of results."""
    from llmbench.measure import device
    from llmbench.sweeps import plan

    here = functools.cache(device.environment)  # the same for hundreds of cells
    return plan.reuse(cells, policy, [*beside, results()], lambda cell: here(cell.prepared.job.hardware))


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
    if not name:
        return []
    earlier = plan.recorded(cells, [*beside, results()], name)
    return [forecast.predict(cell.prepared, earlier.get(cell.prepared.identity)) for cell in cells]


def expected(cells: "Sequence[Cell]", beside: Sequence[Path]) -> "dict[str, float | None]":
    """Seconds that each job probably takes, by identity; `beside` as in `take_over`. Nothing runs on a GPU for it."""
    from llmbench.measure import ceilings, device
    from llmbench.record import Ceilings
    from llmbench.sweeps import forecast, plan

    hardware = cells[0].prepared.job.hardware
    name = device.environment(hardware).device_name
    roots = [*beside, results()]
    earlier = plan.recorded(cells, roots, name) if name else {}
    known = next((item.ceilings for item in earlier.values() if item.ceilings), None)
    if known is None and hardware.device == "cpu":
        rate = ceilings.cpu_flops_per_s()
        known = Ceilings(flops_per_s=rate, bytes_per_s=rate, last_level_cache_bytes=None, judged=False)
    found = {}
    for cell in cells:
        key = cell.prepared.identity
        found[key] = 0.0 if cell.reused else forecast.expected_s(cell.prepared, earlier.get(key), known)
    return found


def pages(store: "Store", parent: str | None = None) -> str:
    """What opens MLflow's page of a sweep; of all runs for None."""
    address = store.address(parent)
    return address if store.uri.startswith("http") else f"llmbench ui{store.options} opens {address}"


def command() -> str:
    """The line that was typed, as a shell reads it, without a password: it stands in tables and logs."""
    from llmbench import tracking

    return shell.joined(["python", "-m", "llmbench", *tracking.redact(sys.argv[1:])])
