"""An open store: sweeps go in as a parent run with children, and come out again as Records."""

import contextlib
import datetime
import json
import math
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmbench import record as records_room
from llmbench.analysis.parity.interim import PastAnalysis
from llmbench.analysis.parity.verdict import Parity
from llmbench.config.job import TrackingConfig
from llmbench.errors import RecordError, TrackingError
from llmbench.record import Record
from llmbench.tracking import run_payload, store_uri

EXPERIMENT = "llmbench"
"""The experiment that readers take when none is named."""

_BATCH = 900
"""Metrics in one request; MLflow takes 1000 entities."""

_TAGS = 100
"""Tags in one request."""

_ANALYSIS = "analysis."
"""Tags of a parent run, one for each of its verdicts: what later ones on the same question must count."""

_LOOK = "look."
"""What version 0.2 called them."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A parent run, as a list of sweeps shows it."""

    run_id: str
    name: str
    status: str  # RUNNING, FINISHED, FAILED, KILLED
    started_at: str  # ISO 8601, UTC
    recipe: str | None  # the file of conf/experiment
    command: str | None  # what was typed
    verdict: str | None  # status of the parity verdict
    registered: str | None = None  # what its verdict was to test, as JSON, written before the first job
    jobs: int | None = None  # planned

    @property
    def ended(self) -> bool:
        """Whether it came to its end, with failed jobs or without."""
        return self.status in ("FINISHED", "FAILED")


@dataclass(frozen=True, kw_only=True)
class Store:
    """An open store: its experiment, and a client bound to it."""

    uri: str
    experiment: str
    experiment_id: str
    client: Any

    @property
    def shown_uri(self) -> str:
        """The URI as it may be printed: without a password."""
        return str(store_uri.redact(self.uri))

    @property
    def options(self) -> str:
        """What `python -m llmbench report` needs to find this store again, with a space in front."""
        named = {"--uri": (self.uri, store_uri.resolve_uri(None)), "--experiment": (self.experiment, EXPERIMENT)}
        return "".join(f" {key} {store_uri.redact(own)}" for key, (own, default) in named.items() if own != default)

    def start_sweep(self, *, name: str, command: str, jobs: int, recipe: str = "", registered: str = "") -> str:
        """Open the parent run of a sweep; returns its run id. `registered`: what its verdict will test, as JSON."""
        tags = {
            "kind": "sweep",
            "recipe": recipe,
            "command": store_uri.redact(command),
            "jobs": str(jobs),
            "registered": registered,
            **run_payload.origin(),
        }
        with store_uri.translated("cannot start the sweep's run"):
            run = self.client.create_run(self.experiment_id, run_name=name, tags={k: v for k, v in tags.items() if v})
        return str(run.info.run_id)

    def log_job(
        self, record: Record, *, parent: str | None, steps_axis: Sequence[int], swept: Mapping[str, str]
    ) -> str:
        """Log one Record as a run of its own; returns the run id.

        Args:
            record: finished or failed; a failed one carries its reason as a tag.
            parent: run id of the sweep, or None for a job that ran alone.
            steps_axis: K; a record without steps has its values at each of them.
            swept: the axes of the sweep on which this job differs from others.
        """
        begun = int(datetime.datetime.fromisoformat(record.started_at).timestamp() * 1000)
        ended = begun + int(record.duration_s * 1000)
        tags = run_payload.tags(record) | ({"mlflow.parentRunId": parent} if parent else {})
        axes = [f"{key}={value}" for key, value in swept.items() if key not in ("model", "steps")]
        with store_uri.translated(f"cannot log {record.label}"):
            run = self.client.create_run(
                self.experiment_id, start_time=begun, run_name=" ".join([record.label, *axes]), tags=tags
            )
            run_id: str = run.info.run_id
            status = "FAILED"
            try:
                steps = [record.steps] if record.steps is not None else list(steps_axis) or [0]
                rows = [(key, k, value) for key, value in record.metrics.items() for k in steps]
                self._log_batch(run_id, rows, run_payload.params(record, swept), ended)
                self._log_files(run_id, record)
                status = "FINISHED" if record.status == "finished" else "FAILED"
            finally:
                self.client.set_terminated(run_id, status=status, end_time=ended)
        return run_id

    def finish_sweep(
        self,
        parent: str,
        verdicts: Sequence[Parity],
        records: Sequence[Record],
        *,
        failed: Sequence[str] = (),
        note: str = "",
        files: Mapping[str, str | bytes] | None = None,
    ) -> None:
        """Write the verdict to the parent run and end it: FAILED when a job failed.

        Args:
            parent: run id.
            verdicts: one per set of comparable Records; the curve is logged when there is exactly one.
            records: those of the sweep, for hardware, versions and commit.
            failed: labels of the jobs that failed.
            note: Markdown that the UI shows as the description.
            files: further artifacts by name (figures, tables), as `llmbench.report.sweep_report` makes them.
        """
        files = {"parity.json": json.dumps([item.to_dict() for item in verdicts], indent=1), **(files or {})}
        tags = {"mlflow.note.content": store_uri.redact(note)[:7900], "failed_jobs": ", ".join(failed)}
        tags["verdict"] = ", ".join(dict.fromkeys(item.status.value for item in verdicts))
        tags |= run_payload.hardware(records[0]) if records else {}
        made = [(i, item.analysis) for i, item in enumerate(verdicts) if item.analysis is not None]
        tags |= {f"{_ANALYSIS}{i}": analysis.to_json() for i, analysis in made}
        with store_uri.translated("cannot log the verdict"):
            if len(verdicts) == 1:
                self._log_batch(parent, verdicts[0].series(), {}, int(time.time() * 1000))
            self._log_tags(parent, tags)
            with tempfile.TemporaryDirectory() as folder:
                for file, data in files.items():
                    raw = data if isinstance(data, bytes) else store_uri.redact(data).encode()
                    (Path(folder) / file).write_bytes(raw)
                self.client.log_artifacts(parent, folder)
            self.client.set_terminated(parent, status="FAILED" if failed else "FINISHED")

    def abort_sweep(self, parent: str, status: str = "KILLED") -> None:
        """End the parent run of a sweep that did not come to its end."""
        with store_uri.translated("cannot end the sweep's run"):
            self.client.set_terminated(parent, status=status)

    def sweeps(self) -> list[Sweep]:
        """All sweeps of the experiment, newest first."""
        with store_uri.translated("cannot list sweeps"):
            return [
                Sweep(
                    run_id=run.info.run_id,
                    name=run.info.run_name,
                    status=run.info.status,
                    started_at=run_payload.iso(run.info.start_time),
                    recipe=run.data.tags.get("recipe"),
                    command=run.data.tags.get("command"),
                    verdict=run.data.tags.get("verdict"),
                    registered=run.data.tags.get("registered"),
                    jobs=int(run.data.tags["jobs"]) if run.data.tags.get("jobs", "").isdigit() else None,
                )
                for run in self._search(self.experiment_id, "tags.kind = 'sweep'")
            ]

    def sweep(self, named: str) -> Sweep:
        """One sweep, by its run id, its name (that of its folder), or the beginning of either.

        Raises:
            TrackingError: there is none, or several.
        """
        every = self.sweeps()
        found = [item for item in every if named in (item.run_id, item.name)]
        found = found or [item for item in every if item.run_id.startswith(named) or item.name.startswith(named)]
        if not found:
            raise TrackingError(f"there is no sweep {named} in {self.shown_uri}; `report sweeps` lists them")
        if len(found) > 1:
            few = ", ".join(f"{item.name} ({item.run_id})" for item in found[:3])
            raise TrackingError(f"{named} means {len(found)} sweeps: {few}{', ...' if len(found) > 3 else ''}")
        return found[0]

    def logged(self) -> dict[str, int]:
        """How many jobs of each sweep are in the store with their Records, by its run id."""

        def whole(run: Any) -> bool:  # a finished job's run that did not finish has no Record: logging broke off
            return bool(run.info.status == "FINISHED" or run.data.tags.get("status") == "failed")

        with store_uri.translated("cannot list jobs"):
            runs = [run for run in self._search(self.experiment_id, "tags.kind = 'job'") if whole(run)]
        return dict(
            Counter(tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in (tags := run.data.tags))
        )

    def latest_sweep(self, wanted: Callable[[Sweep], bool] = lambda sweep: True) -> Sweep | None:
        """The newest finished sweep that is wanted."""
        return next((item for item in self.sweeps() if item.status == "FINISHED" and wanted(item)), None)

    def records(self, parent: str) -> list[Record]:
        """The Records of a sweep, read back from its child runs: models without steps first, then by steps."""
        with store_uri.translated(f"cannot read the Records of {parent}"), tempfile.TemporaryDirectory() as folder:
            found = []
            for run in self._search(self.experiment_id, f"tags.`mlflow.parentRunId` = '{parent}'"):
                target = Path(folder) / run.info.run_id
                target.mkdir()
                if not any(file.path == "record.json" for file in self.client.list_artifacts(run.info.run_id)):
                    continue  # logging broke off; the Record itself is on the disk of the sweep
                path = self.client.download_artifacts(run.info.run_id, "record.json", str(target))
                found.append(records_room.load(Path(path)))
        return sorted(found, key=lambda item: (item.steps is not None, item.model, item.steps or 0, item.identity))

    def past_analyses(self, before: str) -> list[PastAnalysis]:
        """The analyses that other sweeps had made when the sweep `before` ended (or until now), oldest first.

        A sweep that was deleted and is still there counts: what was seen was seen.
        """
        from mlflow.entities import ViewType

        with store_uri.translated("cannot read earlier analyses"):
            end = self.client.get_run(before).info.end_time
            runs = [
                run
                for run in self._search(self.experiment_id, "tags.kind = 'sweep'", ViewType.ALL)
                if run.info.run_id != before and run.info.end_time and (end is None or run.info.end_time <= end)
            ]
        found: list[PastAnalysis] = []
        for run in sorted(runs, key=lambda run: int(run.info.end_time)):
            tags = {key: value for key, value in run.data.tags.items() if key.startswith((_ANALYSIS, _LOOK))}
            for key in sorted(tags, key=lambda key: int(key.rpartition(".")[2])):
                with contextlib.suppress(RecordError):  # of a later version: nothing that can be compared
                    found.append(PastAnalysis.from_json(tags[key]))
        return found

    def view_url(self, base: str) -> str:
        """Address of this experiment's curves on a server at `base`."""
        return run_payload.view_url(base, self.experiment_id)

    def _search(self, experiment_id: str, wanted: str, view: int = 1) -> Iterable[Any]:
        """Runs, newest first; `view`: MLflow's ViewType, by default active runs only."""
        token = None
        order = ["attributes.start_time DESC"]
        while True:
            page = self.client.search_runs(
                [experiment_id], wanted, run_view_type=view, max_results=200, order_by=order, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _log_batch(
        self, run_id: str, rows: Iterable[tuple[str, int, float]], params: Mapping[str, str], at_ms: int
    ) -> None:
        """All metrics and params in as few requests as MLflow's limit allows; a loop takes a thousand times longer."""
        from mlflow.entities import Metric, Param

        metrics = [
            Metric(run_payload.name(key), value, at_ms, step)
            for key, step, value in rows
            if value is not None and math.isfinite(value)
        ]
        own = [Param(run_payload.name(key), str(store_uri.redact(value))[:500]) for key, value in params.items()]
        for first in range(0, max(len(metrics), 1), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[first : first + _BATCH], params=own if first == 0 else ())

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        own = [RunTag(key, value) for key, value in tags.items() if value]
        for first in range(0, len(own), _TAGS):
            self.client.log_batch(run_id, tags=own[first : first + _TAGS])

    def _log_files(self, run_id: str, record: Record) -> None:
        """Configuration and Record, and the generations as a table."""
        import yaml

        clean = replace(record, config=store_uri.redact(record.config))
        with tempfile.TemporaryDirectory() as folder:
            clean.save(Path(folder))
            (Path(folder) / "config.yaml").write_text(yaml.safe_dump(clean.config, sort_keys=False, allow_unicode=True))
            for kind in ("reserved", "allocated"):
                if trace := getattr(record.device_use, f"{kind}_trace_bytes"):
                    (Path(folder) / "memory").mkdir(exist_ok=True)
                    (Path(folder) / "memory" / f"{kind}_trace.json").write_text(json.dumps(list(trace)))
            self.client.log_artifacts(run_id, folder)
        if record.outputs:
            self.client.log_table(run_id, data=run_payload.generations(record), artifact_file="generations.json")


def open_store(config: TrackingConfig, *, create: bool = True) -> "Store":
    """Open the store of `config`, with its experiment.

    Args:
        config: `uri` and `experiment`.
        create: make the store and the experiment when they are missing. A reader passes False.

    Raises:
        TrackingError: it cannot be used; one line that says why, after a few seconds at most.
    """
    uri = store_uri.resolve_uri(config.uri)
    store_uri.check_reachable(uri, create)
    with store_uri.one_at_a_time(uri):
        client, experiment = _open(uri, config.experiment)
        where = f"experiment {config.experiment} of {store_uri.redact(uri)}"
        if experiment is None and not create:
            raise TrackingError(f"there is no {where}; run `make run` first, or name another with --experiment")
        artifacts = store_uri.artifact_folder(uri)
        with store_uri.translated(f"cannot create {where}"):
            if experiment is None:
                experiment = _create(client, config.experiment, artifacts.as_uri() if artifacts else None)
            location = experiment.artifact_location
            if artifacts is not None and location == artifacts.as_uri() and create:
                artifacts.mkdir(parents=True, exist_ok=True)
            elif (
                location
                and location.startswith("file:")
                and not Path(urllib.parse.unquote(location.removeprefix("file://"))).is_dir()
            ):
                raise TrackingError(
                    f"{where} keeps its files in {location}, which is gone; set another tracking.experiment"
                )
            if create:
                key = f"mlflow.sharedViewState.{run_payload.VIEW}"
                client.set_experiment_tag(experiment.experiment_id, key, run_payload.view_state())
    return Store(uri=uri, experiment=config.experiment, experiment_id=experiment.experiment_id, client=client)


def refusal(config: TrackingConfig) -> str | None:
    """Why `open_store` would refuse a sweep now; None where nothing is known against it. Makes nothing."""
    try:
        uri = store_uri.resolve_uri(config.uri)
        store_uri.check_reachable(uri, create=True, touch=False)
        file = store_uri.sqlite_file(uri)
        if file is None or file.exists():
            _open(uri, config.experiment)
    except TrackingError as error:
        return str(error)
    return None


def _open(uri: str, name: str) -> tuple[Any, Any]:
    """MLflow's client, and the experiment of this name, or None where there is none yet."""
    with store_uri.translated(f"cannot open the MLflow store {store_uri.redact(uri)}", store_uri.remedy(uri)):
        client = store_uri.client(uri)
        experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage != "active":
        where = f"experiment {name} of {store_uri.redact(uri)}"
        raise TrackingError(f"{where} is deleted; restore it (mlflow experiments restore) or set tracking.experiment")
    return client, experiment


def _create(client: Any, name: str, location: str | None) -> Any:
    """A new experiment; that of another process, where one was quicker."""
    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=location))
    except Exception:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found
