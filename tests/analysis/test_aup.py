"""Accuracy under parallelism by hand, and where there is none."""

import math
from dataclasses import replace

import pytest

from llmbench.analysis.aup import aup, tradeoffs
from llmbench.analysis.parity.analyze import verdicts
from llmbench.report.assemble import recipe_tables
from llmbench.report.model_tables import aup_table
from records import make_record


def test_aup_by_hand():
    # the best accuracy is 80: W(80) = 1, W(76) = exp(-3 * 0.05), W(90) is capped at 1
    assert aup([(2.0, 80.0)], 80.0) == 160.0
    assert aup([(1.0, 80.0), (3.0, 80.0)], 80.0) == 80 + 2 * 80
    lower = 76 * math.exp(-0.15)
    assert aup([(1.0, 80.0), (3.0, 76.0)], 80.0) == pytest.approx(80 + 2 * (lower + 80) / 2)
    assert aup([(3.0, 76.0), (1.0, 80.0)], 80.0) == aup([(1.0, 80.0), (3.0, 76.0)], 80.0)
    assert aup([(1.0, 80.0), (2.0, 90.0)], 80.0) == 80 + (90 + 80) / 2
    # the first term has no weight, as in d3LLM
    assert aup([(1.0, 40.0), (2.0, 40.0)], 80.0) == pytest.approx(40 + 40 * math.exp(-1.5))


def test_settings_that_lose_more_than_five_points_are_left_out():
    slow, fast = (1.0, 80.0), (4.0, 74.9)
    assert aup([slow, fast], 80.0) == 80
    assert aup([slow, (4.0, 75.0)], 80.0) > 80
    between = (2.0, 79.0)  # the trapezium goes from the last setting that counts to the next
    assert aup([slow, between, (3.0, 60.0), (4.0, 79.0)], 80.0) == pytest.approx(
        80 + (79 * math.exp(-3 / 80) + 80) / 2 + 2 * 79 * math.exp(-3 / 80)
    )


def solved(model, steps, accuracy, rho, **changes):
    record = make_record(model, steps, perplexity=None, **changes)
    extra = {"quality/accuracy": accuracy, "throughput/tokens_per_forward": rho}
    identity = f"{record.identity}-{accuracy}-{rho}"
    return replace(record, identity=identity, metrics=record.metrics | extra)


LLAMA = solved("llama", None, 0.9, 1.0)


def test_a_sweep_over_steps_is_one_curve_and_the_best_accuracy_is_anybodys():
    records = [LLAMA, solved("llada", 64, 0.8, 0.5), solved("llada", 32, 0.78, 1.0), solved("llada", 8, 0.3, 4.0)]
    (curve,) = tradeoffs(records)
    assert curve.points == ((0.5, 80.0), (1.0, 78.0), (4.0, 30.0))
    assert (curve.model, curve.kept, curve.best) == ("llada", 2, 90.0)
    assert curve.aup == pytest.approx(aup(curve.points, 90.0))
    assert tradeoffs(records[1:])[0].best == pytest.approx(80.0)


def test_a_point_of_the_baselines_curve_is_nobodys_best_accuracy():
    points = [make_record("llada", k, metrics={"quality/accuracy": y, "throughput/tokens_per_forward": 64 / k})
              for k, y in ((16, 0.5), (32, 0.6))]  # fmt: skip
    point = make_record("llama", metrics={"quality/accuracy": 0.9}, role="curve")
    assert [curve.best for curve in tradeoffs([*points, point])] == [60.0]


def test_thresholds_are_settings_of_one_method_and_caches_are_methods():
    def at(threshold, cache, rho):
        return solved("llada", 64, 0.8, rho, conditions={"decoding.threshold": threshold, "decoding.cache": cache})

    found = tradeoffs([at("0.9", "none", 2.0), at("0.7", "none", 3.0), at("0.9", "dual", 2.0), at("0.7", "dual", 4.0)])
    assert [(curve.conditions["decoding.cache"], len(curve.points)) for curve in found] == [("none", 2), ("dual", 2)]
    alone = aup_table([at("0.9", "none", 2.0), at("0.7", "none", 3.0)])
    assert [row[0] for row in alone.rows] == ["llada"]
    both = [at("0.9", "none", 2.0), at("0.7", "none", 3.0), at("0.9", "dual", 2.0), at("0.7", "dual", 4.0)]
    assert [row[0] for row in aup_table(both).rows] == ["llada cache=none", "llada cache=dual"]


def test_seeds_of_a_setting_are_one_point():
    def at(seed, accuracy, rho):
        return solved("llada", 64 if rho < 1 else 32, accuracy, rho, conditions={"seed": seed})

    (curve,) = tradeoffs([at("1", 0.7, 0.5), at("2", 0.8, 0.5), at("1", 0.7, 1.0), at("2", 0.7, 1.0)])
    assert curve.points == ((0.5, pytest.approx(75.0)), (1.0, pytest.approx(70.0)))


@pytest.mark.parametrize(
    "records",
    [
        [LLAMA, solved("llada", 8, 0.8, 4.0)],  # one point is no trade-off
        [LLAMA, make_record("llada", 8), make_record("llada", 16)],  # nothing was checked
        [solved("llada", 8, 0.0, 4.0), solved("llada", 16, 0.0, 2.0)],  # nobody is ever right
        [solved("llada", 8, 0.1, 0.0), solved("llada", 16, 0.1, 0.0)],  # nothing was written
        [],
    ],
)
def test_no_number_where_there_is_no_tradeoff(records):
    assert tradeoffs(records) == []
    assert aup_table(records).rows == ()
    assert all(table.title != "Accuracy under parallelism" for table in recipe_tables(records, (), "", ""))


def test_the_table_stands_behind_the_parity_table():
    records = [LLAMA, solved("llada", 64, 0.8, 0.5), solved("llada", 32, 0.78, 1.0)]
    made = recipe_tables(records, verdicts(records), "", "")
    assert made[-1] == aup_table(records)
    (row,) = aup_table(records).rows
    by_hand = 0.5 * 80 + 0.5 * (80 * math.exp(-3 * (1 - 80 / 90)) + 78 * math.exp(-3 * (1 - 78 / 90))) / 2
    assert row == ("llada", "0.50: 80.0, 1.00: 78.0", "2 of 2", "90.0", f"{by_hand:.1f}")
    assert "accuracy" in made[0].header
