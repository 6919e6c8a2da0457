"""Predicted times, by hand: at 1e12 operations and 1e12 bytes per second 1e9 of either is a millisecond."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from llmbench.analysis import prediction
from llmbench.analysis.prediction import Model, Timed, errors, fit, predict, timed_records
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.errors import RecordError
from llmbench.record import Ceilings, ForwardCost, ForwardShape
from records import implementation, make_record, server_record

UNIT = Ceilings(flops_per_s=1e12, bytes_per_s=1e12, last_level_cache_bytes=None, judged=True)
FASTER = Ceilings(flops_per_s=2e12, bytes_per_s=4e12, last_level_cache_bytes=None, judged=True)
WORLD = Model(flops_efficiency=0.8, bytes_efficiency=0.9, forward_ms=0.25, overlap=2.5)


def forward(compute_ms: float, move_ms: float, count: int = 1) -> ForwardCost:
    shape = ForwardShape(rows=1, queries=1, keys=1, logits=1)
    return ForwardCost(shape=shape, count=count, flops=compute_ms * 1e9, bytes=move_ms * 1e9)


def row(batch: int, costs: Sequence[ForwardCost], ms: float = 1.0, device: str = "A", **more: object) -> Timed:
    return Timed(
        name="x", source="page", device=device, family="diffusion", kind="step", batch=batch, ms=ms,
        costs=tuple(costs), **({"ceilings": UNIT} | more),
    )  # fmt: skip


def world(model: Model = WORLD) -> list[Timed]:
    """Times that follow the model exactly, on two devices."""
    works = [(0.1, 4), (4, 4), (9, 3), (60, 5), (1, 0.2), (30, 30)]
    rows = [row(batch, [forward(a * batch, b), forward(a, b, 3)]) for batch in (1, 8, 32) for a, b in works]
    rows += [replace(each, device="B", ceilings=FASTER) for each in rows]
    return [replace(each, ms=model.ms(each.costs, each.ceilings)) for each in rows]


def test_a_forward_takes_both_ceilings_together_and_a_constant():
    model = Model(flops_efficiency=0.5, bytes_efficiency=0.25, forward_ms=0.5, overlap=2.0)
    costs = [forward(1.5, 1.0, count=4)]  # 3 ms of computing, 4 of reading: 5 together
    assert model.ms(costs, UNIT) == pytest.approx(4 * 5.5)
    assert model.ms(costs, FASTER) == pytest.approx(4 * ((1.5**2 + 1.0**2) ** 0.5 + 0.5))
    assert replace(model, overlap=1.0).ms(costs, UNIT) == pytest.approx(4 * 7.5)  # one after the other
    assert replace(model, overlap=64.0).ms([forward(1.5, 0.5)], UNIT) == pytest.approx(3.5)  # the larger alone
    assert model.ms([forward(0, 0)], UNIT) == 0.5


def test_a_world_that_follows_the_model_is_recovered_and_predicted_on_another_device():
    found = predict(world(), (1, 32), "A")
    for name, value in vars(WORLD).items():
        assert getattr(found.model, name) == pytest.approx(value, rel=1e-3), name
    assert {(each.device, each.batch) for each in found.fitted} == {("A", 1), ("A", 32)}
    assert (len(found.fitted), len(found.held_out)) == (12, 24)
    left = errors(found.model, found.held_out)
    assert left is not None
    assert left.largest < 1e-3


def test_a_known_noise_on_the_rows_held_out_is_the_error_found_and_moves_no_fitted_number():
    """1.25 times as slow is an error of 0.2, 0.8 times one of 0.25, and 1.6 times one of 0.375."""
    clean, noise = world(), (1.25, 1.25, 0.8)
    noisy = [each if each.batch != 8 else replace(each, ms=each.ms * noise[i % 3]) for i, each in enumerate(clean)]
    noisy[6] = replace(noisy[6], ms=clean[6].ms * 1.6)
    found = predict(noisy, (1, 32), "A")
    assert found.model == predict(clean, (1, 32), "A").model
    left = errors(found.model, [each for each in found.held_out if each.batch == 8])
    assert left is not None
    assert (left.rows, left.median, left.largest) == (12, pytest.approx(0.2, rel=1e-3), pytest.approx(0.375, rel=1e-3))
    assert errors(found.model, []) is None


def test_the_device_with_the_most_batch_sizes_is_fitted_and_too_few_rows_are_refused():
    extra = [replace(each, batch=64) for each in world() if each.device == "B" and each.batch == 8]
    assert predict([*world(), *extra], (1, 32)).device == "B"
    with pytest.raises(RecordError, match="4 measured rows are too few to fit 4 numbers"):
        fit(world()[:4])
    with pytest.raises(RecordError, match="no row was measured on C; there are A, B"):
        predict(world(), (1, 32), "C")
    with pytest.raises(RecordError, match="no measured time"):
        predict([], (1, 32))


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("steps", [4, 8])
def test_generations_are_the_forwards_that_the_decoders_make(cache: str, steps: int):
    import tiny_models

    from llmbench.decoding.autoregressive import AutoregressiveDecoder
    from llmbench.decoding.base import PromptBatch
    from llmbench.decoding.diffusion import DiffusionDecoder
    from llmbench.models.engine import EagerEngine

    ids, _ = tiny_models.prompts([5, 5, 5])
    batch = PromptBatch(ids=ids, mask=None)
    settings = Diffusion(steps=steps, canvas=16, block_length=8, temperature=0.0, cache=cache)  # type: ignore[arg-type]
    diffusion = DiffusionDecoder(settings, stop_ids=(), mask_id=tiny_models.MASK)
    made = diffusion.generate(EagerEngine(tiny_models.model(causal=False)), batch, seed=0, on_step=None)
    assert prediction.generation(3, 5, settings) == list(made.forwards)
    ar = AutoregressiveDecoder(Autoregressive(max_new_tokens=6, temperature=0.0), stop_ids=(), pad_id=0)
    made = ar.generate(EagerEngine(tiny_models.model()), batch, seed=0, on_step=None)
    assert [prediction.prefill(3, 5), *prediction.later_tokens(3, 5, 6)] == list(made.forwards)


def test_records_are_rows_but_for_servers_and_code_that_is_not_ours():
    """Four forwards of 1e8 operations and 3e7 bytes; the middle of six repeats is 100 ms."""
    own = make_record("llada", 8, batch=2, prompts=8)
    others = [
        server_record(5.0),
        implementation("autoregressive", 100.0, draft="model"),
        implementation("transformers", 100.0),
        replace(own, role="retimed"),
        replace(own, ceilings=None),
        replace(own, forward_costs=()),
        make_record("llama", status="failed", reason="x"),
    ]
    lookup = implementation("autoregressive", 50.0, draft="lookup", batch=4)
    found = timed_records([own, *others, lookup])
    assert [(each.name, each.batch, each.forwards) for each in found] == [
        (own.label, 2, 4), ("llama draft=lookup", 4, 4),
    ]  # fmt: skip
    assert [each.ms for each in found] == pytest.approx([100.0, 50.0])
    assert found[0].costs == own.forward_costs
    other = replace(own, conditions=own.conditions | {"engine": "fused"})
    with pytest.raises(RecordError, match="engines eager and fused"):
        timed_records([own, other])
