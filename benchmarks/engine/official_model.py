"""LLaDA's forward as the code of its model page runs it, around our weights: the other half of the slow reference.

The official loop calls the authors' own modules (an OLMo block): norms and rotation go through float32 under a disabled
autocast, query and key are rotated half by half with copies, the activation stands by itself, and dropouts that do
nothing are called. This is written anew, as the official loop is: the same operations on tensors in the same order, the
same slices of tables that are longer than the sequence, and modules that call each other with the same arguments.
`tests/bench` holds its operations against a list of theirs, and its logits against those of our modules.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from llmbench.models.architecture import head_dim


class OfficialModel(nn.Module):
    """A bidirectional language model in the authors' modules."""

    def __init__(self, model: Any) -> None:
        """Take the weights of a Transformers model of the Llama kind; nothing is copied."""
        super().__init__()
        body, config = model.model, model.config
        self.embedding, self.blocks = body.embed_tokens, nn.ModuleList(_Block(layer, config) for layer in body.layers)
        self.norm, self.head = _Norm(body.norm.weight, config.rms_norm_eps), model.lm_head
        self.dropout = _Dropout(0.0)
        self.eval()

    def forward(self, ids: torch.Tensor) -> SimpleNamespace:
        """Logits [B, S, V] of ids [B, S], at every position."""
        x = self.dropout(self.embedding(ids))
        for block in self.blocks:
            x, _ = block(x, attention_bias=None, layer_past=None, use_cache=False)
        return SimpleNamespace(logits=self.head(self.norm(x)))


class _Dropout(nn.Dropout):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.p == 0.0 else super().forward(x)


class _Norm(nn.Module):
    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self._epsilon = weight, epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            dtype, x = x.dtype, x.to(torch.float32)
            variance = x.pow(2).mean(-1, keepdim=True)
            x = x * torch.rsqrt(variance + self._epsilon)
            x = x.to(dtype)
        return self.weight * x


class _Rotary(nn.Module):
    def __init__(self, width: int, theta: float, context: int) -> None:
        super().__init__()
        self._width, self._theta, self._context = width, theta, context
        self._tables: dict[str, torch.Tensor] = {}

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wide_query, wide_key = query.float(), key.float()
        with torch.autocast(query.device.type, enabled=False):
            asked, length = wide_query.shape[-2], wide_key.shape[-2]
            sin, cos = self._positions(length, wide_query.device)
            sin, cos = sin.type_as(wide_query), cos.type_as(wide_query)
            wide_query = self._turn(
                sin[:, :, length - asked : length, :], cos[:, :, length - asked : length, :], wide_query
            )
            wide_key = self._turn(sin, cos, wide_key)
        return wide_query.type_as(query), wide_key.type_as(key)

    def _positions(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if not self._tables:
            inverse = self._theta ** -(torch.arange(0, self._width, 2, device=device, dtype=torch.float) / self._width)
            angles = torch.outer(torch.arange(self._context, device=device, dtype=torch.float), inverse)
            angles = torch.cat([angles, angles], dim=-1)
            self._tables = {"sin": angles.sin()[None, None], "cos": angles.cos()[None, None]}
        return self._tables["sin"][:, :, :length, :], self._tables["cos"][:, :, :length, :]

    def _turn(self, sin: torch.Tensor, cos: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return ((x * cos) + (self._half_turned(x) * sin)).to(x.dtype)

    def _half_turned(self, x: torch.Tensor) -> torch.Tensor:
        rows, heads, length, width = x.size()
        first, second = x.view(rows, heads, length, 2, width // 2).unbind(dim=-2)
        return torch.cat((-second, first), dim=-1)


class _Block(nn.Module):
    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        attention, ffn = layer.self_attn, layer.mlp
        self.attn_norm = _Norm(layer.input_layernorm.weight, config.rms_norm_eps)
        self.ff_norm = _Norm(layer.post_attention_layernorm.weight, config.rms_norm_eps)
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.attn_out = attention.o_proj
        self.ff_proj, self.up_proj, self.ff_out = ffn.gate_proj, ffn.up_proj, ffn.down_proj
        self.act, self.dropout = nn.SiLU(), _Dropout(0.0)
        self._heads, self._groups = config.num_attention_heads, config.num_key_value_heads
        self._width = head_dim(config)
        theta = (config.rope_parameters or {}).get("rope_theta", 10000.0)
        self.rotary = _Rotary(self._width, theta, config.max_position_embeddings)

    def forward(
        self, x: torch.Tensor, attention_bias: None = None, layer_past: None = None, use_cache: bool = False
    ) -> tuple[torch.Tensor, None]:
        normal = self.attn_norm(x)
        query, key, value = self.q_proj(normal), self.k_proj(normal), self.v_proj(normal)
        mixed, cache = self.attention(query, key, value, attention_bias, layer_past=layer_past, use_cache=use_cache)
        x = x + self.dropout(mixed)
        residual = x
        x = self.ff_norm(x)
        x, up = self.ff_proj(x), self.up_proj(x)
        x = self.act(x)
        x = x * up
        x = self.ff_out(x)
        x = self.dropout(x)
        return residual + x, cache

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_bias: None,
        layer_past: None,
        use_cache: bool,
    ) -> tuple[torch.Tensor, None]:
        rows, length, channels = query.size()
        query = query.view(rows, length, self._heads, self._width).transpose(1, 2)
        key = key.view(rows, length, self._groups, self._width).transpose(1, 2)
        value = value.view(rows, length, self._groups, self._width).transpose(1, 2)
        query, key = self.rotary(query, key)
        mixed = self._weighted(query, key, value, attn_mask=attention_bias, dropout_p=0.0, is_causal=False)
        mixed = mixed.transpose(1, 2).contiguous().view(rows, length, channels)
        return self.attn_out(mixed), None

    def _weighted(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: None,
        dropout_p: float,
        is_causal: bool,
    ) -> torch.Tensor:
        share = query.size(1) // key.size(1)
        if share > 1:
            key = key.repeat_interleave(share, dim=1, output_size=query.size(1))
            value = value.repeat_interleave(share, dim=1, output_size=query.size(1))
        return scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal
        )
