"""Two sweeps against each other: what is paired, what is found, what is not, and what is never compared in silence."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.compare_rates import WORLDS, logs, sweep, time_rates
from llmbench.analysis.compare import ALL_SETTINGS, TIME, Change, Comparison, Outcome, compare
from llmbench.analysis.compare_noise import DRIFT_WEIGHT
from llmbench.analysis.compare_quality import Why
from llmbench.analysis.compare_times import drift
from llmbench.errors import ConfigError, RecordError
from llmbench.record import PromptScore, Record
from records import make_record, make_sweep, rescored, server_record


def with_retimed(records: Sequence[Record], e2e_ms: float = 201.0) -> list[Record]:
    again = make_record("llama", e2e_ms=e2e_ms)
    return [*records, replace(again, role="retimed", outputs=(), scores=(), identity="again")]


def scaled(records: Sequence[Record], factor: float) -> list[Record]:
    """A copy whose stored times are scaled."""
    return [
        replace(
            r,
            timings=tuple(replace(t, e2e_ms=t.e2e_ms * factor, e2e_wall_ms=t.e2e_wall_ms * factor) for t in r.timings),
        )
        for r in records
    ]


def worse_in_nats(record: Record, nats: float) -> Record:
    """Every output less likely by so much per token, a little more or less by prompt."""

    def less(score: PromptScore) -> PromptScore:
        step = nats * (1 + 0.02 * (-1) ** len(score.prompt_id))
        return replace(score, nll_nats=score.nll_nats + step * score.judged_tokens)

    return rescored(record, less)


def of(found: Comparison, setting: str, metric: str = TIME) -> Change:
    (change,) = [item for item in found.changes if (item.setting, item.metric) == (setting, metric)]
    return change


SWEEP = with_retimed(make_sweep((8, 16)))


def test_a_copy_that_is_six_percent_slower_is_found_and_an_equal_one_is_not():
    same, slower, faster = (compare(SWEEP, scaled(SWEEP, factor)) for factor in (1.0, 1.06, 0.94))
    assert same.beyond_noise == ()
    assert of(slower, ALL_SETTINGS).outcome is Outcome.WORSE
    assert of(slower, "llada k=8").change == pytest.approx(1.06)
    assert of(faster, ALL_SETTINGS).outcome is Outcome.BETTER
    assert same.judged == slower.judged == 4 + 3 * 4  # times of three settings and together; four qualities of each


def test_the_gate_asks_for_the_lower_bound():
    slower = compare(SWEEP, scaled(SWEEP, 1.3))
    (together,) = [item for item in slower.worse_than(0.2) if item.setting == ALL_SETTINGS]
    assert together.low - 1 == together.worse_by > 0.2
    assert slower.worse_than(0.3) == ()
    assert compare(scaled(SWEEP, 1.3), SWEEP).worse_than(0.0) == ()  # faster


def test_a_bound_is_what_its_formula_says():
    from scipy.special import stdtrit

    a = with_retimed([make_record("llama", e2e_ms=100.0)], 104.0)
    b = with_retimed([make_record("llama", e2e_ms=110.0)], 110.0)
    found = of(compare(a, b, process_sd=0.02), "llama")
    drifted = 1.5 * math.log(1.04) ** 2 / 2  # of A; of B 0; two timings: 1 degree of freedom
    logs_of = [math.log(100 * (1 + 0.02 * (r - 2.5) / 6)) for r in range(6)]
    repeats = np.var(logs_of, ddof=1)
    variance = 2 * 0.02**2 + drifted + 2 * repeats
    freedom = max(variance**2 / (drifted**2 + 2 * repeats**2 / 5), 4)
    width = stdtrit(freedom, 1 - 0.05 / 4) * math.sqrt(variance)
    assert DRIFT_WEIGHT == 1.5
    assert math.log(found.high / 1.1) == pytest.approx(width, rel=1e-6)
    assert math.log(1.1 / found.low) == pytest.approx(width, rel=1e-6)


def test_a_baseline_that_drifted_widens_every_bound():
    steady, drifted = (compare(with_retimed(make_sweep((8,)), ms), SWEEP) for ms in (200.0, 230.0))
    assert of(drifted, "llada k=8").high > 1.2 * of(steady, "llada k=8").high
    assert drift(make_sweep((8,))) is None
    assert compare(make_sweep((8,)), make_sweep((8,))).noise.drift_a is None


def test_fewer_than_six_repeats_give_no_bounds():
    found = compare(make_sweep((8,), repeats=5), make_sweep((8,), repeats=5))
    assert of(found, "llama").low is None
    assert of(found, "llama").outcome is Outcome.NOT_JUDGED
    assert [item.why for item in found.skipped] == [Why.FEW_REPEATS] * 2


def test_times_of_a_busy_cpu_are_not_judged_unless_the_user_gives_the_noise():
    busy = [replace(r, environment=replace(r.environment, load_average=2.6)) for r in scaled(SWEEP, 3.0)]
    found = compare(SWEEP, busy)  # one thread
    assert {item.why for item in found.skipped} == {Why.BUSY}
    assert found.undecidable == ("llama", "llada k=8", "llada k=16")
    assert of(found, "llama").outcome is Outcome.NOT_JUDGED
    assert of(found, "llama").change == pytest.approx(3.0)
    assert of(compare(SWEEP, busy, process_sd=0.05), "llama").outcome is Outcome.WORSE
    on_card = [replace(r, environment=replace(r.environment, device="cuda")) for r in busy]
    assert of(compare(SWEEP, on_card), "llama").outcome is Outcome.WORSE


def test_repeats_of_a_measure_the_noise():
    from scipy.special import stdtrit

    a = make_sweep((8,))
    factors = (0.9, 1.0, 1.0, 1.1)
    repeats = [[replace(r, process=f"other {i}") for r in scaled(a, f)] for i, f in enumerate(factors)]
    found = compare(a, scaled(a, 1.06), repeats_of_a=repeats)
    sd = np.std(np.log([1.0, *factors]), ddof=1)
    together = of(found, ALL_SETTINGS)
    assert math.log(together.high / 1.06) == pytest.approx(stdtrit(4, 1 - 0.05 / 8) * math.sqrt(2) * sd)
    assert found.beyond_noise == ()
    steady = [[replace(r, process=f"other {i}") for r in a] for i in range(4)]
    slower = compare(a, scaled(a, 1.06), repeats_of_a=steady)
    assert of(slower, ALL_SETTINGS).outcome is Outcome.WORSE
    one_repeat = np.var([math.log(1 + 0.02 * (r - 2.5) / 6) for r in range(6)], ddof=1)
    least = math.sqrt(math.pi / 2 * 2 * one_repeat / 6)  # medians of six independent repeats, two sides
    assert math.log(of(slower, "llama").high / 1.06) == pytest.approx(stdtrit(4, 1 - 0.05 / 16) * least, rel=1e-6)
    busy = [replace(r, environment=replace(r.environment, load_average=9.0)) for r in a]
    assert compare(busy, busy, repeats_of_a=steady).undecidable == ()


def test_what_is_no_repeat_of_a_is_refused():
    a = make_sweep((8,))
    steady = [[replace(r, process=f"other {i}") for r in a] for i in range(4)]
    other = [replace(r, environment=replace(r.environment, git_commit="d" * 40)) for r in steady[0]]
    with pytest.raises(RecordError, match="commit"):
        compare(a, a, repeats_of_a=[*steady[:3], other])
    with pytest.raises(RecordError, match="is A itself"):
        compare(a, a, repeats_of_a=[*steady, a])
    with pytest.raises(ConfigError, match="at least 4"):
        compare(a, a, repeats_of_a=steady[:3])
    with pytest.raises(ConfigError, match="leave one"):
        compare(a, a, repeats_of_a=steady, process_sd=0.01)


def test_quality_is_paired_by_prompt_and_one_setting_that_got_worse_is_named():
    a = make_sweep((8, 16), prompts=40)
    b = [worse_in_nats(r, 0.3) if r.steps == 16 else r for r in a]
    found = compare(a, b)
    assert {item.setting for item in found.beyond_noise} == {"llada k=16"}
    change = of(found, "llada k=16", "quality/perplexity")
    assert change.outcome is Outcome.WORSE
    assert change.change == pytest.approx(-0.3, abs=0.01)
    assert change.prompts == 40
    assert change.b / change.a == pytest.approx(math.exp(0.3), abs=0.02)
    assert change.worse_by == pytest.approx(math.expm1(-change.high))
    assert 0.3 < change.worse_by < math.expm1(0.3)
    bits = of(found, "llada k=16", "quality/bits_per_byte")
    assert bits.worse_by == pytest.approx(-bits.high / bits.a)
    assert found.texts["llada k=16"] == (40, 40)


def test_only_prompts_of_equal_id_and_text_are_paired():
    a, b = make_record("llama", prompts=12), make_record("llama", prompts=8, conditions={"workload": "w1"})
    other = tuple(replace(o, prompt="another question") if i < 2 else o for i, o in enumerate(b.outputs))
    found = compare([a], [replace(b, outputs=other)])
    assert of(found, "llama", "quality/entropy").prompts == 6
    assert [item.key for item in found.matched.differing] == ["workload"]
    assert [(item.metric, item.why) for item in found.skipped] == [
        (TIME, Why.NOT_TIMED)
    ]  # the batch holds another text


def test_batches_of_other_prompts_are_not_timed_against_each_other():
    a, b = make_record("llama", repeated=2), make_record("llama", repeated=2)
    moved = replace(b, partition=(b.partition[0], tuple(reversed(b.partition[1]))))
    twice = tuple(replace(t, e2e_ms=t.e2e_ms * (2 if t.batch else 1)) for t in b.timings)
    assert of(compare([a], [replace(b, timings=twice)]), "llama").change == pytest.approx((1 + 2.02) / 2.01)
    assert of(compare([a], [replace(moved, timings=twice)]), "llama").change == pytest.approx(1.0)


def test_scores_of_other_judges_and_lost_scores_are_not_compared():
    a = make_sweep((8,))
    judged = [replace(r, conditions=r.conditions | {"judge": "j9"}) for r in a]
    found = compare(a, judged)
    assert {item.metric for item in found.changes} == {TIME, "quality/bertscore_f1"}
    assert {item.why for item in found.skipped} == {Why.OTHER_SCORER}

    first = a[1].outputs[0].prompt_id
    lost = [a[0], rescored(a[1], lambda s: None if s.prompt_id == first else s)]
    found = compare(a, lost)
    assert {(item.setting, item.why, item.side) for item in found.skipped} == {("llada k=8", Why.NOT_SCORED, "B")}

    odd = [a[0], rescored(a[1], lambda s: replace(s, nll_nats=math.nan) if s.prompt_id == first else s)]
    found = compare(a, odd)
    assert {(item.why, item.side) for item in found.skipped} == {(Why.NOT_FINITE, "B")}
    assert found.undecidable == ("llada k=8",)


def test_conditions_that_differ_are_listed_and_two_devices_are_named():
    b = [
        replace(
            r,
            conditions=r.conditions | {"device_name": "Other CPU", "torch": "2.14.0", "decoding.new_option": "1"},
            environment=replace(r.environment, driver="571", threads=2, git_commit="b" * 40, git_dirty=True),
        )
        for r in SWEEP
    ]
    found = compare(SWEEP, b)
    told = {item.key: (item.a, item.b) for item in found.matched.differing}
    assert next(iter(told)) == "device_name"
    assert told["device_name"] == (("Test CPU",), ("Other CPU",))
    assert told["torch"] == (("2.13.0",), ("2.14.0",))
    assert told["decoding.new_option"] == (("",), ("1",))  # older Records do not know it
    assert told["threads"] == (("1",), ("2",))
    assert told["commit"][1] == ("bbbbbbbbbb (changed)",)
    assert found.matched.uncommitted
    assert all(setting.across_devices for setting in found.matched.settings)
    assert len(found.matched.settings) == 3


def test_what_is_measured_is_never_mixed_and_what_one_side_lacks_is_listed():
    colder = make_record("llada", 8, temperature=0.2)
    found = compare(make_sweep((8, 16)), [*make_sweep((8,)), colder])
    assert [setting.label for setting in found.matched.settings] == ["llama", "llada k=8 temperature=0.7"]
    assert found.matched.only_a == ("llada k=16",)
    assert found.matched.only_b == ("llada k=8 temperature=0.2",)
    with pytest.raises(RecordError, match="share no setting"):
        compare(make_sweep((8,), batch=4), make_sweep((8,), batch=2))
    with pytest.raises(RecordError, match="two Records of llama"):
        compare(make_sweep((8,)), [make_record("llama"), make_record("llama", identity="other")])
    with pytest.raises(ConfigError, match="process_sd"):
        compare(SWEEP, SWEEP, process_sd=-1.0)


def test_a_condition_that_a_sweep_varies_cuts_it_into_settings():
    both = [make_record("llada", 8, conditions={"dtype": dtype}) for dtype in ("float32", "bfloat16")]
    found = compare(both, [both[1]])
    assert [setting.label for setting in found.matched.settings] == ["llada k=8 dtype=bfloat16"]
    assert found.matched.only_a == ("llada k=8 dtype=float32",)
    assert [s.label for s in compare([both[0]], [both[1]]).matched.settings] == ["llada k=8"]  # listed instead


def test_seeds_of_a_setting_are_one_comparison():
    a = [make_record("llada", 8, conditions={"seed": seed}) for seed in ("1", "2", "3")]
    found = compare(a, scaled(a[:2], 1.2))
    (setting,) = found.matched.settings
    assert [pair[0].conditions["seed"] for pair in setting.pairs] == ["1", "2"]
    assert of(found, "llada k=8").change == pytest.approx(1.2)


def test_a_failed_job_of_b_is_no_silent_pass():
    failed = make_record("llada", 16, status="failed", reason="out of memory")
    found = compare(make_sweep((8, 16)), [*make_sweep((8,)), failed])
    assert found.matched.failed_b == found.undecidable == ("llada k=16",)


def test_servers_are_compared_by_the_host_clock():
    a, b = server_record(100.0), server_record(100.0, url="http://other:8000/v1")
    slower = replace(b, timings=tuple(replace(t, e2e_wall_ms=t.e2e_wall_ms * 2) for t in b.timings))
    assert of(compare([a], [slower]), a.label).change == pytest.approx(2.0)


@pytest.mark.parametrize("world", ["quiet card", "waves of 5 % over 20 repeats"])
def test_simulated_pairs_of_one_commit_keep_their_error_rate(world):
    false, found, _ = time_rates(world, 60)
    assert false <= 0.1
    assert found >= (0.8 if world == "quiet card" else 0.0)


def test_a_simulated_sweep_has_the_times_that_were_drawn():
    machine = WORLDS["quiet card"]
    drawn = logs(machine, np.random.default_rng(0))
    made = sweep([make_record("llama")] * 4, drawn, 2.0)
    assert [timing.e2e_ms for timing in made[3].timings] == pytest.approx(list(200 * np.exp(drawn[3])))
