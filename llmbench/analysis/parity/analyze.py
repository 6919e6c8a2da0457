"""At how many diffusion steps k does LLaDA match LLaMA's quality, what may be claimed, and how fast is it there?

    S_parity = min{k : f(k) >= Q},   speedup(k) = L_e2e(LLaMA) / L_e2e(LLaDA at k)

is the point estimate: always shown. What is claimed is the test (`parity_test`): every k from the largest downward
must be shown to be no worse than a margin that was fixed before the run. Every quality is oriented up first: perplexity
enters as g = -NLL per token (nats), bits per byte with its sign turned. docs/method.md explains why.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmbench.analysis.parity import interim, sentences
from llmbench.analysis.parity.gates import LENGTH_METRICS, MISSING, gates
from llmbench.analysis.parity.grouping import Group, comparison_groups, group, is_external_server, seed_of
from llmbench.analysis.parity.paired_sums import measured, orientation, paired_sums, side_value
from llmbench.analysis.parity.parity_test import FEW_PROMPTS, Tested, run_test
from llmbench.analysis.parity.speed import against_server, claim, speedup
from llmbench.analysis.parity.speed_doubts import doubt_phrase
from llmbench.analysis.parity.verdict import DIVERSITY, JUDGED, Curve, Gate, MetricParity, Parity, Speedup, Status
from llmbench.config.parity import ParityConfig
from llmbench.record import Record, from_server

__all__ = ["Curve", "MetricParity", "Parity", "Speedup", "Status", "oriented", "parity", "verdicts"]

DIVERSITY_METRICS = (DIVERSITY, "quality/distinct_2")
NEED_DIVERSITY = LENGTH_METRICS
"""Metrics that reward repetition: they pass only together with entropy."""


def verdicts(
    records: Iterable[Record],
    seed: int = 0,
    options: ParityConfig | None = None,
    history: Sequence[interim.PastAnalysis] = (),
) -> tuple[Parity, ...]:
    """One `Parity` for every set of comparable Records of a sweep.

    Args:
        records: finished ones; a failed one leaves its k, or its side, missing.
        seed: of the bootstrap.
        options: margins, thresholds and planned analyses; None takes those that the Records were made under.
        history: the analyses that earlier sweeps made, oldest first.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    sets = comparison_groups(records)
    known, found = list(history), dict[int, Parity]()
    for place in sorted(range(len(sets)), key=lambda i: max(len(record.outputs) for record in sets[i])):
        found[place] = made = parity(sets[place], seed, options, known)
        if made.analysis is not None:
            known.append(made.analysis)  # fewer prompts first: more of them are another analysis
    return tuple(found[place] for place in range(len(sets)))


def oriented(metric: str, value: float) -> float:
    """A value turned so that more is better; perplexity becomes g = -NLL per token."""
    return -math.log(value) if metric == "quality/perplexity" else orientation(metric) * value


def parity(
    records: Sequence[Record],
    seed: int = 0,
    options: ParityConfig | None = None,
    history: Sequence[interim.PastAnalysis] = (),
) -> Parity:
    """The verdict over Records of one sweep under equal conditions; arguments as `verdicts`.

    Raises:
        RecordError: conditions differ, or a side has two Records where one belongs.
    """
    finished = sorted((record for record in records if record.status == "finished"), key=from_server)
    sides = group(finished)
    failed = [record for record in records if record.status == "failed" and not is_external_server(record)]
    terms = interim.terms(sides, failed, options, history)
    found = gates(sides, failed, terms.options.thresholds)
    rng = np.random.default_rng(seed)
    speedups = tuple(s for k, side in sides.candidates if (s := speedup(k, sides.baseline, side, rng)) is not None)
    others = tuple(against_server(side, sides, rng) for side in sides.external_servers)
    diversity_curves = tuple(curve for key in DIVERSITY_METRICS if (curve := _curve(key, sides)).values)
    where = sentences.conditions_phrase(finished)
    metrics: list[MetricParity] = []
    if sides.baseline and sides.candidates:
        for key in JUDGED:
            if any(measured(side, key) for _, side in sides.sides):
                made, more = _metric(_curve(key, sides), sides, found, terms, diversity_curves, speedups, where, rng)
                metrics.append(made)
                found += tuple(gate for gate in more if gate not in found)
    status = _status(sides, metrics, failed)
    speed, speed_sentence = claim(metrics[0] if metrics else None, sides, speedups, found)
    return Parity(
        status=status,
        sentence=metrics[0].sentence if metrics else _no_verdict(status, speedups, where, sides, terms, found),
        headline=metrics[0].curve.metric if metrics else None,
        baseline=sides.baseline[0].model if sides.baseline else None,
        candidate=sides.candidates[0][1][0].model if sides.candidates else None,
        steps=tuple(k for k, _ in sides.candidates),
        prompts=len(finished[0].outputs) if finished else 0,
        seeds=tuple(sorted({seed_of(record) for record in finished} - {""})),
        where=where,
        baseline_choice=sentences.baseline_phrase(sides.baseline, sides.implementations),
        identities=tuple(record.identity for record in finished),
        conditions=dict(finished[0].conditions) if finished else {},
        metrics=tuple(metrics),
        diversity_curves=diversity_curves,
        speedups=speedups,
        external_servers=others,
        gates=found if status is Status.INVALID or (sides.baseline and sides.candidates) else (),
        warnings=tuple(_warnings(metrics, terms)),
        speed=speed,
        speed_sentence=speed_sentence,
        **_together(metrics),
        options=terms.options,
        alpha=terms.alpha,
        analyses=terms.analyses,
        analysis=terms.analysis if metrics else None,
        seed=seed,
    )


def _status(sides: Group, metrics: Sequence[MetricParity], failed: Sequence[Record]) -> Status:
    """The headline's; a side that was asked for and died is invalid, one that was not asked for is missing."""
    died = {record.family for record in failed}
    if not sides.baseline:
        return Status.INVALID if "autoregressive" in died else Status.MISSING_BASELINE
    if not sides.candidates:
        return Status.INVALID if "diffusion" in died else Status.MISSING_CANDIDATES
    return metrics[0].status if metrics else Status.NO_QUALITY


def _curve(metric: str, sides: Group) -> Curve:
    """The values of both sides; floor and human texts are the same for every job of a set."""
    members = [record.metrics for _, side in sides.sides for record in side]

    def anywhere(key: str) -> float | None:
        return next((metrics[key] for metrics in members if key in metrics), None)

    values = [(k, side_value(side, metric)) for k, side in sides.candidates]
    return Curve(
        metric=metric,
        baseline=side_value(sides.baseline, metric) if sides.baseline else None,
        values=tuple((k, value) for k, value in values if value is not None),
        floor=anywhere(f"{metric}_floor"),
        human=anywhere(f"{metric}_human"),
    )


def _metric(
    curve: Curve,
    sides: Group,
    found: tuple[Gate, ...],
    terms: interim.Terms,
    diversity_curves: Sequence[Curve],
    speedups: Sequence[Speedup],
    where: str,
    rng: np.random.Generator,
) -> tuple[MetricParity, tuple[Gate, ...]]:
    """Point estimate and test of one metric, and the gates that its own sums do not pass."""
    key = curve.metric
    tested, prompts, more = _tested(key, sides, found, terms, rng)
    deltas = _deltas(curve)
    point = next((k for k, delta in deltas if delta >= 0), None)
    parts = sentences.SentenceParts(
        metric=key,
        names=(sentences.named(sides.baseline[0]), sentences.named(sides.candidates[0][1][0])),
        baseline=curve.baseline,
        values=dict(curve.values),
        point=point,
        best=max(deltas, key=lambda pair: pair[1], default=(None,))[0],
        lacking=_lacking(curve, sides),
        canvas=sides.candidates[0][1][0].canvas,
        ratios={item.steps: (item.ratio, item.low, item.high) for item in speedups},
        entropy=_entropy_of(diversity_curves),
        where=where,
        doubt=doubt_phrase(sides, terms.options.thresholds.roofline_share),
        margin=_margin(key, terms),
        diversity_margin=_margin(DIVERSITY, terms) if key in NEED_DIVERSITY else None,
        error=sentences.error_phrase(terms),
    )
    made = MetricParity(
        curve=curve,
        margin=parts.margin,
        diversity_margin=parts.diversity_margin,
        prompts=prompts,
        **{name: getattr(tested, name) for name in Tested.__dataclass_fields__},
        flags=sentences.flags(tested.reached, tested.stopped_at, tested.stopped_by, point, sorted(parts.values)),
        deltas=deltas,
        s_parity=point,
        title=sentences.title(tested, parts),
        sentence=sentences.sentence(tested, parts),
        point_sentence=sentences.point_sentence(parts),
    )
    return made, more


def _deltas(curve: Curve) -> tuple[tuple[int, float], ...]:
    """The f(k) - Q of the point estimate; () without a Q."""
    if curve.baseline is None:
        return ()
    target = oriented(curve.metric, curve.baseline)
    return tuple((k, oriented(curve.metric, value) - target) for k, value in curve.values)


def _lacking(curve: Curve, sides: Group) -> tuple[str, ...]:
    """The sides whose value is no number."""
    known: dict[int | None, float | None] = {None: curve.baseline, **dict(curve.values)}
    return tuple(side[0].label for k, side in sides.sides if known.get(k) is None)


def _tested(
    key: str, sides: Group, found: tuple[Gate, ...], terms: interim.Terms, rng: np.random.Generator
) -> tuple[Tested, int, tuple[Gate, ...]]:
    """The test of one metric, how many prompts it rests on, and the gates that its sums do not pass."""
    own, more = paired_sums(sides, key)
    varied = None
    if key in NEED_DIVERSITY:
        varied, lacking = paired_sums(sides, DIVERSITY)
        more += lacking
    blocked = [gate for gate in found if gate.blocks == "parity" and (not gate.metrics or key in gate.metrics)]
    whole = [*(gate for gate in blocked if gate.steps is None), *more]
    everything = "; ".join(f"{gate.name}: {gate.reason}" for gate in whole)
    if own is None or (key in NEED_DIVERSITY and varied is None):
        largest = _by_steps(blocked).get(sides.candidates[-1][0])
        reason = "; ".join(filter(None, [largest, everything]))
        return Tested(status=Status.INVALID, reason=reason), len(sides.baseline[0].outputs), more
    tested = run_test(
        own,
        varied,
        margin=_margin(key, terms),
        diversity_margin=_margin(DIVERSITY, terms),
        blocked=_by_steps(blocked),
        set_blocked=everything,
        alpha=terms.alpha,
        rng=rng,
    )
    return tested, len(own.prompts), more


def _margin(key: str, terms: interim.Terms) -> float:
    margin: float = getattr(terms.options.margins, key.partition("/")[2])
    return margin


def _entropy_of(diversity_curves: Sequence[Curve]) -> tuple[float, dict[int, float]] | None:
    curve = next((item for item in diversity_curves if item.metric == DIVERSITY), None)
    return (curve.baseline, dict(curve.values)) if curve and curve.baseline is not None else None


def _by_steps(blocked: Iterable[Gate]) -> dict[int, str]:
    """The reasons at each k that gates block."""
    reasons: dict[int, list[str]] = {}
    for gate in blocked:
        if gate.steps is not None:
            reasons.setdefault(gate.steps, []).append(f"{gate.name}: {gate.reason}")
    return {k: "; ".join(own) for k, own in reasons.items()}


# ----------------------------------------------------------------------------------------------------------------
# Several metrics together, and what is said besides


def _together(metrics: Sequence[MetricParity]) -> dict[str, Any]:
    """S_all: the smallest k from which on every eligible metric passes; one that is insensitive is not eligible."""
    eligible = [item for item in metrics if item.status not in (Status.INVALID, Status.INSENSITIVE)]
    reached = [item.reached for item in eligible if item.reached is not None]
    whole = bool(eligible) and len(reached) == len(eligible)
    return {"s_all": max(reached) if whole else None, "s_all_metrics": tuple(item.curve.metric for item in eligible)}


def _no_verdict(
    status: Status,
    speedups: Sequence[Speedup],
    where: str,
    sides: Group,
    terms: interim.Terms,
    found: Sequence[Gate],
) -> str:
    doubt = doubt_phrase(sides, terms.options.thresholds.roofline_share)
    ratios = ", ".join(f"{item.ratio:.2g}x at k = {item.steps}" for item in speedups)
    times = f"; speed against the baseline: {ratios}{doubt and f' ({doubt})'}" if ratios else ""
    missing = [gate for gate in found if gate.name == MISSING] if status is Status.INVALID else []
    reasons = [f"{gate.name}: {gate.reason}" for gate in missing]
    said = "; ".join(filter(None, [status.value.replace("_", " "), *reasons, where]))
    change = "; ".join(dict.fromkeys(gate.change for gate in missing)) or status.next_step
    return f"No parity verdict ({said}){times}: {change}."


def _warnings(metrics: Sequence[MetricParity], terms: interim.Terms) -> list[str]:
    """What blocks nothing and should be known."""
    found = [sentences.unplanned_phrase(terms)] if terms.unplanned and metrics else []
    if metrics and metrics[0].prompts < FEW_PROMPTS:
        count = "1 prompt" if metrics[0].prompts == 1 else f"{metrics[0].prompts} prompts"
        found.append(f"{count}: the bounds were tried with {FEW_PROMPTS} and more (docs/method.md)")
    for item in metrics:
        short = item.curve.metric.partition("/")[2]
        if item.s_parity is not None:
            lost = [str(steps) for steps, delta in item.deltas if steps > item.s_parity and delta < 0]
            found.append(f"{short} falls below parity again at k = {', '.join(lost)}" if lost else "")
    return [text for text in found if text]
