"""`python -m llmbench report parity`: a table again, from what a sweep left in MLflow. Nothing is measured.

Takes the newest finished sweep that ran the table's recipe (`conf/experiment/<table>.yaml`; parity also takes the main
job, `make run`; likelihood any sweep that is no table of speed), or the one named by --sweep. Writes
`paper/table<n>.md` and `.tex` (`paper/likelihood.*`), for parity also the figure, and prints the table. `... frontier`
shows the settings that nothing dominates (of the newest sweep with quality, or the one named by --sweep; its files name
the sweep), `... hypotheses` the brief's four, each from the newest sweep of its recipe. The last line says which sweep
was taken, and which files were replaced; of a sweep with missing jobs nothing is written. `... sweeps` lists what is in
the store, `... ui` opens MLflow's pages on it. This is a door of its own
beside the sweep's: it alone in this room knows tracking.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.errors import LlmbenchError, TrackingError
from llmbench.report.assemble import LIKELIHOOD, RECIPES, SPEED_RECIPES, VIEWS, frontier_files, recipe_tables
from llmbench.system.output import emit, flush_output
from llmbench.tracking.store import EXPERIMENT

if TYPE_CHECKING:
    from llmbench.analysis.hypotheses.outcomes import Hypothesis
    from llmbench.record import Record
    from llmbench.report.layout import Table
    from llmbench.tracking import Store, Sweep


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit:
        flush_output()  # the help, whose reader may be gone
        raise
    try:
        if options.table == SWEEPS:
            sweeps(options.uri, options.experiment)
        elif options.table == "ui":
            show(options.uri, options.experiment, options.port)
        elif options.table == LIKELIHOOD:
            likelihood(options.uri, options.experiment, options.sweep, Path(options.out))
        elif options.table in VIEWS:
            view(options.table, options.uri, options.experiment, options.sweep, Path(options.out))
        else:
            run(options.table, options.uri, options.experiment, options.sweep, Path(options.out))
    except LlmbenchError as error:
        emit(f"llmbench report: {error}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


SWEEPS = "sweeps"

_WHICH = "run id or name of a sweep, or its beginning, as `sweeps` lists them (default: the newest that fits)"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    own = argparse.ArgumentParser(
        prog="python -m llmbench report", description="A table of the paper again, from what a sweep left in MLflow."
    )
    own.add_argument(
        "table",
        choices=(*RECIPES, LIKELIHOOD, *VIEWS, SWEEPS, "ui"),
        help="table 1 to 4, the models' own likelihood, a view of them, a list of all sweeps, or MLflow's pages",
    )
    own.add_argument("--uri", default=None, help="MLflow store or server (default: mlflow.db in the folder of results)")
    own.add_argument("--experiment", default=EXPERIMENT, help="MLflow experiment (default: %(default)s)")
    own.add_argument("--sweep", default=None, metavar="RUN_ID", help=_WHICH)
    own.add_argument("--out", default="paper", metavar="FOLDER", help="where files are written (default: %(default)s)")
    own.add_argument("--port", type=int, default=5000, help="of ui (default: %(default)s, or the next that is free)")
    return own


def show(uri: str | None, experiment: str, port: int) -> None:
    """MLflow's pages over the store, until Ctrl-C.

    Raises:
        TrackingError: no store, or its server does not start.
    """
    from llmbench.config.job import TrackingConfig
    from llmbench.tracking import open_store
    from llmbench.tracking.ui_server import serve

    serve(open_store(TrackingConfig(uri=uri, experiment=experiment), create=False), port)


def sweeps(uri: str | None, experiment: str) -> None:
    """All sweeps of the store, newest first."""
    from tabulate import tabulate

    from llmbench.config.job import TrackingConfig
    from llmbench.tracking import open_store

    store = open_store(TrackingConfig(uri=uri, experiment=experiment), create=False)
    logged = store.logged()
    rows = [
        [
            item.run_id,
            item.name,
            item.status.lower(),
            f"{logged.get(item.run_id, 0)} of {item.jobs if item.jobs is not None else '?'}",
            (item.verdict or "").replace("_", " "),
            item.command or "",
        ]
        for item in store.sweeps()
    ]
    headers = ["run id", "sweep", "status", "jobs", "verdict", "command"]
    said = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    emit(said if rows else f"There is no sweep in {store.shown_uri} yet.")


def run(table: str, uri: str | None, experiment: str, run_id: str | None, out: Path) -> None:
    """Rebuild one table.

    Raises:
        TrackingError: no store, or no sweep that fits; says which make target makes one.
        RecordError: its Records cannot be read or compared.
    """
    from llmbench.analysis.parity.analyze import verdicts
    from llmbench.analysis.parity.interim import AnalysisPlan
    from llmbench.config.job import TrackingConfig
    from llmbench.report.model_tables import model_properties
    from llmbench.sweeps import partial
    from llmbench.tracking import open_store

    number = RECIPES.index(table) + 1
    store = open_store(TrackingConfig(uri=uri, experiment=experiment), create=False)
    sweep = store.sweep(run_id) if run_id else _newest(store, table, number)
    records = store.records(sweep.run_id)
    state, lacks = partial.state(sweep, len(records)), partial.lacks(sweep, len(records))
    known = [*records, *partial.not_run(sweep, records)]
    options = AnalysisPlan.from_json(sweep.registered).options if sweep.registered else None
    made_of = verdicts(known, options=options, history=store.past_analyses(sweep.run_id))
    found = tuple(partial.verdict(item) for item in made_of)
    if not found:
        raise TrackingError(state or f"sweep {sweep.name} has no finished job; run `make table{number}`")
    if lacks and table == "parity" and all(item.status in _ONE_SIDE for item in found):
        raise TrackingError(f"{state}. There is nothing to compare yet")
    stem = f"table{number}"
    made = recipe_tables(records, found, table, sweep.command or "")
    files = _files(stem, table, made)
    if table == "parity" and len(found) == 1 and found[0].speedups and not lacks:
        from llmbench.report import figures

        files[f"{stem}.png"] = figures.to_png(figures.parity_figure(records, found[0]))
        files[f"{stem}.html"] = figures.parity_html(records, found[0])
        own = f"{stem}_frontier", f"From {_named(sweep)}", found[0].options
        files |= frontier_files(records, sweep.command or "", *own)[1]
    written = _UNWRITTEN if lacks else _write(out, files)
    emit(
        "\n".join([*filter(None, [state]), *(item.text() for item in made), *filter(None, [model_properties(records)])])
    )
    emit(f"From {_named(sweep)}. {written}")


def likelihood(uri: str | None, experiment: str, run_id: str | None, out: Path) -> None:
    """The table of every model's own likelihood.

    Raises:
        TrackingError: no store, or no sweep in it that measured a likelihood; says what measures one.
    """
    from llmbench.config.job import TrackingConfig
    from llmbench.report.model_tables import likelihood_table
    from llmbench.sweeps import partial
    from llmbench.tracking import open_store

    store = open_store(TrackingConfig(uri=uri, experiment=experiment), create=False)
    sweep = store.sweep(run_id) if run_id else store.latest_sweep(lambda sweep: sweep.recipe not in SPEED_RECIPES)
    records = store.records(sweep.run_id) if sweep else []
    table = likelihood_table(records, sweep.command or "") if sweep else None
    if sweep is None or table is None or not table.rows:
        where = f"sweep {sweep.name} has" if sweep else f"there is in {store.shown_uri}"
        raise TrackingError(f"{where} no likelihood; run `python -m llmbench -m experiment={LIKELIHOOD}`")
    files: dict[str, str | bytes] = {
        f"{LIKELIHOOD}.md": table.markdown(),
        f"{LIKELIHOOD}.tex": table.latex(f"tab:{LIKELIHOOD}"),
    }
    written = _UNWRITTEN if partial.lacks(sweep, len(records)) else _write(out, files)
    emit("\n".join([*filter(None, [partial.state(sweep, len(records))]), table.text()]))
    emit(f"From {_named(sweep)}. {written}")


def view(name: str, uri: str | None, experiment: str, run_id: str | None, out: Path) -> None:
    """The frontier, or the hypotheses.

    Raises:
        TrackingError: no store, or no sweep that fits.
        RecordError: its Records cannot be read or compared.
    """
    from llmbench.config.job import TrackingConfig
    from llmbench.sweeps import partial
    from llmbench.tracking import open_store

    store = open_store(TrackingConfig(uri=uri, experiment=experiment), create=False)
    chosen = store.sweep(run_id) if run_id else None
    logged = store.logged().get(chosen.run_id, 0) if chosen else 0
    state = partial.state(chosen, logged) if chosen else ""
    try:
        made, files, said = (_frontier if name == "frontier" else _hypotheses)(store, chosen)
    except TrackingError as error:
        raise TrackingError(f"{state}. There is nothing to show yet") if state else error from None
    files = files | _files(name, name, made)
    written = _UNWRITTEN if chosen and partial.lacks(chosen, logged) else _write(out, files)
    emit("\n".join([*filter(None, [state]), *(item.text() for item in made)]))
    emit(f"From {said}. {written}")


Shown = tuple["list[Table]", dict[str, str | bytes], str]
"""Tables, files beside them, and which sweeps they come from."""


def _named(sweep: "Sweep") -> str:
    return f"sweep {sweep.name} ({sweep.run_id})"


def _frontier(store: "Store", chosen: "Sweep | None") -> Shown:
    from llmbench.analysis.parity.interim import AnalysisPlan
    from llmbench.analysis.parity.verdict import TESTED

    tested = {status.value for status in TESTED}

    def fits(item: "Sweep") -> bool:
        return item.status == "FINISHED" and bool(tested & set((item.verdict or "").split(", ")))

    fitting = [] if chosen else list(filter(fits, store.sweeps()))
    sweep = chosen or next(iter(fitting), None)
    if sweep is None:
        raise TrackingError(f"no finished sweep with quality in {store.shown_uri}; run `make run` first")
    source = f"From {_named(sweep)}"
    plan = AnalysisPlan.from_json(sweep.registered).options if sweep.registered else None
    made, files = frontier_files(store.records(sweep.run_id), sweep.command or "", source=source, options=plan)
    if not made:
        raise TrackingError(f"sweep {sweep.name} measured no quality; run `make run`, or name another with --sweep")
    newest = f", the newest of {len(fitting)} with quality (--sweep RUN_ID takes another)" if len(fitting) > 1 else ""
    return made, files, f"{_named(sweep)}{newest}"


def _hypotheses(store: "Store", chosen: "Sweep | None") -> Shown:
    """Each from the newest sweep of its recipe, or all from the one that was chosen."""
    from llmbench.analysis.hypotheses.claims import CLAIMS, hypotheses
    from llmbench.report.hypotheses import hypothesis_tables

    found: list[Hypothesis] = []
    sweeps: list[Sweep] = []
    made: list[Table] = []
    for recipe in dict.fromkeys(claim.recipe for claim, _ in CLAIMS):
        sweep = chosen or store.latest_sweep(lambda item, recipe=recipe: item.recipe == recipe)  # type: ignore[misc]
        records: list[Record] = store.records(sweep.run_id) if sweep else []
        own = hypotheses(records, recipe)
        found += own
        made += hypothesis_tables(records, own, (sweep.command or "") if sweep else "")
        sweeps += [sweep] if sweep and sweep not in sweeps else []
    order = sorted(range(len(found)), key=lambda place: found[place].number)
    data = json.dumps([found[place].to_dict() for place in order], indent=1)
    said = ", ".join(f"{sweep.name} ({sweep.run_id})" for sweep in sweeps) or "no sweep"
    return [made[place] for place in order], {"hypotheses.json": data}, said


def _files(stem: str, name: str, made: "list[Table]") -> dict[str, str | bytes]:
    """The tables as Markdown and LaTeX."""
    tex = [item.latex(f"tab:{name}" if place == 0 else f"tab:{name}-{place}") for place, item in enumerate(made)]
    return {f"{stem}.md": "\n".join(item.markdown() for item in made), f"{stem}.tex": "\n".join(tex)}


def _newest(store: "Store", table: str, number: int) -> "Sweep":
    from llmbench.analysis.parity.verdict import TESTED

    def fits(sweep: "Sweep") -> bool:
        main_job = table == "parity" and not sweep.recipe and sweep.verdict in {status.value for status in TESTED}
        return sweep.recipe == table or main_job

    found = store.latest_sweep(fits)
    if found is None:
        raise TrackingError(f"no finished {table} sweep in {store.shown_uri}; run `make table{number}` first")
    return found


_ONE_SIDE = ("missing_baseline", "missing_candidates")

_UNWRITTEN = "Nothing is written: jobs of this sweep are missing."


def _write(out: Path, files: dict[str, str | bytes]) -> str:
    """Write into a folder; returns what was written, and which of it took the place of an earlier file."""
    replaced = [name for name in files if (out / name).exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise TrackingError(f"--out {out}: {error.strerror}") from error
    said = f"Written: {', '.join(str(out / name) for name in files)}"
    return f"{said} (replaced: {', '.join(replaced)})" if replaced else said
