"""The endings of a job and of a sweep: readable numbers, where things lie, and outputs that the canvas cut off."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record
from llmbench.report.assemble import SweepReport
from llmbench.sweeps import console
from llmbench.sweeps.card import card, fitted
from llmbench.sweeps.conclusion import conclude
from llmbench.system.output import Level
from records import make_record, make_sweep

PATH = Path("multirun/now/record.json")


def test_a_single_job_ends_in_numbers_with_units_and_where_to_look():
    record = make_record("llada", 8, e2e_ms=100.0, perplexity=40.0)
    said = console.job_ending(record, PATH, ["Its run: `make ui`"], "python -m llmbench model=llada")
    cells = {tuple(line.split("  ")[0::1]) for line in said.splitlines()}
    rows = {parts[0].strip(): parts[-1].strip() for parts in cells}
    assert rows["RSS MiB"] == "900"  # 900 * 2**20 bytes
    assert rows["perplexity"] == "40.0 (human 25.0, floor 400)"
    assert rows["forwards"] == "8"
    assert "L_itl ms" not in said  # no such time in a diffusion model
    assert "Test CPU (cpu, float32, eager, 1 thread)" in said
    assert "python -m llmbench model=llada" in said
    assert said.endswith(f"Record: {PATH}\nIts run: `make ui`")


def test_a_failed_job_shows_no_table():
    said = console.job_ending(make_record(status="failed", reason="too hot"), PATH, [], "")
    assert said == f"\nRecord: {PATH}"


def test_outputs_that_fill_the_canvas_are_said_and_those_that_were_told_to_are_not():
    record = make_record("llada", 8, prompts=8, canvas=64)  # every second output stopped
    assert console.cut_off([("llada k=8", record)]) == [
        "4 of 8 outputs fill the canvas of 64 tokens: cut off there, not ended by the model"
    ]
    ended = replace(record, outputs=tuple(replace(output, stopped=True) for output in record.outputs))
    dummy = make_record("llada", 8, conditions={"weights": "dummy"})
    llama = make_record("llama")
    decoder = llama.config["model"]["decoder"] | {"ignore_stop": True}
    endless = replace(llama, config=llama.config | {"model": llama.config["model"] | {"decoder": decoder}})
    for other in (ended, dummy, endless):
        assert console.cut_off([("it", other)]) == []
    last = console.closing([("a", record), ("b", ended)], 3, 3.0, [], Path("here"))
    assert last == "2 of 3 jobs finished in 3 s. Records: here"
    jobs = [("a", record), ("b", ended)]
    said = console.ending((), SweepReport(text="NONE", note="", files={}), jobs, [("c", "too hot")], [last, "there"])
    assert "Outputs: a 4 of 8 fill the canvas of 64 tokens" in said
    assert said.endswith(f"NONE\n\nFAILED c: too hot\n{last}\nthere")


@pytest.fixture(scope="module")
def concluded() -> tuple[tuple[Parity, ...], SweepReport, list[tuple[str, Record]]]:
    records = make_sweep()
    reached, made = conclude(records, options=None, history=(), recipe="", command="llmbench -m ...")
    return reached, made, [(record.label, record) for record in records]


LINES = ["Verdict", "Speed", "Estimate", "For", "Next"]


def test_a_verdict_is_five_lines_that_a_terminal_of_120_columns_holds(concluded):
    (verdict,), _, _ = concluded
    said = card(verdict).splitlines()
    assert [line.split()[0] for line in said] == LINES
    assert "REACHED" in said[0]
    assert "margin 0.1 nats per token" in said[0]
    assert "entropy" in said[2]
    narrow = card(verdict, 60).splitlines()
    assert max(map(len, narrow)) <= 60
    assert [line.split()[0] for line in narrow if line[0] != " "] == LINES
    assert " ".join(" ".join(narrow).split()) == " ".join(" ".join(said).split())  # nothing is cut


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_table_is_as_wide_as_the_terminal_and_keeps_what_matters_first(concluded, width):
    _, made, _ = concluded
    table = made.tables[0]
    shown = fitted(table, width)
    assert max(map(len, shown.splitlines())) <= width
    for row in table.rows:
        assert any(line.startswith(row[0]) for line in shown.splitlines())
    cells = dict(zip(table.header, table.rows[1], strict=True))
    assert cells["L_e2e ms [95 %]"] in shown
    assert width < 80 or cells["perplexity"] in shown
    left_out = [head for head in table.header[1:] if head in shown.rpartition("too few")[2]]
    whole = fitted(table, width, whole=True)
    assert max(map(len, whole.splitlines())) <= width
    for head in left_out:
        assert cells[head] in whole


def test_without_a_width_the_table_stands_in_one_piece(concluded):
    _, made, _ = concluded
    lines = fitted(made.tables[0], None).splitlines()
    assert len(lines) == 2 + len(made.tables[0].rows)


def test_quiet_is_the_verdict_and_what_failed_and_verbose_has_the_tests(concluded):
    reached, made, jobs = concluded

    def said(level: Level) -> str:
        return console.ending(reached, made, jobs, [("c", "too hot")], ["here"], level=level)

    assert said(Level.QUIET) == f"{card(reached[0])}\nFAILED c: too hot"
    tests = made.tables[1].title
    assert tests not in said(Level.NORMAL)
    assert tests in said(Level.VERBOSE)
    assert said(Level.NORMAL).endswith("FAILED c: too hot\nhere")
