"""Weights come in pieces: the right bytes, in any dtype, and hardly more memory than they take."""

import os
import subprocess
import sys
import textwrap

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
    streaming.fill((made[name], found[name]) for name in tensors)
    for name, value in tensors.items():
        assert torch.equal(made[name], value.to(wanted))


def test_a_file_that_shrinks_meanwhile(tmp_path):
    found = store(tmp_path / "x.safetensors", a=torch.ones(100))
    path = tmp_path / "x.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OSError, match=r"x.safetensors ended early"):
        streaming.fill([(torch.empty(100), found["a"])])


CHILD = """
import json, sys, threading, time
import torch
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.job import HardwareConfig
from llmbench.models import streaming

torch.set_num_threads(1)
folder, dtype = sys.argv[1:]
hardware = HardwareConfig(device="cpu", dtype=dtype, engine="eager")
load_checkpoint(resolve_checkpoint("bundled:llama"), hardware, "real")  # whatever loading imports, before the count
files = resolve_checkpoint(folder)
peak, ended = 0, False

def resident():  # without mapped files: the system takes pages of libraries back, and brings them again, as it likes
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024

def watch():
    global peak
    while not ended:
        peak = max(peak, resident())
        time.sleep(0.001)

before = resident()
watcher = threading.Thread(target=watch)
watcher.start()
loaded = load_checkpoint(files, hardware, "real")
ended = True
watcher.join()
peak = max(peak, resident())
print(json.dumps({"grown": peak - before, "weights": loaded.weight_bytes}))
"""


@pytest.mark.parametrize(("dtype", "buffers"), [("bfloat16", 0), ("float32", 8 * 4 * 2**20)])
def test_loading_takes_the_memory_of_the_weights_and_a_few_pieces(tmp_path, dtype, buffers):
    """A second copy of the weights, as a whole or of the file, would be 140 MB and more."""
    import json

    import tiny_models
    from tiny_models import write_tokenizer

    from llmbench.models import llama

    config = tiny_models.config(vocab=2**15)
    config.hidden_size, config.intermediate_size, config.head_dim = 1024, 1024, 256
    model = llama.dummy(config, torch.bfloat16, "cpu")
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size > 140e6
    child = f"from llmbench.models import streaming; streaming.PIECE = 2**20\n{textwrap.dedent(CHILD)}"
    done = subprocess.run(
        [sys.executable, "-c", child, str(tmp_path), dtype], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["weights"] == pytest.approx(size * (2 if dtype == "float32" else 1), rel=0.01)
    assert told["grown"] - told["weights"] < buffers + 30e6
