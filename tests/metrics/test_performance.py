"""Every formula of METRICS.md's latency, throughput, memory, energy and roofline rows, worked by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest

from llmbench.metrics import quality
from llmbench.metrics.keys import METRICS, SPREAD
from llmbench.metrics.performance import compute, gaps, inter_token_ms, median_interval, spread
from llmbench.record import Ceilings, DeviceUse, Environment, ForwardCost, ForwardShape, Marks, Record, Timing
from records import make_record


def timing(batch: int, repeat: int, e2e: float, **changes: Any) -> Timing:
    values: dict[str, Any] = {"e2e_wall_ms": e2e + 2, "prefill_ms": 40.0, "forwards": 4, "tokens": 6, "utf8_bytes": 20}
    return Timing(batch=batch, repeat=repeat, e2e_ms=e2e, **(values | changes))


def record(device: str = "cpu", family: str = "autoregressive", **changes: Any) -> Record:
    """Two batches (3 and 2 prompts), G = 8; batch 0 is repeated."""
    environment = Environment(
        device=device,
        device_name="device",
        driver=None,
        threads=1,
        load_average=None,
        python="3.11",
        platform="Linux",
        versions={},
        git_commit=None,
        git_dirty=None,
    )
    values: dict[str, Any] = {
        "identity": "0",
        "model": "llama" if family == "autoregressive" else "llada",
        "family": family,
        "steps": None if family == "autoregressive" else 4,
        "status": "finished",
        "reason": None,
        "started_at": "2026-01-01T00:00:00+00:00",
        "duration_s": 1.0,
        "config": {},
        "conditions": {"engine": "eager"},
        "signatures": {},
        "environment": environment,
        "partition": (("a", "b", "c"), ("d", "e")),
        "timings": (timing(0, 0, 100.0), timing(1, 0, 300.0, tokens=4, utf8_bytes=10, forwards=8)),
        "canvas": 8,
        "block_length": None if family == "autoregressive" else 8,
        "repeated_batches": (0,),
    }
    return Record(**(values | changes))


def repeats(*times: float, **changes: Any) -> tuple[Timing, ...]:
    return tuple(timing(0, repeat, e2e, **changes) for repeat, e2e in enumerate(times))


# Samples


def test_spread_of_four_samples() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.median, found.q1, found.q3, found.n) == (2.5, 1.75, 3.25, 4)
    assert (found.ci_low, found.ci_high) == (None, None)


def test_one_sample_has_a_median_and_no_quartiles_and_none_has_nothing() -> None:
    found = spread([7.0])
    assert found is not None
    assert (found.median, found.q1, found.q3, found.n) == (7.0, None, None, 1)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("n", "ranks"),
    # the table of exact 95 % intervals of the median in textbooks of order statistics, 1-based ranks
    [(5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (11, (2, 10)), (12, (3, 10)), (20, (6, 15)), (30, (10, 21))],
)
def test_interval_of_the_median_by_rank(n: int, ranks: tuple[int, int] | None) -> None:
    samples = [float(i) for i in range(n, 0, -1)]  # the value is the rank
    assert median_interval(samples) == ranks


@pytest.mark.parametrize("n", range(6, 60))
def test_interval_covers_95_percent_and_the_next_narrower_does_not(n: int) -> None:
    found = median_interval([float(i) for i in range(1, n + 1)])
    assert found is not None

    def coverage(j: int) -> float:  # slow twin: sum the binomial between the two ranks
        return sum(math.comb(n, i) for i in range(j, n - j + 1)) / 2**n

    j = int(found[0])
    assert found[1] == n + 1 - j
    assert coverage(j) >= 0.95 > coverage(j + 1)


def test_gaps_stay_inside_a_generation_and_leave_the_prefill_out() -> None:
    marks = [Marks(batch=0, repeat=0, at_ms=(200, 210, 225)), Marks(batch=0, repeat=1, at_ms=(180, 192, 200))]
    assert gaps(marks) == [10, 15, 12, 8]
    assert gaps([Marks(batch=0, repeat=0, at_ms=(200,)), Marks(batch=0, repeat=1, at_ms=())]) == []


# Latency


def test_end_to_end_latency_is_the_median_over_repeats_of_repeated_batches_only() -> None:
    found = compute(record(timings=(*repeats(100.0, 90.0, 140.0), timing(1, 0, 900.0))))
    assert found["latency/e2e_ms"] == 100.0
    assert found["latency/e2e_ms_q1"] == 95.0
    assert found["latency/e2e_ms_q3"] == 120.0
    assert found["latency/e2e_ms_n"] == 3
    assert "latency/e2e_ms_ci_low" not in found
    assert found["latency/e2e_wall_ms"] == 102.0
    assert (found["latency/e2e_wall_ms_q1"], found["latency/e2e_wall_ms_q3"]) == (97.0, 122.0)
    assert found["latency/first_text_ms_n"] == found["latency/e2e_wall_ms_n"] == 3


def test_a_repeat_is_the_mean_over_its_batches_and_an_incomplete_one_is_left_out() -> None:
    complete = (timing(0, 0, 100.0), timing(1, 0, 300.0), timing(0, 1, 110.0), timing(1, 1, 310.0))
    found = compute(record(timings=(*complete, timing(0, 2, 1.0)), repeated_batches=(0, 1)))
    assert found["latency/e2e_ms"] == 205.0  # of 200 and 210
    assert found["latency/e2e_ms_n"] == 2


def test_six_repeats_have_an_interval_and_five_have_none() -> None:
    times = (100.0, 101.0, 102.0, 103.0, 104.0, 150.0)
    found = compute(record(timings=repeats(*times)))
    assert (found["latency/e2e_ms_ci_low"], found["latency/e2e_ms_ci_high"]) == (100.0, 150.0)
    assert "latency/e2e_ms_ci_low" not in compute(record(timings=repeats(*times[:5])))


def test_one_repeat_has_a_value_and_a_count_and_nothing_else() -> None:
    found = compute(record(timings=repeats(100.0)))
    assert {key for key in found if key.startswith("latency/e2e_ms")} == {"latency/e2e_ms", "latency/e2e_ms_n"}


def test_inter_token_latency_divides_by_the_forwards_after_the_first() -> None:
    assert inter_token_ms(timing(0, 0, 100.0, prefill_ms=40.0, forwards=4)) == 20.0
    found = compute(record(timings=repeats(100.0, 106.0)))
    assert found["latency/itl_ms"] == 21.0  # (60/3 + 66/3) / 2
    assert found["latency/prefill_ms"] == 40.0
    assert found["latency/first_text_ms"] == 40.0


@pytest.mark.parametrize("changes", [{"forwards": 1}, {"prefill_ms": None}])
def test_no_inter_token_latency_from_one_forward_or_without_prefill(changes: dict[str, Any]) -> None:
    assert not any(key.startswith("latency/itl_ms") for key in compute(record(timings=repeats(100.0, **changes))))


def test_token_gaps_are_pooled_with_quartiles_but_without_an_interval_of_dependent_samples() -> None:
    marks = tuple(Marks(batch=0, repeat=repeat, at_ms=(200.0, 210.0, 221.0, 233.0)) for repeat in range(5))
    found = compute(record(marks=marks))
    assert found["latency/token_gap_ms"] == 11.0
    assert found["latency/token_gap_ms_n"] == 15
    assert (found["latency/token_gap_ms_q1"], found["latency/token_gap_ms_q3"]) == (10.0, 12.0)
    assert "latency/token_gap_ms_ci_low" not in found
    assert "latency/step_ms" not in found  # an AR model has no steps


def test_a_forward_that_verifies_drafts_is_a_step_and_no_token() -> None:
    marks = (Marks(batch=0, repeat=0, at_ms=(40.0, 47.0, 57.0, 63.0)),)
    config = {"model": {"decoder": {"kind": "autoregressive", "draft": "lookup"}}}
    drafted = compute(record(timings=repeats(100.0, 110.0), marks=marks, config=config))
    assert (drafted["latency/step_ms"], drafted["latency/prefill_ms"]) == (7.0, 40.0)
    assert not drafted.keys() & {"latency/itl_ms", "latency/token_gap_ms"}
    plain = compute(record(timings=repeats(100.0, 110.0), marks=marks))
    assert (plain["latency/token_gap_ms"], plain["latency/itl_ms"]) == (7.0, ((100 - 40) / 3 + (110 - 40) / 3) / 2)


def test_a_whole_canvas_shows_text_at_its_end_and_has_steps_but_no_token_times() -> None:
    marks = (Marks(batch=0, repeat=0, at_ms=(30.0, 50.0, 70.0, 90.0)),)
    found = compute(record(family="diffusion", timings=repeats(100.0, prefill_ms=None), marks=marks))
    assert found["latency/first_text_ms"] == 100.0
    assert found["latency/step_ms"] == 20.0
    assert found["latency/step_ms_n"] == 3
    for absent in ("latency/itl_ms", "latency/prefill_ms", "latency/token_gap_ms"):
        assert absent not in found


def test_blocks_show_text_at_the_end_of_the_first_block() -> None:
    # k = 4 over 8 / 4 = 2 blocks: the first block ends with the second mark
    marks = (
        Marks(batch=0, repeat=0, at_ms=(30.0, 50.0, 70.0, 90.0)),
        Marks(batch=0, repeat=1, at_ms=(30.0, 54.0, 70.0, 90.0)),
    )
    blocks = record(family="diffusion", timings=repeats(100.0, prefill_ms=None), block_length=4)
    assert compute(replace(blocks, marks=marks))["latency/first_text_ms"] == 52.0
    assert "latency/first_text_ms" not in compute(blocks)  # no marked pass


def test_first_text_is_the_median_over_repeats_of_the_mean_over_batches() -> None:
    ends = {0: (50.0, 70.0), 1: (52.0, 72.0), 2: (500.0, 80.0)}  # means 60, 62, 290
    marks = tuple(
        Marks(batch=batch, repeat=repeat, at_ms=(10.0, end), first_text=2)
        for repeat, both in ends.items()
        for batch, end in enumerate(both)
    )
    blocks = record(family="diffusion", block_length=4, repeated_batches=(0, 1), marks=marks)
    found = compute(blocks)
    assert found["latency/first_text_ms"] == 62.0
    assert (found["latency/first_text_ms_q1"], found["latency/first_text_ms_q3"]) == (61.0, 176.0)
    half = replace(blocks, marks=marks[:3])  # the second repeat lacks a batch: its mean would be of another one
    assert (compute(half)["latency/first_text_ms"], compute(half)["latency/first_text_ms_n"]) == (60.0, 1)


def test_six_marked_repeats_give_first_text_an_interval() -> None:
    marks = tuple(Marks(batch=0, repeat=r, at_ms=(10.0, 50.0 + r), first_text=2) for r in range(6))
    found = compute(record(family="diffusion", block_length=4, marks=marks))
    assert (found["latency/first_text_ms_ci_low"], found["latency/first_text_ms_ci_high"]) == (50.0, 55.0)


def test_a_single_step_has_no_step_time() -> None:
    one = record(family="diffusion", steps=1, timings=repeats(100.0), marks=(Marks(batch=0, repeat=0, at_ms=(95.0,)),))
    assert not any(key.startswith("latency/step_ms") for key in compute(one))
    assert compute(one)["latency/first_text_ms"] == 100.0


def test_clock_gap_and_host_overhead_exist_on_cuda_only() -> None:
    use = DeviceUse(profiled_e2e_ms=120.0, kernel_ms=45.0)
    cuda = compute(record("cuda", device_use=use))
    assert cuda["latency/clock_gap_ms"] == 2.0
    assert cuda["latency/clock_gap_ms_n"] == 1
    assert cuda["latency/host_overhead_ms"] == 75.0
    cpu = compute(record(device_use=use))
    assert "latency/clock_gap_ms" not in cpu
    assert "latency/host_overhead_ms" not in cpu


def test_tokenize_time_is_passed_on_and_zero_is_a_value() -> None:
    assert compute(record(tokenize_ms=0.0))["latency/tokenize_ms"] == 0.0
    assert "latency/tokenize_ms" not in compute(record())


# Throughput


def test_throughput_is_what_repeat_0_wrote_over_the_batches_median_times() -> None:
    later = (timing(0, 1, 60.0, tokens=1000), timing(0, 2, 40.0, tokens=1000))
    found = compute(replace(record(), timings=(*record().timings, *later)))
    seconds = (60 + 300) / 1000  # the median of 100, 60 and 40; the second batch has one time
    assert found["throughput/tokens_per_s"] == pytest.approx((6 + 4) / seconds)
    assert found["throughput/bytes_per_s"] == pytest.approx((20 + 10) / seconds)
    waited = (3 * 60 + 2 * 300) / 1000  # of each user of a batch
    assert found["throughput/tokens_per_s_per_user"] == pytest.approx((6 + 4) / waited)
    assert found["throughput/bytes_per_s_per_user"] == pytest.approx((20 + 10) / waited)
    assert found["throughput/canvas_tokens_per_s"] == pytest.approx((3 * 8 + 2 * 8) / seconds)
    assert found["throughput/nfe"] == 6.0
    assert found["throughput/tokens_per_forward"] == pytest.approx((6 + 4) / (3 * 4 + 2 * 8))


def test_throughput_of_one_batch_is_its_output_over_l_e2e_whatever_repeat_0_took() -> None:
    found = compute(record(timings=repeats(1000.0, 100.0, 102.0, 98.0, 100.0, 99.0), partition=(("a", "b", "c"),)))
    assert found["latency/e2e_ms"] == 100.0
    assert found["throughput/tokens_per_s"] == pytest.approx(6 / 0.1)
    assert found["throughput/bytes_per_s"] == pytest.approx(20 / 0.1)
    assert found["throughput/canvas_tokens_per_s"] == pytest.approx(3 * 8 / 0.1)


def test_outputs_that_are_all_empty_have_a_throughput_of_zero_which_is_true() -> None:
    found = compute(record(timings=repeats(100.0, tokens=0, utf8_bytes=0), partition=(("a",),)))
    assert found["throughput/tokens_per_s"] == 0.0
    assert found["throughput/tokens_per_forward"] == 0.0


# Memory, energy, clocks

MEMORY = DeviceUse(
    model_reserved_bytes=700,
    setup_peak_reserved_bytes=1100,
    peak_reserved_bytes=1000,
    peak_allocated_bytes=900,
    device_used_bytes=1500,
    peak_rss_bytes=5000,
)


def test_cuda_memory() -> None:
    found = compute(record("cuda", device_use=MEMORY))
    assert {key: value for key, value in found.items() if key.startswith("memory/")} == {
        "memory/peak_reserved_bytes": 1000,
        "memory/setup_peak_reserved_bytes": 1100,
        "memory/model_reserved_bytes": 700,
        "memory/over_model_bytes": 300,
        "memory/device_used_bytes": 1500,
        "memory/peak_allocated_bytes": 900,
    }


def test_a_cpu_record_has_its_resident_peak_and_no_reserved_memory() -> None:
    found = compute(record(device_use=DeviceUse(peak_rss_bytes=5000)))
    assert {key: value for key, value in found.items() if key.startswith("memory/")} == {"memory/peak_rss_bytes": 5000}


def test_memory_over_the_model_needs_both_figures_and_allocation_needs_an_eager_engine() -> None:
    found = compute(record("cuda", device_use=replace(MEMORY, model_reserved_bytes=None)))
    assert "memory/over_model_bytes" not in found
    assert "memory/peak_allocated_bytes" not in compute(
        record("cuda", device_use=MEMORY, conditions={"engine": "captured"})
    )


@pytest.mark.parametrize(("cache", "seen"), [("static", False), ("dynamic", True)])
def test_transformers_static_cache_replays_graphs_whatever_the_engine_is_called(cache: str, seen: bool) -> None:
    said = {"engine": "eager", "decoding.kind": "transformers", "decoding.cache": cache}
    found = compute(record("cuda", device_use=MEMORY, conditions=said))
    assert ("memory/peak_allocated_bytes" in found) is seen


def test_energy_per_token_and_byte() -> None:
    use = DeviceUse(energy_joules=600.0, energy_window_s=2.0, energy_tokens=200, energy_utf8_bytes=800)
    found = compute(record("cuda", device_use=use))
    assert found["energy/joules_per_token"] == 3.0
    assert found["energy/joules_per_byte"] == 0.75
    empty = replace(use, energy_tokens=0, energy_utf8_bytes=0)
    assert not any(key.startswith("energy/") for key in compute(record("cuda", device_use=empty)))
    assert not any(key.startswith("energy/") for key in compute(record("cuda")))


def test_clock_and_share_of_throttled_batches() -> None:
    flags = (True, False, False, None)
    timings = tuple(timing(0, repeat, 100.0, throttled=flag) for repeat, flag in enumerate(flags))
    found = compute(
        record("cuda", timings=timings, device_use=DeviceUse(sm_clock_mhz_before=1980, sm_clock_mhz_after=1755))
    )
    assert found["hardware/throttled"] == pytest.approx(1 / 3)
    assert (found["hardware/sm_clock_mhz_before"], found["hardware/sm_clock_mhz"]) == (1980, 1755)
    assert "hardware/throttled" not in compute(record("cuda"))


# Roofline


def test_roofline_sums_the_slower_of_work_and_traffic_per_forward() -> None:
    shape = ForwardShape(rows=1, queries=1, keys=1, logits=1)
    costs = (
        ForwardCost(shape=shape, count=1, flops=4e9, bytes=1e6),  # 4 ms of work, 0.1 ms of traffic
        ForwardCost(shape=shape, count=3, flops=1e6, bytes=2e7),  # 0.001 ms of work, 2 ms of traffic
    )
    limits = Ceilings(flops_per_s=1e12, bytes_per_s=1e10, last_level_cache_bytes=None, judged=True)
    timings = (*repeats(18.0, 20.0, 40.0), timing(1, 0, 900.0))
    found = compute(record(timings=timings, forward_costs=costs, ceilings=limits))
    assert found["roofline/limit_ms"] == pytest.approx(4 + 3 * 2)
    assert found["roofline/efficiency"] == pytest.approx(10 / 20)
    assert not any(key.startswith("roofline/") for key in compute(record(forward_costs=costs)))
    assert not any(key.startswith("roofline/") for key in compute(record(ceilings=limits)))


def test_roofline_is_the_mean_over_the_repeated_batches_against_l_e2e() -> None:
    def costs(flops: float) -> tuple[ForwardCost, ...]:
        shape = ForwardShape(rows=1, queries=1, keys=1, logits=1)
        return (ForwardCost(shape=shape, count=2, flops=flops, bytes=0.0),)

    limits = Ceilings(flops_per_s=1e12, bytes_per_s=1e10, last_level_cache_bytes=None, judged=True)
    times = ((100.0, 300.0), (110.0, 330.0), (90.0, 250.0))  # means 200, 220, 170
    timings = tuple(timing(b, r, ms) for r, both in enumerate(times) for b, ms in enumerate(both))
    known = {"forward_costs": costs(1e10), "other_forward_costs": (costs(3e10),), "ceilings": limits}
    found = compute(record(timings=timings, repeated_batches=(0, 1), **known))
    assert found["roofline/limit_ms"] == pytest.approx((20 + 60) / 2)
    assert found["latency/e2e_ms"] == 200.0
    assert found["roofline/efficiency"] == pytest.approx(40 / 200)


def test_an_older_records_roofline_is_held_against_the_first_repeated_batch_alone() -> None:
    cost = ForwardCost(shape=ForwardShape(rows=1, queries=1, keys=1, logits=1), count=1, flops=1e10, bytes=0.0)
    limits = Ceilings(flops_per_s=1e12, bytes_per_s=1e10, last_level_cache_bytes=None, judged=False)
    found = compute(record(forward_costs=(cost,), ceilings=limits, repeated_batches=(0, 1)))
    assert found["latency/e2e_ms"] == 200.0
    assert found["roofline/efficiency"] == pytest.approx(10 / 100)


# The whole


@pytest.mark.parametrize("changes", [{}, {"repeated": 2}, {"model": "llama", "repeats": 3}, {"device": "cuda"}])
def test_the_records_of_other_tests_have_the_values_of_the_definitions(changes: dict[str, Any]) -> None:
    made = make_record(empty=1, **changes)
    found = compute(made) | quality.compute(made)
    assert {key: found[key] for key in made.metrics} == pytest.approx(made.metrics)


def test_a_failed_job_has_no_values() -> None:
    empty = record(status="failed", reason="out of memory", timings=(), partition=(), repeated_batches=(), canvas=None)
    assert compute(empty) == {}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("family", ["autoregressive", "diffusion"])
def test_only_registered_keys_that_apply_and_every_one_of_them_when_all_is_known(device: str, family: str) -> None:
    use = replace(MEMORY, profiled_e2e_ms=9.0, kernel_ms=4.0, energy_joules=1.0, energy_tokens=1, energy_utf8_bytes=1)
    cost = ForwardCost(shape=ForwardShape(rows=1, queries=1, keys=1, logits=1), count=1, flops=1.0, bytes=1.0)
    whole = record(
        device,
        family,
        timings=repeats(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, throttled=False),
        marks=(Marks(batch=0, repeat=0, at_ms=(1.0, 2.0, 3.0)),),
        device_use=replace(use, sm_clock_mhz_before=1, sm_clock_mhz_after=1),
        forward_costs=(cost,),
        ceilings=Ceilings(flops_per_s=1.0, bytes_per_s=1.0, last_level_cache_bytes=1, judged=True),
        tokenize_ms=1.0,
    )
    rooms = ("latency/", "throughput/", "memory/", "energy/", "hardware/", "roofline/")
    expected = {key for key, metric in METRICS.items() if key.startswith(rooms) and metric.applies(family, device)}  # type: ignore[arg-type]
    expected -= {"latency/step_ms"} if family == "autoregressive" else set()  # with a draft alone
    found = compute(whole)
    assert {key for key in found if key in METRICS} == expected
    suffixed = {key: suffix for key in found.keys() - expected for suffix in SPREAD if key.endswith(suffix)}
    assert suffixed.keys() == found.keys() - expected
    assert all(METRICS[key.removesuffix(suffix)].spread for key, suffix in suffixed.items())
