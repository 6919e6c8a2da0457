"""Next-token prediction and block diffusion in one forward: what each place sees, what is asked, and what it costs."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pretrain import joint, objective

MASK, VOCABULARY = 2, 50


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3)  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def random_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("first", "blocks"),
    [(1, [0, 1, 1, 1, 2, 2, 2]), (2, [0, 0, 1, 1, 1, 2, 2]), (3, [0, 0, 0, 1, 1, 1, 2])],
)
def test_blocks_have_their_length_from_the_first_on(first: int, blocks: list[int]) -> None:
    assert joint.blocks_of(7, 3, torch.tensor(first)).tolist() == blocks


def test_a_noisy_place_sees_the_clean_blocks_before_its_own_and_its_own_noisy_block() -> None:
    seen = joint.sight(joint.blocks_of(5, 2, torch.tensor(1))).int()[
        0, 0
    ]  # blocks: place 0, places 1 and 2, places 3 and 4
    assert seen.tolist() == [
        [0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 1, 1],
        [1, 1, 1, 0, 0, 0, 0, 0, 1, 1],
    ]


def plain(model: LlamaForCausalLM, context: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Log probabilities at the places of ``block`` (tokens,), which sees ``context`` (tokens,) and itself both ways."""
    ids = torch.cat([context, block])[None]
    sees = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    sees[len(context) :] = True
    return model(ids, attention_mask=sees[None, None]).logits[0, len(context) :].log_softmax(-1)


@pytest.mark.parametrize(("copies", "seed"), [(1, 0), (3, 1), (2, 2)])
def test_one_forward_costs_what_a_forward_for_each_block_costs(model: LlamaForCausalLM, copies: int, seed: int) -> None:
    ids = random_ids(3, 13)
    asked = joint.ask(ids, copies, 4, 0.6, 0.3, MASK, torch.Generator().manual_seed(seed))
    weight = torch.zeros(asked.noisy.inputs.numel()).scatter_add(0, asked.noisy.places, asked.noisy.weights)
    weight = weight.view(asked.noisy.inputs.shape)
    expected = 0.0
    for n, noisy in enumerate(asked.noisy.inputs):
        clean = ids[n // copies]
        for block in asked.blocks.unique():
            places = (asked.blocks == block).nonzero().flatten()
            log_p = plain(model, clean[: places[0]], noisy[places])
            expected -= float((log_p[range(len(places)), clean[places]] * weight[n, places]).sum())
    clean_cost, noisy_cost = joint.costs(model, asked)
    assert int(asked.dropped) == 0
    assert float(noisy_cost) == pytest.approx(expected, rel=1e-5)
    assert float(clean_cost) == pytest.approx(float(objective.cost(model, asked.clean)), rel=1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_questions_mask_by_the_t_of_a_block_and_give_a_share_of_blocks_their_first_token() -> None:
    ids = random_ids(400, 24)
    clean = ids.repeat_interleave(2, 0)
    asked = joint.ask(ids, 2, 8, 1.0, 1.0, MASK, torch.Generator().manual_seed(0))
    begins = asked.blocks.diff(prepend=torch.tensor([-1])) > 0
    assert torch.equal(asked.noisy.inputs == MASK, (~begins).expand(800, 24))  # shares of 1: every block is a draft
    torch.testing.assert_close(asked.noisy.inputs[:, begins], clean[:, begins])

    seeded = joint.ask(ids, 2, 8, 1.0, 0.0, MASK, torch.Generator().manual_seed(0))
    masked = seeded.noisy.inputs == MASK
    assert not bool(masked[:, begins].any())
    assert float(masked[:, ~begins].float().mean()) == pytest.approx(0.5, abs=0.03)
    # What is given is not scored: weights are over all other tokens, and their sum is 1 in expectation.
    assert float(seeded.noisy.weights.sum()) == pytest.approx(1.0, rel=0.05)
    assert int(asked.dropped) == 0 == int(seeded.dropped)
    some = joint.ask(ids, 2, 8, 0.6, 0.0, MASK, torch.Generator().manual_seed(0))
    assert float((some.noisy.inputs[:, begins] == MASK).float().mean()) == pytest.approx(0.4 * 0.5, abs=0.03)

    plainly = joint.ask(ids, 2, 8, 0.0, 0.0, MASK, torch.Generator().manual_seed(0))
    # A uniform model's answers cost ln V each, so the bound is ln V in expectation, whatever the masks.
    total = float(plainly.noisy.weights.sum()) * math.log(VOCABULARY)
    assert total == pytest.approx(math.log(VOCABULARY), rel=0.05)
    assert int(plainly.dropped) == 0


def test_an_examination_gives_the_first_token_of_a_block_and_scores_all_others() -> None:
    ids = random_ids(64, 17)
    asked = joint.examine(ids, 8, MASK, torch.Generator().manual_seed(0))
    assert asked.blocks.tolist() == [0] + [1] * 8 + [2] * 8
    assert not bool((asked.noisy.inputs[:, [0, 1, 9]] == MASK).any())
    used = asked.noisy.places[asked.noisy.weights > 0]
    assert sorted(used.tolist()) == (asked.noisy.inputs.flatten() == MASK).nonzero().flatten().tolist()
    again = joint.examine(ids, 8, MASK, torch.Generator().manual_seed(0))
    assert torch.equal(again.noisy.inputs, asked.noisy.inputs)
