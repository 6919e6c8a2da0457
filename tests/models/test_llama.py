"""One Transformer for both families."""

import pytest
import tiny_models
import torch

from llmbench.models import llama

PADDED, UNPADDED = [7, 4], [7, 7]


def first_position_moves(model, lengths):
    """How much the logits of the first real position change when the last token changes."""
    ids, mask = tiny_models.prompts(lengths)
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % tiny_models.VOCAB
    attention = None if mask is None else mask.long()
    with torch.inference_mode():
        difference = (
            model(ids, attention_mask=attention).logits - model(changed, attention_mask=attention).logits
        ).abs()
    starts = [max(lengths) - n for n in lengths]
    return [difference[row, start].max().item() for row, start in enumerate(starts)]


@pytest.mark.parametrize("lengths", [PADDED, UNPADDED])
def test_bidirectional_sees_the_last_token_from_the_first_position(lengths):
    assert min(first_position_moves(tiny_models.model(causal=False), lengths)) > 0.1


@pytest.mark.parametrize("lengths", [PADDED, UNPADDED])
def test_causal_does_not(lengths):
    assert max(first_position_moves(tiny_models.model(causal=True), lengths)) == 0


def test_dummy_weights_are_random_with_unit_norms_and_always_the_same():
    config = tiny_models.config()
    first, second = (llama.dummy(config, torch.float32, "cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    matrix = first.lm_head.weight
    assert abs(matrix.std().item() - 0.02) < 0.002
    assert first.model.norm.weight.unique().tolist() == [1.0]
    assert not any(weight.requires_grad for weight in first.parameters())
    assert llama.dummy(config, torch.bfloat16, "cpu").dtype == torch.bfloat16


@pytest.mark.parametrize("tied", [True, False])
def test_shapes_are_those_of_the_stored_tensors(tied):
    config = tiny_models.config(tied=tied)
    expected = {
        name: tuple(weight.shape) for name, weight in llama.dummy(config, torch.float32, "cpu").named_parameters()
    }
    assert llama.shapes(config) == expected
    assert ("lm_head.weight" in expected) is not tied
