"""The kernels of `models.kernels` in Triton, but for attention. Imported only on a GPU.

Each function computes in float32 whatever the tensors are, and launches on the current stream without waiting, so all
of them can be captured in a CUDA graph. Sizes that depend on the model are compile-time constants; batch, lengths and
numbers of heads are arguments, and Triton is told not to compile anew where one is 1 or divides by 16
(`do_not_specialize`). So a kernel compiles once per model and not once per shape.
"""

import torch
import triton
import triton.language as tl


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """See `kernels.norm`."""
    rows, channels = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(channels)
    _norm[(rows,)](x, weight, out, epsilon, channels, block, num_warps=min(16, max(1, block // 256)))
    return out


@triton.jit
def _norm(x, weight, out, epsilon, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < CHANNELS
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)  # now: its way overlaps with that of the row
    value = tl.load(x + row * CHANNELS + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / CHANNELS + epsilon)
    # Transformers rounds to the model's dtype before it multiplies with the weight
    normal = (value * scale).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * CHANNELS + at, (normal * factor).to(out.dtype.element_ty), mask=inside)


def gate(both: torch.Tensor) -> torch.Tensor:
    """See `kernels.gate`."""
    rows, half = both.shape[0], both.shape[1] // 2
    out = both.new_empty(rows, half)
    _gate[(rows, triton.cdiv(half, 2048))](both, out, half, 2048, num_warps=8)
    return out


@triton.jit
def _gate(both, out, HALF: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < HALF
    gate = tl.load(both + row * 2 * HALF + at, mask=inside).to(tl.float32)
    up = tl.load(both + row * 2 * HALF + HALF + at, mask=inside).to(tl.float32)
    silu = (gate * tl.sigmoid(gate)).to(out.dtype.element_ty).to(tl.float32)  # rounded where PyTorch rounds
    tl.store(out + row * HALF + at, (silu * up).to(out.dtype.element_ty), mask=inside)


def prepare_heads_(
    x: torch.Tensor,
    heads: int,
    groups: int,
    norms: torch.Tensor | None,
    epsilon: float,
    scale: torch.Tensor | None,
) -> None:
    """See `kernels.prepare_heads_`."""
    width = x.shape[2]
    lanes = triton.next_power_of_2(width)
    block = max(1, 2048 // lanes)
    _prepare_heads[(x.shape[0], triton.cdiv(heads + groups, block))](
        x, x if norms is None else norms, x if scale is None else scale, x.stride(0), heads, heads + groups, epsilon,
        width, lanes, block, norms is not None, scale is not None, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["heads", "both"])
def _prepare_heads(
    x, norms, scale, stride, heads, both, epsilon,
    WIDTH: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, NORMED: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    query = (head < heads)[:, None]
    inside = (head < both)[:, None] & (lane < WIDTH)[None, :]
    at = x + row * stride + head[:, None] * WIDTH + lane[None, :]
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    kind = x.dtype.element_ty
    if NORMED:
        of_queries = tl.load(norms + lane, mask=lane < WIDTH, other=0.0).to(tl.float32)
        of_keys = tl.load(norms + WIDTH + lane, mask=lane < WIDTH, other=0.0).to(tl.float32)
        value = value * tl.rsqrt(tl.sum(value * value, 1) / WIDTH + epsilon)[:, None]
        # rounded where Transformers rounds
        value = value.to(kind).to(tl.float32) * tl.where(query, of_queries[None, :], of_keys[None, :])
        value = value.to(kind).to(tl.float32)
    if SCALED:
        value = tl.where(query, value * tl.load(scale + row), value)
    tl.store(at, value.to(kind), mask=inside)


def rotate_(x: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor) -> None:
    """See `kernels.rotate_`."""
    half = cos.shape[1]
    block = max(1, 1024 // triton.next_power_of_2(half))
    _rotate[(x.shape[0], triton.cdiv(heads, block))](
        x, cos, sin, positions, x.stride(0), heads, half, triton.next_power_of_2(half), block, num_warps=4
    )


@triton.jit(do_not_specialize=["heads"])
def _rotate(x, cos, sin, positions, stride, heads, HALF: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    position = tl.load(positions + row)
    c = tl.load(cos + position * HALF + lane, mask=lane < HALF)
    s = tl.load(sin + position * HALF + lane, mask=lane < HALF)
    at = x + row * stride + head[:, None] * 2 * HALF + lane[None, :]
    inside = (head < heads)[:, None] & (lane < HALF)[None, :]
    first = tl.load(at, mask=inside).to(tl.float32)
    second = tl.load(at + HALF, mask=inside).to(tl.float32)
    tl.store(at, (first * c[None, :] - second * s[None, :]).to(x.dtype.element_ty), mask=inside)
    tl.store(at + HALF, (second * c[None, :] + first * s[None, :]).to(x.dtype.element_ty), mask=inside)


def place_(
    qkv: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    """See `kernels.place_`."""
    batch, groups, _, width = keys.shape
    heads, half = qkv.shape[1] // width - 2 * groups, width // 2
    lanes = triton.next_power_of_2(half)
    block = max(1, 1024 // lanes)
    _place[(qkv.shape[0], triton.cdiv(heads + 2 * groups, block))](
        qkv,
        keys,
        values,
        cos,
        sin,
        positions,
        qkv.shape[0] // batch,
        keys.stride(0),
        keys.stride(1),
        heads,
        groups,
        half,
        lanes,
        block,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["queries", "heads"])
def _place(
    qkv,
    keys,
    values,
    cos,
    sin,
    positions,
    queries,
    stride_row,
    stride_head,
    heads,
    GROUPS: tl.constexpr,
    HALF: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    position = tl.load(positions + row)
    c = tl.load(cos + position * HALF + lane, mask=lane < HALF)[None, :]
    s = tl.load(sin + position * HALF + lane, mask=lane < HALF)[None, :]
    real = (lane < HALF)[None, :]
    at = qkv + row * (heads + 2 * GROUPS) * 2 * HALF + head[:, None] * 2 * HALF + lane[None, :]
    inside = (head < heads + 2 * GROUPS)[:, None] & real
    first, second = tl.load(at, mask=inside), tl.load(at + HALF, mask=inside)
    a, b = first.to(tl.float32), second.to(tl.float32)
    turned_a, turned_b = (a * c - b * s).to(first.dtype), (b * c + a * s).to(first.dtype)
    query = (head < heads)[:, None] & real
    tl.store(at, turned_a, mask=query)
    tl.store(at + HALF, turned_b, mask=query)
    base = (row // queries) * stride_row + position * 2 * HALF + lane[None, :]
    group = head - heads
    at = keys + base + group[:, None].to(tl.int64) * stride_head
    key = ((group >= 0) & (group < GROUPS))[:, None] & real
    tl.store(at, turned_a, mask=key)
    tl.store(at + HALF, turned_b, mask=key)
    at = values + base + (group - GROUPS)[:, None].to(tl.int64) * stride_head
    value = ((group >= GROUPS) & (group < 2 * GROUPS))[:, None] & real
    tl.store(at, first, mask=value)
    tl.store(at + HALF, second, mask=value)
