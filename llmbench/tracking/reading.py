"""What an MLflow store holds: sweeps as a parent run with children, and their Records."""

import contextlib
import datetime
import json
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from llmbench import record as records_room
from llmbench.analysis.parity.interim import PastAnalysis
from llmbench.errors import RecordError
from llmbench.record import Record
from llmbench.tracking import run_payload, sqlite_store, store_uri, views
from llmbench.tracking.summary import SweepSummary, find_sweep

EXPERIMENT = "llmbench"
"""The experiment that readers take when none is named."""

PLANNED = "planned.json"
"""Artifact of a parent run: the title of every planned job by its identity."""

PARENT = "mlflow.parentRunId"

SWEEP = "llmbench.sweep"
"""Tag of a parent run: what tells the sweep from all others, in whatever store it stands."""

ANALYSIS = "analysis."
"""Tags of a parent run, one for each of its verdicts: what later ones on the same question must count."""

_LOOK = "look."
"""What version 0.1 called them."""


def options(uri: str | None, experiment: str) -> str:
    """What a command needs to find a store, with a space in front; "" for the usual one.

    Args:
        uri: as `tracking.uri`.
        experiment: as `tracking.experiment`.
    """
    named = {
        "--uri": (store_uri.resolve_uri(uri), store_uri.resolve_uri(None)),
        "--experiment": (experiment, EXPERIMENT),
    }
    return "".join(f" {key} {shlex.quote(value)}" for key, (value, default) in named.items() if value != default)


@dataclass(frozen=True, kw_only=True)
class StoreReader:
    """An open store that is read: its experiment, and a client bound to it."""

    uri: str  # without credentials
    experiment: str
    experiment_id: str
    client: Any

    @property
    def options(self) -> str:
        """What `llmbench report` needs to find this store again, with a space in front."""
        return options(self.uri, self.experiment)

    def sweeps(self) -> list[SweepSummary]:
        """All sweeps of the experiment, newest first."""
        with store_uri.translated("cannot list sweeps"):
            return [
                SweepSummary(
                    run_id=run.info.run_id,
                    name=run.data.tags.get(run_payload.NAME) or run.info.run_name,
                    status=run.info.status,
                    recipe=run.data.tags.get("recipe"),
                    command=run.data.tags.get("command"),
                    verdict=run.data.tags.get("verdict"),
                    registered=run.data.tags.get("registered"),
                    jobs=int(run.data.tags["jobs"]) if run.data.tags.get("jobs", "").isdigit() else None,
                )
                for run in self._search("tags.kind = 'sweep'")
            ]

    def sweep(self, named: str) -> SweepSummary:
        """One sweep, by its run id, its name (that of its folder), or the beginning of either.

        Raises:
            TrackingError: there is none, or several.
        """
        return find_sweep(self.sweeps(), named, self.uri)

    def logged(self) -> dict[str, int]:
        """How many jobs of each sweep are in the store with their Records, by its run id."""
        with store_uri.translated("cannot list jobs"):
            runs = [run for run in self._search("tags.kind = 'job'") if is_whole(run)]
        return dict(Counter(tags[PARENT] for run in runs if PARENT in (tags := run.data.tags)))

    def records(self, parent: str) -> list[Record]:
        """The Records of a sweep that can be read: models without steps first, then by steps."""
        return self.read_records(parent)[0]

    def read_records(self, parent: str) -> tuple[list[Record], dict[str, str]]:
        """The Records of a sweep, read back from its child runs, and why others cannot be read, by identity."""
        found, unreadable = [], {}
        with store_uri.translated(f"cannot read the Records of {parent}"):
            for run in self._search(f"tags.`{PARENT}` = '{parent}'"):
                try:
                    if data := self._artifact(run, "record.json"):
                        found.append(records_room.parse(data))
                except RecordError as error:
                    unreadable[run.data.tags.get("identity", run.info.run_name)] = str(error)
        return records_room.sorted_records(found), unreadable

    def job_runs(self, parent: str) -> dict[str, str]:
        """The run id of every job of a sweep that is whole here, by its identity."""
        with store_uri.translated(f"cannot list the jobs of {parent}"):
            runs = [run for run in self._search(f"tags.`{PARENT}` = '{parent}'") if is_whole(run)]
        return {run.data.tags["identity"]: str(run.info.run_id) for run in runs if "identity" in run.data.tags}

    def planned(self, parent: str) -> dict[str, str] | None:
        """The title of every job that a sweep planned, by its identity; None where the store does not know."""
        with store_uri.translated(f"cannot read the plan of {parent}"):
            data = self._artifact(self.client.get_run(parent), PLANNED)
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

    def find_sweep_run(self, key: str) -> str | None:
        """The parent run of a sweep: by its own run id, or by what tells the sweep from others; None: not here."""
        from mlflow.exceptions import MlflowException

        with store_uri.translated(f"cannot look for sweep {key}"):
            for run in self._search(f"tags.`{SWEEP}` = '{key}'"):
                return str(run.info.run_id)
            try:
                run = self.client.get_run(key)
            except MlflowException as error:
                if error.get_http_status_code() != HTTPStatus.NOT_FOUND:
                    raise
                return None
        here = run.info.lifecycle_stage == "active" and run.info.experiment_id == self.experiment_id
        return key if here and run.data.tags.get("kind") == "sweep" else None

    def status(self, run_id: str) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        with store_uri.translated(f"cannot read {run_id}"):
            return str(self.client.get_run(run_id).info.status)

    def is_concluded(self, parent: str) -> bool:
        """Whether a sweep's run came to its end with its verdict, and lacked no job then."""
        with store_uri.translated(f"cannot read {parent}"):
            run = self.client.get_run(parent)
        return run.info.status in ("FINISHED", "FAILED") and not run.data.tags.get("unlogged_jobs")

    def find_job(self, record: Record, parent: str | None) -> str | None:
        """The run that holds a whole Record, under a parent or of a job that ran alone; None: not here."""
        with store_uri.translated(f"cannot look for {record.label}"):
            return next((str(run.info.run_id) for run in self._runs_of(record, parent)[0] if self._holds(run)), None)

    def _holds(self, run: Any) -> bool:
        """Whether the Record of a job's run can be read from the store."""
        try:
            data = self._artifact(run, "record.json") if is_whole(run) else None
            return data is not None and bool(records_room.parse(data))
        except RecordError:
            return False

    def _runs_of(self, record: Record, parent: str | None) -> tuple[list[Any], bool]:
        """The runs of a Record under its parent, or alone; and whether any run holds this measurement whole."""
        found = list(self._search(f"tags.identity = '{record.identity}'"))
        same = [run for run in found if run.info.start_time == milliseconds(record.started_at)]
        own = [run for run in (found if parent else same) if run.data.tags.get(PARENT) == parent]
        return own, any(map(is_whole, same))

    def running_sweeps(self) -> dict[str, Mapping[str, str]]:
        """The tags of every parent run that has not ended, by its run id."""
        with store_uri.translated("cannot list sweeps"):
            found = self._search("tags.kind = 'sweep' and attributes.status = 'RUNNING'")
            return {str(run.info.run_id): run.data.tags for run in found}

    def past_analyses(self, before: str) -> list[PastAnalysis]:
        """The analyses that other sweeps had made when the sweep `before` ended (or until now), oldest first.

        A sweep that was deleted and is still there counts: what was seen was seen.
        """
        from mlflow.entities import ViewType

        with store_uri.translated("cannot read earlier analyses"):
            end = self.client.get_run(before).info.end_time
            runs = [
                run
                for run in self._search("tags.kind = 'sweep'", ViewType.ALL)
                if run.info.run_id != before and run.info.end_time and (end is None or run.info.end_time <= end)
            ]
        found: list[PastAnalysis] = []
        for run in sorted(runs, key=lambda run: int(run.info.end_time)):
            tags = {key: value for key, value in run.data.tags.items() if key.startswith((ANALYSIS, _LOOK))}
            for key in sorted(tags, key=lambda key: int(key.rpartition(".")[2])):
                with contextlib.suppress(RecordError):  # of a later version: nothing that can be compared
                    found.append(PastAnalysis.from_json(tags[key]))
        return found

    def newest_view(self) -> tuple[str, str] | None:
        """Run id and title of the sweep that came to its end last; None: there is no page of any."""
        with store_uri.translated("cannot list sweeps"):
            tags = self.client.get_experiment(self.experiment_id).tags
            for run in self._search("tags.kind = 'sweep'"):
                if view := tags.get(f"{views.TAG}{run.info.run_id}"):
                    return str(run.info.run_id), str(json.loads(view)["name"])
        return None

    def address(self, sweep: str | None = None) -> str:
        """Of the page of a sweep (its run id), or of all: on the store's server, or where `llmbench ui` serves it."""
        base = self.uri if self.uri.startswith("http") else views.LOCAL
        return views.view_url(base, self.experiment_id, sweep or views.ALL)

    def _artifact(self, run: Any, name: str) -> bytes | None:
        """A file of a run; None where there is none."""
        if path := sqlite_store.artifact_path(store_uri.sqlite_file(self.uri), run, name):
            return path.read_bytes() if path.is_file() else None
        if not any(file.path == name for file in self.client.list_artifacts(run.info.run_id)):
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run.info.run_id, name, folder)).read_bytes()

    def _search(self, wanted: str, view: int = 1) -> Iterable[Any]:
        """Runs, newest first; `view`: MLflow's ViewType, by default active runs only."""
        token = None
        order = ["attributes.start_time DESC"]
        while True:
            page = self.client.search_runs(
                [self.experiment_id], wanted, run_view_type=view, max_results=200, order_by=order, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


def is_whole(run: Any) -> bool:
    """Whether a job's run holds all of its Record: of a finished job it did finish, else logging broke off."""
    return bool(
        run.info.status == "FINISHED" or (run.info.status == "FAILED" and run.data.tags.get("status") == "failed")
    )


def milliseconds(moment: str) -> int:
    """A moment of ISO 8601, as MLflow writes it: since 1970."""
    return int(datetime.datetime.fromisoformat(moment).timestamp() * 1000)
