"""Speed per user against speed per device, by hand. An output has 20 tokens and 100 bytes; one batch is one job."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from llmbench.analysis.pareto import Judgement, Plane, Rate, planes
from llmbench.analysis.parity.analyze import verdicts
from llmbench.errors import RecordError
from llmbench.record import Record
from records import implementation, make_record, make_sweep, server_record, with_baseline_jobs, with_curve


def llama(batch: int, e2e_ms: float, draft: str | None = None, **more: object) -> Record:
    return implementation("autoregressive", e2e_ms, draft=draft, batch=batch, prompts=batch, **more)  # type: ignore[arg-type]


def llada(batch: int, e2e_ms: float, **more: object) -> Record:
    return make_record("llada", 8, e2e_ms=e2e_ms, batch=batch, prompts=batch, **more)  # type: ignore[arg-type]


def only(records: Sequence[Record], **more: object) -> Plane:
    (found,) = planes(records, **more)  # type: ignore[arg-type]
    return found


def on(plane: Plane, unit: str = "tokens") -> list[tuple[str, int]]:
    return [(plane.points[i].label, plane.points[i].batch) for i in plane.on[unit]]


SWEEP = [
    llama(1, 200.0),  # 100 tokens/s for the user, 100 of the device
    llama(4, 400.0),  # 50 and 200
    llama(1, 125.0, draft="lookup"),  # 160 and 160
    llama(4, 500.0, draft="lookup"),  # 40 and 160
    llada(1, 160.0),  # 125 and 125
    llada(4, 320.0),  # 62.5 and 250
]


def test_the_frontier_of_both_families_and_all_implementations() -> None:
    """Lookup at batch 1 beats all of batch 1, LLaDA at batch 4 all of batch 4; neither beats the other."""
    plane = only(SWEEP)
    rates = {(p.label, p.batch): (p.rates["tokens"].per_user, p.rates["tokens"].per_device) for p in plane.points}
    assert rates == {
        ("llama", 1): pytest.approx((100, 100)),
        ("llama", 4): pytest.approx((50, 200)),
        ("llama draft=lookup", 1): pytest.approx((160, 160)),
        ("llama draft=lookup", 4): pytest.approx((40, 160)),
        ("llada k=8", 1): pytest.approx((125, 125)),
        ("llada k=8", 4): pytest.approx((62.5, 250)),
    }
    assert on(plane) == on(plane, "bytes") == [("llama draft=lookup", 1), ("llada k=8", 4)]
    assert [p.name for p in plane.points[::2]] == [
        "LLaMA plain, our engine", "LLaMA with prompt lookup, our engine", "LLaDA k=8",
    ]  # fmt: skip
    assert "batch" not in plane.where


def test_bytes_are_a_plane_of_their_own_and_need_text() -> None:
    """LLaDA's tokens are fewer and longer: 10 tokens and 200 bytes in the time of LLaMA's 20 and 100."""
    longer = llada(4, 400.0, tokens=10)
    longer = replace(longer, timings=tuple(replace(t, utf8_bytes=4 * 200) for t in longer.timings))
    plane = only([llama(4, 400.0), longer])
    assert (on(plane), on(plane, "bytes")) == ([("llama", 4)], [("llada k=8", 4)])
    assert plane.points[1].rates["bytes"] == Rate(per_user=pytest.approx(500), per_device=pytest.approx(2000))  # type: ignore[arg-type]
    noise = replace(longer, timings=tuple(replace(t, utf8_bytes=None) for t in longer.timings))
    plane = only([llama(4, 400.0), noise])
    assert (plane.points[1].rates.keys(), on(plane, "bytes")) == ({"tokens"}, [("llama", 4)])


def test_a_server_on_unknown_hardware_is_listed_apart_however_fast_it_is() -> None:
    fast = server_record(10.0, batch=4, prompts=4)
    plane = only([*SWEEP, fast])
    assert [point.implementation.server for point in plane.external] == ["vllm 0.11"]
    assert (plane.points, plane.on) == (only(SWEEP).points, only(SWEEP).on)
    vouched = only([*SWEEP, server_record(10.0, batch=4, prompts=4, trust_same_hardware=True)], price_per_hour=1.0)
    assert vouched.external == ()
    assert on(vouched) == [("llama server", 4)]
    unknown = replace(fast, conditions=fast.conditions | {"decoding.checkpoint": "no weights"})
    assert [point.label for point in only([*SWEEP, unknown]).external] == ["llama server"]
    other = [replace(r, conditions=r.conditions | {"canvas": "128"}) for r in SWEEP[:2]]
    assert [len(plane.external) for plane in planes([*SWEEP, *other, fast])] == [1, 0]  # it was asked for 64
    alone = only([fast], price_per_hour=1.0)
    assert (alone.points, alone.on, alone.external[0].price) == ((), {}, None)


def test_the_money_of_a_million_tokens_is_the_hours_price_over_what_the_device_writes_in_it() -> None:
    """100 tokens/s are 360000 an hour; a million take 2.78 hours."""
    first, second, *_ = only(SWEEP, price_per_hour=3.6).points
    assert (first.price, second.price) == (pytest.approx(10.0), pytest.approx(5.0))
    assert {point.price for point in only(SWEEP).points} == {None}


def test_energy_and_rates_are_means_over_seeds_and_absent_where_one_lacks() -> None:
    def seeded(seed: str, e2e_ms: float, joules: float | None) -> Record:
        made = llama(1, e2e_ms, conditions={"seed": seed})
        return replace(made, metrics=made.metrics | ({} if joules is None else {"energy/joules_per_token": joules}))

    (point,) = only([seeded("1", 200.0, 2.0), seeded("2", 100.0, 4.0)]).points
    assert (point.joules_per_token, point.rates["tokens"].per_user) == (3.0, pytest.approx((100 + 200) / 2))
    (point,) = only([seeded("1", 200.0, 2.0), seeded("2", 100.0, None)]).points
    assert (point.joules_per_token, point.joules_per_byte) == (None, None)


def test_quality_and_the_verdict_at_each_k_stand_beside_the_speed() -> None:
    """Perplexity 80, 60, 40, 30 against 45: every k from 32 on passes, 16 is where the sequence ends."""
    records = with_curve(make_sweep())
    plane = only(records, verdicts=verdicts(records))
    found = {p.steps: (p.judgement, p.qualities["quality/perplexity"]) for p in plane.points}
    assert found == {
        None: (None, pytest.approx(45)),
        8: (Judgement.NOT_REACHED, pytest.approx(80)),
        16: (Judgement.NOT_REACHED, pytest.approx(60)),
        32: (Judgement.REACHED, pytest.approx(40)),
        64: (Judgement.REACHED, pytest.approx(30)),
    }
    assert on(plane) == [("llada k=8", 4)]  # the fastest, and the worst text
    silent = with_curve(make_sweep(empty=2))  # the gate of empty outputs leaves no k to be judged
    assert {p.judgement for p in only(silent, verdicts=verdicts(silent)).points} == {None, Judgement.UNDECIDED}
    assert {p.judgement for p in only(records).points} == {None}
    untested = make_sweep(perplexity=None)
    assert {(p.judgement, *p.qualities) for p in only(untested, verdicts=verdicts(untested)).points} == {(None,)}


def test_only_full_measurements_are_points_and_raw_times_are_enough() -> None:
    records = make_sweep()
    lost = make_record("llada", 128, status="failed", reason="out of memory")
    assert only([*reversed(with_baseline_jobs(records)), lost]).points == only(records).points
    twice = [records[0], replace(make_record("llama", e2e_ms=100.0), identity="again")]
    assert only(twice).points == only(records[:1]).points  # the first of one seed counts
    older = [
        replace(r, metrics={key: v for key, v in r.metrics.items() if not key.endswith("_per_user")}) for r in records
    ]
    assert only(older).points == only(records).points
    assert planes([lost]) == ()


def test_settings_and_engines_that_differ_are_told_apart_and_other_conditions_are_other_planes() -> None:
    eager = llama(1, 300.0)
    graph = replace(llama(1, 100.0), conditions=llama(1, 100.0).conditions | {"engine": "graph"})
    assert [point.label for point in only([eager, graph]).points] == ["llama engine=eager", "llama engine=graph"]
    few, many = (llama(1, 90.0, draft="lookup", conditions={"decoding.draft_tokens": n}) for n in "37")
    shown = [(p.label, p.name) for p in only([few, many]).points]
    name = "LLaMA with prompt lookup, our engine"
    assert shown == [
        (f"llama draft=lookup {said}", f"{name} ({said})") for said in ("draft_tokens=3", "draft_tokens=7")
    ]
    cached = [llada(1, 90.0, conditions={"decoding.cache": c}) for c in ("none", "dual")]
    cold = [llada(1, 90.0, temperature=t) for t in (0.0, 0.7)]
    assert [p.label for p in only(cold).points] == ["llada k=8 T=0.0", "llada k=8 T=0.7"]
    assert len(only(cached).points) == 2
    quantized = replace(eager, conditions=eager.conditions | {"quantization": "int8"})
    assert len(planes([eager, quantized])) == 2
    with pytest.raises(RecordError, match=r"torch is '2\.13\.0' and '2\.0\.0'"):
        planes([eager, llada(1, 90.0, conditions={"torch": "2.0.0"})])
