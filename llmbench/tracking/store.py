"""An open store that is written: sweeps go in as a parent run with children.

Nothing goes in twice: a Record that a sweep has in the store is not logged again, and a run that a killed process or a
lost answer left half-logged is completed.
"""

import contextlib
import json
import math
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmbench.analysis.formats import counted, number
from llmbench.analysis.parity import brief
from llmbench.analysis.parity.parity import Parity
from llmbench.record import ROLE_SUFFIX, Record
from llmbench.system.redact import redact
from llmbench.tracking import run_payload, store_uri, views
from llmbench.tracking.reading import ANALYSIS, PARENT, PLANNED, SWEEP, StoreReader, is_whole, milliseconds

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as a description."""

_BATCH = 900
"""Metrics in one request; MLflow takes 1000 entities."""

_HOUR = 3600.0

_TAGS = 100
"""Tags in one request."""


@dataclass(frozen=True, kw_only=True)
class Store(StoreReader):
    """An open store."""

    def start_sweep(
        self,
        *,
        name: str,
        command: str,
        jobs: int,
        recipe: str = "",
        registered: str = "",
        planned: Mapping[str, str] | None = None,
        axes: Mapping[str, str] | None = None,
        folder: str = "",
        key: str = "",
        began_ms: int | None = None,
    ) -> str:
        """Open the parent run of a sweep; returns its run id.

        Args:
            name: of its folder.
            command: what was typed.
            jobs: how many are planned.
            recipe: the file of conf/experiment, if any.
            registered: what its verdict will test, as JSON.
            planned: the title of every job by its identity.
            axes: of the sweep with their values, as `run_payload.axes` makes them.
            folder: where its Records are written.
            key: by which `find_sweep_run` finds it; "" for a new one.
            began_ms: when the sweep began, in ms since 1970; None means now.
        """
        key = key or uuid.uuid4().hex
        tags = {
            "kind": "sweep",
            "recipe": recipe,
            "command": redact(command),
            "jobs": str(jobs),
            "registered": registered,
            "folder": folder,
            "host": socket.gethostname() if folder else "",
            SWEEP: key,
            run_payload.NAME: name,
            run_payload.COPY: "false",
            **run_payload.origin(),
        }
        tags = {name: value for name, value in tags.items() if value}
        with store_uri.translated("cannot start the sweep's run"):
            try:
                run = self.client.create_run(self.experiment_id, start_time=began_ms, run_name=name, tags=tags)
                run_id = str(run.info.run_id)
            except Exception:
                found = self.find_sweep_run(key)  # the answer may have been lost, and not the run
                if found is None:
                    raise
                run_id = found
            try:
                if axes:
                    self._log_batch(run_id, (), axes, 0)
                if planned:
                    self.client.log_dict(run_id, dict(planned), PLANNED)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.client.set_terminated(run_id, status="FAILED")
                raise
        return run_id

    def log_job(
        self, record: Record, *, parent: str | None, steps_axis: Sequence[int], swept: Mapping[str, str]
    ) -> str:
        """Log one Record as a run of its own; returns the run id.

        A Record that can be read from the store already is not logged again; a run that was left half-logged, or has
        lost its Record, is completed.
        Metrics are those of full measurements: a point of a curve, or a baseline that was timed again, has its Record.

        Args:
            record: finished or failed; a failed one carries its reason as a tag.
            parent: run id of the sweep, or None for a job that ran alone.
            steps_axis: K; a record without steps has its values at each of them.
            swept: the axes of the sweep on which this job differs from others.
        """
        with store_uri.translated(f"cannot log {record.label}"):
            own, elsewhere = self._runs_of(record, parent)
            for run in own:
                if self._holds(run):
                    return str(run.info.run_id)
            tags = {run_payload.COPY: str(elsewhere).lower()} | ({PARENT: parent} if parent else {})
            run_id = str(own[-1].info.run_id) if own else self._create_job(record, swept, tags)
            try:
                self._fill(run_id, record, steps_axis, swept)
            except BaseException:
                if parent is None:  # else the end of the sweep tries again, and ends what is left
                    with contextlib.suppress(Exception):
                        self.client.set_terminated(run_id, status="KILLED")
                raise
        return run_id

    def _create_job(self, record: Record, swept: Mapping[str, str], tags: dict[str, str]) -> str:
        axes = [f"{key}={value}" for key, value in swept.items() if key not in ("model", "steps")]
        run = self.client.create_run(
            self.experiment_id,
            start_time=milliseconds(record.started_at),
            run_name=" ".join([record.label, *axes]) + ROLE_SUFFIX[record.role],
            tags=run_payload.tags(record) | tags,
        )
        return str(run.info.run_id)

    def _fill(self, run_id: str, record: Record, steps_axis: Sequence[int], swept: Mapping[str, str]) -> None:
        """Everything of a Record into its run, which is ended; once more changes nothing."""
        ended = milliseconds(record.started_at) + int(record.duration_s * 1000)
        steps = [record.steps] if record.steps is not None else list(steps_axis) or [0]
        shown = record.metrics if record.role == "timed" else {}  # the charts show full measurements
        rows = [(run_payload.metric_key(key), k, value) for key, value in shown.items() for k in steps]
        self._log_batch(run_id, rows, run_payload.params(record, swept), ended)
        with tempfile.TemporaryDirectory() as folder:
            run_payload.write_files(replace(record, config=redact(record.config)), Path(folder))
            self.client.log_artifacts(run_id, folder)
        if record.outputs:
            self.client.set_tag(run_id, "mlflow.loggedArtifacts", run_payload.GENERATIONS_TAG)
        status = "FINISHED" if record.status == "finished" else "FAILED"
        self.client.set_terminated(run_id, status=status, end_time=ended)

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
        ended_ms: int | None = None,
    ) -> None:
        """Write the verdict to the parent run and end it: FAILED when a job failed or is not in the store.

        Runs of its jobs that were left half-logged are ended, too.

        Args:
            parent: run id.
            verdicts: one per set of comparable Records; the curve is logged when there is exactly one.
            records: those of the sweep, for hardware, versions and commit.
            failed: labels of the jobs that failed.
            unlogged: labels of the jobs that could not be logged; a table made from this run alone would lack them.
            note: Markdown that the UI shows as the description.
            files: further artifacts by name (figures, tables), as `sweep_report` makes them.
            ended_ms: when the sweep ended, in ms since 1970; None means now.
        """
        files = {"parity.json": json.dumps([item.to_dict() for item in verdicts], indent=1), **(files or {})}
        title = ", ".join([brief.brief(verdicts), *([f"{counted(len(failed), 'job')} failed"] if failed else [])])
        tags = _conclusion(verdicts, title, note, views.page(self.experiment_id, parent))
        tags |= {"failed_jobs": ", ".join(failed)[:5000], "unlogged_jobs": ", ".join(unlogged)[:5000]}
        tags |= run_payload.hardware(records[0]) if records else {}
        with store_uri.translated("cannot log the verdict"):
            if len(verdicts) == 1:
                details = [(f"{run_payload.DETAIL}{key}", k, value) for key, k, value in verdicts[0].series()]
                self._log_batch(parent, [*views.curves(verdicts[0]), *details], {}, int(time.time() * 1000))
                self._tag_speedups(parent, verdicts[0], records)
            self._log_tags(parent, tags)
            known = self.client.get_run(parent).data
            for key in {key for key, value in tags.items() if not value} & known.tags.keys():
                self.client.delete_tag(parent, key)  # of an ending that was not the last
            axes = run_payload.axes_of(records)
            if lacking := {key: value for key, value in axes.items() if run_payload.name(key) not in known.params}:
                self._log_batch(parent, (), lacking, 0)  # a parent of an earlier version
            with tempfile.TemporaryDirectory() as folder:
                for file, data in files.items():
                    raw = data if isinstance(data, bytes) else redact(data).encode()
                    (Path(folder) / file).write_bytes(raw)
                self.client.log_artifacts(parent, folder)
            self._end_jobs(parent)
            self._log_view(parent, title, verdicts, axes)
            status = "FAILED" if failed or unlogged else "FINISHED"
            self.client.set_terminated(parent, status=status, end_time=ended_ms)

    def _log_view(self, parent: str, title: str, verdicts: Sequence[Parity], axes: Mapping[str, str]) -> None:
        """The sweep's page, its run's name, and the link in the experiment's description unless that is somebody's."""
        view = views.of_sweep(parent, title, verdicts, axes, int(time.time() * 1000))
        run = self.client.get_run(parent)
        if run_payload.NAME not in run.data.tags:  # begun by an earlier version, which knows it by its run's name
            self.client.set_tag(parent, run_payload.NAME, run.info.run_name)
        self.client.update_run(parent, name=title)
        self.client.set_experiment_tag(self.experiment_id, f"{views.TAG}{parent}", view)
        if self.client.get_experiment(self.experiment_id).tags.get(NOTE, views.NOTE).startswith(views.NOTE):
            s_parity = [f"S_parity: {brief.s_parity(item)}" for item in verdicts if item.head and len(verdicts) == 1]
            text = views.description(self.experiment_id, (parent, "; ".join([title, *s_parity])))
            self.client.set_experiment_tag(self.experiment_id, NOTE, text)

    def _tag_speedups(self, parent: str, verdict: Parity, records: Sequence[Record]) -> None:
        """The speedup of each candidate and implementation, for the table of the sweep's jobs."""
        runs = self.job_runs(parent)
        ratios = {i: item.speedup.value for item in verdict.implementations if item.speedup for i in item.identities}
        for record in records:
            if record.steps is not None and record.role == "timed" and (fast := verdict.speedup(record.steps)):
                ratios[record.identity] = fast.ratio
        for identity in ratios.keys() & runs.keys():
            self.client.set_tag(runs[identity], "speedup", f"{number(ratios[identity])}x")

    def abort_sweep(self, parent: str, status: str = "KILLED") -> None:
        """End the parent run of a sweep that did not come to its end, and its jobs; what has ended stays as it is."""
        with store_uri.translated("cannot end the sweep's run"):
            self._end_jobs(parent)
            if self.client.get_run(parent).info.status == "RUNNING":
                self.client.set_terminated(parent, status=status)

    def abort_jobs(self) -> None:
        """End the runs of jobs that are left half-logged: under a parent that has ended, or alone for an hour."""
        with store_uri.translated("cannot end the runs of jobs"):
            left = list(self._search("tags.kind = 'job' and attributes.status = 'RUNNING'"))
            for run in left:  # one that is being logged all the same gets its true status when that is done
                if PARENT not in run.data.tags and run.info.start_time < (time.time() - _HOUR) * 1000:
                    self.client.set_terminated(run.info.run_id, status="KILLED")
            for parent in {tags[PARENT] for run in left if PARENT in (tags := run.data.tags)}:
                if self.client.get_run(parent).info.status != "RUNNING":
                    self._end_jobs(parent)

    def _end_jobs(self, parent: str) -> None:
        """End the runs of a sweep's jobs that are left half-logged; an empty one beside a whole one is deleted."""
        left = list(self._search(f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"))
        for run in left:
            identity = run.data.tags.get("identity", "")
            if any(map(is_whole, self._search(f"tags.`{PARENT}` = '{parent}' and tags.identity = '{identity}'"))):
                self.client.delete_run(run.info.run_id)
            else:
                self.client.set_terminated(run.info.run_id, status="KILLED")

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


def _conclusion(verdicts: Sequence[Parity], title: str, note: str, page: str) -> dict[str, str]:
    """What a sweep came to as tags: columns of the table of sweeps, the description, and what later sweeps count."""
    first = f"**{title[:1].upper()}{title[1:]}.**"
    tags = {"S_parity": "", "speedup": ""}
    if len(verdicts) == 1:
        (verdict,) = verdicts
        tags = {"S_parity": brief.s_parity(verdict), "speedup": brief.speedup(verdict)}
        first += f" {verdict.title}."
    s_parity = f"S_parity: {tags['S_parity']}. " if tags["S_parity"] else ""
    links = f"{s_parity}[Charts over k, and the table of jobs]({page})"
    tags[NOTE] = redact("\n\n".join([first, links, note]))[:7900]
    tags["verdict"] = ", ".join(dict.fromkeys(item.status.value for item in verdicts))
    made = [(i, item.analysis) for i, item in enumerate(verdicts) if item.analysis is not None]
    return tags | {f"{ANALYSIS}{i}": analysis.to_json() for i, analysis in made}
