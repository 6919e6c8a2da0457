"""What the pictures show, checked on what is drawn rather than on pixels."""

import re

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.report import figures
from records import make_record, make_sweep


def panels(records: list) -> dict[str, figures.Panel]:
    return {panel.title: panel for panel in figures.panels(records, verdicts(records)[0])}


def test_quality_diversity_and_time_stand_side_by_side() -> None:
    found = panels(make_sweep())
    assert list(found) == ["perplexity", "entropy", "end-to-end latency"]
    assert dict(found["perplexity"].points) == pytest.approx({8: 80, 16: 60, 32: 40, 64: 30})
    assert found["perplexity"].baseline == pytest.approx(45)
    assert found["perplexity"].marked == 32
    assert found["entropy"].baseline == pytest.approx(3.2)
    assert not found["entropy"].from_zero
    assert found["end-to-end latency"].labels == ("2.50x", "1.25x", "0.625x", "0.312x")


def test_a_reference_that_does_not_fit_is_said_and_not_drawn() -> None:
    perplexity = panels(make_sweep())["perplexity"]
    assert [name for name, _ in perplexity.references] == ["human text", "margin"]
    assert dict(perplexity.references)["margin"] == pytest.approx(45 * 1.10517, rel=1e-4)  # e^0.1
    assert perplexity.outside == ("floor: 400",)


def test_speed_alone_is_one_panel() -> None:
    assert list(panels(make_sweep(perplexity=None))) == ["end-to-end latency"]


@pytest.mark.parametrize(
    "records", [make_sweep(), make_sweep(reached=False), make_sweep((8,)), make_sweep(perplexity=None)]
)
def test_the_figure_carries_the_verdict_and_labelled_axes(records: list) -> None:
    (verdict,) = verdicts(records)
    figure = figures.parity_figure(records, verdict)
    assert figure.get_suptitle().strip() == verdict.title
    assert verdict.where in [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        assert axes.get_xlabel() == "diffusion steps k"
        assert "(" in axes.get_title()  # the unit
        assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(k) for k in verdict.steps]
    assert {"LLaMA", "LLaDA"} <= {text.get_text() for text in figure.legends[0].get_texts()}
    assert figures.to_png(figure).startswith(b"\x89PNG")


def test_the_page_contacts_nobody() -> None:
    records = make_sweep()
    page = figures.parity_html(records, verdicts(records)[0])
    assert "LLaDA matches LLaMA's perplexity at k = 32" in page.replace("\\u0027", "'")
    assert not re.search(r"<(script|img|iframe)[^>]*\ssrc=\"https?:|<link[^>]*href", page)
    assert "mathjax" not in page[-20_000:].lower()


def test_other_models_keep_their_names() -> None:
    records = [make_record("llama"), make_record("dream", 8)]
    figure = figures.parity_figure(records, verdicts(records)[0])
    assert "dream" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_bars_are_the_bootstrap_of_the_difference_laid_at_the_baseline() -> None:
    records = make_sweep()
    (verdict,) = verdicts(records)
    perplexity, entropy, _ = figures.panels(records, verdict)
    assert perplexity.bars[0] == pytest.approx((80, 80))  # prompts that are all alike
    assert entropy.bars[0] == pytest.approx((3.04, 3.04))
    assert figures.panels(records, verdicts(make_sweep(reached=False))[0])[0].marked is None
