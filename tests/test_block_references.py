"""The plain decoders that others are compared with: by hand, and against each other."""

import block_references as plain
import hub_checkpoints as hub
import pytest
import torch

MASK, WIDE = 9, 10


def table(*rows):
    """Logits that depend on nothing but the place: the row's most probable token, with that probability."""

    def logits(ids, sees):
        assert sees.shape == (len(ids), len(ids))
        found = torch.zeros(len(ids), WIDE)
        for place, (token, share) in enumerate(rows[: len(ids)]):
            found[place, token] = torch.tensor(share * (WIDE - 1) / (1 - share)).log()
        return found

    return logits


@pytest.fixture(scope="module")
def model():
    return hub.Plain("nemotron_labs_diffusion").logits


def test_what_sees_what():
    assert plain.causal(2).tolist() == [[True, False], [True, True]]
    assert plain.block_causal(5, 2).sum(-1).tolist() == [2, 2, 4, 4, 5]
    assert plain.block_causal(5, 2, first=1).sum(-1).tolist() == [1, 3, 3, 5, 5]
    assert plain.causal_context(5, 3).sum(-1).tolist() == [1, 2, 3, 5, 5]


def test_a_step_of_sdar_makes_its_share_final_or_all_that_are_surer():
    """Two positions of the prompt are in the first block; the next takes two forwards, or one where three are sure."""
    rows = [(0, 0.5), (0, 0.5), (1, 0.6), (2, 0.9), (3, 0.95), (4, 0.5), (5, 0.95), (6, 0.95)]
    static = plain.sdar(table(*rows), [7, 7], canvas=6, block=4, steps=2, mask_id=MASK)
    assert static == ([1, 2, 3, 4, 5, 6], 1 + 1 + 2 + 1, 2)
    dynamic = plain.sdar(table(*rows), [7, 7], canvas=6, block=4, steps=4, mask_id=MASK, threshold=0.85)
    assert dynamic == ([1, 2, 3, 4, 5, 6], 2 + 1 + 2 + 1, 2)


def test_bd3lm_counts_blocks_from_the_end_of_the_prompt_and_rounds_as_its_authors_do():
    seen = []

    def logits(ids, sees):
        seen.append((sum(token == MASK for token in ids), sees.sum(-1).tolist()))
        return table(*[(1, 0.5)] * 7)(ids, sees)

    plain.bd3lm(logits, [7, 7, 7], canvas=4, block=4, steps=3, mask_id=MASK)
    assert [left for left, _ in seen] == [4, 3, 2]  # 4/3 -> 1, 3/2 in float32 -> 1, 2
    assert seen[0][1] == [3, 3, 3, 7, 7, 7, 7]


def test_fast_dllm_predicts_from_one_position_before_and_seeds_a_block_from_the_one_before_it():
    rows = [(1, 0.5), (2, 0.95), (3, 0.6), (4, 0.7), (5, 0.95), (6, 0.95), (7, 0.5), (8, 0.5)]
    found = plain.fast_dllm(table(*rows), [0], canvas=7, block=4, part=2, threshold=0.9, mask_id=MASK)
    assert found == ([1, 2, 3, 4, 5, 6, 7], (1 + 2 + 1) + (1 + 2 + 1), 2)


def test_nemotron_begins_a_block_with_the_causal_choice():
    rows = [(1, 0.5), (2, 0.5), (3, 0.95), (4, 0.95), (5, 0.5), (6, 0.5), (7, 0.95), (8, 0.5)]
    written = plain.nemotron(table(*rows), [0], canvas=6, block=3, mask_id=MASK, threshold=0.9)
    assert written == ([1, 3, 4, 4, 6, 7], 1 + 1 + 2 + 1, 2)
    steps = plain.nemotron(table(*rows), [0], canvas=6, block=3, mask_id=MASK, steps=1, seeded=False)
    assert steps == ([2, 3, 4, 5, 6, 7], 4, 2)


@pytest.mark.parametrize("block", [1, 2, 5, 8])
def test_self_speculation_loses_nothing(model, block):
    expected = plain.autoregressive(model, [3, 1, 4, 1, 5], canvas=20)
    found = plain.self_speculation(model, [3, 1, 4, 1, 5], canvas=20, block=block, mask_id=hub.MASK)
    assert found.tokens == expected.tokens
    assert found.forwards == 2 * found.commits <= 2 * 19


def test_a_mask_token_without_a_share_makes_proposals_surer():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert [p.item() for p in plain.proposals(logits, 2)] == pytest.approx([1, 0.24473], abs=1e-5)
    assert [p.item() for p in plain.proposals(logits, 2, False)] == pytest.approx([1, 0.73106], abs=1e-5)


def test_yarn_by_hand():
    """theta 100, 16 values, 16 positions, factor 16: 16 ln(16 / 2 pi) / (2 ln 100) = 1.62, so pair 1 is half way."""
    found, factor = hub.Plain("nemotron_labs_diffusion").frequencies()
    kept = 100 ** (-torch.arange(8) / 8)
    expected = torch.cat([kept[:1], kept[1:2] * (1 + 1 / 16) / 2, kept[2:] / 16])
    assert torch.allclose(found.float(), expected)
    assert factor == 1
