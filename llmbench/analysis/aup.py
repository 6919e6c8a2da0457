"""AUP, accuracy under parallelism: how much accuracy is left when more tokens are written per forward.

d3LLM (Qian et al. 2026, arXiv:2601.07568) scores a diffusion model's whole trade-off in one number that no hardware
enters: over settings i with rho_i tokens per forward and accuracy y_i in percent, rho rising,

    AUP = rho_1 y_1 + sum over i > 1 of (rho_i - rho_(i-1)) (y_i W(y_i) + y_(i-1) W(y_(i-1))) / 2,
    W(y) = min(exp(-3 (1 - y / y_max)), 1),

where settings that fall more than 5 points below y_1 are left out, and y_max is the best accuracy of any method on the
same prompts; here that is any Record of the sweep, the autoregressive side included. So AUPs compare inside one sweep.
It is a summary and no test: it has no interval, and the verdict does not use it.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from llmbench.record import Record, timed

ALPHA = 3.0
"""How hard W punishes lost accuracy."""

SLACK = 5.0
"""Percentage points below the first setting that still count."""

_ACCURACY, _RHO = "quality/accuracy", "throughput/tokens_per_forward"

_SETTINGS = frozenset({"seed", "decoding.threshold", "decoding.factor"})
"""What may differ along one curve, steps besides: how fast the same method is driven."""


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """One method's curve."""

    model: str
    conditions: dict[str, str]  # what all of its Records share
    points: tuple[tuple[float, float], ...]  # (tokens per forward, accuracy in percent), rising
    kept: int  # of them, not left out by SLACK
    best: float  # y_max, percent
    aup: float


def tradeoffs(records: Iterable[Record]) -> list[Tradeoff]:
    """The curves of a sweep: one per diffusion model and method with at least two settings and checked answers.

    Seeds of one setting are averaged. A sweep in which nobody is ever right has none.
    """
    known = [record for record in timed(records) if record.status == "finished" and _ACCURACY in record.metrics]
    methods: dict[tuple[str, tuple[tuple[str, str], ...]], list[Record]] = {}
    for record in known:
        if record.family == "diffusion" and record.metrics.get(_RHO, 0.0) > 0:
            shared = tuple(sorted(item for item in record.conditions.items() if item[0] not in _SETTINGS))
            methods.setdefault((record.model, shared), []).append(record)
    found = []
    for (model, shared), members in methods.items():
        workload = dict(shared).get("workload")
        best = max(100 * r.metrics[_ACCURACY] for r in known if r.conditions.get("workload") == workload)
        points = _points(members)
        if len(points) > 1 and best > 0:
            kept = _kept(points)
            found.append(
                Tradeoff(
                    model=model,
                    conditions=dict(shared),
                    points=points,
                    kept=len(kept),
                    best=best,
                    aup=aup(points, best),
                )
            )
    return found


def aup(points: Sequence[tuple[float, float]], best: float) -> float:
    """Accuracy under parallelism; see the module docstring.

    Args:
        points: (tokens per forward > 0, accuracy in percent), at least one, in any order.
        best: y_max in percent, > 0.
    """
    kept = _kept(sorted(points))
    weighted = [(rho, y * min(math.exp(-ALPHA * (1 - y / best)), 1.0)) for rho, y in kept]
    first_rho, first_y = kept[0]
    return first_rho * first_y + sum(
        (rho - before) * (y + y_before) / 2 for (before, y_before), (rho, y) in itertools.pairwise(weighted)
    )


def _kept(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of the sorted points that are not too far below the first."""
    return [(rho, y) for rho, y in points if y >= points[0][1] - SLACK - 1e-9]


def _points(records: Sequence[Record]) -> tuple[tuple[float, float], ...]:
    """One point per setting, seeds averaged, by tokens per forward."""
    settings: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        own = tuple(record.conditions.get(key) for key in sorted(_SETTINGS - {"seed"}))
        settings.setdefault((record.steps, *own), []).append(record)
    return tuple(
        sorted(
            (fmean(r.metrics[_RHO] for r in members), 100 * fmean(r.metrics[_ACCURACY] for r in members))
            for members in settings.values()
        )
    )
