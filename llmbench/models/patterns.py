"""Which positions see which? The attention patterns of `modes` as boolean matrices, True where a key is visible."""

import torch

from llmbench.config.modes import Mode


def prompt(mode: Mode, mask: torch.Tensor) -> torch.Tensor:
    """What each position of left-padded prompts sees, as a mode reads them.

    A padded position sees itself where positions differ in what they see, because a row of -inf alone has no softmax;
    no other sees it.

    Args:
        mode: of the model.
        mask: [B, S] bool, False where padded.

    Returns:
        [B, 1, S, S], or [B, 1, 1, S] where all positions of a row see the same.
    """
    visible, length = mask[:, None, None, :], mask.shape[1]
    if mode.attention == "full":
        return visible
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    if mode.causal_prompt:
        return (visible & torch.ones_like(itself).tril()) | itself
    assert mode.block_length is not None
    if mode.aligned:
        number = (mask.cumsum(-1) - 1).clamp_(min=0) // mode.block_length
    else:
        number = (torch.arange(length, device=mask.device) - length).div(mode.block_length, rounding_mode="floor")[None]
    return (visible & (number[:, None, None, :] <= number[:, None, :, None])) | itself


def two_streams(blocks: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """What each position of a text, and of the same text with noise behind it, sees: all blocks in one forward.

    A position of the text sees the text before it, up to itself (`causal`) or to the end of its block. One with noise
    sees the text of all blocks before its own, and its own block with noise.

    Args:
        blocks: [S] int64, the number of each position's block, rising.
        causal: how the text sees itself.

    Returns:
        [2 S, 2 S]: queries, keys; the text first.
    """
    length = blocks.shape[0]
    own, other = blocks[:, None], blocks[None]
    text = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril() if causal else other <= own
    above = torch.cat([text, torch.zeros_like(text)], 1)
    return torch.cat([above, torch.cat([other < own, other == own], 1)])
