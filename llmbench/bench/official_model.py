"""LLaDA's forward as the code of its model page runs it, around our weights: the other half of the slow reference.

The official loop calls the authors' own modules (an OLMo block): norms and rotation go through float32 under a disabled
autocast, query and key are rotated half by half with copies, the activation stands by itself, and dropouts that do
nothing are called. This is written anew, as the official loop is, in the same operations; it is not their code, whose
every call does more in Python. Its logits are those of our modules (`tests/bench`). Attention is PyTorch's, unmasked.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class OfficialModel(nn.Module):
    """A bidirectional language model in the authors' modules."""

    def __init__(self, model: Any) -> None:
        """Take the weights of a Transformers model of the Llama kind; nothing is copied."""
        super().__init__()
        body, config = model.model, model.config
        self.embedding, self.blocks = body.embed_tokens, nn.ModuleList(_Block(layer, config) for layer in body.layers)
        self.norm, self.head = _Norm(body.norm.weight, config.rms_norm_eps), model.lm_head
        self.dropout = nn.Dropout(0.0)
        self.eval()

    def forward(self, ids: torch.Tensor) -> SimpleNamespace:
        """Logits [B, S, V] of ids [B, S], at every position."""
        x = self.dropout(self.embedding(ids))
        for block in self.blocks:
            x = block(x)
        return SimpleNamespace(logits=self.head(self.norm(x)))


class _Norm(nn.Module):
    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = weight, epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            dtype, x = x.dtype, x.to(torch.float32)
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self._epsilon)
            x = x.to(dtype)
        return self.weight * x


class _Rotary(nn.Module):
    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        self._width, self._theta = width, theta
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wide_query, wide_key = query.float(), key.float()
        with torch.autocast(query.device.type, enabled=False):
            sin, cos = (table.type_as(wide_query) for table in self._positions(key.shape[-2], key.device))
            wide_query, wide_key = self._turn(wide_query, sin, cos), self._turn(wide_key, sin, cos)
        return wide_query.type_as(query), wide_key.type_as(key)

    def _positions(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if self._tables is None or self._tables[0].shape[-2] < length or self._tables[0].device != device:
            inverse = self._theta ** -(torch.arange(0, self._width, 2, device=device, dtype=torch.float) / self._width)
            angles = torch.outer(torch.arange(length, device=device, dtype=torch.float), inverse)
            angles = torch.cat([angles, angles], dim=-1)[None, None]
            self._tables = angles.sin(), angles.cos()
        sin, cos = self._tables
        return sin[:, :, :length], cos[:, :, :length]

    @staticmethod
    def _turn(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
        first, second = x.view(*x.shape[:-1], 2, x.shape[-1] // 2).unbind(dim=-2)
        return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class _Block(nn.Module):
    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        attention, ffn = layer.self_attn, layer.mlp
        self.attn_norm = _Norm(layer.input_layernorm.weight, config.rms_norm_eps)
        self.ff_norm = _Norm(layer.post_attention_layernorm.weight, config.rms_norm_eps)
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.attn_out = attention.o_proj
        self.ff_proj, self.up_proj, self.ff_out = ffn.gate_proj, ffn.up_proj, ffn.down_proj
        self.act, self.dropout = nn.SiLU(), nn.Dropout(0.0)
        self._width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.rotary = _Rotary(self._width, (config.rope_parameters or {}).get("rope_theta", 10000.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal = self.attn_norm(x)
        mixed = self._attention(self.q_proj(normal), self.k_proj(normal), self.v_proj(normal))
        x = x + self.dropout(mixed)
        residual = x
        x = self.ff_norm(x)
        x, up = self.ff_proj(x), self.up_proj(x)
        x = self.act(x)
        x = self.ff_out(x * up)
        return residual + self.dropout(x)  # type: ignore[no-any-return]

    def _attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        rows, length, _ = query.shape
        query, key, value = (x.view(rows, length, -1, self._width).transpose(1, 2) for x in (query, key, value))
        query, key = self.rotary(query, key)
        if key.shape[1] != query.shape[1]:
            share = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(share, 1, output_size=query.shape[1]) for x in (key, value))
        mixed = scaled_dot_product_attention(query, key, value, dropout_p=0.0, is_causal=False)
        mixed = mixed.transpose(1, 2).contiguous().view(rows, length, -1)
        return self.attn_out(mixed)  # type: ignore[no-any-return]
