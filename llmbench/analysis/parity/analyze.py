"""At how many diffusion steps k does LLaDA match LLaMA's quality, what may be claimed, and how fast is it there?

    S_parity = min{k : f(k) >= Q},   speedup(k) = L_e2e(LLaMA) / L_e2e(LLaDA at k)

is the point estimate: always shown. What is claimed is the test (`metric_test`): every k from the largest downward must
be shown to be no worse than a margin that was fixed before the run, in perplexity and bits per byte against LLaMA at
the temperature at which its text is equally varied (`curve`). Every quality is oriented up first. docs/method.md
explains why.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmbench.analysis.estimates import logged_mean
from llmbench.analysis.formats import called, named
from llmbench.analysis.implementations import implementation_name, row_labels, way_of
from llmbench.analysis.parity import interim
from llmbench.analysis.parity.checks import run_checks
from llmbench.analysis.parity.conditions import conditions_of
from llmbench.analysis.parity.grouping import Group, comparison_groups, group, is_external_server, seed_of
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.sides import is_measured
from llmbench.analysis.parity.speed import against_servers, claim, implementation_speedup, speedup
from llmbench.analysis.parity.speed_checks import speed_checks
from llmbench.analysis.parity.study import Study
from llmbench.analysis.parity.verdict import DIVERSITY, JUDGED, NFE, Curve, Implementation, MetricParity, Status
from llmbench.config.parity import ParityConfig
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
    speedups = tuple(made for k, side in pairs if (made := speedup(k, sides, side.records, rng)) is not None)
    found += speed_checks(sides, speedups, terms.options.thresholds.roofline_share)
    study = Study.of(sides)
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
        names=(called(baseline.model) if baseline else "baseline", named(candidate) if candidate else "candidate"),
        steps=steps,
        seeds=tuple(sorted({seed_of(record) for record in sides.records} - {""})),
        conditions=conditions_of(sides.records or finished),
        identities=tuple(record.identity for record in finished if record.role == "timed"),
        metrics=tuple(metrics),
        prefix=study.prefix,
        points=study.points(),
        beside=tuple(curve for key in (DIVERSITY, *BESIDE, NFE) if _says_more(curve := study.curve(key))),
        implementations=_implementations(sides, np.random.default_rng(seed)),
        speedups=speedups,
        external_servers=against_servers(sides, rng),
        checks=found,
        speed=claim(head, speedups, found),
        **_together(metrics),
        options=terms.options,
        alpha=terms.alpha,
        analyses=terms.analyses,
        unplanned=terms.unplanned if metrics else (),
        analysis=terms.analysis if metrics else None,
    )


def _says_more(curve: Curve) -> bool:
    """Whether a curve has values; that of forwards, whether they are not k everywhere."""
    return any(curve.metric != NFE or value != k for k, value in curve.values)


def _status(sides: Group, head: MetricParity | None, failed: Sequence[Record]) -> Status:
    """The headline's; a side that was asked for and died is invalid, one that was not asked for is missing."""
    died = {record.family for record in failed if record.role == "timed"}
    if not sides.baseline:
        return Status.INVALID if "autoregressive" in died else Status.MISSING_BASELINE
    if not sides.candidates:
        return Status.INVALID if "diffusion" in died else Status.MISSING_CANDIDATES
    return head.status if head else Status.NO_QUALITY


def _together(metrics: Sequence[MetricParity]) -> dict[str, Any]:
    """S_all: the smallest k from which on every eligible metric passes; one that is insensitive is not eligible."""
    eligible = [item for item in metrics if item.status not in (Status.INVALID, Status.INSENSITIVE)]
    reached = [item.reached for item in eligible if item.reached is not None]
    whole = bool(eligible) and len(reached) == len(eligible)
    return {"s_all": max(reached) if whole else None, "s_all_metrics": tuple(item.curve.metric for item in eligible)}


def _implementations(sides: Group, rng: np.random.Generator) -> tuple[Implementation, ...]:
    """Every way in which the baseline was run, the chosen one first, then the fastest.

    Times are those of one clock: a server has the host's alone.
    """
    clock = "latency/e2e_wall_ms" if any(map(from_server, sides.implementations)) else "latency/e2e_ms"
    labels = row_labels(sides.implementations)
    ways: dict[tuple[str | None, ...], list[Record]] = {}
    for record in sides.implementations:
        ways.setdefault(way_of(record), []).append(record)
    chosen = {record.identity for record in sides.baseline.records} if sides.baseline else set()
    made = [
        Implementation(
            label=labels[id(members[0])],
            e2e_ms=logged_mean(members, clock),
            name=implementation_name(members[0], sides.implementations),
            identities=tuple(record.identity for record in members),
            speedup=implementation_speedup(sides, members, rng) if members[0].identity not in chosen else None,
        )
        for members in ways.values()
    ]
    order = {item.label: item.e2e_ms if item.e2e_ms is not None else math.inf for item in made}
    return tuple(sorted(made, key=lambda item: (chosen.isdisjoint(item.identities), order[item.label])))
