"""What a person reads first of a sweep: five lines for a verdict, and a table as wide as the terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from llmbench.analysis.formats import counted, listed, number
from llmbench.analysis.parity import sentences
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Speed, Status
from llmbench.report.layout import Table
from llmbench.system.terminal import coloured

_COLOURS = {Status.REACHED: "bold green", Status.NOT_REACHED: "bold red"}
_OTHER = "bold yellow"
_NAME = 9
"""Columns of a line's name."""


def card(verdict: Parity, width: int | None = None) -> str:
    """Verdict, speed, point estimate, conditions, what to do next: a line each, or fewer where something is absent.

    Args:
        verdict: of one group of settings.
        width: of the terminal; a longer line goes on below, indented. None: it does not.
    """
    status = verdict.status.value.replace("_", " ").upper()
    lines = (
        ("Verdict", f"{status}: {_result(verdict)}"),
        ("Speed", _speed(verdict)),
        ("Estimate", _estimate(verdict)),
        ("For", _conditions(verdict)),
        ("Next", sentences.next_step(verdict)),
    )
    said = "\n".join(_line(name, text, width) for name, text in lines if text)
    return said.replace(status, coloured(status, _COLOURS.get(verdict.status, _OTHER)), 1)


def _line(name: str, text: str, width: int | None) -> str:
    first = f"{name:<{_NAME}}"
    if width is None:
        return first + text
    made = textwrap.wrap(
        text,
        max(width, _NAME + 20),
        initial_indent=first,
        subsequent_indent=" " * _NAME,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(made)


def _result(verdict: Parity) -> str:
    """What may be claimed, with the margin; which k are not judged."""
    head = verdict.head
    if head is None:
        return sentences.result(verdict).rstrip(".")
    said = sentences.undecided(verdict, head) if head.status is Status.UNDECIDED else sentences.title(verdict)
    if head.status is Status.REACHED and head.documents < sentences.FEW_DOCUMENTS:
        few = f"with fewer than {sentences.FEW_DOCUMENTS} the error is larger"
        said += f"; it rests on {counted(head.documents, 'document')}, {few}"
    if head.not_judged:
        said += f"; not judged: k = {listed(head.not_judged)}"
    return said


def _speed(verdict: Parity) -> str:
    """The ratio at the k that counts, against what, and whether it is one at parity."""
    if not verdict.speedups:
        return ""
    right, head = verdict.names[1], verdict.head
    passing = [item for item in verdict.speedups if head is not None and item.steps in head.passing]
    against = sentences.baseline_name(verdict)
    beside = f" (against {against})" if against else ""
    if not passing:
        shown = verdict.speedup(max(verdict.steps)) or verdict.speedups[-1]
        none = "; no k passes, so this is no speedup at parity" if head is not None else ""
        return f"{right} is {sentences.ratio(shown)} at k = {shown.steps}{beside}{none}"
    best = max(passing, key=lambda item: item.ratio)
    return f"{_SPEEDS.get(verdict.speed, 'open')}: {right} is {sentences.ratio(best)} at k = {best.steps}{beside}"


_SPEEDS = {Speed.VIABLE: "viable", Speed.INEFFICIENT: "inefficient"}


def _estimate(verdict: Parity) -> str:
    """The point estimate, with the diversity of both sides."""
    if verdict.head is None:
        return ""
    head, curve = verdict.head, verdict.curve("quality/entropy")
    said = sentences.estimate(verdict, head)
    if curve is None or head.curve.baseline is None or not head.curve.values:
        return said
    own, theirs = curve.at(sentences.best_k(head)), curve.baseline
    return said if own is None or theirs is None else f"{said}; entropy {number(own)} against {number(theirs)}"


def _conditions(verdict: Parity) -> str:
    own, parts = verdict.conditions, [verdict.where]
    if verdict.head and own.judge:
        parts.append(f"judges {own.judge} and {own.second_judge}" if own.second_judge else f"one judge ({own.judge})")
    return "; ".join([*parts, *([sentences.error(verdict)] if verdict.head and verdict.unplanned else [])])


# ----------------------------------------------------------------------------------------------------------------

FIRST = (
    *("L_e2e ms [95 %]", "speedup [95 %]", "perplexity", "entropy", "tokens/s", "BERTScore F1", "accuracy"),
    *("first text ms", "R(B)", "M_peak MiB", "bytes/s"),
)
"""Columns that are kept where not all fit, the first of them longest."""

_GAP = 2


def fitted(table: Table, width: int | None, *, whole: bool = False) -> str:
    """The title and body of a table within a terminal's width; which columns did not fit stands below.

    Args:
        table: rows of text, the first column names them.
        width: None: there is no limit.
        whole: show the columns that did not fit in further tables below the first.
    """
    if width is None or _width(table) <= width:
        return _body(table)
    broken = replace(table, header=tuple(_broken(column) for column in _columns(table)))
    parts, left = [], list(range(1, len(table.header)))
    while left:
        chosen = _chosen(broken, left, width)
        parts.append(_body(_only(broken, chosen)))
        left = [place for place in left if place not in chosen]
        if left and not whole:
            names = ", ".join(table.header[place] for place in left)
            note = f"{counted(len(left), 'more column')}, for which {width} characters are too few: {names}"
            parts.append(textwrap.fill(note, width))
            break
    return "\n\n".join(parts)


def _columns(table: Table) -> list[tuple[str, ...]]:
    return [(head, *(row[place] for row in table.rows)) for place, head in enumerate(table.header)]


def _longest(column: Sequence[str]) -> int:
    """Characters that tabulate gives a column: two more than its header needs."""
    head, *cells = column
    return max(*(len(line) + _GAP for line in head.split("\n")), *map(len, cells), 0)


def _width(table: Table) -> int:
    return sum(_longest(column) for column in _columns(table)) + _GAP * (len(table.header) - 1)


def _broken(column: Sequence[str]) -> str:
    """A header over several lines, as wide as the cells below or its longest word."""
    head, *cells = column
    words = head.replace(" [95 %]", " [95\u00a0%]").split(" ")
    width = max(*(len(cell) - _GAP for cell in cells), *map(len, words))
    lines: list[str] = []
    line = words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) <= width:
            line += f" {word}"
        else:
            lines, line = [*lines, line], word
    return "\n".join([*lines, line]).replace("\u00a0", " ")


def _chosen(table: Table, left: Sequence[int], width: int) -> list[int]:
    """Places of the columns that fit beside the first, in the table's order; one at least."""
    names = [" ".join(head.split("\n")) for head in table.header]
    wanted = sorted(left, key=lambda place: FIRST.index(names[place]) if names[place] in FIRST else len(FIRST))
    columns = _columns(table)
    found, used = [wanted[0]], _longest(columns[0]) + _GAP + _longest(columns[wanted[0]])
    for place in wanted[1:]:
        more = _GAP + _longest(columns[place])
        if used + more > width:
            break
        found, used = [*found, place], used + more
    return sorted(found)


def _only(table: Table, places: Sequence[int]) -> Table:
    kept = (0, *places)
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return replace(table, header=tuple(table.header[place] for place in kept), rows=rows)


def _body(table: Table) -> str:
    from tabulate import tabulate

    align = ("left", *("right",) * (len(table.header) - 1))
    rule = tabulate(table.rows, headers=table.header, tablefmt="simple", disable_numparse=True, colalign=align)
    return "\n".join(line.rstrip() for line in rule.splitlines())
