"""Records that are made to flatter: none is ever called `reached`, and each is named by what stopped it.

Prompts differ from each other here, so that the tests have something to weigh; values come from the sums by the
project's own formulas.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from llmbench.analysis.parity.analyze import parity, verdicts
from llmbench.analysis.parity.verdict import MetricParity, Parity, Status
from llmbench.config.conf_files import conf_folder
from llmbench.metrics import quality
from llmbench.record import Output, PromptScore, Record, Timing, load
from llmbench.report.assemble import sweep_report
from llmbench.report.tables import parity_table
from records import make_record

PROMPTS = 96
STEPS = (8, 16, 32)


def honest(model: str, steps: int | None = None, *, worse: float = 0.0, entropy: float = 3.2, seed: int = 0) -> Record:
    """A model whose NLL per token is about 3 + `worse`; every prompt has its own."""
    made = make_record(model, steps, prompts=PROMPTS)
    rng = np.random.default_rng(seed + (steps or 0))
    shared = np.random.default_rng(99).normal(0, 0.3, PROMPTS)
    noise = dict(zip((o.prompt_id for o in made.outputs), shared + rng.normal(0, 0.1, PROMPTS), strict=True))
    spread = dict(zip(noise, rng.normal(0, 0.05, PROMPTS), strict=True))

    def own(score: PromptScore) -> PromptScore:
        if score.subject != "output":
            return score
        nll = 20 * (3.0 + worse + noise[score.prompt_id])
        return replace(score, nll_nats=nll, entropy_nats=entropy + spread[score.prompt_id])

    return rescored(made, own)


def rescored(record: Record, change: Callable[[PromptScore], PromptScore | None]) -> Record:
    """A Record with other scores, and the metrics that follow from them."""
    changed = replace(record, scores=tuple(s for score in record.scores if (s := change(score)) is not None))
    others = {key: value for key, value in record.metrics.items() if not key.startswith("quality/")}
    return replace(changed, metrics=others | quality.compute(changed))


def rewritten(record: Record, tokens: Callable[[int, Output], int]) -> Record:
    """A Record whose outputs have other lengths, timed and scored as they are."""
    outputs = tuple(
        replace(o, tokens=(t := tokens(i, o)), text="word " * t, utf8_bytes=5 * t) for i, o in enumerate(record.outputs)
    )
    size = {output.prompt_id: output.utf8_bytes for output in outputs}

    def timed(timing: Timing) -> Timing:
        return replace(timing, tokens=sum(output.tokens for output in outputs if output.batch == timing.batch))

    changed = replace(record, outputs=outputs, timings=tuple(map(timed, record.timings)))
    return rescored(
        changed, lambda s: replace(s, utf8_bytes=size[s.prompt_id] or 0) if s.subject == "output" else s
    )  # fmt: skip


def judged(*candidates: Record, baseline: Record | None = None) -> tuple[Parity, MetricParity]:
    """The verdict on perplexity."""
    verdict = parity([baseline or honest("llama"), *candidates])
    found = verdict.metric("quality/perplexity")
    assert found is not None
    return verdict, found


def all_steps(**changes: float) -> list[Record]:
    return [honest("llada", k, **changes) for k in STEPS]  # type: ignore[arg-type]


def test_an_honest_model_that_is_as_good_is_reached() -> None:
    """Without this the rest would prove nothing."""
    verdict, found = judged(*all_steps())
    assert (verdict.status, found.reached, verdict.gates) == (Status.REACHED, 8, ())


def outputs_only(change: Callable[[PromptScore], PromptScore | None]) -> Callable[[PromptScore], PromptScore | None]:
    return lambda score: change(score) if score.subject == "output" else score


def test_a_repeating_model_is_degenerate() -> None:
    verdict, found = judged(*all_steps(worse=-2.5, entropy=0.7))
    assert (verdict.status, found.s_parity) == (Status.DEGENERATE, 8)
    assert "while its text is less varied (entropy, lower bound" in verdict.sentence


def test_diversity_in_doubt_is_said_to_be_in_doubt() -> None:
    verdict, _ = judged(*all_steps(worse=-0.5, entropy=3.1))
    assert verdict.status is Status.DEGENERATE
    assert "while its text cannot be shown to be as varied" in verdict.sentence


def test_an_empty_model_is_invalid() -> None:
    """The judge scores one stop token an output, and finds it likely."""
    silent = [
        rescored(
            rewritten(record, lambda i, o: 0),
            outputs_only(lambda s: replace(s, nll_nats=0.1, judged_tokens=1, entropy_nats=None, diversity_tokens=0)),
        )
        for record in all_steps()
    ]
    verdict, found = judged(*silent)
    assert (verdict.status, found.s_parity) == (Status.INVALID, 8)
    assert "empty outputs: llada k=32: 100 % of the outputs" in verdict.sentence
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_a_model_that_is_silent_on_the_hard_half_is_invalid() -> None:
    hard = {s.prompt_id for s in honest("llama").scores if s.subject == "output" and (s.nll_nats or 0) > 60}
    assert len(hard) > PROMPTS / 3
    verdict, _ = judged(*[rewritten(r, lambda i, o: 0 if o.prompt_id in hard else o.tokens) for r in all_steps()])
    assert verdict.status is Status.INVALID
    assert "empty outputs: llada k=32" in verdict.sentence


def test_half_length_outputs_are_invalid_for_perplexity() -> None:
    verdict, found = judged(*[rewritten(record, lambda i, o: o.tokens // 2) for record in all_steps(worse=-0.5)])
    assert (verdict.status, found.s_parity) == (Status.INVALID, 8)
    assert "realised length: llada k=32 writes 50 bytes, llama 100 (50%)" in verdict.sentence


def test_twice_as_long_outputs_are_invalid_as_well() -> None:
    verdict, _ = judged(*[rewritten(record, lambda i, o: o.tokens * 2) for record in all_steps()])
    assert "realised length: llada k=32 writes 200 bytes" in verdict.sentence


def test_texts_under_the_wrong_prompts_are_not_reached() -> None:
    """Every text is fluent, and answers another prompt: the judge sees what the shuffled floor shows."""
    verdict, found = judged(*all_steps(worse=1.5))
    assert verdict.status is Status.NOT_REACHED
    assert found.reached is None


def test_prompts_that_changed_places_are_mixed_conditions() -> None:
    def turned(record: Record) -> Record:
        moved = [replace(o, prompt=other.prompt) for o, other in zip(record.outputs, record.outputs[::-1], strict=True)]
        return replace(record, outputs=tuple(moved))

    verdict, _ = judged(*map(turned, all_steps(worse=-0.5)))
    assert verdict.status is Status.INVALID
    assert "mixed conditions: llada k=32 and llama had different prompts under" in verdict.sentence


def test_an_echo_of_the_prompt_finds_a_judge_that_loves_echoes_insensitive() -> None:
    def echoed(score: PromptScore) -> PromptScore:
        return replace(score, nll_nats=20 * 1.8) if score.subject in ("output", "shuffled") else score

    def floor_only(score: PromptScore) -> PromptScore:
        return replace(score, nll_nats=20 * 1.8) if score.subject == "shuffled" else score

    baseline = rescored(honest("llama"), floor_only)
    verdict, found = judged(*[rescored(record, echoed) for record in all_steps()], baseline=baseline)
    assert (verdict.status, found.s_parity) == (Status.INSENSITIVE, 8)
    assert "does not separate LLaMA from its floor" in verdict.sentence


def test_one_lucky_k_below_a_worse_one_is_not_reached() -> None:
    lucky = [honest("llada", k, worse=-0.5 if k == 16 else 0.4) for k in STEPS]
    verdict, found = judged(*lucky)
    assert (found.s_parity, found.reached, found.stopped_at) == (16, None, 32)
    assert verdict.status is Status.UNDECIDED
    assert "k = 32" in verdict.sentence


@pytest.mark.parametrize("worse", [0.1001, 0.15, 0.3, 1.0, 5.0, 300.0])
def test_worse_than_the_margin_by_any_amount_is_never_reached(worse: float) -> None:
    def shifted(score: PromptScore) -> PromptScore:
        return replace(score, nll_nats=(score.nll_nats or 0) + 20 * worse)

    own = honest("llama").scores  # the same texts, each worse by the same amount: nothing is left to chance
    exact = [rescored(replace(honest("llada", k), scores=own), outputs_only(shifted)) for k in STEPS]
    verdict, found = judged(*exact)
    assert found.reached is None
    assert verdict.status is Status.NOT_REACHED


@pytest.mark.parametrize("worse", [1e-9, 1e-4, 0.05])
def test_without_a_margin_nothing_worse_at_all_is_reached(worse: float) -> None:
    from llmbench.config.parity import MarginsConfig, ParityConfig

    strict = ParityConfig(margins=MarginsConfig(perplexity=0.0, entropy=1.0))
    sweep = [make_record("llama", perplexity=45.0), make_record("llada", 8, perplexity=45.0 * math.exp(worse))]
    (verdict,) = verdicts(sweep, options=strict)
    assert verdict.metrics[0].reached is None
    (verdict,) = verdicts([sweep[0], make_record("llada", 8, perplexity=45.0)], options=strict)
    assert verdict.metrics[0].reached == 8


def test_nothing_right_on_both_sides_is_no_parity_in_accuracy() -> None:
    sides = [make_record("llama"), *[make_record("llada", k) for k in STEPS]]
    sides = [replace(record, metrics=record.metrics | {"quality/accuracy": 0.0}) for record in sides]
    found = parity(sides).metric("quality/accuracy")
    assert found is not None
    assert (found.status, found.s_parity, found.reached) == (Status.INVALID, 8, None)
    assert "no sums of quality/accuracy were recorded" in found.sentence


def test_nothing_right_on_both_sides_and_on_the_floor_is_insensitive() -> None:
    """The same with sums per prompt, as a checked workload leaves them."""
    from llmbench.analysis.parity.paired_sums import PairedSums
    from llmbench.analysis.parity.parity_test import run_test

    wrong = np.stack([np.zeros(PROMPTS), np.ones(PROMPTS)], axis=-1)
    names = tuple(map(str, range(PROMPTS)))
    for floor in ((wrong, wrong), None):
        made = PairedSums(prompts=names, baseline=wrong, candidates={8: wrong, 16: wrong}, floor=floor)
        found = run_test(
            made, None, margin=0.02, diversity_margin=0.1, blocked={}, set_blocked="", alpha=0.05,
            rng=np.random.default_rng(0), resamples=100,
        )  # fmt: skip
        assert (found.status, found.reached) == (Status.INSENSITIVE, None)


@pytest.mark.parametrize("side", ["llama", "llada"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_invalid(side: str, value: float) -> None:
    def broken(record: Record) -> Record:
        first = record.outputs[0].prompt_id
        scores = tuple(
            replace(s, nll_nats=value) if (s.prompt_id, s.subject) == (first, "output") else s for s in record.scores
        )
        return replace(record, scores=scores)

    sides = [honest("llama"), *all_steps(worse=-0.5)]
    verdict = parity([broken(record) if record.model == side else record for record in sides])
    assert verdict.status is Status.INVALID
    assert "not finite" in verdict.sentence
    assert "nan" not in verdict.sentence.lower()


@pytest.mark.parametrize("steps", [None, 16])
@pytest.mark.parametrize("encoder", [True, False])
def test_a_judge_that_gives_one_nan_takes_no_metric_away(steps: int | None, encoder: bool, tmp_path: Path) -> None:
    """As a job leaves it: the value is absent, and the Record comes back from the disk."""

    def broken(record: Record) -> Record:
        first = record.outputs[0].prompt_id
        if not encoder:
            record = rescored(record, lambda s: replace(s, bertscore_f1=None))
        if record.steps != steps:
            return record
        odd = rescored(record, outputs_only(lambda s: replace(s, nll_nats=math.nan) if s.prompt_id == first else s))
        assert "quality/perplexity" not in odd.metrics
        return load(odd.save(tmp_path))

    records = [broken(record) for record in (honest("llama"), *all_steps(worse=-0.5))]
    (verdict,) = verdicts(records)
    assert (verdict.status, verdict.headline) == (Status.INVALID, "quality/perplexity")
    where = "llama" if steps is None else f"llada k={steps}"
    assert f"not finite: {where} has quality/perplexity that is not finite for 1 prompts" in verdict.sentence
    assert f"no finite perplexity at {where}" in verdict.point_sentence
    assert ("S_parity = 8" in verdict.point_sentence) is (steps == 16)
    assert "metric.perplexity.judge" in verdict.next_step
    assert [item.curve.metric for item in verdict.metrics if item.status is not Status.INVALID] == (
        ["quality/bertscore_f1"] if encoder else []
    )
    assert Parity.from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False))) == verdict
    assert sweep_report(records, [verdict]).files.keys() >= {"parity.md", "parity.png"}


def test_a_judge_that_gives_nothing_but_nan_leaves_no_speed_only_verdict() -> None:
    sides = [
        rescored(odd(record), lambda s: replace(s, bertscore_f1=None)) for record in (honest("llama"), *all_steps())
    ]
    verdict = parity(sides)
    assert (verdict.status, verdict.headline) == (Status.INVALID, "quality/perplexity")
    assert verdict.point_sentence.startswith("Point estimate: none (no finite perplexity at llama, llada k=8,")
    assert "parity.png" in sweep_report(sides, [verdict]).files


def test_a_perplexity_beyond_all_numbers_is_named() -> None:
    """900 nats a token are a number, and exp(900) is none."""
    lost = rescored(honest("llada", 8), outputs_only(lambda s: replace(s, nll_nats=20 * 900.0)))
    verdict, _ = judged(lost, honest("llada", 16))
    assert verdict.status is Status.INVALID
    assert "not finite: llada k=8 has no quality/perplexity: its sums give no finite number" in verdict.sentence


def test_a_prompt_that_nobody_scored_is_missing() -> None:
    """As in Records older than those that keep NaN: on every side the first prompt has no sum."""
    sides = [honest("llama"), *all_steps()]
    first = sides[0].outputs[0].prompt_id
    blind = [rescored(r, lambda s: replace(s, nll_nats=None) if s.prompt_id == first else s) for r in sides]
    verdict = parity(blind)
    assert verdict.status is Status.INVALID
    assert "prompts missing: llama has no quality/perplexity for 1 of 96 prompts" in verdict.sentence


@pytest.mark.parametrize("side", ["llama", "llada"])
def test_prompts_that_one_side_lacks_are_invalid(side: str) -> None:
    sides = [honest("llama"), *all_steps(worse=-0.5)]
    lost = {output.prompt_id for output in sides[0].outputs[-9:]}
    verdict = parity(
        [
            rescored(r, outputs_only(lambda s: None if s.prompt_id in lost else s)) if r.model == side else r
            for r in sides
        ]
    )
    assert verdict.status is Status.INVALID
    assert "prompts missing" in verdict.sentence
    assert "for 9 of 96 prompts" in verdict.sentence


def test_mixed_temperatures_are_invalid_and_both_are_named() -> None:
    cold = [
        replace(record, conditions=record.conditions | {"decoding.temperature": "0.2"})
        for record in all_steps(worse=-0.5)
    ]
    (verdict,) = verdicts([honest("llama"), *cold])
    assert verdict.status is Status.INVALID
    assert "decoding.temperature is '0.7' at llama and '0.2' at llada k=32" in verdict.sentence


def test_texts_that_were_not_the_timed_ones_are_invalid() -> None:
    def polished(record: Record) -> Record:
        return replace(record, timings=tuple(replace(t, tokens=t.tokens + 1) for t in record.timings))

    verdict, _ = judged(*map(polished, all_steps(worse=-0.5)))
    assert verdict.status is Status.INVALID
    assert "outputs scored are not the outputs timed: llada k=32: batch 0 was timed writing 81 tokens, 80" in (
        verdict.sentence
    )


def test_scores_of_other_texts_are_invalid() -> None:
    swapped = [rescored(r, outputs_only(lambda s: replace(s, utf8_bytes=99))) for r in all_steps(worse=-0.5)]
    verdict, _ = judged(*swapped)
    assert "99 bytes were scored, 100 written" in verdict.sentence


def test_throttled_clocks_are_invalid() -> None:
    hot = [replace(record, metrics=record.metrics | {"hardware/throttled": 0.5}) for record in all_steps()]
    verdict, _ = judged(*hot)
    assert verdict.status is Status.INVALID
    assert "throttled clocks: llada k=32: 50 % of the timed batches" in verdict.sentence


def test_another_partition_is_mixed_conditions() -> None:
    other = [replace(record, partition=record.partition[::-1]) for record in all_steps()]
    verdict, _ = judged(*other)
    assert "mixed conditions: llada k=32 has another batch partition than llama" in verdict.sentence


def test_a_gate_at_a_small_k_takes_nothing_away_from_larger_ones_and_lets_nothing_below_pass() -> None:
    short = rewritten(honest("llada", 16), lambda i, o: o.tokens // 2)
    _, found = judged(honest("llada", 8), short, honest("llada", 32))
    assert (found.status, found.reached, found.stopped_at) == (Status.REACHED, 32, 16)
    assert found.flags[0].startswith("stopped at k = 16: realised length")
    worse = [honest("llada", 8, worse=1.0), rewritten(honest("llada", 16, worse=1.0), lambda i, o: 10)]
    _, found = judged(*worse, honest("llada", 32, worse=1.0))
    assert found.status is Status.INVALID  # "at every k" cannot rest on one that is blocked


def cut(record: Record) -> Record:
    return rewritten(record, lambda i, o: o.tokens // 2)


def hot(record: Record) -> Record:
    return replace(record, metrics=record.metrics | {"hardware/throttled": 0.5})


def retimed(record: Record) -> Record:
    return replace(record, timings=tuple(replace(timing, tokens=timing.tokens + 1) for timing in record.timings))


def odd(record: Record) -> Record:
    scores = tuple(replace(s, nll_nats=math.inf) if s.subject == "output" else s for s in record.scores)
    return replace(record, scores=scores)


def colder(record: Record) -> Record:
    return replace(record, conditions=record.conditions | {"decoding.temperature": "0.1"})


CLOSED: list[tuple[str, Callable[[Record], Record], tuple[str, ...]]] = [
    ("empty outputs", lambda r: rewritten(r, lambda i, o: 0 if i < 10 else o.tokens), ("steps", "block_length")),
    ("realised length", cut, ("canvas", "steps", "block_length")),
    ("throttled clocks", hot, ("timing.throttle_retries",)),
    ("outputs scored are not the outputs timed", retimed, ("temperature", "hardware.engine")),
    ("mixed conditions", colder, ("temperature",)),
    ("mixed conditions", lambda r: replace(r, partition=r.partition[::-1]), ("batch", "workload.*")),
    ("prompts missing", lambda r: replace(r, scores=r.scores[3:]), ("metric.perplexity.judge", "workload.*")),
    ("not finite", odd, ("metric.perplexity.judge", "workload.tasks")),
    ("settings missing", lambda r: replace(r, status="failed", reason="out of memory"), ("reuse=all", "steps")),
    ("settings missing", lambda r: replace(r, conditions=r.conditions | {"seed": "7"}), ("seed=0,7",)),
]


def spoilt_by(change: Callable[[Record], Record]) -> tuple[list[Record], Parity]:
    """Candidates of which the largest k is spoilt (or every one, where one alone could not be compared)."""
    *smaller, largest = all_steps()
    candidates = [*(map(colder, smaller) if change is colder else smaller), change(largest)]
    return candidates, judged(*candidates)[0]


@pytest.mark.parametrize(("gate", "change", "settings"), CLOSED, ids=[f"{g}: {s[0]}" for g, _, s in CLOSED])
def test_an_invalid_verdict_names_the_settings_that_open_each_gate(
    gate: str, change: Callable[[Record], Record], settings: tuple[str, ...]
) -> None:
    candidates, verdict = spoilt_by(change)
    assert verdict.status is Status.INVALID
    assert gate in {item.name for item in verdict.gates}
    said = next(part for part in verdict.next_step.split("; ") if part.startswith(f"{gate}: "))
    assert settings[0] in said
    assert [setting for setting in settings if setting not in verdict.next_step] == []
    assert f"Next: {verdict.next_step}." in parity_table(candidates, verdict).lead
    assert Parity.from_dict(json.loads(json.dumps(verdict.to_dict()))).next_step == verdict.next_step


def test_the_settings_that_are_named_exist() -> None:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        whole = compose("config", overrides=["model=llada", "workload=dataset"])
    changes = [item.change for gate, change, _ in CLOSED for item in spoilt_by(change)[1].gates if item.name == gate]
    assert all(changes)
    named = {key for text in changes for key in re.findall(r"[a-z]+(?:\.[a-z_]+)+", text)}
    assert {"metric.perplexity.judge", "timing.throttle_retries", "hardware.engine", "workload.tasks"} <= named
    assert [key for key in sorted(named) if OmegaConf.select(whole, key, default=...) is ...] == []


def test_too_few_prompts_for_a_bound_ask_for_more_and_an_old_verdict_for_the_page() -> None:
    few = parity([make_record(model, 8, prompts=2, batch=1, perplexity=40.0) for model in ("llama", "llada")])
    assert few.next_step == "raise workload.prompts, and run again"
    verdict, _ = judged(*map(hot, all_steps()))
    old = replace(verdict, gates=tuple(replace(gate, change="") for gate in verdict.gates))
    assert old.next_step == Status.INVALID.next_step


def test_the_plain_t_bound_is_recorded_beside_the_stricter_one_that_is_tested() -> None:
    verdict, found = judged(*all_steps())
    back = Parity.from_dict(json.loads(json.dumps(verdict.to_dict()))).metrics[0]
    for test in (*back.tests, *back.diversity):
        t = 1.6611  # t(0.95, 95)
        assert test.lower_t == pytest.approx(test.delta - t * test.sd / math.sqrt(PROMPTS), abs=1e-6)
        assert test.lower <= test.lower_t
    assert any(test.lower < test.lower_t for test in found.tests)
    old = verdict.to_dict()
    del old["metrics"][0]["tests"][0]["lower_t"]
    assert Parity.from_dict(old).metrics[0].tests[0].lower_t is None


def test_small_samples_are_undecided_and_say_how_many_prompts_would_decide() -> None:
    _, found = judged(*all_steps(worse=0.1))
    assert found.status is Status.UNDECIDED
    top = found.tests[-1]
    room = 0.1 + top.delta
    assert found.prompts_needed == max(math.ceil((2.4865 * top.sd / room) ** 2), 1)
    assert f"about {found.prompts_needed} prompts would decide" in found.sentence
    _, found = judged(*all_steps(worse=0.14))
    assert (found.status, found.prompts_needed) == (Status.UNDECIDED, None)
    assert "would decide" not in found.sentence


@pytest.mark.parametrize("prompts", [1, 2])
def test_so_few_prompts_that_there_is_no_bound_are_invalid(prompts: int) -> None:
    sides = [make_record(model, 8, prompts=prompts, batch=1, perplexity=40.0) for model in ("llama", "llada")]
    verdict = parity(sides)
    assert verdict.status is Status.INVALID
    assert f"no finite bound from {prompts} prompts" in verdict.sentence
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_a_model_without_entropy_is_invalid_and_says_so() -> None:
    """The other half of perplexity must be there on both sides."""
    mute = [rescored(record, outputs_only(lambda s: replace(s, entropy_nats=None))) for record in all_steps(worse=-0.5)]
    verdict, _ = judged(*mute)
    assert verdict.status is Status.INVALID
    assert "llada k=8 has no quality/entropy for 96 of 96 prompts" in verdict.sentence
