"""Both engines on the bundled models in float32, as a CPU runs them: the same tokens, with the same noise."""

import pytest
import torch

from llmbench import decoding
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.config.job import HardwareConfig

TEXTS = ["The ship left the harbour", "Once", "In the early morning the wind was cold over the water and", "She said"]
CPU = HardwareConfig(device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=["llama", "llada"])
def checkpoint(request):
    return load_checkpoint(resolve_checkpoint(f"bundled:{request.param}"), CPU, "real")


@pytest.mark.parametrize("temperature", [0, 0.7])
@pytest.mark.parametrize("rows", [1, 4])
def test_both_engines_write_the_same(checkpoint, rows, temperature):
    kind = (
        Diffusion(canvas=24, steps=6, block_length=12, cache="dual", temperature=temperature)
        if checkpoint.mask_id is not None
        else Autoregressive(max_new_tokens=24, temperature=temperature)
    )
    decoder = decoding.build(kind, stop_ids=checkpoint.stop_ids, pad_id=checkpoint.pad_id, mask_id=checkpoint.mask_id)
    batch = checkpoint.to_device(checkpoint.tokenize(TEXTS[:rows]))
    assert (batch.mask is not None) == (rows > 1)
    made = [
        decoder.generate(checkpoint.engine(engine), batch, seed=2, on_step=None).tokens for engine in ("eager", "fused")
    ]
    assert torch.equal(*made)
