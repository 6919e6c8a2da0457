"""Too little memory is said before weights are read, with what would fit; a dry run says it too, and goes on."""

from dataclasses import replace

import pytest
from composition import composed

from llmbench.checkpoints import load as loading
from llmbench.checkpoints.load import kept_bytes, load_checkpoint, load_judge, make_room
from llmbench.checkpoints.resolve import BUNDLED
from llmbench.config.build import build_job
from llmbench.errors import HardwareError
from llmbench.job import memory_estimate
from llmbench.job.prepare import prepare_job
from llmbench.job.prepared import Prepared
from llmbench.measure import device
from llmbench.sweeps import console, forecast, plan

GIB = 2**30
NEED = memory_estimate.Need(weights=15 * GIB, cache=GIB // 2, activations=GIB // 4)
OTHERS = {"hardware.quantization=int8": 9 * GIB, "hardware.quantization=nf4": 6 * GIB}
SMALL = ["workload.prompts=4", "batch=4", "canvas=8", "hardware=cpu", "timing.repeats=2"]


def prepare(*overrides: str) -> Prepared:
    return prepare_job(build_job(composed(*SMALL, *overrides)))


def test_what_fits_exactly_fits():
    assert memory_estimate.too_small("x", "cuda", NEED, OTHERS, NEED.total) is None
    assert memory_estimate.too_small("x", "cuda", NEED, OTHERS, NEED.total - 1) is not None


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (11 * GIB, "11.0 GiB are free; hardware.quantization=int8 needs 9.0 GiB, "
                   "hardware.quantization=nf4 needs 6.0 GiB"),
        (8 * GIB, "8.0 GiB are free; hardware.quantization=nf4 needs 6.0 GiB"),
        (5 * GIB, "5.0 GiB are free; even hardware.quantization=nf4 needs 6.0 GiB, use a smaller checkpoint, batch or "
                  "canvas, or a device with more memory"),
    ],
)  # fmt: skip
def test_the_line_says_what_would_fit(free, said):
    line = memory_estimate.too_small("llama-3-8b", "cuda", NEED, OTHERS, free)
    assert line == f"llama-3-8b needs 15.8 GiB on cuda (15.0 weights + 0.5 cache + 0.25 activations), {said}"


def test_nothing_narrower_than_the_narrowest():
    line = memory_estimate.too_small("x", "cuda", NEED, {"hardware.quantization=null": 30 * GIB}, GIB)
    assert line.endswith("1.0 GiB are free; use a smaller checkpoint, batch or canvas, or a device with more memory")


def test_the_8b_pair_in_bfloat16_needs_what_its_shapes_say():
    """LLaMA-3-8B: 8,030,261,248 parameters, of which 32 blocks of 218,103,808 in matrices."""
    prepared = prepare(
        "pair=8b", "weights=dummy", "workload=synthetic", "metric=speed", "dry_run=true", "hardware.dtype=bfloat16"
    )
    wide = memory_estimate.need(prepared)
    assert wide.weights == 2 * 8_030_261_248
    positions = 4 * (prepared.longest_prompt + 8)
    assert wide.cache == positions * 2 * 32 * 8 * 128 * 2
    matrices, rest = 32 * 218_103_808, 8_030_261_248 - 32 * 218_103_808
    for kind, each in (("int8", 1 + 4 / 64), ("nf4", 0.5 + 4 / 64)):
        narrow = memory_estimate.need(prepared, replace(prepared.job.hardware, engine="eager", quantization=kind))
        assert narrow.weights == 2 * rest + matrices * each
        assert narrow.cache == wide.cache
        assert narrow.total < 12e9  # what a card of 12 GB has


@pytest.mark.parametrize("model", ["llama", "llada"])
def test_a_device_that_is_too_small_is_refused_before_weights_load(monkeypatch, model):
    enough = prepare(f"model={model}", "metric=speed")
    needed = memory_estimate.need(enough).total
    monkeypatch.setattr(loading, "_loaded", None)
    monkeypatch.setattr(device, "free_bytes", lambda hardware: needed)
    prepare(f"model={model}", "metric=speed")
    monkeypatch.setattr(device, "free_bytes", lambda hardware: needed - 1)
    with pytest.raises(
        HardwareError, match=f"bundled:{model} needs .* on cpu .*hardware.quantization=int8 hardware.engine=eager needs"
    ) as it:
        prepare(f"model={model}", "metric=speed")
    assert it.value.exit_code == 2
    assert "\n" not in str(it.value)
    assert loading._loaded is None


def test_a_dry_run_shows_the_plan_and_says_it(monkeypatch):
    monkeypatch.setattr(loading, "_loaded", None)
    monkeypatch.setattr(device, "free_bytes", lambda hardware: 2**20)
    prepared = prepare("metric=speed", "dry_run=true")
    cell = plan.Cell(swept={}, prepared=prepared)
    said = console.plan([cell], grid=1, forecasts=[forecast.predict(prepared, None)])
    assert "would be refused now: bundled:llama needs" in said


def test_the_model_that_is_kept_counts_as_free(monkeypatch):
    first = prepare("model=llama", "metric=speed")
    loaded = load_checkpoint(first.checkpoint, first.job.hardware, "real")
    short = memory_estimate.need(first).total - loaded.weight_bytes
    monkeypatch.setattr(device, "free_bytes", lambda hardware: short)
    prepare("model=llama", "metric=speed")
    monkeypatch.setattr(loading, "_loaded", None)
    with pytest.raises(HardwareError):
        prepare("model=llama", "metric=speed")


def test_judge_and_encoder_count_by_themselves_and_a_server_takes_nothing_here(monkeypatch):
    prepared = prepare("model=llama", "dry_run=true")
    (needed,) = memory_estimate.scoring_bytes(prepared)
    model = load_judge(prepared.judge, prepared.job.hardware).model
    assert needed["metric.perplexity.judge"] == sum(weight.nbytes for weight in model.parameters())
    assert needed["metric.bertscore"] > 0
    monkeypatch.setattr(loading, "_loaded", None)
    both = max(memory_estimate.need(prepared).total, sum(needed.values()))
    monkeypatch.setattr(device, "free_bytes", lambda hardware: both)
    prepare("model=llama")  # not the sum of all three
    monkeypatch.setattr(device, "free_bytes", lambda hardware: needed["metric.perplexity.judge"] - 1)
    with pytest.raises(HardwareError, match=r"^metric\.perplexity\.judge .* after generation.*y\.judge=null"):
        prepare("model=llama_server", "metric.bertscore=null")


def test_a_second_judge_is_loaded_after_the_first_and_needs_no_room_beside_it(monkeypatch):
    own = ("model=llada", "metric.bertscore=null", f"metric.perplexity.second_judge={BUNDLED / 'llama'}")
    prepared = prepare(*own, "dry_run=true")
    first, second = memory_estimate.scoring_bytes(prepared)
    assert list(second) == ["metric.perplexity.second_judge"]
    monkeypatch.setattr(loading, "_loaded", None)
    most = max(memory_estimate.need(prepared).total, *first.values(), *second.values())
    monkeypatch.setattr(device, "free_bytes", lambda hardware: most)
    prepare(*own)
    assert "second_judge" in memory_estimate.scoring_too_small(second, "cpu", sum(second.values()) - 1)


def test_the_kept_model_goes_only_where_a_judge_needs_its_place(monkeypatch):
    prepared = prepare("model=llama", "metric=speed")
    hardware = prepared.job.hardware
    kept = load_checkpoint(prepared.checkpoint, hardware, "real")
    monkeypatch.setattr(device, "free_bytes", lambda hardware: 100)
    make_room(100, hardware)
    assert load_checkpoint(prepared.checkpoint, hardware, "real") is kept
    make_room(101, hardware)
    assert kept_bytes(hardware) == 0


def test_on_this_machine_something_is_free():
    assert device.free_bytes(prepare("metric=speed").job.hardware) > 2**20
