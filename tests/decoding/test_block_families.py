"""Tiny checkpoints in the hub's own layout, decoded as their authors do: token by token as the plain decoders."""

import functools

import block_references as plain
import hub_checkpoints as hub
import pytest
import torch

from llmbench import decoding
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.config.job import HardwareConfig
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.drafts import DraftModel

CPU = HardwareConfig(device="cpu", dtype="float32")
LENGTHS = {"inside a block": [37], "at its end": [64], "padded": [5, 37, 32]}
sdar = functools.partial(plain.sdar, canvas=16, block=4, mask_id=hub.MASK)
bd3lm = functools.partial(plain.bd3lm, canvas=64, block=32, mask_id=hub.MASK)
fast_dllm = functools.partial(plain.fast_dllm, canvas=64, block=32, part=8, mask_id=hub.MASK)
nemotron = functools.partial(plain.nemotron, canvas=64, block=32, mask_id=hub.MASK)
CASES = {  # checkpoint, options, and the plain decoder that they mean
    "sdar, static": ("sdar", {"canvas": 16, "steps": 8}, functools.partial(sdar, steps=2)),
    "sdar, dynamic": ("sdar", {"canvas": 16, "steps": 16, "threshold": 0.2},
                      functools.partial(sdar, steps=4, threshold=0.2)),
    "bd3lm": ("a2d-qwen3", {"canvas": 64, "steps": 24}, functools.partial(bd3lm, steps=12)),
    "fast-dllm": ("fast_dllm_qwen", {"canvas": 64, "steps": 64, "threshold": 0.1},
                  functools.partial(fast_dllm, threshold=0.1)),
    "nemotron, threshold": ("nemotron_labs_diffusion", {"canvas": 64, "steps": 64, "threshold": 0.1},
                            functools.partial(nemotron, threshold=0.1)),
    "nemotron, k": ("nemotron_labs_diffusion", {"canvas": 64, "steps": 10}, functools.partial(nemotron, steps=5)),
}  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Of each kind: the loaded checkpoint, and the plain model's logits."""
    root, made = tmp_path_factory.mktemp("hub"), {}
    for kind in {kind for kind, _, _ in CASES.values()}:
        model = hub.write(root / kind, kind)
        made[kind] = load_checkpoint(resolve_checkpoint(str(root / kind)), CPU, "real"), model.logits
    return made


def prompts(lengths):
    """Random prompts: as rows, and left-padded."""
    generator, width = torch.Generator().manual_seed(3), max(lengths)
    rows = [torch.randint(0, hub.MASK, (n,), generator=generator).tolist() for n in lengths]
    ids = torch.tensor([[hub.PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[i >= width - n for i in range(width)] for n in lengths])
    return rows, PromptBatch(ids=ids, mask=None if mask.all() else mask, padding=int((~mask).sum()))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_tokens_and_forwards_are_those_of_the_plain_decoder(stored, case, lengths):
    kind, options, decode = CASES[case]
    checkpoint, logits = stored[kind]
    mode = checkpoint.files.mode("diffusion")
    settings = Diffusion(temperature=0.0, block_length=mode.block_length, **options)
    decoder = decoding.build(settings, stop_ids=(), pad_id=hub.PAD, mask_id=hub.MASK, mode=mode)
    rows, batch = prompts(lengths)
    found = decoder.generate(checkpoint.engine("fused", "diffusion"), batch, seed=0, on_step=None)
    expected = [decode(logits, row) for row in rows]
    assert found.tokens.tolist() == [row.tokens for row in expected]
    if len(rows) == 1:  # the prompt's forward instead of the last commit, which nobody needs
        assert found.nfe == 1 + expected[0].forwards - 1


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_one_checkpoint_drafts_for_itself(stored, lengths):
    checkpoint, logits = stored["nemotron_labs_diffusion"]
    draft = DraftModel(
        engine=checkpoint.engine("fused", "diffusion"),
        vocabulary=hub.VOCAB,
        verified_vocabulary=hub.VOCAB,
        mask_id=hub.MASK,
    )
    settings = Autoregressive(max_new_tokens=24, temperature=0.0, draft="self", draft_tokens=7)
    decoder = decoding.build(settings, stop_ids=(), pad_id=hub.PAD, mask_id=hub.MASK, draft=draft)
    rows, batch = prompts(lengths)
    found = decoder.generate(checkpoint.engine("fused", "autoregressive"), batch, seed=0, on_step=None)
    assert found.tokens.tolist() == [plain.autoregressive(logits, row, canvas=24).tokens for row in rows]
    if len(rows) == 1:
        expected = plain.self_speculation(logits, rows[0], canvas=24, block=8, mask_id=hub.MASK)
        assert (found.tokens[0].tolist(), found.nfe) == (expected.tokens, 1 + expected.forwards)
