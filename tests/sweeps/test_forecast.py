"""What a dry run says of time and memory, against the loaded model, numbers worked by hand and a real earlier run."""

from dataclasses import replace

import pytest
from composition import composed

from llmbench.checkpoints.load import load_checkpoint
from llmbench.config.build import build_job
from llmbench.job import memory_estimate
from llmbench.job.prepare import prepare_job
from llmbench.job.prepared import Prepared
from llmbench.models import architecture
from llmbench.models.architecture import bytes_moved, flops
from llmbench.record import Ceilings, ForwardShape
from llmbench.sweeps import console, forecast, plan
from records import make_record

SMALL = ["workload.prompts=6", "batch=4", "canvas=8", "hardware=cpu", "metric=speed", "timing.repeats=3"]
FAST = Ceilings(flops_per_s=1e12, bytes_per_s=1e9, last_level_cache_bytes=1, judged=True)


def prepare(*overrides: str) -> Prepared:
    return prepare_job(build_job(composed(*SMALL, *overrides)))


def shapes_of(prepared: Prepared) -> architecture.Architecture:
    return architecture.from_config(prepared.checkpoint.config, 4)


@pytest.mark.parametrize("model", ["llama", "llada"])
def test_weights_are_those_of_the_loaded_model_and_only_a_causal_model_has_a_cache(model: str) -> None:
    prepared = prepare(f"model={model}", "steps=4")
    found = forecast.predict(prepared, None)
    loaded = load_checkpoint(prepared.checkpoint, prepared.job.hardware, "real")
    assert found.weight_bytes == loaded.weight_bytes
    shapes = shapes_of(prepared)
    per_token = 2 * shapes.layers * shapes.kv_heads * shapes.head_dim * 4
    assert found.cache_bytes == (4 * (prepared.longest_prompt + 8) * per_token if model == "llama" else 0)
    assert found.activation_bytes > 0
    assert (found.measured_s, found.measured_on) == (None, None)
    assert found.bound_s is not None
    assert found.bound_s > 0


def test_guidance_doubles_what_a_forward_holds() -> None:
    cached = ["model=llada", "steps=4", "block_length=4", "cache=dual"]
    plain, guided = (memory_estimate.need(prepare(*cached, f"cfg_scale={scale}")) for scale in ("0.0", "1.0"))
    assert (guided.activations, guided.cache) == (2 * plain.activations, 2 * plain.cache)
    assert (guided.weights, plain.cache > 0) == (plain.weights, True)


@pytest.mark.parametrize("shortcut", ["cache=prefix", "threshold=0.9", "early_stop=true"])
def test_where_the_work_depends_on_the_text_or_a_cache_the_time_is_unknown(shortcut: str) -> None:
    prepared = prepare("model=llada", "steps=4", "block_length=4", shortcut)
    found = forecast.predict(prepared, None)
    assert found.bound_s is None
    shapes = shapes_of(prepared)
    per_token = 2 * shapes.layers * shapes.kv_heads * shapes.head_dim * 4
    assert found.cache_bytes == (4 * (prepared.longest_prompt + 8) * per_token if shortcut == "cache=prefix" else 0)
    cell = plan.Cell(swept={}, prepared=prepared)
    assert "unknown" in console.plan([cell], grid=1, forecasts=[found])


def test_the_bound_is_the_least_time_of_every_forward_of_every_pass() -> None:
    """Two batches of 4 and 2 prompts; the first is generated five times: warm up, three repeats, marks."""
    prepared = prepare("model=llada", "steps=4")
    shapes, expected = shapes_of(prepared), 0.0
    for members, times in ((range(4), 5), (range(4, 6), 1)):
        length = max(len(prepared.checkpoint.prompt_ids(prepared.workload.prompts[i])) for i in members) + 8
        shape = ForwardShape(rows=len(members), queries=length, keys=length, logits=1)
        expected += times * 4 * max(flops(shapes, shape) / 1e12, bytes_moved(shapes, shape) / 1e9)
    assert forecast.bound_seconds(prepared, shapes, FAST) == pytest.approx(expected)
    # weights that stay in the cache are not read from memory: operations alone bind
    assert forecast.bound_seconds(prepared, shapes, replace(FAST, judged=False)) < expected


def test_an_earlier_record_of_the_same_identity_and_device_tells_the_time(tmp_path) -> None:
    prepared = prepare("model=llama")
    cell = plan.Cell(swept={}, prepared=prepared)
    earlier = make_record("llama", identity=prepared.identity, duration_s=41.0)
    earlier.save(tmp_path / "2026-01-01_00-00-00" / cell.name)
    replace(earlier, duration_s=42.0).save(tmp_path / "2026-01-02_00-00-00")  # a single job
    replace(earlier, duration_s=9.0, status="failed").save(tmp_path / "2026-01-03_00-00-00" / cell.name)
    make_record("llama", identity="other", duration_s=8.0).save(tmp_path / "2026-01-04_00-00-00" / "llama-other")
    found = plan.recorded([cell], [tmp_path], "Test CPU")
    assert plan.recorded([cell], [tmp_path], "Another CPU") == {}
    said = console.plan([cell], grid=1, forecasts=[forecast.predict(prepared, found[prepared.identity])])
    assert "42 s, measured 2026-11-23" in said
    assert "least time" not in said
    unknown = console.plan([cell], grid=1, forecasts=[forecast.predict(prepared, None)])
    assert "measured" not in unknown
    assert "least time of generation alone" in unknown
