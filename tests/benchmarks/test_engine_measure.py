"""What a row keeps when one of its parts fails, and what a run that is cut off leaves."""

import json

import pytest

from benchmarks.engine import __main__ as command
from benchmarks.engine import cases, floor, measure, turns
from llmbench.config.job import HardwareConfig

CPU = HardwareConfig(device="cpu", dtype="float32", engine="eager")


def test_the_failure_of_another_loop_leaves_the_row_its_own_times(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no\n  compiler")

    monkeypatch.setattr(measure.TransformersDecoder, "generate", broken)
    (row,) = measure.run({"ar-8"}, CPU, smoke=True, compile=True, say=lambda _: None)
    assert row.failed is None
    assert row.missing == {cases.EAGER: "RuntimeError: no compiler"}
    assert len(row.samples[cases.OURS]) == len(row.samples[cases.FLOOR]) > 0


def test_whole_generations_are_paired():
    rows = {
        row.name: row
        for row in measure.run({"dual-whole-1", "ar-whole-1"}, CPU, smoke=True, compile=True, say=lambda _: None)
    }
    dual, ar = rows["dual-whole-1"], rows["ar-whole-1"]
    assert len(dual.samples[cases.OURS]) == len(dual.samples[cases.OFFICIAL]) == 6
    assert len(ar.samples[cases.OURS]) == len(ar.prefill_ms) == len(ar.samples["inter-token"]) == 3


def test_the_floor_of_rows_in_blocks_has_the_positions_and_heads_of_what_is_timed(monkeypatch):
    asked, real = [], floor.capture

    def capture(engine, rows, heads):
        asked.append((rows, heads))
        return real(engine, rows, heads)

    monkeypatch.setattr(floor, "capture", capture)
    rows = list(measure.run({"block-8", "commit-8"}, CPU, smoke=True, compile=True, say=lambda _: None))
    # 8 rows of a block of 8; its 4 steps have the head at 7, 5, 3 and 1 masks, a commit at the last token
    assert asked == [(64, 8 * 4), (64, 8)]
    assert [row.failed for row in rows] == [None, None]
    assert all(len(row.samples[cases.OURS]) == len(row.samples[cases.FLOOR]) > 0 for row in rows)


def test_a_run_that_is_cut_off_leaves_the_rows_that_it_had(monkeypatch, tmp_path):
    def cut(*_, **__):
        yield turns.Row(name="ar-1", samples={cases.OURS: [1.0], cases.FLOOR: [1.0]})
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.glob("*.json")
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["ar-1"]


def test_samples_of_a_long_burst_are_means_over_many_steps():
    assert turns.means([1.0, 2.0, 3.0, 4.0, 8.0], 2) == [1.5, 5.0]  # the odd one joins, and nothing is left out
    assert turns.means([1.0, 2.0], 5) == [1.5]
    assert turns.means([1.0, 2.0], 1) == [1.0, 2.0]
