"""The registry of metric keys is the one of docs/metrics.md, and says of each key what it is."""

import re
from pathlib import Path

import pytest

from llmbench.metrics.keys import METRICS

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_registry_and_the_documentation_name_the_same_keys():
    groups = "latency|throughput|memory|energy|hardware|roofline|quality|likelihood"
    text = DOCS.read_text()
    documented = set(re.findall(rf"`((?:{groups})/[a-z0-9_]+)`", text))
    for first, rest in re.findall(r"`quality/(bertscore_f1)` \((`_precision`, `_recall`)\)", text):
        documented |= {f"quality/{first.replace('f1', '')}{name}" for name in re.findall(r"`_(\w+)`", rest)}
    artifacts = {"memory/reserved_trace", "memory/allocated_trace"}
    assert documented - artifacts == set(METRICS)


@pytest.mark.parametrize("key", METRICS)
def test_every_key_has_a_unit_and_a_summary(key):
    metric = METRICS[key]
    assert metric.key == key
    assert metric.unit
    assert metric.summary
    assert metric.families
