"""Our decoder and an independent, plain version of the official loop write the same tokens."""

import pytest
import tiny_models
import torch
from tiny_models import MASK, STOP

from llmbench.bench import official
from llmbench.bench.official_model import OfficialModel
from llmbench.decoder_config import Diffusion
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine


@pytest.mark.parametrize("engine", [EagerEngine, FusedEngine])
@pytest.mark.parametrize(("steps", "block"), [(16, 16), (5, 16), (8, 4), (6, 8), (16, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_tokens_are_those_of_the_official_loop(engine, steps, block, seed):
    model = tiny_models.model(causal=False, seed=seed)
    ids, _ = tiny_models.prompts([6, 6, 6], seed=seed)
    expected = official.generate(model, ids, steps=steps, canvas=16, block_length=block, mask_id=MASK)
    settings = Diffusion(kind="diffusion", steps=steps, canvas=16, block_length=block, temperature=0.0)
    decoder = DiffusionDecoder(settings, stop_ids=(STOP,), mask_id=MASK)
    found = decoder.generate(engine(model), PromptBatch(ids=ids, mask=None), seed=0, on_step=None)
    assert found.tokens.tolist() == expected.tolist()


def test_it_stops_early_when_it_is_only_timed():
    model = tiny_models.model(causal=False)
    ids, _ = tiny_models.prompts([4])
    marks = []
    canvas = official.generate(
        model, ids, steps=8, canvas=8, block_length=8, mask_id=MASK, most_steps=3, on_step=marks.append
    )
    assert marks == [0, 1, 2]
    assert (canvas == MASK).sum() == 5
    assert torch.equal(ids[:, :4], ids)


def test_the_authors_modules_compute_what_ours_do():
    model = tiny_models.model(causal=False)
    ids, _ = tiny_models.prompts([7, 7])
    with torch.inference_mode():
        found, expected = OfficialModel(model)(ids).logits, model(ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
