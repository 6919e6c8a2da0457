"""The attention kernels of `models.kernels` in Triton. Imported only where there is a GPU.

One program per sequence, key-value head and part of the positions (Flash-Decoding): while there are fewer sequences and
heads than a GPU has processors, positions are cut into parts, whose results `_merge` joins. Softmax and sums are
float32 whatever the tensors are. As the other kernels they compile once per model and not once per shape, but for
`_merge`, once per number of parts, and `attend_few`, once for 32 queries and fewer, and once for 64.
"""

import torch
import triton
import triton.language as tl

KEYS = 64
"""Keys that a program of the attention kernels looks at in one go."""

BUSY = 256
"""Programs that keep a GPU of about as many multiprocessors busy; below that, attention cuts sequences in parts."""


def attend_one(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    position: torch.Tensor,
    first: torch.Tensor | None,
) -> torch.Tensor:
    """See `kernels.attend_one`. Split over the keys (Flash-Decoding) while there are fewer programs than processors."""
    batch, groups, length, width = keys.shape
    heads = qkv.shape[1] // width - 2 * groups
    out = qkv.new_empty(batch, heads * width)
    tiles = triton.cdiv(length, KEYS)
    parts = min(tiles, triton.cdiv(BUSY, batch * groups))
    share = heads // groups
    lanes = max(16, triton.next_power_of_2(share))
    partial = qkv.new_empty((batch * groups, parts, lanes, width), dtype=torch.float32) if parts > 1 else out
    sums = qkv.new_empty((batch * groups, parts, lanes), dtype=torch.float32) if parts > 1 else out
    _attend_one[(batch, groups, parts)](
        qkv,
        keys,
        values,
        cos,
        sin,
        position,
        first if first is not None else position,
        out,
        partial,
        sums,
        width**-0.5,
        keys.stride(0),
        keys.stride(1),
        parts,
        triton.cdiv(tiles, parts),
        groups,
        share,
        lanes,
        width // 2,
        KEYS,
        first is not None,
        parts > 1,
        qkv.dtype == torch.float32,
        num_warps=4,
    )
    if parts > 1:
        strides = heads * width, share * width, width, 0
        _merge[(batch, groups, share)](out, partial, sums, *strides, 1, groups, parts, lanes, width, num_warps=1)
    return out


@triton.jit(do_not_specialize=["parts", "tiles"])
def _attend_one(
    qkv,
    keys,
    values,
    cos,
    sin,
    position,
    first,
    out,
    partial,
    sums,
    scale,
    stride_row,
    stride_head,
    parts,
    tiles,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    LANES: tl.constexpr,
    HALF: tl.constexpr,
    KEYS: tl.constexpr,
    PADDED: tl.constexpr,
    SPLIT: tl.constexpr,
    EXACT: tl.constexpr,
):
    row, group, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    kind = qkv.dtype.element_ty
    now = tl.load(position).to(tl.int32)
    begin = tl.load(first + row).to(tl.int32) if PADDED else 0
    lane, half, whole = tl.arange(0, LANES), tl.arange(0, HALF), tl.arange(0, 2 * HALF)
    c = tl.load(cos + now * HALF + half)
    s = tl.load(sin + now * HALF + half)
    base = qkv + row.to(tl.int64) * (SHARE + 2) * GROUPS * 2 * HALF

    at = base + (group * SHARE + lane[:, None]) * 2 * HALF + half[None, :]
    some = (lane < SHARE)[:, None]
    a = tl.load(at, mask=some, other=0.0).to(tl.float32)
    b = tl.load(at + HALF, mask=some, other=0.0).to(tl.float32)
    query_a = (a * c[None, :] - b * s[None, :]).to(kind)
    query_b = (b * c[None, :] + a * s[None, :]).to(kind)
    at_key = base + (SHARE * GROUPS + group) * 2 * HALF + half
    a = tl.load(at_key).to(tl.float32)
    b = tl.load(at_key + HALF).to(tl.float32)
    key_a, key_b = (a * c - b * s).to(kind), (b * c + a * s).to(kind)
    value = tl.load(base + ((SHARE + 1) * GROUPS + group) * 2 * HALF + whole)

    rows = row.to(tl.int64) * stride_row + group * stride_head
    top = tl.full([LANES], float("-inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    mixed = tl.zeros([LANES, 2 * HALF], tl.float32)
    low = part * tiles * KEYS
    high = tl.minimum(low + tiles * KEYS, now + 1)
    for tile in range(low, high, KEYS):
        where = tile + tl.arange(0, KEYS)
        seen = where <= now
        new = (where == now)[:, None]
        at_keys = keys + rows + where[:, None].to(tl.int64) * 2 * HALF
        k_a = tl.where(new, key_a[None, :], tl.load(at_keys + half[None, :], mask=seen[:, None], other=0.0))
        k_b = tl.where(new, key_b[None, :], tl.load(at_keys + HALF + half[None, :], mask=seen[:, None], other=0.0))
        score = tl.dot(query_a, tl.trans(k_a), input_precision=precision)
        score = tl.dot(query_b, tl.trans(k_b), score, input_precision=precision) * scale
        score = tl.where((seen & (where >= begin))[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # a tile of padding alone
        weight = tl.exp(score - safe[:, None])
        fade = tl.exp(top - safe)
        total = total * fade + tl.sum(weight, 1)
        at_values = values + rows + where[:, None].to(tl.int64) * 2 * HALF + whole[None, :]
        v = tl.where(new, value[None, :], tl.load(at_values, mask=seen[:, None], other=0.0))
        mixed = tl.dot(weight.to(kind), v, mixed * fade[:, None], input_precision=precision)
        top = higher
    if (low <= now) & (now < low + tiles * KEYS):  # one part holds the new position, and alone looks at its row
        tl.store(keys + rows + now * 2 * HALF + half, key_a)
        tl.store(keys + rows + now * 2 * HALF + HALF + half, key_b)
        tl.store(values + rows + now * 2 * HALF + whole, value)
    if SPLIT:
        slot = (row * GROUPS + group) * parts + part
        # a part is left as its average and the logarithm of its weight; an empty one weighs nothing
        some_weight = tl.where(total > 0, total, 1.0)
        at = partial + (slot * LANES + lane[:, None]) * 2 * HALF + whole[None, :]
        tl.store(at, mixed / some_weight[:, None])
        tl.store(sums + slot * LANES + lane, tl.where(total > 0, top + tl.log(some_weight), float("-inf")))
    else:
        at = out + ((row * GROUPS + group) * SHARE + lane[:, None]) * 2 * HALF + whole[None, :]
        tl.store(at, (mixed / total[:, None]).to(kind), mask=some)


@triton.jit(do_not_specialize=["few", "heads"])
def _merge(
    out,
    partial,
    sums,
    stride_row,
    stride_program,
    stride_head,
    stride_at,
    few,
    heads,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row, program, lane, whole = tl.program_id(0), tl.program_id(1), tl.program_id(2), tl.arange(0, WIDTH)
    slot = (row * heads + program) * PARTS
    top = float("-inf")
    for part in tl.static_range(PARTS):
        top = tl.maximum(top, tl.load(sums + (slot + part) * LANES + lane))
    total = 0.0
    mixed = tl.zeros([WIDTH], tl.float32)
    for part in tl.static_range(PARTS):
        weight = tl.exp(tl.load(sums + (slot + part) * LANES + lane) - top)
        total += weight
        mixed += weight * tl.load(partial + ((slot + part) * LANES + lane) * WIDTH + whole)
    at = out + row * stride_row + program * stride_program + lane // few * stride_head + lane % few * stride_at + whole
    tl.store(at, (mixed / total).to(out.dtype.element_ty))


PACKED = 64
"""Most lanes of a program of `attend_few`: queries times the heads that share their keys."""


def attend_few(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    first: torch.Tensor | None,
    position: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """See `kernels.attend_few`. The heads of a group share a program where their queries fit in one."""
    batch, heads, few, width = query.shape
    length, share = keys.shape[2], heads // keys.shape[1]
    packed = share if share * few <= PACKED else 1
    programs = heads // packed
    out = query.new_empty(batch * few, heads * width)
    tiles = triton.cdiv(length, KEYS)
    parts = min(tiles, triton.cdiv(BUSY, batch * programs))
    lanes = max(32, triton.next_power_of_2(packed * few))
    partial = query.new_empty((batch * programs, parts, lanes, width), dtype=torch.float32) if parts > 1 else out
    sums = query.new_empty((batch * programs, parts, lanes), dtype=torch.float32) if parts > 1 else out
    strides = few * heads * width, packed * width, width, heads * width
    _attend_few[(batch, programs, parts)](
        query, keys, values, first if first is not None else query, position if position is not None else query,
        out, partial, sums, width**-0.5,
        *query.stride()[:3], *keys.stride()[:3], *values.stride()[:3], *strides, length, parts,
        triton.cdiv(tiles, parts), few, programs, packed, share, lanes, width, KEYS, first is not None,
        position is not None, causal, parts > 1, query.dtype == torch.float32, num_warps=4, num_stages=3,
    )  # fmt: skip
    if parts > 1:
        _merge[(batch, programs, packed * few)](
            out, partial, sums, *strides, few, programs, parts, lanes, width, num_warps=1
        )
    return out


@triton.jit(do_not_specialize=["length", "parts", "tiles", "few"])
def _attend_few(
    query, keys, values, first, position, out, partial, sums, scale,
    query_row, query_head, query_at, keys_row, keys_head, keys_at, values_row, values_head, values_at,
    out_row, out_program, out_head, out_at, length, parts, tiles, few,
    PROGRAMS: tl.constexpr, HEADS: tl.constexpr, SHARE: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
    KEYS: tl.constexpr, PADDED: tl.constexpr, ENDS: tl.constexpr, CAUSAL: tl.constexpr, SPLIT: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    row, program, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    kind = query.dtype.element_ty
    begin = tl.load(first + row).to(tl.int32) if PADDED else 0
    lane, whole = tl.arange(0, LANES), tl.arange(0, WIDTH)
    some = (lane < HEADS * few)[:, None]
    own = lane % few
    at = query + row * query_row + (program * HEADS + lane // few)[:, None] * query_head + own[:, None] * query_at
    asked = tl.load(at + whole[None, :], mask=some, other=0.0)
    group = program * HEADS // SHARE
    base_keys = keys + row * keys_row + group * keys_head + whole[None, :]
    base_values = values + row * values_row + group * values_head + whole[None, :]
    end = length
    last = tl.zeros([LANES], tl.int32)
    if ENDS:
        start = tl.load(position + row).to(tl.int32)
        end = tl.minimum(length, start + few)
        last = start + own if CAUSAL else tl.zeros([LANES], tl.int32) + start + few - 1
    top = tl.full([LANES], float("-inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    mixed = tl.zeros([LANES, WIDTH], tl.float32)
    low = part * tiles * KEYS
    for tile in range(low, tl.minimum(low + tiles * KEYS, end), KEYS):
        where = tile + tl.arange(0, KEYS)
        there = where < length
        k = tl.load(base_keys + where[:, None] * keys_at, mask=there[:, None], other=0.0)
        score = tl.dot(asked, tl.trans(k), input_precision=precision) * scale
        seen = (there & (where >= begin))[None, :]
        if ENDS:
            seen = seen & (where[None, :] <= last[:, None])
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # a tile of padding alone
        weight = tl.exp(score - safe[:, None])
        fade = tl.exp(top - safe)
        total = total * fade + tl.sum(weight, 1)
        v = tl.load(base_values + where[:, None] * values_at, mask=there[:, None], other=0.0)
        mixed = tl.dot(weight.to(kind), v, mixed * fade[:, None], input_precision=precision)
        top = higher
    some_weight = tl.where(total > 0, total, 1.0)
    if SPLIT:
        slot = (row * PROGRAMS + program) * parts + part
        tl.store(partial + (slot * LANES + lane[:, None]) * WIDTH + whole[None, :], mixed / some_weight[:, None])
        tl.store(sums + slot * LANES + lane, tl.where(total > 0, top + tl.log(some_weight), float("-inf")))
    else:
        at = out + row * out_row + program * out_program + (lane // few)[:, None] * out_head + own[:, None] * out_at
        tl.store(at + whole[None, :], (mixed / some_weight[:, None]).to(kind), mask=some)
