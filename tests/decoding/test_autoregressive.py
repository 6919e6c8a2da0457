"""Autoregressive decoding against Transformers' `generate`, and sampling against plain arithmetic."""

import pytest
import tiny_models
import torch
from tiny_models import PAD

from llmbench.config.decoders import Autoregressive
from llmbench.decoding import rules
from llmbench.decoding.autoregressive import AutoregressiveDecoder, choose
from llmbench.decoding.base import Draws, PromptBatch, valid_lengths
from llmbench.decoding.rules import nucleus
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

G = 24


def settings(**changes):
    return Autoregressive(**({"kind": "autoregressive", "max_new_tokens": G, "temperature": 0.0} | changes))


def generate(model, ids, mask, stop_ids, *, seed=0, on_step=None, engine=EagerEngine, **changes):
    decoder = AutoregressiveDecoder(settings(**changes), stop_ids=tuple(stop_ids), pad_id=PAD)
    return decoder.generate(engine(model), PromptBatch(ids=ids, mask=mask), seed=seed, on_step=on_step)


def reference(model, ids, mask, stop_ids):
    attention = torch.ones_like(ids) if mask is None else mask.long()
    with torch.inference_mode():
        whole = model.generate(
            input_ids=ids,
            attention_mask=attention,
            do_sample=False,
            max_new_tokens=G,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=PAD,
        )
    return whole[:, ids.shape[1] :]


def stops_that_occur(model, ids, mask):
    """Stop tokens that end some rows early and leave others alone: chosen from what is generated without any."""
    free = reference(model, ids, mask, [])
    seen = [set(row.tolist()) for row in free]
    some = [token for token in range(tiny_models.VOCAB) if 0 < sum(token in row for row in seen) < len(seen)]
    assert some, "the model is too dull for this test"
    return some[:2]


@pytest.mark.parametrize("lengths", [[5, 5, 5, 5], [9, 2, 5, 1]])
@pytest.mark.parametrize("check_every", [1, 7])
@pytest.mark.parametrize("engine", [EagerEngine, FusedEngine])
def test_greedy_is_token_identical_to_generate(lengths, check_every, engine):
    model = tiny_models.model()
    model.generation_config.eos_token_id = None
    ids, mask = tiny_models.prompts(lengths)
    for stop_ids in ([], stops_that_occur(model, ids, mask)):
        expected = reference(model, ids, mask, stop_ids)
        tokens = generate(model, ids, mask, stop_ids, stop_check_every=check_every, engine=engine).tokens
        width = expected.shape[1]
        assert tokens[:, :width].tolist() == expected.tolist()
        assert (tokens[:, width:] == PAD).all()
        stopped = [stop for _, stop in valid_lengths(tokens, stop_ids)]
        assert not stop_ids or (any(stopped) and not all(stopped))


def test_overrun_forwards_are_counted_and_their_tokens_are_not():
    model = tiny_models.model()
    ids, mask = tiny_models.prompts([6, 3])
    every_token = range(tiny_models.VOCAB)
    marks = []
    generation = generate(model, ids, mask, every_token, stop_check_every=8, on_step=marks.append)
    assert generation.nfe == len(generation.forwards) == 8
    assert marks == list(range(8))
    assert valid_lengths(generation.tokens, list(every_token)) == [(0, True), (0, True)]


def test_ignore_stop_generates_everything():
    ids, mask = tiny_models.prompts([6, 3])
    generation = generate(tiny_models.model(), ids, mask, range(tiny_models.VOCAB), ignore_stop=True)
    assert generation.tokens.shape == (2, G)
    assert generation.nfe == G
    assert (generation.tokens == reference(tiny_models.model(), ids, mask, [])).all()


def test_forward_shapes():
    ids, mask = tiny_models.prompts([6, 3])
    shapes = generate(tiny_models.model(), ids, mask, [], max_new_tokens=3).forwards
    assert [(s.rows, s.queries, s.keys, s.logits) for s in shapes] == [(2, 6, 6, 1), (2, 1, 7, 1), (2, 1, 8, 1)]


def test_sampling_follows_the_seed():
    model = tiny_models.model()
    ids, mask = tiny_models.prompts([6, 3])
    first, again, other = (
        generate(model, ids, mask, [], seed=seed, temperature=1.0).tokens.tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_rows_sample_independently():
    model = tiny_models.model()
    ids, _ = tiny_models.prompts([6])
    tokens = generate(model, ids.expand(2, -1), None, [], temperature=1.0).tokens
    assert tokens[0].tolist() != tokens[1].tolist()


def plain_nucleus(row, temperature, top_p):
    """Ids of the fewest likeliest tokens whose probabilities sum to at least top_p."""
    probabilities = (torch.tensor(row).double() / temperature).softmax(-1).tolist()
    kept, mass = [], 0.0
    for token in sorted(range(len(row)), key=lambda i: -probabilities[i]):
        kept.append(token)
        mass += probabilities[token]
        if mass >= top_p:
            break
    return sorted(kept)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_nucleus_is_the_plain_one(temperature, top_p):
    logits = torch.randn(8, 30, generator=torch.Generator().manual_seed(3)) * 2
    kept = nucleus(logits, temperature, top_p)
    for row, filtered in zip(logits, kept, strict=True):
        inside = filtered.isfinite().nonzero().flatten().tolist()
        assert inside == (list(range(30)) if top_p == 1 else plain_nucleus(row.tolist(), temperature, top_p))
        assert torch.equal(filtered[inside], row[inside])


def test_sampled_frequencies_are_the_probabilities_of_the_nucleus():
    logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -4.0])
    n, temperature, top_p = 20_000, 0.7, 0.95
    sampling = Autoregressive(temperature=temperature, top_p=top_p)
    draws = choose(logits.expand(n, -1), sampling, Draws(torch.device("cpu"), 0))
    inside = plain_nucleus(logits.tolist(), temperature, top_p)
    expected = torch.zeros(5)
    expected[inside] = (logits[inside] / temperature).softmax(-1)
    error = (draws.bincount(minlength=5) / n - expected).abs()
    assert (error <= 4 * (expected * (1 - expected) / n).sqrt()).all()
    assert 1 < len(inside) < 5


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_rows_drawn_in_pieces_get_the_tokens_of_all_at_once(monkeypatch, rows, top_p):
    """Noise is filled in the order of memory, so pieces of rows use the same draws."""
    logits = torch.randn(7, 30, generator=torch.Generator().manual_seed(5))
    draws, sizes = Draws(torch.device("cpu"), 4), []
    uniform = Draws(torch.device("cpu"), 4).fill_(torch.empty(2, 7, 30, dtype=torch.float64))
    kept = nucleus(logits, 0.8, top_p).double()
    expected = (kept - 0.8 * (-uniform.log()).log()).argmax(-1)
    monkeypatch.setattr(rules, "WIDE", 30 * rows + 1)
    sampling = Autoregressive(temperature=0.8, top_p=top_p)
    fill = draws.fill_
    monkeypatch.setattr(draws, "fill_", lambda noise: (sizes.append(noise.shape[0]), fill(noise))[1])
    assert torch.stack([choose(logits, sampling, draws) for _ in range(2)]).tolist() == expected.tolist()
    assert max(sizes) == min(rows, 7)


def test_a_kept_loop_forgets_the_generation_before():
    engine = FusedEngine(tiny_models.model(causal=True))
    decoder = AutoregressiveDecoder(settings(temperature=0.8), stop_ids=(3, 4, 5), pad_id=PAD)
    batches = [PromptBatch(ids=ids, mask=mask) for ids, mask in (tiny_models.prompts([6, 3], seed=s) for s in (0, 1))]
    first, other, again = (decoder.generate(engine, batches[i], seed=i, on_step=None).tokens for i in (0, 1, 0))
    assert first.tolist() == again.tolist() != other.tolist()
