"""Which of a step's proposals become final? The surest ones, written into the canvas; the rest stays listed as open.

As PyTorch operations these are some thirty small kernels per step, each of which waits for the one before; on a GPU one
kernel does it. `rules` says how many tokens of a row become final.
"""

import torch

from llmbench.decoding import rules
from llmbench.decoding.rules import Factor, Scheduled, Threshold, Transfer

_MOST = 128
"""Candidates of a row that one program of the kernel compares with each other."""


def commit_(
    canvas: torch.Tensor,
    opened: torch.Tensor,
    left: torch.Tensor,
    done: torch.Tensor,
    counts: torch.Tensor,
    tokens: torch.Tensor,
    confidence: torch.Tensor,
    transfer: Transfer,
) -> None:
    """Make the surest candidates of every row final, and list what is still masked. Nothing waits for the device.

    Args:
        canvas: [B, S] int64; final tokens are written into it.
        opened: [B, >= M] int64, positions of a block; the first `left` of its first M are masked, in ascending order.
            Afterwards the first M are the ones still masked, ascending, then the others.
        left: [B, 1] int64, masked positions; lowered by what became final.
        done: [B, 1] int64, steps of this block so far; raised by one, up to the last of `counts`.
        counts: [k] int64, how many tokens each step makes final at least.
        tokens: [B, M] int64, proposed for the first M of `opened`.
        confidence: [B, M]; the order. Among equals the first comes first.
        transfer: how many become final beyond the schedule.
    """
    known = isinstance(transfer, Scheduled | Threshold | Factor) and confidence.dtype == torch.float32
    if canvas.is_cuda and known and tokens.shape[1] <= _MOST:
        from llmbench.decoding import triton_kernels

        triton_kernels.commit_(canvas, opened, left, done, counts, tokens, confidence, *_rule(transfer))
    else:
        commit_plain_(canvas, opened, left, done, counts, tokens, confidence, transfer)


def commit_plain_(
    canvas: torch.Tensor,
    opened: torch.Tensor,
    left: torch.Tensor,
    done: torch.Tensor,
    counts: torch.Tensor,
    tokens: torch.Tensor,
    confidence: torch.Tensor,
    transfer: Transfer,
) -> None:
    """`commit_` in PyTorch."""
    positions = opened[:, : tokens.shape[1]]
    rank = torch.arange(positions.shape[1], device=positions.device)
    candidate = rank < left  # the others fill the size up
    confidence = confidence.masked_fill(~candidate, float("-inf"))
    order = rules.surest_first(confidence)
    count = transfer(confidence.gather(1, order), done)[:, None]
    count = torch.minimum(torch.maximum(count, counts[done]), left)
    final = rank < count
    where, proposed = positions.gather(1, order), tokens.gather(1, order)
    canvas.scatter_(1, where, torch.where(final, proposed, canvas.gather(1, where)))
    still = ~final & candidate.gather(1, order)
    opened[:, : positions.shape[1]] = rules.ascending_first(where, still)
    left.sub_(count)
    done.add_(1).clamp_(max=counts.shape[0] - 1)


def _rule(transfer: Transfer) -> tuple[int, float]:
    """A rule as the kernel takes it: its number, and its parameter."""
    match transfer:
        case Threshold():
            return 1, transfer.threshold
        case Factor():
            return 2, transfer.factor
        case _:
            return 0, 0.0
