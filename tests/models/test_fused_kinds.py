"""Blocks that are more than Llama's, on the fused engine: every way of reading, against Transformers' own modules.

The reference reads each row alone and whole, from its first token, so padding and caches are compared with their
absence.
"""

import math

import pytest
import tiny_models
import torch
from models.test_kinds import build, yarn

from llmbench.config.decoders import Autoregressive
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.models import blocks
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

CASES = {
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "ministral3": ("ministral3", {}),
    "ministral3, factor in the tables": ("ministral3", yarn(attention_factor=1.3)),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
}
LENGTHS = [[7, 7, 7], [7, 3, 5]]
VOCAB = 259


@pytest.fixture(scope="module", params=CASES)
def models(request):
    """The same weights causal and bidirectional."""
    kind, changes = CASES[request.param]
    return build(kind, **changes), build(kind, is_causal=False, mask_token_id=2, **changes)


def rows(ids, lengths, more=0):
    """Each row's own tokens of padded prompts and `more` behind them."""
    width = max(lengths)
    return [row[width - length : width + more] for row, length in zip(ids, lengths, strict=True)]


def whole(model, row):
    with torch.inference_mode():
        return model(row[None]).logits[0]


def close(found, expected):
    return torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_prefill_and_decode(models, lengths):
    model, _ = models
    engine = FusedEngine(model)
    ids, mask = tiny_models.prompts(lengths, vocab=VOCAB)
    more, _ = tiny_models.prompts([5, 5, 5], seed=1, vocab=VOCAB)
    cache = engine.new_cache(3, 12)
    logits = [engine.prefill(ids, mask, cache)] + [engine.decode(token, cache) for token in more.T]
    for at, row in enumerate(rows(torch.cat([ids, more], 1), lengths, more=5)):
        assert close(torch.stack([each[at] for each in logits]), whole(model, row)[-6:])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_extend_at_a_place_of_each_row(models, lengths):
    """A second part overwrites what a first one left behind the place where each row goes on."""
    model, _ = models
    engine = FusedEngine(model)
    ids, mask = tiny_models.prompts(lengths, vocab=VOCAB)
    parts = [tiny_models.prompts([count] * 3, seed=count, vocab=VOCAB)[0] for count in (4, 5)]
    cache = engine.new_cache(3, 20)
    engine.prefill(ids, mask, cache)
    kept = torch.tensor([4, 1, 2])
    engine.extend(parts[0], torch.tensor([7, 7, 7]), cache, causal=True)
    found = engine.head(engine.extend(parts[1], 7 + kept, cache, causal=True))
    for at, row in enumerate(rows(ids, lengths)):
        sequence = torch.cat([row, parts[0][at, : kept[at]], parts[1][at]])
        assert close(found[at], whole(model, sequence)[-5:])


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("cached", [False, True])
def test_denoise_everywhere_and_at_chosen_positions(models, lengths, cached):
    _, model = models
    engine = FusedEngine(model)
    ids, mask = tiny_models.prompts(lengths, vocab=VOCAB)
    cache = engine.new_cache(3, 12) if cached else None
    everywhere = engine.head(engine.denoise(ids, mask, torch.arange(7).expand(3, -1), cache))
    chosen = torch.tensor([[6, 4], [5, 6], [4, 5]])
    picked = engine.head(engine.denoise(ids, mask, chosen, cache))
    for at, row in enumerate(rows(ids, lengths)):
        expected = whole(model, row)
        assert close(everywhere[at, -len(row) :], expected)
        assert close(picked[at], expected[chosen[at] - (7 - len(row))])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_refine_a_part_of_a_canvas(models, lengths):
    """Everywhere in the part and at chosen positions, against the eager engine's modules over the same kept keys."""
    _, model = models
    ids, mask = tiny_models.prompts(lengths, vocab=VOCAB)
    where, fresh = torch.arange(3, 7), tiny_models.prompts([4, 4, 4], seed=1, vocab=VOCAB)[0]
    for positions in (where.expand(3, -1), torch.tensor([[6, 4], [5, 6], [4, 5]])):
        made = []
        for engine in (EagerEngine(model), FusedEngine(model)):
            cache = engine.new_cache(3, 7)
            engine.denoise(ids, mask, positions, cache)
            made.append(engine.refine(fresh, mask, where, positions, cache))
        real = torch.ones_like(positions, dtype=torch.bool) if mask is None else mask.gather(1, positions)
        assert close(made[1][real], made[0][real])


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_block_behind_a_canvas_sees_itself_both_ways(models, lengths):
    _, model = models
    engine = FusedEngine(model)
    ids, mask = tiny_models.prompts(lengths, vocab=VOCAB)
    cache = engine.new_cache(3, 12)
    where = torch.arange(3, 7)
    again = engine.denoise(ids, mask, where.expand(3, -1), cache)[:, 1:]
    assert close(engine.extend(ids[:, 4:], torch.tensor([4, 4, 4]), cache, causal=False), again)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_looked_up_drafts_write_the_plain_text(models, lengths):
    model, _ = models
    ids, mask = tiny_models.prompts(lengths, vocab=VOCAB)
    settings = {"max_new_tokens": 24, "temperature": 0.0, "ignore_stop": True}
    batch = PromptBatch(ids=ids, mask=mask)
    plain = AutoregressiveDecoder(Autoregressive(**settings), stop_ids=(), pad_id=1)
    expected = plain.generate(EagerEngine(model), batch, seed=0, on_step=None).tokens
    drafted = SpeculativeDecoder(
        Autoregressive(**settings, draft="lookup", draft_tokens=4), stop_ids=(), pad_id=1, model=None
    )
    assert torch.equal(drafted.generate(FusedEngine(model), batch, seed=0, on_step=None).tokens, expected)


def test_joined_biases_and_norms_exist_once(models):
    model, _ = models
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    size = sum(weight.nbytes for weight in model.parameters())
    engine, again = FusedEngine(model), FusedEngine(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    memory = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in model.parameters()}
    assert sum(memory.values()) == size
    for part in ("qkv_bias", "gate_up_bias", "norm_heads"):
        one, other = (getattr(each._blocks[0], part) for each in (engine, again))
        assert (one is None) == (other is None)
        assert one is None or one.data_ptr() == other.data_ptr()


def test_queries_are_scaled_from_the_original_length_on():
    config = build("ministral3").config  # 4 positions, beta 0.1
    table, first = blocks.query_scale(config, 64, torch.device("cpu"))
    assert first == 4
    assert table[:4].tolist() == [1.0] * 4
    assert table[[4, 7, 8, 63]].tolist() == pytest.approx([1 + 0.1 * math.log(n) for n in (2, 2, 3, 16)])
    assert blocks.query_scale(config, 4, torch.device("cpu")) is None
    assert blocks.query_scale(build("llama", **yarn()).config, 64, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({"mscale": None, "mscale_all_dim": None}, 0.1 * math.log(16) + 1),
        ({"mscale": 0.7, "mscale_all_dim": None}, 0.1 * math.log(16) + 1),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, (0.2 * math.log(16) + 1) / (0.1 * math.log(16) + 1)),
        ({"mscale": 2.0, "mscale_all_dim": 1.0, "attention_factor": 1.0}, 1.0),
        ({"mscale": None, "mscale_all_dim": None, "attention_factor": 1.0}, 1.0),
    ],
)
def test_which_key_gives_yarns_factor(keys, factor):
    """It multiplies cosine and sine; at position 0 the cosine is the factor alone."""
    cos, sin = blocks.rotation(build("ministral3", **yarn(**keys)).model, 64)
    assert cos[0].tolist() == pytest.approx([factor] * 4)
    assert (cos**2 + sin**2).sqrt().flatten().tolist() == pytest.approx([factor] * 256)


def test_yarn_stretches_the_slow_channels_alone():
    """D = 8, theta 10000, 64 positions: the pair i turns 64 / (2 pi 10^i) times.

    32 turns lie below pair 0, one turn between 1 and 2: so pair 0 keeps its frequency 1, half of pair 1's is stretched
    by 16, and all of those of pairs 2 and 3.
    """
    cos, sin = blocks.rotation(build("ministral3", **yarn(original_max_position_embeddings=64)).model, 2)
    expected = [1.0, 0.1 * (0.5 + 0.5 / 16), 0.01 / 16, 0.001 / 16]
    assert torch.atan2(sin, cos)[1].tolist() == pytest.approx(expected, rel=1e-5)
