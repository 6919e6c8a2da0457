"""How fast can the same forward pass be? Few kernels per block, static memory, and whole steps as CUDA graphs.

`FusedEngine` computes what `engine.EagerEngine` computes, from the same weights, for both families alike:

- The query, key and value matrices of a block are one matrix, gate and up another. The weights exist once: the
  original parameters become views of the fused ones, so Transformers' modules still run, on the same memory.
- The residual sum is the `beta` of the matrix product that ends each half of a block. Between two products run one to
  three kernels: a norm, a gate, or rotation and attention. Blocks whose heads are normed, or queries scaled by their
  position, run one more before the rotation.
- The last block's queries, output and feed-forward are computed only where a hidden state is asked for: the last token
  of a prompt, the masked positions of a canvas. Its keys and values are computed everywhere, so nothing changes.
- Keys and values live in static memory, written by position, and are not repeated for grouped queries (but for a padded
  prompt, once). One arena serves all shapes, because two shapes are never in use at once.
- A step is captured once per shape as one CUDA graph, head and sampling included (`capture`), and replayed: 350 kernel
  launches cost the host more time than they cost the device.

Rotation uses the position in the padded sequence, not in the prompt: attention depends on differences of positions
only. A scale by position counts from the prompt's first token. On a CPU nothing is captured, and the plain twins of the
kernels run, or for one token `host`; tests compare with the eager engine there.
"""

import functools
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from llmbench.config import modes
from llmbench.config.modes import Mode
from llmbench.models import blocks, compiling, kernels
from llmbench.models.architecture import head_dim
from llmbench.models.blocks import Block
from llmbench.models.graphs import Graph
from llmbench.models.static_cache import Padding, StaticCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

_PORTION = 2**27
"""Most elements of gate and up computed at once: 256 MiB in bfloat16, some 5,000 rows of an 8B model."""


class FusedEngine:
    """Runs a model of the Llama kind at the speed of its matrix products; see the module docstring."""

    def __init__(self, model: "PreTrainedModel", mode: Mode | None = None) -> None:
        """Fuse the weights of a model on its device.

        Args:
            model: of one of the kinds that the fused blocks compute.
            mode: in which it is decoded; None: the only one of its configuration, or the autoregressive one.

        Raises:
            ConfigError: its blocks are of a form that the kernels do not compute.
        """
        begun = time.perf_counter()
        blocks.require_fused(model.config)
        self.model: Any = model
        self.device: torch.device = model.device
        body: Any = model.model
        config: Any = model.config
        self._mode = mode or modes.first(config)
        self._dtype: torch.dtype = model.dtype
        self._embedding: torch.Tensor = body.embed_tokens.weight
        self._blocks = [blocks.fuse(layer, self.device) for layer in body.layers]
        self._norm: torch.Tensor = body.norm.weight
        self._head: torch.Tensor = self.model.lm_head.weight
        self._epsilon: float = config.rms_norm_eps
        self._width = head_dim(config)
        self._heads: int = config.num_attention_heads
        self._groups: int = config.num_key_value_heads
        with torch.inference_mode():
            self._cos, self._sin = blocks.rotation(body, config.max_position_embeddings)
            self._scale = blocks.query_scale(config, config.max_position_embeddings, self.device)
        self._arena = torch.empty(0, dtype=self._dtype, device=self.device)
        self._kept: dict[Hashable, Any] = {}
        self._pool: Any = None
        self._compiled = set[bool]()
        self._sizes = compiling.Sizes(
            norm=self._norm, epsilon=self._epsilon, cos=self._cos, sin=self._sin, heads=self._heads,
            groups=self._groups, both=self._blocks[0].gate_up.shape[0], mode=self._mode,
            norm_heads=self._blocks[0].norm_heads, scaled=self._scale is not None,
        )  # fmt: skip
        self.setup_s = time.perf_counter() - begun

    # ------------------------------------------------------------------------------------------------------------
    # Static memory and capture

    def new_cache(self, rows: int, length: int) -> StaticCache:
        """Static memory for keys and values; valid until the next generation of another shape begins."""
        shape = (2, len(self._blocks), rows, self._groups, length, self._width)
        needed = torch.Size(shape).numel()
        if self._arena.numel() < needed:  # graphs captured over an older arena keep it alive
            self._arena = torch.zeros(needed, dtype=self._dtype, device=self.device)
        keys, values = self._arena[:needed].view(shape)
        return StaticCache(
            keys=keys,
            values=values,
            position=torch.zeros(1, dtype=torch.int64, device=self.device),
            first=torch.zeros(rows, dtype=torch.int64, device=self.device),
            padded=[False],
        )

    def reuse(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned when this key came first."""
        if key not in self._kept:
            begun = time.perf_counter()
            self._kept[key] = make()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.setup_s += time.perf_counter() - begun
        return self._kept[key]  # type: ignore[no-any-return]

    def compile(self, calls: Sequence[Callable[[torch.Tensor], object]], *, padded: bool) -> None:
        """Compile side by side what these calls, given logits [1, V], and this engine's forward passes will launch.

        On a CPU nothing: it runs the plain twins.
        """
        if self.device.type != "cuda":
            return
        own = [] if padded in self._compiled else self._sizes.calls(padded=padded)
        self._compiled.add(padded)
        logits = self._head.new_zeros(1, self._head.shape[0])
        compiling.together([*own, *(functools.partial(call, logits.clone()) for call in calls)], self.device)

    def capture(self, step: Callable[[], None], reset: Callable[[], None], draws: Any) -> Callable[[], None]:
        """`step` as one CUDA graph; on a CPU as it is.

        Args:
            step: works on memory that stays, and never waits for the device.
            reset: puts that memory into a state from which `step` may run; called before each warm-up.
            draws: where `step` takes random numbers from.
        """
        if self.device.type != "cuda":
            return step
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return Graph(step, reset, draws.generator, self._pool)

    def close(self) -> None:
        """Destroy what was captured: graphs keep their memory through `empty_cache`."""
        self._kept.clear()
        self._pool = None
        self._arena = torch.empty(0, dtype=self._dtype, device=self.device)

    def products(self) -> tuple[list[tuple[torch.Tensor, ...]], torch.Tensor]:
        """The matrices that a forward multiplies with: of every block (qkv, out, gate and up, down), and the head."""
        return [(block.qkv, block.out, block.gate_up, block.down) for block in self._blocks], self._head

    # ------------------------------------------------------------------------------------------------------------
    # The role decoding.base.Engine

    @torch.inference_mode()
    def prefill(self, ids: torch.Tensor, mask: torch.Tensor | None, cache: StaticCache) -> torch.Tensor:
        """Read left-padded prompts [B, P] into the cache from its beginning: logits of the next token [B, V]."""
        rows, length = ids.shape
        cache.position.fill_(length)
        cache.note_padding(mask)
        last = torch.full((rows, 1), length - 1, device=self.device)
        where = torch.arange(length, device=self.device)
        return self.head(self._read(ids, where, last, Padding.of(mask, ids, self._mode, self._dtype), cache)[:, 0])

    @torch.inference_mode()
    def decode(self, tokens: torch.Tensor, cache: StaticCache) -> torch.Tensor:
        """Append tokens [B] to the cache, in place: logits of the next ones [B, V]."""
        first = cache.first if cache.padded[0] else None
        residual = self._embedding.index_select(0, tokens)
        attend = kernels.attend_one_at(self._cos, self._sin, cache.position, first, self._dtype)
        scale = self._scale_at(cache.position.expand(len(tokens)), first, cache.keys.shape[3])
        for block, keys, values in zip(self._blocks, cache.keys, cache.values, strict=True):
            qkv = self._project(kernels.norm(residual, block.norm_attention, self._epsilon), block, scale)
            self._finish(residual, attend(qkv, keys, values), block)
        cache.position.add_(1)
        return self.head(kernels.norm(residual, self._norm, self._epsilon))

    @torch.inference_mode()
    def extend(
        self, tokens: torch.Tensor, start: torch.Tensor, cache: StaticCache, *, causal: bool, wanted: bool = True
    ) -> torch.Tensor:
        """Read tokens [B, Q] into the cache, each row at its own place `start` [B] and following.

        What lies behind them in the cache is not seen and may be overwritten later.

        Args:
            tokens: [B, Q].
            start: [B] int64.
            cache: what lies before them.
            causal: each token sees what is before it; else the whole part.
            wanted: whether hidden states are; without, keys and values are written alone.

        Returns:
            Final hidden states [B, Q, C]; [B, 0, C] where they are not wanted.
        """
        rows, count = tokens.shape
        first = cache.first if cache.padded[0] else None
        where = (start[:, None] + torch.arange(count, device=self.device)).view(-1)
        scale = self._scale_at(where, first, cache.keys.shape[3])
        residual = self._embedding.index_select(0, tokens.reshape(-1))
        for layer, block in enumerate(self._blocks):
            keys, values = cache.keys[layer], cache.values[layer]
            qkv = self._project(kernels.norm(residual, block.norm_attention, self._epsilon), block, scale)
            kernels.place_(qkv, keys, values, self._cos, self._sin, where)
            if not wanted and layer + 1 == len(self._blocks):
                return residual.new_empty(rows, 0, residual.shape[1])
            query = qkv.view(rows, count, -1, self._width)[:, :, : self._heads].transpose(1, 2)
            self._finish(residual, kernels.attend_few(query, keys, values, first, start, causal=causal), block)
        return kernels.norm(residual, self._norm, self._epsilon).view(rows, count, -1)

    @torch.inference_mode()
    def denoise(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: StaticCache | None = None
    ) -> torch.Tensor:
        """Read whole sequences [B, S], and keep their keys and values if a cache is given.

        Returns:
            Final hidden states [B, M, C] at `positions` [B, M] alone.
        """
        where = torch.arange(ids.shape[1], device=self.device)
        padding = Padding.of(mask, ids, self._mode, self._dtype)
        if cache is not None:
            cache.note_padding(mask)
        if self._mode.attention != "full" and positions.shape[1]:  # one in the middle would need a mask of its own
            return _pick(self._read(ids, where, where.expand(ids.shape), padding, cache), positions)
        return self._read(ids, where, positions, padding, cache)

    @torch.inference_mode()
    def refine(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        where: torch.Tensor,
        positions: torch.Tensor,
        cache: StaticCache,
    ) -> torch.Tensor:
        """Read a part [B, Q] of each canvas anew; see `EagerEngine.refine`."""
        return self._read(ids, where, positions, Padding.of(mask, ids, self._mode, self._dtype), cache, whole=False)

    @torch.inference_mode()
    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of final hidden states [..., C]; the caller may overwrite them."""
        return linear(hidden, self._head)

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Read whole sequences [B, S]: logits at every position [B, S, V]."""
        where = torch.arange(ids.shape[1], device=self.device)
        return self.head(
            self._read(ids, where, where.expand(ids.shape), Padding.of(mask, ids, self._mode, self._dtype), None)
        )

    # ------------------------------------------------------------------------------------------------------------
    # Many queries

    def _read(
        self,
        ids: torch.Tensor,
        where: torch.Tensor,
        positions: torch.Tensor,
        padding: Padding,
        cache: StaticCache | None,
        *,
        whole: bool = True,
    ) -> torch.Tensor:
        """Final hidden states [B, M, C] at `positions` [B, M] of new tokens [B, Q] at `where` [Q] of their sequences.

        With `whole` the tokens see each other only; without, everything in the cache.
        """
        rows, length = ids.shape
        rotation = where.repeat(rows)
        scale = self._scale_at(rotation, padding.first, length if cache is None or whole else cache.keys.shape[3])
        residual = self._embedding.index_select(0, ids.reshape(-1))
        for layer, block in enumerate(self._blocks[:-1]):
            self._finish(
                residual, self._mix(residual, block, layer, rows, rotation, scale, padding, cache, whole), block
            )
        last, layer = self._blocks[-1], len(self._blocks) - 1
        if positions.shape[1] == length:
            self._finish(residual, self._mix(residual, last, layer, rows, rotation, scale, padding, cache, whole), last)
            hidden = kernels.norm(residual, self._norm, self._epsilon).view(rows, length, -1)
            return _pick(hidden, positions - where[0])
        chosen = (torch.arange(0, rows * length, length, device=self.device)[:, None] + (positions - where[0])).view(-1)
        mixed = self._mix(residual, last, layer, rows, rotation, scale, padding, cache, whole, chosen)
        residual = residual.index_select(0, chosen)
        if chosen.numel():
            self._finish(residual, mixed, last)
        hidden = kernels.norm(residual, self._norm, self._epsilon)
        return hidden.view(rows, positions.shape[1], self._norm.numel())

    def _mix(
        self,
        residual: torch.Tensor,
        block: Block,
        layer: int,
        rows: int,
        rotation: torch.Tensor,
        scale: torch.Tensor | None,
        padding: Padding,
        cache: StaticCache | None,
        whole: bool,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What attention says [B M, H D] to the residual stream [B Q, C]; to the `chosen` [B M] rows of it alone."""
        normal = kernels.norm(residual, block.norm_attention, self._epsilon)
        if chosen is None:
            qkv = self._project(normal, block, scale)
            query, key, value = self._place(qkv, self._heads, rows, rotation, cache, layer, whole)
            return self._attend(query, key, value, padding, everything=self._mode.attention == "full")
        wide = self._heads * self._width
        others = self._project(normal, block, None, queries=False)
        _, key, value = self._place(others, 0, rows, rotation, cache, layer, whole)
        if not chosen.numel():
            return normal.new_empty(0, wide)
        scale = None if scale is None else scale.index_select(0, chosen)
        picked = self._project(normal.index_select(0, chosen), block, scale, others=False)
        kernels.rotate_(picked, self._heads, self._cos, self._sin, rotation.index_select(0, chosen))
        query = picked.view(rows, -1, self._heads, self._width).transpose(1, 2)
        return self._attend(query, key, value, padding, everything=True)

    def _project(
        self,
        normal: torch.Tensor,
        block: Block,
        scale: torch.Tensor | None,
        *,
        queries: bool = True,
        others: bool = True,
    ) -> torch.Tensor:
        """Queries [N, H D] of normed rows [N, C], and keys and values [N, 2K D] behind them, ready to be rotated."""
        weight, bias = block.qkv, block.qkv_bias
        if not (queries and others):
            part = slice(self._heads * self._width) if queries else slice(self._heads * self._width, None)
            weight, bias = weight[part], None if bias is None else bias[part]
        qkv = linear(normal, weight, bias)
        if block.norm_heads is not None or scale is not None:
            heads, groups = self._heads if queries else 0, self._groups if others else 0
            split = qkv.view(len(qkv), -1, self._width)
            kernels.prepare_heads_(split, heads, groups, block.norm_heads, self._epsilon, scale)
        return qkv

    def _scale_at(self, where: torch.Tensor, first: torch.Tensor | None, length: int) -> torch.Tensor | None:
        """What queries at `where` [B Q] of padded sequences are multiplied with, [B Q] float32.

        None: 1 everywhere, because no sequence of `length` positions reaches one that scales.
        """
        if self._scale is None or length <= self._scale[1]:
            return None
        if first is not None:
            where = (where.view(len(first), -1) - first[:, None]).clamp_(min=0).view(-1)
        return self._scale[0].index_select(0, where)

    def _place(
        self,
        qkv: torch.Tensor,
        heads: int,
        rows: int,
        rotation: torch.Tensor,
        cache: StaticCache | None,
        layer: int,
        whole: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries [B, heads, Q, D], and the keys and values [B, K, S, D] that they may see."""
        split = qkv.view(rows, -1, heads + 2 * self._groups, self._width).transpose(1, 2)
        if cache is None:
            kernels.rotate_(qkv, heads + self._groups, self._cos, self._sin, rotation)
            return split[:, :heads], split[:, heads : heads + self._groups], split[:, heads + self._groups :]
        kernels.place_(qkv, cache.keys[layer], cache.values[layer], self._cos, self._sin, rotation)
        seen = split.shape[2] if whole else cache.keys.shape[3]
        return split[:, :heads], cache.keys[layer][:, :, :seen], cache.values[layer][:, :, :seen]

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, padding: Padding, *, everything: bool
    ) -> torch.Tensor:
        """Attention of rotated queries [B, H, M, D]: [B M, H D]. The shape chooses the kernel, for both families.

        A few queries that see everything go to `kernels.attend_few`, many to PyTorch's choice.
        """
        if query.shape[2] <= kernels.FEW and everything:
            return kernels.attend_few(query, key, value, padding.first)
        bias = padding.bias
        grouped = self._groups != self._heads
        if bias is not None and grouped:  # no kernel takes a mask and grouped queries; a padded prompt is read once
            key, value = (part.repeat_interleave(self._heads // self._groups, 1) for part in (key, value))
        plain = bias is None
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=plain and not everything, enable_gqa=plain and grouped
        )
        return mixed.transpose(1, 2).reshape(-1, self._heads * self._width)

    def _finish(self, residual: torch.Tensor, mixed: torch.Tensor, block: Block) -> None:
        """The rest of a block behind attention, added to the residual stream [N, C] in place.

        Rows are taken in portions: gate and up of a large batch would be the largest tensor there is.
        """
        residual.addmm_(mixed, block.out.t())
        if block.out_bias is not None:
            residual.add_(block.out_bias)
        del mixed
        portions = -(-residual.shape[0] * block.gate_up.shape[0] // _PORTION)
        for part in residual.chunk(portions):
            both = linear(kernels.norm(part, block.norm_ffn, self._epsilon), block.gate_up, block.gate_up_bias)
            part.addmm_(kernels.gate(both), block.down.t())
            if block.down_bias is not None:
                part.add_(block.down_bias)


def _pick(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Hidden states [B, M, C] at `positions` [B, M] of [B, S, C]."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
