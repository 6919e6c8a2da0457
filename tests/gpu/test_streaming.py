"""Weights go to the GPU as they lie in the file: read by several threads, through pinned memory."""

import pytest
import torch

from llmbench.models import streaming, weights


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_every_element_arrives_once(tmp_path, monkeypatch, stored, wanted):
    from safetensors.torch import save_file

    monkeypatch.setattr(streaming, "PIECE", 2**16)
    tensors = {f"weight{i}": torch.randn(513, 1001).to(stored) for i in range(20)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = weights.header(tmp_path / "x.safetensors", "x")
    made = {name: torch.full(value.shape, float("nan"), dtype=wanted, device="cuda") for name, value in tensors.items()}
    with streaming.Reader() as reader:
        reader.fill((made[name], found[name]) for name in tensors)
    for name, value in tensors.items():
        assert torch.equal(made[name].cpu(), value.to(wanted))
