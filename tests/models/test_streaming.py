"""Weights come in pieces: the right bytes, in any dtype, and hardly more memory than they take."""

import pytest
import torch

from llmbench.models import streaming, weights


def store(path, **tensors):
    from safetensors.torch import save_file

    save_file(tensors, path)
    return weights.header(path, "x")


@pytest.mark.parametrize("piece", [1, 7, 64, 2**24])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_every_element_arrives_once(tmp_path, monkeypatch, piece, stored, wanted):
    monkeypatch.setattr(streaming, "PIECE", piece)
    tensors = {"a": torch.randn(5, 13).to(stored), "b": torch.randn(3).to(stored), "c": torch.zeros(0, 4).to(stored)}
    found = store(tmp_path / "x.safetensors", **tensors)
    made = {name: torch.full(value.shape, float("nan"), dtype=wanted) for name, value in tensors.items()}
    with streaming.Reader() as reader:
        reader.fill((made[name], found[name]) for name in tensors)
    for name, value in tensors.items():
        assert torch.equal(made[name], value.to(wanted))


def test_a_file_that_shrinks_meanwhile(tmp_path):
    found = store(tmp_path / "x.safetensors", a=torch.ones(100))
    path = tmp_path / "x.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OSError, match=r"x.safetensors ended early"), streaming.Reader() as reader:
        reader.fill([(torch.empty(100), found["a"])])
