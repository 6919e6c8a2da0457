"""A table of text, as a terminal, Markdown and LaTeX show it."""

import re
from collections.abc import Callable
from dataclasses import dataclass


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

    def latex(self, label: str = "") -> str:
        """For a paper: a `table` with booktabs rules."""
        small = [escape_latex(text) for text in (*self.lead, *self.notes, self.provenance) if text]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{escape_latex(self.title)}}}",
                *([rf"\label{{{label}}}"] if label else []),
                self._body("latex_booktabs"),
                *([r"\par\smallskip\footnotesize " + r" \\ ".join(small)] if small else []),
                r"\end{table}",
                "",
            ]
        )

    def _body(self, style: str, escape: Callable[[str], str] = str) -> str:
        """Header and rows in a style of tabulate, the first column to the left and the others to the right."""
        from tabulate import tabulate

        align = ("left", *("right",) * (len(self.header) - 1))
        header, *rows = [[escape(cell) for cell in row] for row in (self.header, *self.rows)]
        return tabulate(rows, headers=header, tablefmt=style, disable_numparse=True, colalign=align)


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it: one pass, so that no escape is escaped again."""
    from tabulate import LATEX_ESCAPE_RULES

    return "".join(LATEX_ESCAPE_RULES.get(sign, sign) for sign in text)
