"""Answers to a harness, without the harness: what is generated, what is scored, what is refused."""

import itertools
import math
from collections import Counter

import hub_checkpoints
import pytest
import torch

from llmbench.checkpoints import load as loading
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.errors import HardwareError, UsageError
from llmbench.harness import side
from llmbench.harness.side import Answering
from llmbench.measure import device

PROMPTS = ["Once upon a time there was a", "She went to the", "He looked at", "The sea was calm, and we"]


def build(model, **settings):
    own = {"hardware": "cpu", "model": model, "canvas": 8, "batch": 3}
    return side.build(own | ({"steps": 4} if model == "llada" else {}) | settings, samples=64)


@pytest.fixture(scope="module")
def llama():
    return build("llama")


@pytest.fixture(scope="module")
def llada():
    return build("llada")


@pytest.mark.parametrize(
    ("text", "until", "rest"),
    [
        ("one. two\nthree", ("\n", "."), "one"),  # the first that comes, not the first that is named
        ("one", ("two",), "one"),
        ("Question: x", ("Question:",), ""),
        ("one", ("", "n"), "o"),  # an empty ending ends nothing
        ("", ("a",), ""),
    ],
)
def test_an_answer_ends_before_the_first_ending(text, until, rest):
    assert side.before(text, until) == rest


def test_a_tasks_settings_reach_the_decoder_or_are_refused():
    one_by_one = Autoregressive(kind="autoregressive", max_new_tokens=8, temperature=0.0)
    diffusion = Diffusion(kind="diffusion", steps=4, canvas=8, block_length=8, temperature=0.0)
    sampled = Answering(temperature=0.7, others=(("top_p", 0.9), ("top_k", None)))
    for settings in (one_by_one, diffusion):
        changed = side.decoder_settings(settings, sampled)
        assert (changed.temperature, changed.top_p) == (0.7, 0.9)
    greedy = Answering(others=(("top_k", 50), ("top_p", 0.9)))
    assert side.decoder_settings(diffusion, greedy) == diffusion  # greedily nothing is cut off
    for settings, how in (
        (diffusion, Answering(temperature=0.7, others=(("min_p", 0.1),))),
        (one_by_one, Answering(others=(("num_beams", 4),))),
        (one_by_one, Answering(temperature=0.7, others=(("top_p", 7.0),))),
        (one_by_one, Answering(temperature=-1.0)),
    ):
        with pytest.raises(UsageError) as caught:
            side.decoder_settings(settings, how)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": 0.7}, "--gen_kwargs do_sample=true,temperature=0.7"),
        ({"hardware.engine": "fused"}, "must be eager"),
        ({"weights": "dummy"}, "weights=dummy writes no text"),
        ({"step": 4}, "did you mean steps"),
        ({"canvas": 8.5}, "canvas: "),
        ({"model": "lama"}, "available: llada, llada_server, llama"),
        ({"model": "llada", "steps": 3, "block_length": 4}, "must be a multiple of the 2 blocks"),
        ({"checkpoint": "local", "model.checkpoint": "/no/such/folder"}, "/no/such/folder"),
        ({"model.checkpoint": "bundled:llada"}, "use model=llada"),
        ({"model.chat": True}, "say --apply_chat_template"),
        ({"model": "llama_server"}, "say --model local-completions"),  # its scores would be the local weights'
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(settings, says):
    with pytest.raises(UsageError) as caught:
        side.build({"hardware": "cpu", "canvas": 8} | settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="samples: give a whole number"):
        side.build({}, samples=0)


@pytest.mark.parametrize("model", ["llama", "llada"])
def test_texts_are_those_of_the_decoder_whatever_the_batch(model):
    apart, together = build(model, batch=1), build(model)
    texts = together.write(PROMPTS, Answering())
    assert texts == [apart.write([prompt], Answering())[0] for prompt in PROMPTS]
    ended = together.write(PROMPTS, Answering(until=(" ",), most_tokens=3))
    cut = [together.tokenize(text, special=False)[:3] for text in texts]
    shown = [side.before(together.checkpoint.files.tokenizer.decode(ids), (" ",)) for ids in cut]
    assert ended == shown


def test_steps_blocks_and_caches_are_the_decoders(llada):
    whole = llada.write(PROMPTS, Answering())
    assert build("llada", steps=8).write(PROMPTS, Answering()) != whole
    blocks = {"steps": 8, "block_length": 4}
    assert build("llada", **blocks, cache="dual").write(PROMPTS, Answering()) != whole
    assert build("llada", **{"threshold": 0.01}).job.model.decoder.threshold == 0.01
    sampled = Answering(temperature=1.0)
    assert llada.write(PROMPTS, sampled) == llada.write(PROMPTS, sampled)
    assert llada.write(PROMPTS, sampled) != build("llada", seed=1).write(PROMPTS, sampled)


def test_what_does_not_fit_is_refused_before_anything_is_generated(llama, llada):
    done = []
    for asked in (llama, llada):
        with pytest.raises(UsageError, match=r"1 of 2 requests exceed the context 512 .* --num_fewshot"):
            asked.write(["short", "word " * 800], Answering(), done.append)
        with pytest.raises(UsageError, match="exceed the context"):
            asked.score([([5] * 500, [6] * 13)], done.append)
    assert done == []


@pytest.mark.parametrize("model", ["llama", "llada"])
def test_too_little_memory_is_said_as_in_a_job_before_weights_load_and_before_anything_is_generated(monkeypatch, model):
    weights = 4 * 6_917_376  # float32; both models of the bundled pair have so many
    monkeypatch.setattr(loading, "_loaded", None)
    monkeypatch.setattr(device, "free_bytes", lambda hardware: weights - 1)
    says = f"bundled:{model} needs .* GiB on cpu .*GiB are free; .*hardware.dtype=bfloat16 needs"
    with pytest.raises(HardwareError, match=says) as caught:
        build(model)
    assert "\n" not in str(caught.value)
    assert loading._loaded is None
    monkeypatch.setattr(device, "free_bytes", lambda hardware: weights)
    asked, done = build(model), []
    monkeypatch.setattr(device, "free_bytes", lambda hardware: 0)  # the weights are there: nothing is left beside them
    with pytest.raises(HardwareError, match=says):
        asked.write(PROMPTS, Answering(), done.append)
    assert done == []
    asked.score([([5], [6])])  # no canvas and no cache are asked for


def test_a_causal_side_is_scored_exactly_and_mixed_lengths_do_not_matter(llama):
    pairs = [(llama.tokenize(prompt), llama.tokenize(" little king", special=False)) for prompt in PROMPTS]
    pairs += [([], [40, 41]), ([7, 8, 9], []), ([7], [8, 9, 10]), ([7, 8], [9, 10])]
    done = []
    found = llama.score(pairs, done.append)
    assert sum(done) == len(pairs)
    for (context, rest), (value, greedy) in zip(pairs, found, strict=True):
        ids = [*(context or [llama.start_id]), *rest]
        with torch.inference_mode():
            logs = llama.checkpoint.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        at = range(len(ids) - len(rest), len(ids))
        assert value == pytest.approx(sum(logs[i - 1, ids[i]].item() for i in at), rel=1e-4, abs=1e-9)
        assert greedy == all(int(logs[i - 1].argmax()) == ids[i] for i in at)
    (written,) = llama.write(PROMPTS[:1], Answering())
    context = llama.tokenize(PROMPTS[0])
    rest = llama.tokenize(PROMPTS[0] + written)[len(context) :]
    assert llama.score([(context, rest)])[0][1]


def enumerated(asked, context, rest):
    """The bound by every mask of the continuation; the context is always there."""
    engine, total = asked.checkpoint.engine("eager"), 0.0
    size = len(rest)
    for count in range(1, size + 1):
        masks = list(itertools.combinations(range(size), count))
        for mask in masks:
            shown = [asked.checkpoint.mask_id if i in mask else token for i, token in enumerate(rest)]
            with torch.inference_mode():
                logs = engine.logits(torch.tensor([context + shown]), None)[0].double().log_softmax(-1)
            nll = -sum(logs[len(context) + i, rest[i]].item() for i in mask)
            total += nll * size / count / len(masks) / size
    return total


def test_a_diffusion_side_is_scored_by_its_bound_given_the_context(llada):
    context = llada.tokenize("Once upon a time there was a")
    for rest in ([300], [300, 301], llada.tokenize(" little king", special=False)):
        value = llada.score([(context, rest)])[0][0]
        expected = enumerated(llada, context, rest)
        assert -value == pytest.approx(expected, rel=1e-5 if len(rest) == 1 else 0.1)


def test_a_model_that_predicts_from_the_position_before_is_scored_so(tmp_path):
    plain = hub_checkpoints.write(tmp_path / "dream", "dream")
    own = {"checkpoint": "local", "model.checkpoint": str(tmp_path / "dream"), "model.layout": None}
    dream = side.build({"hardware": "cpu", "model": "llada", "canvas": 4, "steps": 4} | own, samples=8)
    first, second = dream.tokenize("AB")
    logits = plain.logits(torch.tensor([first, hub_checkpoints.MASK]))
    ((value, greedy),) = dream.score([([first], [second])])
    assert value == pytest.approx(logits[0].log_softmax(-1)[second].item(), rel=1e-5)
    masked_out = logits[0].index_fill(0, torch.tensor([hub_checkpoints.MASK]), float("-inf"))
    assert greedy is bool(masked_out.argmax() == second)
    best = int(masked_out.argmax())
    assert dream.score([([first], [best])])[0][1] is True


def test_a_diffusion_score_depends_on_seed_and_request_and_not_on_the_others(llada):
    pairs = [(llada.tokenize(prompt), [300, 301, 302, 303]) for prompt in PROMPTS]
    found = llada.score(pairs)
    assert llada.score(pairs[::-1])[::-1] == found
    assert llada.score(pairs[2:3]) == found[2:3]
    assert [value for value, _ in build("llada", seed=1).score(pairs)] != [value for value, _ in found]
    assert all(math.isfinite(value) and value < 0 for value, _ in found)


def test_greedy_of_a_diffusion_side_is_one_token_a_step(llada):
    context = llada.tokenize(PROMPTS[0])
    alone = build("llada", steps=4, canvas=4)
    (written,) = alone.write(PROMPTS[:1], Answering())
    rest = alone.tokenize(PROMPTS[0] + written)[len(context) :]
    assert len(rest) == 4
    other = [*rest[:-1], rest[-1] + 1]
    assert [greedy for _, greedy in llada.score([(context, rest), (context, other)])] == [True, False]
    quick = side.build({"hardware": "cpu", "model": "llada", "canvas": 8, "steps": 4}, greedy=False, samples=2)
    assert not quick.score([(context, rest)])[0][1]


def test_what_a_result_rests_on_is_said(llama, llada):
    assert llama.about()["llmbench_likelihood"] == "exact"
    said = llada.about()
    assert said["llmbench_likelihood"] == "Monte-Carlo upper bound of -log p, 64 samples"
    assert said["llmbench_checkpoint"].startswith("bundled:llada@")
    assert said["llmbench_decoder"]["steps"] == 4


def test_requests_have_seeds_of_their_own():
    seeds = Counter(side._own_seed(seed, [1], [2, third]) for seed in range(3) for third in range(50))
    assert max(seeds.values()) == 1
    assert all(0 <= seed < 2**63 for seed in seeds)
