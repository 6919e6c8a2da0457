"""`llmbench sync FOLDER`: the Records of a sweep's folder, or of every sweep in one, into an MLflow store."""

import argparse
from pathlib import Path

from llmbench.analysis.formats import counted
from llmbench.cli.report import run_command
from llmbench.errors import RecordError
from llmbench.system.output import emit
from llmbench.tracking.reading import EXPERIMENT


def main(arguments: list[str] | None = None) -> int:
    """Run `llmbench sync`; returns the exit code."""
    return run_command(parser(), arguments, send)


def parser() -> argparse.ArgumentParser:
    """The command line of `llmbench sync`."""
    options = argparse.ArgumentParser(
        prog="llmbench sync",
        description="Send what an MLflow store lacks of the Records in a folder, with the verdict: after an outage of "
        "the store, after a kill, or into another store. Nothing is measured, and nothing is sent twice.",
    )
    options.add_argument("folder", help="of a sweep, of a single job, or one that holds several")
    options.add_argument("--uri", default=None, help="MLflow store (default: mlflow.db in the folder of results)")
    options.add_argument("--experiment", default=EXPERIMENT, help="MLflow experiment (default: %(default)s)")
    return options


def send(options: argparse.Namespace) -> None:
    """Send, and say of each folder what became of it.

    Raises:
        RecordError: there is nothing to send, or a Record or plan cannot be read.
        TrackingError: the store cannot be used.
    """
    from llmbench.config.job import TrackingConfig
    from llmbench.sweeps.sync import sync
    from llmbench.tracking import open_store

    folder = Path(options.folder)
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder")
    store = open_store(TrackingConfig(uri=options.uri, experiment=options.experiment))
    unread = 0
    for sent in sync(folder, store):
        emit(str(sent))
        unread += not sent.run_id and bool(sent.problem)
    if unread:
        lines = "the line above says" if unread == 1 else "lines above say"
        raise RecordError(f"of {counted(unread, 'folder')} nothing was sent; {lines} why")
