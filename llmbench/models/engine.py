"""How is a forward pass run? Eagerly: Transformers' modules as they are, with the head only where logits are asked for.

The body and the head are called apart, because a head of 10^5 columns at every position of a canvas costs more time
and memory than the blocks of a short one. The padding mask is turned into an additive [B, 1, 1 or Q, K] mask here,
once per forward: given the 2-D mask, Transformers asks the device whether it is all ones, a synchronisation per
forward. Without padding there is no mask at all, and attention can choose its fastest kernel.

This is the reference that the faster `models.fused` is compared with, token by token. Both fill the role
`decoding.base.Engine` by their shape alone; the two rooms do not import each other.
"""

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from llmbench.config import modes
from llmbench.config.modes import Mode
from llmbench.errors import ConfigError
from llmbench.models import patterns

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


class GrowingCache:
    """Keys and values of a causal model so far, and what the next token needs to know about padding."""

    def __init__(self, layers: Any) -> None:
        self.layers = layers  # Transformers' DynamicCache
        self.bias: torch.Tensor | None = None  # [B, 1, 1, keys so far], added to scores; None without padding
        self.position: torch.Tensor | None = None  # [B, 1] of the last token; None: the cache's length says it


class CanvasCache:
    """Keys and values of a whole canvas, of which a part can be replaced. Speaks Transformers' cache protocol.

    Keys are kept rotated: a position never moves, so rotating them again at every step would change nothing.
    """

    is_compileable = False

    def __init__(self) -> None:
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.where: torch.Tensor | None = None  # [Q], where the rows that come next belong; None: they are the canvas

    @property
    def length(self) -> int:
        """S, positions of the canvas."""
        return self._kept[0][0].shape[2]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """Keep [B, heads, Q, D] keys and values of one layer, in one dtype; return those of the whole canvas."""
        keys = keys.to(values.dtype)  # where they are rotated in float32
        if self.where is None:
            self._kept[layer] = keys, values
            return keys, values
        for kept, fresh in zip(self._kept[layer], (keys, values), strict=True):
            kept.index_copy_(2, self.where, fresh)
        return self._kept[layer]

    def get_seq_length(self, layer: int = 0) -> int:
        """Nothing lies before the rows that come next: their positions are passed explicitly."""
        return 0


class EagerEngine:
    """Runs a causal or bidirectional model without any preparation; the reference for faster engines."""

    def __init__(self, model: "PreTrainedModel", mode: Mode | None = None) -> None:
        """Take a model of one of the kinds in `llama.BLOCKS`, on its device, and the mode in which it is decoded.

        Without a mode it is the only one of its configuration, or the autoregressive one.
        """
        self.model: Any = model  # for decoders that bring their own loop
        self.device: torch.device = model.device
        self.setup_s = 0.0
        self._body: Any = model.model
        self._mode = mode or modes.first(model.config)
        self._causal = self._mode.causal_prompt
        self._dtype: torch.dtype = model.dtype
        # renamed in Transformers 5.24; the old name warns at every forward
        parameters = inspect.signature(self._body.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"

    def new_cache(self, rows: int, length: int) -> Any:
        """Memory for keys and values of `rows` sequences; here it grows with what is written."""
        from transformers import DynamicCache

        return GrowingCache(DynamicCache(config=self._body.config)) if self._causal else CanvasCache()

    def reuse(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, new every time: nothing outlives a generation."""
        return make()

    def compile(self, calls: Sequence[Callable[[torch.Tensor], object]], *, padded: bool) -> None:
        """Nothing: what these modules run needs no compiling."""

    def capture(self, step: Callable[[], None], reset: Callable[[], None], draws: Any) -> Callable[[], None]:
        """`step` as it is."""
        return step

    def close(self) -> None:
        """Nothing is held."""

    @torch.inference_mode()
    def prefill(self, ids: torch.Tensor, mask: torch.Tensor | None, cache: GrowingCache) -> torch.Tensor:
        """Read left-padded prompts [B, P] into an empty cache: logits of the next token [B, V]."""
        bias, positions = self._padding(mask, ids)
        if mask is not None and positions is not None:
            cache.bias, cache.position = _additive(mask[:, None, None, :], self._dtype), positions[:, -1:]
        return self.head(self._hidden(ids, bias, positions, cache.layers)[:, -1])

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor, cache: GrowingCache) -> torch.Tensor:
        """Append tokens [B] to the cache, in place: logits of the next ones [B, V]."""
        if cache.bias is not None and cache.position is not None:
            cache.bias = torch.nn.functional.pad(cache.bias, (0, 1))
            cache.position = cache.position + 1
        return self.head(self._hidden(tokens[:, None], cache.bias, cache.position, cache.layers)[:, -1])

    def extend(
        self, tokens: torch.Tensor, start: torch.Tensor, cache: Any, *, causal: bool, wanted: bool = True
    ) -> torch.Tensor:
        """Not here: the caches of these modules have one length for all rows.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("drafts and blocks need an engine with a static cache; use hardware.engine=fused")

    @torch.inference_mode()
    def denoise(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: CanvasCache | None = None
    ) -> torch.Tensor:
        """Read whole sequences [B, S], and keep their keys and values if a cache is given.

        Returns:
            Final hidden states [B, M, C] at `positions` [B, M] alone.
        """
        bias, where = self._padding(mask, ids)
        if cache is not None:
            cache.where = None
            bias = bias if bias is not None else self._no_bias(ids, ids.shape[1])
        return _pick(self._hidden(ids, bias, where, cache), positions)

    @torch.inference_mode()
    def refine(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        where: torch.Tensor,
        positions: torch.Tensor,
        cache: CanvasCache,
    ) -> torch.Tensor:
        """Read a part of each canvas anew, against the kept keys and values of the rest.

        Args:
            ids: [B, Q], the part.
            mask: [B, S] of the whole canvas, False where padded.
            where: [Q] int64, consecutive: where the part lies in the canvas.
            positions: [B, M] in the canvas, within the part.
            cache: filled by `denoise`; the part's keys and values are replaced.

        Returns:
            Final hidden states [B, M, C] at `positions` alone.
        """
        cache.where = where
        bias = self._no_bias(ids, cache.length)
        rotation = where.expand(ids.shape[0], -1)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None, :], float("-inf"))
            rotation = (mask.cumsum(-1) - 1).clamp_(min=0).index_select(1, where)
        return _pick(self._hidden(ids, bias, rotation, cache), positions - where[0])

    @torch.inference_mode()
    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of final hidden states [..., C]; the caller may overwrite them."""
        return self.model.lm_head(hidden)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Read whole sequences [B, S]: logits at every position [B, S, V]."""
        return self.head(self._hidden(ids, *self._padding(mask, ids)))

    @torch.inference_mode()
    def block_logits(self, text: torch.Tensor, noisy: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        """What a model that writes in blocks predicts in each of them, given the text before it, in one forward.

        Args:
            text: [B, S], whole sequences.
            noisy: [B, S], the same with some tokens masked.
            blocks: [S], the number of each position's block, rising.

        Returns:
            Logits [B, S, V] that predict each position of `noisy`: of its own hidden state, or with a shift of 1 of the
            one before. Where a block begins and the mode has its first token given, of the text's last one before it.
        """
        length = text.shape[1]
        visible = patterns.two_streams(blocks, causal=self._causal)
        where = torch.arange(length, device=text.device).repeat(2)[None]
        both = torch.cat([text, noisy], 1)
        hidden = self._hidden(both, _additive(visible, self._dtype)[None, None], where)
        clean, own = hidden[:, :length], hidden[:, length:]
        if self._mode.given:
            begins = blocks.diff(prepend=blocks[:1] - 1) != 0
            own = torch.where(begins[:, None], clean.roll(1, 1), own.roll(self._mode.logit_shift, 1))
        return self.head(own)

    def _hidden(
        self, ids: torch.Tensor, bias: torch.Tensor | None, positions: torch.Tensor | None, cache: Any = None
    ) -> torch.Tensor:
        """Final hidden states [B, Q, C] of new tokens [B, Q]."""
        output = self._body(
            input_ids=ids,
            attention_mask=bias,
            position_ids=positions,
            use_cache=cache is not None,
            **{self._cache_name: cache},
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _no_bias(self, ids: torch.Tensor, keys: int) -> torch.Tensor:
        """An additive mask that hides nothing: keeps Transformers from deriving one from the cache."""
        return torch.zeros(ids.shape[0], 1, ids.shape[1], keys, dtype=self._dtype, device=ids.device)

    def _padding(self, mask: torch.Tensor | None, ids: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Additive mask and position ids of whole sequences [B, S]; None twice where the modules need neither.

        The first real token has position 0, as if it were alone.
        """
        if mask is None:
            if self._mode.attention != "block_causal":
                return None, None
            mask = torch.ones_like(ids, dtype=torch.bool)
        return _additive(patterns.prompt(self._mode, mask), self._dtype), (mask.cumsum(-1) - 1).clamp_(min=0)


def _pick(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Hidden states [B, M, C] at `positions` [B, M] of [B, S, C]."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, -inf elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
