"""At how many diffusion steps k does LLaDA match LLaMA's quality, what may be claimed, and how fast is it there?

    S_parity = min{k : f(k) >= Q},   speedup(k) = L_e2e(LLaMA) / L_e2e(LLaDA at k)

is the point estimate: always shown. What is claimed is the test (`metric_test`): every k from the largest downward must
be shown to be no worse than a margin that was fixed before the run, in perplexity and bits per byte against LLaMA at
the temperature at which its text is equally varied (`curve`). Every quality is oriented up first. docs/method.md
explains why.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmbench.analysis.formats import named
from llmbench.analysis.parity import interim
from llmbench.analysis.parity.bounds import SKEW_CLUSTERS, Bound, Ratio, bound
from llmbench.analysis.parity.checks import length_check, run_checks
from llmbench.analysis.parity.curve import Knot, Match, kept_knots, mixed
from llmbench.analysis.parity.grouping import (
    FULL_NUCLEUS,
    Group,
    comparison_groups,
    group,
    is_external_server,
    nucleus,
    seed_of,
)
from llmbench.analysis.parity.metric_test import (
    Compared,
    Terms,
    at_equal_entropy,
    both_judges,
    decide,
    delta_test,
    directly,
    needed,
)
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.sides import Side, is_measured, orientation, side_value
from llmbench.analysis.parity.speed import against_server, claim, speedup
from llmbench.analysis.parity.speed_checks import speed_checks
from llmbench.analysis.parity.sums import (
    Sums,
    common_prefix,
    documents_of,
    entropy_reader,
    metric_sums,
    ratios_of,
    reader,
    usable_points,
)
from llmbench.analysis.parity.text_checks import TextChecks, halves, no_spread
from llmbench.analysis.parity.verdict import (
    DIVERSITY,
    JUDGED,
    MATCHED,
    Check,
    CheckName,
    Conditions,
    Curve,
    CurvePoint,
    DeltaTest,
    Implementation,
    MetricParity,
    Status,
)
from llmbench.config.parity import ParityConfig
from llmbench.metrics import quality
from llmbench.record import Record, from_server

BESIDE = ("quality/relevance", "quality/shared_4grams", "quality/repetition", "quality/distinct_2")
"""Shown beside the judged metrics."""


def verdicts(
    records: Iterable[Record],
    seed: int = 0,
    options: ParityConfig | None = None,
    history: Sequence[interim.PastAnalysis] = (),
) -> tuple[Parity, ...]:
    """One `Parity` for every set of comparable Records of a sweep.

    Args:
        records: finished ones; a failed one leaves its k, or its side, missing.
        seed: of the bootstrap of times.
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
    failed = [record for record in records if record.status != "finished" and not is_external_server(record)]
    terms = interim.terms(sides, [record for record in failed if record.role == "timed"], options, history)
    rng = np.random.default_rng(seed)
    found = run_checks(sides, failed, terms.options.thresholds)
    pairs = [(side.steps or 0, side) for side in sides.candidates]
    speedups = tuple(made for k, side in pairs if (made := speedup(k, sides, side, rng)) is not None)
    found += speed_checks(sides, speedups, terms.options.thresholds.roofline_share)
    study = _Study.of(sides)
    metrics: list[MetricParity] = []
    if sides.baseline and sides.candidates:
        for key in JUDGED:
            if any(is_measured(side.records, key) for side in sides.sides):
                made_of, more = study.metric(key, found, terms)
                metrics.append(made_of)
                found += tuple(check for check in more if check not in found)
    head = metrics[0] if metrics else None
    steps = tuple(k for k, _ in pairs)
    candidate = sides.candidates[0].records[0] if sides.candidates else None
    baseline = sides.baseline.records[0] if sides.baseline else None
    return Parity(
        status=_status(sides, head, failed),
        headline=head.curve.metric if head else None,
        baseline=baseline.model if baseline else None,
        candidate=candidate.model if candidate else None,
        names=(named(baseline) if baseline else "baseline", named(candidate) if candidate else "candidate"),
        steps=steps,
        seeds=tuple(sorted({seed_of(record) for record in sides.records} - {""})),
        conditions=_conditions(sides, finished),
        identities=tuple(record.identity for record in finished if record.role == "timed"),
        metrics=tuple(metrics),
        prefix=study.prefix,
        points=study.points(),
        beside=tuple(curve for key in (DIVERSITY, *BESIDE) if (curve := study.curve(key)).values),
        implementations=_implementations(sides),
        speedups=speedups,
        external_servers=tuple(against_server(side, sides, rng) for side in sides.external_servers),
        checks=found,
        speed=claim(head, speedups, found),
        **_together(metrics),
        options=terms.options,
        alpha=terms.alpha,
        analyses=terms.analyses,
        unplanned=terms.unplanned if metrics else (),
        analysis=terms.analysis if metrics else None,
    )


def _status(sides: Group, head: MetricParity | None, failed: Sequence[Record]) -> Status:
    """The headline's; a side that was asked for and died is invalid, one that was not asked for is missing."""
    died = {record.family for record in failed if record.role == "timed"}
    if not sides.baseline:
        return Status.INVALID if "autoregressive" in died else Status.MISSING_BASELINE
    if not sides.candidates:
        return Status.INVALID if "diffusion" in died else Status.MISSING_CANDIDATES
    return head.status if head else Status.NO_QUALITY


@dataclass(frozen=True, kw_only=True)
class _Study:
    """The texts of both sides: what every metric of a set is tested with."""

    sides: Group
    prefix: int | None  # judge tokens over which entropy is taken

    @classmethod
    def of(cls, sides: Group) -> "_Study":
        return cls(sides=sides, prefix=common_prefix((*sides.sides, *sides.curve)))

    def curve(self, metric: str) -> Curve:
        """The values of both sides; floor and human texts are the same for every job of a set."""
        members = [record for side in self.sides.sides for record in side.records]

        def value(side: Side) -> float | None:
            if metric != DIVERSITY or self.prefix is None:
                return side.value(metric)
            return quality.ratio(metric, _terms(side, self.prefix).values())

        def anywhere(key: str) -> float | None:
            return next((record.metrics[key] for record in members if key in record.metrics), None)

        values = [(side.steps or 0, value(side)) for side in self.sides.candidates]
        floor = anywhere(f"{metric}_floor")
        known = self.sides.baseline.records[0] if self.sides.baseline else None
        return Curve(
            metric=metric,
            baseline=value(self.sides.baseline) if self.sides.baseline else None,
            values=tuple((k, found) for k, found in values if found is not None),
            floor=floor,
            human=anywhere(f"{metric}_human"),
            floor_text=(quality.floor_subject(known, metric) or "") if known and floor is not None else "",
        )

    def points(self) -> tuple[CurvePoint, ...]:
        """The baseline over temperature."""
        usable = usable_points(self.sides.curve, MATCHED[0], entropy_reader(self.prefix))
        knots = [(side, quality.ratio(DIVERSITY, _terms(side, self.prefix).values())) for side in usable]
        kept: list[float] = []
        made = []
        for side, entropy in knots:
            if entropy is None or side.temperature is None:
                continue
            keeps = not kept or entropy - kept[-1] >= _LEAST_STEP
            kept += [entropy] if keeps else []
            values = tuple((key, found) for key in MATCHED if (found := side.value(key)) is not None)
            made.append(CurvePoint(temperature=side.temperature, entropy=entropy, values=values, kept=keeps))
        return tuple(made)

    def metric(
        self, key: str, found: tuple[Check, ...], terms: interim.Terms
    ) -> tuple[MetricParity, tuple[Check, ...]]:
        """Point estimate and test of one metric, and the Checks that its own sums and texts made."""
        made, more = self._tested(key, found, terms)
        second = f"{key}_second"
        if key in MATCHED and any(is_measured(side.records, second) for side in self.sides.sides):
            other, also = self._tested(second, (*found, *more), terms)
            made, more = both_judges(made, other), (*more, *also)
        return made, more

    def _tested(
        self, key: str, found: tuple[Check, ...], terms: interim.Terms
    ) -> tuple[MetricParity, tuple[Check, ...]]:
        base = key.removesuffix("_second")
        under = Terms(margin=getattr(terms.options.margins, base.partition("/")[2]), alpha=terms.alpha)
        steps = [side.steps or 0 for side in self.sides.candidates]
        steps = sorted({*steps, *(check.steps for check in found if check.steps is not None)})
        read_entropy = entropy_reader(self.prefix)
        points = usable_points(self.sides.curve, key, read_entropy) if base in MATCHED else []
        sums, more = metric_sums(self.sides, key, points)
        entropies = None
        if sums is not None and base in MATCHED:
            entropies = ratios_of((*self.sides.candidates, *points), read_entropy, sums.prompts)
            if entropies is None or not points:
                values: dict[str, float | str] = {"points": float(len(points))}
                sums, more = None, (_unusable(CheckName.CURVE, key, values),)
        if sums is not None and sums.by.count - sums.by.strata < 2:
            sums, more = None, (_unusable(CheckName.FEW, key, {"prompts": float(len(sums.prompts))}),)
        curve = self.curve(key)
        if sums is None:
            prompts = [o.prompt_id for o in self.sides.baseline.records[0].outputs] if self.sides.baseline else []
            by = documents_of(self.sides.records, prompts)
            return decide(curve, (), steps, (*found, *more), under, by), more
        tests, checks, room = self._compared(sums, entropies, points, key, under, terms)
        checks = [*more, *checks]
        made = decide(curve, tests, steps, (*found, *checks), under, sums.by)
        if made.status is Status.UNDECIDED and tests:
            made = replace(made, prompts_needed=needed(tests[-1], room, under, _for_skew(tests[-1])))
        return made, tuple(checks)

    def _compared(
        self,
        sums: Sums,
        entropies: Sequence[Ratio] | None,
        points: Sequence[Side],
        key: str,
        under: Terms,
        terms: interim.Terms,
    ) -> tuple[list[DeltaTest], list[Check], list[tuple[float, float]]]:
        """The tests at every k, the Checks on the texts, and room and sd of the Checks at the largest k."""
        candidates = self.sides.candidates
        sides = [self.sides.baseline] if self.sides.baseline else []
        ratios = [sums.baseline, *sums.candidates.values()]
        checks = [
            check
            for side, own in zip((*sides, *candidates), ratios, strict=True)
            if (check := no_spread(own, side, key)) is not None
        ]
        knots: list[Knot] = []
        texts: TextChecks | None = None
        lengths: list[Ratio] | None = None
        if entropies is not None and self.sides.baseline is not None:
            at = zip(points, entropies[len(candidates) :], sums.curve, strict=True)
            every = [Knot(temperature=s.temperature or 0.0, entropy=e, quality=q) for s, e, q in at]
            knots, _ = kept_knots(every)
            kept = [points[every.index(knot)] for knot in knots]
            texts = TextChecks(self.sides.baseline, kept, sums.prompts, sums.by, self.prefix)
            lengths = ratios_of(kept, reader("quality/length_bytes"), sums.prompts)
        floor = _Floor(self.sides, key, points, knots, sums)
        tests, room = [], list[tuple[float, float]]()
        for i, side in enumerate(candidates):
            value, steps = sums.candidates[side.steps or 0], side.steps or 0
            if entropies is None:
                compared = directly(steps, value, sums.baseline)
            else:
                compared = at_equal_entropy(steps, value, entropies[i], knots, sums.by)
            tests.append(delta_test(compared, knots, sums.by, under, floor.of(compared)))
            if texts is not None and not key.endswith("_second"):
                own = texts.of(side, compared.matches[0], under.alpha)
                room = halves(own)
                checks += [*own, *_length(side, compared.matches[0], lengths, sums.prompts, terms)]
        return tests, checks, room


_LEAST_STEP = 0.02


def _terms(side: Side, prefix: int | None) -> dict[str, quality.Terms]:
    from llmbench.analysis.parity.sums import summed

    read = entropy_reader(prefix)
    return summed([read(record) for record in side.records])


class _Floor:
    """The bound of reference - floor, over the prompts that have a floor text."""

    def __init__(self, sides: Group, key: str, points: Sequence[Side], knots: Sequence[Knot], sums: Sums) -> None:
        self._sums = sums
        below = sides.baseline.terms(f"{key}_floor") if sides.baseline else {}
        self._whole = all(prompt in below for prompt in sums.prompts)
        shared = tuple(prompt for prompt in sums.prompts if prompt in below)
        self._floor = ratios_of([sides.baseline], reader(f"{key}_floor"), shared) if sides.baseline and shared else None
        self._some = None
        if not self._whole and shared:
            self._some, _ = metric_sums(sides, key, points, frozenset(shared))
        self._sign, self._knots, self._points = orientation(key), knots, points
        self._places = [i for i, own in enumerate(sums.curve) if any(own is knot.quality for knot in knots)]

    def of(self, compared: Compared) -> Any:
        """How the bound is found at each match."""

        def found(match: Match) -> Bound | None:
            if self._floor is None:
                return None
            floor = self._floor[0] * self._sign
            if self._whole:
                return bound(match.reference - floor, self._sums.by)
            if self._some is None:
                return None
            at = [self._some.curve[place] for place in self._places]  # without the error of the place on the curve
            reference = mixed(at, match) if match.weights else self._some.baseline
            return bound(reference - floor, self._some.by)

        return found


def _length(
    side: Side, match: Match, lengths: Sequence[Ratio] | None, prompts: Sequence[str], terms: interim.Terms
) -> list[Check]:
    """Realised length against the baseline's at equal entropy; nothing where it is not known."""
    own = ratios_of([side], reader("quality/length_bytes"), prompts)
    if own is None or lengths is None:
        return []
    limit = terms.options.thresholds.length_share
    return [length_check(side, own[0].value, mixed(lengths, match).value, limit)]


def _unusable(name: CheckName, metric: str, values: dict[str, float | str]) -> Check:
    return Check(name=name, passed=False, blocks="verdict", metrics=(metric,), values=values)


def _for_skew(test: DeltaTest) -> float:
    return SKEW_CLUSTERS * test.skewness**2


def _together(metrics: Sequence[MetricParity]) -> dict[str, Any]:
    """S_all: the smallest k from which on every eligible metric passes; one that is insensitive is not eligible."""
    eligible = [item for item in metrics if item.status not in (Status.INVALID, Status.INSENSITIVE)]
    reached = [item.reached for item in eligible if item.reached is not None]
    whole = bool(eligible) and len(reached) == len(eligible)
    return {"s_all": max(reached) if whole else None, "s_all_metrics": tuple(item.curve.metric for item in eligible)}


def _implementations(sides: Group) -> tuple[Implementation, ...]:
    """Every way in which the baseline was run, the chosen one first; () where there was no choice."""
    chosen = sides.baseline.label if sides.baseline else ""
    times = {r.label: r.metrics.get("latency/e2e_ms") for r in sides.implementations}
    if len(times) < 2:
        return ()
    made = [Implementation(label=label, e2e_ms=time) for label, time in times.items()]
    return tuple(sorted(made, key=lambda item: item.label != chosen))


def _conditions(sides: Group, finished: Sequence[Record]) -> Conditions:
    """What both sides share, and the settings that may differ."""
    if not finished:
        return Conditions(device_name="")
    first = next((record for side in sides.sides for record in side.records), finished[0])
    shown = [side.records[0] for side in sides.sides] or [first]
    said: Mapping[str, str] = first.conditions
    nuclei = tuple(dict.fromkeys(map(nucleus, shown)))
    temperatures = [r.conditions["decoding.temperature"] for r in shown if "decoding.temperature" in r.conditions]
    seeds = {record.conditions["seed"] for record in shown if "seed" in record.conditions}
    seeds |= {record.conditions["seed"] for record in sides.records if "seed" in record.conditions}
    prompts = [output.prompt_id for output in first.outputs]
    return Conditions(
        device_name=said.get("device_name", ""),
        device="" if from_server(first) else said.get("device", ""),
        dtype="" if from_server(first) else said.get("dtype", ""),
        quantization=said.get("quantization", "none"),
        batch=said.get("batch", ""),
        canvas=said.get("canvas", ""),
        temperatures=tuple(dict.fromkeys(temperatures)),
        nuclei=() if nuclei == (FULL_NUCLEUS,) else nuclei,
        chat="decoding.chat" in said,
        prompts=len(prompts),
        documents=documents_of([first], prompts).count if prompts else 0,
        seeds=max(len(seeds), 1),
        judge=first.signatures.get("judge", "").partition("@")[0],
        second_judge=first.signatures.get("second_judge", "").partition("@")[0],
    )


def mean_entropy(side: Side, prefix: int | None) -> float | None:
    """A side's entropy over a prefix, in nats."""
    value = quality.ratio(DIVERSITY, _terms(side, prefix).values())
    return None if value is None or not math.isfinite(value) else value


__all__ = ["Parity", "parity", "side_value", "verdicts"]
