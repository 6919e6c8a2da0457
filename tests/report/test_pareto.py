"""The plane of speeds as people see it."""

from dataclasses import replace

from llmbench.analysis.pareto import planes
from llmbench.analysis.parity.analyze import verdicts
from llmbench.record import Record
from llmbench.report.assemble import pareto_files
from llmbench.report.pareto import SPEED_ONLY, pareto_figure, pareto_tables
from records import implementation, make_record, make_sweep, server_record, with_curve


def sweep() -> list[Record]:
    """The main job, its baseline with drafts, and a server elsewhere."""
    whole = with_curve(make_sweep())
    return [*whole, implementation("autoregressive", 100.0, draft="lookup"), server_record(5.0)]


def test_quality_the_verdict_and_the_price_stand_in_the_row_of_each_point() -> None:
    records = sweep()
    table, apart = pareto_tables(records, planes(records, verdicts(records), 2.0), "as typed", "From sweep x")
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(rows) == [
        "LLaMA plain, our engine", "LLaMA with prompt lookup, our engine", *(f"LLaDA k={k}" for k in (8, 16, 32, 64)),
    ]  # fmt: skip
    fast, best = rows["LLaDA k=8"], rows["LLaDA k=64"]
    assert (fast["perplexity"], fast["parity"], fast["on the frontier of"]) == ("80.0", "not reached", "tokens, bytes")
    assert (best["perplexity"], best["parity"], best["on the frontier of"]) == ("30.0", "reached", "-")
    # two batches of 80 tokens in 100 and, once, 100.16 ms
    lookup = rows["LLaMA with prompt lookup, our engine"]
    assert (lookup["tokens/s per user"], lookup["tokens/s per device"]) == ("200", "799")
    assert lookup["price of 1M tokens"] == "0.695"  # 2 / 3600 / 799.4 * 1e6
    assert "J/token" not in table.header
    assert SPEED_ONLY in table.notes[0]
    assert "From sweep x." in table.notes
    assert [row[0] for row in apart.rows] == ["LLaMA through vllm 0.11"]
    assert not {"on the frontier of", "price of 1M tokens", "parity"} & {*apart.header}


def test_the_figure_joins_batches_and_tells_the_frontier_and_what_was_judged_worse() -> None:
    records = [r for batch in (2, 4) for r in with_curve(make_sweep((8, 32), batch=batch))]
    (plane,) = planes(records, verdicts(records))
    figure = pareto_figure(plane, "From sweep x")
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("tokens/s per user", "bytes/s per user")
    assert left.get_title(loc="left").startswith("From sweep x\n")
    assert [text.get_text() for text in left.texts] == ["2", "4"] * 3
    joined = [line for line in left.lines if line.get_alpha() == 0.5]
    assert [len(line.get_xdata()) for line in joined] == [2, 2, 2]
    hollow = [dots for dots in left.collections if tuple(dots.get_facecolor()[0][:3]) == (1.0, 1.0, 1.0)]
    dark = [dots for dots in left.collections if tuple(dots.get_edgecolor()[0][:3]) == (0.0, 0.0, 0.0)]
    assert len(hollow) == 2  # k = 8 at both batch sizes
    assert len(dark) == len(plane.on["tokens"]) < 6
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "LLaMA plain, our engine: perplexity 45.0", "LLaDA k=8: perplexity 80.0", "LLaDA k=32: perplexity 40.0",
        "frontier", "hollow: parity not reached",
    ]  # fmt: skip


def test_without_text_there_is_one_panel_and_without_points_no_picture() -> None:
    noise = [
        replace(r, timings=tuple(replace(t, utf8_bytes=None) for t in r.timings)) for r in make_sweep(perplexity=None)
    ]
    assert len(pareto_figure(planes(noise)[0]).axes) == 1
    assert "bytes/s per user" not in pareto_tables(noise, planes(noise))[0].header
    made, files = pareto_files([server_record(5.0)], (), "")
    assert ([len(table.rows) for table in made], [*files]) == ([1], ["pareto.json"])
    several = [*make_sweep(canvas=64), *make_sweep(canvas=32)]
    assert [*pareto_files(several, (), "")[1]] == ["pareto.json", "pareto_1.png", "pareto_2.png"]
    assert pareto_files([make_record(status="failed", reason="x")], (), "") == ([], {})
