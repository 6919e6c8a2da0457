"""Greedy choice: the most probable token and its probability, in one read of the logits instead of six.

A greedy step needs two numbers of 10^5 per position. As PyTorch operations (mask a column, argmax, copy to float32,
softmax of the whole vocabulary, gather, put the column back) they read and write the logits many times over, in kernels
that a few rows do not fill; here they are one pass.
"""

import torch


def greedy(logits: torch.Tensor, banned: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable token of every row and its probability.

    Args:
        logits: [N, V]; not changed.
        banned: a token that is not chosen, but keeps its share of the probability.

    Returns:
        Tokens [N] int64, the lowest among equals; probabilities [N] float32, softmax over all V.
    """
    if logits.is_cuda:
        from llmbench.decoding import triton_kernels

        return triton_kernels.greedy(logits, -1 if banned is None else banned)
    return greedy_plain(logits, banned)


def largest(x: torch.Tensor) -> torch.Tensor:
    """Where the largest value of every row lies, [..., N] to [...]; the first among equals.

    `argmax`, but on a CPU `max` takes a third of its time (torch 2.13.0, 4 rows of 8192).
    """
    return x.argmax(-1) if x.is_cuda else x.max(-1).indices


def greedy_plain(logits: torch.Tensor, banned: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`greedy` in PyTorch."""
    allowed = (
        logits if banned is None else logits.index_fill(-1, torch.tensor([banned], device=logits.device), -torch.inf)
    )
    tokens = largest(allowed)
    return tokens, logits.float().softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
