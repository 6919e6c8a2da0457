"""`llmbench report compare A B`: what changed between two sweeps beyond noise, and a gate for CI.

A and B are each a sweep's folder, a folder of results (its newest sweep that ended), a store (`sqlite:///FILE`, a .db
file, a server's address: the same), or the run id or name of a sweep in the store of --uri. Prints conditions that
differ, times and qualities, and writes `compare.md`, `.tex`, `.json` and `.png`. With --fail-if-worse=5% the exit code
is 1 when a worsening is larger than that even at its lower bound, in any setting. Where that cannot be told (a job of B
failed, nothing was judged, Records are missing) it is 3.
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.cli import report_views
from llmbench.errors import LlmbenchError, RecordError, TrackingError
from llmbench.system.output import emit
from llmbench.system.plotting import own_settings
from llmbench.tracking.reading import EXPERIMENT

if TYPE_CHECKING:
    from llmbench.analysis.compare import Change, Comparison
    from llmbench.sweeps.recorded import RecordedSweep

COMPARE = "compare"


def parser() -> argparse.ArgumentParser:
    """The command line of `llmbench report compare`."""
    options = argparse.ArgumentParser(
        prog=f"llmbench report {COMPARE}", description="What changed between two sweeps beyond noise."
    )
    add = options.add_argument
    what = "a sweep's folder, a folder of results, a store, or a run id or name of a sweep in the store of --uri"
    add("a", metavar="A", help=f"before: {what}")
    add("b", metavar="B", help="after: the same")
    add("--fail-if-worse", default=None, type=share, metavar="SHARE", help="5%%: exit code 1 when surely worse by more")
    add(
        "--process-sd",
        default=None,
        type=share,
        metavar="SHARE",
        help="noise from process to process (default 1.25%%, and a busy CPU is not judged)",
    )
    more = "four or more sweeps of A's commit under its conditions: noise is measured, not assumed"
    add("--repeats-of-a", default=(), nargs="+", metavar="SWEEP", help=more)
    add("--uri", default=None, help="MLflow store or server of run ids (default: mlflow.db in the folder of results)")
    add("--experiment", default=None, help=f"MLflow experiment (default: {EXPERIMENT})")
    add("--out", default="paper", metavar="FOLDER", help="where files are written (default: %(default)s)")
    return options


def share(text: str) -> float:
    """`5%` or `0.05`.

    Raises:
        ArgumentTypeError: it is no share.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write 5% or 0.05")
    return value


def compare_sweeps(options: argparse.Namespace) -> None:
    """Compare, print, write, and judge by --fail-if-worse.

    Raises:
        TrackingError: A or B is not there.
        RecordError: Records cannot be read or share no setting, or the gate cannot be judged.
        LlmbenchError: a worsening is larger than --fail-if-worse.
    """
    from llmbench.analysis.compare import compare
    from llmbench.report.compare import compare_figure, compare_json, compare_tables
    from llmbench.report.figures import to_png

    a, b = (_sweep(name, options) for name in (options.a, options.b))
    repeats = [_sweep(name, options).records for name in options.repeats_of_a]
    found = compare(a.records, b.records, process_sd=options.process_sd, repeats_of_a=repeats)
    gate = options.fail_if_worse
    names = (_named(options.a, a), _named(options.b, b))
    made = compare_tables(found, *names, gate)
    files = report_views._files(COMPARE, COMPARE, made)
    files["compare.json"] = compare_json(found, *names, gate)
    with own_settings():
        if (figure := compare_figure(found, *names, gate)) is not None:
            files["compare.png"] = to_png(figure)
    report_views._print(made, files, [a, b], options)
    if gate is not None:
        _judge(found, gate)


def _judge(found: "Comparison", gate: float) -> None:
    """End with the gate's answer.

    Raises:
        RecordError: it cannot be told.
        LlmbenchError: something is worse.
    """
    if worse := found.worse_than(gate):
        raise LlmbenchError(f"--fail-if-worse={gate:g}: worse beyond that: {', '.join(map(_described, worse))}")
    if found.undecidable:
        raise RecordError(
            f"--fail-if-worse: no answer for {', '.join(found.undecidable)}: see what was not judged, and run it again"
        )
    if not found.judged:
        raise RecordError(
            "--fail-if-worse: nothing could be judged; times need timing.repeats=6 on both sides, quality 3 prompts"
        )
    emit(f"--fail-if-worse={gate:g}: in no setting is the lower bound of a worsening above {gate:.3g}.")


def _described(item: "Change") -> str:
    from llmbench.analysis.compare import TIME
    from llmbench.analysis.formats import TITLES

    what = "time" if item.metric == TIME else TITLES[item.metric]
    return f"{item.setting} {what} by {item.worse_by:.1%} at least"


def _named(typed: str, sweep: "RecordedSweep") -> str:
    """What was typed, without a password, and which sweep that is."""
    from llmbench.system.redact import redact

    run = f"run {sweep.run_id}" if sweep.run_id and sweep.run_id != typed else ""
    name = sweep.name if sweep.name not in typed else ""
    known = ", ".join(filter(None, [name, run]))
    return f"{redact(typed)} ({known})" if known else redact(typed)


def _sweep(name: str, options: argparse.Namespace) -> "RecordedSweep":
    """The sweep that was named.

    Raises:
        TrackingError: there is none.
        RecordError: it cannot be read.
    """
    from llmbench.sweeps.folder import is_sweep, latest, read_sweep

    path = Path(name)
    if path.is_dir():
        return read_sweep(path if is_sweep(path) else latest(path))
    is_file = path.suffix == ".db" and path.is_file()
    if is_file or "://" in name:
        return _of_store(f"sqlite:///{path.resolve()}" if is_file else name, options, None)
    if path.exists() or len(path.parts) > 1:
        raise TrackingError(f"{name}: there is no such folder or store (.db)")
    return _of_store(options.uri, options, name)


def _of_store(uri: str | None, options: argparse.Namespace, named: str | None) -> "RecordedSweep":
    """A sweep of a store by its name, or the newest that ended."""
    from llmbench.config.job import TrackingConfig
    from llmbench.sweeps.stored import StoredSweeps
    from llmbench.tracking import open_store
    from llmbench.tracking.summary import find_sweep

    store = open_store(TrackingConfig(uri=uri, experiment=options.experiment or EXPERIMENT), create=False)
    source = StoredSweeps(store)
    known = [item for item, _ in source.newest_first()]
    if named is not None:
        return source.read(find_sweep(known, named, source.location))
    chosen = next((item for item in known if item.ended), None)
    if chosen is None:
        raise TrackingError(f"there is no finished sweep in {source.location}; `report sweeps` lists what is there")
    return source.read(chosen)
