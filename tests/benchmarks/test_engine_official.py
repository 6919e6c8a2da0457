"""Our decoder and an independent, plain version of the official loop write the same tokens."""

import pytest
import tiny_models
import torch
from tiny_models import MASK, STOP
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.engine import official
from benchmarks.engine.official_model import OfficialModel
from llmbench.config.decoders import Diffusion
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


NORM = "_to_copy pow mean add rsqrt mul _to_copy mul"
LINEAR = "t view mm _unsafe_view"
ROTATED = "_to_copy _to_copy slice slice alias alias" + 2 * " mul view unbind neg cat mul add" + " _to_copy _to_copy"
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu transpose view"
BLOCK = [
    *[NORM, LINEAR, LINEAR, LINEAR, *3 * ["view transpose"], ROTATED, ATTENTION, LINEAR, "add"],
    *[NORM, LINEAR, LINEAR, "silu", "mul", LINEAR, "add"],
]


def test_the_authors_modules_do_their_operations_one_by_one():
    """Every launch costs the host time, so an operation more or less would be another baseline."""
    model = tiny_models.model(causal=False, kv_heads=4).bfloat16()
    authors = OfficialModel(model)
    ids, _ = tiny_models.prompts([7])
    with torch.no_grad():
        authors(ids)  # tables are made once
        with _Operations() as found:
            authors(ids)
    assert " ".join(found.names).split() == " ".join(["embedding", *2 * BLOCK, NORM, LINEAR]).split()


def test_the_loop_runs_under_no_grad_even_within_inference_mode():
    model = tiny_models.model(causal=False)
    ids, _ = tiny_models.prompts([4])
    modes = []

    def watched(x):
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return model(x)

    with torch.inference_mode():
        official.generate(watched, ids, steps=2, canvas=4, block_length=4, mask_id=MASK)
    assert modes == [(False, False), (False, False)]


class _Operations(TorchDispatchMode):
    """The names of the operations that reach a device, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))
