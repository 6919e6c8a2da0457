"""The Triton kernels on a CPU, by Triton's interpreter, against their plain twins: small shapes, float32 alone.

The interpreter has no bfloat16 matrix product; tests/gpu compiles the kernels and compares both dtypes.
"""

import pytest
import torch
from decoding.test_commit import CASES, RULES, state

from llmbench.decoding import commit
from llmbench.decoding.greedy import greedy_plain
from llmbench.models import kernels

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("tests/gpu compiles the kernels here", allow_module_level=True)

from llmbench.decoding import triton_kernels as decoding_kernels
from llmbench.models import triton_attention, triton_kernels

WIDTH = 32


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tables():
    angles = torch.rand(200, WIDTH // 2) * 6
    return angles.cos(), angles.sin()


def close(a, b):
    return torch.allclose(a, b, atol=1e-5, rtol=1e-5)


def test_norm_and_gate():
    x, weight, both = torch.randn(3, 96), torch.randn(96), torch.randn(3, 2 * 80)
    assert close(triton_kernels.norm(x, weight, 0.1), kernels.norm_plain(x, weight, 0.1))
    assert close(triton_kernels.gate(both), kernels.gate_plain(both))


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (0, 2), (4, 0), (67, 2)])
@pytest.mark.parametrize(("normed", "scaled"), [(True, False), (False, True), (True, True)])
def test_prepare_heads(heads, groups, normed, scaled):
    """67: more heads than a program takes. What lies behind them stays as it is; a head need be no power of two."""
    for width in (WIDTH, 24):
        x, norms, scale = torch.randn(3, heads + groups + 2, width), torch.randn(2, width), torch.rand(3) + 1
        given = norms if normed else None, 0.1, scale if scaled else None
        found, expected = x.clone(), x.clone()
        triton_kernels.prepare_heads_(found, heads, groups, *given)
        kernels.prepare_heads_plain_(expected, heads, groups, *given)
        assert close(found, expected)
        assert torch.equal(found[:, heads + groups :], x[:, heads + groups :])


@pytest.mark.parametrize("heads", [0, 4])
def test_place_and_rotate(tables, heads):
    qkv, (keys, values) = torch.randn(6, (heads + 4) * WIDTH), torch.randn(2, 2, 2, 20, WIDTH)
    plain = qkv.clone(), keys.clone(), values.clone()
    positions = (torch.arange(3) + 11).repeat(2)
    triton_kernels.place_(qkv, keys, values, *tables, positions)
    kernels.place_plain_(*plain, *tables, positions)
    assert close(qkv[:, : heads * WIDTH], plain[0][:, : heads * WIDTH])
    assert close(keys, plain[1])
    assert torch.equal(values, plain[2])
    rotated, expected = qkv.clone(), qkv.clone()
    triton_kernels.rotate_(rotated, heads + 2, *tables, positions)
    kernels.rotate_plain_(expected, heads + 2, *tables, positions)
    assert close(rotated, expected)


@pytest.mark.parametrize("first", [None, [3, 70]], ids=["even", "padded"])
@pytest.mark.parametrize(("length", "position"), [(130, 100), (60, 59)], ids=["parts", "whole"])
def test_attend_one(tables, length, position, first):
    qkv, (keys, values) = torch.randn(2, (4 + 4) * WIDTH), torch.randn(2, 2, 2, length, WIDTH)
    padding = None if first is None else torch.tensor(first).clamp(max=position)
    plain_keys, plain_values, where = keys.clone(), values.clone(), torch.tensor([position])
    found = triton_attention.attend_one(qkv, keys, values, *tables, where, padding)
    assert close(found, kernels.attend_one_plain(qkv, plain_keys, plain_values, *tables, where, padding))
    assert close(keys, plain_keys)
    assert torch.equal(values, plain_values)


@pytest.mark.parametrize("first", [None, [3, 65]], ids=["even", "padded"])
@pytest.mark.parametrize(("length", "few"), [(70, 5), (60, 1)], ids=["parts", "whole"])
def test_attend_few(length, few, first):
    query = torch.randn(2, few, 4, WIDTH).transpose(1, 2)
    keys, values = torch.randn(2, 2, 2, length + 7, WIDTH)[:, :, :, :length]
    padding = None if first is None else torch.tensor(first).clamp(max=length - 1)
    found = triton_attention.attend_few(query, keys, values, padding)
    assert close(found, kernels.attend_few_plain(query, keys, values, padding))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("first", [None, [3, 20]], ids=["even", "padded"])
@pytest.mark.parametrize(("few", "position"), [(5, [30, 140]), (1, [63, 64]), (40, [110, 66])])
def test_attend_few_at_a_place_of_each_row(few, position, first, causal):
    """Heads share a program (5 and 1 queries) or do not (40); what lies behind the queries is as random as the rest."""
    query = torch.randn(2, few, 4, WIDTH).transpose(1, 2)
    keys, values = torch.randn(2, 2, 2, 200, WIDTH)
    padding, where = None if first is None else torch.tensor(first), torch.tensor(position)
    found = triton_attention.attend_few(query, keys, values, padding, where, causal=causal)
    assert close(found, kernels.attend_few_plain(query, keys, values, padding, where, causal=causal))


@pytest.mark.parametrize("banned", [None, 7])
@pytest.mark.parametrize("programs", [3, 2048], ids=["whole", "parts"])
def test_greedy(monkeypatch, programs, banned):
    monkeypatch.setattr(decoding_kernels, "PROGRAMS", programs)
    logits = torch.randn(3, 5000)  # three tiles a row
    logits[:, 7] = 9
    logits[0, 20] = logits[0, 900] = logits[0, 3000] = 8  # equal: the first one counts
    tokens, probability = decoding_kernels.greedy(logits, -1 if banned is None else banned)
    expected, exact = greedy_plain(logits, banned)
    assert torch.equal(tokens, expected)
    assert torch.allclose(probability, exact, atol=1e-6)


@pytest.mark.parametrize(("rows", "block", "masked", "size"), CASES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_commit(rows, block, masked, size, rule):
    expected, found = (state(rows, block, masked, size, 3) for _ in range(2))
    for _ in range(2):
        commit.commit_plain_(*expected, rule)
        decoding_kernels.commit_(*found, *commit._rule(rule))
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a, b)
