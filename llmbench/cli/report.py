"""`llmbench report parity`: a table again, from what a sweep left in MLflow or in its folder. Nothing is measured.

Takes the newest finished sweep that ran the table's recipe (`conf/experiment/<table>.yaml`; parity also takes the main
job; likelihood any sweep that is no table of speed), or the one named by --sweep. Writes
`paper/table<n>.md` and `.tex` (`paper/likelihood.*`), for parity also the figure, and prints the table. `... frontier`
shows the settings that nothing dominates (of the newest sweep with quality; its files name the sweep), `... hypotheses`
the four hypotheses, each from the newest sweep of its recipe, `... drift` the times over the newest sweep, `... pareto`
its speed per user against speed per device (`--price-per-hour` adds what a million tokens cost), `... prediction`
how well a small model of a forward's time predicts rows that it was not fitted on, of the newest sweep or, with
`--pages`, of measured pages, and where diffusion is faster over batch and k, `... html` one page of the newest sweep,
which opens without a network, `... compare A B` what changed between two sweeps (`report_compare`). The last line names
the sweep and the files that were replaced. Of a sweep with missing jobs nothing is written, and the exit code is that
of a `RecordError`. `... sweeps` lists what is there, `... ui` opens MLflow's pages on a store.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.cli import prediction_options, report_compare, report_paper, report_views
from llmbench.errors import LlmbenchError, TrackingError, UsageError
from llmbench.report.assemble import LIKELIHOOD, RECIPES, VIEWS
from llmbench.system.output import emit, flush_output
from llmbench.tracking.reading import EXPERIMENT

if TYPE_CHECKING:
    from llmbench.sweeps.recorded import RecordedSweeps
    from llmbench.tracking import Store

SWEEPS = "sweeps"
PRICE = "--price-per-hour"


def main(arguments: list[str] | None = None) -> int:
    """Run `llmbench report`; returns the exit code."""

    def run(options: argparse.Namespace) -> None:
        if options.price_per_hour is not None and options.table != "pareto":
            raise UsageError(f"{PRICE} is for pareto alone; leave it out of {options.table}")
        if options.missing and options.table != "paper":
            raise UsageError(f"--missing is for paper alone; leave it out of {options.table}")
        if options.table == report_compare.COMPARE:
            raise UsageError("compare stands first: llmbench report compare A B [options]")
        prediction_options.check_options(options)
        if options.pages is not None:
            report_views.predicted_from_pages(options)
        elif options.table == SWEEPS:
            report_views.list_sweeps(_source(options))
        else:
            views = {
                LIKELIHOOD: report_views.likelihood,
                "frontier": report_views.frontier,
                "pareto": report_views.pareto,
                "hypotheses": report_views.hypotheses,
                "drift": report_views.drift,
                "prediction": report_views.prediction,
                "html": report_views.html,
                "paper": report_paper.paper,
            }
            views.get(options.table, report_views.table)(_source(options), options)

    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == [report_compare.COMPARE]:
        return run_command(report_compare.parser(), given[1:], report_compare.compare_sweeps)
    return run_command(parser(), [_as_option(word) for word in given], run)


def _as_option(word: str) -> str:
    """A price as settings are written elsewhere: `price_per_hour=2.5`."""
    key, equals, value = word.partition("=")
    return f"{PRICE}={value}" if (key, equals) == ("price_per_hour", "=") else word


def _price(text: str) -> float:
    """A positive number.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no price: give a positive number, without its unit")
    return value


def ui(arguments: list[str] | None = None) -> int:
    """Run `llmbench ui`; returns the exit code."""
    return run_command(ui_parser(), arguments, show)


def run_command(
    command: argparse.ArgumentParser, arguments: list[str] | None, work: Callable[[argparse.Namespace], None]
) -> int:
    """Read a command line and do its work; whatever is wrong is one line and an exit code."""
    try:
        options = command.parse_args(arguments)
    except SystemExit:
        flush_output()  # the help, whose reader may be gone
        raise
    try:
        work(options)
    except LlmbenchError as error:
        emit(f"{command.prog}: {error}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


_WHICH = "run id or name of a sweep, or its beginning, as `sweeps` lists them (default: the newest that fits)"


def ui_parser() -> argparse.ArgumentParser:
    """The command line of `llmbench ui`."""
    options = argparse.ArgumentParser(prog="llmbench ui", description="MLflow's pages of what was run.")
    options.add_argument("--uri", default=None, help="MLflow store (default: mlflow.db in the folder of results)")
    options.add_argument("--experiment", default=None, help=f"MLflow experiment (default: {EXPERIMENT})")
    options.add_argument("--port", type=int, default=5000, help="the first to try (default: %(default)s)")
    options.set_defaults(folder=None)
    return options


def parser() -> argparse.ArgumentParser:
    """The command line of `llmbench report`."""
    options = argparse.ArgumentParser(
        prog="llmbench report", description="A table of the paper again, from what a sweep left: nothing is measured."
    )
    add = options.add_argument
    add(
        "table",
        choices=(*RECIPES, LIKELIHOOD, *VIEWS, report_compare.COMPARE, SWEEPS),
        help="table 1 to 6, the models' own likelihood, a view of them, two sweeps (compare A B), or a list of all",
    )
    add("--folder", default=None, help="read a sweep's folder, or a folder of results, and no store")
    add("--uri", default=None, help="MLflow store or server (default: mlflow.db in the folder of results)")
    add("--experiment", default=None, help=f"MLflow experiment (default: {EXPERIMENT})")
    add("--sweep", default=None, metavar="RUN_ID", help=_WHICH)
    add(PRICE, default=None, type=_price, metavar="PRICE", help="of the device, for pareto: adds money per 1M tokens")
    add(
        *("-o", "--out"),
        default="paper",
        metavar="FOLDER",
        help="where files are written (default: %(default)s); for html also the file's name",
    )
    add(
        "--missing",
        action="store_true",
        help="for paper: print the tables that have no sweep of this commit and device",
    )
    prediction_options.add(options)
    return options


def _store(options: argparse.Namespace) -> "Store":
    from llmbench.config.job import TrackingConfig
    from llmbench.tracking import open_store

    return open_store(TrackingConfig(uri=options.uri, experiment=options.experiment or EXPERIMENT), create=False)


def _source(options: argparse.Namespace) -> "RecordedSweeps":
    """Where sweeps are read from.

    Raises:
        TrackingError: there is no store, or both a store and a folder are named.
    """
    if options.folder is None:
        from llmbench.sweeps.stored import StoredSweeps

        return StoredSweeps(_store(options))
    from llmbench.sweeps.folder import FolderSweeps

    if options.uri is not None or options.experiment is not None:
        raise TrackingError("--folder reads no store: leave --uri and --experiment out")
    return FolderSweeps(Path(options.folder))


def show(options: argparse.Namespace) -> None:
    """MLflow's pages over the store, until Ctrl-C.

    Raises:
        TrackingError: no store, or its server does not start.
    """
    from llmbench.tracking.ui_server import serve

    if options.folder is not None:
        raise TrackingError("ui shows a store: leave --folder out, or name the store with --uri sqlite:///FILE")
    serve(_store(options), options.port)
