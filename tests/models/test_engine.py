"""Both engines against Transformers' own forward."""

import pytest
import tiny_models
import torch

from llmbench.errors import ConfigError
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

LENGTHS = [[6, 6, 6], [6, 3, 1]]


def close(a, b):
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.fixture(params=[True, False], ids=["causal", "bidirectional"])
def model(request):
    return tiny_models.model(causal=request.param)


@pytest.fixture(params=[EagerEngine, FusedEngine])
def make_engine(request):
    return request.param


@pytest.mark.parametrize("lengths", LENGTHS)
def test_logits_are_those_of_the_model_at_real_positions(make_engine, model, lengths):
    ids, mask = tiny_models.prompts(lengths)
    with torch.inference_mode():
        expected = model(ids, attention_mask=None if mask is None else mask.long()).logits
    logits = make_engine(model).logits(ids, mask)
    assert logits.isfinite().all()
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    assert close(logits[real], expected[real])


def test_padding_changes_nothing(make_engine, model):
    ids, mask = tiny_models.prompts([6, 3, 1])
    engine = make_engine(model)
    padded = engine.logits(ids, mask)
    for row, length in enumerate([6, 3, 1]):
        alone = engine.logits(ids[row : row + 1, -length:], None)
        assert close(padded[row, -length:], alone[0])


def test_the_fused_engine_refuses_padding_behind_a_token(model):
    ids, mask = tiny_models.prompts([6, 3])
    engine, where = FusedEngine(model), torch.tensor([[5], [5]])
    for wrong in (mask.flip(1), mask.roll(-1, 1)):
        with pytest.raises(ValueError, match="padded on the left"):
            engine.logits(ids, wrong)
        with pytest.raises(ValueError, match="padded on the left"):
            engine.denoise(ids, wrong, where)
        with pytest.raises(ValueError, match="padded on the left"):
            engine.prefill(ids, wrong, engine.new_cache(2, 8))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("positions", [[[5, 3], [4, 5], [5, 5]], [[5, 4, 3, 2, 1, 5]] * 3])
@pytest.mark.parametrize("cached", [False, True])
def test_denoise_is_a_selection_of_the_logits(make_engine, lengths, positions, cached):
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts(lengths)
    engine = make_engine(model)
    positions = torch.tensor(positions)
    if mask is not None:
        positions = positions.clamp(min=5)  # real in every row
    cache = engine.new_cache(3, 6) if cached else None
    everywhere = engine.logits(ids, mask)
    picked = engine.head(engine.denoise(ids, mask, positions, cache))
    assert close(picked, torch.stack([everywhere[row, positions[row]] for row in range(3)]))
    assert engine.denoise(ids, mask, positions[:, :0], cache).shape == (3, 0, 32)


def test_a_causal_model_can_be_asked_at_any_position(make_engine):
    model = tiny_models.model(causal=True)
    ids, mask = tiny_models.prompts([6, 4])
    engine = make_engine(model)
    positions = torch.tensor([[5, 3], [4, 5]])
    everywhere = engine.logits(ids, mask)
    picked = engine.head(engine.denoise(ids, mask, positions))
    assert close(picked, torch.stack([everywhere[row, positions[row]] for row in range(2)]))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_cached_decoding_equals_reading_the_whole_sequence(make_engine, lengths, kv_heads):
    model = tiny_models.model(causal=True, kv_heads=kv_heads)
    engine = make_engine(model)
    ids, mask = tiny_models.prompts(lengths)
    more, _ = tiny_models.prompts([4, 4, 4], seed=1)
    cache = engine.new_cache(3, 10)
    logits = engine.prefill(ids, mask, cache)
    for made in range(5):
        whole = torch.cat([ids, more[:, :made]], dim=1)
        whole_mask = None if mask is None else torch.nn.functional.pad(mask, (0, made), value=True)
        assert close(logits, engine.logits(whole, whole_mask)[:, -1]), f"after {made} tokens"
        if made < 4:
            logits = engine.decode(more[:, made], cache)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_refining_nothing_new_repeats_the_canvas_and_refining_a_change_uses_what_was_kept(
    make_engine, lengths, kv_heads
):
    """The plain twin: attention of the part's queries over kept keys, by a hook that swaps the part's rows in."""
    model = tiny_models.model(causal=False, kv_heads=kv_heads)
    engine = make_engine(model)
    ids, mask = tiny_models.prompts(lengths)
    ids, mask = (
        torch.cat([ids, ids.flip(1)], 1),
        None if mask is None else torch.nn.functional.pad(mask, (0, 6), value=True),
    )
    positions, where = torch.tensor([[9, 8]] * 3), torch.arange(7, 11)
    cache = engine.new_cache(3, 12)
    before = engine.denoise(ids, mask, positions, cache)
    again = engine.refine(ids[:, where], mask, where, positions, cache)
    assert close(again, before)

    changed = ids.clone()
    changed[:, 8] = (ids[:, 8] + 1) % 3 + 5
    refined = engine.refine(changed[:, where], mask, where, positions, cache)
    assert close(refined, reference_refine(model, ids, changed, mask, where, positions))
    assert not close(refined, engine.denoise(changed, mask, positions)), "what lies outside the part is not read anew"


def reference_refine(model, ids, changed, mask, where, positions):
    """Read the whole changed canvas, but give every layer the old keys and values outside of the part."""
    kept, hooks = {}, []
    outside = torch.ones(ids.shape[1], dtype=torch.bool)
    outside[where] = False

    def keep(name):
        return lambda module, args, output: kept.__setitem__(name, output)

    def swap(name):
        def hook(module, args, output):
            output = output.clone()
            output[:, outside] = kept[name][:, outside]
            return output

        return hook

    layers = [layer.self_attn for layer in model.model.layers]
    names = [(f"{i}{part}", getattr(layer, part)) for i, layer in enumerate(layers) for part in ("k_proj", "v_proj")]
    attention = None if mask is None else mask.long()
    with torch.inference_mode():
        for make, sequence in ((keep, ids), (swap, changed)):
            hooks = [module.register_forward_hook(make(name)) for name, module in names]
            hidden = model.model(sequence, attention_mask=attention).last_hidden_state
            for hook in hooks:
                hook.remove()
    return torch.stack([hidden[row, positions[row]] for row in range(len(ids))])


def test_two_generations_do_not_share_a_cache(make_engine):
    engine = make_engine(tiny_models.model())
    ids, _ = tiny_models.prompts([4])
    cache = engine.new_cache(1, 6)
    first = engine.prefill(ids, None, cache)
    engine.decode(ids[:, 0], cache)
    second = engine.prefill(ids, None, engine.new_cache(1, 6))
    assert torch.equal(first, second)


def test_half_precision_padding_is_finite(make_engine):
    model = tiny_models.model(causal=True).to(torch.bfloat16)
    engine = make_engine(model)
    logits = engine.prefill(*tiny_models.prompts([6, 1]), engine.new_cache(2, 8))
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()


def test_fusing_keeps_the_weights_once_and_the_modules_alive(model):
    ids, _ = tiny_models.prompts([6])
    before = EagerEngine(model).logits(ids, None)
    bytes_before = sum(weight.nbytes for weight in model.parameters())
    engine = FusedEngine(model)
    again = FusedEngine(model)
    assert torch.equal(EagerEngine(model).logits(ids, None), before)
    memory = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in model.parameters()}
    assert sum(memory.values()) == bytes_before
    for one, other, layer in zip(engine._blocks, again._blocks, model.model.layers, strict=True):
        assert one.qkv.data_ptr() == other.qkv.data_ptr() == layer.self_attn.q_proj.weight.data_ptr()


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def decoded(engine, ids, mask):
    """Logits after a prompt of 3 and after each of the given tokens: [B, S - 2, V]."""
    cache = engine.new_cache(*ids.shape)
    logits = [engine.prefill(ids[:, :3], None if mask is None else mask[:, :3], cache)]
    logits += [engine.decode(ids[:, at], cache).clone() for at in range(3, ids.shape[1])]
    return torch.stack(logits, dim=1)


def refined(engine, ids, mask):
    """Logits [B, 4, V] of the last four positions, read anew with other tokens against earlier keys."""
    where = torch.arange(ids.shape[1] - 4, ids.shape[1], device=ids.device)
    positions, cache = where.expand(ids.shape[0], -1), engine.new_cache(*ids.shape)
    engine.denoise(ids, mask, positions, cache)
    return engine.head(engine.refine(ids[:, where].roll(1, dims=1), mask, where, positions, cache))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("lengths", [[6, 6, 6], [6, 4, 5], [70, 70, 70], [70, 68, 69]])
@pytest.mark.parametrize("path", ["logits", "decoded", "refined"])
def test_bfloat16_choices_agree_where_they_are_clear(path, lengths, head_dim, device):
    """Teacher-forced on the same prefix: rounding may flip a near tie, and one flip changes all that follows."""
    model = tiny_models.model(causal=path == "decoded", head_dim=head_dim)
    with (
        torch.no_grad()
    ):  # logits of about 0.5 as they are spread: 0.05 is far above their rounding, and most are clear
        for weight in model.parameters():
            weight.mul_(0.3 if weight.dim() > 1 else 1)
    model = model.to(device, torch.bfloat16)
    ids, mask = (None if part is None else part.to(device) for part in tiny_models.prompts(lengths))
    read = {"logits": lambda engine: engine.logits(ids, mask)}.get(path) or (
        lambda engine: {"decoded": decoded, "refined": refined}[path](engine, ids, mask)
    )
    eager, fused = (read(engine(model)).float() for engine in (EagerEngine, FusedEngine))
    best = eager.topk(2).values
    clear = best[..., 0] - best[..., 1] > 0.05
    if mask is not None and path == "logits":
        clear &= mask
    assert clear.float().mean() > 0.5
    assert (eager.argmax(-1) == fused.argmax(-1))[clear].all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type longrope"),
    ],
)
def test_forms_that_the_fused_blocks_do_not_compute_are_refused(changes, said):
    model = tiny_models.model()
    for key, value in changes.items():
        setattr(model.config, key, value)
    with pytest.raises(ConfigError, match=f"{said}; use hardware.engine=eager"):
        FusedEngine(model)
