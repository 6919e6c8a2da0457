"""The folder of a sweep, read without any store: `sweep.json`, `plan.json`, and a `record.json` for each job.

A folder that was renamed or copied to another machine is read in the same way. Folders of earlier versions have no
plan: nothing of them is known to be missing, except that a sweep did not end.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmbench import record
from llmbench.analysis.parity.interim import PastAnalysis
from llmbench.errors import RecordError
from llmbench.sweeps import state
from llmbench.sweeps.recorded import RecordedSweep
from llmbench.tracking.summary import SweepSummary

PLAN_FILE = "plan.json"
RECORD_FILE = "record.json"


def read_sweep(folder: Path) -> RecordedSweep:
    """The sweep of a folder.

    Args:
        folder: holds `sweep.json` or `plan.json`.

    Raises:
        RecordError: it is no folder of a sweep, or its plan cannot be read.
    """
    if not is_sweep(folder):
        raise RecordError(f"{folder}: no sweep wrote there (there is neither {state.SWEEP_FILE} nor {PLAN_FILE})")
    plan = _plan(folder)
    records, missing, runs = [], [], {}
    for name, title in (_titles(plan) or {path.parent.name: path.parent.name for path in _files(folder)}).items():
        path = folder / name / RECORD_FILE
        try:
            records.append(found := record.load(path))
            runs[found.identity] = name
        except RecordError as error:
            missing.append(title if not path.exists() else f"{title} ({error})")
    history = []
    for text in (state.read(folder) or state.SweepState()).history:
        with suppress(RecordError):  # of a later version: nothing that can be compared
            history.append(PastAnalysis.from_json(text))
    return RecordedSweep(
        **asdict(_summary(folder, plan)),
        path=folder,
        records=tuple(record.sorted_records(records)),
        planned=_titles(plan),
        missing=tuple(missing),
        history=tuple(history),
        runs=runs,
    )


def latest(results: Path, wanted: Callable[[SweepSummary], bool] = lambda sweep: True) -> Path:
    """The folder of the newest sweep that came to its end in a folder of results; one whose plan is damaged has not.

    Raises:
        RecordError: there is none that is wanted.
    """
    newest = None
    for folder in sweep_folders(results):
        with suppress(RecordError):
            if (item := summary(folder)).ended and wanted(item):
                newest = folder
                break
    if newest is None:
        raise RecordError(f"{results}: there is no finished sweep; name a sweep's folder, or another folder of results")
    return newest


def is_sweep(folder: Path) -> bool:
    """Whether a sweep wrote into a folder."""
    return (folder / state.SWEEP_FILE).is_file() or (folder / PLAN_FILE).is_file()


def summary(folder: Path) -> SweepSummary:
    """The sweep of a folder without its Records.

    Raises:
        RecordError: its plan cannot be read.
    """
    return _summary(folder, _plan(folder))


@dataclass(frozen=True)
class FolderSweeps:
    """The sweeps of a folder of results, or the one of a sweep's folder."""

    folder: Path

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def options(self) -> str:
        """`--folder`."""
        import shlex

        return f" --folder {shlex.quote(str(self.folder))}"

    def newest_first(self) -> list[tuple[SweepSummary, int]]:
        """Every sweep, newest first, with the number of its Records.

        Raises:
            RecordError: there is no such folder.
        """
        if not self.folder.is_dir():
            raise RecordError(f"--folder {self.folder}: there is no such folder")
        if is_sweep(self.folder):
            return [(summary(self.folder), len(_present(self.folder, _plan(self.folder))))]
        found = []
        for folder in sweep_folders(self.folder):
            with suppress(RecordError):  # a plan that cannot be read: named by itself, it says so
                found.append((summary(folder), len(_present(folder, _plan(folder)))))
        return found

    def read(self, sweep: SweepSummary) -> RecordedSweep:
        """One of them with its Records.

        Raises:
            RecordError: it cannot be read.
        """
        return read_sweep(next(folder for folder in sweep_folders(self.folder) if _name(folder) == sweep.name))


def sweep_folders(folder: Path) -> list[Path]:
    """Folders of sweeps, newest first: this one, or those in it."""
    if is_sweep(folder):
        return [folder]
    found = [item for item in folder.iterdir() if is_sweep(item)] if folder.is_dir() else []
    return sorted(found, key=lambda item: (state.started(item), item.name), reverse=True)


def _summary(folder: Path, plan: Mapping[str, Any] | None) -> SweepSummary:
    known, titles = state.read(folder) or state.SweepState(), _titles(plan)
    if known.ended or (titles is not None and len(_present(folder, plan)) == len(titles)):
        status = "FAILED" if known.failed else "FINISHED"
    else:
        status = "RUNNING" if state.is_running(folder) else "KILLED"
    plan = plan or {}
    return SweepSummary(
        run_id=known.parent,
        name=_name(folder),
        status=status,
        recipe=plan.get("recipe") or None,
        command=plan.get("command") or None,
        verdict=known.verdict,
        registered=_registered(plan),
        jobs=None if titles is None else len(titles),
    )


def _name(folder: Path) -> str:
    return folder.resolve().name


def _plan(folder: Path) -> Mapping[str, Any] | None:
    """What the sweep was to run; None where an earlier version wrote none.

    Raises:
        RecordError: it cannot be read.
    """
    path = folder / PLAN_FILE
    try:
        plan = json.loads(path.read_bytes())
        if not isinstance(plan, dict) or not isinstance(plan.get("jobs"), dict):
            raise RecordError(f"{path}: not a plan: it has no jobs")
        if not all(isinstance(job, dict) and Path(name).name == name for name, job in plan["jobs"].items()):
            raise RecordError(f"{path}: not a plan: a job is named by its folder, and is an object")
        if plan.get("format") != 1:
            raise RecordError(f"{path}: plan format {plan.get('format')}, this llmbench reads 1; use a newer one")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    return plan


def _titles(plan: Mapping[str, Any] | None) -> dict[str, str] | None:
    """The title of every planned job by the name of its folder."""
    if plan is None:
        return None
    return {name: str(job.get("title", name)) for name, job in plan["jobs"].items()}


def _registered(plan: Mapping[str, Any]) -> str | None:
    """What the verdict was to test, as a parent run in MLflow has it."""
    parity = plan.get("parity")
    return json.dumps({**parity, "steps": plan.get("steps_axis", [])}) if isinstance(parity, dict) else None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{RECORD_FILE}"))


def _present(folder: Path, plan: Mapping[str, Any] | None) -> list[Path]:
    titles = _titles(plan)
    return [path for path in _files(folder) if titles is None or path.parent.name in titles]
