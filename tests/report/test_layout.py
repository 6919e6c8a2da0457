"""How a table looks in each place where it is read."""

import json

from llmbench.report.layout import Quantity, Table, tables_json

TABLE = Table(
    title="Speed & cost",
    header=("", "L_e2e ms [95 %]", "a|b"),
    rows=(("llama", "1.20 [1.0, 1.4]", "-"), ("llada k=8", "10", "3")),
    notes=("5 % of 3_000",),
    provenance="CPU; torch 2.13",
)


def test_text_keeps_digits_as_they_are_and_aligns_numbers_right() -> None:
    lines = TABLE.text().splitlines()
    assert lines[0] == "Speed & cost"
    assert lines[4].split() == ["llama", "1.20", "[1.0,", "1.4]", "-"]
    assert lines[5].endswith("  3")
    assert lines[-2:] == ["5 % of 3_000", "CPU; torch 2.13"]


def test_markdown_escapes_the_column_sign() -> None:
    lines = TABLE.markdown().splitlines()
    assert [" ".join(line.split()) for line in (lines[2], *lines[4:6])] == [
        "| | L_e2e ms [95 %] | a\\|b |",
        "| llama | 1.20 [1.0, 1.4] | - |",
        "| llada k=8 | 10 | 3 |",
    ]
    assert [column.strip("-") for column in lines[3].split("|")[1:-1]] == [":", ":", ":"]
    assert lines[3].count("-:|") == 2  # numbers to the right
    assert lines[-1] == "<sub>CPU; torch 2.13</sub>"


def test_csv_has_the_values_behind_the_digits_and_an_interval_in_columns_of_its_own() -> None:
    time = Quantity("1.20 [1.00, 1.40]", 1.2034, 1.0012, 1.3999)
    rows = (("llama", time, Quantity("16.3", 16.31415)), ("llada k=8", Quantity("2.00", 2.0), "-"))
    table = Table(title="", header=("", "L_e2e ms [95 %]", "perplexity"), rows=rows)
    assert table.csv().splitlines() == [
        ',L_e2e ms,"L_e2e ms, low","L_e2e ms, high",perplexity',
        "llama,1.2034,1.0012,1.3999,16.31415",
        "llada k=8,2.0,,,",
    ]
    first, second = json.loads(tables_json([table]))[0]["rows"]
    assert first["L_e2e ms"] == {"value": 1.2034, "low": 1.0012, "high": 1.3999}
    assert second == {"": "llada k=8", "L_e2e ms": 2.0}  # what is absent is left out
