"""The tables and views of `llmbench report`: which sweep each is made of, what is printed and which files are written.

Every one takes where sweeps are read from, and the options of the command line.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.errors import RecordError, TrackingError
from llmbench.report.assemble import (
    LIKELIHOOD,
    RECIPES,
    SPEED_RECIPES,
    drift_files,
    frontier_files,
    pareto_files,
    recipe_tables,
)
from llmbench.system.files import write_atomic
from llmbench.system.output import emit
from llmbench.system.plotting import own_settings

if TYPE_CHECKING:
    from llmbench.config.parity import ParityConfig
    from llmbench.report.layout import Table
    from llmbench.sweeps.recorded import RecordedSweep, RecordedSweeps
    from llmbench.tracking import SweepSummary

Files = dict[str, str | bytes]


def list_sweeps(source: "RecordedSweeps") -> None:
    """All sweeps, newest first."""
    from tabulate import tabulate

    rows = [
        [
            item.run_id,
            item.name,
            item.status.lower(),
            f"{count} of {item.jobs if item.jobs is not None else '?'}",
            (item.verdict or "").replace("_", " "),
            item.command or "",
        ]
        for item, count in source.newest_first()
    ]
    headers = ["run id", "sweep", "status", "jobs", "verdict", "command"]
    shown = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    emit(shown if rows else f"There is no sweep in {source.location} yet.")


def table(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """Rebuild one table.

    Raises:
        TrackingError: no sweep that fits; says which make target makes one.
        RecordError: its Records cannot be read or compared, or some are missing.
    """
    from llmbench.analysis.parity.analyze import verdicts
    from llmbench.report.model_tables import model_properties
    from llmbench.report.paper import table_files
    from llmbench.sweeps import partial

    name, number = options.table, RECIPES.index(options.table) + 1
    chosen = _chosen(source, options, lambda item: _makes(item, name, source))
    if chosen is None:
        raise TrackingError(f"no finished {name} sweep in {source.location}; run `llmbench -m experiment={name}` first")
    sweep = source.read(chosen)
    warning, command, plan = partial.warning(sweep), sweep.command or "", _terms(sweep)
    known = [*sweep.records, *partial.stand_ins(sweep)]
    reached = verdicts(known, options=plan, history=sweep.history)
    if not reached:
        raise TrackingError(warning or f"sweep {sweep.name} has no finished job; run `llmbench -m experiment={name}`")
    if warning and name == "parity" and all(item.status in _ONE_SIDE for item in reached):
        raise TrackingError(f"{warning}. There is nothing to compare yet")
    stem = f"table{number}"
    made = recipe_tables(sweep.records, reached, name, command)
    files = table_files(name, made)
    if name == "parity" and len(reached) == 1 and reached[0].speedups and not warning:
        from llmbench.report import figures

        with own_settings():
            files[f"{stem}.png"] = figures.to_png(figures.parity_figure(sweep.records, reached[0]))
        files[f"{stem}.html"] = figures.parity_html(sweep.records, reached[0])
        more = f"{stem}_frontier", f"From {sweep.title}", reached[0].options
        files |= frontier_files(sweep.records, command, *more)[1]
    _print(made, files, [sweep], options, below=model_properties(sweep.records))


def likelihood(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """The table of every model's own likelihood.

    Raises:
        TrackingError: no sweep that measured a likelihood; says what measures one.
        RecordError: Records are missing.
    """
    from llmbench.report.model_tables import likelihood_table

    chosen = _chosen(source, options, lambda item: item.recipe not in SPEED_RECIPES)
    sweep = source.read(chosen) if chosen else None
    made = likelihood_table(sweep.records, sweep.command or "") if sweep else None
    if sweep is None or made is None or not made.rows:
        where = f"sweep {sweep.name} has" if sweep else f"there is in {source.location}"
        raise TrackingError(f"{where} no likelihood; run `python -m llmbench -m experiment={LIKELIHOOD}`")
    _print([made], _files(LIKELIHOOD, LIKELIHOOD, [made]), [sweep], options)


def frontier(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """The settings that nothing dominates, of one sweep.

    Raises:
        TrackingError: no sweep that fits, or nothing to show of it.
        RecordError: its Records cannot be read or compared, or some are missing.
    """
    from llmbench.sweeps import partial

    def fits(item: "SweepSummary") -> bool:
        return item.status == "FINISHED" and _has_quality(item, source)

    chosen = _chosen(source, options, fits)
    if chosen is None:
        raise TrackingError(
            f"no finished sweep with quality in {source.location}; run `llmbench -m experiment=parity` first"
        )
    sweep = source.read(chosen)
    plan, above = _terms(sweep), f"From {sweep.title}"
    made, files = frontier_files(sweep.records, sweep.command or "", source=above, options=plan)
    if not made:
        warning = partial.warning(sweep)
        none = (
            f"sweep {sweep.name} measured no quality; run `llmbench -m experiment=parity`, or name another with --sweep"
        )
        raise TrackingError(f"{warning}. There is nothing to show yet" if warning else none)
    count = 0 if options.sweep else sum(fits(item) for item, _ in source.newest_first())
    newest = f", the newest of {count} with quality (--sweep RUN_ID takes another)" if count > 1 else ""
    _print(made, files | _files("frontier", "frontier", made), [sweep], options, newest)


def hypotheses(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """The four hypotheses: each from the newest sweep of its recipe, or all from the one that was named.

    Raises:
        RecordError: Records cannot be read or compared, or some are missing.
    """
    from llmbench.analysis.hypotheses.claims import CLAIMS
    from llmbench.analysis.hypotheses.claims import hypotheses as decide
    from llmbench.analysis.hypotheses.outcomes import Outcome
    from llmbench.report.hypotheses import hypothesis_tables

    found = []
    sweeps: list[RecordedSweep] = []
    for recipe in dict.fromkeys(claim.recipe for claim, _ in CLAIMS):
        chosen = _chosen(source, options, lambda item, recipe=recipe: item.recipe == recipe)  # type: ignore[misc]
        sweep = next((item for item in sweeps if chosen and item.name == chosen.name), None)
        if sweep is None and chosen is not None:
            sweep = source.read(chosen)
            sweeps.append(sweep)
        records = sweep.records if sweep else ()
        decided = decide(records, recipe)
        tables = hypothesis_tables(records, decided, (sweep.command or "") if sweep else "")
        found += list(zip(decided, tables, strict=True))
    found.sort(key=lambda pair: pair[0].number)
    made = [item for _, item in found]
    if all(item.outcome is Outcome.UNDECIDED for item, _ in found):
        _print(made, {}, sweeps, options, below="All four are undecided.")
        return
    files: Files = {"hypotheses.json": json.dumps([item.to_dict() for item, _ in found], indent=1)}
    _print(made, files | _files("hypotheses", "hypotheses", made), sweeps, options)


def drift(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """Every time over the hours of one sweep.

    Raises:
        TrackingError: no finished sweep, or one in which no batch was timed twice.
        RecordError: Records are missing.
    """
    chosen = _chosen(source, options, lambda item: item.recipe != LIKELIHOOD)
    if chosen is None:
        raise TrackingError(
            f"no finished sweep with times in {source.location}; run `llmbench -m experiment=latency` first"
        )
    sweep = source.read(chosen)
    made, files = drift_files(sweep.records, sweep.command or "", sweep.title)
    if not made:
        raise TrackingError(
            f"sweep {sweep.name} timed no batch twice; name another with --sweep, or set timing.repeats=6"
        )
    _print(made, files | _files("drift", "drift", made), [sweep], options)


def pareto(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """Speed per user against speed per device, of one sweep.

    Raises:
        TrackingError: no finished sweep, or one without times.
        RecordError: its Records cannot be compared, or some are missing.
    """
    from llmbench.analysis.parity.analyze import verdicts
    from llmbench.sweeps import partial

    chosen = _chosen(source, options, lambda item: item.recipe != LIKELIHOOD)
    if chosen is None:
        raise TrackingError(
            f"no finished sweep with times in {source.location}; run `llmbench -m experiment=throughput` first"
        )
    sweep = source.read(chosen)
    known = [*sweep.records, *partial.stand_ins(sweep)]
    reached = verdicts(known, options=_terms(sweep), history=sweep.history)
    command, price = sweep.command or "", options.price_per_hour
    made, files = pareto_files(sweep.records, reached, command, f"From {sweep.title}", price)
    if not made:
        raise TrackingError(f"sweep {sweep.name} timed nothing; name another with --sweep")
    _print(made, files | _files("pareto", "pareto", made), [sweep], options)


def prediction(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """Fit the times of one sweep at some batch sizes, and judge the fit on the others.

    Raises:
        TrackingError: no finished sweep with times.
        RecordError: too few Records can be fitted, or some are missing.
    """
    from llmbench.analysis.prediction import predict, timed_records
    from llmbench.report.prediction import prediction_files

    chosen = _chosen(source, options, lambda item: item.recipe != LIKELIHOOD)
    if chosen is None:
        raise TrackingError(
            f"no finished sweep with times in {source.location}; run `llmbench -m experiment=throughput` first, "
            "or name measured pages with --pages"
        )
    sweep = source.read(chosen)
    found = predict(timed_records(sweep.records), options.fit_batches, options.fit_device)
    made, every, files = prediction_files(found, sweep.title)
    _print(made, files | _files("prediction", "prediction", every), [sweep], options)


def predicted_from_pages(options: argparse.Namespace) -> None:
    """Fit the rows of measured pages at some batch sizes, judge the fit on the others, and map where diffusion wins.

    Raises:
        UsageError: what is asked for does not fit together, or no page is of that device.
        RecordError: the pages cannot be read, or hold too few rows.
    """
    from llmbench.analysis.bench_pages import read_pages
    from llmbench.analysis.prediction import predict
    from llmbench.analysis.prediction_map import speed_map
    from llmbench.report.prediction import prediction_files

    pages = read_pages(options.pages)
    found = predict(pages.rows, options.fit_batches, options.fit_device)
    wanted = {key: getattr(options, key) for key in ("ceilings", "prompt", "canvas", "block", "batches", "steps")}
    mapped = speed_map(found.model, pages, options.device or found.device, **wanted)
    said = ", ".join(dict.fromkeys(row.source for row in pages.rows))
    made, every, files = prediction_files(found, f"From {said}", pages.notes, mapped)
    _print(made, files | _files("prediction", "prediction", every), [], options)


def html(source: "RecordedSweeps", options: argparse.Namespace) -> None:
    """One page of a sweep that opens without a network.

    Raises:
        TrackingError: no finished sweep, or one without a finished job.
        RecordError: its Records cannot be compared, or some are missing.
    """
    from llmbench.sweeps import partial
    from llmbench.sweeps.page import page_of

    chosen = _chosen(source, options, lambda item: True)
    if chosen is None:
        raise TrackingError(
            f"no finished sweep in {source.location}; run `llmbench -m model=llama,llada steps=8,16` first"
        )
    sweep = source.read(chosen)
    if not any(record.status == "finished" for record in sweep.records):
        raise TrackingError(
            partial.warning(sweep) or f"sweep {sweep.name} has no finished job; there is nothing to show"
        )
    out = Path(options.out)
    name = "report.html"
    if out.suffix in (".html", ".htm"):
        options.out, name = str(out.parent), out.name
    _print([], {name: page_of(sweep)}, [sweep], options)


def _chosen(
    source: "RecordedSweeps", options: argparse.Namespace, fits: "Callable[[SweepSummary], bool]"
) -> "SweepSummary | None":
    """The sweep that was named, the only one of a sweep's own folder, or the newest finished one that fits."""
    from llmbench.sweeps.folder import is_sweep
    from llmbench.tracking.summary import find_sweep

    every = [item for item, _ in source.newest_first()]
    if options.sweep:
        return find_sweep(every, options.sweep, source.location)
    if options.folder is not None and is_sweep(Path(options.folder)):
        return every[0] if every else None
    return next((item for item in every if item.status == "FINISHED" and fits(item)), None)


def _makes(item: "SweepSummary", table: str, source: "RecordedSweeps") -> bool:
    """Whether a table can be made of a sweep."""
    return item.recipe == table or (table == "parity" and not item.recipe and _has_quality(item, source, most=1))


def _has_quality(item: "SweepSummary", source: "RecordedSweeps", most: int | None = None) -> bool:
    """Whether a sweep came to verdicts on quality, at most so many; in a folder of an earlier version nothing tells."""
    from llmbench.analysis.parity.verdict import TESTED
    from llmbench.sweeps.folder import FolderSweeps

    if item.verdict is None:
        return isinstance(source, FolderSweeps)
    found = item.verdict.split(", ")
    return bool({status.value for status in TESTED} & set(found)) and (most is None or len(found) <= most)


def _print(
    made: "Sequence[Table]",
    files: Files,
    sweeps: "Sequence[RecordedSweep]",
    options: argparse.Namespace,
    newest: str = "",
    below: str = "",
) -> None:
    """Write the files, print the tables, and say which sweeps they come from.

    Raises:
        RecordError: Records of a sweep are missing; nothing was written.
    """
    from llmbench.sweeps import partial

    warnings = [warning for sweep in sweeps if (warning := partial.warning(sweep))]
    written = "" if warnings else f" {_write(Path(options.out), files)}"
    if shown := [*warnings, *(item.text() for item in made), *filter(None, [below])]:
        emit("\n".join(shown))
    named = ", ".join(sweep.title if len(sweeps) == 1 else sweep.title.removeprefix("sweep ") for sweep in sweeps)
    emit(f"From {named or options.pages or 'no sweep'}{newest}.{written}")
    if warnings:
        raise RecordError(f"nothing is written: Records of sweep {_partial_names(sweeps)} are missing")


def _partial_names(sweeps: "Sequence[RecordedSweep]") -> str:
    return ", ".join(sweep.name for sweep in sweeps if not sweep.is_whole)


def _files(stem: str, name: str, made: "Sequence[Table]") -> Files:
    """The tables as Markdown and LaTeX."""
    from llmbench.report.latex import latex

    tex = [latex(item, f"tab:{name}" if place == 0 else f"tab:{name}-{place}") for place, item in enumerate(made)]
    return {f"{stem}.md": "\n".join(item.markdown() for item in made), f"{stem}.tex": "\n".join(tex)}


_ONE_SIDE = ("missing_baseline", "missing_candidates")


def _write(out: Path, files: Files) -> str:
    """Write into a folder; returns what was written, and which of it took the place of an earlier file."""
    if not files:
        return "Nothing is written."
    replaced = [name for name in files if (out / name).exists()]
    try:
        for name, content in files.items():
            write_atomic(out / name, content)
    except OSError as error:
        raise TrackingError(f"--out {out}: {error.strerror}") from error
    written = f"Written: {', '.join(str(out / name) for name in files)}"
    return f"{written} (replaced: {', '.join(replaced)})" if replaced else written


def _terms(sweep: "RecordedSweep") -> "ParityConfig | None":
    """What the verdicts of a sweep were to test; None where it registered nothing."""
    from llmbench.analysis.parity.interim import AnalysisPlan

    return AnalysisPlan.from_json(sweep.registered).options if sweep.registered else None
