"""What the pictures show, checked on what is drawn rather than on pixels."""

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.worlds import TEMPERATURES
from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Place, Status
from llmbench.record import Record
from llmbench.report import figures
from llmbench.report.plane import Plane, draw_plane, place_labels, plane
from llmbench.report.print_figures import reproducible
from records import implementation, make_record, make_sweep


@pytest.fixture(scope="module")
def tested(studied: tuple[list[Record], Parity]) -> Plane:
    verdict = studied[1]
    assert verdict.head is not None
    found = plane(verdict, verdict.head)
    assert found is not None
    return found


def panels(records: list[Record], **changes: Any) -> dict[str, figures.Panel]:
    made = figures.panels(records, replace(parity(records), **changes))
    return {panel.title: panel for panel in made if isinstance(panel, figures.Panel)}


def test_quality_the_test_and_time_stand_side_by_side() -> None:
    records = make_sweep()
    assert [type(panel) for panel in figures.panels(records, parity(records))][::2] == [figures.Panel] * 2
    quality, time = panels(records).values()
    assert dict(quality.points) == pytest.approx({8: 80, 16: 60, 32: 40, 64: 30})
    assert quality.baseline == pytest.approx(45)
    assert "lower is better" in quality.unit
    assert time.labels == ("2.50x", "1.25x", "0.625x", "0.312x")
    assert time.bars[0] == (records[1].metrics["latency/e2e_ms_ci_low"], records[1].metrics["latency/e2e_ms_ci_high"])
    assert list(panels(make_sweep(perplexity=None))) == [time.title]


def test_the_time_of_the_baseline_bears_the_name_of_its_implementation_where_there_was_a_choice() -> None:
    records = [*make_sweep(), implementation("autoregressive", 100.0, draft="lookup")]
    verdict = parity(records)
    name = "LLaMA with prompt lookup, our engine"
    assert [panel.baseline_name for panel in panels(records).values()] == ["", name]
    (legend,) = figures.parity_figure(records, verdict).legends
    assert {"LLaMA", name} <= {text.get_text() for text in legend.get_texts()}
    shown = [trace.name for panel in panels(records).values() for trace in figures._traces(panel, verdict.names, False)
             if trace.showlegend]  # fmt: skip
    assert shown == [name]
    assert {panel.baseline_name for panel in panels(make_sweep()).values()} == {""}


def test_a_reference_that_does_not_fit_is_said_and_not_drawn() -> None:
    quality = next(iter(panels(make_sweep()).values()))
    assert [name for name, _ in quality.references] == ["human text"]
    assert quality.outside == ("floor: 400",)


def test_the_plane_holds_the_numbers_of_the_test(studied: tuple[list[Record], Parity], tested: Plane) -> None:
    _, verdict = studied
    head = verdict.head
    assert head is not None
    for gap, test in zip(tested.gaps, head.tests, strict=True):
        assert (gap.point.label, gap.point.entropy) == (str(test.steps), test.entropy)
        assert gap.point.value == pytest.approx(head.curve.at(test.steps))
        assert math.log(gap.reference / gap.point.value) == pytest.approx(test.delta)
        assert math.log(gap.reference / gap.low) == pytest.approx(test.high)
        assert math.log(gap.reference / gap.high) == pytest.approx(test.low)
    assert [p.label for p in tested.knots] == [f"{p.temperature:g}" for p in verdict.points if p.kept]
    assert tested.margin[0] == pytest.approx(tested.knots[0].value * math.exp(head.margin))


def test_the_gap_ends_on_the_curve_which_goes_on_flat_to_what_lies_beside_it(
    studied: tuple[list[Record], Parity], tested: Plane
) -> None:
    head = studied[1].head
    assert head is not None
    places = [test.place for test in head.tests]
    assert (places[0], places[-1]) == (Place.BELOW, Place.ABOVE)
    assert tested.gaps[0].reference == pytest.approx(tested.knots[0].value)
    assert tested.gaps[-1].reference == pytest.approx(tested.knots[-1].value)
    entropies, values, _ = zip(*tested.curve, strict=True)
    assert list(entropies) == sorted(entropies)
    assert (entropies[0], entropies[-1]) == (tested.gaps[0].point.entropy, tested.gaps[-1].point.entropy)
    for gap, place in zip(tested.gaps, places, strict=True):
        on_the_line = np.interp(gap.point.entropy, entropies, np.log(values))
        assert math.log(gap.reference) == pytest.approx(on_the_line, abs=1e-6), place


def test_a_point_that_is_no_knot_is_not_on_the_line(studied: tuple[list[Record], Parity]) -> None:
    _, verdict = studied
    points = (replace(verdict.points[0], kept=False), *verdict.points[1:])
    assert verdict.head is not None
    found = plane(replace(verdict, points=points), verdict.head)
    assert found is not None
    assert [p.label for p in found.knots] == [f"{p.temperature:g}" for p in verdict.points[1:]]


@pytest.mark.parametrize("share", [None, 0.8])
def test_no_label_of_the_plane_lies_on_another_or_on_the_curve_and_every_k_has_one(
    share: float | None, tested: Plane
) -> None:
    """Also where LLaDA is better: a little below LLaMA's curve."""
    gaps = [g if share is None else replace(g, point=replace(g.point, value=share * g.reference)) for g in tested.gaps]
    drawn = replace(tested, gaps=tuple(gaps))
    figure = Figure(figsize=(6, 4.5))
    axes = figure.add_subplot()
    draw_plane(axes, drawn, ("LLaMA", "LLaDA"))
    figure.draw_without_rendering()
    place_labels(axes, drawn)
    labels = [text.get_text() for text in axes.texts]
    assert labels[:4] == ["k = 8", "k = 16", "k = 32", "k = 64"]
    assert {f"T = {min(TEMPERATURES):g}", f"T = {max(TEMPERATURES):g}"} <= set(labels)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    entropies, values, _ = zip(*drawn.curve, strict=True)
    along = np.linspace(entropies[0], entropies[-1], 1000)
    line = axes.transData.transform(np.column_stack([along, np.exp(np.interp(along, entropies, np.log(values)))]))
    assert not any(box.count_contains(line) for box in boxes)
    assert "lower is better" in axes.get_ylabel()
    assert "more varied" in axes.get_xlabel()


@pytest.mark.parametrize("records", [make_sweep(), make_sweep((8,)), make_sweep(perplexity=None)])
def test_the_figure_carries_the_verdict_and_labelled_axes(records: list[Record]) -> None:
    verdict = parity(records)
    figure = figures.parity_figure(records, verdict)
    assert figure.get_suptitle().strip() == verdict.title
    assert verdict.where in [text.get_text() for text in figure.texts]
    for axes in (figure.axes[0], figure.axes[-1]):
        assert axes.get_ylabel()
        assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(k) for k in verdict.steps]
    assert figures.to_png(figure).startswith(b"\x89PNG")


def test_the_legend_names_what_is_drawn(studied: tuple[list[Record], Parity]) -> None:
    figure = figures.parity_figure(*studied)
    assert "k = 64" in [text.get_text() for text in figure.axes[1].texts]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == ["LLaDA", "LLaMA", "gap", "margin"]  # simulated Records log no floor


def test_where_parity_begins_is_marked_in_every_panel_over_k() -> None:
    records = make_sweep()
    verdict = parity(records)
    assert verdict.head is not None
    for passing, marked in (((32, 64), 32), ((), None)):
        head = replace(verdict.head, status=Status.UNDECIDED, passing=passing)
        assert {p.marked for p in panels(records, metrics=(head,)).values()} == {marked}


def test_the_page_contacts_nobody_and_shows_every_panel(studied: tuple[list[Record], Parity], tested: Plane) -> None:
    records, verdict = studied
    page = figures.parity_html(records, verdict)
    shown = page.replace("\\u0027", "'")
    for wanted in (verdict.title, tested.title, tested.unit, "k = 64", "T = 1", '"name":"gap"', '"name":"margin"'):
        assert wanted in shown
    assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=\"https?:|<link[^>]*href", page)
    assert "mathjax" not in page[-20_000:].lower()


def test_other_models_keep_their_names() -> None:
    records = [make_record("llama"), make_record("dream", 8)]
    figure = figures.parity_figure(records, parity(records))
    assert "dream" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_an_svg_has_the_same_bytes_however_matplotlib_names_and_rounds():
    """169.1046875 is printed as 169.104687 or 169.104688, by the last bit of what the layout came to."""
    drawn = b'<clipPath id="p%s"/><g transform="translate(%s 1.5)" clip-path="url(#p%s)"/>'
    one, other = drawn % (b"0" * 10, b"169.104687", b"0" * 10), drawn % (b"a" * 10, b"169.104688", b"a" * 10)
    assert reproducible(one) == reproducible(other) == drawn.replace(b"p%s", b"clip1") % b"169.10469"
