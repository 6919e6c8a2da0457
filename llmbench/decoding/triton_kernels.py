"""The kernels of this room in Triton. Imported only on a GPU or under Triton's interpreter."""

import torch
import triton
import triton.language as tl

BLOCK = 2048
"""Logits that a program looks at in one go."""

PROGRAMS = 2048
"""So many programs keep a GPU busy; rows are cut in parts until there are about as many."""


def greedy(logits: torch.Tensor, banned: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See `greedy.greedy`; `banned` -1 bans nothing."""
    rows, vocabulary = logits.shape
    tiles = triton.cdiv(vocabulary, BLOCK)
    parts = min(tiles, triton.cdiv(PROGRAMS, max(1, rows)))
    share = triton.cdiv(tiles, parts)
    found = logits.new_empty((3, rows, parts), dtype=torch.float32)
    where = logits.new_empty((rows, parts), dtype=torch.int64)
    tokens = logits.new_empty(rows, dtype=torch.int64)
    probability = logits.new_empty(rows, dtype=torch.float32)
    if rows:
        _parts[(rows, parts)](
            logits, found, where, logits.stride(0), rows * parts, parts, banned, share, vocabulary, BLOCK, num_warps=8
        )
        _whole[(rows,)](
            found, where, tokens, probability, rows * parts, parts, triton.next_power_of_2(parts), num_warps=1
        )
    return tokens, probability


@triton.jit(do_not_specialize=["plane", "parts", "banned", "share"])
def _parts(logits, found, where, stride, plane, parts, banned, share, VOCABULARY: tl.constexpr, BLOCK: tl.constexpr):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    top, total, best, at = float("-inf"), 0.0, float("-inf"), part * share * BLOCK
    for tile in range(share):
        column = (part * share + tile) * BLOCK + lane
        value = tl.load(logits + row * stride + column, mask=column < VOCABULARY, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(value, 0))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - safe) + tl.sum(tl.exp(value - safe), 0)
        top = higher
        value = tl.where(column == banned, float("-inf"), value)
        most, index = tl.max(value, 0, return_indices=True)
        at = tl.where(most > best, (part * share + tile) * BLOCK + index, at)
        best = tl.maximum(best, most)
    slot = row * parts + part
    tl.store(found + slot, top)
    tl.store(found + plane + slot, total)
    tl.store(found + 2 * plane + slot, best)
    tl.store(where + slot, at.to(tl.int64))


@triton.jit(do_not_specialize=["plane", "parts"])
def _whole(found, where, tokens, probability, plane, parts, PARTS: tl.constexpr):
    row = tl.program_id(0)
    part = tl.arange(0, PARTS)
    slot, real = row * parts + part, part < parts
    top = tl.load(found + slot, mask=real, other=float("-inf"))
    total = tl.load(found + plane + slot, mask=real, other=0.0)
    best = tl.load(found + 2 * plane + slot, mask=real, other=float("-inf"))
    highest = tl.max(top, 0)
    everything = tl.sum(tl.where(top == float("-inf"), 0.0, total * tl.exp(top - highest)), 0)
    most, index = tl.max(best, 0, return_indices=True)
    tl.store(tokens + row, tl.load(where + row * parts + index))
    tl.store(probability + row, tl.exp(most - highest) / everything)


def commit_(
    canvas: torch.Tensor,
    opened: torch.Tensor,
    left: torch.Tensor,
    done: torch.Tensor,
    counts: torch.Tensor,
    tokens: torch.Tensor,
    confidence: torch.Tensor,
    rule: int,
    parameter: float,
) -> None:
    """See `commit.commit_`; `rule` 0 is the schedule alone, 1 a threshold, 2 a factor."""
    rows, size = tokens.shape
    if not size:
        return
    lanes = max(32, triton.next_power_of_2(size))
    _commit[(rows,)](
        canvas, opened, left, done, counts, tokens, confidence, parameter, canvas.stride(0), opened.stride(0), size,
        counts.shape[0], rule, lanes, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["canvas_row", "opened_row", "size", "steps"])
def _commit(
    canvas, opened, left, done, counts, tokens, confidence, parameter, canvas_row, opened_row, size, steps,
    RULE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    real = lane < size
    masked = tl.load(left + row)
    step = tl.load(done + row)
    candidate = lane < masked
    position = tl.load(opened + row * opened_row + lane, mask=real, other=0)
    sure = tl.load(confidence + row * size + lane, mask=real & candidate, other=float("-inf"))
    # the rank of a candidate is how many are surer, or as sure and before it; lanes that are no candidate come last
    before = (sure[None, :] > sure[:, None]) | ((sure[None, :] == sure[:, None]) & (lane[None, :] < lane[:, None]))
    rank = tl.sum(before.to(tl.int32), 1)
    more = tl.sum(tl.zeros([LANES], tl.int32), 0)
    if RULE == 1:
        more = tl.sum((sure >= parameter).to(tl.int32), 0)
    if RULE == 2:
        enough = sure >= 1 - tl.div_rn(parameter + tl.zeros([LANES], tl.float32), (rank + 2).to(tl.float32))
        more = tl.min(tl.where(enough, LANES, rank), 0)
    count = tl.minimum(tl.maximum(more.to(tl.int64), tl.load(counts + step)), masked)
    final = real & (rank < count)
    tl.store(canvas + row * canvas_row + position, tl.load(tokens + row * size + lane, mask=real, other=0), mask=final)
    still = candidate & (rank >= count)
    key = position + tl.where(still, 0, 1 << 40)
    key = tl.where(real, key, 1 << 41)
    place = tl.sum((key[None, :] < key[:, None]).to(tl.int32), 1)
    tl.store(opened + row * opened_row + place, position, mask=real)
    tl.store(left + row, masked - count)
    tl.store(done + row, tl.minimum(step + 1, steps - 1))
