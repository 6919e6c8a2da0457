"""The Triton kernels against their plain twins, and whole generations as CUDA graphs against eager ones."""

import pytest
import tiny_models
import torch
from decoding.test_commit import CASES, RULES, state
from models.test_kinds import build
from tiny_models import MASK, PAD, STOP, VOCAB

from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.config.modes import Mode
from llmbench.decoding import rules
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import Draws, PromptBatch
from llmbench.decoding.blocks import BlockDecoder
from llmbench.decoding.commit import commit_, commit_plain_
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.decoding.drafts import DraftModel
from llmbench.decoding.greedy import greedy, greedy_plain
from llmbench.decoding.proposal import Proposal
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.models import blocks, kernels
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

DTYPES = [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)]


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


def close(a, b, tolerance):
    return (a.float() - b.float()).norm() <= tolerance * b.float().norm()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tables():
    angles = torch.rand(600, 64, device="cuda") * 6
    return angles.cos(), angles.sin()


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("channels", [96, 4096])
def test_norm(dtype, tolerance, channels):
    x, weight = random(5, channels, dtype=dtype), random(channels, dtype=dtype)
    assert close(kernels.norm(x, weight, 1e-5), kernels.norm_plain(x, weight, 1e-5), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("half", [48, 14336])
def test_gate(dtype, tolerance, half):
    both = random(3, 2 * half, dtype=dtype)
    assert close(kernels.gate(both), kernels.gate_plain(both), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("heads", "groups"), [(32, 8), (0, 8), (32, 0)])
@pytest.mark.parametrize(("normed", "scaled"), [(True, False), (False, True), (True, True)])
def test_prepare_heads(dtype, tolerance, heads, groups, normed, scaled):
    for width in (128, 80):
        x, norms = random(14, heads + groups + 8, width, dtype=dtype), random(2, width, dtype=dtype)
        given = norms if normed else None, 1e-5, torch.rand(14, device="cuda") + 1 if scaled else None
        found, expected = x.clone(), x.clone()
        kernels.prepare_heads_(found, heads, groups, *given)
        kernels.prepare_heads_plain_(expected, heads, groups, *given)
        assert close(found, expected, tolerance)
        assert torch.equal(found[:, heads + groups :], x[:, heads + groups :])


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("heads", [0, 32])
def test_place_and_rotate(dtype, tolerance, heads, tables):
    qkv, keys, values = random(14, (heads + 16) * 128, dtype=dtype), *random(2, 2, 8, 50, 128, dtype=dtype)
    plain = qkv.clone(), keys.clone(), values.clone()
    positions = (torch.arange(7, device="cuda") + 11).repeat(2)
    kernels.place_(qkv, keys, values, *tables, positions)
    kernels.place_plain_(*plain, *tables, positions)
    assert close(qkv[:, : heads * 128], plain[0][:, : heads * 128], tolerance)
    assert close(keys, plain[1], tolerance)
    assert torch.equal(values, plain[2])


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("batch", "groups", "heads", "length", "few"),
    [(1, 8, 32, 392, 8), (8, 8, 32, 392, 16), (3, 32, 32, 130, 15), (2, 8, 32, 392, 32), (33, 8, 32, 392, 1)],
)
def test_attend_few_at_a_place_of_each_row(dtype, tolerance, causal, padded, batch, groups, heads, length, few):
    query = random(batch, few, heads, 128, dtype=dtype).transpose(1, 2)
    keys, values = random(2, batch, groups, length, 128, dtype=dtype)
    position = torch.randint(20, length - few + 1, (batch,), device="cuda")
    first = torch.randint(0, 20, (batch,), device="cuda") if padded else None
    found = kernels.attend_few(query, keys, values, first, position, causal=causal)
    assert close(found, kernels.attend_few_plain(query, keys, values, first, position, causal=causal), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("batch", "groups", "heads", "length", "position"),
    [(1, 8, 32, 384, 300), (8, 8, 32, 384, 255), (32, 8, 32, 384, 383), (2, 32, 32, 130, 64), (1, 8, 32, 384, 0)],
)
def test_attend_one(dtype, tolerance, padded, batch, groups, heads, length, position, tables):
    qkv, (keys, values) = (
        random(batch, (heads + 2 * groups) * 128, dtype=dtype),
        random(2, batch, groups, length, 128, dtype=dtype),
    )
    first = torch.randint(0, position + 1, (batch,), device="cuda") if padded else None
    where = torch.tensor([position], device="cuda")
    plain_keys, plain_values = keys.clone(), values.clone()
    found = kernels.attend_one(qkv, keys, values, *tables, where, first)
    expected = kernels.attend_one_plain(qkv, plain_keys, plain_values, *tables, where, first)
    assert close(found, expected, tolerance)
    assert close(keys, plain_keys, tolerance)
    assert torch.equal(values, plain_values)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("batch", "heads", "groups", "few", "length"),
    [(1, 32, 32, 32, 384), (8, 32, 32, 32, 384), (2, 32, 8, 1, 128), (3, 4, 2, 64, 70), (40, 32, 32, 5, 200)],
)
def test_attend_few(dtype, tolerance, padded, batch, heads, groups, few, length):
    query = random(batch, few, heads, 128, dtype=dtype).transpose(1, 2)
    keys, values = random(2, batch, groups, length + 7, 128, dtype=dtype)[:, :, :, :length]
    first = torch.randint(0, length, (batch,), device="cuda") if padded else None
    found = kernels.attend_few(query, keys, values, first)
    assert close(found, kernels.attend_few_plain(query, keys, values, first), tolerance)


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 128256), (32, 126464), (700, 1000)])
@pytest.mark.parametrize("banned", [None, 7])
def test_greedy(rows, vocabulary, banned):
    logits = random(rows, vocabulary)
    logits[:, 7] = 9
    logits[0, 20] = logits[0, 900] = 8
    tokens, probability = greedy(logits, banned)
    expected, exact = greedy_plain(logits, banned)
    assert torch.equal(tokens, expected)
    assert torch.allclose(probability, exact, atol=1e-6)


@pytest.mark.parametrize(("rows", "block", "masked", "size"), [*CASES, (5, 128, [128, 100, 64, 1, 0], 128)])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_commit(rows, block, masked, size, rule):
    expected, found = (state(rows, block, masked, size, 3, "cuda") for _ in range(2))
    for _ in range(3):
        commit_plain_(*expected, rule)
        commit_(*found, rule)
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("width", [16, 80])
def test_heads_that_no_tile_fits_run_in_pytorch(width):
    qkv, (keys, values) = random(2, 4 * width), random(2, 2, 1, 20, width)
    table = torch.rand(20, width // 2, device="cuda")
    where = torch.tensor([7], device="cuda")
    found = kernels.attend_one(qkv, keys, values, table, table, where, None)
    assert torch.equal(found, kernels.attend_one_plain(qkv, keys, values, table, table, where, None))


NARROW = [(8, [9, 9, 9]), (8, [9, 2, 5])]
"""Head widths that the attention kernels leave to PyTorch, and prompts without and with padding."""

WIDE = [(64, [70, 70, 70]), (64, [70, 11, 40]), (128, [67, 70, 1])]
"""Widths that they compute, and more keys than one of their programs looks at: parts are merged."""


@pytest.mark.parametrize(("temperature", "wide"), [(0.0, rules.WIDE), (0.8, rules.WIDE), (0.8, 1)])
@pytest.mark.parametrize(("head_dim", "lengths"), [*NARROW, *WIDE])
def test_captured_autoregressive_tokens_are_the_eager_ones(monkeypatch, temperature, wide, head_dim, lengths):
    monkeypatch.setattr(rules, "WIDE", wide)  # 1: every row is drawn for by itself
    model = tiny_models.model(causal=True, head_dim=head_dim).to("cuda")
    ids, mask = tiny_models.prompts(lengths)
    batch = PromptBatch(ids=ids.cuda(), mask=None if mask is None else mask.cuda())
    settings = Autoregressive(kind="autoregressive", max_new_tokens=24, temperature=temperature)
    decoder = AutoregressiveDecoder(settings, stop_ids=(STOP, 5), pad_id=PAD)
    engine = FusedEngine(model)
    expected = decoder.generate(EagerEngine(model), batch, seed=3, on_step=None).tokens
    for _ in range(2):  # the second is a replay alone
        assert decoder.generate(engine, batch, seed=3, on_step=None).tokens.tolist() == expected.tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("head_dim", "lengths"), [NARROW[1], *WIDE[:2]])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block_length": 32},
        {"cache": "prefix"},
        {"cache": "dual"},
        {"cache": "dual", "threshold": 0.5},
        {"factor": 1.0},
        {"cfg_scale": 1.0},
        {"cfg_scale": 1.0, "cache": "dual"},
        {"remasking": "random"},
        {"cache": "prefix", "threshold": 0.5},
        {"cache": "prefix", "factor": 1.0},
        {"cache": "dual", "factor": 1.0},
        {"cache": "dual", "early_stop": True},
        {"cache": "dual", "fixed_tokens_per_forward": 3},
        {"steps": 64},
        {"late_eos": True},
        {"suppress_eos": True, "cache": "prefix"},
        {"remasking": "topk_margin", "remasking_temperature": 0.1, "top_p": 0.8},
        {"remasking": "origin", "tokens_per_step": "timesteps"},
        {"remasking": "entropy", "tokens_per_step": "timesteps", "confidence": "sampling", "top_p": 0.8, "top_k": 9},
        {"remasking": "origin", "tokens_per_step": "timesteps", "confidence": "sampling", "cache": "dual"},
    ],
    ids=str,
)
def test_captured_diffusion_tokens_are_the_eager_ones(temperature, head_dim, lengths, changes):
    model = tiny_models.model(causal=False, head_dim=head_dim).to("cuda")
    ids, mask = tiny_models.prompts(lengths)
    batch = PromptBatch(ids=ids.cuda(), mask=None if mask is None else mask.cuda())
    base = {"kind": "diffusion", "steps": 16, "canvas": 32, "block_length": 16, "temperature": temperature}
    decoder = DiffusionDecoder(Diffusion(**(base | changes)), stop_ids=(STOP,), mask_id=MASK)
    engine = FusedEngine(model)
    expected = decoder.generate(EagerEngine(model), batch, seed=3, on_step=None).tokens
    for _ in range(2):
        assert decoder.generate(engine, batch, seed=3, on_step=None).tokens.tolist() == expected.tolist()


@pytest.mark.parametrize("remasking", ["low_confidence", "topk_margin", "entropy"])
def test_confidences_of_a_filtered_distribution_are_those_of_the_cpu(remasking):
    logits = torch.randn(40, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    settings = Diffusion(confidence="sampling", temperature=0.0, top_p=0.8, top_k=5, remasking=remasking)
    found = []
    for device in ("cpu", "cuda"):
        engine = EagerEngine(tiny_models.model(causal=False).to(device))
        made = Proposal(settings, (), MASK, Draws(torch.device(device)), engine)
        found.append([part.cpu() for part in made.of_logits(logits.to(device, copy=True))])
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize(("head_dim", "lengths"), [NARROW[1], *WIDE[:2]])
@pytest.mark.parametrize("draft", ["lookup", "model", "llada", "self"])
def test_captured_drafts_write_the_plain_text(head_dim, lengths, draft):
    """In steps of two forwards of a diffusion draft; in float32, so that sums of other shapes choose the same token."""
    model = tiny_models.model(head_dim=head_dim).to("cuda")
    ids, mask = tiny_models.prompts(lengths)
    batch = PromptBatch(ids=ids.cuda(), mask=None if mask is None else mask.cuda())
    base = {"max_new_tokens": 40, "temperature": 0.0}
    plain = AutoregressiveDecoder(Autoregressive(**base), stop_ids=(STOP, 5), pad_id=PAD)
    expected = plain.generate(EagerEngine(model), batch, seed=0, on_step=None).tokens.tolist()
    drafting = None
    if draft == "self":
        mode = Mode(attention="causal_context", block_length=8)
        drafting = DraftModel(
            engine=FusedEngine(model, mode), vocabulary=VOCAB, verified_vocabulary=VOCAB, mask_id=MASK
        )
    elif draft != "lookup":
        other = tiny_models.model(head_dim=head_dim, causal=draft == "model", seed=7).to("cuda")
        drafting = DraftModel(engine=FusedEngine(other), vocabulary=VOCAB, verified_vocabulary=VOCAB, mask_id=MASK)
    settings = Autoregressive(**base, draft=draft, draft_checkpoint="somewhere", draft_tokens=6, draft_steps=2)
    decoder = SpeculativeDecoder(settings, stop_ids=(STOP, 5), pad_id=PAD, model=drafting)
    engine = FusedEngine(model)
    for _ in range(2):
        found = decoder.generate(engine, batch, seed=0, on_step=None).tokens.tolist()
        assert [row[: len(expected[0])] for row in found] == [row[: len(found[0])] for row in expected]


@pytest.mark.parametrize(("head_dim", "lengths"), [NARROW[1], *WIDE[:2]])
@pytest.mark.parametrize("changes", [{}, {"threshold": 0.3, "steps": 16}, {"steps": 8}], ids=str)
@pytest.mark.parametrize(
    "mode",
    [
        Mode(attention="causal_context", block_length=16, seeded=True, minimum="remaining", mask_in_softmax=False),
        Mode(attention="block_causal", block_length=16, sub_block_length=8, logit_shift=1),
        Mode(attention="block_causal", block_length=16, blocks_from="prompt_end"),
    ],
    ids=lambda mode: mode.attention,
)
def test_captured_blocks_are_those_of_a_cpu(head_dim, lengths, changes, mode):
    """No eager engine writes in blocks; the same loop on a CPU is compared with a plain one in tests/decoding."""
    model = tiny_models.model(head_dim=head_dim)
    ids, mask = tiny_models.prompts(lengths)
    settings = Diffusion(**({"canvas": 32, "steps": 32, "block_length": 16, "temperature": 0.0} | changes))
    decoder = BlockDecoder(settings, mode, stop_ids=(STOP,), mask_id=MASK, pad_id=PAD)
    expected = decoder.generate(FusedEngine(model, mode), PromptBatch(ids=ids, mask=mask), seed=0, on_step=None)
    engine = FusedEngine(model.to("cuda"), mode)
    batch = PromptBatch(ids=ids.cuda(), mask=None if mask is None else mask.cuda())
    for _ in range(2):
        found = decoder.generate(engine, batch, seed=0, on_step=None)
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.forwards == expected.forwards


@pytest.mark.parametrize("lengths", [[70, 70, 70], [70, 11, 40]])
@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("kind", sorted({*blocks.FUSED} - {"llama"}))
def test_captured_tokens_of_every_kind_are_the_eager_ones(kind, head_dim, lengths):
    """Both families; Ministral3's queries are scaled from the fourth position on."""
    changes = {"head_dim": head_dim, "max_position_embeddings": 256}
    ids, mask = tiny_models.prompts(lengths)
    batch = PromptBatch(ids=ids.cuda(), mask=None if mask is None else mask.cuda())
    settings = Diffusion(steps=16, canvas=32, block_length=16, cache="dual", temperature=0.0)
    for model, decoder in (
        (
            build(kind, **changes),
            AutoregressiveDecoder(Autoregressive(max_new_tokens=24, temperature=0.0), stop_ids=(STOP,), pad_id=PAD),
        ),
        (
            build(kind, is_causal=False, mask_token_id=MASK, **changes),
            DiffusionDecoder(settings, stop_ids=(STOP,), mask_id=MASK),
        ),
    ):
        model.to("cuda")
        engine = FusedEngine(model)
        expected = decoder.generate(EagerEngine(model), batch, seed=3, on_step=None).tokens
        for _ in range(2):
            assert decoder.generate(engine, batch, seed=3, on_step=None).tokens.tolist() == expected.tolist()


def test_closing_an_engine_gives_its_memory_back():
    model = tiny_models.model(causal=True, vocab=1000).to("cuda")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    engine = FusedEngine(model)
    settings = Autoregressive(kind="autoregressive", max_new_tokens=100, temperature=0.0)
    decoder = AutoregressiveDecoder(settings, stop_ids=(), pad_id=PAD)
    ids, _ = tiny_models.prompts([9] * 64)
    decoder.generate(engine, PromptBatch(ids=ids.cuda(), mask=None), seed=0, on_step=None)
    assert torch.cuda.memory_reserved() > before
    engine.close()
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + 2**21
