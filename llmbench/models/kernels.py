"""What stands between two matrix products: normalise, rotate, gate, attend with one query. In Triton, and in PyTorch.

A forward pass is matrix products (cuBLAS), attention of many queries (`scaled_dot_product_attention`), and these.
Run as PyTorch operations they are a dozen small kernels per block, each of which waits for the one before. Here they
are one kernel each. Triton and not `torch.compile`, because one compiled kernel then serves every batch and length: a
sweep over prompts of twelve lengths would compile twelve times.

Every function has its plain twin below it, which is the specification, what runs on a CPU, and what the tests hold the
kernels against. Shapes: N rows (positions of all sequences), C channels, B sequences,
H query heads, K key-value heads, D = 2R head channels, S positions of a cache.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from llmbench.models import host


@functools.cache
def _kernels() -> Any:
    """The Triton functions, compiled at first use; imported here because a CPU build of torch has no Triton."""
    from llmbench.models import triton_kernels

    return triton_kernels


@functools.cache
def _attention() -> Any:
    """As `_kernels`, those of attention."""
    from llmbench.models import triton_attention

    return triton_attention


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm (Zhang and Sennrich, arXiv 1910.07467) of [N, C], in float32 inside, as Transformers' Llama does it."""
    return _kernels().norm(x, weight, epsilon) if x.is_cuda else norm_plain(x, weight, epsilon)


def norm_plain(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """`norm` in PyTorch."""
    if x.dtype == torch.float32:
        return torch.rms_norm(x, weight.shape, weight, epsilon)
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def gate(both: torch.Tensor) -> torch.Tensor:
    """SiLU(gate) * up of [N, 2F], gate first: [N, F] (Shazeer, arXiv 2002.05202)."""
    return _kernels().gate(both) if both.is_cuda else gate_plain(both)


def gate_plain(both: torch.Tensor) -> torch.Tensor:
    """`gate` in PyTorch."""
    half = both.shape[-1] // 2
    return torch.nn.functional.silu(both[..., :half]).mul_(both[..., half:])


def prepare_heads_(
    x: torch.Tensor,
    heads: int,
    groups: int,
    norms: torch.Tensor | None,
    epsilon: float,
    scale: torch.Tensor | None,
) -> None:
    """What some blocks do to projected queries and keys before the rotation, in place: RMSNorm of each head, a scale.

    A scale is meant for rotated queries, but commutes with the rotation.

    Args:
        x: [N, >= heads + groups, D], each row without gaps; what lies behind query and key heads is left alone.
        heads: query heads, the first ones; may be 0.
        groups: key heads behind them; may be 0.
        norms: [2, D], the weights for queries and for keys; None: no norm.
        epsilon: of the norm.
        scale: [N] float32, what each row's queries are multiplied with; None: nothing.
    """
    (_kernels().prepare_heads_ if x.is_cuda else prepare_heads_plain_)(x, heads, groups, norms, epsilon, scale)


def prepare_heads_plain_(
    x: torch.Tensor,
    heads: int,
    groups: int,
    norms: torch.Tensor | None,
    epsilon: float,
    scale: torch.Tensor | None,
) -> None:
    """`prepare_heads_` in PyTorch."""
    queries, keys = x[:, :heads], x[:, heads : heads + groups]
    if norms is not None:
        for part, weight in zip((queries, keys), norms, strict=True):
            part.copy_(norm_plain(part, weight, epsilon))
    if scale is not None:
        queries.mul_(scale[:, None, None])


def rotate_(x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor) -> None:
    """Rotate the first `heads` heads of every row in place (RoPE, arXiv 2104.09864, Llama's half-split form).

    Args:
        x: [N, >= heads * D]; what lies behind the rotated heads is left alone.
        heads: how many.
        cos: [context, R] float32.
        sin: [context, R] float32.
        positions: [N] int64, the position of each row.
    """
    (_kernels().rotate_ if x.is_cuda else rotate_plain_)(x, heads, cos, sin, positions)


def rotate_plain_(x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor) -> None:
    """`rotate_` in PyTorch."""
    half = cos.shape[1]
    view = x[:, : heads * 2 * half].view(x.shape[0], heads, 2, half)
    c, s = cos[positions, None], sin[positions, None]
    wide = view.float()  # float32 is not copied, and the last line then copies nothing
    first, second = wide[:, :, 0].clone(), wide[:, :, 1]
    wide[:, :, 0].mul_(c).addcmul_(second, s, value=-1)
    second.mul_(c).addcmul_(first, s)
    view.copy_(wide)


def place_(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    """Rotate queries in place; write rotated keys, and values, into the cache at their positions.

    Args:
        qkv: [B Q, (h + 2K) D], sequence after sequence; any number h of query heads, 0 included.
        keys: [B, K, S, D]; overwritten at `positions`.
        values: [B, K, S, D]; overwritten at `positions`.
        cos: [context, R] float32.
        sin: [context, R] float32.
        positions: [B Q] int64, of each row: in the cache, and for the rotation.
    """
    (_kernels().place_ if qkv.is_cuda else place_plain_)(qkv, keys, values, cos, sin, positions)


def place_plain_(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    """`place_` in PyTorch."""
    batch, groups, _, width = keys.shape
    heads = qkv.shape[1] // width - groups
    rotate_plain_(qkv, heads, cos, sin, positions)
    split = qkv.view(batch, -1, heads + groups, width).transpose(1, 2)  # [B, h + 2K, Q, D]
    where = positions.view(batch, 1, -1, 1).expand(-1, groups, -1, width)
    keys.scatter_(2, where, split[:, heads - groups : heads])
    values.scatter_(2, where, split[:, heads:])


def attend_one(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position: torch.Tensor,
    first: torch.Tensor | None,
) -> torch.Tensor:
    """One new token per sequence: rotate its query and key, append key and value, attend to all positions so far.

    Keys and values are read where they lie and never repeated for the query heads of a group.

    Args:
        qkv: [B, (H + 2K) D], not rotated.
        keys: [B, K, S, D], rotated; row `position` is overwritten.
        values: [B, K, S, D]; row `position` is overwritten.
        cos: [context, R] float32.
        sin: [context, R] float32.
        position: [1] int64, of the new token.
        first: [B] int64, the first position that is no padding; None when nothing is padded.

    Returns:
        [B, H D].
    """
    run = _attention().attend_one if _tiled(qkv, 2 * cos.shape[1]) else attend_one_plain
    return run(qkv, keys, values, cos, sin, position, first)


def attend_one_plain(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position: torch.Tensor,
    first: torch.Tensor | None,
) -> torch.Tensor:
    """`attend_one` in PyTorch: two plain matrix products per key-value head, over the whole cache."""
    batch, groups, length, width = keys.shape
    heads = qkv.shape[1] // width - 2 * groups
    qkv = qkv.clone()
    rotate_plain_(qkv, heads + groups, cos, sin, position.expand(batch))
    query, key, value = torch.split(qkv.view(batch, -1, width), [heads, groups, groups], dim=1)
    keys.index_copy_(2, position, key.unsqueeze(2))
    values.index_copy_(2, position, value.unsqueeze(2))
    scores = query.reshape(batch, groups, heads // groups, width) @ keys.transpose(2, 3) * width**-0.5
    where = torch.arange(length, device=qkv.device)
    hidden = (where > position)[None] if first is None else (where > position) | (where < first[:, None])
    weights: torch.Tensor = scores.float().masked_fill_(hidden[:, None, None], float("-inf")).softmax(-1).to(qkv.dtype)
    return (weights @ values).view(batch, heads * width)


def attend_one_at(
    cos: torch.Tensor, sin: torch.Tensor, position: torch.Tensor, first: torch.Tensor | None, dtype: torch.dtype
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """`attend_one` of one step, to be called with every layer's `qkv`, `keys` and `values`; on a CPU `host.OneToken`.

    Other arguments as in `attend_one`; `dtype` is that of `qkv`, `keys` and `values`.
    """
    if not cos.is_cuda:
        return host.OneToken(cos, sin, position, first, dtype)
    return functools.partial(attend_one, cos=cos, sin=sin, position=position, first=first)


def _tiled(x: torch.Tensor, width: int) -> bool:
    """Whether the attention kernels can compute it: on a GPU, and heads as wide as a tile can be, a power of two."""
    return x.is_cuda and width >= 32 and width & (width - 1) == 0


FEW = 64
"""Most queries for which `attend_few` is meant; beyond, `scaled_dot_product_attention` fills the device by itself."""


def attend_few(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    first: torch.Tensor | None,
    position: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attention of a few queries per sequence, without a mask but for where each sequence begins and ends.

    A block of a canvas, the last token of a prompt, drafted tokens: with one program per head, most of a GPU would be
    idle, so the positions are cut into parts.

    Args:
        query: [B, H, M, D], rotated; any strides with D in a row, as for the others.
        keys: [B, K, S, D], rotated.
        values: [B, K, S, D].
        first: [B] int64, the first position that is no padding; None when nothing is padded.
        position: [B] int64, of each sequence's first query, the others follow it; what lies behind the last query is
            hidden. None: all positions are seen.
        causal: with `position`, a query sees nothing behind itself.

    Returns:
        [B M, H D].
    """
    if _tiled(query, query.shape[3]):
        return _attention().attend_few(query, keys, values, first, position, causal=causal)  # type: ignore[no-any-return]
    return attend_few_plain(query, keys, values, first, position, causal=causal)


def attend_few_plain(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    first: torch.Tensor | None,
    position: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """`attend_few` in PyTorch: two plain matrix products per key-value head."""
    batch, heads, few, width = query.shape
    groups = keys.shape[1]
    scores = query.reshape(batch, groups, -1, width) @ keys.transpose(2, 3) * width**-0.5
    scores = scores.float().view(batch, heads, few, -1)
    where = torch.arange(keys.shape[2], device=keys.device)
    if first is not None:
        scores = scores.masked_fill((where < first[:, None])[:, None, None], float("-inf"))
    if position is not None:
        own = torch.arange(few, device=keys.device) if causal else few - 1
        scores = scores.masked_fill((where > (position[:, None] + own)[..., None])[:, None], float("-inf"))
    weights = scores.softmax(-1).to(query.dtype).view(batch, groups, -1, keys.shape[2])
    mixed: torch.Tensor = (weights @ values).view(batch, heads, few, width)
    return mixed.transpose(1, 2).reshape(batch * few, heads * width)
