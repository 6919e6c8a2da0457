"""What forbids a claim, whatever the numbers say: each gate with its reason and the setting that would open it.

A gate that fails on the baseline blocks the whole set. One that fails at a single k blocks every statement that rests
on this k (docs/metrics.md, Gates).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llmbench.analysis.parity.grouping import FULL_NUCLEUS, IMPLEMENTATION, Group, nucleus, seed_of, stochastic
from llmbench.analysis.parity.paired_sums import pooled_value
from llmbench.analysis.parity.speed_doubts import slow_phrase, threads_phrase, unsteady_phrase
from llmbench.analysis.parity.verdict import Gate
from llmbench.config.decoders import shared_keys
from llmbench.config.parity import ThresholdsConfig
from llmbench.record import Record

REPEAT_SHARE = 0.9
"""A later repeat that writes fewer tokens than this share of what was scored is another generation."""

LENGTH_METRICS = ("quality/perplexity", "quality/bits_per_byte")
"""What a text's length moves: a judge is surer of later tokens."""


def gates(group: Group, failed: Sequence[Record], limits: ThresholdsConfig) -> tuple[Gate, ...]:
    """Every gate that fails, the baseline's first.

    Args:
        group: the sides.
        failed: Records of jobs that should have been part of them.
        limits: where the gates close.
    """
    found = [gate for steps, records in group.sides for gate in _of_side(steps, records, limits)]
    if group.baseline:
        for steps, records in group.candidates:
            found += [replace(gate, steps=gate.steps or steps) for gate in _against(group.baseline, records, limits)]
    found += [gate for record in failed if (gate := _of_failed(record, group)) is not None]
    if slow := slow_phrase(group.baseline, limits.roofline_share):
        change = "hardware.engine=graph, a larger batch, or model=llama,llama_generate,llada for a second baseline"
        found.append(Gate(name="slow baseline", reason=slow, blocks="speed", change=change))
    timed = [record for _, records in group.sides for record in records]
    if threads := threads_phrase(timed):
        change = "hardware.threads=N for both sides in one sweep, on one machine"
        found.append(Gate(name=THREADS, reason=threads, blocks="speed", change=change))
    if unsteady := unsteady_phrase(timed):
        change = "stop the other work on this device, or raise timing.repeats"
        found.append(Gate(name="unsteady times", reason=unsteady, blocks="speed", change=change))
    return tuple(found)


def _of_failed(record: Record, group: Group) -> Gate | None:
    """The gate of a job that failed; None where another seed that writes the same text took its place."""
    reason = f"{record.label} failed: {record.reason}"
    change = "correct what made the job fail and add reuse=all"
    if record.family == "diffusion":
        leave = f", or leave {record.steps} out of steps" if group.candidates else ""
        return Gate(name=MISSING, reason=reason, steps=record.steps, change=change + leave)
    if not group.baseline:
        return Gate(name=MISSING, reason=reason, change=change)
    if record.side != group.baseline[0].side:  # another implementation: it may be the faster one
        leave = ", or leave it out of model"
        return Gate(name=MISSING, reason=reason, blocks="speed", change=change + leave)
    taken = seed_of(record) in {seed_of(other) for other in group.baseline}
    return None if taken else Gate(name=MISSING, reason=reason, change=change)


TOP_P = "decoding.top_p"

THREADS = "CPU threads differ"
"""Name of the gate that forbids a claim on speed in either direction."""

MISSING = "settings missing"
"""Name of the gate of jobs that should be there and are not."""

_NO_TEXT = {
    "autoregressive": "workload.tasks or workload (prompts that ask for text), model.chat, or temperature",
    "diffusion": "larger steps, a smaller block_length, another temperature, or other prompts (workload.tasks)",
}
"""What makes a side of a family write text where its outputs were empty."""

_SAME_TEXT = "temperature=0, hardware.engine=eager or hardware.dtype=float32, under which a repeat writes the same text"
_SAME_PROMPTS = "run both sides in one sweep, with one workload, workload.* and batch"


def _of_side(steps: int | None, records: Sequence[Record], limits: ThresholdsConfig) -> Iterator[Gate]:
    """The gates of one side alone."""
    label = records[0].label
    if (share := pooled_value(records, "quality/empty_share")) is not None and share > limits.empty_share:
        said = f"{label}: {100 * share:.3g} % of the outputs"
        yield Gate(name="empty outputs", reason=said, steps=steps, change=_NO_TEXT[records[0].family])
    if any(record.metrics.get("hardware/throttled", 0) > 0 for record in records):
        worst = max(record.metrics.get("hardware/throttled", 0) for record in records)
        said = f"{label}: {100 * worst:.3g} % of the timed batches"
        change = "raise timing.throttle_retries, or cool the device"
        yield Gate(name="throttled clocks", reason=said, steps=steps, change=change)
    for record in records:
        if reason := _not_timed(record):
            name = "outputs scored are not the outputs timed"
            yield Gate(name=name, reason=f"{label}: {reason}", steps=steps, change=_SAME_TEXT)


def _not_timed(record: Record) -> str:
    """Where the timed pass wrote something else than what was scored; empty where it did not."""
    written: dict[int, int] = {}
    for output in record.outputs:
        written[output.batch] = written.get(output.batch, 0) + output.tokens
    first = {timing.batch: timing.tokens for timing in record.timings if timing.repeat == 0}
    if missing := sorted(written.keys() - first.keys()):
        return f"batch {missing[0]} was scored and never timed"
    for batch, tokens in written.items():
        if first[batch] != tokens:
            return f"batch {batch} was timed writing {first[batch]} tokens, {tokens} were scored"
    for timing in record.timings:
        scored = written.get(timing.batch, timing.tokens)
        if min(timing.tokens, scored) < REPEAT_SHARE * max(timing.tokens, scored):
            return f"repeat {timing.repeat} of batch {timing.batch} wrote {timing.tokens} tokens, {scored} were scored"
    sizes = {output.prompt_id: output.utf8_bytes for output in record.outputs if output.utf8_bytes is not None}
    for score in record.scores:
        if score.subject == "output" and sizes.get(score.prompt_id, score.utf8_bytes) != score.utf8_bytes:
            return f"prompt {score.prompt_id}: {score.utf8_bytes} bytes were scored, {sizes[score.prompt_id]} written"
    return ""


def _against(baseline: Sequence[Record], candidate: Sequence[Record], limits: ThresholdsConfig) -> Iterator[Gate]:
    """The gates of a candidate compared with the baseline."""
    own, other = candidate[0], baseline[0]
    theirs, ours = (record.conditions | {TOP_P: nucleus(record)} for record in (other, own))
    keys = {key for key in ours.keys() & theirs.keys() if key.startswith("decoding.")}
    for key in sorted(keys - IMPLEMENTATION - {"decoding.checkpoint"}):
        if ours[key] != theirs[key]:
            said = f"{key} is {theirs[key]!r} at {other.label} and {ours[key]!r} at {own.label}"
            one = key in own.conditions.keys() & other.conditions.keys()  # else one of them cannot be told
            change = f"give both sides the same {_setting(key)}" if one else f"{_setting(key)}={FULL_NUCLEUS}"
            yield Gate(name="mixed conditions", reason=said, change=change)
    if own.partition != other.partition:
        said = f"{own.label} has another batch partition than {other.label}"
        yield Gate(name="mixed conditions", reason=said, change=_SAME_PROMPTS)
    asked = {output.prompt_id: output.prompt for output in other.outputs}
    changed = [o.prompt_id for o in own.outputs if o.prompt_id in asked and asked[o.prompt_id] != o.prompt]
    if changed:
        said = f"{own.label} and {other.label} had different prompts under {', '.join(changed[:3])}"
        yield Gate(name="mixed conditions", reason=f"{said} ({len(changed)} prompts)", change=_SAME_PROMPTS)
    seeds = [{seed_of(record) for record in side} for side in (baseline, candidate)]
    if seeds[0] != seeds[1] and stochastic(own) and stochastic(other):
        said = " and ".join(
            f"{side[0].label} has {_listed(s)}" for side, s in zip((baseline, candidate), seeds, strict=True)
        )
        every = ",".join(sorted(set.union(*seeds), key=lambda seed: (len(seed), seed)))
        change = f"seed={every} for both sides, with reuse=all"
        yield Gate(name=MISSING, reason=f"seeds differ: {said}", change=change)
    yield from _lengths(baseline, candidate, limits.length_share)


def _lengths(baseline: Sequence[Record], candidate: Sequence[Record], least: float) -> Iterator[Gate]:
    below, above = (pooled_value(side, "quality/length_bytes") for side in (baseline, candidate))
    if below is None or above is None or not max(below, above) or min(below, above) >= least * max(below, above):
        return
    said = f"{candidate[0].label} writes {above:.0f} bytes, {baseline[0].label} {below:.0f}"
    share = f" ({above / below:.0%})" if below else ""
    change = "lower canvas until both sides fill it" + (
        "; or larger steps, or a smaller block_length" if above < below else ", or other prompts (workload.tasks)"
    )
    yield Gate(name="realised length", reason=f"{said}{share}", metrics=LENGTH_METRICS, change=change)


def _setting(key: str) -> str:
    """What a person sets to change a decoding condition."""
    name = key.removeprefix("decoding.")
    if name == "chat":
        return "model.chat"
    return name if name in shared_keys() else f"model.decoder.{name}"


def _listed(seeds: set[str]) -> str:
    return ", ".join(sorted(seeds)) or "none"
