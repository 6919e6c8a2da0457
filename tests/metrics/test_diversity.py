"""Counts of a text's tokens, by hand."""

import math

import pytest

from llmbench.metrics import diversity


@pytest.mark.parametrize(
    ("tokens", "entropy", "bigrams", "distinct", "repeated"),
    [
        ([], None, 0, 0, 0),
        ([7], 0.0, 0, 0, 0),
        ([1, 2, 3, 4], math.log(4), 3, 3, 0),
        ([1, 1, 1, 1], 0.0, 3, 1, 0),  # one 4-gram, once
        ([1, 1, 1, 1, 1], 0.0, 4, 1, 5),  # twice, overlapping: each token counts once
        ([1, 2, 3, 4, 9, 1, 2, 3, 4, 8], -(4 * 0.2 * math.log(0.2) + 2 * 0.1 * math.log(0.1)), 9, 6, 8),
        ([1, 1, 2, 2], math.log(2), 3, 3, 0),
    ],
)
def test_a_text_looked_at_whole(tokens, entropy, bigrams, distinct, repeated):
    found = diversity.diversity(tokens, 32, 64)
    assert found["entropy_nats"] == (None if entropy is None else pytest.approx(entropy, abs=1e-12))
    assert (found["bigrams"], found["distinct_bigrams"]) == (bigrams, distinct)
    assert (found["diversity_tokens"], found["text_tokens"]) == (len(tokens), len(tokens))
    assert found["repeated_tokens"] == repeated


def test_a_looping_tail_behind_the_first_m_tokens_is_repetition():
    found = diversity.diversity([1, 2, 3, 4, 5, *[9, 8, 7, 6] * 3], 5, 16)
    assert (found["diversity_tokens"], found["bigrams"], found["entropy_nats"]) == (5, 4, pytest.approx(math.log(5)))
    assert (found["text_tokens"], found["repeated_tokens"]) == (17, 12)


@pytest.mark.parametrize(
    ("canvas", "expected"),
    [
        (8, [8]),
        (16, [16]),
        (17, [16, 17]),
        (48, [16, 32, 48]),
        (64, [16, 32, 48, 64]),
        (100, [16, 32, 48, 64, 96, 100]),
        (1024, [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]),
    ],
)
def test_prefixes_end_on_the_canvas(canvas, expected):
    assert diversity.prefixes(canvas) == expected


def test_entropy_of_prefixes():
    tokens = [1] * 16 + [2] * 16 + [3] * 8
    third = -(2 * 0.4 * math.log(0.4) + 0.2 * math.log(0.2))  # the whole text, which is shorter than 48
    found = diversity.diversity(tokens, 32, 64)["entropy_prefixes"]
    assert [m for m, _ in found] == [16, 32, 48, 64]
    assert [nats for _, nats in found] == pytest.approx([0, math.log(2), third, third], abs=1e-12)
    assert diversity.diversity([], 32, 64)["entropy_prefixes"] == ()


def test_every_position_counts_in_what_outputs_share():
    first = [1, 2, 3, 4, 1, 2, 3, 4]  # 1234 2341 3412 4123 1234
    assert diversity.shared_4grams([first, [0, 1, 2, 3, 4]]) == [pytest.approx(2 / 5), pytest.approx(1 / 2)]
    assert diversity.shared_4grams([first, [9, 9, 9]]) == [0.0, None]
    assert diversity.shared_4grams([first]) == [None], "there is no other output"
    assert diversity.shared_4grams([]) == []


def test_one_text_for_all_prompts_is_shared_whole_and_47_others_are_looked_at():
    assert diversity.shared_4grams([[1, 2, 3, 4, 5]] * 60) == [1.0] * 60
    pairs = [[i // 2] * 4 for i in range(400)]  # each text is written for two of 400 prompts
    shares = diversity.shared_4grams(pairs)
    assert 0 < sum(shares) < 400 * 0.25, "chance that the twin is among 47 of 399 is 0.12"
    assert set(shares) == {0.0, 1.0}
