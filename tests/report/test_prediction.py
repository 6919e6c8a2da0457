"""The map of predicted speedups as people see it."""

import tomllib
from pathlib import Path

import mdformat

from llmbench.analysis.bench_pages import read_pages
from llmbench.analysis.prediction import Model, Prediction, predict
from llmbench.analysis.prediction_map import Line, Place, Point, SpeedMap, speed_map
from llmbench.record import Ceilings
from llmbench.report.prediction import map_figure, map_tables, prediction_files, prediction_tables

MODEL = Model(flops_efficiency=0.8, bytes_efficiency=0.9, forward_ms=0.5, overlap=2.0)


def a_map() -> SpeedMap:
    ceilings = Ceilings(flops_per_s=8e14, bytes_per_s=4e12, last_level_cache_bytes=None, judged=True)
    place = Place(
        device="GPU",
        ceilings=ceilings,
        measured_lengths=True,
        prompt=8,
        canvas=32,
        block=8,
        batches=(1, 8),
        steps=(4, 16),
    )

    def line(cache: str, batch: int, baseline_ms: float, times: dict[int, float], measured: bool) -> Line:
        speedups = {k: baseline_ms / ms for k, ms in times.items()}
        name = "vLLM" if measured else None
        return Line(
            batch=batch, cache=cache, baseline_ms=baseline_ms, implementation=name, extrapolated=not measured,  # type: ignore[arg-type]
            diffusion_ms=times, speedups=speedups,
        )  # fmt: skip

    lines = [
        made
        for cache in ("none", "dual")
        for made in (
            line(cache, 1, 100.0, {4: 25.0, 16: 80.0}, True),
            line(cache, 8, 90.0, {4: 180.0, 16: 900.0}, False),
        )
    ]
    points = (
        Point(batch=1, steps=16, cache="none", speedup=1.3, predicted=1.25, whole=True),
        Point(batch=1, steps=16, cache="dual", speedup=1.2, predicted=1.25, whole=False),
    )
    return SpeedMap(place=place, measured_steps=16, lines=tuple(lines), points=points)


def test_the_table_names_the_baseline_and_marks_what_is_extrapolated() -> None:
    plain, dual, measured = map_tables(a_map(), "From a page")
    assert plain.header == ("batch", "baseline, ms", "k = 4", "k = 16", "faster up to k")
    assert plain.rows == dual.rows
    assert plain.rows == (
        ("1", "100.0 (vLLM)", "4.00", "1.25", "16"), ("8*", "90.00 (predicted)", "0.500", "0.100", "-"),
    )  # fmt: skip
    assert [row[3:] for row in measured.rows] == [
        ("1.30", "1.25", "whole generation"), ("1.20", "1.25", "sum of measured steps"),
    ]  # fmt: skip


def test_the_figure_hatches_what_is_extrapolated_and_shows_what_was_measured() -> None:
    left, right, _ = map_figure(a_map()).axes
    for axes in (left, right):
        assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "8*"]
        assert [(patch.get_y(), patch.get_hatch()) for patch in axes.patches] == [(0.5, "///")]
        assert len(axes.lines) == 1
        assert {"4.00", "1.25", "0.500", "0.100"} < {text.get_text() for text in axes.texts}
    assert (left.lines[0].get_markerfacecolor(), right.lines[0].get_markerfacecolor()) == ("black", "none")
    assert {text.get_text() for text in left.texts} - {text.get_text() for text in right.texts} == {"1.30"}


def test_without_rows_held_out_there_are_no_errors_to_show() -> None:
    found = Prediction(device="GPU", batches=(1, 32), model=MODEL, fitted=(), held_out=())
    fitted, errors = prediction_tables(found, "From a page", ["x is left out."])
    assert dict(fitted.rows)["p, overlap of both"] == "2.00"
    assert "x is left out." in fitted.notes
    assert errors.rows == ()


def test_the_page_in_docs_is_what_the_kept_pages_give() -> None:
    """`llmbench report prediction --pages docs/results` prints what docs/prediction.md shows."""
    root = Path(__file__).parents[2]
    docs, style = root / "docs", tomllib.loads((root / ".mdformat.toml").read_text())
    pages = read_pages(docs / "results")
    found = predict(pages.rows, (1, 32))
    tables, _, _ = prediction_files(found, "", pages.notes, speed_map(found.model, pages, found.device))
    shown = (docs / "prediction.md").read_text()
    assert len(tables) == 5
    for table in tables:
        kept = mdformat.text(table.markdown(), options=style, extensions={"gfm"})
        assert kept.strip() in shown, table.title
