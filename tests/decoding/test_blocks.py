"""Writing block after block against a plain loop that reads every sequence whole and keeps nothing."""

import itertools
import math

import pytest
import tiny_models
import torch
from tiny_models import MASK, PAD, VOCAB

from llmbench import decoding
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.config.modes import Mode
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.drafts import DraftModel
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

G, BLOCK = 12, 4
MODES = {
    "sdar": Mode(attention="block_causal", block_length=BLOCK),
    "fast-dllm": Mode(attention="block_causal", block_length=BLOCK, sub_block_length=2, logit_shift=1),
    "shifted": Mode(attention="block_causal", block_length=BLOCK, logit_shift=1),
    "bd3lm": Mode(attention="block_causal", block_length=BLOCK, blocks_from="prompt_end"),
    "seeded": Mode(attention="causal_context", block_length=BLOCK, seeded=True),
    "nemotron": Mode(attention="causal_context", block_length=BLOCK, minimum="remaining", mask_in_softmax=False),
}


def logits(model, ids, visible):
    """[S, V] of one sequence under an explicit mask [S, S]."""
    bias = torch.zeros(visible.shape).masked_fill(~visible, -math.inf)[None, None]
    where = torch.arange(len(ids))[None]
    hidden = model.model(input_ids=torch.tensor([ids]), attention_mask=bias, position_ids=where).last_hidden_state
    return model.lm_head(hidden)[0]


def visible(mode, prompt, block_start, length):
    """Who sees whom while the block at `block_start` is written: written out position by position."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    for q in range(length):
        for k in range(length):
            if mode.attention == "block_causal":
                offset = 0 if mode.blocks_from == "start" else -prompt % BLOCK  # of the first, shorter block
                seen[q, k] = (k + offset) // BLOCK <= (q + offset) // BLOCK
            else:
                current = q >= block_start and k >= block_start
                seen[q, k] = k <= q or current
    return seen


def first_token(model, mode, prompt, text):
    """The token behind a text that ends where a block ends."""
    row = logits(model, text, visible(mode, prompt, len(text), len(text)))[-1]
    row[MASK] = -math.inf
    return int(row.argmax())


def reference(model, mode, prompt, *, steps, threshold=None):
    """Greedy text of one row, and the denoising steps of each of its blocks."""
    begin = len(prompt) // BLOCK * BLOCK if mode.aligned else len(prompt)
    text, steps_of = list(prompt), list[int]()
    part = mode.sub_block_length or BLOCK
    each = steps * BLOCK // G * part // BLOCK  # steps of a part
    while begin < len(prompt) + G:
        if (mode.seeded or mode.logit_shift) and len(text) == begin:
            text.append(first_token(model, mode, len(prompt), text))
        steps_of.append(0)
        block = text[begin:] + [MASK] * (BLOCK - len(text[begin:]))
        for offset in range(0, BLOCK, part):
            planned = [part // each + (i < part % each) for i in range(each)]
            for step in range(part):
                masked = [i for i in range(offset, offset + part) if block[i] == MASK]
                if not masked:
                    break
                steps_of[-1] += 1
                whole = text[:begin] + block
                found = logits(model, whole, visible(mode, len(prompt), begin, len(whole)))
                chosen = []
                for i in masked:
                    row = found[begin + i - mode.logit_shift].clone()
                    if not mode.mask_in_softmax:
                        row[MASK] = -math.inf
                    sure = row.softmax(0)
                    row[MASK] = -math.inf
                    chosen.append((-float(sure[row.argmax()]), i, int(row.argmax())))
                least = planned[step] if step < each else 1
                if mode.minimum == "remaining":
                    least = math.ceil(len(masked) / (each - step))
                least = max(1, least)
                sure = sum(-c >= threshold for c, _, _ in chosen) if threshold else 0
                for _, i, token in sorted(chosen)[: max(least, sure)]:
                    block[i] = token
        text[begin:] = block
        begin += BLOCK
    return text[len(prompt) : len(prompt) + G], steps_of


def decode(model, mode, lengths, *, on_step=None, **changes):
    settings = Diffusion(**({"canvas": G, "steps": G, "block_length": BLOCK, "temperature": 0.0} | changes))
    decoder = decoding.build(settings, stop_ids=(), pad_id=PAD, mask_id=MASK, mode=mode)
    ids, mask = tiny_models.prompts(lengths)
    made = decoder.generate(FusedEngine(model, mode), PromptBatch(ids=ids, mask=mask), seed=0, on_step=on_step)
    rows = [row[len(row) - n :] for row, n in zip(ids.tolist(), lengths, strict=True)]
    return made, rows


@pytest.mark.parametrize("lengths", [[6], [8, 8], [9, 2, 5, 4]], ids=str)
@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize(
    "options", [{"steps": G}, {"steps": 6}, {"threshold": 0.3}, {"threshold": 0.2, "steps": 6}], ids=str
)
def test_tokens_are_those_of_a_plain_loop(lengths, name, options):
    mode, model = MODES[name], tiny_models.model()
    made, rows = decode(model, mode, lengths, **options)
    expected = [reference(model, mode, row, **({"steps": G} | options)) for row in rows]
    assert made.tokens.tolist() == [tokens for tokens, _ in expected]
    # the prompt's forward, the steps of the row that needs most of them in each block, and the commits between blocks
    blocks = list(itertools.zip_longest(*(steps for _, steps in expected), fillvalue=0))
    assert made.nfe == 1 + sum(map(max, blocks)) + len(blocks) - 1


def test_forwards_are_told_as_they_ran():
    calls = []
    made, _ = decode(tiny_models.model(), MODES["nemotron"], [6, 3], steps=6, on_step=calls.append)
    assert calls == list(range(made.nfe)) == list(range(1 + 3 * 2 + 2))
    prompt, step, _, commit, second = made.forwards[:5]
    assert (prompt.queries, prompt.keys, prompt.logits, prompt.causal) == (6, 6, 0, True)
    assert (step.queries, step.keys, step.logits, step.causal) == (BLOCK, 10, BLOCK, False)
    assert (commit.queries, commit.keys, commit.logits, commit.causal) == (BLOCK, 10, 0, True)
    assert second.keys == 14
    assert made.first_text == 3
    assert {shape.padding for shape in made.forwards} == {0}  # the batch did not say how much


def test_a_generation_ends_early_where_every_row_has_stopped():
    model, mode = tiny_models.model(), MODES["nemotron"]
    whole, _ = decode(model, mode, [6, 3])
    stops = {int(whole.tokens[0, 2]), int(whole.tokens[1, 6])}
    settings = Diffusion(canvas=G, steps=G, block_length=BLOCK, temperature=0.0, early_stop=True)
    ids, mask = tiny_models.prompts([6, 3])
    decoder = decoding.build(settings, stop_ids=tuple(stops), pad_id=PAD, mask_id=MASK, mode=mode)
    made = decoder.generate(FusedEngine(model, mode), PromptBatch(ids=ids, mask=mask), seed=0, on_step=None)
    last = max(min(i for i, token in enumerate(row) if token in stops) for row in whole.tokens.tolist())
    written = (last // BLOCK + 1) * BLOCK
    assert written < G
    assert made.nfe < whole.nfe
    assert made.tokens[:, :written].tolist() == whole.tokens[:, :written].tolist()
    assert (made.tokens[:, written:] == PAD).all()


@pytest.mark.parametrize("name", MODES)
def test_the_first_step_of_a_loop_that_is_used_again_knows_nothing_of_the_last_text(name):
    mode, model = MODES[name], tiny_models.model()
    engine = FusedEngine(model, mode)
    settings = Diffusion(canvas=G, steps=6, block_length=BLOCK, temperature=0.0, threshold=0.3)
    decoder = decoding.build(settings, stop_ids=(), pad_id=PAD, mask_id=MASK, mode=mode)
    texts = []
    for lengths in ([9, 2, 5], [4, 8, 9], [9, 2, 5]):
        ids, mask = tiny_models.prompts(lengths, seed=len(texts) % 2)
        made = decoder.generate(engine, PromptBatch(ids=ids, mask=mask), seed=0, on_step=None)
        texts.append(made.tokens.tolist())
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize("lengths", [[5, 5], [9, 2, 5, 1]], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_a_model_that_drafts_for_itself_writes_its_own_autoregressive_text(lengths, count):
    model, mode = tiny_models.model(), MODES["nemotron"]
    own = DraftModel(
        engine=FusedEngine(model, mode), vocabulary=VOCAB, verified_vocabulary=VOCAB, mask_id=MASK, logit_shift=0
    )
    settings = Autoregressive(max_new_tokens=G, temperature=0.0, draft="self", draft_tokens=count)
    plain = Autoregressive(max_new_tokens=G, temperature=0.0)
    ids, mask = tiny_models.prompts(lengths)
    batch = PromptBatch(ids=ids, mask=mask)
    drafted = SpeculativeDecoder(settings, stop_ids=(), pad_id=PAD, model=own).generate(
        FusedEngine(model), batch, seed=0, on_step=None
    )
    expected = AutoregressiveDecoder(plain, stop_ids=(), pad_id=PAD).generate(
        EagerEngine(model), batch, seed=0, on_step=None
    )
    assert drafted.tokens.tolist() == expected.tokens.tolist()
    assert drafted.nfe % 2 == 1  # the prompt, and a draft and a verification each
    assert [shape.causal for shape in drafted.forwards[1:3]] == [False, None]


def test_its_draft_is_what_its_diffusion_mode_proposes_behind_the_last_token():
    """All masks at once, the surest of each; the text itself comes from the cache."""
    model, mode = tiny_models.model(), MODES["nemotron"]
    engine, prompt, count = FusedEngine(model, mode), [7, 12, 31, 9], 3
    own = DraftModel(engine=engine, vocabulary=VOCAB, verified_vocabulary=VOCAB, mask_id=MASK)
    from llmbench.decoding.drafts import SelfDraft

    cache = engine.new_cache(1, len(prompt) + count)
    ids = torch.tensor([prompt])
    engine.denoise(ids[:, :-1], None, ids[:, :0], cache)
    text = torch.nn.functional.pad(ids, (0, count), value=PAD)
    proposed = SelfDraft(own, cache, count).propose(text, torch.tensor([len(prompt) - 1]))
    whole = [*prompt, *[MASK] * count]
    found = logits(model, whole, visible(mode, 0, len(prompt) - 1, len(whole)))[len(prompt) :]
    found[:, MASK] = -math.inf
    assert proposed[0].tolist() == found.argmax(1).tolist()


@pytest.mark.parametrize("name", MODES)
def test_held_out_blocks_are_predicted_behind_the_text_before_them(name):
    """All blocks in one forward of the eager engine, against one forward each; behind a prompt of one token."""
    model, mode = tiny_models.model(), MODES[name]
    text = torch.randint(3, VOCAB, (1, 11), generator=torch.Generator().manual_seed(1))
    noisy = text.masked_fill(torch.tensor([[i % 3 == 1 for i in range(11)]]), MASK)
    numbers = (torch.arange(11) + (0 if mode.aligned else BLOCK - 1)) // BLOCK
    found = EagerEngine(model, mode).block_logits(text, noisy, numbers)[0]
    for number in numbers.unique().tolist():
        places = torch.nonzero(numbers == number)[:, 0].tolist()
        begin = places[0]
        read = [*text[0, :begin].tolist(), *noisy[0, places].tolist()]
        own = logits(model, read, visible(mode, 1, begin, len(read)))
        for place in places:
            if place == begin and mode.given:
                if begin:
                    before = text[0, :begin].tolist()
                    expected = logits(model, before, visible(mode, 1, begin, begin))[-1]
                    assert torch.allclose(found[place], expected, atol=1e-5)
            else:
                assert torch.allclose(found[place], own[place - mode.logit_shift], atol=1e-5)
