"""How a table looks in each place where it is read."""

from llmbench.report.layout import Table, escape_latex

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


def test_latex_is_a_booktabs_table_with_everything_escaped() -> None:
    text = TABLE.latex("tab:speed")
    assert r"\caption{Speed \& cost}" in text
    assert r"\label{tab:speed}" in text
    assert r"\begin{tabular}{lrr}" in text
    assert "\\toprule & L\\_e2e ms [95 \\%] & a|b \\\\ \\midrule llama & 1.20 [1.0, 1.4] & - \\\\" in " ".join(
        text.split()
    )
    assert r"5 \% of 3\_000 \\ CPU; torch 2.13" in text
    assert text.count(r"\begin{") == text.count(r"\end{")


def test_no_escape_is_escaped_again_in_cells_and_in_the_text_around_them() -> None:
    escaped = r"\textbackslash{}\{\}\textasciitilde{}\^{}\ensuremath{<}\ensuremath{>}\&\%\$\#\_"
    assert escape_latex("\\{}~^<>&%$#_") == escaped
    assert escaped in Table(title="", header=("",), rows=(("\\{}~^<>&%$#_",),)).latex()
