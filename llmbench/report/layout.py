"""A table of text, as a terminal and Markdown show it, and as plain data."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "-"
"""The cell of a value that is not known."""


class Quantity(str):
    """A number as a table shows it, with the numbers behind it."""

    value: float
    low: float | None  # ends of its 95 % interval
    high: float | None

    def __new__(cls, text: str, value: float, low: float | None = None, high: float | None = None) -> "Quantity":
        """`text` is what is shown."""
        made = super().__new__(cls, text)
        made.value, made.low, made.high = value, low, high
        return made


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text. Rows are as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    provenance: str = ""
    lead: tuple[str, ...] = ()  # what is read first, above the numbers
    identities: tuple[str, ...] = ()  # of the Records behind the first rows
    keys: int = 1  # columns in front that name a row
    main: tuple[str, ...] = ()  # headers of the columns that print shows first; (): as they stand

    def text(self) -> str:
        """For a terminal."""
        lead = [*self.lead, ""] if self.lead else []
        return (
            "\n".join([self.title, "", *lead, self._body("simple"), "", *self.notes, self.provenance]).rstrip() + "\n"
        )

    def markdown(self) -> str:
        """For a README or the description of a run."""
        parts = [
            f"**{self.title}**",
            *self.lead,
            re.sub(" {2,}", " ", self._body("pipe", lambda cell: cell.replace("|", "\\|"))),  # MLflow cuts long texts
            "\n".join(f"- {note}" for note in self.notes),
            f"<sub>{self.provenance}</sub>" if self.provenance else "",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _body(self, style: str, escape: Callable[[str], str] = str) -> str:
        """Header and rows in a style of tabulate, the first column to the left and the others to the right."""
        from tabulate import tabulate

        align = ("left", *("right",) * (len(self.header) - 1))
        header, *rows = [[escape(cell) for cell in row] for row in (self.header, *self.rows)]
        return tabulate(rows, headers=header, tablefmt=style, disable_numparse=True, colalign=align)

    def csv(self) -> str:
        """Values in full; an interval has two columns of its own, an absent value is empty."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.header)
        made: list[list[object]] = []
        for head, cells in zip(self.header, columns, strict=True):
            name = head.removesuffix(" [95 %]")
            made.append([name, *(_plain(cell) for cell in cells)])
            known = [cell for cell in cells if isinstance(cell, Quantity)]
            for end in ("low", "high"):
                if any(getattr(cell, end) is not None for cell in known):
                    made.append([f"{name}, {end}", *(getattr(cell, end, None) for cell in cells)])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(zip(*made, strict=True))
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: a row is an object, a number with an interval too; what is absent is left out."""

        def cell(found: str) -> Any:
            if isinstance(found, Quantity) and found.low is not None:
                return {"value": found.value, "low": found.low, "high": found.high}
            return _plain(found)

        return {
            "title": self.title,
            "lead": list(self.lead),
            "rows": [
                {name.removesuffix(" [95 %]"): cell(found) for name, found in zip(self.header, row, strict=True)
                 if found != ABSENT}
                for row in self.rows
            ],
            "identities": list(self.identities),
            "notes": list(self.notes),
            "provenance": self.provenance,
        }  # fmt: skip


def _plain(cell: str) -> float | str | None:
    """What a cell says, for a program."""
    if cell == ABSENT:
        return None
    return cell.value if isinstance(cell, Quantity) else cell


def tables_json(tables: Sequence[Table]) -> str:
    """Several tables as one document."""
    return json.dumps([table.to_dict() for table in tables], indent=1)
