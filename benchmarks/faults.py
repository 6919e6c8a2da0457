"""Does a sweep survive being killed at any moment? Real sweeps, SIGKILL, and the same command again.

    python -m benchmarks.faults kills --n 30
    python -m benchmarks.faults kills --n 10 --extra hydra/launcher=joblib hydra.launcher.n_jobs=2

Every kill has a folder of results of its own, and hits the main process alone, so that orphans would show. The moment
is drawn from the seed: in the first seconds, when MLflow's store appears, when a Record was written (its job is then
logged), after the last one (verdict and reports), or anywhere. Then the same command runs to its end, and this is
checked: exit code 0; every planned job has its Record and a FINISHED run under the newest parent; no job was measured
twice; no run is RUNNING; the store is sound; no process is left. A line per kill, then a summary; exit code 1 where
something failed, and that kill's folder is kept. `--first 7 --n 1` repeats kill 7.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from llmbench.config.job import TrackingConfig
from llmbench.errors import LlmbenchError
from llmbench.sweeps import state
from llmbench.tracking import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
SWEEP = (
    *("-m", "model=llama,llada", "steps=4,8", "workload.prompts=8", "canvas=16", "workload.prompt_words=12"),
    *("workload.reference_words=12", "timing.repeats=2", "hardware=cpu", "parity.baseline_temperatures=[0]"),
)
LONGEST_S = 900.0
"""A sweep that runs longer hangs."""

GRACE_S = 20.0
"""Workers whose main process is gone may take so long to notice."""

CLEAN = "0123456789abcdef0123456789abcdef01234567"
"""Records are taken over only of a commit without changes."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """When things happen in a sweep that nobody kills, in seconds from its start."""

    records: tuple[float, ...]  # each Record
    end: float


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to kill: so many seconds after something has happened."""

    after: str  # "start", "store" or "records"
    records: int = 0  # that must be there
    delay_s: float

    def __str__(self) -> str:
        """For a line."""
        event = f"record {self.records}" if self.after == "records" else self.after
        return f"{event} + {self.delay_s:.2f} s"


def draw(rng: random.Random, course: Course) -> Moment:
    """A moment of one of five kinds, each as likely as the others."""
    kind = rng.choice(("early", "store", "log", "end", "any"))
    jobs, last = len(course.records), course.records[-1]
    if kind == "early":
        return Moment(after="start", delay_s=rng.uniform(0, course.records[0]))
    if kind == "store":
        return Moment(after="store", delay_s=rng.uniform(0, 2))
    if kind == "log":
        return Moment(after="records", records=rng.randint(1, jobs), delay_s=rng.uniform(0, 0.4))
    if kind == "end":
        return Moment(after="records", records=jobs, delay_s=rng.uniform(0, course.end - last))
    return Moment(after="start", delay_s=rng.uniform(0, course.end))


# ----------------------------------------------------------------------------------------------------------------
# A sweep as a process


def results_of(folder: Path) -> Path:
    """LLMBENCH_RESULTS of a kill."""
    return folder / "results"


def start(folder: Path, extra: Sequence[str], log: str) -> "subprocess.Popen[bytes]":
    """Start the sweep; what it prints goes into the file `log`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"LLMBENCH_RESULTS": str(results_of(folder)), "LLMBENCH_COMMIT": CLEAN, "OMP_NUM_THREADS": "1"}
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (folder / log).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "llmbench", *SWEEP, *extra],
            cwd=folder,
            env=os.environ | settings,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def record_files(folder: Path) -> list[Path]:
    """Every Record of a kill's folder."""
    return list(results_of(folder).glob("*/*/record.json"))


def has_records(folder: Path, count: int) -> bool:
    """Whether so many Records are there."""
    return len(record_files(folder)) >= count


def watch(process: "subprocess.Popen[bytes]", until: Callable[[], bool]) -> bool:
    """Wait for something; False where the sweep ends before, or runs too long."""
    deadline = time.monotonic() + LONGEST_S
    while not until():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def observe(folder: Path, extra: Sequence[str]) -> Course:
    """Run a sweep to its end, and see when its Records appear.

    Raises:
        RuntimeError: it fails without being killed.
    """
    begun = time.monotonic()
    process = start(folder, extra, "first.log")
    seen: list[float] = []
    while watch(process, partial(has_records, folder, len(seen) + 1)):
        seen += [time.monotonic() - begun] * (len(record_files(folder)) - len(seen))
    code = finish(process)
    if code != 0 or not seen:
        raise RuntimeError(f"the sweep fails without being killed (exit code {code}): see {folder / 'first.log'}")
    return Course(records=tuple(seen), end=time.monotonic() - begun)


def finish(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end; returns the exit code."""
    try:
        return process.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def kill_at(process: "subprocess.Popen[bytes]", folder: Path, moment: Moment) -> bool:
    """Kill the main process alone at its moment; False where it had ended by itself."""

    def happened() -> bool:
        if moment.after == "records":
            return has_records(folder, moment.records)
        return moment.after == "start" or (results_of(folder) / "mlflow.db").exists()

    watch(process, happened)
    end = time.monotonic() + moment.delay_s
    watch(process, lambda: time.monotonic() >= end)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def processes_of(folder: Path) -> list[psutil.Process]:
    """Living processes that a sweep in this folder left: by command line, or by the environment they inherited."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(folder) in " ".join(process.cmdline())
            inherited = process.environ().get("LLMBENCH_RESULTS") == str(results_of(folder))
            if (named or inherited) and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


# ----------------------------------------------------------------------------------------------------------------
# What must hold afterwards


def measured_twice(folder: Path) -> list[str]:
    """Jobs with Records of several measurements; a baseline is timed again in every process, on purpose."""
    times: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for path in record_files(folder):
        values = json.loads(path.read_bytes())
        if values["role"] != "retimed":
            times.setdefault(values["identity"], set()).add(values["started_at"])
            names[values["identity"]] = path.parent.name
    return [f"{names[identity]} was measured {len(begun)} times" for identity, begun in times.items() if len(begun) > 1]


def unsound_store(folder: Path) -> list[str]:
    """What SQLite finds wrong with its file."""
    with sqlite3.connect(results_of(folder) / "mlflow.db") as database:
        found = [str(row[0]) for row in database.execute("pragma integrity_check")]
    return [] if found == ["ok"] else [f"mlflow.db: {found[0]}"]


def wrong_runs(store: Store) -> list[str]:
    """What MLflow has of the newest sweep against what was planned, and runs that seem to go on."""
    newest = store.sweeps()[0]
    planned = store.planned(newest.run_id)
    found = [] if newest.status == "FINISHED" else [f"the newest parent is {newest.status}"]
    if planned is None:
        return [*found, "the newest parent has no plan"]
    runs = store.client.search_runs([store.experiment_id], max_results=1000)
    own = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == newest.run_id]
    count = Counter(run.data.tags.get("identity") for run in own if run.info.status == "FINISHED")
    found += [
        f"{title} has {count[identity]} finished runs" for identity, title in planned.items() if count[identity] != 1
    ]
    recorded = {record.identity for record in store.records(newest.run_id)}
    found += [f"{title} has no Record in MLflow" for identity, title in planned.items() if identity not in recorded]
    on_disk = {json.loads(path.read_bytes())["identity"] for path in record_files_of(store, newest.run_id)}
    found += [f"{title} has no record.json" for identity, title in planned.items() if identity not in on_disk]
    return found + [f"run {run.info.run_name} is RUNNING" for run in runs if run.info.status == "RUNNING"]


def record_files_of(store: Store, run_id: str) -> list[Path]:
    """The Records in the folder of a sweep."""
    folder = store.folder(run_id)
    return list(folder.glob("*/record.json")) if folder else []


def left_processes(folder: Path) -> list[str]:
    """Processes that outlive the sweep by more than a grace; they are ended."""
    _, alive = psutil.wait_procs(processes_of(folder), GRACE_S)
    found = []
    for process in alive:
        try:
            found.append(f"process {process.pid} is left: {' '.join(process.cmdline())[:100]}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return found


def check(folder: Path, code: int, had_ended: bool) -> list[str]:
    """Everything that is wrong after the second run.

    Args:
        folder: of the kill.
        code: exit code of the second run.
        had_ended: the first run had come to its end before it was killed: the second rightly measures anew.
    """
    found = [] if code == 0 else [f"exit code {code}: {last_line(folder / 'again.log')}"]
    found += left_processes(folder)
    try:
        uri = f"sqlite:///{results_of(folder)}/mlflow.db"
        found += wrong_runs(open_store(TrackingConfig(uri=uri), create=False)) + unsound_store(folder)
    except (LlmbenchError, sqlite3.Error, IndexError) as error:
        found.append(f"the store cannot be read: {error}")
    return found if had_ended else found + measured_twice(folder)


def last_line(log: Path) -> str:
    """What a sweep said last."""
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""


# ----------------------------------------------------------------------------------------------------------------
# The command


def one_kill(folder: Path, moment: Moment, extra: Sequence[str]) -> tuple[str, list[str]]:
    """Start, kill, run again; what happened, and what is wrong."""
    begun = time.monotonic()
    killed = kill_at(start(folder, extra, "first.log"), folder, moment)
    at, kept, orphans = time.monotonic() - begun, len(record_files(folder)), len(processes_of(folder))
    sweeps = [path.parent for path in results_of(folder).glob(f"*/{state.SWEEP_FILE}")]
    had_ended = any(state.ended(sweep) for sweep in sweeps)
    begun = time.monotonic()
    code = finish(start(folder, extra, "again.log"))
    what = f"killed at {at:.1f} s" if killed else "ended before it was killed"
    what += f" ({moment}), {kept} Records{', sweep ended' if had_ended else ''}"
    what += f", {orphans} orphans for now" if orphans else ""
    return f"{what}; again {time.monotonic() - begun:.1f} s", check(folder, code, had_ended)


def kills(options: argparse.Namespace) -> int:
    """Kill so many sweeps; returns the exit code."""
    root = Path(options.folder or tempfile.mkdtemp(prefix="llmbench-faults-")).resolve()
    course = observe(root / "unkilled", options.extra)
    unkilled = check(root / "unkilled", 0, had_ended=False)
    print(f"unkilled: {course.end:.1f} s, {len(course.records)} Records: {'; '.join(unkilled) or 'ok'}", flush=True)
    failed = []
    for number in range(options.first, options.first + options.n):
        folder = root / f"kill-{number}"
        moment = draw(random.Random(f"{options.seed}-{number}"), course)
        line, wrong = one_kill(folder, moment, options.extra)
        print(f"kill {number}: {line}: {'; '.join(wrong) or 'ok'}", flush=True)
        if wrong:
            failed.append(number)
        else:
            shutil.rmtree(folder)
    print(f"{options.n - len(failed)} of {options.n} kills left nothing behind; seed {options.seed}")
    if failed or unkilled:
        print(f"failed: {', '.join(map(str, failed)) or 'the sweep that was not killed'}; their folders: {root}")
        return 1
    shutil.rmtree(root)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m benchmarks.faults`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Real sweeps under faults.")
    commands = parser.add_subparsers(required=True)
    options = commands.add_parser("kills", help="SIGKILL at random moments, then the same command again")
    options.add_argument("--n", type=int, default=30, help="how many (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="number of the first one (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options.add_argument("--folder", default=None, help="where sweeps run (default: a new temporary folder)")
    options.add_argument("--extra", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the sweep")
    options.set_defaults(run=kills)
    chosen = parser.parse_args(arguments)
    code: int = chosen.run(chosen)
    return code


if __name__ == "__main__":
    sys.exit(main())
