"""`llmbench report paper`: tables 1 to 6, figures, `numbers.tex`, `paper.tex`, from the newest sweep of each recipe.

Nothing is measured. `paper.tex` is written where it is not there yet. `--missing` writes nothing: it prints one recipe
a line, those of which there is no whole finished sweep of this device, these package versions and this commit; with
uncommitted changes that is every one. Energy is not missing on a CPU, which has no counter that is read: its table is
then made of the parity sweep, and says so. `make paper` runs what is missing and then this command.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.cli import report_views
from llmbench.errors import RecordError, TrackingError, UsageError
from llmbench.report.assemble import RECIPES
from llmbench.system.output import emit

if TYPE_CHECKING:
    from llmbench.report.paper import Source
    from llmbench.sweeps.recorded import RecordedSweep, RecordedSweeps
    from llmbench.tracking import SweepSummary

PARITY, ENERGY = "parity", "energy"


def paper(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """Write the files of a paper, or print what is missing.

    Raises:
        UsageError: one sweep was named.
        TrackingError: no recipe has a finished sweep, or the files cannot be written.
        RecordError: Records cannot be compared, or some are missing.
    """
    from llmbench.report.paper import PAPER, paper_files
    from llmbench.sweeps import partial

    if options.sweep is not None:
        raise UsageError("paper takes the newest sweep of each table; leave --sweep out, or name one table")
    if options.missing:
        _print_missing(source, options)
        return
    sweeps = {recipe: sweep for recipe in RECIPES if (sweep := _newest(source, options, recipe)) is not None}
    if ENERGY not in sweeps and PARITY in sweeps:
        sweeps[ENERGY] = sweeps[PARITY]  # where a counter is read, every sweep reads it; else the table says why not
    if not sweeps:
        raise TrackingError(f"no finished sweep of a table in {source.location}; run `make paper`")
    warnings = [warning for sweep in sweeps.values() if (warning := partial.warning(sweep))]
    if warnings:
        raise RecordError("; ".join(warnings))
    files = paper_files([_read(recipe, sweep) for recipe, sweep in sweeps.items()])
    out = Path(options.out)
    kept = files.pop(PAPER) if (out / PAPER).exists() else None
    report_views._write(out, files)
    for number, recipe in enumerate(RECIPES, start=1):
        said = sweeps[recipe].title if recipe in sweeps else f"left out: run `llmbench -m experiment={recipe}`"
        emit(f"Table {number}, {recipe}: {said}")
    kept_too = f"; {PAPER} stays as it is" if kept else ""
    emit(f"Written: {len(files)} files in {out}{kept_too}. There: pdflatex paper && pdflatex paper")


def _newest(source: "RecordedSweeps", options: argparse.Namespace, recipe: str) -> "RecordedSweep | None":
    """The newest finished sweep of a recipe, with its Records."""

    def fits(item: "SweepSummary") -> bool:
        return report_views._makes(item, recipe, source)

    chosen = report_views._chosen(source, options, fits)
    return None if chosen is None else source.read(chosen)


def _read(recipe: str, sweep: "RecordedSweep") -> "Source":
    from llmbench.analysis.parity.analyze import verdicts
    from llmbench.report.paper import Source

    reached = verdicts(sweep.records, options=report_views._terms(sweep), history=sweep.history)
    return Source(recipe=recipe, records=sweep.records, verdicts=reached, command=sweep.command or "")


def _print_missing(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """The recipes whose newest sweep would not be the same here and now."""
    from llmbench.config.job import HardwareConfig
    from llmbench.measure.device import environment, resolve

    now = environment(resolve(HardwareConfig()))
    for recipe in RECIPES:
        if recipe == ENERGY and now.device == "cpu":
            continue  # no counter to read
        sweep = _newest(source, options, recipe)
        known = [record.environment for record in sweep.records] if sweep is not None and sweep.is_whole else []
        keys = ("device_name", "versions", "git_commit")
        same = all(getattr(then, key) == getattr(now, key) for then in known for key in keys)
        if not known or not same or now.git_dirty or any(then.git_dirty for then in known):
            emit(recipe)
