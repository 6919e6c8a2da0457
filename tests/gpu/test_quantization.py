"""Quantized weights on a GPU: those of the CPU, from the same files, in little more memory than they take."""

import pytest
import tiny_models
import torch

from llmbench.models import llama, quantization, weights

pytest.importorskip("bitsandbytes")

STEPS = {"int8": 127, "nf4": 3}
"""Steps from nothing to the largest value of a block; nf4's longest is 0.304 of it."""


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_stream_in_and_are_narrow(tmp_path, kind, causal):
    values = tiny_models.config(kv_heads=4, causal=causal)
    values.hidden_size, values.intermediate_size, values.head_dim, values.num_hidden_layers = 512, 2048, 128, 16
    stored = llama.dummy(values, torch.bfloat16, "cpu")
    stored.save_pretrained(tmp_path)
    found = weights.locate(weights.find(tmp_path, "x"), llama.shapes(values), "x")
    llama.load(values, found, torch.bfloat16, "cuda", kind)  # libraries and kernels are loaded
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = llama.load(values, found, torch.bfloat16, "cuda", kind)
    narrow = sum(weight.nbytes for weight in model.parameters())
    block = 2 * sum(weight.numel() for weight in stored.model.layers[0].parameters())
    assert torch.cuda.max_memory_allocated() - before < narrow + 3 * block + 2**20
    twin = llama.load(values, found, torch.bfloat16, "cpu", kind)
    for name, module in model.named_modules():
        if isinstance(module, quantization.QuantizedLinear):
            here, there = module.dequantized().float().cpu(), twin.get_submodule(name).dequantized().float()
            # the middle of two values may go to either, and int8 has two values for nothing: 0 and some 1e-8
            step = twin.get_submodule(name).scales.repeat_interleave(quantization.BLOCK).view_as(there) / STEPS[kind]
            apart = (here - there).abs()
            assert (apart <= step + 2**-7 * there.abs()).all()
            assert (apart > 0.1 * step).float().mean() < 1e-2
            assert (here - there).norm() < 1e-2 * there.norm()
            for rows in (1, 4, 300):
                x = torch.randn(rows, here.shape[1], device="cuda", dtype=torch.bfloat16)
                with torch.inference_mode():
                    exact = x.float() @ module.dequantized().float().T
                    assert (module(x).float() - exact).norm() < 1e-2 * exact.norm()
    assert model.model.embed_tokens.weight.device.type == "cuda"
