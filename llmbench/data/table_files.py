"""The rows of a JSON, CSV or TSV file, every value as the file says it.

The `datasets` library guesses a type for each column: it reads "2024-01-01" as a time and "007" as 7.
"""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.data import texts
from llmbench.errors import WorkloadError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A file of rows."""

    column_names: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]  # a field that a row lacks is not in it


def read(path: Path) -> TableFile:
    """All rows of a file, by its name: one object a line or an array of objects, or a table whose first row names it.

    Raises:
        WorkloadError: one line that names the file, and the line or the row.
    """
    text = texts.read_utf8(path, "workload.source")
    kind = texts.suffix(path)
    rows = _table(text, path, "\t" if kind == ".tsv" else ",") if kind in (".csv", ".tsv") else _objects(text, path)
    if not rows:
        raise WorkloadError(f"workload.source: {path} has no rows")
    return TableFile(column_names=tuple(dict.fromkeys(key for row in rows for key in row)), rows=tuple(rows))


def _objects(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        if text.lstrip().startswith("["):
            place, found = "item", list(enumerate(texts.parse_json(text), start=1))
        else:
            place, found = "line", list(texts.json_lines(text))
    except ValueError as error:
        raise WorkloadError(f"{path}, {error}") from error
    for number, row in found:
        if not isinstance(row, dict):
            raise WorkloadError(f"{path}, {place} {number}: {type(row).__name__} instead of an object")
    return [row for _, row in found]


def _table(text: str, path: Path, delimiter: str) -> list[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[dict[str, Any]] = []
    try:
        names = next(lines, [])
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise WorkloadError(f"{path}: two columns are called {twice[0]!r}; rename one")
        for values in lines:
            if len(values) > len(names):
                raise WorkloadError(
                    f"{path}, line {lines.line_num}: {len(values)} values for {len(names)} columns; put a value that "
                    f"holds {delimiter!r} between double quotes"
                )
            if values:
                rows.append(dict(zip(names, values, strict=False)))
    except csv.Error as error:
        raise WorkloadError(f"{path}, line {lines.line_num}: not CSV: {error}") from error
    return rows
