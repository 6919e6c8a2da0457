"""A SQLite store as files: made whole or not at all, and at home wherever its folder lies.

MLflow makes some fifty tables one after the other, in seconds. Killed in between, it leaves a database that it never
opens again. So the database is made beside its place and renamed. MLflow also writes the absolute place of every file
into the database; in a folder that was moved or copied those places are wrong, and the files lie beside the database.
"""

import contextlib
import glob
import secrets
import sqlite3
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from llmbench.system.files import lock, replace_synced
from llmbench.tracking import store_uri


def make_database(file: Path) -> None:
    """Make the database of a new store; one that was left half-made and holds nothing is made again.

    Raises:
        TrackingError: it cannot be made.
    """
    if not _holds_nothing(file):
        return
    with (
        store_uri.translated(f"cannot create the MLflow store {store_uri.sqlite_uri(file)}"),
        lock(file.with_name(f".{file.name}.lock")),
    ):
        if not _holds_nothing(file):
            return  # another process has made it meanwhile, and logged into it
        for left in file.parent.glob(f".{glob.escape(file.name)}.*.partial*"):  # of processes that were killed
            left.unlink(missing_ok=True)
        fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")  # MLflow knows a name for ever
        client = store_uri.client(store_uri.sqlite_uri(fresh))
        try:
            client.get_experiment_by_name("Default")  # makes the tables
        except BaseException:
            _remove(fresh)
            raise
        with contextlib.suppress(AttributeError):  # no public way to close what it has opened
            client._tracking_client.store.engine.dispose()
        if _revision(file) == _revision(fresh):  # new, but whole: a server may have it open
            _remove(fresh)
            return
        _remove(file)
        replace_synced(fresh, file)


def adopt_artifacts(file: Path, experiment: Any) -> bool:
    """Write the folder beside the database into an experiment that was moved here; whether anything was changed.

    An experiment that keeps its files elsewhere on purpose (they are there, and none are beside the database) is left.
    """
    beside = file.parent / "artifacts"
    location = str(experiment.artifact_location)
    named = _path(location)
    if named is None or named == beside or (named.is_dir() and not beside.is_dir()):
        return False
    with contextlib.closing(sqlite3.connect(file, timeout=20)) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE experiment_id = ? AND substr({column}, 1, ?) = ?",
                (beside.as_uri(), len(location) + 1, experiment.experiment_id, len(location), location),
            )
    return True


def artifact_path(file: Path | None, run: Any, name: str) -> Path | None:
    """A run's file on this machine: beside the database, else where MLflow says; None where it is not on a disk."""
    if file is None:
        return None
    beside = file.parent / "artifacts" / str(run.info.run_id) / "artifacts" / name
    named = None if beside.is_file() else _path(str(run.info.artifact_uri))
    return beside if named is None else named / name


def _path(uri: str) -> Path | None:
    parts = urllib.parse.urlsplit(uri)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _holds_nothing(file: Path) -> bool:
    """Whether there is no database, or one without any run and with no experiment but MLflow's own first one."""
    if not file.exists() or file.stat().st_size == 0:
        return True
    try:
        return not _first(file, "runs", "count(*)") and (_first(file, "experiments", "count(*)") or 0) <= 1
    except sqlite3.DatabaseError:  # damaged, or locked: it may hold anything
        return False


def _revision(file: Path) -> str | None:
    """Up to which change of MLflow's schema the tables were made."""
    found = _first(file, "alembic_version", "version_num") if file.exists() else None
    return None if found is None else str(found)


def _first(file: Path, table: str, value: str) -> Any:
    """The first value of a table; None where the table is missing, or empty."""
    # not read-only: what a killed process was writing is taken back first
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
        known = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        row = database.execute(f"SELECT {value} FROM {table}").fetchone() if known else None
    return row[0] if row else None


def _remove(file: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
