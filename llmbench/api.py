"""llmbench in Python: measure a job or a sweep, load what was measured, and ask for the verdict.

Settings are those of the command line, as keyword arguments. A list is an axis of the sweep; groups inside groups are
dicts: `timing={"repeats": 6}`.
"""

import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmbench.config import keywords
from llmbench.config.parity import ParityConfig
from llmbench.errors import ConfigError, RecordError
from llmbench.record import Record
from llmbench.system.output import emit
from llmbench.system.paths import results
from llmbench.system.plotting import own_settings
from llmbench.system.redact import clean_uri

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from llmbench.analysis.compare import Comparison
    from llmbench.analysis.parity.parity import Parity
    from llmbench.report.layout import Table
    from llmbench.sweeps.recorded import RecordedSweep

TABLES = (
    *("latency", "throughput", "memory", "parity", "acceleration", "energy"),
    *("likelihood", "frontier", "pareto", "hypotheses"),
)
"""What `Sweep.table` makes."""

FIGURES = ("parity", "frontier", "pareto", "drift")
"""What `Sweep.figure` draws."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The Records of one sweep, and what follows from them."""

    # finished and failed ones: full measurements (models without steps first, then by steps), then points of the
    # baseline's curve, then baselines that were timed again (`Record.role`)
    records: tuple[Record, ...]
    folder: Path | None = None  # that holds them; None where they came from a server
    command: str = ""  # what was typed
    recipe: str = ""  # the file of conf/experiment; "" for none
    missing: tuple[str, ...] = ()  # titles of planned jobs of which there is no Record
    recorded: "RecordedSweep | None" = field(default=None, repr=False)  # plan and earlier analyses behind verdicts

    def to_frame(self) -> "pandas.DataFrame":
        """A row per Record: identity, label, role, status, conditions and metrics.

        Columns of metrics bear the keys and units of docs/metrics.md (`latency/e2e_ms`); a value that could not be
        computed is absent (NaN).
        """
        import pandas

        return pandas.DataFrame([_row(record) for record in self.records])

    def parities(self) -> "tuple[Parity, ...]":
        """The verdict of every group of Records under equal conditions (one temperature, batch, canvas, workload).

        The margins are those that were fixed before the first job. A planned k of which there is no Record blocks every
        claim, as a failed job does.

        Raises:
            RecordError: Records that must be comparable are not.
        """
        from llmbench.analysis.parity.analyze import verdicts
        from llmbench.sweeps import partial

        if self.recorded is None:
            return verdicts(self.records)
        known = [*self.records, *partial.stand_ins(self.recorded)]
        return verdicts(known, options=self._terms(), history=self.recorded.history)

    def _terms(self) -> "ParityConfig | None":
        """What the verdicts test, where it was registered."""
        from llmbench.analysis.parity.interim import AnalysisPlan

        registered = self.recorded.registered if self.recorded else None
        return AnalysisPlan.from_json(registered).options if registered else None

    def parity(self) -> "Parity":
        """The verdict, where all Records were made under equal conditions.

        Raises:
            RecordError: there are several groups, which the message names, or nothing to compare.
        """
        found = self.parities()
        if len(found) == 1:
            return found[0]
        if not found:
            raise RecordError("no job of this sweep has finished; there is nothing to compare")
        names = "; ".join(f"{place}: {item.where}" for place, item in enumerate(found))
        raise RecordError(f"{len(found)} groups of settings, each with its verdict: use parities() ({names})")

    def compare(
        self, after: "Sweep", *, process_sd: float | None = None, repeats: "Sequence[Sweep]" = ()
    ) -> "Comparison":
        """What changed from this sweep to another one beyond noise; `print` it for the answer in a sentence.

        Settings are matched, prompts paired; docs/compare.md says what the bounds hold.

        Args:
            after: the other sweep, B.
            process_sd: standard deviation of ln L_e2e between two processes of one commit; None is 0.0125, and
                times of a busy CPU are not judged.
            repeats: four or more further sweeps of this one's commit and conditions: they measure the noise instead.

        Raises:
            ConfigError: `process_sd` is no share, or there are too few repeats.
            RecordError: the sweeps share no setting, or a repeat is none.
        """
        from llmbench.analysis.compare import compare

        again = [item.records for item in repeats]
        return compare(self.records, after.records, process_sd=process_sd, repeats_of_a=again)

    def table(self, name: str = "parity", *, price_per_hour: float | None = None) -> "pandas.DataFrame":
        """A table of the paper; cells are text with their intervals, as `llmbench report` prints them.

        Args:
            name: latency, throughput, memory, parity, acceleration, energy, likelihood, frontier, pareto or hypotheses.
                Where there are several groups of settings, their tables stand below each other, with a first column
                that names the group.
            price_per_hour: of the device, for pareto: adds what a million tokens cost, in the same unit.

        Raises:
            ConfigError: there is no such table.
            RecordError: Records that must be comparable are not, or there is nothing to show.
        """
        import pandas

        made = self._tables(name, price_per_hour)
        if not made:
            raise RecordError(f"no finished job of this sweep gives a table of {name}")
        frames = [pandas.DataFrame(list(item.rows), columns=_columns(item.header)) for _, item in made]
        if len(frames) == 1:
            return frames[0]
        names = [f"{place}: {group}" for place, (group, _) in enumerate(made)]
        return pandas.concat(frames, keys=names, names=["group"])

    @own_settings()
    def figure(self, name: str = "parity") -> "Figure":
        """A figure: `parity`, `frontier`, `pareto` or `drift`.

        `parity` shows quality, entropy and time over k, `frontier` the settings that nothing dominates, `pareto` speed
        per user against speed per device over batch, `drift` every time over the minutes of the sweep, as a share of
        its setting's median.

        Raises:
            ConfigError: there is no such figure.
            RecordError: several groups of settings, or nothing to draw.
        """
        from llmbench.analysis.frontier import frontiers
        from llmbench.analysis.pareto import planes
        from llmbench.report.drift import caption_of, drift_figure, job_times
        from llmbench.report.figures import parity_figure
        from llmbench.report.frontier import frontier_figure
        from llmbench.report.pareto import pareto_figure

        if name not in FIGURES:
            raise ConfigError(f"there is no figure {name}; there are {', '.join(FIGURES)}")
        if name == "parity":
            return parity_figure(self.records, self.parity())
        if name == "drift":
            times = job_times(self.records)
            if not times:
                raise RecordError("no batch of this sweep was timed twice; there is no drift to draw")
            return drift_figure(times, caption_of(self.records, self.recorded.title if self.recorded else ""))
        if name == "pareto":
            drawn = [item for item in planes(self.records, self.parities()) if item.points]
            if len(drawn) != 1:
                raise RecordError(f"a plane of speeds needs one group of timed settings, found {len(drawn)}")
            return pareto_figure(drawn[0])
        found = frontiers(self.records, (self._terms() or ParityConfig()).thresholds)
        if len(found) != 1:
            raise RecordError(f"a frontier needs one group of settings with quality, found {len(found)}")
        return frontier_figure(found[0])

    def html(self) -> str:
        """One page that opens without a network: what `llmbench report html` writes.

        Raises:
            RecordError: Records that must be comparable are not.
        """
        from llmbench.sweeps.page import page_of
        from llmbench.sweeps.recorded import RecordedSweep

        recorded = self.recorded or RecordedSweep(
            run_id="",
            name="in memory",
            status="FINISHED",
            command=self.command,
            recipe=self.recipe,
            records=self.records,
        )
        return page_of(recorded)

    def _tables(self, name: str, price_per_hour: float | None = None) -> "list[tuple[str, Table]]":
        """The tables of a name, each with what tells its group from the others."""
        from llmbench.analysis.frontier import frontiers
        from llmbench.analysis.hypotheses.claims import hypotheses
        from llmbench.analysis.pareto import planes
        from llmbench.report import hypotheses as hypothesis_report
        from llmbench.report import tables
        from llmbench.report.acceleration import acceleration_table
        from llmbench.report.energy import energy_table
        from llmbench.report.frontier import frontier_tables
        from llmbench.report.model_tables import likelihood_table
        from llmbench.report.pareto import pareto_tables

        if name not in TABLES:
            raise ConfigError(f"there is no table {name}; there are {', '.join(TABLES)}")
        if price_per_hour is not None and (name != "pareto" or not 0 < price_per_hour < float("inf")):
            raise ConfigError(f"price_per_hour={price_per_hour} is a positive number for pareto alone")
        records = [record for record in self.records if record.status == "finished"]
        if name == "parity":
            return [(item.where, tables.parity_table(records, item, self.command)) for item in self.parities()]
        if name == "frontier":
            found = frontiers(records, (self._terms() or ParityConfig()).thresholds)
            return [(item.title, item) for item in frontier_tables(records, found, self.command, "")]
        if name == "pareto":
            speeds = planes(records, self.parities(), price_per_hour)
            return [(item.title, item) for item in pareto_tables(records, speeds, self.command)]
        if name == "hypotheses":
            decided = hypotheses(records, self.recipe)
            return [(item.title, item) for item in hypothesis_report.hypothesis_tables(records, decided, self.command)]
        makers = {
            "latency": tables.latency_table,
            "throughput": tables.throughput_table,
            "memory": tables.memory_table,
            "acceleration": lambda known, typed: acceleration_table(known, self.parities(), typed),
            "energy": energy_table,
            "likelihood": likelihood_table,
        }
        return [(name, makers[name](records, self.command))] if records else []


def run(*, folder: str | Path | None = None, progress: bool = True, **settings: Any) -> Record:
    """Measure one job: `llmbench.run(model="llada", steps=16)`.

    Args:
        folder: where `record.json` is written; None writes nothing. Nothing is logged to MLflow.
        progress: show it on the standard error stream.
        settings: as on the command line; what is left out has its default.

    Raises:
        UsageError: a setting is wrong, or the job cannot run here; nothing was measured.
        LlmbenchError: it failed while it ran.
    """
    from llmbench.config.build import build_job
    from llmbench.config.compose import composing
    from llmbench.config.conf_files import recipe_axes
    from llmbench.job.prepare import prepare_job
    from llmbench.job.run import run_job
    from llmbench.sweeps.block_task import on_its_card
    from llmbench.sweeps.job_task import quiet_libraries, refuse_isolation, require_servers
    from llmbench.sweeps.plan import Cell
    from llmbench.sweeps.progress import Progress
    from llmbench.sweeps.threads import with_threads

    quiet_libraries()
    if settings.get("dry_run"):
        raise ConfigError("dry_run: one job has no plan to show; use llmbench.sweep(..., dry_run=True)")
    if axes := set(recipe_axes(keywords.recipe(settings))) - settings.keys():
        raise ConfigError(
            f"experiment={keywords.recipe(settings)} is a sweep (over {', '.join(sorted(axes))}): use llmbench.sweep"
        )
    overrides = list(keywords.overrides(_without_credentials(settings)))
    if swept := [key for key, values in overrides if len(values) > 1]:
        raise ConfigError(f"{swept[0]} has several values: one job takes one; use llmbench.sweep(...)")
    with composing() as compose:
        job = build_job(compose([f"{key}={values[0]}" for key, values in overrides]))
    refuse_isolation(job, "llmbench.sweep(...)")
    prepared = prepare_job(job)
    for note in prepared.notes:
        emit(f"Note: {note}", sys.stderr)
    require_servers([prepared.job])
    prepared = with_threads([Cell(swept={}, prepared=prepared)])[0].prepared
    with on_its_card([prepared.job]), Progress(prepared.job.label, shown=progress) as display:
        record = run_job(prepared, display.tick)
    if folder is not None:
        record.save(Path(folder))
    return record


def sweep(*, folder: str | Path | None = None, progress: bool = True, **settings: Any) -> Sweep:
    """Measure a grid: `llmbench.sweep(model=["llama", "llada"], steps=[8, 16, 32, 64])`.

    The plan, its order, the Records on disk and the runs in MLflow are those of the command line. A sweep that was
    interrupted goes on when it is called again with the same settings. A job that fails stops no other: its Record
    has the status "failed" with the reason.

    Args:
        folder: of the sweep; None makes one, named by the time, in the folder of results.
        progress: print the plan, and show progress on the standard error stream.
        settings: as on the command line; a list is an axis. `experiment="latency"` runs a recipe with its axes. A group
            and a key in it at once: `workload="jsonl", **{"workload.source": "prompts.jsonl"}`.

    Raises:
        UsageError: a setting is wrong or the store cannot be used; nothing was measured.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from llmbench.config.compose import composing
    from llmbench.config.conf_files import recipe_axes
    from llmbench.sweeps import plan
    from llmbench.sweeps.launchers import InProcess
    from llmbench.sweeps.run import run_grid

    settings = _without_credentials(settings)
    overrides = [f"{key}={','.join(values)}" for key, values in keywords.overrides(settings)]
    recipe = keywords.recipe(settings)
    axes = [f"{key}={values}" for key, values in recipe_axes(recipe).items()]
    place = Path(folder) if folder is not None else _new_folder()
    if place.resolve() == results().resolve():
        raise ConfigError(f"folder={place} holds all results; name a folder in it")
    with composing() as compose:
        parsed = OverridesParser.create().parse_overrides([*axes, *overrides])
        done = run_grid(
            plan.expand(parsed),
            compose,
            folder=place.resolve(),
            launch=InProcess(progress),
            recipe=recipe,
            typed=_call(settings),
            show=progress,
        )
    if done is None:
        return Sweep(records=(), command=_call(settings), recipe=recipe)
    if done.unlogged:
        emit(f"Warning: {done.unlogged}", sys.stderr)
    return load(place)


def load(
    folder: str | Path | None = None,
    *,
    run_id: str | None = None,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> Sweep:
    """What a sweep left: from its folder, or from MLflow.

    Args:
        folder: of a sweep, or a folder of results, of which the newest sweep that ended is taken; None with no
            `run_id` means the folder of results of the command line. A folder that was moved or renamed works.
        run_id: the parent run of a sweep in MLflow, its name, or the beginning of either.
        tracking_uri: the store that holds it; None means that of the command line.
        experiment: of the store; None means that of the command line.

    Raises:
        RecordError: there is no sweep, or a Record cannot be read.
        TrackingError: the store cannot be used, or has no such sweep.
    """
    if run_id is not None:
        if folder is not None:
            raise ConfigError("give a folder or a run_id, not both")
        return _from_store(run_id, tracking_uri, experiment)
    if tracking_uri is not None or experiment is not None:
        raise ConfigError("tracking_uri and experiment need a run_id; without one a folder is read")
    return _from_folder(Path(folder) if folder is not None else results())


def _from_folder(folder: Path) -> Sweep:
    from llmbench.sweeps.folder import is_sweep, latest, read_sweep

    place = folder if is_sweep(folder) else latest(folder)
    return _of(read_sweep(place), place)


def _from_store(run_id: str, uri: str | None, experiment: str | None) -> Sweep:
    from llmbench import tracking
    from llmbench.config.job import TrackingConfig
    from llmbench.sweeps.stored import read_run

    where = TrackingConfig(uri=uri) if experiment is None else TrackingConfig(uri=uri, experiment=experiment)
    store = tracking.open_store(where, create=False)
    found = read_run(store, store.sweep(run_id))
    return _of(found, found.path)


def _of(found: "RecordedSweep", folder: Path | None) -> Sweep:
    return Sweep(
        records=found.records,
        folder=folder,
        command=found.command or "",
        recipe=found.recipe or "",
        missing=found.missing,
        recorded=found,
    )


def _row(record: Record) -> dict[str, Any]:
    """A Record as a row."""
    named = {
        "identity": record.identity,
        "label": record.label,
        "model": record.model,
        "family": record.family,
        "role": record.role,
        "steps": record.steps,
        "status": record.status,
        "reason": record.reason,
        "started_at": record.started_at,
        "duration_s": record.duration_s,
        "prompts": len(record.outputs),
    }
    return named | record.conditions | record.metrics


def _columns(header: Sequence[str]) -> list[str]:
    """Names of columns; those without one are numbered, because names must differ."""
    return [name or ("" if place == 0 else f"column {place}") for place, name in enumerate(header)]


def _without_credentials(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with a store's user and password in the environment, where workers find them."""
    cleaned = dict(settings)
    if isinstance(cleaned.get("tracking.uri"), str):
        cleaned["tracking.uri"] = clean_uri(cleaned["tracking.uri"])
    own = cleaned.get("tracking")
    if isinstance(own, Mapping) and isinstance(own.get("uri"), str):
        cleaned["tracking"] = {**own, "uri": clean_uri(own["uri"])}
    return cleaned


def _call(settings: Mapping[str, Any]) -> str:
    """The call as it is typed, without a password."""
    from llmbench import tracking

    given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    return str(tracking.redact(f"llmbench.sweep({given})"))


def _new_folder() -> Path:
    return results() / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
