"""How good, how varied and how long are a job's texts? Pure functions from the sums in a Record to values.

docs/metrics.md defines the metrics. Each is one ratio of sums over prompts, `sum of numerators / sum of denominators`,
so that the analysis can resample prompts and take the same ratio again. A value without a denominator is absent.

`_human` is the same formula over the human references, `_floor` over the three floor texts (shuffled references, the
prompt's tail, nothing at all): the best of the three in the metric's own direction, so that a metric which one of
them fools has a high floor. Counts and lengths (`empty_share`, `length_bytes`) have neither, nor has `shared_4grams`.
Relevance has no floor: the prompt's tail is its ceiling.
"""

import math
from collections.abc import Callable, Iterable

from llmbench.metrics.keys import METRICS
from llmbench.record import FLOORS, Output, PromptScore, Record, Subject

PERPLEXITIES = ("quality/perplexity", "quality/perplexity_second")
"""Metrics whose value is exp(-ratio)."""

_WITHOUT_FLOOR = ("quality/relevance", "quality/shared_4grams")

Terms = tuple[float, float]
"""Numerator and denominator of one prompt. (0, 0) = measured, and nothing to count: an empty text has no bigrams."""


def compute(record: Record) -> dict[str, float]:
    """All `quality/*` and `likelihood/*` values of a job; what cannot be computed is missing."""
    values: dict[str, float | None] = {}
    for key in _OF_SCORE:
        values[key] = ratio(key, terms_of(record, key, "output").values())
        values[f"{key}_human"] = ratio(key, terms_of(record, key, "human").values())
        floor = floor_subject(record, key)
        values[f"{key}_floor"] = ratio(key, terms_of(record, key, floor).values()) if floor else None
    for key in _OF_OUTPUT:
        values[key] = ratio(key, per_prompt(record, key).values())
    if record.likelihood is not None and record.likelihood.utf8_bytes:
        values["likelihood/bits_per_byte"] = record.likelihood.nll_nats / (math.log(2) * record.likelihood.utf8_bytes)
    return {key: value for key, value in values.items() if value is not None and math.isfinite(value)}


def per_prompt(record: Record, key: str) -> dict[str, Terms]:
    """The numerator and denominator of every prompt that was measured, by prompt id.

    Summing both over prompts and dividing gives the value that `compute` gives, with one exception: perplexities
    enter as g = -NLL / judged tokens (nats per token, oriented up), ratios of sums too; perplexity = exp(-g).
    Other values are not turned: `METRICS[key].better` says which way is up.

    Args:
        record: a finished job.
        key: a `quality/*` key, also with `_human` or `_floor` (the floor text that `floor_subject` names).

    Raises:
        KeyError: for a key that is no quality of prompts.
    """
    if key in _OF_OUTPUT:
        measured = {output.prompt_id: _OF_OUTPUT[key](output) for output in record.outputs}
        return {prompt_id: pair for prompt_id, pair in measured.items() if pair is not None}
    if key.endswith("_human"):
        return terms_of(record, key.removesuffix("_human"), "human")
    if key.endswith("_floor"):
        base = key.removesuffix("_floor")
        floor = floor_subject(record, base)
        return terms_of(record, base, floor) if floor else {}
    return terms_of(record, key, "output")


def floor_subject(record: Record, key: str) -> Subject | None:
    """Which of the three floor texts does best on a metric; None when none can be measured, or is a floor.

    They are compared over the prompts that all of them have: a text that only the easy prompts have (shuffled
    references, where most prompts have none) would look better than it is. Where no prompt has them all, the texts that
    most prompts have are compared, each over its own.

    Raises:
        KeyError: for a key that no score has.
    """
    floors = () if key in _WITHOUT_FLOOR else FLOORS
    terms = {subject: found for subject in floors if (found := terms_of(record, key, subject))}
    terms = {subject: found for subject, found in terms.items() if ratio(key, found.values()) is not None}
    shared = set.intersection(*map(set, terms.values())) if terms else set()
    if not shared and terms:
        most = max(map(len, terms.values()))
        terms = {subject: found for subject, found in terms.items() if len(found) == most}
    values = [
        (ratio(key, [pair for prompt, pair in found.items() if not shared or prompt in shared]), subject)
        for subject, found in terms.items()
    ]
    known = [(value, subject) for value, subject in values if value is not None]
    best = min if METRICS[key].better == "lower" else max
    return best(known, key=lambda pair: pair[0])[1] if known else None


def terms_of(record: Record, key: str, subject: Subject) -> dict[str, Terms]:
    """Terms of all prompts for the text of one subject, by prompt id; a prompt that was not measured is missing.

    Args:
        record: a finished job.
        key: a `quality/*` key of scores, without `_human` or `_floor`.
        subject: whose text.

    Raises:
        KeyError: for a key that no score has.
    """
    formula = _OF_SCORE[key]
    terms = {score.prompt_id: formula(score) for score in record.scores if score.subject == subject}
    return {prompt_id: pair for prompt_id, pair in terms.items() if pair is not None}


def relevance_under_other_prompt(record: Record) -> dict[str, Terms]:
    """Terms of `quality/relevance` as if each output belonged to the first of its two other prompts: (b - a, tokens).

    What a text that has nothing to do with its prompt comes to.
    """
    return {
        score.prompt_id: (score.other_nll_nats[1] - score.other_nll_nats[0], score.judged_tokens)
        for score in record.scores
        if score.subject == "output" and score.other_nll_nats is not None and score.judged_tokens is not None
    }


def ratio(key: str, terms: Iterable[Terms]) -> float | None:
    """The value of a metric over prompts: one ratio of sums, for perplexities exp(-ratio).

    Args:
        key: of `METRICS`.
        terms: of each prompt, from `per_prompt`.

    Returns:
        None where there is nothing to divide by, or the result is no number.
    """
    pairs = list(terms)
    denominator = math.fsum(pair[1] for pair in pairs)
    if not denominator:
        return None
    mean = math.fsum(pair[0] for pair in pairs) / denominator
    if key not in PERPLEXITIES:
        return mean
    return math.exp(-mean) if -mean < 709 else None  # exp(710) is no float


def _minus_nll_per_token(nll: float | None, tokens: int | None) -> Terms | None:
    return None if nll is None or tokens is None else (-nll, tokens)


def _bits_per_byte(nll: float | None, size: int) -> Terms | None:
    return None if nll is None else (nll / math.log(2), size)


def _relevance(score: PromptScore) -> Terms | None:
    if score.nll_nats is None or score.other_nll_nats is None or score.judged_tokens is None:
        return None
    return sum(score.other_nll_nats) / 2 - score.nll_nats, score.judged_tokens


def _entropy(score: PromptScore) -> Terms | None:
    if score.diversity_tokens == 0:
        return 0.0, 0.0  # no tokens, no distribution
    return None if score.entropy_nats is None else (score.entropy_nats, 1.0)


def _distinct_2(score: PromptScore) -> Terms | None:
    if score.bigrams is None or score.distinct_bigrams is None:
        return None
    return score.distinct_bigrams, score.bigrams


def _repetition(score: PromptScore) -> Terms | None:
    tokens = score.diversity_tokens if score.text_tokens is None else score.text_tokens  # before format 4
    return None if tokens is None or score.repeated_tokens is None else (score.repeated_tokens, tokens)


def _mean(field: Callable[[PromptScore], float | None]) -> Callable[[PromptScore], Terms | None]:
    def terms(score: PromptScore) -> Terms | None:
        value = field(score)
        return None if value is None else (float(value), 1.0)

    return terms


_OF_SCORE: dict[str, Callable[[PromptScore], Terms | None]] = {
    "quality/perplexity": lambda score: _minus_nll_per_token(score.nll_nats, score.judged_tokens),
    "quality/bits_per_byte": lambda score: _bits_per_byte(score.nll_nats, score.utf8_bytes),
    "quality/perplexity_second": lambda score: _minus_nll_per_token(score.second_nll_nats, score.second_judged_tokens),
    "quality/bits_per_byte_second": lambda score: _bits_per_byte(score.second_nll_nats, score.utf8_bytes),
    "quality/entropy": _entropy,
    "quality/distinct_2": _distinct_2,
    "quality/repetition": _repetition,
    "quality/relevance": _relevance,
    "quality/shared_4grams": _mean(lambda score: score.shared_4grams),
    "quality/bertscore_f1": _mean(lambda score: score.bertscore_f1),
    "quality/bertscore_precision": _mean(lambda score: score.bertscore_precision),
    "quality/bertscore_recall": _mean(lambda score: score.bertscore_recall),
    "quality/accuracy": _mean(lambda score: score.correct),
}

_OF_OUTPUT: dict[str, Callable[[Output], Terms | None]] = {
    "quality/empty_share": lambda output: (
        None if output.text is None else (float(not (output.tokens and output.text.strip())), 1.0)
    ),
    "quality/length_bytes": lambda output: None if output.utf8_bytes is None else (float(output.utf8_bytes), 1.0),
}
