"""FLOPs and bytes, worked by hand."""

from dataclasses import replace

import pytest
import tiny_models
import torch

from llmbench.models import architecture, llama
from llmbench.models.architecture import Architecture
from llmbench.record import ForwardShape

# query and output 16 + 16, key and value 8 + 8, feed-forward 3 x 24, norms 8: a block has 128 parameters
SMALL = Architecture(
    layers=2, hidden=4, heads=2, kv_heads=1, head_dim=2, ffn=6, vocab=10, tied=False, causal=True, bytes_per_element=2
)
KV = 16
BOTH_WAYS = replace(SMALL, causal=False)
DECODE = ForwardShape(rows=3, queries=1, keys=5, logits=1)
PREFILL = ForwardShape(rows=1, queries=3, keys=3, logits=1)
DENOISE = ForwardShape(rows=1, queries=3, keys=3, logits=2)


def test_parameters():
    assert SMALL.block_parameters == 128
    assert SMALL.parameters == 2 * 40 + 2 * 128 + 4
    assert replace(SMALL, tied=True).parameters == 40 + 2 * 128 + 4


@pytest.mark.parametrize(
    ("shapes", "parameters", "kv_bytes"),
    [
        # Published sizes of the two 8B models (their safetensors indices).
        (dict(kv_heads=8, ffn=14336, vocab=128256, causal=True), 8_030_261_248, 131_072),
        (dict(kv_heads=32, ffn=12288, vocab=126464, causal=False), 8_015_581_184, 0),
    ],
)
def test_parameters_of_the_real_pair(shapes, parameters, kv_bytes):
    real = Architecture(layers=32, hidden=4096, heads=32, head_dim=128, tied=False, bytes_per_element=2, **shapes)
    assert real.parameters == parameters
    assert real.kv_bytes_per_token == kv_bytes


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        # 2 layers x 120 weights in matrices; scores and sums 2 x 5 pairs x 2 layers x 4; head 40; 3 rows, 2 FLOPs each
        (SMALL, DECODE, 2 * 3 * (240 + 80 + 40)),
        # first layer: a causal triangle of 6 pairs; last one: keys and values (KV weights) thrice, the rest once
        (SMALL, PREFILL, 2 * (3 * (120 + KV) + (120 - KV) + 2 * (6 + 3) * 4 + 40)),
        # first layer: a square of 9 pairs; last one and head at two positions
        (BOTH_WAYS, DENOISE, 2 * (3 * (120 + KV) + 2 * (120 - KV) + 2 * (9 + 6) * 4 + 2 * 40)),
        (BOTH_WAYS, replace(DENOISE, logits=0), 2 * (3 * (120 + KV) + 2 * 9 * 4)),
        # one of three positions is padding: two queries, two keys, four pairs
        (BOTH_WAYS, replace(DENOISE, padding=1), 2 * (2 * (120 + KV) + 2 * (120 - KV) + 2 * (4 + 4) * 4 + 2 * 40)),
        # of 3 rows x 5 keys three are padding: 4 keys a row; the new token is none
        (SMALL, replace(DECODE, padding=3), 2 * 3 * (240 + 64 + 40)),
    ],
)
def test_flops(model, shape, expected):
    assert architecture.flops(model, shape) == expected


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        # blocks and last norm 260, head 40, three looked-up rows of 4; cache: 3 rows x 5 tokens x 16 bytes
        (SMALL, DECODE, 2 * (260 + 40 + 12) + 3 * 5 * 16),
        (SMALL, replace(DECODE, padding=3), 2 * (260 + 40 + 12) + 3 * 4 * 16),
        # the tied table is read by the head; its rows come with it
        (replace(SMALL, tied=True), DECODE, 2 * (260 + 40) + 3 * 5 * 16),
        # prefill writes three tokens and reads none
        (SMALL, PREFILL, 2 * (260 + 40 + 12) + 3 * 16),
        # no cache, and no head where no logits are asked for
        (BOTH_WAYS, DENOISE, 2 * (260 + 40 + 12)),
        (BOTH_WAYS, replace(DENOISE, logits=0), 2 * (260 + 12)),
        # three of seven positions anew: the other four are read from a cache, the three written
        (BOTH_WAYS, replace(DENOISE, keys=7), 2 * (260 + 40 + 12) + 7 * 16),
        # 5 x 3 look-ups cannot touch more than the 10 rows there are
        (BOTH_WAYS, replace(DENOISE, rows=5), 2 * (260 + 40 + 40)),
    ],
)
def test_bytes_moved(model, shape, expected):
    assert architecture.bytes_moved(model, shape) == expected


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_configuration_gives_the_shapes_of_the_model(causal, tied):
    config = tiny_models.config(causal=causal, tied=tied)
    model = llama.dummy(config, torch.float32, "cpu")
    read = architecture.from_config(config, 4)
    assert read.parameters == sum(weight.numel() for weight in model.parameters())
    assert read.causal is causal


def test_a_quantized_matrix_moves_the_bytes_that_it_is_stored_in():
    """4 bits and a float32 scale per 64; norms, head, looked-up rows and cache stay 2 bytes wide."""
    from llmbench.models.architecture import Architecture, bytes_moved
    from llmbench.record import ForwardShape

    sizes = dict(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=192, vocab=40, tied=False, causal=True)
    shape = ForwardShape(rows=1, queries=1, keys=5, logits=1)
    matrices = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192)
    wide = bytes_moved(Architecture(**sizes, bytes_per_element=2), shape)
    narrow = bytes_moved(Architecture(**sizes, bytes_per_element=2, matrix_bytes=0.5625), shape)
    assert wide - narrow == matrices * (2 - 0.5625)
