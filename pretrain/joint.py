"""How does one set of weights learn to decode both ways? By one forward over copies of a row: [clean | noisy | ...].

The clean copy is causal and learns to predict the next token. A noisy copy is cut into blocks, parts of each are
masked, and the masked tokens are predicted at their own places. A noisy block sees itself both ways, and of the clean
copy what lies before the block; so each block is asked what a decoder asks that has written all before it, and one
forward asks it of every block (block diffusion, Arriola et al. 2025, arXiv 2503.09573; trained together with
next-token prediction: Nemotron-Labs-Diffusion, arXiv 2607.05722). All copies have the same positions and share the
cut; noisy copies have masks of their own and do not see each other, so they share the cost of the clean one.

Every block has a t of its own. The cost of the noisy copies is that of ``objective.masked``: weights 1/t, and in
expectation over the masks an upper bound of the negative log-likelihood of a token, given all blocks before its own.
A share of the blocks is asked what a decoder asks, where next-token prediction has written a block's first token: it is
given, and not scored. Of some of these all other tokens are masked, as at the beginning of a block and in a draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from pretrain import objective
from pretrain.objective import Head, Question, answer_cost

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Joint:
    """What the model is asked about the copies of one batch.

    Attributes:
        clean: The question about the clean copy; its ``inputs`` are that copy, shape (rows, length).
        noisy: The question about the noisy copies, whose ``inputs`` have the shape (rows x copies, length); the copies
            of a row follow each other.
        blocks: The block that each place belongs to, rising from 0, shape (length,).
    """

    clean: Question
    noisy: Question
    blocks: torch.Tensor

    @property
    def dropped(self) -> torch.Tensor:
        """Scored places that did not fit the capacity, a scalar tensor."""
        return self.noisy.dropped


def blocks_of(length: int, block_length: int, first: torch.Tensor) -> torch.Tensor:
    """The block of each place, shape (length,), if the first has ``first`` (a scalar, 1 to ``block_length``) tokens."""
    return (torch.arange(length, device=first.device) + block_length - first) // block_length


def begins(blocks: torch.Tensor) -> torch.Tensor:
    """Where a block begins, shape (length,)."""
    return blocks.diff(prepend=blocks[:1] - 1) > 0


def sight(blocks: torch.Tensor) -> torch.Tensor:
    """What each place of a noisy copy sees of [clean | itself]: True where seen. Shape (1, 1, length, 2 length)."""
    return torch.cat([blocks[:, None] > blocks, blocks[:, None] == blocks], dim=1)[None, None]


def attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor, scaling: float | None = None, **_: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention over [clean | noisy | ...] with the mask that ``sight`` makes.

    Transformers' interface: (rows, heads, copies x length, width) in, (rows, copies x length, heads, width) out.
    """
    rows, heads, all_places, width = query.shape
    length = attention_mask.shape[-2]
    copies = all_places // length - 1

    def noisy(x: torch.Tensor) -> torch.Tensor:
        """Of shape (rows x copies, heads, length, width)."""
        apart = x[:, :, length:].reshape(rows, heads, copies, length, width)
        return apart.transpose(1, 2).reshape(rows * copies, heads, length, width)

    def both(x: torch.Tensor) -> torch.Tensor:
        clean = x[:, None, :, :length].expand(rows, copies, heads, length, width)
        return torch.cat([clean.reshape(rows * copies, heads, length, width), noisy(x)], dim=2)

    clean, before, after = (x[:, :, :length] for x in (query, key, value))
    first = F.scaled_dot_product_attention(clean, before, after, is_causal=True, scale=scaling)
    rest = F.scaled_dot_product_attention(noisy(query), both(key), both(value), attention_mask, scale=scaling)
    rest = rest.view(rows, copies, heads, length, width).transpose(1, 2).reshape(rows, heads, copies * length, width)
    return torch.cat([first, rest], dim=2).transpose(1, 2).contiguous(), None


def ask(
    ids: torch.Tensor, copies: int, block_length: int, seeded_share: float, draft_share: float, mask_id: int,
    generator: torch.Generator,
) -> Joint:  # fmt: skip
    """Both training questions about ``ids`` (rows, length); where the blocks begin is drawn for the batch."""
    length = ids.shape[1]
    first = torch.randint(1, block_length + 1, (), device=ids.device, generator=generator)
    blocks = blocks_of(length, block_length, first)
    many = ids.repeat_interleave(copies, 0)
    count = (length + block_length - 2) // block_length + 1  # the most that there can be
    t = objective.stratified_t(len(many) * count, generator).view(-1, count)
    drawn = torch.rand(t.shape, device=ids.device, generator=generator)
    given = (drawn < seeded_share)[:, blocks] & begins(blocks)
    t = torch.where(drawn < draft_share, 1.0, t)
    noisy = _hide(many, blocks, t, ~given, mask_id, generator, 0.6 + 0.5 * draft_share)
    return Joint(objective.next_token(ids), noisy, blocks)


def examine(ids: torch.Tensor, block_length: int, mask_id: int, generator: torch.Generator) -> Joint:
    """Both questions about each row of ``ids`` behind its first token, which is a block of its own.

    The first token of every block is given, and the clean copy alone is asked for it.
    """
    rows, length = ids.shape
    blocks = blocks_of(length, block_length, torch.ones((), dtype=torch.long, device=ids.device))
    count = (length + block_length - 2) // block_length + 1
    t = objective.stratified_t(rows * count, generator).view(rows, count)
    noisy = _hide(ids, blocks, t, ~begins(blocks).expand(rows, length), mask_id, generator, 0.6)
    return Joint(objective.next_token(ids), noisy, blocks)


def _hide(
    ids: torch.Tensor, blocks: torch.Tensor, t: torch.Tensor, scorable: torch.Tensor, mask_id: int,
    generator: torch.Generator, capacity: float,
) -> Question:  # fmt: skip
    """Mask ``scorable`` places of ``ids`` with the probability ``t`` (rows, blocks) of their block."""
    t = t[:, blocks]
    chosen = scorable & (torch.rand(ids.shape, device=ids.device, generator=generator) < t)
    kept = min(ids.numel(), int(capacity * ids.numel()))
    return objective.hide(ids, chosen, t, scorable.sum(), mask_id, kept)


def costs(model: LlamaForCausalLM, joint: Joint, head: Head = answer_cost) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats per scored token of the clean and of the noisy copies."""
    rows, length = joint.clean.inputs.shape
    noisy = joint.noisy.inputs.view(rows, -1)
    copies = 1 + noisy.shape[1] // length
    implementation = model.config._attn_implementation
    model.config._attn_implementation = NAME
    hidden = model.model(
        input_ids=torch.cat([joint.clean.inputs, noisy], dim=1),
        position_ids=torch.arange(length, device=noisy.device).repeat(copies)[None],
        attention_mask=sight(joint.blocks),
        use_cache=False,
    ).last_hidden_state
    model.config._attn_implementation = implementation
    clean, masked = hidden[:, :length], hidden[:, length:].reshape(-1, length, hidden.shape[-1])
    return objective.charge(model, clean, joint.clean, head), objective.charge(model, masked, joint.noisy, head)


NAME = "clean_and_noisy"
AttentionInterface.register(NAME, attend)
