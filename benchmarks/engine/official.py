"""The official LLaDA loop, plainly: the slow reference for speed, and a second opinion on tokens.

Written from the description of ML-GSAI/LLaDA `generate.py` at b7e6c35, with the work that it does: a forward over the
whole sequence, logits at every position, the softmax of all of them in their own dtype, and a top-k per row; under
`no_grad`, as there, and not in inference mode, which spares the host a tenth of its time. One thing differs, as in our
decoder: the mask token is never proposed. `tests/bench` holds our decoder against it, token by token.
"""

from collections.abc import Callable
from typing import Any

import torch


@torch.inference_mode(False)  # also when the caller is in it
@torch.no_grad()
def generate(
    model: Any,
    prompt: torch.Tensor,
    *,
    steps: int,
    canvas: int,
    block_length: int,
    mask_id: int,
    most_steps: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Greedy denoising with low-confidence remasking.

    Args:
        model: a bidirectional Transformers model.
        prompt: [B, P] int64, all of one length.
        steps: k, over all blocks.
        canvas: G.
        block_length: divides the canvas; its number of blocks divides the steps.
        mask_id: the mask token.
        most_steps: stop after so many, for timing; the canvas then still holds masks.
        on_step: called after every step.

    Returns:
        [B, G] int64.
    """
    rows, length = prompt.shape
    x = torch.full((rows, length + canvas), mask_id, dtype=torch.long, device=prompt.device)
    x[:, :length] = prompt
    blocks = canvas // block_length
    per_block = steps // blocks
    done = 0
    for block in range(blocks):
        begin, end = length + block * block_length, length + (block + 1) * block_length
        transfer = _transfer(x[:, begin:end] == mask_id, per_block)
        for step in range(per_block):
            masked = x == mask_id
            logits = model(x).logits
            column = logits[..., mask_id].clone()
            logits[..., mask_id] = -torch.inf
            candidate = logits.argmax(-1)
            logits[..., mask_id] = column
            probability = logits.softmax(-1)
            confidence = probability.gather(-1, candidate.unsqueeze(-1)).squeeze(-1)
            confidence[:, end:] = -torch.inf
            candidate = torch.where(masked, candidate, x)
            confidence = torch.where(masked, confidence, -torch.inf)
            chosen = torch.zeros_like(masked)
            for row in range(rows):
                _, index = torch.topk(confidence[row], k=int(transfer[row, step]))
                chosen[row, index] = True
            x[chosen] = candidate[chosen]
            if on_step is not None:
                on_step(done)
            done += 1
            if done == most_steps:
                return x[:, length:]
    return x[:, length:]


def _transfer(masked: torch.Tensor, steps: int) -> torch.Tensor:
    """How many tokens of each row become final in each step, [B, steps]: evenly, the remainder first."""
    total = masked.sum(dim=1, keepdim=True)
    count = (total // steps).expand(-1, steps).clone()
    for row in range(len(count)):
        count[row, : int(total[row] % steps)] += 1
    return count
