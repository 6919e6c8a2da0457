"""Simulated studies: Records of both sides whose true quality and diversity are known.

A prompt's text has L ~ uniform{32..64} judge tokens. LLaMA's entropy rises with its temperature from 2.66 to 3.34 nats,
and its quality is a concave function G of it, as measured on the bundled pair (perplexity 4.4 when greedy, 16 at
entropy 3.1). Prompts of one document share a part of what is hard for both sides and of what is hard for one. The
candidate at k has entropy E and quality G(E) - shift: between the ends of the curve the truth of its Delta is -shift
whatever the noise is, because noise has mean 0 and L is independent of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llmbench.metrics import quality
from llmbench.record import Environment, Output, PromptScore, Record, Timing

Array = NDArray[np.float64]

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TASKS = ("story", "chat", "speech", "poem")
LEAST, MOST = 2.66, 3.34
"""Nats: LLaMA's entropy when greedy and at temperature 1."""

PREFIX = 32


def entropy_at(temperature: float) -> float:
    """LLaMA's true entropy at a temperature: slow at first, as measured."""
    return LEAST + (MOST - LEAST) * math.pow(temperature, 1.5)


def quality_at(entropy: float, bend: float = 2.0) -> float:
    """G: LLaMA's true quality at an entropy, in nats per token, oriented up.

    Args:
        entropy: nats.
        bend: minus half the curvature; 0 is a straight line.
    """
    above = entropy - LEAST
    return -1.48 - 2.0 * above - bend * above**2


def shift_for(delta: float, entropy: float, bend: float = 2.0) -> float:
    """The shift of a candidate whose true Delta is this: against the curve, and off it against its nearest end.

    Args:
        delta: nats per token.
        entropy: the candidate's.
        bend: of the curve.
    """
    reference = quality_at(min(max(entropy, LEAST), MOST), bend)
    return quality_at(entropy, bend) - reference - delta


@dataclass(frozen=True, kw_only=True)
class World:
    """What a study is drawn from."""

    prompts: int
    shifts: Sequence[float]  # of the candidate at each k, k rising: -Delta
    entropies: Sequence[float]  # of the candidate at each k
    per_document: int = 1
    icc: float = 0.0  # share of the variance that prompts of one document have in common
    spread: float = 0.35  # nats per token: sd over prompts of one side
    skew: float = 0.0  # s of a lognormal part of the candidate's NLL; 0: normal
    collapse: float = 0.0  # share of the candidate's texts that are 4 nats per token worse (the truth includes them)
    pareto: float = 0.0  # weight of a Pareto tail (shape 3) in the candidate's NLL
    looping: float = 0.0  # share of the tokens of the candidate's whole output inside repeated 4-grams
    relevance: float = 0.11  # the candidate's; LLaMA's is 0.11
    bend: float = 2.0
    steps: Sequence[int] = (8, 16, 32, 64)
    temperatures: Sequence[float] = TEMPERATURES  # of LLaMA's curve; 0.7 is one of them in any case
    batches: int = 1  # into which the prompts are cut


@dataclass(frozen=True, kw_only=True)
class _Prompts:
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    documents: tuple[str, ...]
    cluster: NDArray[np.int64]


def study(world: World, rng: np.random.Generator) -> list[Record]:
    """One study: LLaMA on its curve and at temperature 0.7 (which is timed), then the candidate at each k."""
    n = world.prompts
    cluster = np.arange(n) // world.per_document
    of = _Prompts(
        ids=tuple(f"p{i:04d}" for i in range(n)),
        tasks=tuple(TASKS[c % 4] for c in cluster),
        documents=tuple(f"d{c}" for c in cluster),
        cluster=cluster,
    )
    shared = _noise(world, of, rng)
    records = []
    for temperature in sorted({*world.temperatures, 0.7}):
        entropy = entropy_at(temperature)
        nll = -quality_at(entropy, world.bend) + world.spread * _mixed(shared, _noise(world, of, rng), 0.5)
        made = _record(world, of, rng, nll, entropy, 0.11, 0.02, temperature=temperature, steps=None)
        records.append(made if temperature == 0.7 else replace(made, role="curve", timings=()))
    for k, shift, entropy in zip(world.steps, world.shifts, world.entropies, strict=False):
        own = world.spread * _mixed(shared, _noise(world, of, rng), 0.5)
        nll = -quality_at(entropy, world.bend) + shift + own + _tail(world, n, rng)
        record = _record(world, of, rng, nll, entropy, world.relevance, world.looping or 0.02, temperature=0.7, steps=k)
        records.append(record)
    return records


def _noise(world: World, of: _Prompts, rng: np.random.Generator) -> Array:
    """Standard normal, with the part that prompts of a document have in common."""
    common = rng.standard_normal(int(of.cluster[-1]) + 1)[of.cluster]
    return _mixed(common, rng.standard_normal(world.prompts), world.icc)


def _mixed(one: Array, other: Array, share: float) -> Array:
    return math.sqrt(share) * one + math.sqrt(1 - share) * other


def _tail(world: World, n: int, rng: np.random.Generator) -> Array:
    """What the candidate's NLL has besides, of mean 0: a lognormal, collapses, a Pareto tail."""
    made = np.zeros(n)
    if world.skew:
        made += np.exp(world.skew * rng.standard_normal(n) - world.skew**2 / 2) - 1
    if world.collapse:
        made += 4.0 * ((rng.random(n) < world.collapse) - world.collapse)
    if world.pareto:
        made += world.pareto * (rng.pareto(3.0, n) - 0.5)
    return made


def _record(
    world: World,
    of: _Prompts,
    rng: np.random.Generator,
    nll: Array,
    entropy: float,
    relevance: float,
    repetition: float,
    *,
    temperature: float,
    steps: int | None,
) -> Record:
    """A Record with these NLL per token."""
    n = world.prompts
    size = rng.integers(PREFIX, 65, size=n)
    varied = (entropy + 0.15 * _noise(world, of, rng)).tolist()
    total = nll * size
    others = (total + (relevance + 0.12 * rng.standard_normal((2, n))) * size).T.tolist()
    sizes, totals = size.tolist(), total.tolist()
    batch = [i % world.batches for i in range(n)]
    outputs = [
        Output(
            prompt_id=name, task=of.tasks[i], prompt=f"prompt {name}", text="x" * 4 * sizes[i], batch=batch[i],
            tokens=sizes[i], utf8_bytes=4 * sizes[i], stopped=False, document=of.documents[i],
        )
        for i, name in enumerate(of.ids)
    ]  # fmt: skip
    scores = [
        PromptScore(
            prompt_id=name, subject="output", utf8_bytes=4 * sizes[i], nll_nats=totals[i], judged_tokens=sizes[i],
            entropy_nats=varied[i], diversity_tokens=PREFIX, text_tokens=sizes[i],
            repeated_tokens=round(repetition * sizes[i]), entropy_prefixes=((PREFIX, varied[i]),),
            other_nll_nats=tuple(others[i]), shared_4grams=0.05,
        )
        for i, name in enumerate(of.ids)
    ]  # fmt: skip
    if steps is None and temperature == 0.7:
        scores += [_prompt_tail(name, length) for name, length in zip(of.ids, sizes, strict=True)]
    record = Record(
        identity=f"{'llada' if steps else 'llama'}{steps or 0:03d}{temperature:g}",
        model="llada" if steps else "llama",
        family="diffusion" if steps else "autoregressive",
        steps=steps,
        status="finished",
        reason=None,
        started_at="2026-11-30T10:00:00+00:00",
        duration_s=1.0,
        config={"model": {"decoder": {"kind": "diffusion" if steps else "autoregressive"}}},
        conditions=_conditions(temperature, "llada" if steps else "llama"),
        signatures={"judge": "simulated@0"},
        environment=_ENVIRONMENT,
        partition=tuple(of.ids[b :: world.batches] for b in range(world.batches)),
        outputs=tuple(outputs),
        timings=tuple(timing(b, 0, 100.0, sum(sizes[b :: world.batches])) for b in range(world.batches)),
        canvas=64,
        scores=tuple(scores),
    )
    return replace(record, metrics=_metrics(record))


def timing(batch: int, repeat: int, e2e_ms: float, tokens: int) -> Timing:
    """A batch in a repeat; both clocks agree."""
    return Timing(
        batch=batch, repeat=repeat, e2e_ms=e2e_ms, e2e_wall_ms=e2e_ms, prefill_ms=None, forwards=64, tokens=tokens,
        utf8_bytes=None,
    )  # fmt: skip


def _prompt_tail(name: str, size: int) -> PromptScore:
    """The floor: 5 nats per token, and 0.3 more under another prompt."""
    return PromptScore(
        prompt_id=name, subject="prompt_tail", utf8_bytes=4 * size, nll_nats=5.0 * size, judged_tokens=size,
        other_nll_nats=(5.3 * size, 5.3 * size), text_tokens=size,
    )  # fmt: skip


def _metrics(record: Record) -> dict[str, float]:
    """The values that a verdict reads as logged; to make them all (`quality.compute`) takes longer than a verdict."""
    found = {key: quality.ratio(key, quality.per_prompt(record, key).values()) for key in _LOGGED}
    return {key: value for key, value in found.items() if value is not None}


_LOGGED = ("quality/perplexity", "quality/bits_per_byte", "quality/entropy")

_ENVIRONMENT = Environment(
    device="cpu", device_name="simulated", driver=None, threads=1, load_average=None, python="3", platform="",
    versions={}, git_commit=None, git_dirty=None,
)  # fmt: skip


def _conditions(temperature: float, model: str) -> dict[str, str]:
    return {
        "device_name": "simulated",
        "device": "cpu",
        "dtype": "float32",
        "canvas": "64",
        "batch": "1",
        "seed": "0",
        "workload": "w",
        "judge": "j",
        "decoding.temperature": f"{temperature:g}",
        "decoding.checkpoint": model,
    }
