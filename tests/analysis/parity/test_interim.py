"""At which error a verdict tests, and what counts as a further analysis of its question."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.grouping import group
from llmbench.analysis.parity.interim import AnalysisPlan, PastAnalysis, Terms, terms
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Status
from llmbench.config.parity import ChatConfig, MarginsConfig, ParityConfig, ThresholdsConfig
from llmbench.errors import RecordError
from llmbench.record import JobContext, Record
from records import CURVE, make_record, make_sweep, with_curve

ALL = [8, 16, 32, 64]


def under_plan(records: Sequence[Record], steps: list[int] = ALL, planned: int = 1, **margins: float) -> list[Record]:
    """Records as jobs leave them: with what their sweep had committed itself to."""
    own: dict[str, Any] = {"parity": {"margins": margins, "planned_analyses": planned}}
    context = JobContext(steps_axis=tuple(steps))
    return [replace(record, config=record.config | own, context=context) for record in records]


def rewritten(records: Sequence[Record]) -> list[Record]:
    """The same jobs with other texts: drawn anew."""
    return [
        replace(record, outputs=tuple(replace(output, text=f"{output.text}!") for output in record.outputs))
        for record in records
    ]


def terms_of(records: Sequence[Record], **more: Any) -> Terms:
    return terms(group(records), **more)


def in_turn(*sweeps: Sequence[Record], options: Sequence[ParityConfig | None] = ()) -> list[Parity]:
    """The verdicts of sweeps into one experiment, one after the other."""
    found: list[Parity] = []
    for records, chosen in zip(sweeps, options or [None] * len(sweeps), strict=True):
        history = [item.analysis for item in found if item.analysis is not None]
        found += verdicts(records, options=chosen, history=history)
    return found


@pytest.mark.parametrize(("planned", "alpha"), [(1, 0.05), (4, 0.0125)])
def test_planned_analyses_share_the_error(planned: int, alpha: float) -> None:
    found = terms_of(under_plan(make_sweep(), planned=planned))
    assert (found.analyses, found.alpha, found.unplanned) == (1, alpha, ())


def test_a_longer_k_over_old_jobs_is_a_second_analysis_and_says_so() -> None:
    old = under_plan(make_sweep((8, 16)), [8, 16])
    new = under_plan(make_sweep((32, 64))[1:])
    (verdict,) = verdicts([*old, *new])
    assert (verdict.analyses, verdict.alpha, verdict.unplanned) == (2, 0.05, ("steps",))
    planned = [*under_plan(make_sweep((8, 16)), [8, 16], 2), *under_plan(make_sweep((32, 64))[1:], planned=2)]
    assert (terms_of(planned).alpha, terms_of(planned).unplanned) == (0.025, ())


def test_a_k_that_is_cut_afterwards_is_never_planned() -> None:
    found = terms_of(under_plan(make_sweep(), planned=3)[:3])  # k = 32 and 64 are left out
    assert (found.analyses, found.alpha, found.unplanned) == (2, 0.05, ("steps",))


def test_a_failed_job_is_part_of_k() -> None:
    records = under_plan([*make_sweep((8, 16, 32)), make_record("llada", 64, status="failed", reason="out of memory")])
    (verdict,) = verdicts(records)
    assert verdict.analyses == 1


def test_other_margins_after_the_run_are_a_second_analysis_and_are_named() -> None:
    wider = ParityConfig(margins=MarginsConfig(perplexity=0.3))
    (verdict,) = verdicts(under_plan(make_sweep()), options=wider)
    assert (verdict.metrics[0].margin, verdict.analyses, verdict.unplanned) == (0.3, 2, ("parity.margins.perplexity",))


def test_the_margins_of_the_run_are_taken_where_none_are_given() -> None:
    (verdict,) = verdicts(under_plan(make_sweep(), perplexity=0.3))
    assert (verdict.metrics[0].margin, verdict.analyses) == (0.3, 1)


def test_a_margin_on_entropy_of_an_older_version_is_dropped() -> None:
    (verdict,) = verdicts(under_plan(make_sweep(), perplexity=0.3, entropy=0.1))
    assert (verdict.options.margins, verdict.analyses) == (MarginsConfig(perplexity=0.3), 1)
    assert verdict.analysis is not None
    text = verdict.analysis.to_json().replace('"accuracy"', '"entropy": 0.1, "accuracy"')
    assert PastAnalysis.from_json(text) == verdict.analysis


# What earlier sweeps of the experiment left


def test_a_plain_repeat_is_the_same_analysis_however_often() -> None:
    found = in_turn(*[under_plan(make_sweep())] * 3)
    assert [item.analyses for item in found] == [1, 1, 1]
    assert len({str(item) for item in found}) == 1


def test_a_slower_repeat_with_the_same_texts_is_the_same_analysis() -> None:
    slower = under_plan(
        [make_sweep()[0], *[replace(r, started_at="2026-11-24T10:00:00+00:00") for r in make_sweep()[1:]]]
    )
    assert in_turn(under_plan(make_sweep()), slower)[1].analyses == 1


def test_a_repeat_completes_the_analysis_in_which_a_job_failed() -> None:
    broken = [*make_sweep((8, 16, 32)), make_record("llada", 64, status="failed", reason="out of memory")]
    first, second, third = in_turn(under_plan(broken), under_plan(make_sweep()), under_plan(rewritten(make_sweep())))
    assert first.status is Status.INVALID
    assert (second.analyses, second.alpha) == (1, 0.05)
    assert third.analyses == 2


def test_the_same_plan_measured_anew_with_other_texts_is_another_chance() -> None:
    first, second = in_turn(under_plan(make_sweep(), planned=2), under_plan(rewritten(make_sweep()), planned=2))
    assert (first.alpha, second.analyses, second.alpha) == (0.025, 2, 0.05)  # planned were analyses of growing data
    assert second.unplanned == ("texts",)


def test_the_texts_of_the_curve_are_part_of_an_analysis() -> None:
    plain = with_curve(make_sweep())
    again = [*plain[:5], *rewritten(plain[5:])]
    first, second = in_turn(under_plan(plain), under_plan(again))
    assert first.analysis is not None
    assert set(first.analysis.texts) == {"", "8", "16", "32", "64", *(f"T={t:g}" for t in CURVE)}
    assert (second.analyses, second.unplanned) == (2, ("texts",))
    assert in_turn(under_plan(plain[:5]), under_plan(plain))[1].analyses == 1  # texts that were not there yet


def test_more_prompts_are_the_next_analysis_planned_or_not() -> None:
    def sizes(planned: int) -> list[list[Record]]:
        return [
            under_plan(make_sweep(prompts=n, conditions={"workload": f"w{n}"}), planned=planned) for n in (8, 16, 32)
        ]

    unplanned, planned = in_turn(*sizes(1)), in_turn(*sizes(3))
    assert [item.analyses for item in unplanned] == [item.analyses for item in planned] == [1, 2, 3]
    assert [item.alpha for item in unplanned] == [0.05] * 3
    assert [item.alpha for item in planned] == pytest.approx([0.05 / 3] * 3)
    beyond = in_turn(*sizes(2))
    assert (beyond[1].alpha, beyond[2].alpha) == (0.025, 0.05)


def test_prompts_that_grow_inside_one_sweep_are_analyses_too() -> None:
    mixed = [r for n in (16, 8) for r in under_plan(make_sweep(prompts=n, conditions={"workload": f"w{n}"}))]
    assert [(item.prompts, item.analyses) for item in verdicts(mixed)] == [(16, 2), (8, 1)]


def test_fewer_prompts_or_others_are_never_planned() -> None:
    def of(n: int, name: str) -> list[Record]:
        return under_plan(make_sweep(prompts=n, conditions={"workload": name}), planned=5)

    for second in (of(8, "w8"), of(16, "others")):
        found = in_turn(of(16, "w16"), second)[1]
        assert (found.analyses, found.alpha) == (2, 0.05)
        assert found.unplanned == ("prompts",)


def test_planning_afterwards_is_no_plan() -> None:
    records = under_plan(make_sweep())
    found = in_turn(records, under_plan(rewritten(make_sweep()), planned=2))[1]
    assert (found.analyses, found.alpha) == (2, 0.05)
    assert found.unplanned == ("parity.planned_analyses",)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (ParityConfig(margins=MarginsConfig(perplexity=0.3)), "parity.margins.perplexity"),
        (ParityConfig(thresholds=ThresholdsConfig(empty_share=0.0)), "parity.thresholds.empty_share"),
        (ParityConfig(thresholds=ThresholdsConfig(length_share=0.95)), "parity.thresholds.length_share"),
        (ParityConfig(thresholds=ThresholdsConfig(roofline_share=0.9)), "parity.thresholds.roofline_share"),
    ],
)
def test_other_terms_over_data_measured_anew_are_an_analysis(options: ParityConfig, named: str) -> None:
    found = in_turn(make_sweep(), make_sweep(), options=(ParityConfig(), options))[1]
    assert (found.analyses, found.alpha) == (2, 0.05)
    assert found.unplanned == (named,)


def test_the_threshold_for_chat_is_no_term_of_parity() -> None:
    options = (ParityConfig(), ParityConfig(chat=ChatConfig(first_text_ms=5.0)))
    assert in_turn(make_sweep(), make_sweep(), options=options)[1].analyses == 1


def test_more_seeds_are_the_next_analysis() -> None:
    def seeds(*wanted: str) -> list[Record]:
        found = [
            replace(r, identity=f"{r.identity}{seed}", conditions=r.conditions | {"seed": seed})
            for seed in wanted
            for r in make_sweep()
        ]
        return under_plan(found, planned=2)

    first, second = in_turn(seeds("1"), seeds("1", "2", "3"))
    assert (first.analyses, second.analyses, second.alpha) == (1, 2, 0.025)
    shrunk = in_turn(seeds("1", "2"), seeds("2"))[1]
    assert shrunk.unplanned == ("seeds",)


def test_another_question_is_not_counted() -> None:
    hot = under_plan(make_sweep(temperature=1.0))
    elsewhere = under_plan(make_sweep(conditions={"judge": "j1"}))
    found = in_turn(hot, elsewhere, under_plan(make_sweep()))
    assert [item.analyses for item in found] == [1, 1, 1]


def test_without_quality_or_a_side_nothing_is_analysed() -> None:
    assert verdicts(make_sweep(perplexity=None))[0].analysis is None
    assert verdicts(make_sweep()[:1])[0].analysis is None


def test_going_back_to_the_first_plan_is_the_first_analysis_again() -> None:
    plain, wide = ParityConfig(), ParityConfig(margins=MarginsConfig(perplexity=0.3))
    found = in_turn(*[make_sweep()] * 3, options=(plain, wide, plain))
    assert [item.analyses for item in found] == [1, 2, 1]


# What is written down


def test_a_plan_holds_all_that_a_verdict_will_test_and_comes_back() -> None:
    margins, thresholds = MarginsConfig(accuracy=0.01), ThresholdsConfig(empty_share=0.01)
    plan = AnalysisPlan(options=ParityConfig(margins=margins, thresholds=thresholds, planned_analyses=3), steps=(8, 16))
    assert json.loads(plan.to_json()) == {
        "margins": {"perplexity": 0.1, "bits_per_byte": 0.04, "bertscore_f1": 0.01, "accuracy": 0.01},
        "thresholds": {"empty_share": 0.01, "length_share": 0.9, "roofline_share": 0.5},
        "chat": {"first_text_ms": 1000.0, "e2e_ms": 10_000.0},
        "planned_analyses": 3,
        "baseline_temperatures": None,
        "error": 0.05,
        "steps": [8, 16],
    }
    assert AnalysisPlan.from_json(plan.to_json()) == plan
    assert AnalysisPlan.from_json(plan.to_json().replace("planned_analyses", "looks")) == plan  # of version 0.2
    with pytest.raises(RecordError, match="not a plan"):
        AnalysisPlan.from_json("[]")


def test_an_analysis_comes_back_from_the_store_as_it_went_in() -> None:
    analysis = verdicts(make_sweep())[0].analysis
    assert analysis is not None
    assert PastAnalysis.from_json(analysis.to_json()) == analysis
    assert PastAnalysis.from_json(analysis.to_json().replace("planned_analyses", "looks")) == analysis
    for text in ("{}", "[]", "no JSON"):
        with pytest.raises(RecordError, match="not an analysis"):
            PastAnalysis.from_json(text)


def test_margins_that_cannot_be_read_are_refused() -> None:
    broken = [replace(r, config={"parity": {"margins": {"perplexity": "wide"}}}) for r in make_sweep()]
    with pytest.raises(RecordError, match="llama: its margins cannot be read"):
        terms_of(broken)
