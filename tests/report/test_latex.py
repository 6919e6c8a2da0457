"""Tables as LaTeX prints them: what stands where, and that nothing is wider than its place."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.report.assemble import RECIPES, recipe_tables
from llmbench.report.latex import cell_latex, escape_latex, latex, pieces, prose_latex, text_width
from llmbench.report.layout import Quantity, Table
from records import make_sweep

TABLE = Table(
    title="Speed & cost",
    header=("", "L_e2e ms [95 %]", "a|b"),
    rows=(("llama", "1.20 [1.0, 1.4]", "-"), ("llada k=8", "10", "3")),
    notes=("5 % of 3_000",),
    provenance="CPU; torch 2.13",
)


def body(text: str) -> list[str]:
    """The rows of every table."""
    return [row for part in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.DOTALL) for row in part.splitlines()]


def columns(text: str) -> list[int]:
    """How many columns each table has."""
    return [len(row.split(" & ")) for row in re.findall(r"\\toprule\n(.*?) \\\\\n\\midrule", text)]


def test_numbers_are_math_absent_values_dashes_and_everything_is_escaped() -> None:
    text = latex(TABLE, "tab:speed")
    assert body(text) == [r"LLaMA & $1.20\ [1.0,\,1.4]$ & -- \\", r"LLaDA $k = 8$ & $10$ & $3$ \\"]
    for part in (r"\caption{Speed \& cost}", r"\label{tab:speed}", r"$L_{\mathrm{e2e}}$ \\ (ms)", r"a\textbar{}b"):
        assert part in text
    for note in ("Brackets: 95 \\% intervals.", r"5 \% of 3\_000", "CPU; torch 2.13"):
        assert f"\\item {note}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")


def test_a_cell_keeps_its_sign_and_a_ratio_loses_its_x() -> None:
    assert cell_latex("-0.12 [-0.20, +0.01]") == r"$-0.12\ [-0.20,\,+0.01]$"
    assert cell_latex("0.16x [0.15, 0.17]") == r"$0.16\ [0.15,\,0.17]$"
    assert cell_latex("14%") == r"$14\,\%$"
    assert cell_latex("0.03 (not judged)") == "0.03 (not judged)"


def test_no_escape_is_escaped_again_in_cells_and_in_the_text_around_them() -> None:
    escaped = r"\textbackslash{}\{\}\textasciitilde{}\^{}\ensuremath{<}\ensuremath{>}\&\%\$\#\_"
    assert escape_latex("\\{}~^<>&%$#_") == escaped
    assert escaped in latex(Table(title="", header=("",), rows=(("\\{}~^<>&%$#_",),)))
    assert escape_latex("é ± 你") == r"é \ensuremath{\pm} ?"  # pdfTeX knows no Chinese


def test_long_words_may_be_broken_and_names_with_an_index_are_math() -> None:
    said = prose_latex("S_parity at k = 8; model=llama,llada,transformers/static")
    assert said.startswith(r"$S_{\mathrm{parity}}$ at $k = 8$; ")
    assert r"llama,\allowbreak llada" in said


def wide(columns: int = 12, rows: int = 3, text: str = "123.4 [120.1, 126.8]") -> Table:
    header = ("", *(f"name {place}" for place in range(1, columns)))
    made = tuple((f"llada k={row}", *(Quantity(text, 123.4, 120.1, 126.8) for _ in header[1:])) for row in range(rows))
    return Table(title="Wide", header=header, rows=made, main=("name 11", "name 2"), notes=("read this",), lead=("so",))


def test_the_main_table_has_the_chosen_columns_and_every_other_one_is_in_a_further_table() -> None:
    main, rest = pieces(wide(), "tab:wide")
    assert re.findall(r"name \d+", main) == ["name 11", "name 2"]
    others = [int(name) for name in re.findall(r"name (\d+)", "".join(rest))]
    assert others == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert all(r"LLaDA $k = 2$" in part for part in rest)  # each names its rows
    assert [part.count(r"\label{tab:wide-") for part in rest] == [1] * len(rest)
    assert (main.count("item so"), main.count("item read"), rest[0].count("item read")) == (1, 0, 1)


def test_a_table_that_chooses_nothing_has_its_first_columns_first_and_at_most_six() -> None:
    narrow = Table(title="", header=tuple("abcdefghi"), rows=(tuple("123456789"),))
    main, rest = pieces(narrow)
    assert columns(main) == [6]
    assert columns("".join(rest)) == [4]  # the first names the row


def test_a_long_table_goes_on_in_another_one() -> None:
    main, rest = pieces(wide(columns=3, rows=90))
    assert [len(body(part)) for part in (main, *rest)][:3] == [40, 40, 10]


def test_what_is_the_same_in_every_row_is_a_note() -> None:
    table = Table(title="", header=("", "L", "batch"), rows=(("a", "1", "4"), ("b", "2", "4")), main=("L",))
    (text,) = [latex(table)]
    assert columns(text) == [2]
    assert r"\item In every row: batch 4." in text


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_main_table_has_more_than_six_columns_or_is_wider_than_a_page(recipe: str) -> None:
    records = make_sweep()
    for table in recipe_tables(records, verdicts(records), recipe, "python -m llmbench -m model=llama,llada"):
        main, rest = pieces(table)
        assert max(columns(main)) <= 6
        for part in (main, *rest):
            cells = [row.removesuffix(r" \\").split(" & ") for row in body(part)]
            printed = [[re.sub(r"\\[a-z]+|[${}\\]", "", cell) for cell in row] for row in cells]
            assert sum(min(max(map(text_width, column)), 110) for column in zip(*printed, strict=True)) <= 345


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_tex_finds_nothing_too_wide(columns: str, tmp_path: Path) -> None:
    records = make_sweep()
    made = [table for name in RECIPES for table in recipe_tables(records, verdicts(records), name, "x" * 60)]
    text = "\n\\clearpage\n".join(
        latex(table) for table in (*made, wide(), wide(text="a sentence of twelve words " * 6))
    )
    packages = r"\usepackage[letterpaper,textwidth=6.9in,columnsep=0.3in]{geometry}" if columns == "twocolumn" else ""
    packages += r"\usepackage{booktabs,threeparttable,array}"
    (tmp_path / "t.tex").write_text(
        rf"\documentclass[10pt,{columns}]{{article}}{packages}\begin{{document}}{text}\end{{document}}"
    )
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True)
    log = (tmp_path / "t.log").read_text(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull" not in log
