"""Everything that is shown of a sweep: its tables, figures and files, from Records and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmbench.errors import one_line
from llmbench.system.plotting import own_settings

if TYPE_CHECKING:
    from llmbench.analysis.parity.parity import Parity
    from llmbench.config.parity import ParityConfig
    from llmbench.record import Record
    from llmbench.report.layout import Table

RECIPES = ("latency", "throughput", "memory", "parity", "acceleration", "energy")
"""Tables 1 to 6; the file of the same name in conf/experiment runs what each needs."""
SPEED_RECIPES = ("latency", "throughput", "memory", "energy")
"""Those that measure no quality."""
LIKELIHOOD = "likelihood"
"""The table of what belongs to models and not to k; conf/experiment/likelihood.yaml runs no more than it needs."""

VIEWS = ("frontier", "pareto", "hypotheses", "drift", "prediction", "html", "paper")
"""What else is made from sweeps of these recipes."""


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """All that is shown of a finished sweep."""

    text: str  # for the terminal
    note: str  # Markdown, for the description of the parent run
    files: dict[str, str | bytes]  # artifacts of the parent run by name
    tables: "tuple[Table, ...]" = ()  # those of the text; with identities where a row is a Record


def sweep_report(
    records: "Sequence[Record]", verdicts: "Sequence[Parity]", *, recipe: str = "", command: str = ""
) -> SweepReport:
    """The tables and figures of a sweep.

    Args:
        records: of the sweep; failed ones are left out of every table.
        verdicts: from `verdicts(records)`.
        recipe: the file of conf/experiment that was run, if any.
        command: what was typed.
    """
    from llmbench.report.model_tables import likelihood_table, model_properties

    tables = recipe_tables(records, verdicts, recipe, command)
    properties = model_properties(records)
    markdown = "\n".join(table.markdown() for table in tables)
    name = recipe if recipe in (*RECIPES, LIKELIHOOD) else "parity"
    files: dict[str, str | bytes] = {f"{name}.md": markdown}
    if properties:
        files["likelihood.md"] = likelihood_table(records, command).markdown()
    text = "\n".join(table.text() for table in tables)
    if verdicts and recipe != LIKELIHOOD:
        try:
            own = verdicts[0].options  # what the verdict leaves out, the frontier does
            files |= _figures(records, verdicts) | frontier_files(records, command, options=own)[1]
        except Exception as error:  # a drawing library's trouble must not take the table with it
            failed = f"No figure could be drawn ({type(error).__name__}: {one_line(error, 300)})"
            text, markdown = f"{text}\n{failed}\n", f"{markdown}\n\n{failed}"
    if recipe == LIKELIHOOD:
        return SweepReport(text=text, note=markdown, files=files, tables=tuple(tables))
    said = [str(verdict) for verdict in verdicts if recipe in SPEED_RECIPES]  # parity tables begin with theirs
    text += f"\n{properties}\n" if properties else ""
    # parity's sentences first: MLflow folds a long description
    order = [*said, properties, markdown] if said else [markdown, properties]
    return SweepReport(text=text, note="\n\n".join(filter(None, order)), files=files, tables=tuple(tables))


@own_settings()
def _figures(records: "Sequence[Record]", verdicts: "Sequence[Parity]") -> dict[str, str | bytes]:
    from llmbench.report import figures

    files: dict[str, str | bytes] = {}
    if len(verdicts) == 1 and verdicts[0].speedups:
        files["parity.png"] = figures.to_png(figures.parity_figure(records, verdicts[0]))
        files["parity.html"] = figures.parity_html(records, verdicts[0])
    return files


@own_settings()
def frontier_files(
    records: "Sequence[Record]",
    command: str,
    stem: str = "frontier",
    source: str = "",
    options: "ParityConfig | None" = None,
) -> "tuple[list[Table], dict[str, str | bytes]]":
    """The frontiers of a sweep: their tables, and files (the tables as one, a figure for each).

    Args:
        records: of a sweep.
        command: what was typed.
        stem: of the files' names.
        source: the sweep, for files that do not lie on its own run: in the tables' notes and the figures' captions.
        options: whose gates say which settings compete; None takes those that the Records were made under.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    from llmbench.analysis.frontier import frontiers
    from llmbench.analysis.parity.interim import options_of
    from llmbench.report.figures import to_png
    from llmbench.report.frontier import frontier_figure, frontier_tables

    found = frontiers(records, (options or options_of(records)).thresholds)
    if not found:
        return [], {}
    made = frontier_tables(records, found, command, source)
    files: dict[str, str | bytes] = {f"{stem}.md": "\n".join(table.markdown() for table in made)}
    for place, item in enumerate(found, start=1):
        name = stem if len(found) == 1 else f"{stem}_{place}"
        files[f"{name}.png"] = to_png(frontier_figure(item, source))
    return made, files


@own_settings()
def pareto_files(
    records: "Sequence[Record]",
    verdicts: "Sequence[Parity]",
    command: str,
    source: str = "",
    price_per_hour: float | None = None,
) -> "tuple[list[Table], dict[str, str | bytes]]":
    """The planes of speed per user and per device: their tables, and files (values, a figure for each).

    Args:
        records: of a sweep.
        verdicts: of the same sweep: which k are judged to reach parity.
        command: what was typed.
        source: which sweep it is.
        price_per_hour: of the device; None leaves money out.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    from llmbench.analysis.pareto import planes
    from llmbench.report.figures import to_png
    from llmbench.report.pareto import pareto_figure, pareto_json, pareto_tables

    found = planes(records, verdicts, price_per_hour)
    if not found:
        return [], {}
    files: dict[str, str | bytes] = {"pareto.json": pareto_json(found)}
    drawn = [item for item in found if item.points]
    for place, item in enumerate(drawn, start=1):
        name = "pareto" if len(drawn) == 1 else f"pareto_{place}"
        files[f"{name}.png"] = to_png(pareto_figure(item, source))
    return pareto_tables(records, found, command, source), files


@own_settings()
def drift_files(
    records: "Sequence[Record]", command: str, source: str = ""
) -> "tuple[list[Table], dict[str, str | bytes]]":
    """The times over a sweep: their table, and the figure as a file; nothing where no batch was timed twice.

    Args:
        records: of a sweep.
        command: what was typed.
        source: which sweep it is.
    """
    from llmbench.report.drift import caption_of, drift_figure, drift_table, job_times
    from llmbench.report.figures import to_png

    times = job_times(records)
    if not times:
        return [], {}
    figure = drift_figure(times, caption_of(records, source))
    return [drift_table(records, times, command, source)], {"drift.png": to_png(figure)}


def recipe_tables(
    records: "Sequence[Record]", verdicts: "Sequence[Parity]", recipe: str, command: str
) -> "list[Table]":
    """The tables of one recipe, with its hypotheses; an unknown recipe gives those of each verdict.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    from llmbench.analysis.hypotheses.claims import hypotheses
    from llmbench.report import tables
    from llmbench.report.acceleration import acceleration_table
    from llmbench.report.details import details_tables
    from llmbench.report.energy import energy_table
    from llmbench.report.hypotheses import hypothesis_tables
    from llmbench.report.model_tables import aup_table, likelihood_table

    makers = {
        "latency": tables.latency_table,
        "throughput": tables.throughput_table,
        "memory": tables.memory_table,
        "acceleration": lambda known, typed: acceleration_table(known, verdicts, typed),
        "energy": energy_table,
        LIKELIHOOD: likelihood_table,
    }
    if recipe in makers:
        made = [makers[recipe](records, command)]
        if recipe != LIKELIHOOD and any(record.status == "finished" for record in records):
            made += hypothesis_tables(records, hypotheses(records, recipe), command)
        return made
    weights = {(record.model, record.signatures.get("checkpoint")) for record in records}
    several = len(verdicts) > 1 and len(weights) > len({record.model for record in records})
    made = []
    for verdict in verdicts:
        table = tables.parity_table(records, verdict, command)
        made.append(tables.of_checkpoints(table, records, verdict) if several else table)
        made += details_tables(verdict)
    aup = aup_table(records, command)
    return [*made, aup] if aup.rows else made
