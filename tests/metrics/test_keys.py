"""The registry of metric keys is the one of docs/metrics.md."""

import re
from pathlib import Path

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
