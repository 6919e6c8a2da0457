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


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_dummy_weights_compute_what_a_normally_built_model_computes(causal, tied):
    from transformers import AutoModelForCausalLM

    config = tiny_models.config(causal=causal, tied=tied)
    made = llama.dummy(config, torch.float32, "cpu")
    normal = AutoModelForCausalLM.from_config(config).eval()
    normal.load_state_dict(made.state_dict())
    assert {name: value.tolist() for name, value in made.named_buffers()} == {
        name: value.tolist() for name, value in normal.named_buffers()
    }
    assert (made.lm_head.weight is made.model.embed_tokens.weight) is tied
    ids, _ = tiny_models.prompts([7, 7])
    with torch.inference_mode():
        assert torch.equal(made(ids).logits, normal(ids).logits)


def test_dummy_weights_exist_once_and_never_in_another_dtype():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Allocations(TorchDispatchMode):
        """Every tensor of a matrix's size that an operation made anew, outside `meta`."""

        def __init__(self):
            super().__init__()
            self.seen = {}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            for tensor in [made] if isinstance(made, torch.Tensor) else []:
                if tensor.device.type != "meta" and tensor.numel() >= 32 * 32:
                    self.seen[tensor.untyped_storage().data_ptr()] = (tensor.dtype, tensor.numel())
            return made

    with Allocations() as allocations:
        made = llama.dummy(tiny_models.config(), torch.bfloat16, "cpu")
    assert {dtype for dtype, _ in allocations.seen.values()} == {torch.bfloat16}
    assert sorted(size for _, size in allocations.seen.values()) == sorted(
        weight.numel() for weight in made.parameters() if weight.numel() >= 32 * 32
    )
    assert made.model.rotary_emb.inv_freq.dtype == torch.float32
