"""What HTTP costs: both ways write the same text, and every figure is a time of its Record."""

import pytest

from benchmarks.http_cost import measure, said


def test_both_ways_write_the_same_text():
    small = ["canvas=16", "batch=2", "workload.prompts=4", "timing.repeats=1", "timing.token_timing_repeats=0"]
    here = ["hardware=cpu", "hardware.threads=1", "temperature=0"]
    cost = measure(["model=llada", "steps=4", "block_length=8", *small, *here])
    assert cost.equal_texts == 4
    assert cost.served.metrics["throughput/nfe"] == cost.before.metrics["throughput/nfe"] == 4
    assert cost.local_ms == tuple(record.metrics["latency/e2e_ms"] for record in (cost.before, cost.after))
    assert cost.served_ms == pytest.approx(cost.served.metrics["latency/e2e_ms"])
    assert f"{cost.served_ms:.2f} ms" in said(cost)
