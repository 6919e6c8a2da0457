"""What is measured, and where the bars are. Pure data; ratios are to the matrix-product floor of the same run."""

from dataclasses import dataclass
from typing import Literal

FLOOR, OURS = "matmul floor", "llmbench"
OFFICIAL, SAME_LOOP = "official loop", "the same loop through Transformers' modules"
EAGER, STATIC = "Transformers eager", "Transformers static + compile"

VLLM, VLLM_ONE, OURS_ONE = "vLLM", "vLLM, one token", "llmbench, one token"
FLOOR_TURNS, OURS_TURNS = "matmul floor, in turns of one step", "llmbench, in turns of one step"
"""What the samples are of."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What every case has in common."""

    prompt: int  # P
    canvas: int  # G
    block: int
    steps: int  # k


FULL = Sizes(prompt=128, canvas=256, block=32, steps=64)
SMOKE = Sizes(prompt=8, canvas=16, block=8, steps=8)


@dataclass(frozen=True, kw_only=True)
class StepCase:
    """One step of a decoder at one batch size, against the floor."""

    name: str
    title: str
    model: Literal["llama", "llada", "nemotron"]
    batch: int
    cache: Literal["none", "dual"] = "none"
    commits: bool = False  # nemotron: the forward that writes a finished block, not one that denoises it
    bar: float | None = None  # the largest acceptable ratio to the floor
    goal: float | None = None


@dataclass(frozen=True, kw_only=True)
class WholeCase:
    """A whole generation, nothing excluded, against a reference of the same run."""

    name: str
    title: str
    model: Literal["llama", "llada"]
    batch: int
    cache: Literal["none", "dual"] = "none"
    better: Literal["lower", "higher"]
    bar: float
    goal: float


@dataclass(frozen=True, kw_only=True)
class VllmCase:
    """A whole generation of LLaMA beside one of vLLM, by the host clock."""

    name: str
    title: str
    model: Literal["llama"] = "llama"
    batch: int
    bar: float  # the smallest acceptable vLLM / llmbench


BLOCK_CASES = (
    StepCase(name="block-1", title="Nemotron block step, B=1", model="nemotron", batch=1, bar=1.20),
    StepCase(name="block-8", title="Nemotron block step, B=8", model="nemotron", batch=8, bar=1.20),
    StepCase(name="block-32", title="Nemotron block step, B=32", model="nemotron", batch=32),
    *(
        StepCase(
            name=f"commit-{batch}", title=f"Nemotron commit, B={batch}", model="nemotron", batch=batch, commits=True
        )
        for batch in (1, 8, 32)
    ),
)

STEP_CASES = (
    StepCase(name="ar-1", title="LLaMA inter-token, B=1", model="llama", batch=1, bar=1.16, goal=1.09),
    StepCase(name="ar-8", title="LLaMA inter-token, B=8", model="llama", batch=8, bar=1.20, goal=1.11),
    StepCase(name="ar-32", title="LLaMA inter-token, B=32", model="llama", batch=32, bar=1.28, goal=1.18),
    StepCase(name="full-1", title="LLaDA full canvas step, B=1", model="llada", batch=1, bar=1.12, goal=1.05),
    StepCase(name="full-8", title="LLaDA full canvas step, B=8", model="llada", batch=8, bar=1.13, goal=1.05),
    StepCase(name="full-32", title="LLaDA full canvas step, B=32", model="llada", batch=32, bar=1.12, goal=1.05),
    StepCase(
        name="dual-1",
        title="LLaDA dual cache, inner step, B=1",
        model="llada",
        batch=1,
        cache="dual",
        bar=1.17,
        goal=1.08,
    ),
    StepCase(
        name="dual-8",
        title="LLaDA dual cache, inner step, B=8",
        model="llada",
        batch=8,
        cache="dual",
        bar=1.23,
        goal=1.12,
    ),
    *BLOCK_CASES,
)

WHOLE_CASES = (
    *(
        WholeCase(
            name=f"ar-whole-{batch}",
            title=f"LLaMA, {FULL.canvas} tokens, B={batch}: L_e2e / (prefill + {FULL.canvas - 1} x inter-token)",
            model="llama",
            batch=batch,
            better="lower",
            bar=1.03,
            goal=1.01,
        )
        for batch in (1, 8, 32)
    ),
    WholeCase(
        name="full-whole-1",
        title=f"LLaDA k={FULL.steps}, B=1: times faster than the official loop",
        model="llada",
        batch=1,
        better="higher",
        bar=4.5,
        goal=5.0,
    ),
    WholeCase(
        name="dual-whole-1",
        title=f"LLaDA k={FULL.steps} dual cache, B=1: times faster than the official loop",
        model="llada",
        batch=1,
        cache="dual",
        better="higher",
        bar=6.5,
        goal=7.5,
    ),
)

VLLM_CASES = tuple(
    VllmCase(name=f"vllm-{batch}", title=f"LLaMA beside vLLM, {FULL.canvas} tokens, B={batch}", batch=batch, bar=1.05)
    for batch in (1, 8, 32, 64, 128)
)

BAR_HOST = "the official loop took 42 to 49 ms a step at B=1, and LLaMA through Transformers' eager `generate` 35.1"
"""What the host on which the bars of LLaDA's whole generations were set made of the loops that it launches."""

Case = StepCase | WholeCase | VllmCase

ALL: tuple[Case, ...] = (*STEP_CASES, *WHOLE_CASES, *VLLM_CASES)

MEMORY_BAR, MEMORY_GOAL = 1.6, 1.2
"""GiB reserved over the model, LLaDA full canvas at B=32."""

SETUP_BAR, SETUP_GOAL = 10.0, 4.0
"""Seconds of engine set-up (compile, capture) per shape."""
