"""Engines that serve diffusion models behind OpenAI's interface: how each is told k, what it counts, how it starts.

As published for their versions of 2026, and not tried against the engines themselves. None of them is asked for more
than a field and a page of counters. An engine that is not here is described by `diffusion_server.steps_field` or
`diffusion_server.urls`.
"""

from typing import Literal, NamedTuple

EngineName = Literal["vllm", "sglang", "lmdeploy", "dlmserve"]
"""Names of the engines that are known."""


class Counters(NamedTuple):
    """Names of counters on an engine's page of metrics (Prometheus text), each a sum over sequences."""

    forwards: str  # denoising steps, one for every sequence of a forward
    tokens: str  # of output
    requests: str  # that were answered


class DiffusionEngine(NamedTuple):
    """What differs from engine to engine."""

    steps_field: str | None  # of a request, dots inside; None: k belongs to the server
    counters: Counters | None  # None: it tells no forwards
    sets_steps: str  # what sets k when the server starts
    widens: str  # what lets it run a batch's requests together


ENGINES: dict[EngineName, DiffusionEngine] = {
    "vllm": DiffusionEngine(
        steps_field="vllm_xargs.diffusion_max_steps",
        counters=Counters(
            forwards="vllm:spec_decode_num_drafts_total",
            tokens="vllm:generation_tokens_total",
            requests="vllm:request_success_total",
        ),
        sets_steps="--diffusion-config",
        widens="--max-num-seqs",
    ),
    "sglang": DiffusionEngine(
        steps_field=None,
        counters=None,
        sets_steps="--dllm-algorithm-config",
        widens="--max-running-requests, which is 1 for diffusion models",
    ),
    "lmdeploy": DiffusionEngine(
        steps_field=None,
        counters=None,
        sets_steps="--dllm-denoising-steps",
        widens="--max-batch-size",
    ),
    "dlmserve": DiffusionEngine(
        steps_field="num_denoising_steps",
        counters=None,
        sets_steps="num_denoising_steps",
        widens="its batch size",
    ),
}
"""By the name that `diffusion_server.engine` takes."""
