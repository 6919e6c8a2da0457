"""How many and which tokens become final."""

import math

import pytest
import tiny_models
import torch

from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.decoding import rules
from llmbench.decoding.autoregressive import choose
from llmbench.decoding.base import Draws
from llmbench.decoding.greedy import greedy
from llmbench.decoding.proposal import Proposal
from llmbench.models.engine import EagerEngine


def test_the_surest_come_first_and_the_lowest_among_equals():
    confidence = torch.tensor([[0.1, 0.9, 0.5, 0.9], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.2, 0.0]])
    assert rules.surest_first(confidence).tolist() == [[1, 3, 2, 0], [0, 1, 2, 3], [2, 0, 1, 3]]


def test_wanted_positions_come_first_in_ascending_order():
    positions = torch.tensor([[9, 4, 7, 5], [3, 2, 1, 0]])
    wanted = torch.tensor([[True, False, True, False], [True, True, True, True]])
    assert rules.ascending_first(positions, wanted).tolist() == [[7, 9, 4, 5], [0, 1, 2, 3]]


def test_the_likeliest_token_by_hand():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [9.0, 0.0, 0.0, 1.0]])
    tokens, probability = greedy(logits, banned=0)
    assert tokens.tolist() == [1, 3]  # the lowest among equals; the banned one is not chosen, but has its share
    shares = [sum(math.exp(x) for x in row) for row in logits.tolist()]
    assert probability.tolist() == pytest.approx([math.exp(3) / shares[0], math.exp(1) / shares[1]])
    assert greedy(logits)[0].tolist() == [1, 0]


def test_gumbel_noise_by_hand():
    uniform = torch.tensor([0.0, math.exp(-1), 1 - 2.0**-53], dtype=torch.float64)
    noise = rules.gumbel_(uniform, 0.5).tolist()
    assert noise[0] == -math.inf  # a token that is never drawn
    assert noise[1] == 0  # -ln(-ln(1/e)) = 0
    assert noise[2] == pytest.approx(0.5 * 53 * math.log(2))  # float32 would end at 0.5 * 24 * ln 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_low_confidence_is_the_probability_of_the_token_in_the_dtype(dtype):
    logits = torch.tensor([[1.0, 2.0, 3.0], [5.0, 0.0, -1.0]])
    confidence = rules.LowConfidence(dtype)(logits, torch.tensor([2, 1]), Draws(torch.device("cpu"), 0))
    exact = [math.exp(3) / (math.exp(1) + math.exp(2) + math.exp(3)), 1 / (math.exp(5) + 1 + math.exp(-1))]
    assert confidence.dtype == dtype
    assert confidence.tolist() == pytest.approx(exact, rel=2**-8 if dtype == torch.bfloat16 else 1e-6)


def test_top_k_keeps_the_k_most_probable_and_their_equals():
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, -1.0, 5.0, 4.0]])
    kept = rules.keep_top_k(logits, 2)
    assert kept.isfinite().tolist() == [[True, False, True, True], [False, False, True, True]]
    assert kept[kept.isfinite()].tolist() == logits[kept.isfinite()].tolist()
    for everything in (None, 4, 9):
        assert rules.keep_top_k(logits, everything) is logits


@pytest.mark.parametrize("kept", [{"top_k": 2}, {"top_p": 0.75}, {"top_p": 0.9, "top_k": 2}], ids=str)
@pytest.mark.parametrize("family", ["autoregressive", "diffusion"])
def test_both_sides_draw_from_the_most_probable_in_proportion(family, kept):
    """The draws of 20,000 rows against the softmax over two tokens, within four standard errors.

    The shares of the five are 0.53, 0.13, 0.26, 0.02 and 0.06; on the diffusion side the last is the mask and has none.
    """
    n, temperature = 20_000, 0.7
    logits = torch.tensor([1.5, 0.5, 1.0, -1.0, 0.0])  # of the diffusion side, 4 is the mask
    draws = Draws(torch.device("cpu"), 0)
    if family == "autoregressive":
        tokens = choose(logits.expand(n, -1), Autoregressive(temperature=temperature, **kept), draws)
    else:
        made = Proposal(Diffusion(temperature=temperature, **kept), (), 4, draws, EagerEngine(tiny_models.model()))
        tokens, _ = made.of_logits(logits.repeat(n, 1))
    expected = torch.zeros(5)
    expected[[0, 2]] = (logits[[0, 2]] / temperature).softmax(-1)
    error = (tokens.bincount(minlength=5) / n - expected).abs()
    assert (error <= 4 * (expected * (1 - expected) / n).sqrt()).all()
