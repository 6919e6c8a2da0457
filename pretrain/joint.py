"""How does one set of weights learn to decode both ways? By one forward over two copies of a row: [clean | noisy].

The clean copy is causal and learns to predict the next token. The noisy copy is cut into blocks, parts of each are
masked, and the masked tokens are predicted at their own places. A noisy block sees itself both ways, and of the clean
copy what lies before the block; so each block is asked what a decoder asks that has written all before it, and one
forward asks it of every block (block diffusion, Arriola et al. 2025, arXiv 2503.09573; trained together with
next-token prediction: Nemotron-Labs-Diffusion, arXiv 2607.05722). Both copies have the same positions.

Every block has a t of its own. The cost of the noisy copy is that of ``objective.masked``: weights 1/t, and in
expectation over the masks an upper bound of the negative log-likelihood of a token, given all blocks before its own.
A share of the blocks is asked what a draft is asked: the first token is given and all others are masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pretrain import objective
from pretrain.objective import Head, Question, answer_cost

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Joint:
    """What the model is asked about both copies of one batch.

    Attributes:
        clean: The question about the clean copy; its ``inputs`` are that copy, shape (rows, length).
        noisy: The question about the noisy copy, likewise.
        blocks: The block that each place belongs to, rising from 0, shape (length,).
    """

    clean: Question
    noisy: Question
    blocks: torch.Tensor

    @property
    def dropped(self) -> torch.Tensor:
        """Scored places that did not fit the capacity, a scalar tensor."""
        return self.noisy.dropped


def blocks_of(length: int, block_length: int, first: int) -> torch.Tensor:
    """The block of each place, shape (length,), if the first block has ``first`` (1 to ``block_length``) tokens."""
    return (torch.arange(length) + block_length - first) // block_length


def attention(blocks: torch.Tensor) -> torch.Tensor:
    """What each place of [clean | noisy] sees: True where the column is seen. Shape (1, 1, 2 length, 2 length)."""
    length = blocks.numel()
    place = torch.arange(length, device=blocks.device)
    causal = place[:, None] >= place
    before, own = blocks[:, None] > blocks, blocks[:, None] == blocks
    clean = torch.cat([causal, torch.zeros_like(causal)], dim=1)
    return torch.cat([clean, torch.cat([before, own], dim=1)])[None, None]


def ask(
    ids: torch.Tensor, block_length: int, given_share: float, mask_id: int, generator: torch.Generator
) -> Joint:
    """Both training questions about ``ids`` (rows, length); where the blocks begin is drawn for the batch."""
    rows, length = ids.shape
    first = int(torch.randint(1, block_length + 1, (), device=ids.device, generator=generator))
    blocks = blocks_of(length, block_length, first).to(ids.device)
    count = (length + block_length - 2) // block_length + 1  # the most that there can be
    t = objective.stratified_t(rows * count, generator).view(rows, count)
    given = torch.rand(rows, count, device=ids.device, generator=generator) < given_share
    t = torch.where(given, 1.0, t)[:, blocks]
    begins = blocks.diff(prepend=blocks[:1] - 1) > 0
    scorable = ~(given[:, blocks] & begins)
    chosen = scorable & (torch.rand(rows, length, device=ids.device, generator=generator) < t)
    capacity = min(rows * length, int(rows * length * (0.5 + 0.5 * given_share + 0.1)))
    noisy = objective.hide(ids, chosen, t, scorable.sum(), mask_id, capacity)
    return Joint(objective.next_token(ids), noisy, blocks)


def examine(ids: torch.Tensor, block_length: int, mask_id: int, generator: torch.Generator) -> Joint:
    """Both questions about all but the first token of each row of ``ids``: it is a block of its own, and given."""
    rows, length = ids.shape
    blocks = blocks_of(length, block_length, 1).to(ids.device)
    count = int(blocks[-1]) + 1
    t = objective.stratified_t(rows * count, generator).view(rows, count)[:, blocks]
    scorable = (blocks > 0).expand(rows, length)
    chosen = scorable & (torch.rand(rows, length, device=ids.device, generator=generator) < t)
    capacity = min(rows * length, int(rows * length * 0.6))
    noisy = objective.hide(ids, chosen, t, scorable.sum(), mask_id, capacity)
    return Joint(objective.next_token(ids), noisy, blocks)


def costs(model: LlamaForCausalLM, joint: Joint, head: Head = answer_cost) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats per scored token of the clean and of the noisy copy."""
    length = joint.blocks.numel()
    place = torch.arange(length, device=joint.blocks.device)
    hidden = model.model(
        input_ids=torch.cat([joint.clean.inputs, joint.noisy.inputs], dim=1),
        position_ids=place.repeat(2)[None],
        attention_mask=attention(joint.blocks),
        use_cache=False,
    ).last_hidden_state
    clean, noisy = hidden.split(length, dim=1)
    return objective.charge(model, clean, joint.clean, head), objective.charge(model, noisy, joint.noisy, head)
