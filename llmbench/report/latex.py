r"""A table as LaTeX prints it, never wider than its place.

Needs the packages booktabs, threeparttable and array (Debian: texlive-latex-recommended and texlive-latex-extra). A
table has at most `COLUMNS` columns and is at most `TEXT_WIDTH` wide, for which the usual classes have room; one that
fits a column of a page with two of them is a `table`, a wider one a `table*`. What does not fit stands in further
tables, each of which begins with the columns that name a row. Widths are those of Computer Modern at 8 pt.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from llmbench.analysis.formats import NAMES
from llmbench.report.layout import ABSENT, Quantity, Table

COLUMNS = 6
"""Of one table at most."""

COLUMN_WIDTH, TEXT_WIDTH = 238.0, 345.0
"""In TeX's points: a column of 3.3 inches, and the text of the class `article` at 10 pt."""

ROWS = 40
"""Of one table at most: what a page has room for, with notes."""

_GAP = 2.5
"""\\tabcolsep, in points: the least room on both sides of a column."""

_WRAPPED = 110.0
"""The width of a column of longer text, in points."""

BRACKETS = "Brackets: 95 % intervals."

PACKAGES = r"% needs \usepackage{booktabs,threeparttable,array}"


def latex(table: Table, label: str = "") -> str:
    """All of a table: its main columns, then the others in further tables.

    Args:
        table: what to print.
        label: for references; a further table has `-2`, `-3`, ... behind it.
    """
    main, rest = pieces(table, label)
    return "\n".join([main, *rest])


def pieces(table: Table, label: str = "") -> tuple[str, list[str]]:
    """The main table, and the further ones: rows beyond `ROWS`, columns beyond the main ones.

    What must be known to read it stands below the main table; where a lead does, the notes stand below the next one.
    """
    keys, same, groups = _columns(table)
    parts = [(place, group, start) for place, group in enumerate(groups) for start in range(0, _length(table), ROWS)]
    notes, found = [*table.lead, *table.notes, *same, table.provenance], list[str]()
    moved: Sequence[str] = ()
    if table.lead and len(parts) > 1:
        notes, moved = [*table.lead, *same, table.provenance], table.notes
    for number, (place, group, start) in enumerate(parts, start=1):
        columns = [*keys, *group]
        rows = [tuple(row[i] for i in columns) for row in table.rows[start : start + ROWS]]
        title = f"{table.title}: {'more columns' if place else 'continued'}" if found else table.title
        own = f"{label}-{number}" if label and found else label
        said = {1: notes, 2: moved}.get(number, ())
        found.append(_table(title, [table.header[i] for i in columns], rows, said, own))
    return found[0], found[1:]


def _length(table: Table) -> int:
    return max(len(table.rows), 1)


def _columns(table: Table) -> tuple[list[int], list[str], list[list[int]]]:
    """Indices of the columns that name a row, what is the same in every row, and the columns of each table."""
    widths = [_column_width(table, i) for i in range(len(table.header))]
    keys = list(range(min(table.keys, len(table.header))))
    others = [i for i in range(len(table.header)) if i not in keys]
    named = [table.header.index(name) for name in table.main if name in table.header]
    first = [i for i in named if i not in keys] if table.main else others
    equal = [i for i in others if i not in first and len(table.rows) > 1 and _is_same(row[i] for row in table.rows)]
    said = ", ".join(f"{table.header[i]} {table.rows[0][i]}" for i in equal)
    same = [f"In every row: {said}."] if said else []
    used, most = sum(widths[i] for i in keys), max(COLUMNS - len(keys), 1)
    groups = _packed(first, widths, used, most)
    over = [i for group in groups[1:] for i in group] + [i for i in others if i not in (*first, *equal)]
    return keys, same, [*(groups[:1] or [[]]), *_packed(sorted(over), widths, used, len(others))]


def _is_same(cells: Iterable[str]) -> bool:
    """Whether a column of text, not of measurements, says one thing alone."""
    known = list(cells)
    return len(set(known)) == 1 and not isinstance(known[0], Quantity)


def _packed(members: Sequence[int], widths: Sequence[float], used: float, most: int) -> list[list[int]]:
    """Columns in groups, each of at most so many and narrow enough beside the keys; at least one in each."""
    groups: list[list[int]] = []
    for i in members:
        group = groups[-1] if groups else None
        if group is None or len(group) >= most or used + sum(widths[j] for j in (*group, i)) > TEXT_WIDTH:
            groups.append([i])
        else:
            group.append(i)
    return groups


def _column_width(table: Table, place: int) -> float:
    head = max(map(text_width, _head_lines(table.header[place])), default=0.0)
    cells = [_cell_width(row[place], place) for row in table.rows]
    return min(max([head, *cells]), max(head, _WRAPPED)) + 2 * _GAP


def _cell_width(cell: str, place: int) -> float:
    return text_width(_named(cell).replace("=", " == ") if place == 0 else cell)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], label: str) -> str:
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in header]
    widths = [max((_cell_width(cell, place) for cell in own), default=0.0) for place, own in enumerate(columns)]
    wrapped = [width > _WRAPPED for width in widths]
    total = sum(
        max(min(width, _WRAPPED), *map(text_width, _head_lines(name))) + 2 * _GAP
        for width, name in zip(widths, header, strict=True)
    )
    place = "table" if total <= COLUMN_WIDTH else "table*"
    numeric = [2 * sum(map(_is_number, own)) >= len(own) > 0 for own in columns]
    align = ["r" if digits else rf">{{\raggedright\arraybackslash}}p{{{_WRAPPED:.0f}pt}}" if long else "l"
             for digits, long in zip(numeric, wrapped, strict=True)]  # fmt: skip
    body = [[cell_latex(cell, naming=i == 0) for i, cell in enumerate(row)] for row in rows]
    if any(match["low"] for own in columns for cell in own if (match := _NUMBER.fullmatch(cell))):
        notes = (BRACKETS, *notes)
    heads = [_head(name, "r" if digits else "l") for name, digits in zip(header, numeric, strict=True)]
    said = [rf"\item {prose_latex(note)}" for note in notes if note]
    return "\n".join(
        [
            PACKAGES,
            rf"\begin{{{place}}}",
            r"\centering",
            r"\begin{threeparttable}",
            rf"\caption{{{prose_latex(title)}}}",
            *([rf"\label{{{label}}}"] if label else []),
            rf"\footnotesize\setlength{{\tabcolsep}}{{{_GAP:g}pt}}",
            rf"\begin{{tabular*}}{{\linewidth}}{{@{{\extracolsep{{\fill}}}}{''.join(align)}@{{}}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in body),
            r"\bottomrule",
            r"\end{tabular*}",
            *([r"\begin{tablenotes}[flushleft]\footnotesize\raggedright", *said, r"\end{tablenotes}"] if said else []),
            r"\end{threeparttable}",
            rf"\end{{{place}}}",
            "",
        ]
    )


def _is_number(cell: str) -> bool:
    return cell in (ABSENT, "") or _NUMBER.fullmatch(cell) is not None


# ----------------------------------------------------------------------------------------------------------------
# Headers and cells


_UNIT = re.compile(r"(?P<name>.+) (?P<unit>ms|MiB|GiB|W|s|min)")


def _head_lines(name: str) -> list[str]:
    """A header in one or two lines: the unit, or the last words, below."""
    name = name.removesuffix(" [95 %]")
    if match := _UNIT.fullmatch(name):
        return [match["name"], f"({match['unit']})"]
    if len(name) > 10 and " " in name:
        middle = min((i for i, sign in enumerate(name) if sign == " "), key=lambda i: abs(i - len(name) / 2))
        return [name[:middle], name[middle + 1 :]]
    return [name]


def _head(name: str, side: str) -> str:
    lines = [{"k": "$k$", "R(B)": "$R(B)$"}.get(line, prose_latex(line)) for line in _head_lines(name)]
    stacked = r" \\ ".join(lines)
    return lines[0] if len(lines) == 1 else rf"\shortstack[{side}]{{{stacked}}}"


_DIGITS = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_NUMBER = re.compile(rf"(?P<value>{_DIGITS})x?(?: \[(?P<low>{_DIGITS}), (?P<high>{_DIGITS})\])?(?P<per> ?%?)")
"""What `cells.interval` and `formats.number` write."""


def cell_latex(cell: str, *, naming: bool = False) -> str:
    """A cell: numbers as math, an absent value as a dash, text as it is.

    Args:
        cell: as the table has it; the x behind a ratio is left out.
        naming: whether it names a row: models by their names in prose.
    """
    if cell == ABSENT:
        return "--"
    if match := _NUMBER.fullmatch(cell):
        value = match["value"] + (r"\,\%" if match["per"].strip() else "")
        interval = rf"\ [{match['low']},\,{match['high']}]" if match["low"] else ""
        return f"${value}{interval}$"
    return prose_latex(_named(cell) if naming else cell, longest=20)


def _named(cell: str) -> str:
    """The name of a row with its model's name in prose."""
    first, space, rest = cell.partition(" ")
    return f"{NAMES.get(first, first)}{space}{rest}"


def prose_latex(text: str, longest: int = 40) -> str:
    """Text: names with an index and k as math; long words (commands, paths) may be broken at their signs.

    Args:
        text: to print.
        longest: letters and digits without a break; more of them (a digest) may be broken anywhere.
    """

    def breakable(match: re.Match[str]) -> str:
        word = re.sub(r"(?<=[,=/_:.\-])(?=\w)", "\0", match[0])
        return re.sub(rf"\w{{{longest}}}(?=\w)", lambda part: f"{part[0]}\0", word)

    made = escape_latex(re.sub(r"\S{16,}", breakable, text)).replace("\0", r"\allowbreak ")
    made = re.sub(r"\b([LMST])\\_([A-Za-z0-9]+)", r"$\1_{\\mathrm{\2}}$", made)
    return re.sub(r"(?<![\w$])k( ?)=( ?)(\d+)", r"$k = \3$", made)


_SIGNS = {
    "|": r"\textbar{}",
    '"': "''",
    "±": r"\ensuremath{\pm}",
    "≥": r"\ensuremath{\ge}",
    "≤": r"\ensuremath{\le}",
    "×": r"\ensuremath{\times}",
    "−": r"\ensuremath{-}",
    "Δ": r"\ensuremath{\Delta}",
    "∈": r"\ensuremath{\in}",
    "…": r"\ldots{}",
    "–": "--",
    "—": "---",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
}


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it: one pass, so that no escape is escaped again. A sign that pdfTeX lacks becomes `?`."""
    from tabulate import LATEX_ESCAPE_RULES

    rules = {**LATEX_ESCAPE_RULES, **_SIGNS}
    return "".join(rules.get(sign, sign if _is_known(sign) else "?") for sign in text)


def _is_known(sign: str) -> bool:
    """ASCII, and Latin letters with an accent."""
    return sign.isascii() or (ord(sign) < 0x180 and unicodedata.normalize("NFD", sign)[0].isascii())


# ----------------------------------------------------------------------------------------------------------------
# Widths


_WIDTHS = {
    "ijl .,:;!'`|[]": 2.4,
    "ft()-/Irs": 3.4,
    "cez": 3.8,
    "0123456789": 4.3,
    "agkoqvxy?$*": 4.5,
    'bdhnpu#{}J"~^': 4.75,
    "ABCDEFGHKLNOPQRSTUVXYZwm&+=<>": 6.9,
    "MW%@": 8.8,
}
"""The width in points of signs at 8 pt, or somewhat more (cmr8.tfm)."""

_WIDTH = {sign: width for signs, width in _WIDTHS.items() for sign in signs}


def text_width(text: str) -> float:
    """About the width of a cell as it is printed, in points."""
    return sum(_WIDTH.get(sign, 6.9) for sign in text)
