"""How does a table look in a terminal, in Markdown and in a paper? Its cells are text already."""

from collections.abc import Iterable
from dataclasses import dataclass


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 prompt`, `2 prompts`, `2 batches`."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text. Rows are as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    provenance: str = ""
    lead: tuple[str, ...] = ()  # what is read first, above the numbers

    def text(self) -> str:
        """For a terminal."""
        from tabulate import tabulate

        align = ("left", *("right",) * (len(self.header) - 1))
        body = tabulate(self.rows, headers=self.header, tablefmt="simple", disable_numparse=True, colalign=align)
        lead = [*self.lead, ""] if self.lead else []
        return "\n".join([self.title, "", *lead, body, "", *self.notes, self.provenance]).rstrip() + "\n"

    def markdown(self) -> str:
        """For a README or the description of a run."""

        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---|" + "---:|" * (len(self.header) - 1)
        body = [line(self.header), rule, *map(line, self.rows)]
        notes = [f"- {note}" for note in self.notes]
        parts = [
            f"**{self.title}**",
            *self.lead,
            "\n".join(body),
            "\n".join(notes),
            f"<sub>{self.provenance}</sub>" if self.provenance else "",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self, label: str = "") -> str:
        """For a paper: a `table` with booktabs rules."""
        rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in self.rows]
        small = [escape_latex(text) for text in (*self.lead, *self.notes, self.provenance) if text]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{escape_latex(self.title)}}}",
                *([rf"\label{{{label}}}"] if label else []),
                rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
                r"\toprule",
                " & ".join(map(escape_latex, self.header)) + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                *([r"\par\smallskip\footnotesize " + r" \\ ".join(small)] if small else []),
                r"\end{table}",
                "",
            ]
        )


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it: one pass, so that no escape is escaped again."""
    return "".join(_LATEX.get(sign, sign) for sign in text)
