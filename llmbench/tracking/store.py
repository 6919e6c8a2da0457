"""An open store: sweeps go in as a parent run with children, and come out again as Records."""

import contextlib
import datetime
import json
import math
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmbench import record as records_room
from llmbench.analysis.parity.interim import PastAnalysis
from llmbench.analysis.parity.parity import Parity
from llmbench.errors import RecordError
from llmbench.record import ROLE_SUFFIX, Record
from llmbench.system.redact import redact
from llmbench.tracking import run_payload, sqlite_store, store_uri
from llmbench.tracking.summary import SweepSummary, find_sweep

EXPERIMENT = "llmbench"
"""The experiment that readers take when none is named."""

_BATCH = 900
"""Metrics in one request; MLflow takes 1000 entities."""

_TAGS = 100
"""Tags in one request."""

_ANALYSIS = "analysis."
"""Tags of a parent run, one for each of its verdicts: what later ones on the same question must count."""

_LOOK = "look."
"""What version 0.1 called them."""

_PLANNED = "planned.json"
"""Artifact of a parent run: the title of every planned job by its identity."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """An open store: its experiment, and a client bound to it."""

    uri: str  # without credentials
    experiment: str
    experiment_id: str
    client: Any

    @property
    def options(self) -> str:
        """What `python -m llmbench report` needs to find this store again, with a space in front."""
        named = {"--uri": (self.uri, store_uri.resolve_uri(None)), "--experiment": (self.experiment, EXPERIMENT)}
        return "".join(f" {key} {shlex.quote(value)}" for key, (value, default) in named.items() if value != default)

    def start_sweep(
        self,
        *,
        name: str,
        command: str,
        jobs: int,
        recipe: str = "",
        registered: str = "",
        planned: Mapping[str, str] | None = None,
        folder: str = "",
    ) -> str:
        """Open the parent run of a sweep; returns its run id.

        Args:
            name: of its folder.
            command: what was typed.
            jobs: how many are planned.
            recipe: the file of conf/experiment, if any.
            registered: what its verdict will test, as JSON.
            planned: the title of every job by its identity.
            folder: where its Records are written.
        """
        tags = {
            "kind": "sweep",
            "recipe": recipe,
            "command": redact(command),
            "jobs": str(jobs),
            "registered": registered,
            "folder": folder,
            **run_payload.origin(),
        }
        with store_uri.translated("cannot start the sweep's run"):
            run = self.client.create_run(self.experiment_id, run_name=name, tags={k: v for k, v in tags.items() if v})
            if planned:
                self.client.log_dict(run.info.run_id, dict(planned), _PLANNED)
        return str(run.info.run_id)

    def log_job(
        self, record: Record, *, parent: str | None, steps_axis: Sequence[int], swept: Mapping[str, str]
    ) -> str:
        """Log one Record as a run of its own; returns the run id.

        Metrics are those of full measurements: a point of a curve, or a baseline that was timed again, has its Record.

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
        run_name = " ".join([record.label, *axes]) + ROLE_SUFFIX[record.role]
        with store_uri.translated(f"cannot log {record.label}"):
            run = self.client.create_run(self.experiment_id, start_time=begun, run_name=run_name, tags=tags)
            run_id: str = run.info.run_id
            status = "FAILED"
            try:
                steps = [record.steps] if record.steps is not None else list(steps_axis) or [0]
                shown = record.metrics if record.role == "timed" else {}  # the charts show full measurements
                rows = [(key, k, value) for key, value in shown.items() for k in steps]
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
        unlogged: Sequence[str] = (),
        note: str = "",
        files: Mapping[str, str | bytes] | None = None,
    ) -> None:
        """Write the verdict to the parent run and end it: FAILED when a job failed or is not in the store.

        Args:
            parent: run id.
            verdicts: one per set of comparable Records; the curve is logged when there is exactly one.
            records: those of the sweep, for hardware, versions and commit.
            failed: labels of the jobs that failed.
            unlogged: labels of the jobs that could not be logged; a table made from this run alone would lack them.
            note: Markdown that the UI shows as the description.
            files: further artifacts by name (figures, tables), as `sweep_report` makes them.
        """
        files = {"parity.json": json.dumps([item.to_dict() for item in verdicts], indent=1), **(files or {})}
        tags = {"mlflow.note.content": redact(note)[:7900], "failed_jobs": ", ".join(failed)[:5000]}
        tags["unlogged_jobs"] = ", ".join(unlogged)[:5000]
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
                    raw = data if isinstance(data, bytes) else redact(data).encode()
                    (Path(folder) / file).write_bytes(raw)
                self.client.log_artifacts(parent, folder)
            self.client.set_terminated(parent, status="FAILED" if failed or unlogged else "FINISHED")

    def abort_sweep(self, parent: str, status: str = "KILLED") -> None:
        """End the parent run of a sweep that did not come to its end; one that has ended stays as it is."""
        with store_uri.translated("cannot end the sweep's run"):
            if self.client.get_run(parent).info.status == "RUNNING":
                self.client.set_terminated(parent, status=status)

    def sweeps(self) -> list[SweepSummary]:
        """All sweeps of the experiment, newest first."""
        with store_uri.translated("cannot list sweeps"):
            return [
                SweepSummary(
                    run_id=run.info.run_id,
                    name=run.info.run_name,
                    status=run.info.status,
                    recipe=run.data.tags.get("recipe"),
                    command=run.data.tags.get("command"),
                    verdict=run.data.tags.get("verdict"),
                    registered=run.data.tags.get("registered"),
                    jobs=int(run.data.tags["jobs"]) if run.data.tags.get("jobs", "").isdigit() else None,
                )
                for run in self._search(self.experiment_id, "tags.kind = 'sweep'")
            ]

    def sweep(self, named: str) -> SweepSummary:
        """One sweep, by its run id, its name (that of its folder), or the beginning of either.

        Raises:
            TrackingError: there is none, or several.
        """
        return find_sweep(self.sweeps(), named, self.uri)

    def logged(self) -> dict[str, int]:
        """How many jobs of each sweep are in the store with their Records, by its run id."""

        def whole(run: Any) -> bool:  # a finished job's run that did not finish has no Record: logging broke off
            return bool(run.info.status == "FINISHED" or run.data.tags.get("status") == "failed")

        with store_uri.translated("cannot list jobs"):
            runs = [run for run in self._search(self.experiment_id, "tags.kind = 'job'") if whole(run)]
        return dict(
            Counter(tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in (tags := run.data.tags))
        )

    def records(self, parent: str) -> list[Record]:
        """The Records of a sweep that can be read,: models without steps first, then by steps."""
        return self.read_records(parent)[0]

    def read_records(self, parent: str) -> tuple[list[Record], dict[str, str]]:
        """The Records of a sweep, read back from its child runs, and why others cannot be read, by identity."""
        found, unreadable = [], {}
        with store_uri.translated(f"cannot read the Records of {parent}"):
            for run in self._search(self.experiment_id, f"tags.`mlflow.parentRunId` = '{parent}'"):
                try:
                    if data := self._artifact(run, "record.json"):
                        found.append(records_room.parse(data))
                except RecordError as error:
                    unreadable[run.data.tags.get("identity", run.info.run_name)] = str(error)
        return records_room.sorted_records(found), unreadable

    def planned(self, parent: str) -> dict[str, str] | None:
        """The title of every job that a sweep planned, by its identity; None where the store does not know."""
        with store_uri.translated(f"cannot read the plan of {parent}"):
            data = self._artifact(self.client.get_run(parent), _PLANNED)
        try:
            values = json.loads(data or "null")
        except ValueError:
            return None
        return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else None

    def folder(self, parent: str) -> Path | None:
        """Where the sweep wrote its Records, as it was named then; None where the store does not know."""
        with store_uri.translated(f"cannot read {parent}"):
            named = self.client.get_run(parent).data.tags.get("folder")
        return Path(named) if named else None

    def _artifact(self, run: Any, name: str) -> bytes | None:
        """A file of a run; None where there is none."""
        if path := sqlite_store.artifact_path(store_uri.sqlite_file(self.uri), run, name):
            return path.read_bytes() if path.is_file() else None
        if not any(file.path == name for file in self.client.list_artifacts(run.info.run_id)):
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run.info.run_id, name, folder)).read_bytes()

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
        parameters = [Param(run_payload.name(key), str(redact(value))[:500]) for key, value in params.items()]
        for first in range(0, max(len(metrics), 1), _BATCH):
            self.client.log_batch(
                run_id, metrics=metrics[first : first + _BATCH], params=parameters if first == 0 else ()
            )

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        pairs = [RunTag(key, value) for key, value in tags.items() if value]
        for first in range(0, len(pairs), _TAGS):
            self.client.log_batch(run_id, tags=pairs[first : first + _TAGS])

    def _log_files(self, run_id: str, record: Record) -> None:
        """Configuration and Record, and the generations as a table."""
        import yaml

        clean = replace(record, config=redact(record.config))
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
