"""Bounds of a difference of ratios: influences, clusters and strata, skewness, all worked by hand."""

import math
from typing import Any

import numpy as np
import pytest

from llmbench.analysis.parity.bounds import (
    Bound,
    Clusters,
    Ratio,
    bound,
    clusters,
    interval_of,
    prompts_needed,
    ratio,
)

BASELINE = np.array([[-2.0, 1.0], [-6.0, 2.0], [-3.0, 1.0], [-8.0, 4.0]])  # -19 / 8
CANDIDATE = np.array([[-3.0, 1.0], [-4.0, 2.0], [-4.0, 2.0], [-9.0, 3.0]])  # -20 / 8

T3 = 2.353363  # t(3; 0.95)

# u = 3, -1, 4 in task a (mean 2) and -5, -1 in task b (mean -3); n = 7
DOCUMENTS = ["a1", "a1", "a2", "a3", "b1", "b1", "b2"]
TASKS = ["a", "a", "a", "a", "b", "b", "b"]
INFLUENCE = np.array([1.0, 2.0, -1.0, 4.0, -2.0, -3.0, -1.0])


def alone(count: int) -> Clusters:
    """Prompts that have nothing in common."""
    return clusters([None] * count, ["all"] * count)


def made(**changes: Any) -> Bound:
    return Bound(
        **({"delta": 0.0, "se": 0.1, "skewness": 0.0, "clusters": 100, "freedom": 96, "prompts": 100} | changes)
    )


def test_a_ratio_and_the_influence_of_each_prompt() -> None:
    found = ratio(BASELINE)
    assert found.value == -19 / 8
    # (a + 2.375 b) / 2
    assert found.influence == pytest.approx([0.1875, -0.625, -0.3125, 0.75])


def test_influences_follow_sums_and_multiples() -> None:
    found = ratio(CANDIDATE) - ratio(BASELINE) * 2.0
    assert found.value == pytest.approx(-20 / 8 + 38 / 8)
    of_candidate = [-0.25, 0.5, 0.5, -0.75]  # (c + 2.5 d) / 2
    assert found.influence == pytest.approx(np.array(of_candidate) - 2 * np.array([0.1875, -0.625, -0.3125, 0.75]))


def test_a_ratio_without_a_denominator_is_no_number() -> None:
    assert math.isnan(ratio(np.zeros((3, 2))).value)
    assert math.isnan(ratio(np.zeros((0, 2))).value)


def test_the_influences_agree_with_leaving_prompts_out() -> None:
    """The slow twin: every prompt left out once."""
    rng = np.random.default_rng(0)
    sides = [np.stack([-rng.gamma(4, 10, 400), rng.integers(16, 65, 400)], axis=-1) for _ in range(2)]

    def difference(one: np.ndarray, other: np.ndarray) -> Ratio:
        return ratio(other) - ratio(one)

    left_out = [difference(*(np.delete(side, i, axis=0) for side in sides)).value for i in range(400)]
    jackknife = np.sqrt(399 / 400 * np.sum(np.square(np.array(left_out) - np.mean(left_out))))
    assert bound(difference(*sides), alone(400)).se == pytest.approx(jackknife, rel=0.02)


def test_documents_are_clusters_and_tasks_are_strata() -> None:
    by = clusters(DOCUMENTS, TASKS)
    assert by.residuals(INFLUENCE).tolist() == [1, -3, 2, -2, 2]
    found = bound(Ratio(0.5, INFLUENCE), by)
    # (3/2 (1 + 9 + 4) + 2/1 (4 + 4)) / 7^2
    assert found.se == pytest.approx(math.sqrt(37) / 7)
    assert (found.clusters, found.freedom, found.prompts) == (5, 3, 7)
    assert found.sd == pytest.approx(math.sqrt(37 / 7))
    # third moment -18/5, second 22/5
    assert found.skewness == pytest.approx(-3.6 / 4.4**1.5 * math.sqrt(20) / 3)


def test_clusters_make_the_error_larger_where_prompts_of_one_document_agree() -> None:
    both = np.array([1.0, 1.0, -1.0, -1.0, 2.0, 2.0, -2.0, -2.0])
    of_documents = bound(Ratio(0.0, both), clusters(list("aabbccdd"), ["t"] * 8))
    assert of_documents.se == pytest.approx(math.sqrt(4 / 3 * 40) / 8)  # u = 2, -2, 4, -4
    assert bound(Ratio(0.0, both), alone(8)).se == pytest.approx(math.sqrt(8 / 7 * 20) / 8)


@pytest.mark.parametrize(
    ("documents", "tasks", "strata"),
    [
        (["a", "b", "c", "d"], ["s", "s", "t", "u"], [0, 0, 1, 1]),  # two strata of one cluster are joined
        (["a", "b", "c"], ["s", "s", "t"], [0, 0, 0]),  # one alone goes with the largest
        (["a", "b", "c", "d"], ["s", "t", "u", "v"], [0, 0, 0, 0]),
        (["a", "a", "b", "b", "c", "d"], ["s", "t", "s", "t", "s", "s"], [0, 0, 1, 1]),  # two documents in two tasks
        (["a", "a"], ["s", "s"], [0]),
    ],
)
def test_strata_of_one_cluster_are_joined(documents: list[str], tasks: list[str], strata: list[int]) -> None:
    assert clusters(documents, tasks).stratum.tolist() == strata


def test_prompts_without_a_document_are_clusters_of_their_own() -> None:
    by = clusters([None, None, "a", "a"], ["s"] * 4)
    assert (by.cluster.tolist(), by.count, by.strata) == ([0, 1, 2, 2], 3, 1)


@pytest.mark.parametrize("skewness", [-3.0, -1.0, 0.0])
def test_the_lower_bound_is_halls_where_that_is_lower(skewness: float) -> None:
    found = made(skewness=skewness)
    t = 1.660881  # t(96; 0.95)
    limit = skewness - 1.645 * math.sqrt(6 * 100 * 99 / (98 * 101 * 103)) if skewness else 0.0
    a = limit / 10
    hall = 3 / a * (np.cbrt(1 + a * (t - a / 6)) - 1) if a else t
    assert found.lower(0.05) == pytest.approx(-0.1 * hall, abs=1e-6)
    assert found.lower(0.05) <= -0.1 * t + 1e-6
    assert hall > t or not skewness


def test_skewness_to_the_good_side_leaves_the_bound_of_t() -> None:
    found = made(skewness=2.0)
    assert found.lower(0.05) == pytest.approx(-0.1660881, abs=1e-6)
    assert found.upper(0.05) > 0.1660881 + 0.01  # which is the bad side of an upper bound


def test_a_lower_and_an_upper_bound_mirror_each_other() -> None:
    difference, by = ratio(CANDIDATE) - ratio(BASELINE), alone(4)
    assert bound(difference, by).lower(0.05) == pytest.approx(-bound(difference * -1.0, by).upper(0.05))


def test_fewer_than_three_clusters_have_no_bound() -> None:
    assert math.isnan(bound(ratio(BASELINE), clusters(["a", "a", "b", "b"], ["t"] * 4)).lower(0.05))
    assert math.isnan(bound(ratio(BASELINE), clusters(["a", "a", "b", "b"], ["t"] * 4)).upper(0.05))
    assert interval_of(BASELINE[:2]) is None


def test_the_interval_of_one_value() -> None:
    found = interval_of(np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 1.0], [5.0, 1.0]]))
    assert found is not None
    half = 2.776445 * math.sqrt(2.5 / 5)  # t(4; 0.975)
    assert found.low < 3 - half + 1e-6  # Hall's correction for the skewness that five values may hide
    assert found.low == pytest.approx(6 - found.high)


def test_differences_below_the_noise_of_floating_point_have_its_spread_and_no_skew() -> None:
    found = bound(Ratio(0.0, np.array([9e-6, -3e-6, -3e-6, -3e-6])), alone(4))
    assert (found.sd, found.skewness) == (pytest.approx(1e-4), 0.0)
    assert bound(Ratio(0.0, np.zeros(4)), alone(4)).lower(0.05) == pytest.approx(-T3 * 1e-4 / 2)


@pytest.mark.parametrize(
    ("skewness", "room", "enough"),
    [
        (-1.0, 0.3, False),  # 25 x 1.39^2 = 48 clusters are needed, 40 are there
        (-1.0, 0.5, True),  # the estimate lies far inside the margin: more than two widths
        (-0.5, 0.1, True),  # 25 x 1.11^2 = 31
        (1.0, 0.1, True),  # the good side
    ],
)
def test_a_skewed_sample_must_be_large_only_while_the_estimate_lies_near_the_margin(
    skewness: float, room: float, enough: bool
) -> None:
    found = made(skewness=skewness, clusters=40, freedom=36, prompts=40)
    assert found.is_enough(room, 0.05) is enough


def test_the_prompts_that_would_decide() -> None:
    assert prompts_needed([(0.1, 0.6)], 0.05) == 223  # ((1.645 + 0.842) 0.6 / 0.1)^2 = 222.6
    # two tests of equal power: each may fail one time in ten, ((1.645 + 1.282) 0.6 / 0.1)^2 = 308.3
    assert prompts_needed([(0.1, 0.6), (0.1, 0.6)], 0.05) == 309
    assert prompts_needed([(0.1, 0.6), (10.0, 0.6)], 0.05) == 223  # the other is certain
    assert prompts_needed([(0.1, 0.6), (0.0, 0.6)], 0.05) is None
    assert prompts_needed([], 0.05) is None
