"""A metric of your own over a finished sweep: the share of distinct words, LLaDA less LLaMA, with a 95 % interval.

    python examples/own_metric.py multirun/2026-...

Nothing is measured: a Record holds every text. Both sides answered the same prompts, so differences are taken per
prompt; prompts of one document are not independent, so documents are resampled (bootstrap).
"""

import random
import statistics
import sys

import llmbench


def distinct_words(text: str) -> float | None:
    """Distinct words over words; None without any."""
    words = text.split()
    return len(set(words)) / len(words) if words else None


def values(record: llmbench.Record) -> dict[str, float]:
    """The metric by prompt; prompts for which it is unknown are left out."""
    found = {o.prompt_id: distinct_words(o.text) for o in record.outputs if o.text is not None}
    return {prompt: value for prompt, value in found.items() if value is not None}


sweep = llmbench.load(sys.argv[1])
timed = [record for record in sweep.records if record.role == "timed"]
baseline = next(record for record in timed if record.family == "autoregressive")
documents = {output.prompt_id: output.document or output.prompt_id for output in baseline.outputs}
draw = random.Random(0)

for record in timed:
    if record.family == "autoregressive":
        continue
    ours, theirs = values(record), values(baseline)
    clusters: dict[str, list[float]] = {}
    for prompt in sorted(ours.keys() & theirs.keys()):
        clusters.setdefault(documents[prompt], []).append(ours[prompt] - theirs[prompt])
    names = list(clusters)
    if len(names) < 2:
        print(f"{record.label}: {len(names)} documents, no interval")
        continue
    means = sorted(
        statistics.mean(difference for name in draw.choices(names, k=len(names)) for difference in clusters[name])
        for _ in range(2000)
    )
    middle = statistics.mean(difference for differences in clusters.values() for difference in differences)
    print(f"{record.label}: {middle:+.3f} [95 % {means[49]:+.3f} to {means[1949]:+.3f}], {len(names)} documents")
