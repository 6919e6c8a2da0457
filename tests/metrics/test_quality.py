"""Values from sums, by hand."""

import math
from dataclasses import replace

import pytest

from llmbench.metrics import quality
from llmbench.metrics.keys import METRICS
from llmbench.record import DeviceUse, Environment, Likelihood, Output, PromptScore, Record

ENVIRONMENT = Environment(
    device="cpu", device_name="x", driver=None, threads=1, load_average=None, python="3", platform="x", versions={},
    git_commit=None, git_dirty=None,
)  # fmt: skip


def record(scores=(), outputs=(), likelihood=None):
    return Record(
        identity="0" * 12, model="llada", family="diffusion", steps=8, status="finished", reason=None, started_at="",
        duration_s=1.0, config={}, conditions={}, signatures={}, environment=ENVIRONMENT, device_use=DeviceUse(),
        outputs=tuple(outputs), scores=tuple(scores), likelihood=likelihood,
    )  # fmt: skip


def output(prompt_id, text, tokens):
    return Output(
        prompt_id=prompt_id, task="all", prompt="p", text=text, batch=0, tokens=tokens, utf8_bytes=len(text.encode()),
        stopped=False,
    )  # fmt: skip


A = PromptScore(
    prompt_id="a", subject="output", utf8_bytes=10, nll_nats=6.0, judged_tokens=3, entropy_nats=1.0, bigrams=4,
    distinct_bigrams=3, diversity_tokens=5, repeated_tokens=0, bertscore_precision=0.5, bertscore_recall=0.7,
    bertscore_f1=0.6,
)  # fmt: skip
B = PromptScore(
    prompt_id="b", subject="output", utf8_bytes=20, nll_nats=4.0, judged_tokens=5, entropy_nats=0.5, bigrams=8,
    distinct_bigrams=3, diversity_tokens=9, repeated_tokens=7, bertscore_precision=0.1, bertscore_recall=0.3,
    bertscore_f1=0.2,
)  # fmt: skip
EMPTY = PromptScore(
    prompt_id="c", subject="output", utf8_bytes=0, nll_nats=8.0, judged_tokens=1, entropy_nats=None, bigrams=0,
    distinct_bigrams=0, diversity_tokens=0, repeated_tokens=0, bertscore_precision=0.0, bertscore_recall=0.0,
    bertscore_f1=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("quality/perplexity", math.exp((6 + 4 + 8) / (3 + 5 + 1))),  # one ratio of sums, not a mean of ratios
        ("quality/bits_per_byte", 18 / math.log(2) / 30),
        ("quality/entropy", 0.75),  # an empty text has no distribution
        ("quality/distinct_2", 6 / 12),
        ("quality/repetition", 7 / 14),
        ("quality/bertscore_f1", 0.8 / 3),  # an empty text counts as 0
        ("quality/bertscore_precision", 0.2),
        ("quality/bertscore_recall", 1.0 / 3),
    ],
)
def test_each_value_is_one_ratio_of_sums(key, expected):
    job = record([A, B, EMPTY])
    assert quality.compute(job)[key] == pytest.approx(expected, rel=1e-12)
    terms = quality.per_prompt(job, key)
    assert list(terms) == ["a", "b", "c"]
    ratio = sum(pair[0] for pair in terms.values()) / sum(pair[1] for pair in terms.values())
    assert (math.exp(-ratio) if key == "quality/perplexity" else ratio) == pytest.approx(expected, rel=1e-12)


def test_repetition_is_of_the_whole_text_where_its_length_is_known():
    job = record([replace(A, text_tokens=20, repeated_tokens=8), replace(B, text_tokens=10), EMPTY])
    assert quality.compute(job)["quality/repetition"] == pytest.approx((8 + 7) / (20 + 10 + 0))


def test_relevance_is_what_the_own_prompt_saves_per_token():
    own = [replace(A, other_nll_nats=(9.0, 6.5)), replace(B, other_nll_nats=(3.0, 6.0)), EMPTY]
    human = replace(A, subject="human", nll_nats=5.0, other_nll_nats=(6.0, 7.0), judged_tokens=2)
    echo = replace(A, subject="prompt_tail", nll_nats=1.0, other_nll_nats=(4.0, 4.0))
    job = record([*own, human, echo])
    values = quality.compute(job)
    assert quality.per_prompt(job, "quality/relevance") == {"a": (1.75, 3), "b": (0.5, 5)}
    assert values["quality/relevance"] == pytest.approx(2.25 / 8)
    assert values["quality/relevance_human"] == pytest.approx(1.5 / 2)
    assert "quality/relevance_floor" not in values
    assert quality.floor_subject(job, "quality/relevance") is None
    assert quality.terms_of(job, "quality/relevance", "prompt_tail") == {"a": (3.0, 3)}
    assert quality.relevance_under_other_prompt(job) == {"a": (-2.5, 3), "b": (3.0, 5)}


def test_shared_4grams_are_a_mean_over_outputs_that_have_one():
    job = record([replace(A, shared_4grams=0.5), replace(B, shared_4grams=0.0), EMPTY])
    assert quality.compute(job)["quality/shared_4grams"] == 0.25
    assert quality.per_prompt(job, "quality/shared_4grams") == {"a": (0.5, 1.0), "b": (0.0, 1.0)}


def test_a_second_judge_has_the_same_formulas():
    second = [
        replace(A, second_nll_nats=5.0, second_judged_tokens=2),
        replace(B, second_nll_nats=7.0, second_judged_tokens=4),
        replace(A, subject="human", second_nll_nats=4.0, second_judged_tokens=4),
        replace(A, subject="shuffled", second_nll_nats=9.0, second_judged_tokens=3),
    ]
    values = quality.compute(record(second))
    assert values["quality/perplexity_second"] == pytest.approx(math.exp(12 / 6))
    assert values["quality/bits_per_byte_second"] == pytest.approx(12 / math.log(2) / 30)
    assert values["quality/perplexity_second_human"] == pytest.approx(math.exp(1))
    assert values["quality/perplexity_second_floor"] == pytest.approx(math.exp(3))
    assert quality.per_prompt(record(second), "quality/perplexity_second") == {"a": (-5.0, 2), "b": (-7.0, 4)}


def test_perplexity_is_resampled_as_nats_per_token_oriented_up():
    assert quality.per_prompt(record([A, B]), "quality/perplexity") == {"a": (-6.0, 3), "b": (-4.0, 5)}


def test_outputs_give_empty_share_and_length():
    job = record(outputs=[output("a", "héllo", 3), output("b", "", 0)])
    assert quality.compute(job) == {"quality/empty_share": 0.5, "quality/length_bytes": 3.0}
    assert quality.per_prompt(job, "quality/length_bytes") == {"a": (6.0, 1.0), "b": (0.0, 1.0)}


def test_white_space_and_special_tokens_alone_are_empty_whatever_their_count():
    job = record(outputs=[output("a", "word", 1), output("b", "", 2), output("c", " \n", 3), output("d", "", 0)])
    assert quality.compute(job)["quality/empty_share"] == 0.75


def floors(**values):
    return [replace(A, subject=subject, **fields) for subject, fields in values.items()]


def test_the_floor_is_the_best_of_three_texts_in_the_metrics_own_direction():
    job = record(
        floors(
            shuffled={"nll_nats": 9.0, "bertscore_f1": 0.3, "repeated_tokens": 1, "distinct_bigrams": 2},
            prompt_tail={"nll_nats": 7.5, "bertscore_f1": 0.4, "repeated_tokens": 2, "distinct_bigrams": 4},
            empty={"nll_nats": 2.0, "judged_tokens": 1, "utf8_bytes": 0, "bertscore_f1": 0.0, "diversity_tokens": 0,
                   "entropy_nats": None, "bigrams": 0, "distinct_bigrams": 0, "repeated_tokens": 0},
        )
    )  # fmt: skip
    values = quality.compute(job)
    assert values["quality/perplexity_floor"] == pytest.approx(math.exp(2.0))  # lower is better: empty
    assert values["quality/bits_per_byte_floor"] == pytest.approx(7.5 / math.log(2) / 10)  # empty has no bytes
    assert values["quality/bertscore_f1_floor"] == pytest.approx(0.4)
    assert values["quality/distinct_2_floor"] == 1.0
    assert values["quality/repetition_floor"] == pytest.approx(0.2)
    assert quality.floor_subject(job, "quality/perplexity") == "empty"
    assert quality.per_prompt(job, "quality/bertscore_f1_floor") == {"a": (0.4, 1.0)}
    assert "quality/perplexity" not in values
    assert "quality/perplexity_human" not in values


def test_a_floor_text_that_only_easy_prompts_have_is_compared_on_those():
    """4 of 40 prompts have a reference to shuffle: 2 nats a token there; the prompt's tail has 1.5, and 5 elsewhere.

    Each over its own prompts, 2.0 against (4 x 1.5 + 36 x 5) / 40 = 4.65, the worse of the two would look the better.
    """
    job = record(
        [
            replace(A, prompt_id=str(i), subject=subject, nll_nats=nats * 3)
            for i in range(40)
            for subject, nats in (("output", 1.0), ("shuffled", 2.0), ("prompt_tail", 1.5 if i < 4 else 5.0))
            if subject != "shuffled" or i < 4
        ]
    )
    assert quality.floor_subject(job, "quality/perplexity") == "prompt_tail"
    assert len(quality.per_prompt(job, "quality/perplexity_floor")) == 40
    assert quality.compute(job)["quality/perplexity_floor"] == pytest.approx(math.exp(4.65))


def test_floor_texts_that_share_no_prompt_leave_the_one_that_most_prompts_have():
    subjects = ["shuffled", "prompt_tail", "prompt_tail"]
    scores = [replace(A, prompt_id=str(i), subject=s, nll_nats=float(i + 1)) for i, s in enumerate(subjects)]
    assert quality.floor_subject(record(scores), "quality/perplexity") == "prompt_tail"


def test_the_human_companion_is_the_same_formula_over_references():
    human = replace(A, subject="human", bertscore_f1=None, bertscore_precision=None, bertscore_recall=None)
    values = quality.compute(record([human]))
    assert values["quality/perplexity_human"] == pytest.approx(math.exp(2))
    assert values["quality/entropy_human"] == 1.0
    assert not [key for key in values if "bertscore" in key]
    assert quality.per_prompt(record([human]), "quality/distinct_2_human") == {"a": (3, 4)}


def test_what_was_not_measured_is_absent():
    bare = PromptScore(prompt_id="a", subject="output", utf8_bytes=3)
    assert quality.compute(record([bare])) == {}
    assert quality.per_prompt(record([bare]), "quality/entropy") == {}
    assert quality.per_prompt(record([bare]), "quality/entropy_floor") == {}
    assert quality.compute(record([replace(A, nll_nats=0.0, judged_tokens=0)])).get("quality/perplexity") is None
    assert quality.compute(record([replace(A, nll_nats=3000.0)])).get("quality/perplexity") is None  # no float
    assert quality.compute(record([replace(A, nll_nats=math.nan)])).get("quality/perplexity") is None
    assert "quality/bits_per_byte" not in quality.compute(record([EMPTY]))


def test_likelihood_is_nats_in_bits_per_byte_of_text():
    held = Likelihood(nll_nats=50.0, utf8_bytes=20, bound=True, standard_error_nats=1.0)
    assert quality.compute(record(likelihood=held)) == {
        "likelihood/bits_per_byte": pytest.approx(50 / math.log(2) / 20)
    }


def test_every_key_is_registered_and_unknown_keys_are_refused():
    more = {"other_nll_nats": (7.0, 8.0), "shared_4grams": 0.1, "second_nll_nats": 5.0, "second_judged_tokens": 2}
    job = record(
        [replace(A, **more), replace(A, subject="human"), *floors(shuffled={}, prompt_tail={}, empty={})],
        [output("a", "x", 1)],
    )
    for key in quality.compute(job):
        assert key.removesuffix("_floor").removesuffix("_human") in METRICS
    registered = {key for key in METRICS if key.startswith("quality/")} - {"quality/accuracy"}
    assert registered <= set(quality.compute(job))
    with pytest.raises(KeyError):
        quality.per_prompt(job, "quality/beauty")
