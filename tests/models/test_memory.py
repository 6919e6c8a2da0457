"""How much memory loading a checkpoint takes, measured in processes of its own."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import tiny_models
import torch

from llmbench.models import llama

CHILD = """
import ctypes, gc, json, sys, threading, time
import torch
from llmbench.checkpoints import load
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.job import HardwareConfig
from llmbench.models import streaming

folder, dtype, kind = json.loads(sys.argv[1])
streaming.PIECE = 2**18
torch.set_num_threads(1)


def resident():  # without mapped files: the system takes pages of libraries back, and brings them again, as it likes
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def watch():
    global peak
    while not ended:
        peak = max(peak, resident())
        time.sleep(0.001)


def forget():
    load._loaded = None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def read(files, dtype, kind):
    hardware = HardwareConfig(device="cpu", dtype=dtype, engine="eager", quantization=kind)
    return load.load_checkpoint(files, hardware, "real").weight_bytes


def measure(folder, dtype, kind):
    global peak, ended
    files = resolve_checkpoint(folder)
    forget()
    peak, ended, before = 0, False, resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    weights = read(files, dtype, kind)
    ended = True
    watcher.join()
    print(json.dumps({"grown": max(peak, resident()) - before, "weights": weights}), flush=True)


read(resolve_checkpoint("bundled:llama"), "float32", kind)  # libraries and code are read before the count begins
forget()
gc.freeze()
measure(folder, dtype, kind)
"""

BUFFERS = 8 * 4 * 2**18
"""Bytes of the readers' buffers: 8 threads, pieces of 2**18 elements, 4 bytes of the widest type."""

KINDS = ["int8", "nf4"] if importlib.util.find_spec("bitsandbytes") else []


def stored(folder, values):
    """A checkpoint in bfloat16; its model."""
    model = llama.dummy(values, torch.bfloat16, "cpu")
    model.save_pretrained(folder)
    tiny_models.write_tokenizer(folder)
    return model


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Bytes of the weights, and by how many the process grew: by file, dtype and quantization."""
    tables, blocks = (tmp_path_factory.mktemp(name) for name in ("tables", "blocks"))
    values = tiny_models.config(vocab=2**14)
    values.hidden_size, values.intermediate_size, values.head_dim = 1024, 1024, 256
    stored(tables, values)
    values = tiny_models.config(kv_heads=4)
    values.hidden_size, values.intermediate_size, values.head_dim, values.num_hidden_layers = 512, 2048, 128, 16
    block = 4 * sum(weight.numel() for weight in stored(blocks, values).model.layers[0].parameters())
    cases = [(str(tables), "bfloat16", None), (str(tables), "float32", None)]
    cases += [(str(blocks), "float32", kind) for kind in KINDS]
    told = {}
    for name, case in zip(["bfloat16", "float32", *KINDS], cases, strict=True):
        # a process each: what one leaves in malloc's heap would change the next, and a fork with threads may hang
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(case)], capture_output=True, text=True, timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told[name] = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in tables.glob("*.safetensors"))
    return size, block, told


@pytest.mark.parametrize(("dtype", "wider", "buffers"), [("bfloat16", 1, 0), ("float32", 2, BUFFERS)])
def test_loading_takes_the_memory_of_the_weights_and_a_few_pieces(measured, dtype, wider, buffers):
    """A second copy of the weights, as a whole or of the file, would be 90 MB and more."""
    size, _, told = measured
    assert size > 90e6
    assert told[dtype]["weights"] == pytest.approx(size * wider, rel=0.01)
    assert told[dtype]["grown"] - told[dtype]["weights"] < buffers + 30e6


@pytest.mark.parametrize("kind", KINDS)
def test_quantizing_takes_the_memory_of_the_narrow_weights_and_of_one_wide_block(measured, kind):
    """Sixteen blocks of 4.2 million weights: 268 MB in float32, of which 17 MB may be there at once."""
    _, block, told = measured
    weights, grown, whole = told[kind]["weights"], told[kind]["grown"], 16 * block
    assert whole > 260e6
    assert weights < whole * (0.29 if kind == "int8" else 0.16)
    assert grown < whole / 1.9  # on a busy machine the allocator has kept 23 MB more than blocks, buffers and slack
