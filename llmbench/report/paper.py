"""Everything that a paper takes from recorded sweeps: tables 1 to 6, figures, numbers for prose, and `paper.tex`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record
from llmbench.report.assemble import RECIPES, recipe_tables
from llmbench.report.latex import PACKAGES, latex, pieces
from llmbench.report.layout import Table, tables_json
from llmbench.report.numbers import macros, numbers_tex
from llmbench.report.print_figures import print_figures

Files = dict[str, str | bytes]

PAPER = "paper.tex"
"""Written where it is not there: people write into it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A sweep of a recipe."""

    recipe: str
    records: Sequence[Record]
    verdicts: Sequence[Parity]
    command: str  # what was typed


def paper_files(sources: Sequence[Source]) -> Files:
    """All files by name. A recipe without a sweep leaves its table and figure out.

    Args:
        sources: at most one for each recipe.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    files: Files = {}
    for source in sources:
        made = recipe_tables(source.records, source.verdicts, source.recipe, source.command)
        files |= table_files(source.recipe, made)
        files |= print_figures(source.records, source.verdicts, source.recipe)
    parity = next((source for source in sources if source.recipe == "parity"), None)
    verdict = next((verdict for verdict in parity.verdicts if verdict.head), None) if parity else None
    files["numbers.tex"] = numbers_tex(macros(parity.records if parity else (), verdict))
    files[PAPER] = (resources.files("llmbench.report") / "page" / PAPER).read_text(encoding="utf-8")
    return files


def table_files(recipe: str, made: Sequence[Table]) -> Files:
    """The tables of a recipe: the first for the text of a paper, what is beside it for the appendix; and as plain data.

    Args:
        recipe: one of `RECIPES`; the place in it is the table's number.
        made: its tables, the main one first.
    """
    stem = f"table{RECIPES.index(recipe) + 1}"
    if not made:
        return {}
    main, rest = pieces(made[0], f"tab:{recipe}")
    others = [latex(item, f"tab:{recipe}-{place}") for place, item in enumerate(made[1:], start=len(rest) + 2)]
    files: Files = {
        f"{stem}.md": "\n".join(item.markdown() for item in made),
        f"{stem}.tex": main,
        f"{stem}_appendix.tex": "\n".join([*rest, *others]) or f"{PACKAGES}; nothing more to show\n",
        f"{stem}.json": tables_json(made),
    }
    for place, item in enumerate(made, start=1):
        files[f"{stem}{'' if place == 1 else f'_{place}'}.csv"] = item.csv()
    return files
