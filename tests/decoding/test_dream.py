"""Dream's own decoding, token by token, against slow decoders written from its description."""

import math

import pytest
import tiny_models
import torch
from tiny_models import MASK, VOCAB

from llmbench.config.decoders import Diffusion
from llmbench.decoding import base, diffusion, rules
from llmbench.decoding.base import Draws, PromptBatch
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.decoding.proposal import Proposal
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

CPU = torch.device("cpu")
SHIFT = 1


def settings(**changes):
    base = {"steps": 8, "canvas": 16, "block_length": 16, "temperature": 0.0, "confidence_dtype": "float64"}
    dream = {"kind": "diffusion", "tokens_per_step": "timesteps", "confidence": "sampling", "remasking": "entropy"}
    return Diffusion(**(base | dream | changes))


def generate(engine, ids, mask, *, seed=0, **changes):
    decoder = DiffusionDecoder(settings(**changes), stop_ids=(0,), mask_id=MASK, logit_shift=SHIFT)
    return decoder.generate(engine, PromptBatch(ids=ids, mask=mask), seed=seed, on_step=None)


def distribution(logits, s, tokens=range(VOCAB)):
    """Probabilities of tokens after temperature, then top_p, then top_k; what is cut off is left out."""
    scaled = {token: logits[token] / (s.temperature or 1.0) for token in tokens}
    by_rank = sorted(scaled, key=lambda token: (-scaled[token], token))

    def softmax(tokens):
        shares = {token: math.exp(scaled[token] - scaled[by_rank[0]]) for token in tokens}
        return {token: share / sum(shares.values()) for token, share in shares.items()}

    kept, mass, whole = [], 0.0, softmax(by_rank)
    for token in by_rank:
        if mass < s.top_p or s.top_p == 1:
            kept.append(token)
        mass += whole[token]
    return softmax(kept[: s.top_k])


def proposal(logits, s, uniform):
    """A token of the distribution that is not the mask, by the Gumbel trick on given draws; and the confidence."""
    vocabulary = [token for token in range(VOCAB) if token != MASK]
    p = distribution(logits, s)
    words = {token: share for token, share in p.items() if token != MASK}
    if not words:
        words = {max(vocabulary, key=lambda t: logits[t]): 1.0}
    if s.confidence == "model":
        p = distribution(logits, settings())
        words = distribution(logits, s, vocabulary)
    if s.temperature:
        noisy = {t: math.log(share) - math.log(-math.log(uniform[t])) for t, share in words.items()}
        token = max(noisy, key=noisy.__getitem__)
    else:
        token = max(words, key=words.__getitem__)
    shares = [*sorted(p.values(), reverse=True), 0.0]
    match s.remasking:
        case "low_confidence":  # maskgit_plus
            return token, p.get(token, 0.0)
        case "topk_margin":
            return token, shares[0] - shares[1]
        case "entropy":
            return token, sum(share * math.log(share) for share in shares if share)
        case "origin":
            return token, None


def reference(model, ids, mask, *, seed, **changes):
    """The description of Dream's `_sample` in the plainest form: one row and one position at a time.

    Its debt to the code under test is the order of the random numbers: per step uniforms for tokens, row by row, as
    many positions in a row as in the row with most masks; then one uniform for each position.
    """
    s = settings(**changes)
    rows, prompt = ids.shape
    x = torch.cat([ids, torch.full((rows, s.canvas), MASK)], dim=1)
    attention = torch.ones_like(x)
    if mask is not None:
        attention[:, :prompt] = mask.long()
    draw = base.Draws(CPU, seed)
    blocks = s.canvas // s.block_length
    steps = s.steps // blocks
    times = torch.linspace(1, 1e-3, steps + 1)
    for start in range(prompt, prompt + s.canvas, s.block_length):
        for step in range(steps):
            logits = model(x, attention_mask=attention).logits
            masked = [[p for p in range(start, start + s.block_length) if x[r, p] == MASK] for r in range(rows)]
            most = max(map(len, masked))
            if not most:
                continue
            uniform = [[None] * most] * rows
            if s.temperature:
                uniform = draw.fill_(torch.empty(rows, most, VOCAB, dtype=torch.float64)).tolist()
            if s.remasking == "origin" or s.remasking_temperature:
                lottery = draw.fill_(torch.empty(rows, most, dtype=torch.float64)).tolist()
            share = 1 - times[step + 1] / times[step] if step < steps - 1 else torch.tensor(1.0)
            for row in range(rows):
                proposed = []
                for n, p in enumerate(masked[row]):
                    token, confidence = proposal(logits[row, p - SHIFT].tolist(), s, uniform[row][n])
                    if s.remasking == "origin":
                        if lottery[row][n] >= 1 - share.item():
                            x[row, p] = token
                        continue
                    if s.remasking_temperature:  # softmax without replacement, by the Gumbel trick
                        confidence = confidence / s.remasking_temperature - math.log(-math.log(lottery[row][n]))
                    proposed.append((-confidence, p, token))
                for _, p, token in sorted(proposed)[: int(torch.tensor(len(masked[row])) / 1 * share)]:
                    x[row, p] = token
    return x[:, prompt:]


ALGORITHMS = ("origin", "low_confidence", "topk_margin", "entropy")
SAMPLING = (
    {},
    {"temperature": 0.7, "steps": 16},
    {"temperature": 1.0, "top_p": 0.8, "block_length": 8, "steps": 6},
    {"temperature": 2.0, "top_p": 0.9, "top_k": 6, "steps": 5},
    {"top_p": 0.6, "top_k": 4, "steps": 20},
    {"temperature": 0.3, "top_k": 3, "block_length": 4, "steps": 16},
    {"temperature": 0.5, "top_p": 0.9, "confidence_dtype": "float32"},
    {"temperature": 0.5, "top_p": 0.9, "top_k": 6, "confidence": "model"},
)
CASES = [{"remasking": name, **more} for name in ALGORITHMS for more in SAMPLING] + [
    {"remasking": name, "remasking_temperature": heat, **more}
    for name, heat, more in zip(ALGORITHMS[1:] * 2, (0.1, 0.5, 2.0) * 2, SAMPLING[1:7], strict=True)
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_tokens_are_those_of_the_plain_algorithm(changes):
    for seed, lengths in enumerate(([6, 3, 1], [4, 4])):
        model = tiny_models.model(causal=False, seed=seed)
        ids, mask = tiny_models.prompts(lengths, seed=seed)
        with torch.inference_mode():
            expected = reference(model, ids, mask, seed=seed, **changes)
        made = generate(EagerEngine(model), ids, mask, seed=seed, **changes)
        assert made.tokens.tolist() == expected.tolist()
        assert not (made.tokens == MASK).any()
        assert made.nfe == len(made.forwards) == settings(**changes).steps  # k forwards, also where chance ends early


@pytest.mark.parametrize("changes", CASES[::4], ids=str)
def test_the_fused_engine_and_the_sizes_of_a_gpu_change_nothing(monkeypatch, changes):
    changes = changes | {"cache": "none"}
    model = tiny_models.model(causal=False)
    ids, mask = tiny_models.prompts([6, 3, 1])
    exact = generate(EagerEngine(model), ids, mask, **changes)
    assert torch.equal(generate(FusedEngine(model), ids, mask, **changes).tokens, exact.tokens)
    if not settings(**changes).stochastic:  # candidates that fill a size up draw noise of their own
        monkeypatch.setattr(diffusion, "sizes", lambda block, device: [0, block])
        assert torch.equal(generate(FusedEngine(model), ids, mask, **changes).tokens, exact.tokens)


def test_a_mask_that_alone_is_kept_gives_way_to_the_most_probable_word():
    logits = torch.full((2000, VOCAB), -9.0)
    logits[:, MASK], logits[:, 7], logits[:, 5] = 20.0, 1.0, 0.5
    for temperature in (0.0, 1.0):
        made = Proposal(
            settings(temperature=temperature, top_k=1), (), MASK, Draws(CPU), EagerEngine(tiny_models.model())
        )
        tokens, _ = made.of_logits(logits.clone())
        assert tokens.unique().tolist() == [7]


def test_margin_and_entropy_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]]).log()
    tokens, draws = torch.zeros(3, dtype=torch.int64), Draws(CPU)
    margin = rules.TopkMargin(torch.float64)(logits, tokens, draws)
    assert margin.tolist() == pytest.approx([0.25, 0.0, 1.0], abs=1e-7)
    entropy = rules.Entropy(torch.float64)(logits, tokens, draws)
    assert entropy.tolist() == pytest.approx([-1.5 * math.log(2), -math.log(3), 0.0], abs=1e-7)


@pytest.mark.parametrize("origin", ["model", "sampling"])
def test_a_confidence_is_the_models_own_or_that_of_the_draw_by_hand(origin):
    """Shares 4 : 2 : 1 : 1 at temperature 0.5 are 16 : 4 : 1 : 1; a nucleus of 0.8 keeps 16 : 4."""
    logits = torch.tensor([[4.0, 2.0, 0.0, 1.0, 1.0]]).log()  # 2 is the mask
    kept = {"model": (4 / 8, 2 / 8), "sampling": (16 / 20, 4 / 20)}[origin]
    asked = settings(temperature=0.5, top_p=0.8, confidence=origin, remasking="low_confidence")
    made = Proposal(asked, (), MASK, Draws(CPU), EagerEngine(tiny_models.model()))
    tokens, confidence = made.of_logits(logits.repeat(200, 1))
    assert set(tokens.tolist()) == {0, 1}
    assert confidence.tolist() == pytest.approx([kept[token] for token in tokens.tolist()])


def test_positions_are_drawn_in_proportion_and_without_replacement():
    """Two of three positions with weights 5 : 3 : 2: the pair {0, 1} comes with 5/10 * 3/5 + 3/10 * 5/7."""
    n, heat = 40_000, 0.25
    confidence = (torch.tensor([0.5, 0.3, 0.2]).log() * heat).repeat(n)

    class Given:
        def __call__(self, logits, tokens, draws):
            return confidence

    keys = rules.Drawn(Given(), heat)(confidence, torch.zeros(3 * n), Draws(CPU)).view(n, 3)
    left_out = keys.argmin(-1).bincount(minlength=3) / n
    p = [0.5, 0.3, 0.2]
    pairs = [(1, 2), (0, 2), (0, 1)]
    expected = torch.tensor([p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]) for a, b in pairs])
    assert expected[2] == pytest.approx(0.3 + 0.15 / 0.7)
    assert ((left_out - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()


def test_by_chance_a_share_of_the_step_becomes_final_and_rows_differ():
    """4 steps: the first makes 0.24975 of the tokens final, the second 1/3 of the rest."""
    model = tiny_models.model(causal=False)
    ids, _ = tiny_models.prompts([3] * 8)
    left = []

    class Recorder(EagerEngine):
        def denoise(self, ids, mask, positions, cache=None):
            left.append((ids[:, 3:] == MASK).sum(-1))
            return super().denoise(ids, mask, positions, cache)

    generate(Recorder(model), ids, None, remasking="origin", canvas=96, block_length=96, steps=4)
    n, masked = 8 * 96, 1.0
    for step, share in enumerate((0, 0.24975, 1 - 0.5005 / 0.75025, 1 - 0.25075 / 0.5005)):
        masked *= 1 - share
        assert abs(left[step].sum() / n - masked) <= 4 * (masked * (1 - masked) / n) ** 0.5
    assert len(left[2].unique()) > 1
