"""Times: the interval of a ratio, the baseline before and after, what widens or blocks a claim, and the claim."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest

from llmbench.analysis.estimates import Interval
from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.grouping import group
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.speed import UNSTEADY, baselines_beside, claim
from llmbench.analysis.parity.time_intervals import MIN_REPEATS, repeat_times
from llmbench.analysis.parity.time_intervals import speedup_interval as interval_of_sides
from llmbench.analysis.parity.verdict import (
    Blocks,
    Check,
    CheckName,
    Curve,
    MetricParity,
    Speed,
    Speedup,
    Status,
)
from llmbench.record import Record, Timing
from records import implementation, make_record, make_sweep


def timed(model: str, rows: list[list[float]]) -> Record:
    """A Record with the given times (repeats x batches), all batches repeated."""
    timings = tuple(
        Timing(batch=b, repeat=r, e2e_ms=ms, e2e_wall_ms=ms, prefill_ms=None, forwards=1, tokens=1, utf8_bytes=1)
        for r, row in enumerate(rows)
        for b, ms in enumerate(row)
    )
    return replace(make_record(model), timings=timings, repeated_batches=tuple(range(len(rows[0]))))


def speedup_interval(
    baseline: Record, candidate: Record, rng: np.random.Generator, resamples: int = 2000
) -> Interval | None:
    """With one seed a side."""
    return interval_of_sides((baseline,), (candidate,), rng, resamples)


def test_sides_may_have_other_numbers_of_repeats() -> None:
    slow = timed("llama", [[t] for t in (10.0, 11.0, 12.0, 14.0, 17.0, 25.0)])
    few, many = (
        speedup_interval(slow, timed("llada", [[1.0]] * repeats), np.random.default_rng(0)) for repeats in (6, 40)
    )
    assert few == many
    assert few is not None
    assert few.low < 13 < few.high
    assert speedup_interval(slow, timed("llada", [[1.0]] * (MIN_REPEATS - 1)), np.random.default_rng(0)) is None


def test_the_interval_is_that_of_the_median_over_all_possible_resamples() -> None:
    times = [10.0, 11.0, 12.0, 14.0, 17.0, 25.0]
    every = sorted(median(draw) for draw in itertools.product(times, repeat=6))  # 6^6: the whole bootstrap distribution
    low, high = np.percentile(every, [2.5, 97.5])
    interval = speedup_interval(
        timed("llama", [[t] for t in times]), timed("llada", [[1.0]] * 6), np.random.default_rng(0), resamples=20_000
    )
    assert interval is not None
    assert interval.low == pytest.approx(low, abs=0.51)  # the neighbouring values of a discrete distribution
    assert interval.high == pytest.approx(high, abs=2.1)


def test_batches_are_drawn_in_pairs_so_that_a_long_batch_on_both_sides_cancels() -> None:
    # batch 1 takes ten times as long on both sides: the ratio is 2 whichever batches are drawn
    slow = timed("llama", [[20.0, 200.0]] * 6)
    fast = timed("llada", [[10.0, 100.0]] * 6)
    interval = speedup_interval(slow, fast, np.random.default_rng(0))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((2.0, 2.0))


def test_the_choice_of_batches_widens_the_interval_by_what_so_few_can_hide() -> None:
    # ratio 1 on batch 0, 3 on batch 1; drawing (0,0), (0,1), (1,1) gives 1, 40/20, 3: on the log scale -ln 2, 0, ln 1.5
    # around the point 2, stretched by t(1; 0.975) / z sqrt(2 / 1) = 12.706 / 1.960 * 1.414 = 9.168
    interval = speedup_interval(
        timed("llama", [[10.0, 30.0]] * 6), timed("llada", [[10.0, 10.0]] * 6), np.random.default_rng(0)
    )
    assert interval is not None
    assert interval.low == pytest.approx(2 * 0.5**9.168, rel=1e-3)
    assert interval.high == pytest.approx(2 * 1.5**9.168, rel=1e-3)


def test_seeds_share_the_drawn_batches_and_average_their_times() -> None:
    # the second seed's texts take twice as long on both sides: (10 + 20) / (5 + 10) = 2
    sides = [
        [timed(model, [[ms]] * 6), timed(model, [[2 * ms]] * 6)] for model, ms in (("llama", 10.0), ("llada", 5.0))
    ]
    interval = interval_of_sides(sides[0], sides[1], np.random.default_rng(0))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((2.0, 2.0))
    short = [sides[0][0], timed("llama", [[10.0]] * 5)]
    assert interval_of_sides(short, sides[1], np.random.default_rng(0)) is None


def test_repeats_are_drawn_whole() -> None:
    # within each repeat the two batches cancel: the mean over batches is always 15
    rows = [[10.0, 20.0], [20.0, 10.0]] * 3
    times = repeat_times(timed("llama", rows), (0, 1))
    assert times.shape == (6, 2)
    assert times.mean(axis=1).tolist() == [15.0] * 6


def test_a_repeat_that_lacks_a_shared_batch_is_left_out() -> None:
    record = make_record("llada", 8, prompts=8, batch=4, repeats=6, repeated=1)  # batch 1 only in the first repeat
    assert repeat_times(record, (0,)).shape == (6, 1)
    assert repeat_times(record, (0, 1)).shape == (1, 2)


@pytest.mark.parametrize(("left", "right"), [(MIN_REPEATS - 1, 6), (6, MIN_REPEATS - 1)])
def test_fewer_than_six_repeats_give_no_interval(left: int, right: int) -> None:
    sides = make_record("llama", repeats=left), make_record("llada", 8, repeats=right)
    assert speedup_interval(*sides, np.random.default_rng(0)) is None


def test_no_shared_batch_gives_no_interval() -> None:
    sides = make_record("llama"), replace(make_record("llada", 8), repeated_batches=())
    assert speedup_interval(*sides, np.random.default_rng(0)) is None


def test_the_seed_decides_and_zero_is_a_seed() -> None:
    sides = make_record("llama", spread=0.5, repeats=9), make_record("llada", 8, spread=0.5, repeats=9)
    first, again, other = (speedup_interval(*sides, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


# The baseline before and after

EQUAL = {"perplexity": 40.0, "entropy": 3.2}


def llama(e2e_ms: float, minute: int, role: str = "timed", **changes: Any) -> Record:
    made = make_record("llama", e2e_ms=e2e_ms, **(EQUAL | changes))
    return replace(made, role=role, started_at=_at(minute), identity=f"llama-{minute}")  # type: ignore[arg-type]


def llada(e2e_ms: float, minute: int = 30, steps: int = 8, **changes: Any) -> Record:
    return replace(make_record("llada", steps, e2e_ms=e2e_ms, **(EQUAL | changes)), started_at=_at(minute))


def _at(minute: int) -> str:
    return f"2026-11-23T10:{minute:02d}:00+00:00"


def moved(record: Record, process: str | None = None, card: str | None = None) -> Record:
    """The Record of another process or card."""
    environment = replace(record.environment, device_uuid=card)
    return replace(record, process=record.process if process is None else process, environment=environment)


def only(verdict: Parity) -> Speedup:
    (found,) = verdict.speedups
    return found


def test_the_baseline_before_and_after_gives_the_geometric_mean_and_the_hull() -> None:
    alone = [only(parity([llama(ms, 0), llada(100.0)])) for ms in (200.0, 242.0)]
    both = only(parity([llama(200.0, 0), llama(242.0, 59, "retimed"), llada(100.0)]))
    assert both.baseline_ms == pytest.approx(220.0)
    assert both.ratio == pytest.approx(2.2)
    assert both.drift == pytest.approx(1.21)
    assert both.low == pytest.approx(alone[0].low, rel=0.01)
    assert both.high == pytest.approx(alone[1].high, rel=0.01)
    assert [item.drift for item in alone] == [None, None]


def test_the_nearest_timings_in_time_process_and_card_count() -> None:
    records = [
        llama(200.0, 0),
        llama(210.0, 20, "retimed"),
        llama(220.0, 40, "retimed"),
        llama(230.0, 59, "retimed"),
        moved(llama(900.0, 29, "retimed"), "host 2"),
        moved(llama(900.0, 31, "retimed"), card="GPU-2"),
        replace(llama(900.0, 28, "retimed"), status="failed"),
        llada(100.0),
        llada(100.0, 50, 16),
    ]
    found = {item.steps: item for item in parity(records).speedups}
    assert found[8].baseline_ms == pytest.approx((210 * 220) ** 0.5)
    assert found[16].baseline_ms == pytest.approx((220 * 230) ** 0.5)


def test_each_seed_has_its_own_timings_where_there_are_some() -> None:
    seeds = [{"conditions": {"seed": seed}} for seed in ("1", "2")]
    records = [
        *(llama(ms, i, **seed) for i, (ms, seed) in enumerate(zip((200.0, 300.0), seeds, strict=True))),
        *(llama(ms, 50 + i, "retimed", **seed) for i, (ms, seed) in enumerate(zip((200.0, 500.0), seeds, strict=True))),
        *(llada(100.0, **seed) for seed in seeds),
    ]
    records = [replace(record, identity=str(i)) for i, record in enumerate(records)]
    sides = group(records)
    before, after = baselines_beside(sides, sides.candidates[0].records)
    assert [r.identity for r in before] == ["0", "1"]
    assert [r.identity for r in after] == ["2", "3"]


def test_old_records_without_a_process_have_the_baseline_before() -> None:
    records = [moved(record, "") for record in (llama(200.0, 59), llada(100.0))]
    verdict = parity(records)
    assert (only(verdict).ratio, only(verdict).drift) == (pytest.approx(2.0), None)
    assert (verdict.speed, verdict.failed_checks) == (Speed.VIABLE, ())


@pytest.mark.parametrize("e2e_ms", [50.0, 400.0])
def test_another_process_or_card_blocks_both_directions(e2e_ms: float) -> None:
    here = [llama(200.0, 0), llada(e2e_ms)]
    assert parity(here).speed is (Speed.VIABLE if e2e_ms < 200 else Speed.INEFFICIENT)
    for elsewhere in (moved(here[1], "host 2"), moved(here[1], card="GPU-2")):
        verdict = parity([here[0], elsewhere])
        check = verdict.check(CheckName.CARD, 8)
        assert check is not None
        assert (check.blocks, verdict.status, verdict.speed) == ("speed", Status.REACHED, Speed.OPEN)
        again = moved(llama(200.0, 1, "retimed"), elsewhere.process, elsewhere.environment.device_uuid)
        verdict = parity([here[0], again, elsewhere])
        assert verdict.check(CheckName.CARD, 8) is None
        assert verdict.speed is not Speed.OPEN


@pytest.mark.parametrize(("after", "noted"), [(205.0, False), (207.0, True), (193.0, True)])
def test_a_drift_of_the_baseline_above_3_percent_is_a_note(after: float, noted: bool) -> None:
    verdict = parity([llama(200.0, 0), llama(after, 59, "retimed"), llada(100.0)])
    check = verdict.check(CheckName.DRIFT)
    assert (check is not None) is noted
    if check:
        assert (check.blocks, check.values["ratio"]) == ("note", pytest.approx(after / 200))
    assert verdict.speed is Speed.VIABLE


# Unsteady times


def quartiles_apart(record: Record, factor: float) -> Record:
    """Six repeats whose quartiles differ by this factor (0.25 of the way between the second and third)."""
    middle = record.metrics["latency/e2e_ms"]
    times = dict(enumerate((middle, middle, middle, middle * factor, middle * factor, middle * factor)))
    timings = tuple(replace(t, e2e_ms=times[t.repeat]) if t.batch == 0 else t for t in record.timings)
    return replace(record, timings=timings)


@pytest.mark.parametrize(
    ("factor", "found"), [(1.4, None), (1.49, None), (1.55, 1.55), (1.7, 1.7), (1.9, 1.9), (2.5, 2.5)]
)
def test_times_whose_quartiles_differ_by_half_are_unsteady(factor: float, found: float | None) -> None:
    assert UNSTEADY == 1.5
    verdict = parity([llama(200.0, 0), quartiles_apart(llada(195.0), factor)])
    assert only(verdict).unsteady == (None if found is None else pytest.approx(found))
    check = verdict.check(CheckName.UNSTEADY, 8)
    assert (check is not None) is (found is not None)
    if check:
        assert (check.values["ratio"], check.blocks, verdict.speed) == (pytest.approx(found), "speed", Speed.OPEN)


@pytest.mark.parametrize(
    ("e2e_ms", "speed"), [(20.0, Speed.VIABLE), (120.0, Speed.OPEN), (350.0, Speed.OPEN), (1500.0, Speed.INEFFICIENT)]
)
@pytest.mark.parametrize("side", [0, 1])
def test_unsteady_times_widen_the_interval_by_their_ratio_and_block_while_it_holds_1(
    e2e_ms: float, speed: Speed, side: int
) -> None:
    records = [llama(200.0, 0), llada(e2e_ms)]
    records[side] = quartiles_apart(records[side], 1.8)
    verdict = parity(records)
    plain = interval_of_sides(records[:1], records[1:], np.random.default_rng(0))
    assert plain is not None
    assert only(verdict).low == pytest.approx(plain.low / 1.8, rel=0.01)
    assert only(verdict).high == pytest.approx(plain.high * 1.8, rel=0.01)
    check = verdict.check(CheckName.UNSTEADY, 8)
    assert check is not None
    assert (check.blocks, verdict.speed) == ("speed" if speed is Speed.OPEN else "note", speed)


def test_an_unsteady_timing_of_the_baseline_afterwards_counts_too() -> None:
    again = quartiles_apart(llama(200.0, 59, "retimed"), 1.8)
    assert only(parity([llama(200.0, 0), again, llada(100.0)])).unsteady == pytest.approx(1.8)


# What is claimed


def claimed(
    *items: tuple[int, float | None, float | None],
    passing: Sequence[int] = (8, 16),
    blocks: Blocks | None = None,
    at: int | None = 8,
) -> Speed:
    curve = Curve(metric="quality/perplexity", baseline=1.0, values=())
    head = MetricParity(curve=curve, status=Status.REACHED, margin=0.1, prompts=9, documents=9, passing=tuple(passing))
    speedups = [
        Speedup(steps=k, ratio=1.0, low=low, high=high, baseline_ms=1, candidate_ms=1) for k, low, high in items
    ]
    checks = [Check(name=CheckName.CARD, passed=False, blocks=blocks, steps=at)] if blocks else []
    return claim(head, speedups, checks)


def test_viable_where_one_passing_k_is_faster_and_inefficient_where_none_can_be() -> None:
    fast, slow, open_ = (1.1, 1.2), (0.5, 0.6), (0.9, 1.1)
    assert claimed((8, *fast), (16, *slow)) is Speed.VIABLE
    assert claimed((8, *slow), (16, *slow)) is Speed.INEFFICIENT
    assert claimed((8, *open_), (16, *slow)) is Speed.OPEN
    assert claimed((4, *fast), (8, *slow), (16, *slow)) is Speed.INEFFICIENT  # k = 4 does not pass
    assert claimed((16, *slow)) is Speed.OPEN  # k = 8 was not timed
    assert claimed((8, None, None), (16, *slow)) is Speed.OPEN
    assert claimed((8, *fast), passing=()) is claim(None, (), ()) is Speed.NO_PARITY
    assert claimed((8, 1.0, 1.2), (16, *slow)) is Speed.OPEN


def test_what_a_check_forbids() -> None:
    fast, slow = (1.1, 1.2), (0.5, 0.6)
    assert claimed((8, *fast), (16, *slow), blocks="speed") is Speed.OPEN
    assert claimed((8, *fast), (16, *fast), blocks="speed") is Speed.VIABLE  # at k = 16
    assert claimed((8, *slow), (16, *slow), blocks="speed") is Speed.OPEN
    assert claimed((8, *fast), (16, *slow), blocks="viable", at=None) is Speed.OPEN
    assert claimed((8, *slow), (16, *slow), blocks="viable", at=None) is Speed.INEFFICIENT
    assert claimed((8, *fast), (16, *slow), blocks="note") is Speed.VIABLE


@pytest.mark.parametrize(
    ("efficiency", "judged", "gated"), [(0.49, True, True), (0.5, True, False), (0.1, False, False)]
)
def test_a_baseline_below_half_of_its_roofline_is_slow_where_that_can_be_judged(
    efficiency: float, judged: bool, gated: bool
) -> None:
    record = llama(200.0, 0)
    assert record.ceilings is not None
    metrics = record.metrics | {"roofline/efficiency": efficiency}
    record = replace(record, ceilings=replace(record.ceilings, judged=judged), metrics=metrics)
    verdict = parity([record, llada(100.0)])
    check = verdict.check(CheckName.SLOW_BASELINE)
    assert (verdict.speed, check is not None) == ((Speed.OPEN, True) if gated else (Speed.VIABLE, False))
    if check:
        assert (check.blocks, check.values["value"], check.values["limit"]) == ("viable", efficiency, 0.5)
    assert parity([record, llada(400.0)]).speed is Speed.INEFFICIENT


def used_by_others(record: Record, percent: float | None) -> Record:
    return replace(record, device_use=replace(record.device_use, other_sm_percent=percent))


@pytest.mark.parametrize(
    ("shares", "where"),
    [
        ((None, None, None), ()),
        ((5.0, 5.0, 5.0), ()),
        ((30.0, None, 0.0), ("llama", None)),
        ((0.0, 30.0, 0.0), ("llada k=8", 8)),
        ((0.0, 30.0, 60.0), ("llama (timed again)", 8)),
    ],
)
def test_another_process_that_is_busy_on_the_gpu_blocks_both_directions(
    shares: tuple[float | None, ...], where: tuple[str, int | None] | tuple[()]
) -> None:
    for e2e_ms, claimed in ((100.0, Speed.VIABLE), (400.0, Speed.INEFFICIENT)):
        records = [llama(200.0, 0), llada(e2e_ms), llama(200.0, 59, "retimed")]
        verdict = parity([used_by_others(*pair) for pair in zip(records, shares, strict=True)])
        check = verdict.check(CheckName.OTHERS, where[1] if where else None)
        assert (verdict.speed, check is not None) == ((Speed.OPEN, True) if where else (claimed, False))
        if check:
            assert (check.values["label"], check.steps, check.blocks) == (*where, "speed")
            assert check.values["value"] == max(share or 0 for share in shares) / 100


@pytest.mark.parametrize("e2e_ms", [100.0, 400.0])
def test_other_numbers_of_cpu_threads_block_both_directions(e2e_ms: float) -> None:
    many = llada(e2e_ms)
    many = replace(many, environment=replace(many.environment, threads=16))
    verdict = parity([llama(200.0, 0), many])
    check = verdict.check(CheckName.THREADS)
    assert check is not None
    assert (check.values, check.blocks, verdict.speed) == ({"llama": 1.0, "llada k=8": 16.0}, "speed", Speed.OPEN)
    on_gpu = [replace(r, environment=replace(r.environment, device="cuda")) for r in (llama(200.0, 0), many)]
    assert parity(on_gpu).check(CheckName.THREADS) is None  # the host's threads generate nothing there


def test_fewer_than_six_repeats_leave_the_claim_open() -> None:
    verdict = parity(make_sweep(repeats=3))
    assert {(item.low, item.high) for item in verdict.speedups} == {(None, None)}
    assert verdict.speed is Speed.OPEN


def test_sides_that_repeated_different_batches_are_timed_over_those_they_share() -> None:
    """Batch 0 takes 200 ms, batch 1 ten times as long; only LLaMA repeated batch 1."""
    record = llama(200.0, 0, repeated=2)
    slow = [replace(t, e2e_ms=t.e2e_ms * 10) if t.batch == 1 else t for t in record.timings]
    record = replace(record, timings=tuple(slow), metrics=record.metrics | {"latency/e2e_ms": 1110.0})
    found = only(parity([record, llada(80.0)]))
    assert (found.ratio, found.baseline_ms, found.candidate_ms) == pytest.approx((2.5, 200.0, 80.0))


def test_of_several_implementations_the_fastest_is_the_baseline() -> None:
    plain, slow = implementation("autoregressive", 200.0), implementation("transformers", 400.0, "dynamic")
    static = implementation("transformers", 100.0, "static")
    verdict = parity([slow, plain, *make_sweep()[1:]])
    assert [round(item.ratio, 4) for item in verdict.speedups] == [2.5, 1.25, 0.625, 0.3125]
    verdict = parity([slow, plain, static, *make_sweep()[1:]])
    assert verdict.speedups[0].ratio == pytest.approx(1.25)
    shown = [(item.label, item.e2e_ms) for item in verdict.implementations]
    assert shown[0] == ("llama transformers static", pytest.approx(100.0))
    assert {label for label, _ in shown[1:]} == {"llama", "llama transformers"}


def test_another_implementation_has_a_speedup_as_a_candidate_has_it() -> None:
    plain, later = (replace(implementation("autoregressive", ms), process="host 1") for ms in (200.0, 242.0))
    drafted = replace(implementation("autoregressive", 400.0, draft="lookup"), process="host 1", started_at=_at(30))
    plain, later = replace(plain, started_at=_at(0)), replace(later, started_at=_at(59), role="retimed")

    def own(*records: Record) -> Any:
        chosen, other = parity([*records]).implementations
        assert chosen.speedup is None
        return other.speedup

    between = own(plain, later, drafted)
    assert between.value == pytest.approx(220 / 400)  # the geometric mean of before and after
    before, after = own(plain, drafted), own(replace(later, role="timed"), drafted)
    assert (between.low, between.high) == (pytest.approx(before.low, rel=0.01), pytest.approx(after.high, rel=0.01))
    for elsewhere in (moved(drafted, "host 2"), moved(drafted, card="GPU-2")):
        assert (own(plain, elsewhere).value, own(plain, elsewhere).low) == (pytest.approx(0.5), None)
