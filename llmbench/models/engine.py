"""How is a forward pass run? Eagerly: Transformers' modules as they are, with the head only where logits are asked for.

The body and the head are called apart, because a head of 10^5 columns at every position of a canvas costs more time
and memory than the blocks of a short one. The padding mask is turned into an additive [B, 1, 1 or Q, K] mask here,
once per forward: given the 2-D mask, Transformers asks the device whether it is all ones, a synchronisation per
forward. Without padding there is no mask at all, and attention can choose its fastest kernel.

`EagerEngine` fills the role `decoding.base.Engine` by its shape alone; the two rooms do not import each other.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmbench.models.llama import is_causal

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache


@dataclass
class KVCache:
    """Keys and values so far, and what the next token needs to know about padding."""

    layers: "Cache"
    bias: torch.Tensor | None  # [B, 1, 1, keys so far], added to attention scores; None without padding
    position: torch.Tensor | None  # [B, 1] of the last token; None without padding: the cache's length says it


class EagerEngine:
    """Runs a causal or bidirectional model without any preparation; the reference for faster engines."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Take a model of one of the kinds in `llama.BLOCKS`, on its device."""
        self.model = model
        """For decoders that bring their own loop (`decoding.generate`)."""
        self._body: Any = model.model
        self._head: Any = model.lm_head
        self._causal = is_causal(model.config)
        self._dtype: torch.dtype = model.dtype
        self._device: torch.device = model.device

    @property
    def device(self) -> torch.device:
        """Where ids, masks and positions must be."""
        return self._device

    @torch.inference_mode()
    def prefill(self, ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, KVCache]:
        """Read left-padded prompts [B, P]: logits of the next token [B, V] and a cache that grows with every token."""
        from transformers import DynamicCache

        cache = KVCache(DynamicCache(config=self._body.config), None, None)
        bias, positions = self._padding(mask)
        if mask is not None and positions is not None:
            cache.bias, cache.position = _additive(mask[:, None, None, :], self._dtype), positions[:, -1:]
        hidden = self._hidden(ids, bias, positions, cache.layers)
        return self._head(hidden[:, -1]), cache

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Append tokens [B] to the cache, in place: logits of the next ones [B, V]."""
        if cache.bias is not None and cache.position is not None:
            cache.bias = torch.nn.functional.pad(cache.bias, (0, 1))
            cache.position = cache.position + 1
        hidden = self._hidden(tokens[:, None], cache.bias, cache.position, cache.layers)
        return self._head(hidden[:, -1])  # type: ignore[no-any-return]

    @torch.inference_mode()
    def denoise(self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
        """Read whole sequences [B, S]: logits [B, M, V] at `positions` [B, M] alone."""
        hidden = self._hidden(ids, *self._padding(mask))
        where = positions[..., None].expand(-1, -1, hidden.shape[-1])
        return self._head(hidden.gather(1, where))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Read whole sequences [B, S]: logits at every position [B, S, V]."""
        return self._head(self._hidden(ids, *self._padding(mask)))  # type: ignore[no-any-return]

    def _hidden(
        self,
        ids: torch.Tensor,
        bias: torch.Tensor | None,
        positions: torch.Tensor | None,
        cache: "Cache | None" = None,
    ) -> torch.Tensor:
        """Final hidden states [B, Q, H] of new tokens [B, Q]."""
        output = self._body(
            input_ids=ids,
            attention_mask=bias,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _padding(self, mask: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Additive mask and position ids of whole sequences [B, S]; (None, None) when nothing is padded.

        The first real token has position 0, as if it were alone. Under a causal mask a padded position sees itself,
        because a row of -inf alone has no softmax; nobody sees *it*.
        """
        if mask is None:
            return None, None
        positions = (mask.cumsum(-1) - 1).clamp_(min=0)
        visible = mask[:, None, None, :]
        if self._causal:
            square = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device)
            visible = (visible & square.tril()) | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        return _additive(visible, self._dtype), positions


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, -inf elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
