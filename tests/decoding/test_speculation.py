"""Speculative decoding against plain decoding: equal tokens at temperature 0, equal distributions above it."""

import itertools

import pytest
import tiny_models
import torch
from tiny_models import MASK, PAD, VOCAB

from llmbench.config.decoders import Autoregressive, Transformers
from llmbench.decoding import drafts
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.drafts import NGRAM, DraftModel, LookupDraft
from llmbench.decoding.generate import TransformersDecoder
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.models.engine import EagerEngine
from llmbench.models.fused import FusedEngine

G = 24
DRAFTS = ("lookup", "model", "llada")


def settings(draft, **changes):
    checkpoint = None if draft in (None, "lookup") else "somewhere"
    given = {"max_new_tokens": G, "temperature": 0.0, "draft": draft, "draft_checkpoint": checkpoint, "draft_tokens": 4}
    return Autoregressive(**(given | changes))


def drafting(draft, *, seed=7, vocab=VOCAB, shift=0):
    """A model that agrees with the one under test now and then."""
    if draft == "lookup":
        return None
    model = tiny_models.model(causal=draft == "model", seed=seed, vocab=vocab)
    mask_id = None if draft == "model" else MASK
    return DraftModel(
        engine=FusedEngine(model), vocabulary=vocab, verified_vocabulary=VOCAB, mask_id=mask_id, logit_shift=shift
    )


def generate(model, ids, mask, stop_ids, draft, *, with_model=None, seed=0, on_step=None, **changes):
    made = settings(draft, **changes)
    decoder = SpeculativeDecoder(made, stop_ids=tuple(stop_ids), pad_id=PAD, model=with_model or drafting(draft))
    return decoder.generate(FusedEngine(model), PromptBatch(ids=ids, mask=mask), seed=seed, on_step=on_step)


def plain(model, ids, mask, stop_ids, **changes):
    decoder = AutoregressiveDecoder(settings(None, **changes), stop_ids=tuple(stop_ids), pad_id=PAD)
    return decoder.generate(EagerEngine(model), PromptBatch(ids=ids, mask=mask), seed=0, on_step=None).tokens


def without_overrun(tokens):
    """[B, <= G] filled up to G."""
    return torch.nn.functional.pad(tokens, (0, G - tokens.shape[1]), value=PAD).tolist()


@pytest.mark.parametrize("lengths", [[5, 5, 5], [9, 2, 5, 1]], ids=["even", "padded"])
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(("count", "steps"), [(1, 1), (4, 2), (9, 1)])
def test_tokens_are_those_of_plain_decoding(lengths, draft, count, steps):
    model = tiny_models.model()
    ids, mask = tiny_models.prompts(lengths)
    free = plain(model, ids, mask, [])
    ends = [int(free[0, 5]), int(free[-1, 11])]  # rows end at different places, in the middle of a draft
    for stop_ids in ([], ends):
        found = generate(model, ids, mask, stop_ids, draft, draft_tokens=count, draft_steps=steps)
        assert without_overrun(found.tokens) == without_overrun(plain(model, ids, mask, stop_ids))


@pytest.mark.parametrize("draft", DRAFTS)
def test_rows_that_have_stopped_write_nothing_and_end_the_generation(draft):
    model = tiny_models.model()
    ids, mask = tiny_models.prompts([6, 3])
    found = generate(model, ids, mask, range(VOCAB), draft, stop_check_every=2)
    assert found.nfe == 3  # the prompt, and two steps until the host asks
    assert (found.tokens[:, 1:] == PAD).all()


def test_a_draft_that_is_always_right_is_accepted_whole_and_one_that_is_not_costs_no_text():
    """The model itself drafts: G - 1 tokens behind the first in steps of five."""
    model = tiny_models.model()
    ids, mask = tiny_models.prompts([9, 2, 5])
    itself = DraftModel(engine=FusedEngine(tiny_models.model()), vocabulary=VOCAB, verified_vocabulary=VOCAB)
    marks = []
    found = generate(model, ids, mask, [], "model", with_model=itself, on_step=marks.append)
    assert found.tokens.tolist() == plain(model, ids, mask, []).tolist()
    assert found.nfe == 1 + -(-(G - 1) // 5) == len(marks)
    assert marks == list(range(len(marks)))
    shapes = [(s.queries, s.keys, s.logits) for s in found.forwards]
    assert shapes == [(9, 9, 1), *((5, 9 + made + 4, 5) for made in (1, 6, 11, 16, 21))]
    free = found.tokens
    stop_ids = [int(free[0, 4]), int(free[1, 8])]  # in the middle of what a step accepts
    found = generate(model, ids, mask, stop_ids, "model", with_model=itself)
    assert without_overrun(found.tokens) == without_overrun(plain(model, ids, mask, stop_ids))


def test_a_fixed_number_is_accepted_whatever_is_drafted():
    ids, mask = tiny_models.prompts([6, 3])
    for accepted, steps in ((0, 23), (2, 8), (4, 5)):
        found = generate(tiny_models.model(), ids, mask, [], "lookup", fixed_accepted_tokens=accepted)
        assert found.nfe == 1 + steps
        assert found.tokens.shape == (2, G)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_diffusion_draft_proposes_what_the_model_says_of_masks_behind_the_text(shift, steps):
    """All of the text is read anew here, so nothing is approximate. Against a plain loop over whole sequences."""
    ids, _ = tiny_models.prompts([5, 5])
    draft = drafts.build(settings("llada", draft_steps=steps), drafting("llada", shift=shift), 2, 5, 16, None)
    draft.read(ids, None)
    text = torch.nn.functional.pad(ids, (0, 11), value=PAD)
    found = draft.propose(text, torch.tensor([4, 4]))
    engine = EagerEngine(tiny_models.model(causal=False, seed=7))
    for row, proposed in zip(ids.tolist(), found.tolist(), strict=True):
        block = [MASK] * 4
        for _ in range(steps):
            logits = engine.logits(torch.tensor([row + block]), None)[0, 5 - shift : 9 - shift].clone()
            sure = logits.softmax(-1)
            logits[:, MASK] = float("-inf")
            said = logits.argmax(-1).tolist()
            left = sorted((i for i in range(4) if block[i] == MASK), key=lambda i: -sure[i, said[i]])
            for i in left[: 4 // steps]:
                block[i] = said[i]
        assert proposed == block


def plain_lookup(row, count):
    """The longest suffix that occurred before, up to NGRAM; of its places the latest; what followed, repeated."""
    for n in range(min(NGRAM, len(row)), 0, -1):
        places = [i for i in range(n, len(row)) if row[i - n : i] == row[-n:]]
        if places:
            known = row[places[-1] :]
            return [known[i % len(known)] for i in range(count)]
    return [row[-1]] * count


def test_lookup_is_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(3, 7, (200, 20), generator=generator)
    end = torch.randint(1, 14, (200,), generator=generator)
    text.masked_fill_(torch.arange(20) > end[:, None], PAD)
    found = LookupDraft(5).propose(text, end)
    for row, last, proposed in zip(text.tolist(), end.tolist(), found.tolist(), strict=True):
        assert proposed == plain_lookup(row[: last + 1], 5)


@pytest.mark.parametrize("draft", DRAFTS)
def test_sampled_texts_follow_the_distribution_of_plain_decoding(draft):
    """Two tokens of a vocabulary of six at once: the frequencies of all 36 pairs, by a chi-square test at 1e-4."""
    vocab, rows = 6, 4000
    model = tiny_models.model(vocab=vocab, seed=3)
    ids = torch.tensor([[4, 3, 5, 4, 3]]).expand(rows, -1)
    changes = {"max_new_tokens": 2, "temperature": 1.3, "draft_tokens": 2}
    causal = draft == "model"
    itself = DraftModel(
        engine=FusedEngine(tiny_models.model(causal=causal, vocab=vocab, seed=5)),
        vocabulary=vocab, verified_vocabulary=vocab, mask_id=None if causal else MASK,
    )  # fmt: skip
    found = generate(model, ids, None, [], draft, with_model=None if draft == "lookup" else itself, **changes).tokens
    expected = torch.zeros(vocab, vocab, dtype=torch.float64)
    engine = EagerEngine(model)
    first = (engine.logits(ids[:1], None)[0, -1].double() / 1.3).softmax(-1)
    for token in range(vocab):
        longer = torch.cat([ids[:1], torch.tensor([[token]])], 1)
        expected[token] = first[token] * (engine.logits(longer, None)[0, -1].double() / 1.3).softmax(-1)
    counts = torch.zeros_like(expected)
    for one, two in found.tolist():
        counts[one, two] += 1
    statistic = ((counts - rows * expected) ** 2 / (rows * expected)).sum()
    assert statistic < 75.0  # the 0.9999 quantile of chi-square with 35 degrees of freedom is 74.9


def test_a_draft_with_a_larger_or_smaller_vocabulary_proposes_and_reads_known_ids():
    ids, mask = tiny_models.prompts([9, 2, 5])
    model = tiny_models.model()
    for draft, vocab in itertools.product(("model", "llada"), (VOCAB - 9, VOCAB + 9)):
        found = generate(model, ids, mask, [], draft, with_model=drafting(draft, vocab=vocab))
        assert found.tokens.tolist() == plain(model, ids, mask, []).tolist()


@pytest.mark.parametrize("draft", ["lookup", "model"])
def test_transformers_drafts_the_same_text(draft):
    model = tiny_models.model()
    model.generation_config.eos_token_id = None
    ids, _ = tiny_models.prompts([9])
    checkpoint = None if draft == "lookup" else "somewhere"
    made = Transformers(max_new_tokens=G, temperature=0.0, draft=draft, draft_checkpoint=checkpoint, draft_tokens=4)
    assistant = (
        None
        if draft == "lookup"
        else DraftModel(engine=EagerEngine(tiny_models.model()), vocabulary=VOCAB, verified_vocabulary=VOCAB)
    )
    decoder = TransformersDecoder(made, stop_ids=(), pad_id=PAD, draft=assistant)
    found = decoder.generate(EagerEngine(model), PromptBatch(ids=ids, mask=None), seed=0, on_step=None)
    assert found.tokens.tolist() == plain(model, ids, None, []).tolist()
    if draft == "model":
        assert found.nfe < G / 2  # it drafts for itself
