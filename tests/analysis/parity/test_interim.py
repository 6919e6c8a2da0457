"""How often data was looked at, and at which error a verdict then tests: what counts as a look, and what does not."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.grouping import group
from llmbench.analysis.parity.interim import Look, Taken, look, registered, registration
from llmbench.analysis.parity.verdict import Parity, Status
from llmbench.config.parity import ChatConfig, MarginsConfig, ParityConfig, ThresholdsConfig
from llmbench.errors import RecordError
from llmbench.record import Record
from records import make_record, make_sweep

ALL = [8, 16, 32, 64]


def registered_as(record: Record, steps: list[int], looks: int = 1, **margins: float) -> Record:
    """A Record as a job leaves it: with what its sweep had committed itself to."""
    own: dict[str, Any] = {"parity": {"margins": margins, "looks": looks}, "tracking": {"steps_axis": steps}}
    return replace(record, config=record.config | own)


def under_plan(records: Sequence[Record], steps: list[int] = ALL, looks: int = 1, **margins: float) -> list[Record]:
    return [registered_as(record, steps, looks, **margins) for record in records]


def rewritten(records: Sequence[Record]) -> list[Record]:
    """The same jobs with other texts: drawn anew."""
    return [
        replace(record, outputs=tuple(replace(output, text=f"{output.text}!") for output in record.outputs))
        for record in records
    ]


def the_look(records: Sequence[Record], **more: Any) -> Look:
    return look(group(records), **more)


def in_turn(*sweeps: Sequence[Record], options: Sequence[ParityConfig | None] = ()) -> list[Parity]:
    """The verdicts of sweeps into one experiment, one after the other."""
    found: list[Parity] = []
    for records, chosen in zip(sweeps, options or [None] * len(sweeps), strict=True):
        history = [item.look for item in found if item.look is not None]
        found += verdicts(records, options=chosen, history=history)
    return found


def test_one_plan_is_one_look_at_five_percent() -> None:
    found = the_look(under_plan(make_sweep()))
    assert (found.taken, found.alpha, found.error, found.note) == (1, 0.05, "5 % error", "")


def test_announced_looks_share_the_error() -> None:
    found = the_look(under_plan(make_sweep(), looks=4))
    assert (found.alpha, found.error) == (0.0125, "1.25 % error")


def test_a_longer_k_over_old_jobs_is_a_second_look_and_says_so() -> None:
    old = under_plan(make_sweep((8, 16)), [8, 16])
    new = under_plan(make_sweep((32, 64))[1:])
    (verdict,) = verdicts([*old, *new])
    assert (verdict.looks_taken, verdict.alpha) == (2, 0.05)
    assert "at most 10 % error: 5 % x 2 looks, unannounced" in verdict.sentence
    assert verdict.warnings[0].startswith("unannounced look: K grew")
    announced = [registered_as(r, list(r.config["tracking"]["steps_axis"]), looks=2) for r in (*old, *new)]
    (verdict,) = verdicts(announced)
    assert (verdict.looks_taken, verdict.alpha) == (2, 0.025)
    assert "unannounced" not in " ".join(verdict.warnings)


def test_a_k_that_is_cut_afterwards_is_a_look_even_if_looks_were_announced() -> None:
    records = under_plan(make_sweep(), looks=3)
    (verdict,) = verdicts(records[:3])  # k = 32 and 64 are left out
    assert (verdict.looks_taken, verdict.alpha) == (2, 0.05)
    assert "K changed from 8,16,32,64 to 8,16" in verdict.warnings[0]


def test_a_failed_job_is_part_of_k() -> None:
    records = under_plan([*make_sweep((8, 16, 32)), make_record("llada", 64, status="failed", reason="out of memory")])
    (verdict,) = verdicts(records)
    assert verdict.looks_taken == 1
    assert "unannounced" not in " ".join(verdict.warnings)


def test_other_margins_after_the_run_are_a_second_look_and_are_named() -> None:
    records = under_plan(make_sweep())
    wider = ParityConfig(margins=MarginsConfig(perplexity=0.3, entropy=0.3))
    (verdict,) = verdicts(records, options=wider)
    assert verdict.metrics[0].reached == 16
    assert "at most 10 % error: 5 % x 2 looks" in verdict.sentence
    assert "margin of entropy, margin of perplexity changed" in verdict.warnings[0]


def test_the_margins_of_the_run_are_taken_where_none_are_given() -> None:
    (verdict,) = verdicts(under_plan(make_sweep(), perplexity=0.3, entropy=0.3))
    assert (verdict.metrics[0].reached, verdict.looks_taken) == (16, 1)


# What earlier sweeps of the experiment took


def test_a_plain_repeat_is_the_same_look_however_often() -> None:
    found = in_turn(*[under_plan(make_sweep())] * 3)
    assert [item.looks_taken for item in found] == [1, 1, 1]
    assert {item.sentence for item in found} == {found[0].sentence}


def test_a_slower_repeat_with_the_same_texts_is_the_same_look() -> None:
    slower = under_plan(
        [make_sweep()[0], *[replace(r, started_at="2026-11-24T10:00:00+00:00") for r in make_sweep()[1:]]]
    )
    assert in_turn(under_plan(make_sweep()), slower)[1].looks_taken == 1


def test_a_repeat_completes_the_look_in_which_a_job_failed() -> None:
    broken = [*make_sweep((8, 16, 32)), make_record("llada", 64, status="failed", reason="out of memory")]
    first, second, third = in_turn(under_plan(broken), under_plan(make_sweep()), under_plan(rewritten(make_sweep())))
    assert first.status is Status.INVALID
    assert (second.looks_taken, second.alpha) == (1, 0.05)
    assert third.looks_taken == 2


def test_the_same_plan_measured_anew_with_other_texts_is_another_chance() -> None:
    announced = under_plan(make_sweep(), looks=2), under_plan(rewritten(make_sweep()), looks=2)
    second = in_turn(*announced)[1]
    assert (second.looks_taken, second.alpha) == (2, 0.05)  # announced were looks at growing data
    assert "the same plan was measured anew and gave other texts" in second.warnings[0]


def test_more_prompts_are_the_next_look_announced_or_not() -> None:
    def sizes(looks: int) -> list[list[Record]]:
        return [under_plan(make_sweep(prompts=n, conditions={"workload": f"w{n}"}), looks=looks) for n in (8, 16, 32)]

    silent, told = in_turn(*sizes(1)), in_turn(*sizes(3))
    assert [item.looks_taken for item in silent] == [item.looks_taken for item in told] == [1, 2, 3]
    assert [item.alpha for item in silent] == [0.05] * 3
    assert "prompts grew from 16 to 32" in silent[2].warnings[0]
    assert "at most 15 % error: 5 % x 3 looks, unannounced" in silent[2].sentence
    assert [item.alpha for item in told] == pytest.approx([0.05 / 3] * 3)
    assert "unannounced" not in " ".join(item.sentence for item in told)
    beyond = in_turn(*sizes(2))
    assert (beyond[1].alpha, beyond[2].alpha) == (0.025, 0.05)
    assert "5 % x 3 looks, unannounced" in beyond[2].sentence


def test_prompts_that_grow_inside_one_sweep_are_looks_too() -> None:
    mixed = [r for n in (16, 8) for r in under_plan(make_sweep(prompts=n, conditions={"workload": f"w{n}"}))]
    assert [(item.prompts, item.looks_taken) for item in verdicts(mixed)] == [(16, 2), (8, 1)]


def test_fewer_prompts_or_others_are_never_announced() -> None:
    def of(n: int, name: str) -> list[Record]:
        return under_plan(make_sweep(prompts=n, conditions={"workload": name}), looks=5)

    for second in (of(8, "w8"), of(16, "others")):
        found = in_turn(of(16, "w16"), second)[1]
        assert (found.looks_taken, found.alpha) == (2, 0.05)
        assert "the prompts changed" in found.warnings[0]


def test_announcing_afterwards_is_no_announcement() -> None:
    records = under_plan(make_sweep())
    found = in_turn(records, under_plan(rewritten(make_sweep()), looks=2))[1]
    assert (found.looks_taken, found.alpha) == (2, 0.05)
    assert "looks changed" in found.warnings[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (ParityConfig(margins=MarginsConfig(perplexity=0.3)), "margin of perplexity changed"),
        (ParityConfig(thresholds=ThresholdsConfig(empty_share=0.0)), "threshold of empty_share changed"),
        (ParityConfig(thresholds=ThresholdsConfig(length_share=0.95)), "threshold of length_share changed"),
        (ParityConfig(thresholds=ThresholdsConfig(roofline_share=0.9)), "threshold of roofline_share changed"),
    ],
)
def test_other_terms_over_data_measured_anew_are_a_look(options: ParityConfig, named: str) -> None:
    found = in_turn(make_sweep(), make_sweep(), options=(ParityConfig(), options))[1]
    assert (found.looks_taken, found.alpha) == (2, 0.05)
    assert named in found.warnings[0]


def test_the_threshold_for_chat_is_no_term_of_parity() -> None:
    options = (ParityConfig(), ParityConfig(chat=ChatConfig(first_text_ms=5.0)))
    assert in_turn(make_sweep(), make_sweep(), options=options)[1].looks_taken == 1


def test_more_seeds_are_the_next_look() -> None:
    def seeds(*wanted: str) -> list[Record]:
        found = [
            replace(r, identity=f"{r.identity}{seed}", conditions=r.conditions | {"seed": seed})
            for seed in wanted
            for r in make_sweep()
        ]
        return under_plan(found, looks=2)

    first, second = in_turn(seeds("1"), seeds("1", "2", "3"))
    assert (first.looks_taken, second.looks_taken, second.alpha) == (1, 2, 0.025)
    shrunk = in_turn(seeds("1", "2"), seeds("2"))[1]
    assert "seeds changed from 1,2 to 2" in shrunk.warnings[0]


def test_another_question_is_no_look_at_this_one() -> None:
    hot = under_plan(make_sweep(temperature=1.0))
    elsewhere = under_plan(make_sweep(conditions={"judge": "j1"}))
    found = in_turn(hot, elsewhere, under_plan(make_sweep()))
    assert [item.looks_taken for item in found] == [1, 1, 1]


def test_without_quality_or_a_side_nothing_is_looked_at() -> None:
    assert verdicts(make_sweep(perplexity=None))[0].look is None
    assert verdicts(make_sweep()[:1])[0].look is None


def test_going_back_to_the_first_plan_is_the_first_look_again() -> None:
    plain, wide = ParityConfig(), ParityConfig(margins=MarginsConfig(perplexity=0.3))
    found = in_turn(*[make_sweep()] * 3, options=(plain, wide, plain))
    assert [item.looks_taken for item in found] == [1, 2, 1]


# What is written down


def test_a_registration_holds_all_that_a_verdict_will_test_and_comes_back() -> None:
    options = ParityConfig(margins=MarginsConfig(accuracy=0.01), thresholds=ThresholdsConfig(empty_share=0.01), looks=3)
    said = json.loads(registration(options, [8, 16]))
    assert said == {
        "margins": {"perplexity": 0.1, "bits_per_byte": 0.04, "bertscore_f1": 0.01, "accuracy": 0.01, "entropy": 0.1},
        "thresholds": {"empty_share": 0.01, "length_share": 0.9, "roofline_share": 0.5},
        "chat": {"first_text_ms": 1000.0, "e2e_ms": 10_000.0},
        "looks": 3,
        "error": 0.05,
        "steps": [8, 16],
    }
    assert registered(registration(options, [8, 16])) == options
    assert registered(None) is None
    with pytest.raises(RecordError, match="not a registration"):
        registered("[]")


def test_a_look_comes_back_from_the_store_as_it_went_in() -> None:
    taken = verdicts(make_sweep())[0].look
    assert taken is not None
    assert Taken.parse(taken.dump()) == taken
    with pytest.raises(RecordError, match="not a look"):
        Taken.parse("{}")


def test_margins_that_cannot_be_read_are_refused() -> None:
    broken = [replace(r, config={"parity": {"margins": {"perplexity": "wide"}}}) for r in make_sweep()]
    with pytest.raises(RecordError, match="llama: its margins cannot be read"):
        the_look(broken)
