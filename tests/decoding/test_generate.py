"""Transformers' `generate` as a decoder: our tokens, its own forwards counted, nothing leaking in or out."""

import gc

import pytest
import tiny_models
import torch
from tiny_models import PAD

from llmbench import decoding
from llmbench.config.decoders import Autoregressive, Transformers
from llmbench.decoding.base import PromptBatch, valid_lengths
from llmbench.models.engine import EagerEngine

G = 24
LENGTHS = [[5, 5, 5, 5], [9, 2, 5, 1]]


def decoder(stop_ids, *, kind="transformers", **changes):
    settings = {"transformers": Transformers, "autoregressive": Autoregressive}[kind]
    built = settings(**({"kind": kind, "max_new_tokens": G, "temperature": 0.0} | changes))
    return decoding.build(built, stop_ids=stop_ids, pad_id=PAD, mask_id=None)


def generate(model, prompts, stop_ids, *, seed=0, on_step=None, **changes):
    ids, mask = prompts
    batch = PromptBatch(ids=ids, mask=mask)
    return decoder(stop_ids, **changes).generate(EagerEngine(model), batch, seed=seed, on_step=on_step)


def some_stops(model, prompts):
    """Two tokens that some rows write and others do not."""
    seen = [set(row.tolist()) for row in generate(model, prompts, [], kind="autoregressive").tokens]
    return [token for token in range(tiny_models.VOCAB) if 0 < sum(token in row for row in seen) < len(seen)][:2]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_tokens_and_stops_are_those_of_the_autoregressive_decoder(cache, lengths, seed):
    model, prompts = tiny_models.model(seed=seed), tiny_models.prompts(lengths, seed=seed)
    for stop_ids in ([], some_stops(model, prompts)):
        ours = generate(model, prompts, stop_ids, kind="autoregressive", stop_check_every=1)
        theirs = generate(model, prompts, stop_ids, cache=cache)
        assert theirs.tokens.tolist() == ours.tokens.tolist()
        assert valid_lengths(theirs.tokens, stop_ids) == valid_lengths(ours.tokens, stop_ids)
        assert (theirs.nfe, theirs.forwards) == (ours.nfe, ours.forwards)


@pytest.mark.parametrize("stops", [True, False])
def test_forwards_are_those_that_ran_and_each_is_marked_once(stops):
    model, prompts = tiny_models.model(), tiny_models.prompts([6, 3])
    ran, marks = [], []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: ran.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    every_token = list(range(tiny_models.VOCAB))
    generation = generate(model, prompts, every_token if stops else [], on_step=marks.append)
    assert generation.nfe == len(generation.forwards) == len(ran) == (1 if stops else G)
    assert [(shape.rows, shape.queries) for shape in generation.forwards] == [tuple(shape) for shape in ran]
    assert marks == list(range(generation.nfe))


def test_a_token_is_marked_when_it_is_chosen_and_before_the_next_forward():
    model, prompts = tiny_models.model(), tiny_models.prompts([6, 3])
    events = []
    model.register_forward_pre_hook(lambda *_: events.append("forward"))
    generate(model, prompts, [], max_new_tokens=3, on_step=events.append)
    assert events == ["forward", 0, "forward", 1, "forward", 2]


def test_ignore_stop_writes_everything():
    model, prompts = tiny_models.model(), tiny_models.prompts([6, 3])
    every_token = list(range(tiny_models.VOCAB))
    generation = generate(model, prompts, every_token, ignore_stop=True)
    assert generation.tokens.tolist() == generate(model, prompts, []).tokens.tolist()
    assert generation.nfe == G


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_the_checkpoint_says_about_generation_is_kept_out(temperature):
    model, prompts = tiny_models.model(), tiny_models.prompts([9, 2, 5, 1])
    plain = generate(model, prompts, [], temperature=temperature).tokens.tolist()
    own = model.generation_config
    leaks = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 30, "top_k": 1, "do_sample": True}
    leaks |= {"temperature": 9.0, "eos_token_id": list(range(tiny_models.VOCAB)), "suppress_tokens": [5, 6, 7]}
    for key, value in leaks.items():
        setattr(own, key, value)
    assert generate(model, prompts, [], temperature=temperature).tokens.tolist() == plain
    assert model.generation_config is own
    assert own.repetition_penalty == 5.0


def test_sampling_follows_the_seed_and_leaves_torchs_generator_alone():
    model, prompts = tiny_models.model(), tiny_models.prompts([6, 3])
    before = torch.random.get_rng_state()
    seeds = (0, 0, 1, 2**63 + 5)
    drawn = [generate(model, prompts, [], seed=seed, temperature=1.0).tokens.tolist() for seed in seeds]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[3] not in drawn[:3]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sampled_frequencies_are_those_of_the_whole_distribution_and_of_the_nucleus():
    from llmbench.decoding.rules import nucleus

    vocab, rows, heat = 80, 20_000, 1.3  # more tokens than `generate` keeps unless top_k is switched off
    model = tiny_models.model(vocab=vocab)
    ids, _ = tiny_models.prompts([6], vocab=vocab)
    logits = EagerEngine(model).logits(ids, None)[:, -1]
    for top_p in (1.0, 0.8):
        expected = (nucleus(logits.clone(), heat, top_p)[0] / heat).softmax(-1)
        prompts = (ids.expand(rows, -1), None)
        tokens = generate(model, prompts, [], temperature=heat, top_p=top_p, max_new_tokens=1).tokens[:, 0]
        error = (tokens.bincount(minlength=vocab) / rows - expected).abs()
        assert (error <= 5 * (expected * (1 - expected) / rows).sqrt() + 1e-6).all()


def test_no_decoder_inherits_the_cache_of_another():
    model, engine = tiny_models.model(), EagerEngine(tiny_models.model())
    ids, mask = tiny_models.prompts([6, 3])
    long = decoder([], cache="static", max_new_tokens=40)
    long.generate(engine, PromptBatch(ids=ids, mask=mask), seed=0, on_step=None)
    left = {name for name in vars(engine.model) if name not in vars(model)}
    assert left
    del long
    gc.collect()
    assert not {name for name in vars(engine.model) if name not in vars(model)}


def test_an_engine_without_a_model_is_refused():
    ids, mask = tiny_models.prompts([6, 3])
    with pytest.raises(TypeError, match="needs an engine with a model, not object"):
        decoder([]).generate(object(), PromptBatch(ids=ids, mask=mask), seed=0, on_step=None)
