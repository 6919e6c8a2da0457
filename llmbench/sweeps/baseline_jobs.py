"""Which jobs of the baseline does a sweep plan by itself, beside those that were asked for?

Two kinds (`Job.role`), both only where a diffusion model is in the sweep under the same conditions.

*Curve* jobs write the baseline's texts at other temperatures, once and untimed: a verdict in perplexity compares texts
that are equally varied (docs/method.md). For every plain autoregressive setting that was asked for, every seed, and
every temperature of `parity.baseline_temperatures` (greedy once). A full job at such a temperature serves as that
point. Transformers' `generate` draws the curve where it is the only local baseline, a server whose
word counts where there is no local one at all: its weights are then known to be no other's. The curve is the plain
decoder's: a job with drafts has it drawn without them, also at its own temperature, because above 0 drafts write
another text of the same distribution.

*Retimed* jobs time the baseline again beside the candidates: after the last one, and before the first one where the
baseline's own job was taken over from an earlier process. A device drifts; what is timed on both sides of the
candidates shows by how much. `sweep.order=interleaved` times it directly before and after each of them.

The plan's order is baselines, their curves, candidates, baselines again. `sweeps.blocks` cuts it for several workers.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from llmbench.analysis.implementations import IMPLEMENTATION
from llmbench.analysis.parity.grouping import CHAT, VARIED
from llmbench.config.decoders import Autoregressive, Transformers
from llmbench.config.job import Job, TimingConfig
from llmbench.config.servers import ServerConfig, ServerDecoder
from llmbench.job.prepare import conditions, prepared_as
from llmbench.job.prepared import Prepared
from llmbench.sweeps.plan import Cell, common_axes

CPU_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
GPU_TEMPERATURES = tuple(i / 10 for i in range(11))

_Text = frozenset[tuple[str, str]]

_ONCE = TimingConfig(repeats=1, token_timing_repeats=0, memory_trace=False, profile=False, energy_seconds=0.0)
"""Of a job in which nothing is timed."""

_NOT_OF_SERVERS = ("device", "dtype", "engine", "quantization", CHAT)
"""Conditions of a comparison that need not be shared with a server: it runs elsewhere, and is asked as it likes."""


def with_curves(cells: Sequence[Cell]) -> list[Cell]:
    """The plan with the points of the baselines' curves, behind the baselines of the same checkpoint."""
    compared = Compared(cells)
    behind = {cell.prepared.checkpoint.digest: place for place, cell in enumerate(cells) if _is_baseline(cell)}
    planned: list[Cell] = []
    for place, cell in enumerate(cells):
        planned.append(cell)
        if behind.get(checkpoint := cell.prepared.checkpoint.digest) == place:
            own = [other for other in cells if _is_baseline(other) and other.prepared.checkpoint.digest == checkpoint]
            planned += _curves(own, compared)
    return planned


def with_retimed(cells: Sequence[Cell]) -> list[Cell]:
    """The plan with the baselines that are timed again around the candidates that are left to run.

    Servers are not (their device is not this one), nor what is timed once, from which no speedup can be claimed.

    Args:
        cells: the plan, in which what is taken over is marked.
    """
    compared = Compared(cells)
    left = {cell.prepared.identity for cell in cells if _is_candidate(cell) and cell.reused is None}
    baselines = [
        cell
        for cell in cells
        if _is_baseline(cell)
        and not isinstance(cell.prepared.job.model.decoder, ServerDecoder)
        and cell.prepared.job.timing.repeats > 1
        and any(candidate.prepared.identity in left for candidate in compared.timed_against(cell))
    ]
    if not baselines:
        return list(cells)
    if cells[0].prepared.job.sweep.order == "interleaved":
        beside: dict[str, list[Cell]] = {identity: [] for identity in left}
        for cell in baselines:
            for candidate in compared.timed_against(cell):
                beside.setdefault(candidate.prepared.identity, []).append(cell)
        return _interleaved(cells, {identity: beside[identity] for identity in left})
    first = next(place for place, cell in enumerate(cells) if cell.prepared.identity in left)
    before = [_retimed(cell, "before") for cell in baselines if cell.reused is not None]
    after = [_retimed(cell, "after") for cell in baselines]
    return [*cells[:first], *before, *cells[first:], *after]


def _interleaved(cells: Sequence[Cell], beside: Mapping[str, Sequence[Cell]]) -> list[Cell]:
    """The plan in which every candidate stands directly between timings of its baselines.

    Args:
        cells: the plan.
        beside: the baselines of each candidate that is left, by its identity.
    """
    planned: list[Cell] = []
    fresh: set[str] = set()  # baselines that were timed since the last job of another kind
    number = 0
    for cell in cells:
        own = cell.prepared.identity
        baselines = beside.get(own, ())
        if own in beside:
            number += 1
            planned += [_retimed(b, "before", number) for b in baselines if b.prepared.identity not in fresh]
        planned.append(cell)
        planned += [_retimed(b, "after", number) for b in baselines]
        if own in beside:
            fresh = {b.prepared.identity for b in baselines}
        elif cell.reused is None:
            fresh = {*fresh, own} if _is_baseline(cell) else set()
    return planned


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """The plan with its candidates shuffled, where `sweep.order=random` asks for that; else as it is.

    Equal plans and seeds give equal orders, whatever was taken over.
    """
    asked = cells[0].prepared.job.sweep
    if asked.order != "random":
        return list(cells)
    candidates = [cell for cell in cells if cell.family == "diffusion"]
    random.Random(asked.order_seed).shuffle(candidates)
    drawn = iter(candidates)
    return [next(drawn) if cell.family == "diffusion" else cell for cell in cells]


class Compared:
    """Which cells of a plan will be compared with each other."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._baselines = [cell for cell in cells if _is_baseline(cell)]
        self.texts = {_text(c.prepared) for c in self._baselines if not _is_drafted(c) or _temperature(c) == 0}
        self._candidates = [cell for cell in cells if _is_candidate(cell)]
        self._conditions = {
            cell.prepared.identity: conditions(cell.prepared, "", {}) for cell in (*self._baselines, *self._candidates)
        }

    def candidates(self, baseline: Cell) -> list[Cell]:
        """Those that a baseline stands beside."""
        return [candidate for candidate in self._candidates if self._agree(baseline, candidate)]

    def draws(self, baseline: Cell, candidates: Sequence[Cell]) -> bool:
        """Whether it is of the plainest kind that stands beside its candidates, with drafts or without.

        A server that stands apart never is.
        """
        beside = [other for other in self._baselines if any(self._agree(other, item) for item in candidates)]
        kinds = [type(other.prepared.job.model.decoder) for other in beside if not _stands_apart(other)]
        plainest = next((kind for kind in (Autoregressive, Transformers, ServerDecoder) if kind in kinds), None)
        return not _stands_apart(baseline) and type(baseline.prepared.job.model.decoder) is plainest

    def timed_against(self, baseline: Cell) -> list[Cell]:
        """Candidates whose times are divided by a local baseline's: of its seed, and nearest to its temperature.

        A baseline that reads no seed stands beside every seed.
        """
        return [item for item in self.candidates(baseline) if any(cell is baseline for cell in self._nearest(item))]

    def _nearest(self, candidate: Cell) -> list[Cell]:
        own = candidate.prepared.job
        beside = [
            cell
            for cell in self._baselines
            if not isinstance(cell.prepared.job.model.decoder, ServerDecoder)
            and self._agree(cell, candidate)
            and (cell.prepared.job.seed == own.seed or not cell.prepared.job.model.decoder.stochastic)
        ]
        gaps = {id(cell): abs(_temperature(cell) - _temperature(candidate)) for cell in beside}
        return [cell for cell in beside if gaps[id(cell)] == min(gaps.values())]

    def _agree(self, baseline: Cell, candidate: Cell) -> bool:
        server = any(isinstance(cell.prepared.job.model.decoder, ServerConfig) for cell in (baseline, candidate))
        own, other = (self._conditions[cell.prepared.identity] for cell in (baseline, candidate))
        return all(own.get(key) == other.get(key) for key in VARIED if not (server and key in _NOT_OF_SERVERS))


def _stands_apart(cell: Cell) -> bool:
    """Whether it is a server on whose texts and times no verdict rests."""
    decoder = cell.prepared.job.model.decoder
    return isinstance(decoder, ServerConfig) and not decoder.trust_same_hardware


def _is_candidate(cell: Cell) -> bool:
    return cell.family == "diffusion" and not _stands_apart(cell)


def _temperature(cell: Cell) -> float:
    return cell.prepared.job.model.decoder.temperature


def _is_drafted(cell: Cell) -> bool:
    return getattr(cell.prepared.job.model.decoder, "draft", None) is not None


def _is_baseline(cell: Cell) -> bool:
    return cell.family == "autoregressive" and cell.role == "timed"


def _curves(baselines: Sequence[Cell], compared: Compared) -> list[Cell]:
    """The points of the curves of one checkpoint, each once, and none that a full job gives."""
    found: dict[_Text, Cell] = {}
    for cell in baselines:
        candidates = compared.candidates(cell)
        if not candidates or not _is_judged(cell.prepared) or not compared.draws(cell, candidates):
            continue
        seeds = list(dict.fromkeys(other.prepared.job.seed for other in (cell, *candidates)))
        for seed in seeds:
            for temperature in _temperatures(cell):
                prepared = prepared_as(cell.prepared, _of_curve(cell.prepared.job, temperature, seed))
                text = _text(prepared)
                if text in compared.texts:
                    continue
                swept = _axes(cell.swept, prepared.job, several_seeds=len(seeds) > 1)
                if same := found.get(text):
                    found[text] = replace(same, swept=common_axes(same.swept, swept))
                else:
                    found[text] = replace(cell, prepared=prepared, swept=swept, merged=1)
    return list(found.values())


def _is_judged(prepared: Prepared) -> bool:
    """Whether texts are written that a judge scores."""
    return prepared.judge is not None and prepared.job.weights == "real" and not prepared.job.workload.synthetic


def _temperatures(cell: Cell) -> Sequence[float]:
    job = cell.prepared.job
    asked = job.parity.baseline_temperatures
    if asked is None:
        asked = GPU_TEMPERATURES if job.hardware.device == "cuda" else CPU_TEMPERATURES
    own = [_temperature(cell)] if asked and _is_drafted(cell) else []  # a plain full job is that point itself
    return sorted({*asked, *own})


def _of_curve(job: Job, temperature: float, seed: int) -> Job:
    """A baseline's plain texts at a temperature. BERTScore stays a condition, which must agree; it is not computed."""
    undrafted: dict[str, Any] = {"draft": None} if hasattr(job.model.decoder, "draft") else {}
    decoder = replace(job.model.decoder, temperature=temperature, **undrafted)
    metric = replace(job.metric, likelihood=False, roofline=False)
    return replace(job, role="curve", model=replace(job.model, decoder=decoder), seed=seed, metric=metric, timing=_ONCE)


def _text(prepared: Prepared) -> _Text:
    """What the texts of a job depend on: equal ones are written once, whatever times them."""
    unread = set(IMPLEMENTATION) if prepared.job.model.decoder.stochastic else {*IMPLEMENTATION, "seed"}
    return frozenset(pair for pair in conditions(prepared, "", {}).items() if pair[0] not in unread)


def _axes(swept: Mapping[str, str], job: Job, *, several_seeds: bool) -> dict[str, str]:
    """What tells a point from the other jobs of its sweep."""
    decoder = job.model.decoder
    kept = {key: value for key, value in swept.items() if key not in ("temperature", "seed")}
    seed = {"seed": str(job.seed)} if several_seeds and decoder.stochastic else {}
    return kept | seed | {"temperature": f"{decoder.temperature:g}"}


def _retimed(cell: Cell, when: Literal["before", "after"], number: int = 0) -> Cell:
    """A baseline's times alone, warm-up and the repeated batches; `number`: of the candidate beside it, 0 for all."""
    job = cell.prepared.job
    timing = replace(job.timing, token_timing_repeats=0, memory_trace=False, profile=False, energy_seconds=0.0)
    metric = replace(job.metric, likelihood=False, roofline=False)
    again = replace(job, role="retimed", retiming=when, retiming_number=number, metric=metric, timing=timing)
    return replace(cell, prepared=prepared_as(cell.prepared, again), merged=1, reused=None)
