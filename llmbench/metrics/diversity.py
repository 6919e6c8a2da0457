"""How varied is a text in a judge's tokens, and how much of it do other texts share? Counts, without a model."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmbench.metrics import draws

NGRAM = 4  # of `repeated_tokens` and `shared_4grams`


def diversity(tokens: Sequence[int], first: int, canvas: int) -> dict[str, Any]:
    """Entropy, bigrams and repetition, as fields of PromptScore.

    Args:
        tokens: of the whole text, without a stop token.
        first: m: entropy and bigrams are over so many.
        canvas: G, the longest prefix whose entropy is taken.
    """
    looked_at = tokens[:first]
    bigrams = list(itertools.pairwise(looked_at))
    places: dict[tuple[int, ...], list[int]] = {}
    for start, ngram in enumerate(_ngrams(tokens)):
        places.setdefault(ngram, []).append(start)
    repeated = {start + i for starts in places.values() if len(starts) > 1 for start in starts for i in range(NGRAM)}
    return {
        "entropy_nats": entropy(looked_at) if looked_at else None,
        "bigrams": len(bigrams),
        "distinct_bigrams": len(set(bigrams)),
        "diversity_tokens": len(looked_at),
        "text_tokens": len(tokens),
        "repeated_tokens": len(repeated),
        "entropy_prefixes": tuple((m, entropy(tokens[:m])) for m in prefixes(canvas)) if tokens else (),
    }


def entropy(tokens: Sequence[int]) -> float:
    """Entropy of the empirical unigram distribution, -sum p ln p, in nats; 0 without tokens."""
    size = len(tokens)
    return -math.fsum(n / size * math.log(n / size) for n in Counter(tokens).values())


def prefixes(canvas: int) -> list[int]:
    """16, then each power of two from 32 on and one and a half times it, as far as below the canvas; and the canvas."""
    steps = (m for power in range(5, canvas.bit_length()) for m in (2**power, 3 * 2 ** (power - 1)))
    return [*(m for m in (16, *steps) if m < canvas), canvas]


def shared_4grams(texts: Sequence[Sequence[int]]) -> list[float | None]:
    """Share of each output's 4-grams (every position counts) that occur in an output of `draws.OUTPUTS` others.

    Args:
        texts: tokens of every output, in the order of the prompts.

    Returns:
        None for an output of fewer than four tokens, and where there is no other one.
    """
    holders: dict[tuple[int, ...], set[int]] = {}
    for index, tokens in enumerate(texts):
        for ngram in _ngrams(tokens):
            holders.setdefault(ngram, set()).add(index)
    shares: list[float | None] = []
    for tokens, others in zip(texts, draws.other_outputs(len(texts)), strict=True):
        found = [not holders[ngram].isdisjoint(others) for ngram in _ngrams(tokens)]
        shares.append(sum(found) / len(found) if found and others else None)
    return shares


def _ngrams(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[start : start + NGRAM]) for start in range(len(tokens) - NGRAM + 1)]
