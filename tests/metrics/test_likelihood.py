"""Likelihood of held-out text: exact against a loop, the bound against enumeration of every mask."""

import itertools
import math

import pytest
import torch

from llmbench.config.modes import CAUSAL, Mode
from llmbench.errors import ConfigError
from llmbench.metrics import likelihood
from llmbench.metrics.likelihood import BATCH_TOKENS, exact, masked_counts, model_likelihood

VOCABULARY, MASK = 11, 10


class TinyEngine:
    """Random embeddings, mixed over the visible positions: bidirectional, or causal."""

    def __init__(self, causal, seed=0, given=False):
        draw = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(VOCABULARY, 8, generator=draw)
        self.place = torch.randn(64, 8, generator=draw)
        self.head = torch.randn(8, VOCABULARY, generator=draw)
        self.causal, self.device, self.largest, self.given = causal, torch.device("cpu"), 0, given

    def logits(self, ids, mask):
        assert mask is None
        self.largest = max(self.largest, ids.numel())
        size = ids.shape[1]
        x = self.embedding[ids] + self.place[:size]
        scores = x @ x.transpose(1, 2) / 4
        if self.causal:
            scores = scores.masked_fill(~torch.ones(size, size).tril().bool(), -torch.inf)
        return torch.tanh(scores.softmax(-1) @ x + x) @ self.head

    def block_logits(self, text, noisy, blocks):
        """Block by block, each read behind the text before it; a block's first token by the text alone."""
        self.largest = max(self.largest, 2 * text.numel())
        found = torch.zeros(*text.shape, VOCABULARY)
        for number in blocks.unique():
            places = torch.nonzero(blocks == number)[:, 0]
            begin, end = int(places[0]), int(places[-1]) + 1
            read = torch.cat([text[:, :begin], noisy[:, begin:end]], 1)
            found[:, begin:end] = self.logits(read, None)[:, begin:]
            if self.given and begin:
                found[:, begin] = self.logits(text[:, :begin], None)[:, -1]
        return found


def bound(engine, text, given=1):
    """E over l and over every mask of exactly l of the L tokens after the given ones, by enumeration."""
    length = len(text) - given
    total = 0.0
    for count in range(1, length + 1):
        masks = list(itertools.combinations(range(given, len(text)), count))
        for chosen in masks:
            ids = torch.tensor([[MASK if i in chosen else token for i, token in enumerate(text)]])
            logs = torch.log_softmax(engine.logits(ids, None)[0].double(), -1)
            total -= sum(logs[i, text[i]].item() for i in chosen) * length / count / len(masks) / length
    return total


def measure(engine, texts, **changes):
    settings = {"mode": Mode(attention="full"), "mask_id": MASK, "samples": 8, "seed": 0, "tick": lambda *state: None}
    return model_likelihood(engine, texts, ["ab"] * len(texts), **(settings | changes))


def test_a_causal_model_is_scored_exactly_after_the_first_token():
    engine, texts = TinyEngine(causal=True), [[1, 4, 2, 8], [3], [5, 5]]
    found = measure(engine, texts, mode=CAUSAL, mask_id=None)
    expected = 0.0
    for text in texts:
        for i in range(1, len(text)):
            logits = engine.logits(torch.tensor([text[:i]]), None)[0, -1]
            expected -= torch.log_softmax(logits.double(), -1)[text[i]].item()
    assert found.nll_nats == pytest.approx(expected, rel=1e-5)
    assert (found.utf8_bytes, found.bound, found.standard_error_nats) == (6, False, None)
    assert (found.texts, found.scored_tokens) == (3, 4)


@pytest.mark.parametrize("text", [[1, 4, 2, 8], [3, 9, 9, 0, 7]])
def test_the_bound_is_the_mean_over_every_mask(text):
    engine = TinyEngine(causal=False)
    found = measure(engine, [text], samples=4000)
    assert found.bound
    # every l equally often: what is left is the choice of masks, and the first token is never one of them
    assert found.nll_nats == pytest.approx(bound(engine, text), rel=0.02)
    assert measure(engine, [[7, 3]], samples=1).nll_nats == pytest.approx(bound(engine, [7, 3]), rel=1e-5)


def test_a_bound_is_no_smaller_than_what_it_bounds():
    """Where every token is predicted in every order, the bound is the mean over orders of the chain rule's sum."""
    engine, text = TinyEngine(causal=False), [1, 4, 2, 8]
    chains = []
    for order in itertools.permutations((1, 2, 3)):
        total = 0.0
        for done in range(3):
            ids = torch.tensor([[MASK if i in order[done:] else token for i, token in enumerate(text)]])
            total -= torch.log_softmax(engine.logits(ids, None)[0].double(), -1)[order[done], text[order[done]]].item()
        chains.append(total)
    assert bound(engine, text) == pytest.approx(sum(chains) / len(chains), rel=1e-6)
    assert bound(engine, text) >= -math.log(sum(math.exp(-chain) for chain in chains) / len(chains))


@pytest.mark.parametrize("given", [2, 3])
def test_a_prompt_is_read_and_neither_masked_nor_scored(given):
    engine, text = TinyEngine(causal=False), [3, 9, 9, 0, 7, 1]
    ids, draws = torch.tensor([text]), torch.Generator().manual_seed(0)
    found = likelihood.bound(engine, ids, given, MASK, 4000, draws)
    assert found == pytest.approx(bound(engine, text, given), rel=0.02)
    causal = TinyEngine(causal=True)
    logs = torch.log_softmax(causal.logits(ids, None)[0].double(), -1)
    expected = sum(logs[i - 1, text[i]].item() for i in range(given, len(text)))
    scores, greedy = exact(causal, ids.expand(2, -1), [1, given])  # rows differ in what is given
    assert float(scores[1]) == pytest.approx(expected, rel=1e-5)
    assert scores[0] < scores[1]
    assert not greedy.any()
    greedy_ids = ids.clone()
    greedy_ids[0, -1] = logs[-2].argmax()
    assert exact(causal, greedy_ids, [len(text) - 1])[1].tolist() == [True]


def test_the_standard_error_is_the_spread_of_repeated_estimates():
    engine, texts = TinyEngine(causal=False), [[1, 4, 2, 8, 0, 3], [3, 9, 9, 0, 7], [6, 2, 2, 1]] * 4
    runs = [measure(engine, texts, samples=6, seed=seed) for seed in range(60)]
    values = torch.tensor([run.nll_nats for run in runs])
    claimed = math.sqrt(sum(run.standard_error_nats**2 for run in runs) / len(runs))
    assert claimed == pytest.approx(values.std().item(), rel=0.3)
    truth = sum(bound(engine, text) for text in texts)
    assert values.mean().item() == pytest.approx(truth, abs=4 * claimed / math.sqrt(len(runs)))


@pytest.mark.parametrize(("length", "samples"), [(5, 2), (2, 16), (7, 8), (10, 16), (1, 3), (50, 16)])
def test_stratified_counts_are_unbiased(length, samples):
    seen = torch.zeros(length + 1)
    points = 2000
    for i in range(points):
        counts = masked_counts(length, samples, (i + 0.5) / points)
        assert len(counts) == samples
        seen += torch.bincount(torch.tensor(counts), minlength=length + 1)
    assert seen[0] == 0
    assert torch.allclose(seen[1:] / seen.sum(), torch.full((length,), 1 / length), rtol=0.01)


def test_the_seed_decides_and_zero_is_a_seed():
    engine, texts = TinyEngine(causal=False), [[1, 4, 2, 8, 0, 3]]
    assert measure(engine, texts, seed=0) == measure(engine, texts, seed=0)
    assert measure(engine, texts, seed=0) != measure(engine, texts, seed=1)


def test_one_sample_has_no_error_estimate_and_batches_stay_small():
    engine = TinyEngine(causal=False)
    assert measure(engine, [[1, 2, 3]], samples=1).standard_error_nats is None
    measure(engine, [[1] * 60], samples=100)
    assert 60 * 10 < engine.largest <= BATCH_TOKENS


def test_a_diffusion_model_without_a_mask_token_is_refused():
    with pytest.raises(ConfigError, match=r"metric\.likelihood=false"):
        measure(TinyEngine(causal=False), [[1, 2]], mask_id=None)


def test_a_models_second_job_shows_the_same_figure_and_computes_nothing():
    engine = TinyEngine(causal=False)
    first = measure(engine, [[1, 4, 2, 8]], name="model@1 cpu")
    engine.largest = 0
    assert measure(engine, [[1, 4, 2, 8]], name="model@1 cpu") == first
    assert engine.largest == 0
    other = TinyEngine(causal=False, seed=1)
    for changed in ({"name": "model@2 cpu"}, {"samples": 4}, {"seed": 1}):
        assert measure(other, [[1, 4, 2, 8]], **({"name": "model@1 cpu"} | changed)) != first
    assert measure(other, [[1, 4, 2, 8]]) != first, "without a name nothing is found"


BLOCKS = {
    "behind the given token": (Mode(attention="causal_context", block_length=3), [(1, 4), (4, 6)]),
    "from the beginning": (Mode(attention="block_causal", block_length=3), [(1, 3), (3, 6)]),
    "seeded": (Mode(attention="causal_context", block_length=3, seeded=True), [(2, 4), (5, 6)]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_bound_of_a_model_in_blocks_is_the_sum_over_its_blocks(name):
    """By enumeration of every mask of every block; what a mode has given in a block is scored exactly."""
    mode, masked = BLOCKS[name]
    engine, text = TinyEngine(causal=False, given=mode.seeded), [1, 4, 2, 8, 5, 7]
    expected = sum(bound(engine, text[:end], given=begin) for begin, end in masked)
    for begin in (1, 4) if mode.seeded else ():
        expected -= torch.log_softmax(engine.logits(torch.tensor([text[:begin]]), None)[0, -1], -1)[text[begin]].item()
    found = measure(engine, [text], mode=mode, samples=3000)
    assert found.bound
    assert found.nll_nats == pytest.approx(expected, rel=0.02)
