"""What texts must pass besides the metric: each Check stops parity on its own, and none makes a k worse."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.text_checks import halves
from llmbench.analysis.parity.verdict import Check, CheckName, Status
from llmbench.record import PromptScore, Record
from records import make_record, make_sweep, rescored, with_curve

LLAMA = {"perplexity": 45.0, "entropy": 3.2}


def judged(baseline: Sequence[Record] | None = None, prompts: int = 8, **changes: Any) -> Parity:
    """LLaDA at k = 8, as good as LLaMA and as varied as at temperature 0.8, with texts that have these values."""
    llama = baseline or with_curve([make_record("llama", prompts=prompts, **LLAMA)])
    return parity(
        [*llama, make_record("llada", 8, prompts=prompts, **({"perplexity": 45.0, "entropy": 3.29} | changes))]
    )


def failed(verdict: Parity, name: CheckName) -> Check:
    """The only Check that failed; it stops parity, and the test itself passed."""
    assert [check.name for check in verdict.failed_checks] == [name]
    check = verdict.failed_checks[0]
    assert (check.blocks, check.steps, check.metrics) == ("reached", 8, ("quality/perplexity", "quality/bits_per_byte"))
    assert [test.passes for item in verdict.metrics[:2] for test in item.tests] == [True, True]
    assert verdict.status is Status.UNDECIDED
    return check


def test_texts_like_the_baselines_pass_every_check() -> None:
    verdict = judged()
    assert (verdict.status, verdict.failed_checks) == (Status.REACHED, ())
    assert [check.name for check in verdict.checks if check.blocks == "reached"] == [
        CheckName.RELEVANCE,
        CheckName.ECHO,
        CheckName.RELEVANCE_ASSAY,
        CheckName.COPYING,
        CheckName.REPETITION,
        CheckName.SHORT,
    ]


@pytest.mark.parametrize(("relevance", "passes"), [(0.075, True), (0.055, False), (0.045, False), (0.0, False)])
def test_texts_that_depend_less_on_their_prompts(relevance: float, passes: bool) -> None:
    verdict = judged(relevance=relevance)
    assert (verdict.status is Status.REACHED) is passes
    if not passes:
        values = failed(verdict, CheckName.RELEVANCE).values
        assert values["difference"] == pytest.approx(relevance - 0.11)
        assert (values["reference"], values["limit"]) == (pytest.approx(0.11), -0.05)
        assert isinstance(values["lower"], float)
        assert values["lower"] < -0.05


@pytest.mark.parametrize(("relevance", "passes"), [(0.19, True), (0.22, False), (0.3, False)])
def test_texts_that_repeat_their_prompts(relevance: float, passes: bool) -> None:
    """Halfway from LLaMA's 0.11 to the prompt's tail, 0.3."""
    verdict = judged(relevance=relevance)
    assert (verdict.status is Status.REACHED) is passes
    if not passes:
        values = failed(verdict, CheckName.ECHO).values
        assert (values["limit"], values["echo"]) == pytest.approx((0.205, 0.3), abs=1e-6)
        assert values["difference"] == pytest.approx(relevance - 0.205)


def test_relevance_must_tell_the_baselines_own_prompts_from_others() -> None:
    def blind(score: PromptScore) -> PromptScore:  # as likely under the second other prompt as under the own one
        assert score.other_nll_nats is not None
        assert score.nll_nats is not None
        return replace(score, other_nll_nats=(score.nll_nats - 0.1, score.nll_nats + 2.2 * 2 + 0.1))

    llama = [rescored(r, blind) for r in with_curve([make_record("llama", **LLAMA)])]
    values = failed(judged(llama), CheckName.RELEVANCE_ASSAY).values
    assert (values["value"], values["floor"]) == pytest.approx((0.11, (2.2 * 2 + 0.2) / 20))
    assert values["limit"] == 0.05


@pytest.mark.parametrize(("copying", "passes"), [(0.29, True), (0.31, False), (0.5, False), (1.0, False)])
def test_texts_that_share_their_4grams(copying: float, passes: bool) -> None:
    verdict = judged(copying=copying)
    assert (verdict.status is Status.REACHED) is passes
    if not passes:
        values = failed(verdict, CheckName.COPYING).values
        assert (values["value"], values["reference"], values["limit"]) == pytest.approx((copying, 0.05, 0.3))


@pytest.mark.parametrize(("repetition", "passes"), [(0.15, True), (0.2, False), (0.6, False)])
def test_texts_that_loop_behind_the_prefix(repetition: float, passes: bool) -> None:
    verdict = judged(repetition=repetition)
    assert (verdict.status is Status.REACHED) is passes
    if not passes:
        values = failed(verdict, CheckName.REPETITION).values
        assert (values["value"], values["reference"], values["limit"]) == pytest.approx((repetition, 0.05, 0.15))


@pytest.mark.parametrize(("short", "passes"), [(2, True), (3, False)])
def test_texts_that_end_before_the_prefix(short: int, passes: bool) -> None:
    """5 and 7.5 % of 40; LLaMA has none."""
    records = with_curve([make_record("llama", prompts=40, **LLAMA)])
    llada = make_record("llada", 8, prompts=40, perplexity=45.0, entropy=3.29)
    first = {output.prompt_id for output in llada.outputs[:short]}
    llada = rescored(llada, lambda s: replace(s, text_tokens=12) if s.prompt_id in first else s)
    verdict = parity([*records, llada])
    assert (verdict.status is Status.REACHED) is passes
    if not passes:
        values = failed(verdict, CheckName.SHORT).values
        assert (values["value"], values["reference"], values["limit"], values["prefix"]) == (0.075, 0.0, 0.05, 16.0)


def test_the_reference_is_the_baselines_at_equal_entropy() -> None:
    """At entropy 3.29 its temperature lies between 0.8 and 1.0; off the curve the nearest end counts."""
    shares = {"0.8": 0.3, "1.0": 0.5, "0.0": 0.2}

    def copied(record: Record) -> Record:
        share = shares.get(record.conditions["decoding.temperature"], 0.05)
        return rescored(record, lambda s: replace(s, shared_4grams=share))

    llama = [copied(record) for record in with_curve([make_record("llama", **LLAMA)])]
    verdict = judged(llama, copying=0.4)
    test, check = verdict.metrics[0].tests[0], verdict.check(CheckName.COPYING, 8)
    assert check is not None
    assert test.temperature is not None
    assert check.values["reference"] == pytest.approx(0.3 + (test.temperature - 0.8))
    for entropy, reference in ((2.5, 0.2), (3.9, 0.5)):
        check = judged(llama, entropy=entropy).check(CheckName.COPYING, 8)
        assert check is not None
        assert check.values["reference"] == reference


@pytest.mark.parametrize("name", [CheckName.RELEVANCE, CheckName.COPYING, CheckName.REPETITION])
def test_what_was_not_measured_or_is_no_number_stops_parity(name: CheckName) -> None:
    absent = {
        CheckName.RELEVANCE: ({"other_nll_nats": None}, {"other_nll_nats": (float("nan"), 1.0)}),
        CheckName.COPYING: ({"shared_4grams": None}, {"shared_4grams": float("nan")}),
        CheckName.REPETITION: ({"repeated_tokens": None},),
    }[name]
    for change in absent:
        llada = rescored(make_record("llada", 8, perplexity=45.0, entropy=3.29), lambda s: replace(s, **change))  # type: ignore[arg-type]  # noqa: B023
        verdict = parity([*with_curve([make_record("llama", **LLAMA)]), llada])
        assert verdict.status is Status.UNDECIDED
        assert {check.values["measured"] for check in verdict.failed_checks if check.name is name} == {"no"}


@pytest.mark.parametrize("change", [{"relevance": 0.0}, {"relevance": 0.3}, {"copying": 1.0}, {"repetition": 0.9}])
def test_no_check_on_texts_shows_that_a_k_is_worse(change: dict[str, float]) -> None:
    good = parity(with_curve(make_sweep(**change)))  # LLaMA's texts have it too: only the assay and the echo may fail
    assert good.status in (Status.REACHED, Status.UNDECIDED)
    assert judged(**change).status is Status.UNDECIDED
    bad = judged(perplexity=90.0, **change)
    assert (bad.status, bad.metrics[0].tests[0].worse) == (Status.NOT_REACHED, True)


def test_relevance_counts_among_the_prompts_that_would_decide() -> None:
    checks = [check for check in judged(relevance=0.09).checks if check.steps == 8][:6]
    (of_relevance, of_echo) = halves(checks)
    assert of_relevance == (pytest.approx(0.03), checks[0].values["sd"])
    assert of_echo == (pytest.approx(0.205 - 0.09), checks[1].values["sd"])
