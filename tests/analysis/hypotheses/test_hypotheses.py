"""The four hypotheses on Records whose truth is known, the adversarial ones included."""

import json
from dataclasses import replace
from typing import Any

import pytest

from llmbench.analysis.estimates import Estimate
from llmbench.analysis.hypotheses import chat, memory, throughput
from llmbench.analysis.hypotheses.claims import hypotheses
from llmbench.analysis.hypotheses.outcomes import Hypothesis, Outcome, SettingOutcome, labels
from llmbench.errors import RecordError
from llmbench.metrics.performance import compute
from llmbench.record import Ceilings, DeviceUse, ForwardCost, ForwardShape, Marks, Record
from records import make_record, server_record

MIB = 2**20
BATCHES = (1, 2, 4, 8, 16)


# ----------------------------------------------------------------------------------------------------------------
# 1. Throughput


JUDGED = Ceilings(flops_per_s=1e15, bytes_per_s=3e12, last_level_cache_bytes=1, judged=True)


def over_batches(ratios: dict[int, float], *, steps: int = 16, width: float = 0.02, **common) -> list[Record]:
    """Both models at each batch size, with R(B) = the given ratios: equal texts, so R is the ratio of times."""
    made = []
    for size, ratio in ratios.items():
        own = {"batch": size, "prompts": 16, "spread": width, "perplexity": None} | common
        made.append(make_record("llama", e2e_ms=100.0 * size, **own))
        made.append(make_record("llada", steps, e2e_ms=100.0 * size / ratio, **own))
    return made


def first(found: Hypothesis) -> SettingOutcome:
    return found.settings[0]


def test_r_that_rises_through_1_is_supported_with_its_crossing() -> None:
    found = throughput.throughput(over_batches({1: 0.5, 2: 0.8, 4: 1.25, 8: 1.6, 16: 2.0}))
    assert found.outcome is Outcome.SUPPORTED
    numbers = dict(first(found).numbers)
    assert numbers["R(1)"].value == pytest.approx(0.5)
    assert numbers["B*"].value == pytest.approx(2 * 2**0.5)  # log 0.8 = -log 1.25: in the middle of 2 and 4
    assert found.decide == ""


def test_fewer_than_eight_prompts_decide_nothing_about_throughput() -> None:
    few = throughput.throughput(over_batches({1: 4.0, 2: 3.0, 4: 0.5}, prompts=7))
    assert few.outcome is Outcome.UNDECIDED
    assert "workload.prompts=8" in few.decide
    assert throughput.throughput(over_batches({1: 4.0, 2: 3.0, 4: 0.5}, prompts=8)).outcome is Outcome.REFUTED


def test_a_slow_baseline_supports_nothing() -> None:
    records = over_batches({1: 0.5, 2: 0.8, 4: 1.25, 8: 1.6, 16: 2.0}, device="cuda")
    slow = [
        replace(r, ceilings=JUDGED, metrics=r.metrics | {"roofline/efficiency": 0.06 if r.model == "llama" else 0.9})
        for r in records
    ]
    found = throughput.throughput(slow)
    assert found.outcome is Outcome.UNDECIDED
    assert all(f"at B = {size} (" in found.sentence for size in (1, 2, 4, 8, 16))
    assert "timing.repeats=20" in found.decide


def test_the_order_of_the_records_changes_nothing() -> None:
    records = over_batches({1: 0.5, 2: 0.8, 4: 1.25, 8: 1.6, 16: 2.0}, repeated=2)
    assert throughput.throughput(records).settings == throughput.throughput(records[::-1]).settings


def test_a_downward_crossing_is_refuted_with_its_crossing() -> None:
    found = throughput.throughput(over_batches({1: 4.0, 2: 3.0, 4: 2.0, 8: 1.25, 16: 0.8}))
    assert found.outcome is Outcome.REFUTED
    assert dict(first(found).numbers)["B*"].value == pytest.approx(8 * 2**0.5)


def test_up_and_down_again_is_refuted_by_its_end() -> None:
    found = throughput.throughput(over_batches({1: 0.5, 2: 1.5, 4: 1.6, 8: 1.2, 16: 0.7}))
    assert found.outcome is Outcome.REFUTED


def test_above_1_everywhere_crosses_nothing() -> None:
    for ratios in ({1: 1.5, 4: 2.0, 16: 3.0}, {1: 3.0, 4: 2.0, 16: 1.5}):
        found = throughput.throughput(over_batches(ratios))
        assert found.outcome is Outcome.UNDECIDED
        assert "batch=1,4,16,32,64 workload.prompts=64" in found.decide


def test_below_1_everywhere_is_open_while_it_rises_and_refuted_when_it_falls() -> None:
    rising = throughput.throughput(over_batches({1: 0.2, 4: 0.5, 16: 0.9}))
    assert rising.outcome is Outcome.UNDECIDED
    flat = throughput.throughput(over_batches({1: 0.5, 4: 0.5, 16: 0.5}))
    assert flat.outcome is Outcome.UNDECIDED
    falling = throughput.throughput(over_batches({1: 0.9, 4: 0.5, 16: 0.2}))
    assert falling.outcome is Outcome.REFUTED


def test_a_course_that_is_not_monotone_is_not_supported() -> None:
    found = throughput.throughput(over_batches({1: 0.5, 2: 1.9, 4: 1.3}))
    assert found.outcome is Outcome.UNDECIDED


def test_a_downward_crossing_is_refuted_whatever_r_does_afterwards() -> None:
    for ratios, star in (
        ({1: 0.5, 2: 1.25, 4: 0.8, 8: 2.0}, 2 * 2**0.5),
        ({1: 1.5, 2: 1 / 1.5, 4: 1.5}, 2**0.5),
        ({1: 1.25, 2: 0.8, 4: 2.0, 8: 0.5}, 4 * 2**0.5),  # the last of two
    ):
        found = throughput.throughput(over_batches(ratios))
        assert found.outcome is Outcome.REFUTED, ratios
        assert dict(first(found).numbers)["B*"].value == pytest.approx(star), ratios
    undone = [(1, (2.0, 1.9, 2.1)), (4, (0.5, 0.45, 0.55)), (16, (0.9, 0.7, 1.1))]
    found = throughput.course([(b, Estimate(value=r, low=low, high=high)) for b, (r, low, high) in undone])
    assert (found.outcome, found.crossing) == (Outcome.REFUTED, pytest.approx(2.0))  # log 2 = -log 0.5


def test_r_is_the_time_ratio_times_the_byte_ratio_and_lies_in_its_interval_whatever_repeat_0_took() -> None:
    """LLaDA takes half of the time for a quarter of the text: R = 1/2; its first repeat was disturbed."""
    records = []
    for size in (1, 4, 16):
        own = {"batch": size, "prompts": size, "perplexity": None}
        slow = make_record("llada", 16, e2e_ms=50.0, tokens=10, **own)
        timings = tuple(replace(t, e2e_ms=t.e2e_ms * (20 if t.repeat == 0 else 1)) for t in slow.timings)
        slow = replace(slow, timings=timings)
        records += [make_record("llama", e2e_ms=100.0, tokens=40, **own), replace(slow, metrics=compute(slow))]
    times = {r.model: r.metrics["latency/e2e_ms"] for r in records}
    found = dict(first(throughput.throughput(records)).numbers)
    for size in (1, 4, 16):
        ratio = found[f"R({size})"]
        assert ratio.value == pytest.approx(times["llama"] / times["llada"] / 4)
        assert ratio.value == pytest.approx(0.5, rel=0.02)
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.low <= ratio.value <= ratio.high


def test_nothing_but_empty_outputs_is_a_throughput_of_zero() -> None:
    records = over_batches({1: 0.5, 4: 1.25, 8: 2.0}, prompts=16)
    records += over_batches({16: 3.0}, tokens=0)[1:] + over_batches({16: 3.0})[:1]
    found = throughput.throughput(records)
    assert found.outcome is Outcome.REFUTED
    numbers = dict(first(found).numbers)
    assert numbers["R(16)"] == Estimate(value=0.0, low=0.0, high=0.0)
    assert numbers["B*"].value == pytest.approx(16.0)  # 0 has no logarithm: where it was seen
    rising = over_batches({1: 0.5}, tokens=0)[1:] + over_batches({1: 0.5})[:1] + over_batches({4: 1.25, 8: 2.0})
    assert throughput.throughput(rising).outcome is Outcome.SUPPORTED
    short = over_batches({1: 0.5, 4: 1.25, 8: 2.0}) + over_batches({16: 3.0}, repeats=3)[:1]
    assert throughput.throughput([*short, *over_batches({16: 3.0}, tokens=0)[1:]]).outcome is Outcome.UNDECIDED


def test_a_batch_size_without_a_ratio_is_named() -> None:
    records = over_batches({1: 0.5, 4: 1.25, 8: 2.0})
    silent = over_batches({16: 3.0}, tokens=0)[:1] + over_batches({16: 3.0})[1:]
    found = throughput.throughput([*records, *silent])
    assert found.outcome is Outcome.SUPPORTED
    assert "R(16)" not in dict(first(found).numbers)
    assert "B = 16 is not judged: " in found.sentence
    alone = throughput.throughput([*records, over_batches({16: 3.0})[1]])
    assert "B = 16 is not judged: " in alone.sentence
    textless = [
        replace(r, metrics={k: v for k, v in r.metrics.items() if k != "throughput/bytes_per_s"})
        for r in over_batches({16: 3.0})
    ]
    assert "B = 16 is not judged: " in throughput.throughput([*records, *textless]).sentence


def test_noise_that_could_hide_either_decides_nothing() -> None:
    found = throughput.throughput(over_batches({1: 0.95, 4: 1.0, 16: 1.05}, width=0.5))
    assert found.outcome is Outcome.UNDECIDED


def test_too_few_batches_or_repeats_decide_nothing_and_say_what_would() -> None:
    few = throughput.throughput(over_batches({1: 0.5, 16: 2.0}))
    assert few.outcome is Outcome.UNDECIDED
    assert few.decide == (
        "with the settings of this sweep, "
        "llmbench -m experiment=throughput steps=16 batch=1,4,16 workload.prompts=16 timing.repeats=6"
    )
    short = throughput.throughput(over_batches({1: 0.5, 4: 1.0, 16: 2.0}, repeats=3))
    assert short.outcome is Outcome.UNDECIDED
    assert "timing.repeats=20" in short.decide


def test_a_setting_without_a_template_is_not_called_none() -> None:
    plain, chat = make_record("llada", 8), make_record("llada", 8, conditions={"decoding.chat": "True"})
    assert labels([plain, chat], None) == ["llada k=8", "llada k=8 chat=True"]


def test_bytes_decide_and_not_tokens() -> None:
    """LLaDA is twice as fast and writes a quarter of the text: R = 1/2, not 2."""
    records = []
    for size, speed in ((1, 2.0), (4, 2.0), (16, 2.0)):
        own = {"batch": size, "prompts": 16, "perplexity": None}
        records.append(make_record("llama", e2e_ms=100.0 * size, tokens=40, **own))
        records.append(make_record("llada", 16, e2e_ms=100.0 * size / speed, tokens=10, **own))
    numbers = dict(first(throughput.throughput(records)).numbers)
    assert numbers["R(4)"].value == pytest.approx(0.5)
    assert numbers["R(4)"].low is not None
    assert numbers["R(4)"].low < 0.5 < (numbers["R(4)"].high or 0)


def test_each_k_is_judged_by_itself_and_a_mixed_answer_is_no_answer() -> None:
    up, down = over_batches({1: 0.5, 4: 1.0, 16: 2.0}, steps=16), over_batches({1: 2.0, 4: 1.0, 16: 0.5}, steps=64)
    found = throughput.throughput([*up, *(record for record in down if record.steps)])
    assert {item.setting: item.outcome for item in found.settings} == {
        "llada k=16": Outcome.SUPPORTED,
        "llada k=64": Outcome.REFUTED,
    }
    assert (found.outcome, found.decide) == (Outcome.UNDECIDED, "llmbench -m experiment=parity")


def test_mixed_hardware_or_versions_are_refused() -> None:
    records = over_batches({1: 0.5, 4: 1.0, 16: 2.0})
    for key in ("device_name", "torch"):
        mixed = [*records[:-1], replace(records[-1], conditions=records[-1].conditions | {key: "another"})]
        with pytest.raises(RecordError, match=f"cannot be compared: {key} is"):
            throughput.throughput(mixed)


def test_weights_that_write_no_text_have_no_bytes() -> None:
    records = [
        replace(r, metrics={k: v for k, v in r.metrics.items() if k != "throughput/bytes_per_s"})
        for r in over_batches({1: 0.5, 4: 1.0, 16: 2.0})
    ]
    found = throughput.throughput(records)
    assert (found.outcome, found.settings, found.decide) == (Outcome.UNDECIDED, (), "llmbench -m experiment=throughput")


# ----------------------------------------------------------------------------------------------------------------
# 2 and 3. Memory

KV = 131_072  # bytes of one token of one row: LLaMA-3-8B in bfloat16
CANVASES = (256, 512, 1024, 2048)


def traced(record: Record, trace: list[float], keys: list[int], batch: int) -> Record:
    """A GPU Record with a memory trace, and forward costs that grow by KV bytes for each key of each row."""
    costs = tuple(
        ForwardCost(
            shape=ForwardShape(rows=batch, queries=1 if record.steps is None else k, keys=k, logits=1),
            count=1,
            flops=1e9,
            bytes=1.6e10 + batch * k * KV,
        )
        for k in keys
    )
    use = DeviceUse(model_reserved_bytes=16_000 * MIB, reserved_trace_bytes=tuple(int(value) for value in trace))
    return replace(record, forward_costs=costs, device_use=use)


def llama_over_canvas(per_token: float, canvases=CANVASES, *, batch: int = 8, curve: float = 1.0) -> list[Record]:
    """Traces that end at per_token x B x KV x (P + G), P = 128, rounded up to the allocator's segments."""
    made = []
    for canvas in canvases:
        record = make_record("llama", canvas=canvas, batch=batch, prompts=batch, device="cuda", perplexity=None)
        sizes = [16_000 * MIB + per_token * batch * KV * (128 + i) ** curve for i in range(canvas)]
        trace = [-(-size // (20 * MIB)) * 20 * MIB for size in sizes]
        made.append(traced(record, trace, [128 + i for i in range(canvas)], batch))
    return made


def test_the_caches_bytes_are_read_off_the_forward_costs() -> None:
    assert memory.cache_bytes_per_token(llama_over_canvas(1.0)[0]) == pytest.approx(8 * KV)


def test_a_line_by_hand() -> None:
    found = memory.line([1, 2, 3, 4], [1, 3, 5, 7])
    assert found is not None
    assert (found.slope.value, found.residual) == pytest.approx((2, 0))
    bent = memory.line([0, 1, 2], [0, 2, 2])  # slope 1, residuals -1/3, 2/3, -1/3
    assert bent is not None
    assert bent.slope.value == pytest.approx(1)
    assert bent.residual == pytest.approx(1 / 3)
    assert bent.slope.high == pytest.approx(1 + 12.706 * (6 / 9 / 2) ** 0.5, rel=1e-3)  # t(0.975, 1)
    assert not bent.bent  # three points cannot tell
    curved = memory.line([0, 1, 2, 3, 4], [0, 1.01, 4, 9.01, 16])
    assert curved is not None
    assert curved.bent
    assert memory.line([1, 2], [1, 2]) is None
    assert memory.line([3, 3, 3], [1, 2, 3]) is None


@pytest.mark.parametrize("per_token", [1.0, 1.5])
def test_growth_by_what_the_cache_takes_is_supported(per_token: float) -> None:
    found = memory.growth(llama_over_canvas(per_token))
    assert found.outcome is Outcome.SUPPORTED, found.sentence
    share = dict(first(found).numbers)["slope / cache"]
    assert share.value == pytest.approx(per_token, rel=0.05)


def test_memory_that_does_not_grow_is_refuted() -> None:
    found = memory.growth(llama_over_canvas(0.0))
    assert found.outcome is Outcome.REFUTED


def test_growth_that_is_not_linear_is_refuted() -> None:
    found = memory.growth(llama_over_canvas(0.001, tuple(range(256, 2049, 256)), curve=2.0))
    assert found.outcome is Outcome.REFUTED


def test_live_tensors_decide_and_not_what_the_allocator_keeps() -> None:
    def found(tensors: float, reserved: float, curve: float = 1.0, canvases: tuple[int, ...] = CANVASES) -> Hypothesis:
        made = []
        for record in llama_over_canvas(reserved, canvases, curve=curve):
            sizes = [16_000 * MIB + tensors * 8 * KV * (128 + i) for i in range(record.canvas or 0)]
            peak = {"memory/over_model_bytes": 2.0**28 + 8 * KV * (128 + (record.canvas or 0))}
            use = replace(record.device_use, allocated_trace_bytes=tuple(int(size) for size in sizes))
            made.append(replace(record, device_use=use, metrics=record.metrics | peak))
        return memory.growth(made)

    assert found(1.0, 3.0).outcome is Outcome.SUPPORTED
    assert found(3.0, 3.0).outcome is Outcome.REFUTED
    bent = found(1.0, 0.01, curve=1.8, canvases=(256, 512, 1024))  # three lengths: M_reserved alone would be open
    assert bent.outcome is Outcome.SUPPORTED
    numbers = dict(first(bent).numbers)
    assert numbers["slope / cache"].value == pytest.approx(1.0)
    assert numbers["M_peak slope / cache"].value == pytest.approx(1.0)
    assert numbers["M_reserved, bytes/token"].value > 2 * 8 * KV


def test_more_than_twice_the_cache_is_open_without_live_tensors() -> None:
    found = memory.growth(llama_over_canvas(3.0))
    assert found.outcome is Outcome.UNDECIDED


def test_what_is_smaller_than_the_allocators_segments_is_open() -> None:
    found = memory.growth(llama_over_canvas(1.0, (32, 48, 64, 96)))
    assert found.outcome is Outcome.UNDECIDED
    assert "pair=8b weights=dummy" in found.decide


def test_small_batches_and_few_lengths_and_early_stops_are_open() -> None:
    small = memory.growth(llama_over_canvas(1.0, batch=4))
    assert (small.outcome, "batch=8" in small.decide) == (Outcome.UNDECIDED, True)
    few = memory.growth(llama_over_canvas(1.0, (256, 512)))
    assert few.outcome is Outcome.UNDECIDED
    stopped = [
        replace(r, device_use=replace(r.device_use, reserved_trace_bytes=r.device_use.reserved_trace_bytes[:100]))
        for r in llama_over_canvas(1.0)
    ]
    assert memory.growth(stopped).outcome is Outcome.UNDECIDED


def test_on_a_cpu_both_are_open_and_name_the_command() -> None:
    records = [make_record(model, 32, canvas=g, perplexity=None) for model in ("llama", "llada") for g in (32, 64, 128)]
    for found in (memory.growth(records), memory.constant(records)):
        assert (found.outcome, found.settings) == (Outcome.UNDECIDED, ())
    assert "hardware=cuda" in memory.growth(records).decide


def test_memory_of_another_card_is_refused() -> None:
    records = llama_over_canvas(1.0)
    records[1] = replace(records[1], conditions=records[1].conditions | {"device_name": "Other GPU"})
    with pytest.raises(RecordError, match="device_name is 'Test GPU' and 'Other GPU'"):
        memory.growth(records)


def llada_over_canvas(first_step: dict[int, float], later: float = 0.0, steps: int = 32) -> list[Record]:
    """MiB over the model after the first step at each canvas, and MiB more at the end."""
    made = []
    for canvas, mib in first_step.items():
        record = make_record("llada", steps, canvas=canvas, batch=8, prompts=8, device="cuda", perplexity=None)
        trace = [(16_000 + mib + later * i / max(steps - 1, 1)) * MIB for i in range(steps)]
        made.append(traced(record, trace, [128 + canvas], 8))
    return made


def test_memory_from_the_start_that_does_not_grow_is_supported() -> None:
    found = memory.constant(llada_over_canvas({32: 100.0, 64: 160.0, 128: 280.0}))
    assert found.outcome is Outcome.SUPPORTED, found.sentence
    assert dict(first(found).numbers)["MiB at step 1, P + G = 256"].value == pytest.approx(280)


def test_memory_that_grows_while_it_generates_is_refuted() -> None:
    found = memory.constant(llada_over_canvas({32: 100.0, 64: 160.0, 128: 280.0}, later=60.0))
    assert found.outcome is Outcome.REFUTED
    one_segment = memory.constant(llada_over_canvas({32: 100.0, 64: 160.0, 128: 280.0}, later=20.0))
    assert one_segment.outcome is Outcome.SUPPORTED


def test_a_length_that_shows_no_dependence_is_open() -> None:
    flat = memory.constant(llada_over_canvas({32: 100.0, 64: 100.0, 128: 120.0}))
    assert flat.outcome is Outcome.UNDECIDED
    few = memory.constant(llada_over_canvas({32: 100.0, 64: 300.0}))
    assert few.outcome is Outcome.UNDECIDED
    assert "canvas=32,64,128,256" in few.decide
    falling = memory.constant(llada_over_canvas({32: 100.0, 64: 400.0, 128: 300.0}))
    assert falling.outcome is Outcome.UNDECIDED
    single = memory.constant(llada_over_canvas({32: 100.0, 64: 200.0, 128: 300.0}, steps=1))
    assert (single.outcome, "steps=32" in single.decide) == (Outcome.UNDECIDED, True)


# ----------------------------------------------------------------------------------------------------------------
# 4. Chat


def at_batch_1(e2e_ms: float, steps: int | None = 8, model: str = "llada", limits=(1000.0, 10_000.0), **more) -> Record:
    made = make_record(model, steps, e2e_ms=e2e_ms, batch=1, perplexity=None, **more)
    chosen = {"chat": {"first_text_ms": limits[0], "e2e_ms": limits[1]}}
    return replace(made, config=made.config | {"parity": chosen})


def test_points_of_a_curve_and_baselines_timed_again_decide_nothing() -> None:
    sweep = over_batches({1: 0.5, 4: 0.8, 16: 1.4})
    again = [replace(make_record("llama", e2e_ms=1.0, batch=b, prompts=16), role="retimed") for b in (1, 4, 16)]
    points = [replace(record, role="curve", timings=()) for record in again]
    for recipe in ("throughput", "latency"):
        assert hypotheses([*points, *sweep, *again], recipe) == hypotheses(sweep, recipe)


def test_text_within_a_second_is_responsive() -> None:
    found = chat.chat([at_batch_1(400.0), at_batch_1(500.0, model="llama")])
    assert (found.outcome, found.decide) == (Outcome.SUPPORTED, "")
    numbers = dict(first(found).numbers)
    assert (numbers["first text ms"].value, numbers["first text ms"].high) == (400.0, pytest.approx(403, abs=0.5))
    assert {"llama L_e2e ms", "llama first text ms"} <= numbers.keys()


def test_a_server_on_unknown_hardware_stands_not_beside() -> None:
    sweep = [at_batch_1(400.0), at_batch_1(500.0, model="llama"), server_record(90.0, batch=1)]
    assert not [name for name, _ in first(chat.chat(sweep)).numbers if "server" in name]
    vouched = first(chat.chat([*sweep[:2], server_record(90.0, batch=1, trust_same_hardware=True)]))
    assert dict(vouched.numbers)["llama server L_e2e ms"].value == 90.0


def test_the_threshold_is_the_one_that_was_set_before_the_run() -> None:
    assert chat.chat([at_batch_1(400.0, limits=(100.0, 10_000.0))]).outcome is Outcome.REFUTED
    mixed = chat.chat([at_batch_1(400.0), at_batch_1(400.0, 16, limits=(100.0, 10_000.0))])
    assert mixed.outcome is Outcome.UNDECIDED
    assert "1000 / 10000 ms and 100 / 10000 ms" in mixed.sentence


def test_an_interval_across_the_threshold_or_none_decides_nothing() -> None:
    across = chat.chat([at_batch_1(1000.0)])
    assert across.outcome is Outcome.UNDECIDED
    assert "experiment=latency steps=8 timing.repeats=12" in across.decide
    short = chat.chat([at_batch_1(400.0, repeats=3)])
    assert short.outcome is Outcome.UNDECIDED


def test_a_first_block_shows_text_before_the_end() -> None:
    def blocks(repeats: int) -> Record:
        made = at_batch_1(4000.0, block_length=16)
        marks = tuple(
            Marks(batch=0, repeat=r, at_ms=(500.0 + r, 1000.0, 2000.0, 4000.0), first_text=1) for r in range(repeats)
        )
        return replace(made, marks=marks)

    assert chat.first_text([blocks(6)]) == Estimate(value=502.5, low=500.0, high=505.0)
    assert chat.chat([blocks(6)]).outcome is Outcome.SUPPORTED
    assert chat.first_text([blocks(2)]) == Estimate(value=500.5)
    assert chat.chat([blocks(2)]).outcome is Outcome.UNDECIDED


def test_slow_ends_are_refuted_though_text_begins_early() -> None:
    marks = tuple(Marks(batch=0, repeat=r, at_ms=(500.0, 40_000.0), first_text=1) for r in range(6))
    found = chat.chat([at_batch_1(40_000.0, block_length=16, marks=marks)])
    assert found.outcome is Outcome.REFUTED
    assert dict(first(found).numbers)["first text ms"] == Estimate(value=500.0, low=500.0, high=500.0)


def test_seeds_of_a_setting_are_one_finding_by_the_means_of_their_times() -> None:
    def drawn(seed: str, e2e_ms: float, **more: Any) -> Record:
        return at_batch_1(e2e_ms, conditions={"seed": seed}, **more)

    own = [drawn("1", 400.0), drawn("2", 600.0), drawn("1", 5000.0, steps=16)]
    found = chat.chat([*own, drawn("1", 100.0, model="llama"), drawn("2", 300.0, model="llama")])
    assert [item.setting for item in found.settings] == ["llada k=8", "llada k=16"]
    numbers = dict(first(found).numbers)
    # each seed's interval: its middle x (1 +- 0.02 x 2.5 / 6)
    assert numbers["L_e2e ms"].value == pytest.approx(500.0)
    assert numbers["L_e2e ms"].low == pytest.approx(500.0 * (1 - 0.05 / 6))
    assert numbers["first text ms"].high == pytest.approx(500.0 * (1 + 0.05 / 6))
    assert numbers["llama L_e2e ms"].value == pytest.approx(200.0)
    assert numbers["llama first text ms"].value == pytest.approx(20.0)
    few = chat.chat([drawn("1", 400.0), drawn("2", 600.0, repeats=3)])
    assert dict(first(few).numbers)["L_e2e ms"] == Estimate(value=pytest.approx(500.0))
    assert few.outcome is Outcome.UNDECIDED


def test_two_prompts_decide_nothing_about_chat_and_the_sentence_has_the_conditions() -> None:
    found = chat.chat([at_batch_1(40_000.0, prompts=2, marks=())])
    assert found.outcome is Outcome.UNDECIDED
    assert "2 prompts, and 8 are needed" in found.sentence
    assert "workload.prompts=8" in found.decide
    enough = chat.chat([at_batch_1(40_000.0, prompts=8), at_batch_1(500.0, prompts=8, model="llama")])
    assert enough.outcome is Outcome.REFUTED
    assert "on Test CPU (cpu, float32, 1 thread" in enough.sentence
    assert "batch 1; canvas 64; 8 prompts." in enough.sentence


@pytest.mark.parametrize(
    "disturbance", [{"device_use": DeviceUse(other_sm_percent=30.0)}, {"throttled": True}], ids=["others", "throttled"]
)
def test_a_disturbed_gpu_decides_nothing_about_chat(disturbance) -> None:
    made = at_batch_1(40_000.0, device="cuda")
    if "throttled" in disturbance:
        disturbance = {"timings": tuple(replace(timing, throttled=True) for timing in made.timings)}
    assert chat.chat([made]).outcome is Outcome.REFUTED
    assert chat.chat([replace(made, **disturbance)]).outcome is Outcome.UNDECIDED


def test_other_batches_say_nothing_about_chat() -> None:
    found = chat.chat([make_record("llada", 8, batch=4)])
    assert (found.outcome, found.settings, found.decide) == (Outcome.UNDECIDED, (), "llmbench -m experiment=latency")


def test_k_decides_and_the_parity_table_says_which_k() -> None:
    found = chat.chat([at_batch_1(400.0, 8), at_batch_1(4000.0, 64)])
    assert (found.outcome, found.decide) == (Outcome.UNDECIDED, "llmbench -m experiment=parity")
    assert [(item.setting, item.outcome) for item in found.settings] == [
        ("llada k=8", Outcome.SUPPORTED),
        ("llada k=64", Outcome.REFUTED),
    ]


# ----------------------------------------------------------------------------------------------------------------
# All of them


def test_four_answers_in_order_or_those_of_a_recipe_and_none_without_records() -> None:
    records = over_batches({1: 0.5, 4: 1.0, 16: 2.0})
    found = hypotheses(records)
    assert [item.number for item in found] == [1, 2, 3, 4]
    assert [item.number for item in hypotheses(records, "memory")] == [2, 3]
    for item in hypotheses([]):
        assert item.outcome is Outcome.UNDECIDED
        assert item.decide.startswith(("llmbench -m experiment=", "with the settings of this sweep, llmbench"))
    json.dumps([item.to_dict() for item in found])


def test_failed_jobs_are_passed_over() -> None:
    records = over_batches({1: 0.5, 4: 1.0, 16: 2.0})
    broken = make_record("llada", 16, batch=32, status="failed", reason="out of memory")
    assert throughput.throughput([*records, broken]).outcome is Outcome.SUPPORTED
