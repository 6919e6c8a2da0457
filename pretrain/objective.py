"""What is the model asked, and what does its answer cost? The two simple kinds; ``joint.py`` puts them together.

A ``Question`` holds what the model sees, the places where it must answer, the right answers, and the weight of each.
Its cost is the weighted cross-entropy in nats, the same function for both kinds:

* ``next_token``: see the row, answer at every place but the last with the token that follows; weights are equal. The
  cost is the mean negative log-likelihood of a token.
* ``masked`` (LLaDA, Nie et al. 2025, arXiv 2502.09992, eq. 3): draw t uniformly per row, replace each token by the
  mask with probability t, answer at the masks, weight 1/t. The cost is an upper bound of the negative log-likelihood
  of a token, in expectation over the masks. The t of a batch are stratified, so that each batch sees easy and hard
  rows alike, and are at least ``SMALLEST_T``, so that no weight is without bound. A row may have a prefix that is
  never masked, as a prompt is not; the tokens of prefixes are not scored and do not count.

Only the scored places pass through the output layer. For the masked kind their number varies, and a compiled function
wants fixed shapes: so ``capacity`` places are kept, the unused ones at weight 0. ``dropped`` counts those that did
not fit; it is expected to be 0, and training reports it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

SMALLEST_T = 1e-3
# ``answer_cost``, or what a compiler made of it
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Question:
    """What the model is asked about one batch.

    Attributes:
        inputs: Token ids that the model sees, shape (rows, length).
        places: Where it answers, as indices into the flattened inputs, shape (answers,).
        labels: The right answers, shape (answers,).
        weights: What each answer counts; the cost is the weighted sum, shape (answers,).
        dropped: Scored places that did not fit the capacity, a scalar tensor (so that the device need not wait).
    """

    inputs: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    dropped: torch.Tensor


def next_token(ids: torch.Tensor) -> Question:
    """Predict each token of ``ids`` (rows, length) but the first from those before it."""
    rows, length = ids.shape
    places = torch.arange(rows * length, device=ids.device).view(rows, length)[:, :-1].flatten()
    weights = torch.full_like(places, 1 / places.numel(), dtype=torch.float32)
    return Question(ids, places, ids[:, 1:].flatten(), weights, torch.zeros((), dtype=torch.long, device=ids.device))


def stratified_t(rows: int, generator: torch.Generator) -> torch.Tensor:
    """One t per row: a draw from each of ``rows`` equal parts of (0, 1), in random order. Shape (rows,)."""
    device = generator.device
    u = torch.rand(rows, device=device, generator=generator)
    t = (torch.arange(rows, device=device) + u) / rows
    return t[torch.randperm(rows, device=device, generator=generator)].clamp(min=SMALLEST_T)


def random_prefix(rows: int, length: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Tokens of each row's unmasked prefix: uniform over 1 to length - 1 for a ``share`` of rows, else 0. (rows,)."""
    drawn = torch.randint(1, length, (rows,), device=generator.device, generator=generator)
    has_one = torch.rand(rows, device=generator.device, generator=generator) < share
    return drawn * has_one


def masked(
    ids: torch.Tensor, t: torch.Tensor, prefix: torch.Tensor, mask_id: int, capacity: int, generator: torch.Generator
) -> Question:
    """Recover the tokens of ``ids`` (rows, length) masked with probability ``t``, right of ``prefix`` (rows,)."""
    rows, length = ids.shape
    draws = torch.rand(rows, length, device=ids.device, generator=generator)
    scorable = torch.arange(length, device=ids.device) >= prefix[:, None]
    return hide(ids, scorable & (draws < t[:, None]), t[:, None], scorable.sum(), mask_id, capacity)


def hide(
    ids: torch.Tensor, chosen: torch.Tensor, t: torch.Tensor, scorable: torch.Tensor, mask_id: int, capacity: int
) -> Question:
    """Recover the ``chosen`` tokens (rows, length), each weighted 1/t over the count of ``scorable`` ones.

    ``t`` is of shape (rows, length), or (rows, 1) where a row has one.
    """
    flat = chosen.flatten()
    count = flat.sum()
    rank = flat.cumsum(0) - 1
    slot = torch.where(flat & (rank < capacity), rank, capacity)  # slot ``capacity`` is the bin for what is not kept
    places = torch.zeros(capacity + 1, dtype=torch.long, device=ids.device)
    places = places.scatter(0, slot, torch.arange(flat.numel(), device=ids.device))[:capacity]
    used = torch.arange(capacity, device=ids.device) < count
    weights = used / t.expand(ids.shape).flatten()[places] / scorable
    inputs = torch.where(chosen, mask_id, ids)
    return Question(inputs, places, ids.flatten()[places], weights.float(), (count - capacity).clamp(min=0))


def capacity_for(rows: int, length: int, prefix_share: float) -> int:
    """Places to keep: what is masked on average, plus a tenth of the batch (at 300 rows, eight standard deviations)."""
    return min(rows * length, int(rows * length * (0.5 * (1 - prefix_share / 2) + 0.1)))


def answer_cost(
    hidden: torch.Tensor, output_weight: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted cross-entropy in float32 of (answers, width) hidden states; compiled by the training loop."""
    logits = F.linear(hidden, output_weight).float()  # (answers, vocabulary)
    return (F.cross_entropy(logits, labels, reduction="none") * weights).sum()


def cost(model: LlamaForCausalLM, question: Question, head: Head = answer_cost) -> torch.Tensor:
    """Cost in nats per scored token of the model's answers to ``question``."""
    return charge(model, model.model(input_ids=question.inputs, use_cache=False).last_hidden_state, question, head)


def charge(model: LlamaForCausalLM, hidden: torch.Tensor, question: Question, head: Head = answer_cost) -> torch.Tensor:
    """Cost in nats per scored token of the answers that stand in ``hidden`` (rows, length, width)."""
    scored = hidden.flatten(0, 1).index_select(0, question.places)
    return head(scored, model.lm_head.weight, question.labels, question.weights)
