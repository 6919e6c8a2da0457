"""The four charts of a verdict, and what it is called in a few words."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from llmbench.analysis.parity import brief
from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.parity import Parity
from llmbench.record import Record
from llmbench.tracking import views
from records import make_record, make_sweep, with_curve


def only(records: Sequence[Record]) -> Parity:
    (verdict,) = verdicts(records)
    return verdict


def lines(verdict: Parity) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for key, k, value in views.curves(verdict):
        found.setdefault(key, {})[k] = value
    return found


def test_the_baseline_s_perplexity_is_that_at_the_candidate_s_entropy() -> None:
    verdict = only(with_curve(make_sweep((8, 64))))
    low, high = (next(point for point in verdict.points if point.temperature == t) for t in (0.7, 0.8))
    at = 3.22 + 8 / 400  # of the candidate at k = 8, between both
    weight = (at - low.entropy) / (high.entropy - low.entropy)
    expected = math.exp((1 - weight) * math.log(dict(low.values)["quality/perplexity"]) + weight * math.log(54.11433))
    assert lines(verdict)["perplexity/autoregressive_matched"][8] == pytest.approx(expected, rel=1e-4)
    assert lines(verdict)["perplexity/diffusion"] == pytest.approx({8: 80, 64: 30})


def test_a_metric_that_needs_no_match_has_the_baseline_s_own_value_at_every_k() -> None:
    verdict = only(make_sweep((8, 64)))
    item = verdict.metric("quality/bertscore_f1")
    assert item is not None
    shown = lines(replace(verdict, metrics=(item,)))
    assert sorted(shown) == [
        *("bertscore_f1/autoregressive", "bertscore_f1/diffusion", "e2e_ms/autoregressive", "e2e_ms/diffusion"),
        *("entropy/autoregressive", "entropy/diffusion", "speedup/diffusion"),
    ]
    assert shown["bertscore_f1/autoregressive"] == pytest.approx({8: 0.35, 64: 0.35})


@pytest.mark.parametrize(
    ("records", "name", "s_parity"),
    [
        (make_sweep(), "reached, 0.625x at k = 32", "32"),
        (with_curve(make_sweep(reached=False)), "not reached, 0.312x at k = 64", "none"),
        ([make_record("llada", 8)], "missing baseline", ""),
        ([record for batch in (2, 4) for record in make_sweep((8,), batch=batch)], "2 undecided", None),
        ([], "no verdict", None),
    ],
)
def test_a_sweep_is_called_by_its_result(records: list[Record], name: str, s_parity: str | None) -> None:
    found = verdicts(records)
    assert brief.brief(found) == name
    if s_parity is not None:
        assert brief.s_parity(found[0]) == s_parity


def test_a_point_estimate_that_was_not_confirmed_is_called_one() -> None:
    flattered = make_record("llada", 8, perplexity=19.0, entropy=2.85)  # equally varied LLaMA has 11
    verdict = only(with_curve([make_record("llama", perplexity=20.0, entropy=3.2), flattered]))
    assert brief.s_parity(verdict) == "none (point estimate 8)"
