"""How often data was looked at, and at which error a verdict then tests."""

import json
from dataclasses import replace
from typing import Any

import pytest

from llmbench.analysis.looks import look, registration
from llmbench.analysis.parity import verdicts
from llmbench.config import MarginsConfig, ParityConfig
from llmbench.errors import RecordError
from llmbench.record import Record
from records import make_record, make_sweep

MARGINS = {"perplexity": 0.1, "bits_per_byte": 0.04, "bertscore_f1": 0.01, "accuracy": 0.02, "entropy": 0.1}


def registered(record: Record, steps: list[int], looks: int = 1, **margins: float) -> Record:
    """A Record as a job leaves it: with what its sweep had committed itself to."""
    own: dict[str, Any] = {"parity": {"margins": MARGINS | margins, "looks": looks}, "tracking": {"steps_axis": steps}}
    return replace(record, config=record.config | own)


def test_one_plan_is_one_look_at_five_percent() -> None:
    found = look([registered(record, [8, 16, 32, 64]) for record in make_sweep()])
    assert (found.taken, found.alpha, found.error, found.note) == (1, 0.05, "5 % error", "")


def test_announced_looks_share_the_error() -> None:
    found = look([registered(record, [8], looks=4) for record in make_sweep()])
    assert (found.alpha, found.error) == (0.0125, "1.25 % error")


def test_a_longer_k_over_old_jobs_is_a_second_look_and_says_so() -> None:
    old = [registered(record, [8, 16]) for record in make_sweep((8, 16))]
    new = [registered(record, [8, 16, 32, 64]) for record in make_sweep((32, 64))[1:]]
    (verdict,) = verdicts([*old, *new])
    assert (verdict.looks_taken, verdict.alpha) == (2, 0.05)
    assert "10 % error, 2 looks" in verdict.sentence
    assert verdict.warnings[0].startswith("unannounced look: K grew")
    announced = [registered(r, list(r.config["tracking"]["steps_axis"]), looks=2) for r in (*old, *new)]
    (verdict,) = verdicts(announced)
    assert (verdict.looks_taken, verdict.alpha) == (2, 0.025)
    assert "unannounced" not in " ".join(verdict.warnings)


def test_other_margins_after_the_run_are_a_second_look_and_are_named() -> None:
    records = [registered(record, [8, 16, 32, 64]) for record in make_sweep()]
    wider = ParityConfig(margins=MarginsConfig(perplexity=0.3, entropy=0.3))
    (verdict,) = verdicts(records, options=wider)
    assert verdict.metrics[0].reached == 16
    assert "10 % error, 2 looks" in verdict.sentence
    assert "margin of entropy, margin of perplexity changed" in verdict.warnings[0]


def test_the_margins_of_the_run_are_taken_where_none_are_given() -> None:
    records = [registered(record, [8, 16, 32, 64], perplexity=0.3, entropy=0.3) for record in make_sweep()]
    (verdict,) = verdicts(records)
    assert (verdict.metrics[0].reached, verdict.looks_taken) == (16, 1)


def test_a_registration_holds_all_that_a_verdict_will_test() -> None:
    said = json.loads(registration(ParityConfig(), [8, 16]))
    assert said == {"margins": MARGINS, "looks": 1, "error": 0.05, "steps": [8, 16]}


def test_margins_that_cannot_be_read_are_refused() -> None:
    broken = replace(make_record("llama"), config={"parity": {"margins": {"perplexity": "wide"}}})
    with pytest.raises(RecordError, match="llama: its margins cannot be read"):
        look([broken])
