"""The eager engine against Transformers' own forward."""

import pytest
import tiny_models
import torch

from llmbench.models.engine import EagerEngine

LENGTHS = [[6, 6, 6], [6, 3, 1]]


def close(a, b):
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.fixture(params=[True, False], ids=["causal", "bidirectional"])
def model(request):
    return tiny_models.model(causal=request.param)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_logits_are_those_of_the_model_at_real_positions(model, lengths):
    ids, mask = tiny_models.prompts(lengths)
    with torch.inference_mode():
        expected = model(ids, attention_mask=None if mask is None else mask.long()).logits
    logits = EagerEngine(model).logits(ids, mask)
    assert logits.isfinite().all()
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    assert close(logits[real], expected[real])


def test_padding_changes_nothing(model):
    ids, mask = tiny_models.prompts([6, 3, 1])
    padded = EagerEngine(model).logits(ids, mask)
    for row, length in enumerate([6, 3, 1]):
        alone = EagerEngine(model).logits(ids[row : row + 1, -length:], None)
        assert close(padded[row, -length:], alone[0])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_denoise_is_a_selection_of_the_logits(model, lengths):
    ids, mask = tiny_models.prompts(lengths)
    engine = EagerEngine(model)
    positions = torch.tensor([[5, 3], [4, 5], [5, 5]])
    everywhere = engine.logits(ids, mask)
    picked = engine.denoise(ids, mask, positions)
    assert close(picked, torch.stack([everywhere[row, positions[row]] for row in range(3)]))
    assert engine.denoise(ids, mask, positions[:, :0]).shape == (3, 0, tiny_models.VOCAB)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_cached_decoding_equals_reading_the_whole_sequence(lengths, kv_heads):
    model = tiny_models.model(causal=True, kv_heads=kv_heads)
    engine = EagerEngine(model)
    ids, mask = tiny_models.prompts(lengths)
    more, _ = tiny_models.prompts([4, 4, 4], seed=1)
    logits, cache = engine.prefill(ids, mask)
    for made in range(5):
        whole = torch.cat([ids, more[:, :made]], dim=1)
        whole_mask = None if mask is None else torch.nn.functional.pad(mask, (0, made), value=True)
        assert close(logits, engine.logits(whole, whole_mask)[:, -1]), f"after {made} tokens"
        if made < 4:
            logits = engine.decode(more[:, made], cache)


def test_two_generations_do_not_share_a_cache():
    engine = EagerEngine(tiny_models.model())
    ids, _ = tiny_models.prompts([4])
    first, cache = engine.prefill(ids, None)
    engine.decode(ids[:, 0], cache)
    second, _ = engine.prefill(ids, None)
    assert torch.equal(first, second)


def test_half_precision_padding_is_finite():
    model = tiny_models.model(causal=True).to(torch.bfloat16)
    logits, _ = EagerEngine(model).prefill(*tiny_models.prompts([6, 1]))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
