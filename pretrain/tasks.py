"""What does a recipe train? Its questions in training, its questions at an evaluation, and the modes that both score.

A mode is named as the family that decodes in it: autoregressive or diffusion. The loss of a batch is the sum of the
costs of the modes, each times its weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import torch

from pretrain import joint, objective
from pretrain.joint import Joint
from pretrain.objective import Head, Question
from pretrain.recipe import MASK_ID, Recipe

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Asked = TypeVar("Asked", Question, Joint)


class Task(Protocol, Generic[Asked]):
    """What one recipe trains.

    Attributes:
        weights: Mode -> what its cost counts in the loss.
    """

    weights: dict[str, float]

    def ask(self, ids: torch.Tensor, generator: torch.Generator) -> Asked:
        """The training question about ``ids`` (rows, length)."""

    def examine(self, batches: torch.Tensor, draws: int) -> Iterator[Asked]:
        """Questions about all but the first token of each row of ``batches`` (batches, rows, length).

        Every batch comes ``draws`` times, under new masks, and under the same ones at every call; once, where nothing
        is masked.
        """

    def costs(self, model: LlamaForCausalLM, asked: Asked, head: Head) -> tuple[torch.Tensor, ...]:
        """Nats per scored token, in the order of ``weights``; upper bounds, in expectation, for diffusion."""


AnyTask: TypeAlias = Task[Any]


def task_of(recipe: Recipe) -> AnyTask:
    """The task of one recipe."""
    if recipe.kind == "causal":
        return NextToken()
    if recipe.kind == "masked":
        return Masked(recipe.prefix_share)
    assert recipe.block_length is not None  # the recipe has checked it
    return TriMode(recipe.block_length, recipe.copies, recipe.seeded_share, recipe.draft_share, recipe.alpha)


class NextToken:
    """Next-token prediction."""

    def __init__(self) -> None:
        self.weights = {"autoregressive": 1.0}

    def ask(self, ids: torch.Tensor, generator: torch.Generator) -> Question:
        """The training question about ``ids`` (rows, length)."""
        return objective.next_token(ids)

    def examine(self, batches: torch.Tensor, draws: int) -> Iterator[Question]:
        """Every batch once."""
        yield from map(objective.next_token, batches)

    def costs(self, model: LlamaForCausalLM, asked: Question, head: Head) -> tuple[torch.Tensor, ...]:
        """Nats per scored token."""
        return (objective.cost(model, asked, head),)


class Masked:
    """Masked diffusion over the whole row; a ``prefix_share`` of the rows keeps a beginning unmasked."""

    def __init__(self, prefix_share: float) -> None:
        self.prefix_share = prefix_share
        self.weights = {"diffusion": 1.0}

    def ask(self, ids: torch.Tensor, generator: torch.Generator) -> Question:
        """The training question about ``ids`` (rows, length)."""
        rows, length = ids.shape
        t = objective.stratified_t(rows, generator)
        prefix = objective.random_prefix(rows, length, self.prefix_share, generator)
        capacity = objective.capacity_for(rows, length, self.prefix_share)
        return objective.masked(ids, t, prefix, MASK_ID, capacity, generator)

    def examine(self, batches: torch.Tensor, draws: int) -> Iterator[Question]:
        """Every batch ``draws`` times, under the same masks at every call."""
        generator = torch.Generator(batches.device).manual_seed(0)
        _, rows, length = batches.shape
        one = torch.ones(rows, dtype=torch.long, device=batches.device)
        for _ in range(draws):
            for ids in batches:
                t = objective.stratified_t(rows, generator)
                yield objective.masked(ids, t, one, MASK_ID, objective.capacity_for(rows, length, 0.0), generator)

    def costs(self, model: LlamaForCausalLM, asked: Question, head: Head) -> tuple[torch.Tensor, ...]:
        """Nats per scored token, an upper bound in expectation."""
        return (objective.cost(model, asked, head),)


class TriMode:
    """Next-token prediction and block diffusion in one set of weights; ``joint.py`` says how."""

    def __init__(self, block_length: int, copies: int, seeded_share: float, draft_share: float, alpha: float) -> None:
        self.block_length, self.copies = block_length, copies
        self.seeded_share, self.draft_share = seeded_share, draft_share
        self.weights = {"autoregressive": 1.0, "diffusion": alpha}

    def ask(self, ids: torch.Tensor, generator: torch.Generator) -> Joint:
        """The training questions about ``ids`` (rows, length)."""
        shares = self.seeded_share, self.draft_share
        return joint.ask(ids, self.copies, self.block_length, *shares, MASK_ID, generator)

    def examine(self, batches: torch.Tensor, draws: int) -> Iterator[Joint]:
        """Every batch ``draws`` times, under the same masks at every call."""
        generator = torch.Generator(batches.device).manual_seed(0)
        for _ in range(draws):
            for ids in batches:
                yield joint.examine(ids, self.block_length, MASK_ID, generator)

    def costs(self, model: LlamaForCausalLM, asked: Joint, head: Head) -> tuple[torch.Tensor, ...]:
        """Nats per scored token of both modes."""
        return joint.costs(model, asked, head)
