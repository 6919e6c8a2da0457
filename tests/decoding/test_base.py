"""What counts as output, and which decoder a configuration builds."""

import pytest
import torch

from llmbench import decoding
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.decoding import base
from llmbench.errors import ConfigError


def test_valid_lengths_end_before_the_first_stop_token():
    tokens = torch.tensor([[5, 6, 7, 8], [5, 9, 6, 9], [3, 5, 5, 5], [5, 5, 5, 9]])
    assert base.valid_lengths(tokens, [3, 9]) == [(4, False), (1, True), (0, True), (3, True)]


def test_without_stop_tokens_everything_counts():
    assert base.valid_lengths(torch.tensor([[0, 0]]), []) == [(2, False)]


@pytest.mark.parametrize("row", [[True, False], [False, True, False], [True, False, True]])
def test_prompts_are_padded_on_the_left_alone(row):
    ids = torch.zeros(2, len(row), dtype=torch.int64)
    left = torch.tensor([[True] * len(row), [*[False] * (len(row) - 1), True]])
    assert base.PromptBatch(ids=ids, mask=left).mask is left
    with pytest.raises(ValueError, match="padded on the left"):
        base.PromptBatch(ids=ids, mask=torch.tensor([[True] * len(row), row]))


def test_seeds_beyond_64_bits_and_zero_are_seeds():
    draws = [
        base.Draws(torch.device("cpu"), seed).fill_(torch.empty(2, dtype=torch.float64)).tolist()
        for seed in (0, 1, 2**63 * 1_000_003 + 1, 0)
    ]
    assert draws[0] == draws[3]
    assert len({tuple(pair) for pair in draws}) == 3
    assert all(0 <= value < 1 for pair in draws for value in pair)


def test_the_type_of_the_settings_chooses_the_decoder():
    greedy = Autoregressive(kind="autoregressive", max_new_tokens=4, temperature=0.0)
    steps = Diffusion(kind="diffusion", steps=4, canvas=4, block_length=4, temperature=0.0)
    assert decoding.build(greedy, stop_ids=[0], pad_id=1, mask_id=None).streams
    assert not decoding.build(steps, stop_ids=[0], pad_id=1, mask_id=2).streams
    with pytest.raises(ConfigError, match="mask token"):
        decoding.build(steps, stop_ids=[0], pad_id=1, mask_id=None)
