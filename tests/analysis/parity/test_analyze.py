"""From Records to a verdict: both forms, worked by hand; what is refused; what the sentences say."""

import json
import math
from dataclasses import replace

import pytest

from llmbench.analysis.parity.analyze import oriented, parity, verdicts
from llmbench.analysis.parity.grouping import comparison_groups
from llmbench.analysis.parity.verdict import Parity, Speed, Status
from llmbench.errors import RecordError
from llmbench.record import Record
from records import implementation, make_record, make_sweep, server_record


def test_perplexity_is_compared_in_nats_per_token_with_less_being_better() -> None:
    assert oriented("quality/perplexity", math.e) == pytest.approx(-1)
    assert oriented("quality/bits_per_byte", 1.5) == -1.5
    assert oriented("quality/bertscore_f1", 0.5) == 0.5


def test_parity_is_the_smallest_k_that_is_at_least_as_good() -> None:
    (verdict,) = verdicts(make_sweep())  # perplexity 80, 60, 40, 30 against 45
    found = verdict.metric("quality/perplexity")
    assert found is not None
    assert (verdict.status, found.s_parity) == (Status.REACHED, 32)
    assert dict(found.deltas) == pytest.approx(
        {k: math.log(45 / p) for k, p in {8: 80, 16: 60, 32: 40, 64: 30}.items()}
    )
    assert found.reached == 32
    assert verdict.point_sentence.startswith(
        "Point estimate: S_parity = 32 (perplexity 40.0 against 45.0), 0.625x as fast [95 % "
    )
    at = verdict.speedup(32)
    assert at is not None
    assert at.ratio == pytest.approx(200 / 320)
    assert (at.low, at.high) != (None, None)
    assert {s.steps: round(s.ratio, 4) for s in verdict.speedups} == {8: 2.5, 16: 1.25, 32: 0.625, 64: 0.3125}


def test_equal_quality_is_parity() -> None:
    sweep = [make_record("llama", bertscore=0.3), make_record("llada", 8, bertscore=0.3)]
    (verdict,) = verdicts(sweep)
    found = verdict.metric("quality/bertscore_f1")
    assert found is not None
    assert found.s_parity == 8


def test_not_reached_is_a_result_with_time_ratios_and_no_speedup_at_parity() -> None:
    (verdict,) = verdicts(make_sweep(reached=False))
    assert verdict.status is Status.NOT_REACHED
    assert verdict.sentence.startswith(
        "Parity not reached for k up to 64, the whole canvas: LLaDA's perplexity is worse by more than 0.1 nats per "
        "token at every k, 30.0 at best (k = 64) against LLaMA's 20.0"
    )
    assert "2.50x as fast [95 % " in verdict.sentence
    assert "no speedup at parity exists" in verdict.sentence
    assert not [key for key, _, _ in verdict.series() if "at_parity_perplexity" in key or "s_parity_perplexity" in key]
    assert len(verdict.speedups) == 4


@pytest.mark.parametrize("reached", [True, False])
def test_the_sentence_can_be_quoted_alone(reached: bool) -> None:
    (verdict,) = verdicts(make_sweep(reached=reached))
    for said in (
        "0.1 nats per token",
        "5 % error",
        "temperature 0.7",
        "batch 4",
        "canvas 64",
        "8 prompts",
        "Test CPU (cpu, float32)",
    ):
        assert said in verdict.sentence
    assert "\n" not in verdict.sentence


@pytest.mark.parametrize(
    ("entropy", "said"), [(2.0, "(lower, which improves perplexity)"), (4.0, "(higher)"), (3.0, "(the same)")]
)
def test_the_sentence_says_what_happened_to_entropy(entropy: float, said: str) -> None:
    sweep = [make_record("llama", perplexity=50, entropy=3.0), make_record("llada", 8, perplexity=40, entropy=entropy)]
    (verdict,) = verdicts(sweep)
    assert said in verdict.sentence
    assert verdict.status is (Status.DEGENERATE if entropy < 2.9 else Status.REACHED)


def test_entropy_and_distinct_2_stand_beside_and_reach_no_verdict() -> None:
    (verdict,) = verdicts(make_sweep())
    assert [item.curve.metric for item in verdict.metrics] == [
        "quality/perplexity",
        "quality/bits_per_byte",
        "quality/bertscore_f1",
    ]
    assert [curve.metric for curve in verdict.diversity_curves] == ["quality/entropy", "quality/distinct_2"]


def test_floor_and_human_reference_stand_beside_each_metric() -> None:
    curve = verdicts(make_sweep())[0].curve("quality/perplexity")
    assert curve is not None
    assert curve.floor == pytest.approx(400)
    assert curve.human == pytest.approx(25)


@pytest.mark.parametrize(
    ("records", "status"),
    [
        (make_sweep()[1:], Status.MISSING_BASELINE),
        (make_sweep()[:1], Status.MISSING_CANDIDATES),
        (make_sweep(perplexity=None), Status.NO_QUALITY),
        ([], Status.MISSING_BASELINE),
    ],
    ids=["candidates only", "baseline only", "speed only", "nothing"],
)
def test_a_missing_part_is_a_status_that_says_what_to_do(records: list, status: Status) -> None:
    verdict = parity(records)
    assert verdict.status is status
    assert status.next_step in verdict.sentence
    assert verdict.metrics == ()


def test_speed_alone_still_gives_the_ratios() -> None:
    (verdict,) = verdicts(make_sweep(perplexity=None))
    assert len(verdict.speedups) == 4
    assert "2.5x at k = 8" in verdict.sentence


def test_a_failed_job_leaves_its_k_missing_and_blocks_what_rests_on_it() -> None:
    largest = make_record("llada", 128, status="failed", reason="out of memory")
    (verdict,) = verdicts([*make_sweep(), largest])
    assert verdict.steps == (8, 16, 32, 64)
    assert (verdict.status, verdict.metrics[0].s_parity) == (Status.INVALID, 32)
    assert "settings missing: llada k=128 failed: out of memory" in verdict.sentence
    (verdict,) = verdicts([*make_sweep(), make_record("llada", 48, status="failed", reason="out of memory")])
    found = verdict.metrics[0]
    assert (found.status, found.reached, found.stopped_at) == (Status.REACHED, 64, 48)
    (verdict,) = verdicts([*make_sweep(), make_record("llada", 4, status="failed", reason="out of memory")])
    assert verdict.metrics[0].reached == 32


OUT = {"status": "failed", "reason": "CUDA out of memory"}


def test_a_baseline_that_failed_is_no_baseline_that_was_not_asked_for() -> None:
    _, *candidates = make_sweep()
    (verdict,) = verdicts([make_record("llama", **OUT), *candidates])
    assert (verdict.status, verdict.metrics, verdict.speedups) == (Status.INVALID, (), ())
    assert "invalid; settings missing: llama failed: CUDA out of memory; " in verdict.sentence
    assert "model=llama,llada" not in verdict.sentence
    assert verdict.next_step == "settings missing: correct what made the job fail and add reuse=all; then run again"
    assert [(gate.name, gate.steps) for gate in verdict.gates] == [("settings missing", None)]
    assert Parity.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    (early,) = verdicts([replace(make_record("llama", **OUT), conditions={}), *candidates])  # before they were known
    assert early.status is Status.INVALID


def test_candidates_that_all_failed_are_named() -> None:
    llama = make_sweep()[0]
    failed = [make_record("llada", k, **OUT) for k in (8, 16)]
    (verdict,) = verdicts([llama, *failed])
    assert verdict.status is Status.INVALID
    assert "settings missing: llada k=8 failed: CUDA out of memory; settings missing: llada k=16" in verdict.sentence
    assert "correct what made the job fail and add reuse=all" in verdict.next_step
    unplaced = replace(make_record("llada", 8, **OUT), conditions={})
    assert verdicts([llama, unplaced])[0].status is Status.INVALID
    assert verdicts(failed) == ()  # nothing was measured


def test_a_batch_at_which_one_side_failed_is_invalid_and_the_others_keep_their_verdict() -> None:
    whole = make_sweep((8,), batch=2, perplexity=40.0, entropy=3.2)
    large = make_sweep((8,), batch=8)
    for failed in (
        [make_record("llama", batch=8, **OUT), large[1]],
        [large[0], make_record("llada", 8, batch=8, **OUT)],
    ):
        found = {verdict.conditions["batch"]: verdict.status for verdict in verdicts([*whole, *failed])}
        assert found == {"2": Status.REACHED, "8": Status.INVALID}


def test_a_baseline_of_another_implementation_that_failed_leaves_quality_and_takes_the_speed_claim() -> None:
    """It may have been the faster one."""
    fast = implementation("autoregressive", 500.0)
    other = replace(
        implementation("transformers", 400.0, "static"), **OUT, outputs=(), timings=(), scores=(), metrics={}
    )
    candidates = [replace(r, conditions=r.conditions | {"decoding.kind": "diffusion"}) for r in make_sweep()[1:]]
    (verdict,) = verdicts([fast, other, *candidates])
    assert (verdict.status, verdict.speed) == (Status.REACHED, Speed.OPEN)
    assert "llama transformers static failed: CUDA out of memory" in verdict.speed_sentence
    assert verdicts([fast, *candidates])[0].speed is Speed.VIABLE


def test_a_seed_of_the_baseline_that_failed_is_a_missing_setting() -> None:
    sweep = [*seeds(make_record("llama"), 50.0), *seeds(make_record("llada", 8), 40.0)]
    lost = make_record("llama", **OUT, conditions={"seed": "2"})
    (verdict,) = verdicts([*sweep, lost])
    assert verdict.status is Status.INVALID
    assert "settings missing: llama failed: CUDA out of memory" in verdict.sentence


def test_a_server_that_failed_takes_nothing_away() -> None:
    gone = replace(server_record(100.0), **OUT, outputs=(), timings=(), scores=(), metrics={})
    assert verdicts([*make_sweep(), gone])[0].status is Status.REACHED
    assert verdicts([*make_sweep()[1:], gone])[0].status is Status.MISSING_BASELINE


def test_fewer_than_six_repeats_leave_the_interval_out() -> None:
    (verdict,) = verdicts(make_sweep(repeats=3))
    assert all(item.low is None and item.high is None for item in verdict.speedups)
    assert "95 %" not in verdict.sentence
    assert verdict.speed is Speed.OPEN


@pytest.mark.parametrize("key", ["torch", "device_name", "transformers", "judge"])
def test_records_under_other_conditions_are_refused_with_key_and_both_values(key: str) -> None:
    sweep = [*make_sweep()[:2], make_record("llada", 16, conditions={key: "other"})]
    old = sweep[0].conditions[key]
    with pytest.raises(RecordError, match=f"llama and llada k=16 cannot be compared: {key} is '{old}' and 'other'"):
        parity(sweep)


def test_decoding_settings_must_agree_within_a_model_only() -> None:
    llama, *others = make_sweep()
    own = replace(llama, conditions=llama.conditions | {"decoding.ignore_stop": "True"})
    assert parity([own, *others]).status is Status.REACHED
    changed = make_record("llada", 128, conditions={"decoding.remasking": "random"}, entropy=3.3, perplexity=30)
    with pytest.raises(RecordError, match=r"decoding\.remasking is None and 'random'"):
        parity([llama, *others, changed])


def nucleus(record: Record, share: str) -> Record:
    return replace(record, conditions=record.conditions | {"decoding.top_p": share})


def test_a_nucleus_that_the_other_side_lacks_is_mixed_conditions_and_is_said() -> None:
    llama, *others = make_sweep()
    verdict = parity([nucleus(llama, "0.5"), *others])
    assert verdict.status is Status.INVALID
    assert "mixed conditions: decoding.top_p is '0.5' at llama and '1.0' at llada k=64" in verdict.sentence
    assert "top_p 0.5 against 1.0" in verdict.sentence
    assert "mixed conditions: top_p=1.0" in verdict.next_step
    whole = parity([nucleus(llama, "1.0"), *others])
    assert whole.status is Status.REACHED
    assert "top_p" not in whole.sentence
    both = parity([nucleus(record, "0.5") for record in (llama, *others)])
    assert both.status is Status.REACHED
    assert ", top_p 0.5, batch" in both.sentence
    greedy = make_sweep(temperature=0.0)  # nothing is drawn
    assert parity([nucleus(greedy[0], "0.5"), *greedy[1:]]).status is Status.REACHED


def test_caches_that_change_the_text_never_share_a_curve() -> None:
    llama, small, large = make_sweep((8, 16))
    dual = replace(large, conditions=large.conditions | {"decoding.cache": "dual"})
    plain = replace(small, conditions=small.conditions | {"decoding.cache": "none"})
    with pytest.raises(RecordError, match=r"llada k=8 and llada k=16 cannot be compared: decoding.cache is 'none' and"):
        parity([llama, plain, dual])
    with pytest.raises(RecordError, match=r"decoding.cache is None and 'dual'"):
        parity([llama, small, dual])


@pytest.mark.parametrize("e2e_ms", [20.0, 200.0])
def test_cpu_threads_that_differ_forbid_a_claim_on_speed(e2e_ms: float) -> None:
    """One thread against sixteen: quality stands, neither faster nor slower may be said."""
    llama, llada = make_record("llama", e2e_ms=e2e_ms), make_record("llada", 8, e2e_ms=80.0)
    assert parity([llama, llada]).speed is (Speed.VIABLE if e2e_ms > 80 else Speed.INEFFICIENT)
    many = replace(llada, environment=replace(llada.environment, threads=16))
    verdict = parity([llama, many])
    assert (verdict.status, verdict.speed) == (Status.REACHED, Speed.OPEN)
    assert "(CPU threads differ (1 at llama, 16 at llada k=8))" in verdict.sentence
    assert "CPU threads differ (1 at llama, 16 at llada k=8)" in verdict.speed_sentence
    on_gpu = [replace(r, environment=replace(r.environment, device="cuda")) for r in (llama, many)]
    assert parity(on_gpu).gates == ()  # the host's threads generate nothing there


def test_the_speed_sentence_names_the_candidate() -> None:
    dream = make_record("dream", 8, e2e_ms=80.0)
    assert "Viable: dream is faster" in parity([make_record("llama", e2e_ms=200.0), dream]).speed_sentence


def test_two_records_for_one_place_are_refused() -> None:
    with pytest.raises(RecordError, match="one autoregressive Record"):
        parity([make_record("llama"), make_record("llama"), make_record("llada", 8)])
    with pytest.raises(RecordError, match="two Records of llada k=8"):
        parity([make_record("llama"), make_record("llada", 8), make_record("llada", 8)])


def test_a_sweep_over_batches_is_cut_into_one_verdict_a_batch() -> None:
    sweep = [record for batch in (2, 4) for record in make_sweep((8, 16), batch=batch)]
    assert [[r.label for r in members] for members in comparison_groups(sweep)] == [
        ["llama", "llada k=8", "llada k=16"]
    ] * 2
    assert [verdict.conditions["batch"] for verdict in verdicts(sweep)] == ["2", "4"]


def asked(chat: bool, records: list[Record]) -> list[Record]:
    """The same Records with prompts in a chat template, or not."""
    return [replace(r, conditions=r.conditions | ({"decoding.chat": "True"} if chat else {})) for r in records]


def test_a_chat_and_a_continuation_never_meet() -> None:
    plain, chat = asked(False, make_sweep((8,))), asked(True, make_sweep((8,)))
    found = verdicts([*plain, *chat])
    assert ["in chat templates" in verdict.sentence for verdict in found] == [False, True]
    assert all(verdict.status is not Status.MISSING_BASELINE for verdict in found)
    with pytest.raises(RecordError, match=r"llama and llada k=8 cannot be compared: decoding.chat is 'True' and None"):
        parity([chat[0], plain[1]])
    with pytest.raises(RecordError, match=r"decoding.chat is None and 'True'"):
        parity([plain[0], plain[1], replace(chat[1], steps=16)])
    apart = {verdict.status for verdict in verdicts([chat[0], plain[1]])}
    assert apart == {Status.MISSING_BASELINE, Status.MISSING_CANDIDATES}


def test_a_sweep_over_temperature_pairs_each_side_with_its_own() -> None:
    sweep = [record for heat in (0.0, 0.7) for record in make_sweep((8,), temperature=heat)]
    sets = comparison_groups(sweep)
    assert [{r.conditions["decoding.temperature"] for r in members} for members in sets] == [{"0.0"}, {"0.7"}]


def test_one_baseline_serves_every_decoding_of_the_other_side() -> None:
    other = make_record("llada", 8, conditions={"decoding.block_length": "8"})
    sets = comparison_groups([make_record("llama"), make_record("llada", 8), other])
    assert [[r.model for r in members] for members in sets] == [["llama", "llada"]] * 2


def test_a_clean_sweep_has_no_gates_and_no_warnings() -> None:
    (verdict,) = verdicts(make_sweep(prompts=32))
    assert (verdict.gates, verdict.warnings) == ((), ())


def test_a_metric_that_cannot_tell_the_baseline_from_its_floor_certifies_nothing() -> None:
    (verdict,) = verdicts(make_sweep(bertscore=0.05, perplexity=30.0))  # its floor is 0.1
    found = verdict.metric("quality/bertscore_f1")
    assert found is not None
    assert (found.status, found.reached, found.s_parity) == (Status.INSENSITIVE, None, 8)
    assert "quality/bertscore_f1" not in verdict.s_all_metrics


def test_quality_that_falls_again_above_parity_is_named() -> None:
    sweep = [make_record("llama", perplexity=45)] + [
        make_record("llada", k, perplexity=p) for k, p in {8: 60, 16: 40, 32: 50, 64: 40}.items()
    ]
    (verdict,) = verdicts(sweep)
    assert (verdict.metrics[0].s_parity, verdict.metrics[0].reached) == (16, 64)
    assert "the point estimate differs: S_parity = 16" in verdict.metrics[0].flags
    assert "perplexity falls below parity again at k = 32" in verdict.warnings


def test_a_verdict_survives_json() -> None:
    for records in (make_sweep(), make_sweep(reached=False), make_sweep(perplexity=None), []):
        verdict = parity(records)
        assert Parity.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_something_else_is_refused_as_a_verdict() -> None:
    with pytest.raises(RecordError, match="not a parity verdict"):
        Parity.from_dict({"status": "splendid"})


def test_the_series_draws_both_sides_over_k() -> None:
    rows = verdicts(make_sweep())[0].series()
    by_key: dict[str, dict[int, float]] = {}
    for key, steps, value in rows:
        by_key.setdefault(key, {})[steps] = value
    assert by_key["parity/llada_perplexity"] == pytest.approx({8: 80, 16: 60, 32: 40, 64: 30})
    assert by_key["parity/llama_perplexity"] == pytest.approx(dict.fromkeys((8, 16, 32, 64), 45))
    assert by_key["parity/s_parity_perplexity"] == {32: 32}
    assert by_key["parity/s_tested_perplexity"] == {32: 32}
    assert by_key["parity/delta_perplexity_lower"] == pytest.approx(by_key["parity/delta_perplexity"])  # no spread
    assert by_key["parity/delta_entropy_lower"][8] == pytest.approx(3.04 - 3.2)
    assert by_key["parity/speedup_at_parity_perplexity"] == {32: pytest.approx(0.625)}
    assert all(math.isfinite(value) for _, _, value in rows)


def test_of_several_implementations_the_fastest_is_the_baseline() -> None:
    candidates = [replace(r, conditions=r.conditions | {"decoding.kind": "diffusion"}) for r in make_sweep()[1:]]
    slow, fast = implementation("transformers", 400.0, "dynamic"), implementation("autoregressive", 200.0)
    static = implementation("transformers", 100.0, "static")
    (verdict,) = verdicts([slow, fast, *candidates])
    assert {s.steps: round(s.ratio, 4) for s in verdict.speedups} == {8: 2.5, 16: 1.25, 32: 0.625, 64: 0.3125}
    assert verdict.baseline_choice == (
        "The baseline is llama, the fastest of its implementations by L_e2e (llama transformers 400 ms, llama 200 ms)."
    )
    assert set(verdict.identities) == {r.identity for r in (slow, fast, *candidates)}
    assert "matches LLaMA's perplexity" in verdict.sentence
    (other,) = verdicts([slow, fast, static, *candidates])
    assert other.speedups[0].ratio == pytest.approx(1.25)
    assert "matches LLaMA (transformers static)'s perplexity" in other.sentence
    assert "llama transformers static 100 ms" in other.baseline_choice


def test_baselines_that_differ_in_more_than_their_implementation_are_refused() -> None:
    nucleus = implementation("transformers", 400.0, "dynamic")
    nucleus = replace(nucleus, conditions=nucleus.conditions | {"decoding.top_p": "0.9"})
    with pytest.raises(RecordError, match=r"decoding\.top_p is None and '0\.9'"):
        verdicts([implementation("autoregressive", 200.0), nucleus, make_record("llada", 8)])
    twice = [implementation("transformers", 400.0, "dynamic"), implementation("transformers", 300.0, "dynamic")]
    with pytest.raises(RecordError, match="one autoregressive Record is needed as the baseline, found 2"):
        verdicts([*twice, make_record("llada", 8)])


def test_implementations_without_a_candidate_stand_in_one_table() -> None:
    both = [implementation("transformers", 400.0, "dynamic"), implementation("autoregressive", 200.0)]
    (verdict,) = verdicts(both)
    assert verdict.status is Status.MISSING_CANDIDATES
    assert len(verdict.identities) == 2


GATE = "LLaMA at 6 % of its roofline limit: a speedup against a slow baseline"


@pytest.mark.parametrize(
    "quality", [{}, {"reached": False}, {"perplexity": None}], ids=["reached", "not reached", "speed only"]
)
def test_a_slow_baseline_gates_the_speedup_where_the_speedup_stands(quality: dict) -> None:
    """The least time is 4 x 3e7 bytes at 1e10 bytes/s, 12 ms; LLaMA takes 200 ms."""
    (verdict,) = verdicts(make_sweep(device="cuda", **quality))
    assert f"({GATE})" in verdict.sentence
    assert [gate.reason for gate in verdict.gates if gate.blocks == "speed"] == [GATE]
    assert verdict.speed is not Speed.VIABLE


@pytest.mark.parametrize(
    ("efficiency", "judged", "gated"), [(0.49, True, True), (0.5, True, False), (0.1, False, False)]
)
def test_the_gate_opens_at_half_of_the_roofline_and_only_a_judging_roofline_closes_it(
    efficiency: float, judged: bool, gated: bool
) -> None:
    llama, *others = make_sweep()
    assert llama.ceilings is not None
    llama = replace(
        llama,
        ceilings=replace(llama.ceilings, judged=judged),
        metrics=llama.metrics | {"roofline/efficiency": efficiency},
    )
    (verdict,) = verdicts([llama, *others])
    assert any(gate.name == "slow baseline" for gate in verdict.gates) is gated
    assert ("slow baseline" in verdict.sentence) is gated


def seeds(side: Record, *perplexities: float) -> list[Record]:
    """A side over seeds 1, 2, ... ."""
    made = []
    for number, perplexity in enumerate(perplexities, start=1):
        again = make_record(side.model, side.steps, perplexity=perplexity, conditions={"seed": str(number)})
        made.append(replace(again, identity=f"{side.label} {number}"))
    return made


def test_seeds_join_one_verdict_summed_within_each_prompt() -> None:
    sweep = [*seeds(make_record("llama"), 50.0, 60.0), *seeds(make_record("llada", 8), 40.0, 70.0)]
    (verdict,) = verdicts(sweep)
    found = verdict.metrics[0]
    assert verdict.seeds == ("1", "2")
    assert "2 seeds" in verdict.sentence
    assert found.prompts == 8  # the unit stays the prompt
    assert found.curve.baseline == pytest.approx(math.sqrt(50 * 60))  # equal token counts
    assert dict(found.deltas)[8] == pytest.approx(math.log(50 * 60 / (40 * 70)) / 2)
    assert found.tests[0].delta == pytest.approx(dict(found.deltas)[8])


def test_a_side_that_draws_no_noise_serves_every_seed() -> None:
    greedy = make_record("llama", temperature=0.0, perplexity=50.0)
    others = seeds(make_record("llada", 8), 40.0, 45.0)
    own = {"decoding.temperature": "0.0", "decoding.remasking": "random"}
    others = [replace(record, conditions=record.conditions | own) for record in others]
    (verdict,) = verdicts([greedy, *others])
    assert verdict.gates == ()
    assert len(verdict.identities) == 3


def test_a_seed_that_one_side_lacks_is_a_missing_setting() -> None:
    sweep = [*seeds(make_record("llama"), 50.0, 60.0), *seeds(make_record("llada", 8), 40.0)]
    (verdict,) = verdicts(sweep)
    assert verdict.status is Status.INVALID
    assert "settings missing: seeds differ: llama has 1, 2 and llada k=8 has 1" in verdict.sentence


def test_s_all_is_where_every_metric_passes() -> None:
    sweep = [make_record("llama", perplexity=45, bertscore=0.3)] + [
        make_record("llada", k, perplexity=p, bertscore=b) for k, p, b in ((8, 44, 0.2), (16, 40, 0.3), (32, 35, 0.31))
    ]
    (verdict,) = verdicts(sweep)
    assert [item.reached for item in verdict.metrics] == [8, 8, 16]
    assert verdict.s_all == 16
    assert "parity may begin below it" in verdict.metrics[0].flags[0]


@pytest.mark.parametrize(("llama_ms", "speed"), [(200.0, Speed.VIABLE), (20.0, Speed.INEFFICIENT), (80.2, Speed.OPEN)])
def test_speed_is_judged_where_quality_passes(llama_ms: float, speed: Speed) -> None:
    sweep = [make_record("llama", e2e_ms=llama_ms), make_record("llada", 8, e2e_ms=80.0)]
    (verdict,) = verdicts(sweep)
    assert verdict.speed is speed
    assert verdict.speed_sentence.lower().startswith(speed.value)


def test_sides_that_repeated_different_batches_are_timed_over_those_they_share() -> None:
    """Batch 0 takes 200 ms, batch 1 ten times as long; only LLaMA repeated batch 1."""
    llama = make_record("llama", e2e_ms=200.0, repeated=2, spread=0.02)
    slow = [replace(t, e2e_ms=t.e2e_ms * 10) if t.batch == 1 else t for t in llama.timings]
    llama = replace(llama, timings=tuple(slow), metrics=llama.metrics | {"latency/e2e_ms": 1110.0})
    (found,) = parity([llama, make_record("llada", 8, e2e_ms=80.0)]).speedups
    assert (found.ratio, found.baseline_ms, found.candidate_ms) == pytest.approx((2.5, 200.0, 80.0))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.ratio < found.high


@pytest.mark.parametrize(("spread", "gated"), [(0.5, False), (2.0, True)])
def test_times_that_a_busy_device_scattered_make_no_claim(spread: float, gated: bool) -> None:
    # six repeats at 200 ms (1 + spread (r - 2.5) / 6): quartiles at r = 1.25 and 3.75, 1.23 or 2.43 times apart
    sweep = make_sweep()
    sweep[0] = make_record("llama", e2e_ms=200.0, perplexity=45.0, entropy=3.2, bertscore=0.35, spread=spread)
    verdict = verdicts(sweep)[0]
    assert any(gate.name == "unsteady times" for gate in verdict.gates) is gated
    assert ("other work ran on this device" in verdict.sentence) is gated
    assert (verdict.speed is Speed.VIABLE) <= (not gated)


def test_no_passing_k_leaves_no_speed_to_judge() -> None:
    assert verdicts(make_sweep(reached=False))[0].speed is Speed.NO_PARITY


def test_the_bootstrap_draws_and_never_decides() -> None:
    one, other = (verdicts(make_sweep(), seed)[0] for seed in (0, 1))
    assert [item.status for item in one.metrics] == [item.status for item in other.metrics]
    assert one.metrics[0].frequencies == ((32, 1.0),)  # prompts that are all alike


def test_one_prompt_has_no_bounds_and_is_said_to_be_few():
    (found,) = verdicts(make_sweep(prompts=1))
    assert not found.metrics[0].tests
    assert "1 prompt: the bounds were tried with 32 and more (docs/method.md)" in found.warnings
