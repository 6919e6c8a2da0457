"""What does the fused engine read of a Transformers model? Joined weights, the rotation's table, and what it refuses.

The weights exist once: what reads the same input is joined into one matrix, and the modules' own parameters become
views of it, so the modules still run.
"""

from dataclasses import dataclass
from typing import Any

import torch

from llmbench.errors import ConfigError

FUSED = ("llama", "mistral", "ministral3", "qwen2", "qwen3")
"""Model types whose blocks are Llama's, but for what a `Block` may hold: biases, norms of queries and keys.

Ministral3's queries are scaled by their position beside that; see `query_scale`.
"""


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one block; matrices are [out, in], what the block does not have is None."""

    norm_attention: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    norm_ffn: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    qkv_bias: torch.Tensor | None = None
    out_bias: torch.Tensor | None = None
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None
    norm_heads: torch.Tensor | None = None  # [2, D], of every head of queries and of keys, before the rotation


def not_fused(config: Any) -> str | None:
    """What the fused blocks do not compute of a model's blocks; None where they compute it all.

    That is: a kind that is not in `FUSED`, another activation, a rotation that depends on the sequence's length.
    """
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    wrong = {
        f"the blocks of model_type {config.model_type}": config.model_type not in FUSED,
        f"rope_type {rope}": rope in ("longrope", "dynamic"),
        f"hidden_act {getattr(config, 'hidden_act', None)}": getattr(config, "hidden_act", None) != "silu",
    }
    return next((form for form, present in wrong.items() if present), None)


def require_fused(config: Any) -> None:
    """Refuse blocks that the fused ones do not compute; cheap, for the time before weights load.

    Raises:
        ConfigError: as `not_fused`.
    """
    if form := not_fused(config):
        raise ConfigError(f"hardware.engine=fused does not compute {form}; use hardware.engine=eager or auto")


def fuse(layer: Any, device: torch.device) -> Block:
    """Join the matrices of a block that read the same input; the modules' parameters become views of the result."""
    attention, ffn = layer.self_attn, layer.mlp
    projections, gates = [attention.q_proj, attention.k_proj, attention.v_proj], [ffn.gate_proj, ffn.up_proj]
    block = Block(
        norm_attention=layer.input_layernorm.weight,
        qkv=_join(projections, "weight"),
        out=attention.o_proj.weight,
        norm_ffn=layer.post_attention_layernorm.weight,
        gate_up=_join(gates, "weight"),
        down=ffn.down_proj.weight,
        qkv_bias=_join(projections, "bias") if attention.q_proj.bias is not None else None,
        out_bias=attention.o_proj.bias,
        gate_up_bias=_join(gates, "bias") if ffn.gate_proj.bias is not None else None,
        down_bias=ffn.down_proj.bias,
        norm_heads=_join([attention.q_norm, attention.k_norm], "weight").view(2, -1)
        if hasattr(attention, "q_norm")
        else None,
    )
    if device.type == "cuda":  # the next block would cut what was freed into pieces that stay reserved
        torch.cuda.empty_cache()
    return block


def _join(modules: list[Any], name: str) -> torch.Tensor:
    """A parameter of several modules, one below the other; what an earlier engine joined is found, not copied."""
    parts = [getattr(module, name).detach() for module in modules]
    rows, columns = [part.shape[0] for part in parts], parts[0].shape[1:]
    if {part.untyped_storage().data_ptr() for part in parts} == {parts[0].data_ptr()}:
        whole: torch.Tensor = parts[0].as_strided((sum(rows), *columns), parts[0].stride())
        return whole
    joined: torch.Tensor = torch.cat(parts)
    for module, part in zip(modules, torch.split(joined, rows), strict=True):
        setattr(module, name, torch.nn.Parameter(part, requires_grad=False))
    return joined


def rotation(body: Any, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of every position, [context, R] float32, from the model's own rotary embedding.

    They hold a factor m wherever the embedding has one, so scores hold m^2. Transformers' YaRN (arXiv 2309.00071) has
    it, and reads it from `rope_parameters` in this order:

    - `attention_factor`: m itself; 1.0 means none.
    - `mscale` and `mscale_all_dim`, both of them and not 0: m(mscale) / m(mscale_all_dim) with
      m(s) = 0.1 s ln(factor) + 1. Equal ones mean 1.0; one alone is not read.
    - neither: 0.1 ln(factor) + 1, the paper's.
    """
    positions = torch.arange(context, device=body.norm.weight.device)[None]
    cos, sin = body.rotary_emb(torch.zeros(1, device=positions.device), positions)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()


def query_scale(config: Any, context: int, device: torch.device) -> tuple[torch.Tensor, int] | None:
    """What rotated queries are multiplied with: of every position, [context] float32; and the first that is not 1.

    Ministral3's: 1 + beta ln(1 + floor(position / original)), `llama_4_scaling_beta` and
    `original_max_position_embeddings` of `rope_parameters`. Positions count from a row's first token, padding left out:
    unlike the rotation it is no function of differences. None: this kind has no such scale, or it is 1 everywhere.
    """
    if config.model_type != "ministral3":
        return None
    beta, original = (
        config.rope_parameters[key] for key in ("llama_4_scaling_beta", "original_max_position_embeddings")
    )
    if original >= context:
        return None
    whole = torch.arange(context, device=device).div(original, rounding_mode="floor")
    return 1 + beta * torch.log1p(whole.float()), original
