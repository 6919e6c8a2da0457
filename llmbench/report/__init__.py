"""Records and verdicts in, text and pictures for people out: tables, figures, the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbench.analysis.verdict import Parity
    from llmbench.record import Record
    from llmbench.report.layout import Table

SPEED_RECIPES = ("latency", "throughput", "memory")
RECIPES = (*SPEED_RECIPES, "parity")
"""Tables 1 to 4; the file of the same name in conf/experiment runs what each needs."""
LIKELIHOOD = "likelihood"
"""The table of what belongs to models and not to k; conf/experiment/likelihood.yaml runs no more than it needs."""


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """All that is shown of a finished sweep."""

    text: str  # for the terminal
    note: str  # Markdown, for the description of the parent run
    files: dict[str, str | bytes]  # artifacts of the parent run by name


def sweep_report(
    records: "Sequence[Record]", verdicts: "Sequence[Parity]", *, recipe: str = "", command: str = ""
) -> SweepReport:
    """The tables and figures of a sweep.

    Args:
        records: of the sweep; failed ones are left out of every table.
        verdicts: from `llmbench.analysis.parity.verdicts(records)`.
        recipe: the file of conf/experiment that was run, if any.
        command: what was typed.
    """
    from llmbench.report.summaries import likelihood_table
    from llmbench.report.tables import model_properties

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
            files |= _figures(records, verdicts)
        except Exception as error:  # a drawing library's trouble must not take the table with it
            text += f"\nNo figure: {type(error).__name__}: {error}\n"
    if recipe == LIKELIHOOD:
        return SweepReport(text=text, note=markdown, files=files)
    said = [verdict.sentence for verdict in verdicts if recipe in SPEED_RECIPES]  # parity tables begin with theirs
    text += f"\n{properties}\n" if properties else ""
    # parity's sentences first: MLflow folds a long description
    order = [*said, properties, markdown] if said else [markdown, properties]
    return SweepReport(text=text, note="\n\n".join(filter(None, order)), files=files)


def _figures(records: "Sequence[Record]", verdicts: "Sequence[Parity]") -> dict[str, str | bytes]:
    from llmbench.report import figures

    files: dict[str, str | bytes] = {}
    if figures.frontier(records):
        files["frontier.png"] = figures.to_png(figures.frontier_figure(records))
    if len(verdicts) == 1 and verdicts[0].speedups:
        files["parity.png"] = figures.to_png(figures.parity_figure(records, verdicts[0]))
        files["parity.html"] = figures.parity_html(records, verdicts[0])
    return files


def recipe_tables(
    records: "Sequence[Record]", verdicts: "Sequence[Parity]", recipe: str, command: str
) -> "list[Table]":
    """The tables of one recipe; an unknown recipe gives a parity table for each verdict, and what stands behind it."""
    from llmbench.report import evidence, summaries, tables

    makers = {
        "latency": tables.latency_table,
        "throughput": tables.throughput_table,
        "memory": tables.memory_table,
        LIKELIHOOD: summaries.likelihood_table,
    }
    if recipe in makers:
        return [makers[recipe](records, command)]
    made = [
        table
        for verdict in verdicts
        for table in (tables.parity_table(records, verdict, command), *evidence.evidence_tables(verdict))
    ]
    parallelism = summaries.parallelism_table(records, command)
    return [*made, parallelism] if parallelism.rows else made
