"""The verdict's promises, held against worlds whose truth is known; docs/simulation.md is the same with more draws."""

import numpy as np
import pytest

from benchmarks.error_rates import (
    LAWS,
    Rate,
    collapses,
    coverage,
    false_claims,
    figure,
    markdown,
    power,
    speed_coverage,
)

STUDIES = 4000


def generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("prompts", [32, 100, 1000])
def test_false_claims_at_the_boundary_stay_at_five_percent(law: str, prompts: int) -> None:
    """Bound, sequence and interim analyses, within two Monte-Carlo standard errors."""
    studies = STUDIES if prompts < 1000 else STUDIES // 2
    for rate in false_claims(generator(1, prompts), studies, prompts, law, drawn=0):
        assert rate.held, rate


def test_the_t_bound_alone_would_claim_too_much() -> None:
    """Why the bound looks at skewness."""
    rates = {rate.what: rate for rate in false_claims(generator(2), STUDIES, 32, "heavy", drawn=0)}
    assert rates["for comparison: t bound alone"].value > 0.1


def test_rare_collapses_are_claimed_less_often_than_by_the_t_bound_alone() -> None:
    """They stay outside the limits with few prompts (docs/method.md): a sample without one cannot know of them."""
    for prompts in (32, 100):
        ours, plain = collapses(generator(7, prompts), STUDIES, prompts, 0.05)
        assert ours.value < plain.value
    assert ours.held


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("prompts", [32, 316])
def test_the_interval_of_delta_holds_the_truth(law: str, prompts: int) -> None:
    rate = coverage(generator(3, prompts), STUDIES, prompts, law)
    assert rate.held, rate


@pytest.mark.parametrize(("batches", "repeats"), [(1, 6), (4, 6), (12, 6)])
def test_the_interval_of_the_speedup_holds_the_truth(batches: int, repeats: int) -> None:
    rate = speed_coverage(generator(4, batches), 1500, batches, repeats)
    assert rate.held, rate


def test_power_grows_with_the_prompts_and_falls_with_the_difference() -> None:
    values = [power(generator(5, n), 1000, n, "mild", 0.0).value for n in (32, 100, 316, 1000)]
    assert values == sorted(values)
    assert values[-1] > 0.95
    assert power(generator(6), 1000, 316, "mild", 0.05).value < values[2]


def test_the_report_marks_what_lies_outside_the_limits() -> None:
    inside = Rate(
        what="false claim at the boundary", setting="mild", prompts=32, value=0.05, studies=1000, low=None, high=0.05
    )
    outside = Rate(
        what="coverage of speedup(k)", setting="1 batch", prompts=None, value=0.8, studies=1000, low=0.93, high=0.97
    )
    text = markdown([inside, outside], "as typed", sizes=(32,))
    assert "| false claim at the boundary | mild | 5.0 (1.4) |" in text
    assert "| coverage of speedup(k) | 1 batch | **80.0 (2.5)** |" in text
    assert "Outside the limits: coverage of speedup(k), 1 batch: **80.0 (2.5)**." in text
    assert len(figure([inside, outside]).axes) == 3
