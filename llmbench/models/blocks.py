"""What does the fused engine read of a Transformers model? Joined weights, the rotation's table, and what it refuses.

The weights exist once: what reads the same input is joined into one matrix, and the modules' own parameters become
views of it, so the modules still run.
"""

from dataclasses import dataclass
from typing import Any

import torch

from llmbench.errors import ConfigError

PLAIN = ("llama", "mistral")
"""Model types whose blocks are Llama's and nothing else: no biases, no norms of queries and keys."""


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one block; all but the norms are [out, in]."""

    norm_attention: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    norm_ffn: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


def not_plain(config: Any) -> str | None:
    """What the fused blocks do not compute of a model's blocks; None where they compute it all.

    That is: another kind than Llama's, biases, another activation, a rotation that depends on the sequence's length.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    wrong = {
        f"the blocks of model_type {config.model_type}": config.model_type not in PLAIN,
        f"rope_type {rope}": rope in ("longrope", "dynamic"),
        "attention_bias": getattr(config, "attention_bias", False),
        "mlp_bias": getattr(config, "mlp_bias", False),
        f"hidden_act {getattr(config, 'hidden_act', None)}": getattr(config, "hidden_act", None) != "silu",
    }
    return next((form for form, present in wrong.items() if present), None)


def require_plain(config: Any) -> None:
    """Refuse blocks that the fused ones do not compute; cheap, for the time before weights load.

    Raises:
        ConfigError: as `not_plain`.
    """
    if form := not_plain(config):
        raise ConfigError(f"hardware.engine=fused does not compute {form}; use hardware.engine=eager or auto")


def fuse(layer: Any, device: torch.device) -> Block:
    """Join the matrices of a block that read the same input; the modules' parameters become views of the result."""
    attention, ffn = layer.self_attn, layer.mlp
    block = Block(
        norm_attention=layer.input_layernorm.weight,
        qkv=_join([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=attention.o_proj.weight,
        norm_ffn=layer.post_attention_layernorm.weight,
        gate_up=_join([ffn.gate_proj, ffn.up_proj]),
        down=ffn.down_proj.weight,
    )
    if device.type == "cuda":  # the next block would cut what was freed into pieces that stay reserved
        torch.cuda.empty_cache()
    return block


def _join(modules: list[Any]) -> torch.Tensor:
    """The weights of linear modules, one below the other; what an earlier engine joined is found, not copied."""
    weights = [module.weight.detach() for module in modules]
    rows, columns = [weight.shape[0] for weight in weights], weights[0].shape[1]
    memory = [weight.untyped_storage() for weight in weights]
    if {part.data_ptr() for part in memory} == {weights[0].data_ptr()}:
        whole: torch.Tensor = weights[0].as_strided((sum(rows), columns), (columns, 1))
        return whole
    joined: torch.Tensor = torch.cat(weights)
    for module, part in zip(modules, torch.split(joined, rows), strict=True):
        module.weight = torch.nn.Parameter(part, requires_grad=False)
    return joined


def rotation(body: Any, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every position, [context, R] float32, from the model's own rotary embedding."""
    positions = torch.arange(context, device=body.norm.weight.device)[None]
    cos, sin = body.rotary_emb(torch.zeros(1, device=positions.device), positions)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
