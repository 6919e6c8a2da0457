"""A SQLite store as files: killed while it is made, in folders of any name, moved and copied. With real processes."""

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from child import Child

from llmbench.config.job import TrackingConfig
from llmbench.errors import TrackingError
from llmbench.tracking import open_store, refusal, resolve_uri
from llmbench.tracking.store_uri import sqlite_file, sqlite_uri
from records import make_record, make_sweep

ROOT = Path(__file__).parents[2]
OPEN = (
    "import sys; from llmbench.config.job import TrackingConfig; from llmbench.tracking import open_store\n"
    "print(open_store(TrackingConfig(uri=sys.argv[1], experiment='x')).experiment_id)"
)


def has_reached(folder: Path, pattern: str, size: int) -> bool:
    """Whether one of the files has so many bytes; a file may be renamed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return any(path.stat().st_size >= size for path in folder.glob(pattern))
    return False


def killed_at(program: Callable[[str], object], uri: str, folder: Path, pattern: str, size: int) -> None:
    """Run a program in a process and kill it when a file has reached a size; one that is faster ends by itself."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (once, and not in each process)

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            program(uri)
        os._exit(0)
    begun = time.monotonic()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if has_reached(folder, pattern, size) or time.monotonic() > begun + 60:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.001)


def new_store(uri: str) -> None:
    open_store(TrackingConfig(uri=uri, experiment="x"))


def new_store_in_place(uri: str) -> None:
    """As earlier versions of llmbench made one."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).get_experiment_by_name("x")


def opened(uri: str) -> str:
    """The experiment's id, from a process of its own."""
    done = Child(ROOT, ("-c", OPEN, uri), os.environ).communicate()
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_process_killed_at_any_moment_while_the_store_is_made_leaves_a_folder_that_works(tmp_path: Path) -> None:
    uri = sqlite_uri(tmp_path / "mlflow.db")
    for size in (0, 100_000, 200_000, 300_000, 400_000, 500_000, 600_000, 700_000):
        killed_at(new_store, uri, tmp_path, ".mlflow.db.*.partial", size)
    killed_at(new_store, uri, tmp_path, "mlflow.db", 0)
    assert opened(uri) == opened(uri)
    assert sorted(path.name for path in tmp_path.iterdir() if "lock" not in path.name) == ["artifacts", "mlflow.db"]


def test_a_store_that_an_earlier_version_left_half_made_is_made_again(tmp_path: Path) -> None:
    uri = sqlite_uri(tmp_path / "mlflow.db")
    killed_at(new_store_in_place, uri, tmp_path, "mlflow.db", 200_000)
    assert (tmp_path / "mlflow.db").stat().st_size >= 200_000
    assert opened(uri) == opened(uri)


def test_an_empty_file_is_no_store_and_becomes_one(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    config = TrackingConfig(uri=sqlite_uri(tmp_path / "mlflow.db"), experiment="x")
    with pytest.raises(TrackingError, match="the file is empty"):
        open_store(config, create=False)
    assert refusal(config) is None
    assert open_store(config).sweeps() == []


def test_a_store_that_holds_runs_or_experiments_is_never_made_again(tmp_path: Path) -> None:
    """Its tables are of another version here: MLflow does not open it, and it stays as it is."""
    uri = sqlite_uri(tmp_path / "mlflow.db")
    opened(uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'older'")
    before = (tmp_path / "mlflow.db").read_bytes()
    done = Child(ROOT, ("-c", OPEN, uri), os.environ).communicate()
    assert "cannot open the MLflow store" in done.stderr
    assert (tmp_path / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("name", ["what?", "a%20b", "a#b", "a b", "日ü", "${x}", "a'b\"c", "a&b=c;d", "50%", "a@b"])
def test_a_folder_of_any_name_holds_store_and_artifacts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / name).mkdir()
    shutil.copy(empty_store, tmp_path / name / "mlflow.db")
    store = open_store(TrackingConfig(uri=None, experiment="llmbench"))
    record = make_record("llama")
    parent = store.start_sweep(name="s", command="", jobs=1, planned={record.identity: "llama"})
    store.log_job(record, parent=parent, steps_axis=[8], swept={})
    assert (store.records(parent), store.planned(parent)) == ([record], {record.identity: "llama"})
    assert sqlite_file(resolve_uri(None)) == tmp_path / name / "mlflow.db"
    assert sqlite_file(resolve_uri(store.uri)) == tmp_path / name / "mlflow.db"
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing lies outside of the folder"
    assert store.options == ""


def test_a_query_of_a_sqlite_uri_is_refused_in_one_line() -> None:
    with pytest.raises(TrackingError, match=r"a \? in the name of a file is written %3F"):
        resolve_uri("sqlite:///a?b/mlflow.db")
    with pytest.raises(TrackingError, match=r"use sqlite:///srv/a\.db"):
        resolve_uri("sqlite://srv/a.db")


@pytest.mark.parametrize("keep", [False, True])
def test_a_store_that_was_moved_or_copied_is_read_and_written_where_it_is(
    keep: bool, tmp_path: Path, empty_store: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    shutil.copy(empty_store, here / "mlflow.db")
    first = open_store(TrackingConfig(uri=sqlite_uri(here / "mlflow.db"), experiment="x"))
    records = make_sweep((8,))
    parent = first.start_sweep(name="s", command="", jobs=2)
    first.log_job(records[0], parent=parent, steps_axis=[8], swept={})
    (shutil.copytree if keep else shutil.move)(here, there)
    lying = sorted(here.rglob("*"))
    config = TrackingConfig(uri=sqlite_uri(there / "mlflow.db"), experiment="x")
    assert open_store(config, create=False).records(parent) == records[:1]
    moved = open_store(config)
    moved.log_job(records[1], parent=parent, steps_axis=[8], swept={})
    assert moved.records(parent) == records
    assert sorted(here.rglob("*")) == lying, "nothing is written to the earlier place"
    run = moved.client.get_run(parent)  # MLflow's own pages find the files, too
    assert run.info.artifact_uri.startswith((there / "artifacts").as_uri())


def test_an_experiment_that_keeps_its_files_elsewhere_on_purpose_stays_there(tmp_path: Path, empty_store: Path) -> None:
    (tmp_path / "files").mkdir()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = sqlite_uri(tmp_path / "mlflow.db")
    other = open_store(TrackingConfig(uri=uri, experiment="copied"))
    other.client.create_experiment("x", artifact_location=(tmp_path / "files").as_uri())
    store = open_store(TrackingConfig(uri=uri, experiment="x"))
    record = make_record("llama")
    parent = store.start_sweep(name="s", command="", jobs=1)
    store.log_job(record, parent=parent, steps_axis=[8], swept={})
    assert store.records(parent) == [record]
    assert list((tmp_path / "files").iterdir())
    assert not (tmp_path / "artifacts").exists()
