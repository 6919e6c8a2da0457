"""What is shown of two sweeps."""

import json
from dataclasses import replace

from llmbench.analysis.compare import compare
from llmbench.report.compare import compare_figure, compare_json, compare_tables
from records import make_record, make_sweep


def test_two_devices_are_named_where_their_times_stand():
    here = make_sweep((8,))
    there = [replace(r, conditions=r.conditions | {"device_name": "Other CPU"}) for r in here]
    conditions, times = compare_tables(compare(here, there), "one", "two")
    assert conditions.rows == (("device_name", "Test CPU", "Other CPU"),)
    assert "two devices" in times.title
    assert "two devices" not in compare_tables(compare(here, here), "one", "two")[1].title


def test_qualities_stand_where_texts_differ_and_times_without_bounds_as_they_are():
    a, b = make_record("llada", 8, repeats=2), make_record("llada", 8, repeats=2, perplexity=50.0)
    other = replace(b, outputs=tuple(replace(o, text=f"{o.text}!") for o in b.outputs))
    found = compare([a], [other])
    _, times, qualities = compare_tables(found, "one", "two")
    assert times.rows == (("llada k=8", "100", "100", "1.000x", "not judged"),)
    assert [row[1] for row in qualities.rows] == ["perplexity", "bits per byte", "entropy", "BERTScore F1"]
    assert qualities.rows[0][2:4] == ("40.00", "50.00")
    made = json.loads(compare_json(found, "one", "two"))
    assert [(item["metric"], item["why"]) for item in made["not_judged"]] == [("latency/e2e_ms", "few_repeats")]


def test_the_figure_has_a_bar_for_each_setting_on_a_log_axis():
    found = compare(make_sweep((8, 16)), make_sweep((8, 16)))
    (axes,) = compare_figure(found, "one", "two", 0.05).axes
    assert axes.get_xscale() == "log"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["all settings together", "llama", "llada k=8", "llada k=16"]
    untimed = [replace(r, timings=(), repeated_batches=()) for r in make_sweep((8,))]
    assert compare_figure(compare(untimed, untimed), "one", "two") is None
