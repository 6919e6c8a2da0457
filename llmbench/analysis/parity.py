"""At how many diffusion steps k does LLaDA match LLaMA's quality, and how fast is it there? The brief's point form.

    S_parity = min{k : f(k) >= Q},   speedup(k) = L_e2e(LLaMA) / L_e2e(LLaDA at k)

Every quality is oriented up first: perplexity enters as g = -NLL per token (nats), bits per byte with its sign
turned. One metric gives one `MetricParity`; entropy and distinct-2 stand beside (generative perplexity rewards
repetition) and reach no verdict of their own. "Not reached" is a result like any other: the time ratios are shown, no
speedup at parity is.

Records meet only when their conditions agree (`llmbench.analysis.comparable`). What speaks against a number (empty
outputs, unequal lengths, throttled clocks, ...) is said in `warnings`. The tested form of docs/metrics.md (margins,
bounds, assay sensitivity) is a second function from the same Records to the same `Parity`, with further members of
`Status`. Called by the sweep, the report and notebooks.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from llmbench.analysis.comparable import check_conditions, choose_baseline, condition_sets, steps_of
from llmbench.analysis.statistics import speedup_interval
from llmbench.analysis.verdict import Curve, MetricParity, Parity, Speedup, Status
from llmbench.analysis.wording import (
    baseline_phrase,
    conditions_phrase,
    metric_sentence,
    metric_title,
    named,
    slow_phrase,
)
from llmbench.errors import RecordError
from llmbench.record import METRICS, Record

__all__ = ["Curve", "MetricParity", "Parity", "Speedup", "Status", "oriented", "parity", "verdicts"]

JUDGED = ("quality/perplexity", "quality/bits_per_byte", "quality/bertscore_f1")
"""Metrics that can reach parity; the first that was measured is the headline."""

BESIDE = ("quality/entropy", "quality/distinct_2")


def verdicts(records: Iterable[Record], seed: int = 0) -> tuple[Parity, ...]:
    """One `Parity` for every set of comparable Records of a sweep; failed Records are left out.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    return tuple(parity(members, seed) for members in condition_sets(records))


def oriented(metric: str, value: float) -> float:
    """A value turned so that more is better; perplexity becomes g = -NLL per token."""
    if metric == "quality/perplexity":
        return -math.log(value)
    return -value if METRICS[metric].better == "lower" else value


def parity(records: Sequence[Record], seed: int = 0) -> Parity:
    """The point form over Records of one sweep under equal conditions.

    Args:
        records: one autoregressive Record (the baseline; of several implementations of it the fastest) and diffusion
            Records of one model over k; failed ones are left out.
        seed: of the bootstrap that gives the speedups their intervals.

    Raises:
        RecordError: conditions differ, or a side has two Records where one belongs.
    """
    finished = [record for record in records if record.status == "finished"]
    check_conditions(finished)
    baselines = [record for record in finished if record.family == "autoregressive"]
    candidates = sorted((record for record in finished if record.family == "diffusion"), key=steps_of)
    _refuse_doubles(candidates)
    baseline = choose_baseline(baselines)
    slow = slow_phrase(baseline)
    rng = np.random.default_rng(seed)
    speedups = tuple(s for c in candidates if baseline and (s := _speedup(baseline, c, rng)) is not None)
    judged = [
        curve for key in JUDGED if (curve := _curve(key, baseline, candidates)).values and curve.baseline is not None
    ]
    beside = tuple(curve for key in BESIDE if (curve := _curve(key, baseline, candidates)).values)
    where = conditions_phrase(finished)
    metrics = tuple(
        _judge(curve, beside, speedups, (baseline, candidates[0]), where, slow) for curve in judged if baseline
    )
    status = _status(baseline, candidates, metrics)
    return Parity(
        status=status,
        sentence=metrics[0].sentence if metrics else _no_verdict(status, speedups, where, slow),
        headline=metrics[0].curve.metric if metrics else None,
        baseline=baseline.model if baseline else None,
        candidate=candidates[0].model if candidates else None,
        steps=tuple(steps_of(record) for record in candidates),
        prompts=len(finished[0].outputs) if finished else 0,
        where=where,
        baseline_choice=baseline_phrase(baseline, baselines),
        identities=tuple(record.identity for record in finished),
        conditions=dict(finished[0].conditions) if finished else {},
        metrics=metrics,
        beside=beside,
        speedups=speedups,
        warnings=tuple(_warnings(baseline, candidates, metrics)) if baseline and candidates else (),
        seed=seed,
    )


def _refuse_doubles(candidates: Sequence[Record]) -> None:
    models = sorted({record.model for record in candidates})
    if len(models) > 1:
        raise RecordError(f"one diffusion model at a time can be compared, found {', '.join(models)}")
    seen: dict[int, Record] = {}
    for record in candidates:
        if (other := seen.setdefault(steps_of(record), record)) is not record:
            raise RecordError(f"two Records of {record.label}: {other.identity} and {record.identity}; drop one")


def _status(baseline: Record | None, candidates: Sequence[Record], metrics: Sequence[MetricParity]) -> Status:
    if baseline is None:
        return Status.MISSING_BASELINE
    if not candidates:
        return Status.MISSING_CANDIDATES
    return metrics[0].status if metrics else Status.NO_QUALITY


def _speedup(baseline: Record, candidate: Record, rng: np.random.Generator) -> Speedup | None:
    upper, lower = baseline.metrics.get("latency/e2e_ms"), candidate.metrics.get("latency/e2e_ms")
    if upper is None or not lower:
        return None
    interval = speedup_interval(baseline, candidate, rng)
    return Speedup(
        steps=steps_of(candidate),
        ratio=upper / lower,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        baseline_ms=upper,
        candidate_ms=lower,
    )


def _curve(metric: str, baseline: Record | None, candidates: Sequence[Record]) -> Curve:
    sides = [record.metrics for record in (baseline, *candidates) if record is not None]

    def anywhere(key: str) -> float | None:  # floor and human texts are the same for every job of a set
        return next((metrics[key] for metrics in sides if key in metrics), None)

    return Curve(
        metric=metric,
        baseline=baseline.metrics.get(metric) if baseline else None,
        values=tuple((steps_of(c), c.metrics[metric]) for c in candidates if metric in c.metrics),
        floor=anywhere(f"{metric}_floor"),
        human=anywhere(f"{metric}_human"),
    )


def _judge(
    curve: Curve,
    beside: Sequence[Curve],
    speedups: Sequence[Speedup],
    sides: tuple[Record, Record],
    where: str,
    slow: str,
) -> MetricParity:
    """S_parity of one metric: the smallest k with f(k) >= Q."""
    assert curve.baseline is not None
    target = oriented(curve.metric, curve.baseline)
    deltas = tuple((steps, oriented(curve.metric, value) - target) for steps, value in curve.values)
    reached = next((steps for steps, delta in deltas if delta >= 0), None)
    best = max(deltas, key=lambda pair: pair[1])[0]
    entropy = next((item for item in beside if item.metric == "quality/entropy"), None)
    ratios = {item.steps: (item.ratio, item.low, item.high) for item in speedups}
    told: dict[str, Any] = {
        "metric": curve.metric,
        "names": tuple(named(side) for side in sides),
        "baseline": curve.baseline,
        "values": dict(curve.values),
        "reached": reached,
        "best": best,
    }
    return MetricParity(
        curve=curve,
        status=Status.NOT_REACHED if reached is None else Status.REACHED,
        deltas=deltas,
        s_parity=reached,
        title=metric_title(**told, ratio=ratios[reached][0] if reached in ratios else None),
        sentence=metric_sentence(
            **told,
            canvas=sides[1].canvas,
            ratios=ratios,
            entropy=(entropy.baseline, dict(entropy.values)) if entropy and entropy.baseline is not None else None,
            where=where,
            slow=slow,
        ),
    )


def _no_verdict(status: Status, speedups: Sequence[Speedup], where: str, slow: str) -> str:
    ratios = ", ".join(f"{item.ratio:.2g}x at k = {item.steps}" for item in speedups)
    times = f"; speed against the baseline: {ratios}{slow and f' ({slow})'}" if ratios else ""
    said = f"{status.value.replace('_', ' ')}; {where}" if where else status.value.replace("_", " ")
    return f"No parity verdict ({said}){times}: {status.next_step}."


# ----------------------------------------------------------------------------------------------------------------
# What speaks against the numbers (the gates of docs/metrics.md that need no further measurement)


def _warnings(baseline: Record, candidates: Sequence[Record], metrics: Sequence[MetricParity]) -> list[str]:
    sides = (baseline, *candidates)
    found = [_listed("empty outputs", sides, "quality/empty_share", lambda share: share > 0.02)]
    own = baseline.metrics.get("quality/length_bytes")
    if own:
        unequal = [
            f"{c.label} {length / own:.0%}"
            for c in candidates
            if (length := c.metrics.get("quality/length_bytes")) is not None
            and min(length / own, own / max(length, 1e-9)) < 0.9
        ]
        found.append(
            f"realised length against {baseline.label}'s: {', '.join(unequal)}; perplexity is unsafe" if unequal else ""
        )
    found.append(slow_phrase(baseline))
    found.append(_listed("throttled clocks", sides, "hardware/throttled", lambda share: share > 0))
    for item in metrics:
        curve, short = item.curve, item.curve.metric.partition("/")[2]
        if curve.floor is not None and curve.baseline is not None:
            above = oriented(curve.metric, curve.baseline) - oriented(curve.metric, curve.floor)
            if above <= 0:
                found.append(f"{short} ranks {baseline.label} no higher than its floor: it cannot tell parity")
        if item.s_parity is not None:
            lost = [str(steps) for steps, delta in item.deltas if steps > item.s_parity and delta < 0]
            found.append(f"{short} falls below parity again at k = {', '.join(lost)}" if lost else "")
    return [text for text in found if text]


def _listed(what: str, sides: Sequence[Record], key: str, bad: Callable[[float], bool]) -> str:
    """A warning that lists the Records whose share is bad; empty when there is none."""
    bad_ones = [f"{r.label} {r.metrics[key]:.0%}" for r in sides if key in r.metrics and bad(r.metrics[key])]
    return f"{what}: {', '.join(bad_ones)}" if bad_ones else ""
