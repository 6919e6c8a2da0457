"""Which models are measured? Shapes of 8B models; for a trial of the code, the same in small."""

import dataclasses
from typing import Any

from benchmarks.engine import cases
from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config import modes

SOURCES = {"llama": "shape:llama-3-8b", "llada": "shape:llada-8b", "nemotron": "shape:nemotron-labs-diffusion-8b"}

_TRIAL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 512, "bos_token_id": None, "pad_token_id": 1, "eos_token_id": 0,
}  # fmt: skip
"""Shapes of a trial run that no page in docs/ is made of."""


def files(model: str, *, smoke: bool) -> CheckpointFiles:
    """The configuration of a model; in a trial with small shapes and blocks."""
    found = resolve_checkpoint(SOURCES[model], "dummy")
    if not smoke:
        return found
    own: dict[str, Any] = {}
    if "diffusion" in found.modes:
        own["mask_token_id"] = 500
    if model == "llada":
        own["is_causal"] = False
    if model == "nemotron":
        blocks = found.config.modes["diffusion"] | {"block_length": cases.SMOKE.block}
        own["modes"] = found.config.modes | {"diffusion": blocks}
    config = type(found.config).from_dict(found.config.to_dict() | _TRIAL | own)
    return dataclasses.replace(
        found,
        config=config,
        digest=f"smoke-{model}",
        mask_id=own.get("mask_token_id"),
        modes=modes.of_config(config),
    )
