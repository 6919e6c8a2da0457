"""Small parts of the one page: escaped text, runs, tables."""

import html
from collections.abc import Mapping, Sequence

from llmbench.report.layout import Table

_SHOWN = 8
"""Characters of a run id of MLflow that stand in a table; the whole one is in the list of runs."""


def escape(text: object) -> str:
    """Text as HTML shows it, between tags and in quoted attributes."""
    return html.escape(str(text), quote=True)


def anchor(run: str) -> str:
    """The place of a run in the list of runs."""
    return "run-" + "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in run)


def run_list(runs: Sequence[str]) -> str:
    """Runs, each with its place in the list of runs; a run id of MLflow is cut."""
    return " ".join(
        f'<a class=run href="#{escape(anchor(run))}" title="{escape(run)}">{escape(short(run))}</a>' for run in runs
    )


def short(run: str) -> str:
    """A run id of MLflow without its end; the name of a folder is whole."""
    return run[:_SHOWN] if len(run) == 32 and all(sign in "0123456789abcdef" for sign in run) else run


def table_html(table: Table, runs: Mapping[str, str], of_rows: Sequence[Sequence[str]] = ()) -> str:
    """A table with its lead and its notes; the runs behind a row stand in its first cell, where they are known.

    Args:
        table: of text.
        runs: run id or folder by a Record's identity.
        of_rows: the runs of each row; () takes those of `table.identities`.
    """
    behind = [*of_rows] or [(runs.get(identity, identity),) for identity in table.identities]
    behind += [()] * (len(table.rows) - len(behind))
    names = [name or "setting" if place == 0 else name for place, name in enumerate(table.header)]
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in names)
    rows = []
    for row, own in zip(table.rows, behind, strict=True):
        first, *others = row
        below = f"<br>{run_list(own)}" if own else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        rows.append(f"<tr><th scope=row>{escape(first)}{below}</th>{cells}</tr>")
    lead = "".join(f"<p>{escape(line)}</p>" for line in table.lead)
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*table.notes, *filter(None, [table.provenance])))
    return (
        f'{lead}<div class=scroll tabindex="0" role=region aria-label="{escape(table.title)}">'
        f"<table class=sortable><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{f'<ul class=note>{notes}</ul>' if notes else ''}"
    )
