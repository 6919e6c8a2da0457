"""What forbids a claim, whatever the numbers say: one `Check` for each thing that was looked at, with its values.

One that fails on the baseline concerns the whole set, one that fails at a k this k alone (docs/metrics.md, Gates).
What the texts themselves must pass is in `text_checks`, what concerns times in `speed_checks`.
"""

from collections.abc import Iterator, Sequence

from llmbench.analysis.implementations import IMPLEMENTATION, way_of
from llmbench.analysis.parity.grouping import (
    CHECKPOINT,
    FULL_NUCLEUS,
    TEMPERATURE,
    WITHOUT_WEIGHTS,
    Group,
    nucleus,
    seed_of,
    stochastic,
)
from llmbench.analysis.parity.sides import Side, pooled_value
from llmbench.analysis.parity.verdict import JUDGED, MATCHED, Blocks, Check, CheckName
from llmbench.config.parity import ThresholdsConfig
from llmbench.record import Record

REPEAT_SHARE = 0.9
"""A later repeat that writes fewer tokens than this share of what was scored is another generation."""

UNMATCHED = tuple(metric for metric in JUDGED if metric not in MATCHED)
"""Metrics in which both sides are compared as they are: they must decode at one temperature."""

Values = dict[str, float | str]


def run_checks(group: Group, failed: Sequence[Record], limits: ThresholdsConfig) -> tuple[Check, ...]:
    """Every Check on how the sides were run that fails, the baseline's first.

    Args:
        group: the sides.
        failed: Records of jobs that should have been part of them.
        limits: where the gates close.
    """
    found = [check for side in group.sides for check in _of_side(side, limits)]
    if group.baseline:
        found += [check for side in group.candidates for check in _against(group.baseline, side)]
    found += [check for record in failed if (check := _of_failed(record, group)) is not None]
    return tuple(found)


def _failed(name: CheckName, steps: int | None, values: Values, **more: object) -> Check:
    return Check(name=name, passed=False, steps=steps, values=values, **{"blocks": "verdict", **more})  # type: ignore[arg-type]


def _of_failed(record: Record, group: Group) -> Check | None:
    """The Check of a job that failed; None where another seed that writes the same text took its place."""
    name = CheckName.NOT_RUN if record.status == "missing" else CheckName.MISSING
    values: Values = {"label": record.label, "reason": record.reason or ""}
    if record.role == "retimed":
        return None
    if record.role == "curve":
        return _failed(CheckName.CURVE, None, values, blocks="note")
    if record.family == "diffusion":
        return _failed(name, record.steps, values)
    if not group.baseline:
        return _failed(name, None, values)
    chosen = group.baseline.records[0]
    other = record.side != chosen.side or (record.conditions and way_of(record) != way_of(chosen))
    if other:  # another implementation: it may be the faster one
        return _failed(name, None, values, blocks="viable")
    taken = seed_of(record) in {seed_of(other) for other in group.baseline.records}
    return None if taken else _failed(name, None, values)


def _of_side(side: Side, limits: ThresholdsConfig) -> Iterator[Check]:
    """The Checks of one side alone."""
    records, steps = side.records, side.steps
    if (share := pooled_value(records, "quality/empty_share")) is not None and share > limits.empty_share:
        values = empty_values(side.label, records[0].family, share, limits.empty_share)
        if steps is not None:
            yield _failed(CheckName.EMPTY, steps, values)
        else:  # metrics at matched diversity are compared with the curve, whose own texts are looked at
            yield _failed(CheckName.EMPTY, None, values, metrics=UNMATCHED)
            yield _failed(CheckName.EMPTY, None, values, blocks="speed")
    worst = max(record.metrics.get("hardware/throttled", 0.0) for record in records)
    if worst > 0:
        yield _failed(CheckName.THROTTLED, steps, {"label": side.label, "share": worst})
    judged_by = {records[0].conditions.get(key) for key in ("judge", "second_judge")} - {"none"}
    if records[0].conditions.get("decoding.checkpoint", "none") in judged_by:
        yield _failed(CheckName.JUDGE, steps, {"label": side.label})
    for record in records:
        if values := _twice(record):
            yield _failed(CheckName.TWICE, steps, values | {"label": side.label})
        if values := _not_timed(record):
            yield _failed(CheckName.NOT_TIMED, steps, values | {"label": side.label})


def _twice(record: Record) -> Values:
    """Two prompts of one text: each counts as one more than it is."""
    seen: dict[str, str] = {}
    for output in record.outputs:
        if output.prompt is None:
            continue
        if (other := seen.setdefault(output.prompt, output.prompt_id)) != output.prompt_id:
            return {"first": other, "second": output.prompt_id}
    return {}


def _not_timed(record: Record) -> Values:
    """Where the timed pass wrote something else than what was scored; empty where it did not."""
    if not record.timings:
        return {"what": "timed", "batch": 0.0}
    written: dict[int, int] = {}
    for output in record.outputs:
        written[output.batch] = written.get(output.batch, 0) + output.tokens
    first = {timing.batch: timing.tokens for timing in record.timings if timing.repeat == 0}
    for batch, tokens in sorted(written.items()):
        if batch not in first:
            return {"what": "timed", "batch": float(batch)}
        if first[batch] != tokens:
            return {"what": "tokens", "batch": float(batch), "timed": float(first[batch]), "scored": float(tokens)}
    for timing in record.timings:
        scored = written.get(timing.batch, timing.tokens)
        if min(timing.tokens, scored) < REPEAT_SHARE * max(timing.tokens, scored):
            place: Values = {"batch": float(timing.batch), "repeat": float(timing.repeat)}
            return place | {"what": "repeat", "timed": float(timing.tokens), "scored": float(scored)}
    sizes = {output.prompt_id: output.utf8_bytes for output in record.outputs if output.utf8_bytes is not None}
    for score in record.scores:
        if score.subject == "output" and sizes.get(score.prompt_id, score.utf8_bytes) != score.utf8_bytes:
            size = float(sizes[score.prompt_id])
            return {"what": "bytes", "first": score.prompt_id, "scored": float(score.utf8_bytes), "written": size}
    return {}


def _against(baseline: Side, side: Side) -> Iterator[Check]:
    """The Checks of a candidate compared with the baseline."""
    own, other = side.records[0], baseline.records[0]
    theirs, ours = (record.conditions | {TOP_P: nucleus(record)} for record in (other, own))
    keys = {key for key in ours.keys() & theirs.keys() if key.startswith("decoding.")}
    names: Values = {"label": side.label, "other_label": baseline.label}
    for key in sorted(keys - IMPLEMENTATION - {CHECKPOINT, WITHOUT_WEIGHTS}):
        if ours[key] != theirs[key]:
            one = key in own.conditions.keys() & other.conditions.keys()  # else one of them cannot be told
            values: Values = {"key": key, "value": ours[key], "other_value": theirs[key]}
            to = values | {"settable": "both" if one else FULL_NUCLEUS}
            metrics = UNMATCHED if key == TEMPERATURE else ()
            yield _failed(CheckName.MIXED, side.steps, names | to, metrics=metrics)
    if own.partition != other.partition:
        yield _failed(CheckName.MIXED, side.steps, names | {"key": "partition"})
    asked = {output.prompt_id: output.prompt for output in other.outputs}
    changed = [o.prompt_id for o in own.outputs if o.prompt_id in asked and asked[o.prompt_id] != o.prompt]
    if changed:
        values = {"key": "prompts", "count": float(len(changed)), "first": ", ".join(changed[:3])}
        yield _failed(CheckName.MIXED, side.steps, names | values)
    seeds = [sorted({seed_of(record) for record in members.records}) for members in (baseline, side)]
    if seeds[0] != seeds[1] and stochastic(own) and stochastic(other):
        values = {"key": "seeds", "other_value": ", ".join(seeds[0]), "value": ", ".join(seeds[1])}
        yield _failed(CheckName.MISSING, side.steps, names | values)


TOP_P = "decoding.top_p"


def empty_values(label: str, family: str, share: float, limit: float) -> Values:
    """Of a failed Check on empty outputs."""
    return {"label": label, "family": family, "share": share, "limit": limit}


def empty_check(side: Side, baseline: str, share: float, limit: float) -> Check | None:
    """A failed Check where the baseline's texts at equal entropy are empty too often.

    Args:
        side: the candidate that is compared with them.
        baseline: its label.
        share: of empty outputs, interpolated between the curve's knots.
        limit: the largest that is allowed.
    """
    if share <= limit:
        return None
    values = empty_values(f"{baseline} at equal entropy", "autoregressive", share, limit)
    return _failed(CheckName.EMPTY, side.steps, values, metrics=MATCHED)


def length_check(side: Side, own: float, baseline: float, least: float) -> Check:
    """Realised length in bytes against the baseline's at equal entropy."""
    share = min(own, baseline) / max(own, baseline) if max(own, baseline) > 0 else 1.0
    return Check(
        name=CheckName.LENGTH,
        passed=share >= least,
        blocks="verdict",
        steps=side.steps,
        metrics=(*MATCHED,),
        values={"label": side.label, "value": own, "reference": baseline, "share": share, "limit": least},
    )


def note(name: CheckName, values: Values, *, steps: int | None = None, blocks: Blocks = "note") -> Check:
    """A failed Check that is no part of a metric."""
    return Check(name=name, passed=False, blocks=blocks, steps=steps, values=values)
