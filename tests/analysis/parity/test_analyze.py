"""From Records to a verdict: every status, what removes a k, seeds, temperatures, prefixes, and old Records."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.worlds import World, study
from llmbench.analysis.parity.analyze import parity, verdicts
from llmbench.analysis.parity.bounds import prompts_needed
from llmbench.analysis.parity.grouping import group
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.sums import common_prefix
from llmbench.analysis.parity.text_checks import halves
from llmbench.analysis.parity.verdict import CheckName, DeltaTest, MetricParity, Place, Speed, Status
from llmbench.config.parity import MarginsConfig, ParityConfig, ThresholdsConfig
from llmbench.record import PromptScore, Record
from records import implementation, make_record, make_sweep, rescored, server_record, with_curve

PERPLEXITY = "quality/perplexity"
OUT = {"status": "failed", "reason": "CUDA out of memory"}


def simulated(shifts: Sequence[float], entropies: Sequence[float], **more: Any) -> Parity:
    return parity(
        study(
            World(prompts=more.pop("prompts", 200), shifts=shifts, entropies=entropies, **more),
            np.random.default_rng(1),
        )
    )


def head(verdict: Parity) -> MetricParity:
    assert verdict.head is not None
    return verdict.head


def at(verdict: Parity, steps: int, metric: str = PERPLEXITY) -> DeltaTest:
    found = verdict.metric(metric)
    test = found.test(steps) if found else None
    assert test is not None
    return test


def of(records: Sequence[Record], steps: int | None, change: Callable[[Record], Record]) -> list[Record]:
    """The Records with one k (None: the timed baseline) changed."""
    return [change(r) if (r.steps, r.role) == (steps, "timed") else r for r in records]


def scored(
    records: Sequence[Record], steps: int | None, change: Callable[[PromptScore], PromptScore | None]
) -> list[Record]:
    return of(records, steps, lambda record: rescored(record, change))


def resized(record: Record, share: float) -> Record:
    """Texts of another length in bytes, scored as they are."""
    outputs = tuple(replace(o, utf8_bytes=round((o.utf8_bytes or 0) * share)) for o in record.outputs)
    made = rescored(record, lambda s: replace(s, utf8_bytes=round(s.utf8_bytes * share)))
    return replace(made, outputs=outputs, metrics=made.metrics | {"quality/length_bytes": 100 * share})


# Statuses


def test_reached_on_the_curve_with_the_point_estimate_beside_it() -> None:
    verdict = parity(with_curve(make_sweep()))  # perplexity 80, 60, 40, 30 against 45
    found = head(verdict)
    assert (verdict.status, found.reached, found.stopped_at, found.s_parity) == (Status.REACHED, 32, 16, 32)
    assert dict(found.deltas) == pytest.approx(
        {k: math.log(45 / p) for k, p in {8: 80, 16: 60, 32: 40, 64: 30}.items()}
    )
    assert verdict.failed_checks == ()
    assert (verdict.prefix, found.prompts, found.documents) == (16, 8, 8)
    assert [(p.temperature, p.kept) for p in verdict.points] == [(t, True) for t in (0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0)]
    test = at(verdict, 32)  # entropy 3.3 lies between temperatures 0.8 (3.288) and 1.0 (3.482)
    h, g = zip(*((p.entropy, -math.log(dict(p.values)[PERPLEXITY])) for p in verdict.points[-3:]), strict=True)
    w = (3.3 - h[1]) / (h[2] - h[1])
    bend = ((g[2] - g[1]) / (h[2] - h[1]) - (g[1] - g[0]) / (h[1] - h[0])) / (h[2] - h[0])
    assert (test.place, test.entropy) == (Place.ON, pytest.approx(3.3))
    assert test.delta == pytest.approx(-math.log(40) - (1 - w) * g[1] - w * g[2])
    assert test.allowance == pytest.approx(w * (1 - w) * (h[2] - h[1]) ** 2 * -bend)
    assert test.temperature == pytest.approx(0.8 + 0.2 * w)
    assert [item.curve.metric for item in verdict.metrics] == [
        PERPLEXITY,
        "quality/bits_per_byte",
        "quality/bertscore_f1",
    ]
    assert verdict.metrics[2].tests[0].place is Place.DIRECT


def test_not_reached_on_the_curve_and_dominated_below_it() -> None:
    for entropies, places in (((2.8, 2.9, 3.0, 3.1), Place.ON), ((2.3, 2.4, 2.45, 2.5), Place.BELOW)):
        verdict = simulated((1.9, 1.7, 1.5, 1.3), entropies)
        assert (verdict.status, verdict.speed) == (Status.NOT_REACHED, Speed.NO_PARITY)
        assert {test.place for test in head(verdict).tests} == {places}
        assert all(test.worse for test in head(verdict).tests)
    assert all(test.dominated for test in head(verdict).tests)
    mixed = simulated((3.0, 2.5, 1.5, 1.3), (2.3, 2.4, 3.0, 3.1))
    assert mixed.status is Status.NOT_REACHED


def test_less_varied_and_not_shown_to_be_worse_is_degenerate() -> None:
    verdict = simulated((0.0, 0.0, 0.0, 0.0), (2.3, 2.4, 2.5, 2.5))
    assert (verdict.status, head(verdict).passing) == (Status.DEGENERATE, ())
    assert at(verdict, 64).less_varied
    assert dict(head(verdict).deltas)[64] > 0  # which the point estimate takes for parity


def test_more_varied_text_passes_only_as_good_as_the_last_point() -> None:
    good = simulated((0.0, 0.0, 0.0, -0.9), (3.5, 3.5, 3.5, 3.45))
    assert (good.status, head(good).reached, at(good, 64).place) == (Status.REACHED, 64, Place.ABOVE)
    bad = simulated((0.0, 0.0, 0.0, 0.0), (3.5, 3.5, 3.5, 3.5))  # on the curve, were it longer
    assert (bad.status, at(bad, 64).worse) == (Status.UNDECIDED, False)
    assert at(bad, 64).upper < -0.1


def test_undecided_names_the_prompts_that_would_decide() -> None:
    verdict = simulated((0.3, 0.2, 0.1, 0.0), (2.8, 2.9, 3.0, 3.1), prompts=60, bend=0.5)
    test = at(verdict, 64)
    assert verdict.status is Status.UNDECIDED
    own = [check for check in verdict.checks if check.steps == 64]
    rooms = [(test.delta - test.allowance + 0.1, test.sd), *halves(own)]
    assert len(rooms) == 3  # the test, relevance, echo
    assert head(verdict).prompts_needed == prompts_needed(rooms, 0.05)
    assert test.allowance > 0


def test_a_metric_that_does_not_tell_the_baseline_from_its_floor_is_insensitive() -> None:
    def near(record: Record) -> Record:
        scores = [replace(s, nll_nats=20 * math.log(50.0)) if s.subject == "shuffled" else s for s in record.scores]
        return replace(record, scores=tuple(scores))

    verdict = parity(of(with_curve(make_sweep()), None, near))
    assert verdict.status is Status.INSENSITIVE
    assert at(verdict, 64).assay.difference < 0.2  # type: ignore[union-attr]


def test_the_assay_uses_the_prompts_that_have_a_floor() -> None:
    def few(record: Record) -> Record:
        keep = {o.prompt_id for o in record.outputs[:8]}
        return replace(
            record, scores=tuple(s for s in record.scores if s.subject in ("output", "human") or s.prompt_id in keep)
        )

    records = of(make_sweep(prompts=16), None, few)
    assay = at(parity(records), 64).assay
    own = [
        s
        for s in records[0].scores
        if s.subject in ("output", "shuffled") and s.prompt_id in {o.prompt_id for o in records[0].outputs[:8]}
    ]
    ratio = {
        subject: -sum(s.nll_nats or 0 for s in own if s.subject == subject)
        / sum(s.judged_tokens or 0 for s in own if s.subject == subject)
        for subject in ("output", "shuffled")
    }
    assert assay is not None
    assert assay.difference == pytest.approx(ratio["output"] - ratio["shuffled"])


@pytest.mark.parametrize(
    ("records", "status"),
    [
        (make_sweep()[1:], Status.MISSING_BASELINE),
        (make_sweep()[:1], Status.MISSING_CANDIDATES),
        (make_sweep(perplexity=None), Status.NO_QUALITY),
        ([], Status.MISSING_BASELINE),
        ([make_record("llama", **OUT), *make_sweep()[1:]], Status.INVALID),
        ([make_sweep()[0], make_record("llada", 8, **OUT)], Status.INVALID),
    ],
    ids=["candidates only", "baseline only", "speed only", "nothing", "baseline failed", "candidates failed"],
)
def test_a_side_that_was_not_asked_for_is_missing_and_one_that_died_is_invalid(
    records: list[Record], status: Status
) -> None:
    verdict = parity(records)
    assert (verdict.status, verdict.metrics) == (status, ())
    assert len(verdict.speedups) == (4 if status is Status.NO_QUALITY else 0)
    assert Parity.from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False))) == verdict


# Gates


def test_a_gate_at_one_k_removes_it_and_the_others_are_judged() -> None:
    verdict = parity(of(with_curve(make_sweep(reached=False)), 8, lambda r: resized(r, 0.86)))
    assert (verdict.status, head(verdict).not_judged) == (Status.NOT_REACHED, (8,))
    check = verdict.check(CheckName.LENGTH, 8)
    assert check is not None
    assert check.values == {"label": "llada k=8", "value": 86.0, "reference": 100.0, "share": 0.86, "limit": 0.9}
    assert verdict.metrics[2].not_judged == ()  # length gates perplexity and bits per byte
    largest = parity(of(with_curve(make_sweep()), 64, lambda r: resized(r, 1.2)))
    assert (largest.status, head(largest).not_judged) == (Status.INVALID, (64,))


def test_lengths_are_compared_at_equal_entropy() -> None:
    records = [
        resized(r, 0.8 if r.role == "curve" and r.conditions["decoding.temperature"] in ("0.8", "1.0") else 1.0)
        for r in with_curve(make_sweep())
    ]
    check = parity(records).check(CheckName.LENGTH, 32)
    assert check is not None
    assert check.values["reference"] == pytest.approx(80.0)


def test_empty_texts_close_a_gate_and_their_entropy_is_nothing() -> None:
    fine = parity(with_curve(make_sweep(prompts=64)))
    one = of(
        with_curve(make_sweep(prompts=64)),
        32,
        lambda r: make_record("llada", 32, prompts=64, empty=1, perplexity=40, entropy=3.3),
    )
    verdict = parity(one)  # 1 of 64 is less than 2 %
    assert verdict.check(CheckName.EMPTY, 32) is None
    assert at(verdict, 32).entropy == pytest.approx(at(fine, 32).entropy, abs=0.005)  # of 63 texts, not 64
    for empty, removed in ((2, (32,)), (64, (32,))):
        verdict = parity(of(one, 32, lambda r, e=empty: make_record("llada", 32, prompts=64, empty=e, perplexity=40)))  # type: ignore[misc]
        check = verdict.check(CheckName.EMPTY, 32)
        assert check is not None
        assert check.values["share"] == empty / 64
        assert [item.not_judged for item in verdict.metrics] == [removed] * 3
        assert head(verdict).reached == 64
        assert verdict.prefix == 16
        json.dumps(verdict.to_dict(), allow_nan=False)
    silent = parity(with_curve(make_sweep(empty=8)))
    assert silent.status is Status.INVALID
    json.dumps(silent.to_dict(), allow_nan=False)


def silenced(record: Record, count: int) -> Record:
    """The first outputs of a Record without text, timed and scored as they are; the scores stay."""
    outputs = tuple(
        replace(o, text="", tokens=0, utf8_bytes=0) if i < count else o for i, o in enumerate(record.outputs)
    )
    sizes = {output.prompt_id: output.utf8_bytes or 0 for output in outputs}
    scores = tuple(replace(s, utf8_bytes=sizes[s.prompt_id]) if s.subject == "output" else s for s in record.scores)
    written = [sum(o.tokens for o in outputs if o.batch == b) for b in range(1 + outputs[-1].batch)]
    timings = tuple(replace(timing, tokens=written[timing.batch]) for timing in record.timings)
    return replace(record, outputs=outputs, scores=scores, timings=timings)


def test_the_baselines_empty_texts_count_where_it_is_compared() -> None:
    """At its own temperature for BERTScore and speed, at equal entropy for perplexity."""
    records = with_curve(make_sweep(prompts=64))
    own = parity([silenced(r, 2) if r.role == "timed" and r.steps is None else r for r in records])
    assert own.metrics[2].status is Status.INVALID
    blocks = {(c.blocks, c.metrics) for c in own.failed_checks if c.name is CheckName.EMPTY and c.steps is None}
    assert blocks == {("verdict", ("quality/bertscore_f1", "quality/accuracy")), ("speed", ())}
    assert (head(own).status, own.speed) == (Status.REACHED, Speed.OPEN)  # 0.031 x its share at equal entropy
    around = parity([silenced(r, 16) if r.role == "curve" else r for r in records])
    check = around.check(CheckName.EMPTY, 64)
    assert check is not None
    assert (check.blocks, check.metrics) == ("verdict", ("quality/perplexity", "quality/bits_per_byte"))
    assert (head(around).status, around.metrics[2].not_judged) == (Status.INVALID, ())


@pytest.mark.parametrize(("tokens", "gated"), [(73, False), (72, False), (71, True), (88, False), (89, True)])
def test_a_repeat_that_writes_a_tenth_less_or_more_is_another_generation(tokens: int, gated: bool) -> None:
    def other(record: Record) -> Record:  # a batch writes 80 tokens
        return replace(record, timings=tuple(replace(t, tokens=tokens) if t.repeat == 3 else t for t in record.timings))

    verdict = parity(of(make_sweep(), 32, other))
    check = verdict.check(CheckName.NOT_TIMED, 32)
    assert (check is not None) is gated
    assert head(verdict).not_judged == ((32,) if gated else ())
    if check:
        assert check.values["timed"] == tokens


def test_outputs_that_were_not_timed_or_scored_as_written_close_a_gate() -> None:
    changes: list[Callable[[Record], Record]] = [
        lambda r: replace(r, timings=()),
        lambda r: replace(r, timings=tuple(t for t in r.timings if t.batch == 0)),
        lambda r: replace(r, outputs=tuple(replace(o, tokens=o.tokens + 1) for o in r.outputs)),
        lambda r: rescored(r, lambda s: replace(s, utf8_bytes=s.utf8_bytes + 1)),
    ]
    said = [parity(of(make_sweep(), 16, change)).check(CheckName.NOT_TIMED, 16) for change in changes]
    assert [check and check.values["what"] for check in said] == ["timed", "timed", "tokens", "bytes"]


def test_mixed_conditions_throttled_clocks_and_prompts_that_occur_twice() -> None:
    turned = of(
        make_sweep(),
        16,
        lambda r: replace(
            r, outputs=tuple(replace(o, prompt=p.prompt) for o, p in zip(r.outputs, r.outputs[::-1], strict=True))
        ),
    )
    cut = of(make_sweep(), 16, lambda r: replace(r, partition=r.partition[::-1]))
    hot = of(make_sweep(), 16, lambda r: replace(r, metrics=r.metrics | {"hardware/throttled": 0.2}))
    narrow = of(make_sweep(), None, lambda r: replace(r, conditions=r.conditions | {"decoding.top_p": "0.5"}))
    found = [parity(records) for records in (turned, cut, hot)]
    assert [(v.failed_checks[0].name, v.failed_checks[0].values.get("key")) for v in found] == [
        (CheckName.MIXED, "prompts"),
        (CheckName.MIXED, "partition"),
        (CheckName.THROTTLED, None),
    ]
    assert [head(v).not_judged for v in found] == [(16,)] * 3
    mixed = parity(narrow)
    assert mixed.status is Status.INVALID
    assert mixed.check(CheckName.MIXED, 64).values["other_value"] == "0.5"  # type: ignore[union-attr]
    assert (
        parity([replace(r, conditions=r.conditions | {"decoding.top_p": "0.5"}) for r in make_sweep()]).status
        is Status.REACHED
    )
    twice = [
        replace(r, outputs=(replace(r.outputs[0], prompt=r.outputs[1].prompt), *r.outputs[1:])) for r in make_sweep()
    ]
    verdict = parity(twice)
    assert (verdict.status, verdict.check(CheckName.TWICE).values["first"]) == (Status.INVALID, "story-0")  # type: ignore[union-attr]


def test_sums_that_are_no_numbers_or_lack_a_prompt_remove_their_k() -> None:
    nan = scored(
        with_curve(make_sweep()), 16, lambda s: replace(s, nll_nats=math.nan) if s.prompt_id == "chat-1" else s
    )
    lost = scored(with_curve(make_sweep()), 16, lambda s: None if s.prompt_id == "chat-1" else s)
    for records, name in ((nan, CheckName.NOT_FINITE), (lost, CheckName.PROMPTS)):
        verdict = parity(records)
        check = verdict.check(name, 16)
        assert check is not None
        assert (check.values["first"], verdict.status, head(verdict).not_judged) == ("chat-1", Status.REACHED, (16,))
        json.dumps(verdict.to_dict(), allow_nan=False)
    verdict = parity(scored(make_sweep(), None, lambda s: None if s.prompt_id == "chat-1" else s))
    assert (verdict.status, head(verdict).tests) == (Status.INVALID, ())


def test_scores_without_spread_stop_parity() -> None:
    def flat(score: PromptScore) -> PromptScore:  # as related to its prompt as before
        nll = 3.2 * (score.judged_tokens or 0)
        first, second = score.other_nll_nats or (0.0, 0.0)
        moved = nll - (score.nll_nats or 0.0)
        return replace(score, nll_nats=nll, other_nll_nats=(first + moved, second + moved))

    verdict = parity(scored(make_sweep(), 64, flat))
    check = verdict.check(CheckName.NO_SPREAD, 64)
    assert [item.name for item in verdict.failed_checks if item.metrics[0] == PERPLEXITY] == [CheckName.NO_SPREAD]
    assert check is not None
    assert (check.blocks, check.values["value"]) == ("reached", pytest.approx(-3.2))
    assert (verdict.status, at(verdict, 64).passes) == (Status.UNDECIDED, True)
    assert parity(scored(make_sweep(), None, flat)).check(CheckName.NO_SPREAD) is not None


def test_documents_and_tasks_of_the_records_make_the_error() -> None:
    """BERTScore is a mean: a prompt adds the difference of its scores."""
    records = make_sweep((8,), prompts=32, per_document=4)
    llama, llada = ({s.prompt_id: s.bertscore_f1 for s in r.scores if s.subject == "output"} for r in records)
    sums: dict[str, dict[str, float]] = {}
    for output in records[0].outputs:
        own = sums.setdefault(output.task, {})
        more = (llada[output.prompt_id] or 0) - (llama[output.prompt_id] or 0)
        own[output.document or ""] = own.get(output.document or "", 0.0) + more
    variance = sum(
        len(own) / (len(own) - 1) * sum((u - sum(own.values()) / len(own)) ** 2 for u in own.values())
        for own in sums.values()
    )
    test = at(parity(records), 8, "quality/bertscore_f1")
    assert {task: len(own) for task, own in sums.items()} == dict.fromkeys(("story", "chat", "speech", "poem"), 2)
    assert test.sd == pytest.approx(math.sqrt(variance) / 32 * math.sqrt(32))
    assert parity(records).metrics[0].documents == parity(records).conditions.documents == 8


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_the_same_texts_pass_up_to_the_noise_of_floating_point(noise: float) -> None:
    llama = make_sweep()[0]
    noisy = rescored(llama, lambda s: replace(s, nll_nats=(s.nll_nats or 0) + 20 * noise * (ord(s.prompt_id[0]) % 3)))
    same = replace(make_record("llada", 8), scores=noisy.scores, metrics=noisy.metrics)
    verdict = parity([llama, same])
    assert (verdict.status, head(verdict).reached) == (Status.REACHED, 8)
    assert at(verdict, 8).sd == pytest.approx(1e-4)


def test_a_job_that_failed_leaves_its_k_out_and_ends_the_sequence_there() -> None:
    for lost, status, reached in ((128, Status.INVALID, None), (48, Status.REACHED, 64), (4, Status.REACHED, 32)):
        verdict = parity([*make_sweep(), make_record("llada", lost, **OUT)])
        assert (verdict.status, head(verdict).reached, head(verdict).not_judged) == (status, reached, (lost,))
        assert verdict.check(CheckName.MISSING, lost).values["reason"] == "CUDA out of memory"  # type: ignore[union-attr]


def test_a_failed_job_of_the_baseline() -> None:
    fast = implementation("autoregressive", 500.0)
    other = replace(
        implementation("transformers", 400.0, "static"), **OUT, outputs=(), timings=(), scores=(), metrics={}
    )
    verdict = parity([fast, other, *make_sweep()[1:]])
    assert (verdict.status, verdict.speed) == (Status.REACHED, Speed.OPEN)  # it may have been the faster one
    assert parity([fast, *make_sweep()[1:]]).speed is Speed.VIABLE
    curve = replace(with_curve(make_sweep())[-1], **OUT, outputs=(), scores=(), metrics={})
    verdict = parity([*with_curve(make_sweep())[:-1], curve])
    assert (verdict.status, verdict.check(CheckName.CURVE).blocks) == (Status.REACHED, "note")  # type: ignore[union-attr]
    gone = replace(server_record(100.0), **OUT, outputs=(), timings=(), scores=(), metrics={})
    assert parity([*make_sweep(), gone]).status is Status.REACHED
    assert parity([*make_sweep()[1:], gone]).status is Status.MISSING_BASELINE


# Several metrics, judges, seeds and temperatures


def test_s_all_is_where_every_metric_passes() -> None:
    sweep = [make_record("llama", perplexity=45, bertscore=0.3)] + [
        make_record("llada", k, perplexity=p, bertscore=b, entropy=3.1)
        for k, p, b in ((8, 44, 0.2), (16, 40, 0.3), (32, 35, 0.31))
    ]
    verdict = parity(sweep)
    assert [item.reached for item in verdict.metrics] == [8, 8, 16]
    assert (verdict.s_all, len(verdict.s_all_metrics)) == (16, 3)
    assert parity(make_sweep()).s_all is None


def test_two_judges_must_both_pass() -> None:
    def sweep(second: Sequence[float]) -> Parity:
        llama, *others = make_sweep(second=45.0)
        heard = [
            make_record(
                "llada", r.steps, perplexity=r.metrics[PERPLEXITY], entropy=3.3, e2e_ms=10.0 * (r.steps or 0), second=q
            )
            for r, q in zip(others, second, strict=True)
        ]
        return parity(with_curve([llama, *heard]))

    agreed = sweep((80, 60, 60, 30))
    assert (agreed.status, head(agreed).reached) == (Status.REACHED, 64)  # 32 passes under the first alone
    assert head(agreed).second.passing == (64,)  # type: ignore[union-attr]
    differ = sweep((300, 300, 300, 300))
    assert (differ.status, head(differ).passing, differ.s_all) == (Status.UNDECIDED, (), None)
    assert head(differ).second.status is Status.NOT_REACHED  # type: ignore[union-attr]
    assert [t.passes for t in head(differ).tests] == [False, False, True, True]


def test_checks_on_texts_count_under_both_judges() -> None:
    verdict = parity(
        with_curve(make_sweep(second=40.0, relevance=0.11, copying=0.05))[:1]
        + [make_record("llada", k, second=40.0, entropy=3.3, relevance=0.0) for k in (8, 16)]
    )
    found = head(verdict)
    assert found.second is not None
    assert (found.status, found.second.status) == (Status.UNDECIDED, Status.UNDECIDED)


def seeded(records: Sequence[Record], **perplexities: Sequence[float]) -> list[Record]:
    """Records over seeds 1, 2, ... with these perplexities by model."""
    return [
        replace(
            make_record(r.model, r.steps, perplexity=q, conditions={"seed": str(seed)}, entropy=3.2),
            identity=f"{r.label}{seed}",
        )
        for r in records
        for seed, q in enumerate(perplexities[r.model], start=1)
    ]


def test_seeds_are_summed_within_a_prompt() -> None:
    sweep = seeded(make_sweep((8,)), llama=(50.0, 60.0), llada=(40.0, 70.0))
    verdict = parity(with_curve(sweep))
    assert (verdict.seeds, head(verdict).prompts, verdict.failed_checks) == (("1", "2"), 8, ())
    assert head(verdict).curve.baseline == pytest.approx(math.sqrt(50 * 60))  # equal token counts
    delta = math.log(50 * 60 / (40 * 70)) / 2
    assert dict(head(verdict).deltas)[8] == pytest.approx(delta)
    assert at(verdict, 8).delta == pytest.approx(delta)  # the entropy of its own temperature's texts
    sides = group(with_curve(sweep)).curve
    assert [(side.temperature, len(side.records)) for side in sides][:2] == [(0.0, 1), (0.2, 2)]  # greedy draws nothing
    lacking = parity(sweep[:-1])
    assert (lacking.status, lacking.check(CheckName.MISSING, 8).values["key"]) == (Status.INVALID, "seeds")  # type: ignore[union-attr]


def test_a_point_that_lacks_a_seed_is_no_point() -> None:
    records = with_curve(seeded(make_sweep((8,)), llama=(50.0, 60.0), llada=(40.0, 70.0)))
    lacking = [
        r
        for r in records
        if (r.role, r.conditions["seed"], r.conditions["decoding.temperature"]) != ("curve", "2", "0.6")
    ]
    assert [p.temperature for p in parity(lacking).points] == [0.0, 0.2, 0.4, 0.7, 0.8, 1.0]


def test_full_jobs_at_several_temperatures_are_points_and_the_candidates_own_is_the_baseline() -> None:
    cold = make_record("llama", temperature=0.2, perplexity=20.0, entropy=2.9, e2e_ms=100.0)
    own, *others = with_curve(make_sweep())
    verdict = parity([cold, own, *others])
    assert verdict.speedups[0].baseline_ms == 200.0
    assert head(verdict).curve.baseline == pytest.approx(45.0)
    assert [p.temperature for p in verdict.points] == [0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0]
    assert dict(verdict.points[1].values)[PERPLEXITY] == pytest.approx(20.0)  # the full job, not the curve's
    assert [item.e2e_ms for item in verdict.implementations] == [200.0]


def test_another_diffusion_temperature_leaves_the_nearest_baseline() -> None:
    llama = with_curve(
        [
            make_record("llama", perplexity=45, entropy=3.2),
            make_record("llama", temperature=1.2, perplexity=90, entropy=3.6),
        ]
    )
    hot = [make_record("llada", k, temperature=1.4, perplexity=40, entropy=3.3) for k in (8, 16)]
    (verdict,) = verdicts([*llama, *hot])
    assert head(verdict).curve.baseline == pytest.approx(90)
    assert verdict.conditions.temperatures == ("1.2", "1.4")
    assert [item.status for item in verdict.metrics] == [
        Status.REACHED,
        Status.REACHED,
        Status.INVALID,
    ]  # BERTScore is not matched
    assert verdict.check(CheckName.MIXED, 16).metrics == ("quality/bertscore_f1", "quality/accuracy")  # type: ignore[union-attr]


# Diversity


def prefixed(record: Record, short: int) -> Record:
    """The first `short` texts end after 10 tokens."""
    first = {o.prompt_id for o in record.outputs[:short]}
    return rescored(
        record, lambda s: replace(s, text_tokens=10, entropy_prefixes=s.entropy_prefixes) if s.prompt_id in first else s
    )


@pytest.mark.parametrize(("short", "prefix"), [(0, 16), (2, 16), (3, 8)])
def test_entropy_is_taken_over_the_longest_prefix_that_nine_texts_in_ten_of_every_record_reach(
    short: int, prefix: int
) -> None:
    records = with_curve(make_sweep((8,), prompts=20))
    for place in (0, 1, -1):  # the baseline, a candidate, a point of the curve
        changed = [prefixed(r, short) if r is records[place] else r for r in records]
        verdict = parity(changed)
        assert verdict.prefix == prefix
        assert at(verdict, 8).entropy == pytest.approx(3.24 - (math.log(2) if prefix == 8 else 0))
    assert common_prefix(()) is None


def test_prefixes_that_no_record_reaches_leave_the_shortest() -> None:
    sides = group([rescored(r, lambda s: replace(s, text_tokens=3)) for r in make_sweep((8,))]).sides
    assert common_prefix(sides) == 8


def test_entropy_on_another_prefix_stands_beside() -> None:
    records = [prefixed(r, 3) for r in make_sweep((8,), prompts=20)]
    curve = parity(records).curve("quality/entropy")
    assert curve is not None
    assert (curve.baseline, curve.at(8)) == pytest.approx((3.2 - math.log(2), 3.24 - math.log(2)))


def old(record: Record) -> Record:
    """As version 3 of the format kept it."""
    gone = {"text_tokens": None, "entropy_prefixes": (), "other_nll_nats": None, "shared_4grams": None}
    scores = tuple(replace(s, **gone) for s in record.scores)  # type: ignore[arg-type]
    outputs = tuple(replace(o, document=None) for o in record.outputs)
    metrics = {k: v for k, v in record.metrics.items() if k not in ("quality/relevance", "quality/shared_4grams")}
    return replace(record, process="", scores=scores, outputs=outputs, metrics=metrics, format_version=3)


def test_old_records_give_a_verdict_that_cannot_be_reached() -> None:
    verdict = parity([old(r) for r in make_sweep()])
    assert (verdict.status, verdict.prefix, at(verdict, 64).passes) == (Status.UNDECIDED, None, True)
    for name in (CheckName.RELEVANCE, CheckName.COPYING):
        assert verdict.check(name, 64).values["measured"] == "no"  # type: ignore[union-attr]
    assert verdict.speedups[0].ratio == 2.5
    assert verdict.check(CheckName.CARD, 8) is None
    assert parity([old(r) for r in make_sweep(reached=False)]).status is Status.NOT_REACHED


def test_one_prompt_has_no_bound() -> None:
    verdict = parity(make_sweep(prompts=1))
    assert (verdict.status, head(verdict).tests) == (Status.INVALID, ())
    assert verdict.check(CheckName.FEW).values["prompts"] == 1.0  # type: ignore[union-attr]


# Terms


@pytest.mark.parametrize(
    ("key", "most"), [("perplexity", 0.3), ("bits_per_byte", 0.12), ("bertscore_f1", 0.03), ("accuracy", 0.05)]
)
def test_margins_have_upper_limits(key: str, most: float) -> None:
    assert getattr(MarginsConfig(**{key: most}), key) == most
    for value in (most + 0.001, -0.001, math.nan):
        with pytest.raises(ValidationError):
            MarginsConfig(**{key: value})


def test_thresholds_become_stricter_and_never_looser() -> None:
    assert ThresholdsConfig(empty_share=0.0, length_share=1.0, roofline_share=0.9)
    for own in ({"empty_share": 0.03}, {"length_share": 0.8}, {"roofline_share": 0.4}):
        with pytest.raises(ValidationError):
            ThresholdsConfig(**own)


def test_without_a_margin_nothing_worse_at_all_is_reached() -> None:
    strict = ParityConfig(margins=MarginsConfig(perplexity=0.0))
    llama = make_sweep()[0]
    for worse in (1e-9, 1e-4, 0.05):
        own = rescored(llama, lambda s: replace(s, nll_nats=(s.nll_nats or 0) + worse * (s.judged_tokens or 0)))  # noqa: B023
        verdict = parity(
            [llama, replace(make_record("llada", 8), scores=own.scores, metrics=own.metrics)], options=strict
        )
        assert head(verdict).reached is None


def test_a_verdict_comes_back_from_json_and_gives_finite_rows() -> None:
    verdict = parity(with_curve(make_sweep(second=40.0)))
    assert Parity.from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False))) == verdict
    rows: dict[str, dict[int, float]] = {}
    for key, k, value in verdict.series():
        rows.setdefault(key, {})[k] = value
    assert rows["parity/s_tested_perplexity"] == {32: 32.0}
    assert rows["parity/speedup_at_parity_perplexity"] == {32: pytest.approx(0.625)}
    assert rows["parity/delta_perplexity_lower"][32] == at(verdict, 32).lower
    assert all(math.isfinite(value) for found in rows.values() for value in found.values())
    assert [curve.metric for curve in verdict.beside][:2] == ["quality/entropy", "quality/relevance"]
    assert (verdict.curve(PERPLEXITY).floor, verdict.curve(PERPLEXITY).human) == pytest.approx((400, 25))  # type: ignore[union-attr]
