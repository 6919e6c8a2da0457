"""Which settings nothing dominates, by hand."""

import math
from dataclasses import replace

import pytest

from llmbench.analysis.frontier import frontiers, undominated
from llmbench.analysis.parity.sides import pooled
from llmbench.config.parity import ThresholdsConfig
from llmbench.errors import RecordError
from llmbench.record import Record
from records import _metrics, implementation, make_record, make_sweep, with_baseline_jobs


def rescored(record: Record, nll: list[float], entropy: float | None = None) -> Record:
    """The Record with these NLL per prompt (20 judge tokens each) in place of equal ones."""
    own = iter(nll)
    scores = tuple(
        replace(score, nll_nats=next(own), entropy_nats=entropy or score.entropy_nats)
        if score.subject == "output"
        else score
        for score in record.scores
    )
    return (changed := replace(record, scores=scores)) and replace(changed, metrics=_metrics(changed))


def test_dominated_is_no_better_in_anything_and_worse_in_something() -> None:
    rows = [(1, 9), (2, 5), (2, 6), (3, 5), (4, 1), (4, 1), (5, 0.5)]
    #        on      on      slower-than-nothing but worse, as good but slower, two equal ones, on
    assert undominated(rows) == (0, 1, 4, 5, 6)
    assert undominated([]) == ()
    assert undominated([(7,)]) == (0,)
    assert undominated([(1, 9, 3), (1, 9, 2), (1, 8, 4)]) == (1, 2)


def test_the_frontier_of_the_main_job() -> None:
    """L_e2e 80, 160, 320, 640 with perplexity 80, 60, 40, 30; LLaMA 200 with 45."""
    (found,) = frontiers(make_sweep(bertscore=None))
    assert [item.label for item in found.settings] == ["llada k=8", "llada k=16", "llama", "llada k=32", "llada k=64"]
    perplexity = found.fronts[0]
    assert (perplexity.metric, perplexity.on, perplexity.compared) == ("quality/perplexity", (0, 1, 2, 3, 4), 5)
    slower = [
        r if r.steps != 32 else replace(r, metrics=r.metrics | {"quality/perplexity": 50.0}) for r in make_sweep()
    ]
    (found,) = frontiers(slower)
    assert [found.settings[i].label for i in found.fronts[0].on] == ["llada k=8", "llada k=16", "llama", "llada k=64"]


def test_equal_perplexity_at_lower_entropy_is_seen_for_what_it_is() -> None:
    """A faster setting as good as LLaMA whose text is less varied beats it in time and quality, not in variety."""
    dull = make_record("llada", 8, e2e_ms=100, perplexity=45.0, entropy=2.0)
    varied = make_record("llama", e2e_ms=200, perplexity=45.0, entropy=3.2)
    (found,) = frontiers([dull, varied])
    front = found.fronts[0]
    assert [found.settings[i].label for i in front.on] == ["llada k=8"]
    assert [found.settings[i].label for i in front.varied] == ["llada k=8", "llama"]
    bertscore = next(item for item in found.fronts if item.metric == "quality/bertscore_f1")
    assert bertscore.on == bertscore.varied  # repetition does not help it


def test_every_temperature_of_both_sides_is_a_setting_of_its_own() -> None:
    records = [r for heat in (0.0, 0.7, 1.0) for r in make_sweep((8, 16), temperature=heat)]
    (found,) = frontiers(records)
    assert len(found.settings) == 9
    assert {"llama T=0.0", "llama T=1.0", "llada k=8 T=0.7"} <= {item.label for item in found.settings}
    assert "temperature" not in found.where
    (alone,) = frontiers(make_sweep((8, 16)))
    assert [item.label for item in alone.settings] == [
        "llada k=8",
        "llada k=16",
        "llama",
    ]  # what all share is said once
    assert "temperature 0.7" in alone.where


def test_other_decoding_settings_are_in_the_label_where_they_differ() -> None:
    records = [make_record("llada", 8, conditions={"decoding.block_length": b}, e2e_ms=float(b)) for b in ("16", "64")]
    (found,) = frontiers(records)
    assert [item.label for item in found.settings] == ["llada k=8 block=16", "llada k=8 block=64"]


def test_intervals_are_those_of_the_ratio_and_of_the_logged_time() -> None:
    nll = [40.0, 60.0, 80.0, 50.0, 70.0, 66.0, 54.0, 60.0]  # mean 60, 20 tokens each: 3 nats a token
    record = rescored(make_record("llada", 8), nll)
    (found,) = frontiers([record, make_record("llama")])
    point = next(item for item in found.settings if item.steps == 8)
    estimate = point.qualities["quality/perplexity"]
    assert estimate.value == pytest.approx(math.exp(3))
    sd = math.sqrt(sum((x - 60) ** 2 for x in nll) / 7) / 20
    t = 2.3646  # t(0.975, 7)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= math.exp(3 - t * sd / math.sqrt(8)) + 1e-3  # Hall's correction only widens
    assert estimate.high >= math.exp(3 + t * sd / math.sqrt(8)) - 1e-3
    assert (point.ms.low, point.ms.high) == (
        record.metrics["latency/e2e_ms_ci_low"],
        record.metrics["latency/e2e_ms_ci_high"],
    )


def test_seeds_join_one_setting_with_pooled_quality_and_mean_time() -> None:
    def seed(name: str, ms: float, nll: float) -> Record:
        made = rescored(make_record("llada", 8, e2e_ms=ms, conditions={"seed": name}), [nll] * 8)
        return replace(made, identity=f"seed{name}")

    records = [seed("1", 100.0, 40.0), seed("2", 140.0, 80.0)]
    (found,) = frontiers(records)
    (point,) = found.settings
    assert point.ms.value == pytest.approx(120.0)
    assert point.qualities["quality/perplexity"].value == pytest.approx(math.exp(3))
    assert len(pooled(records, "quality/perplexity")) == 8


def test_silence_is_fast_and_competes_with_nothing() -> None:
    silent = make_record("llada", 8, e2e_ms=1.0, perplexity=1.1, empty=4)
    (found,) = frontiers([make_record("llama"), silent])
    assert [item.label for item in found.settings] == ["llama"]
    assert found.left_out == ("llada k=8 (50 % of its outputs are empty)",)
    strict = ThresholdsConfig(empty_share=0.0)
    assert frontiers([make_record("llama"), make_record("llada", 8)], strict)[0].left_out == ()


def test_quality_that_is_no_number_is_left_out_by_name() -> None:
    odd = make_record("llada", 8, bertscore=None)
    scores = tuple(replace(score, nll_nats=math.nan) for score in odd.scores)
    metrics = {key: value for key, value in odd.metrics.items() if not key.startswith("quality/")}
    (found,) = frontiers([make_record("llama"), replace(odd, scores=scores, metrics=metrics)])
    assert [item.label for item in found.settings] == ["llama"]
    assert found.left_out == ("llada k=8 (its quality is no finite number)",)


def test_what_varied_is_a_frontier_of_its_own_and_other_versions_are_refused() -> None:
    elsewhere = make_record("llada", 8, conditions={"device_name": "Other CPU"})
    found = frontiers([make_record("llama"), elsewhere])
    assert [[item.label for item in front.settings] for front in found] == [["llama"], ["llada k=8"]]
    with pytest.raises(RecordError, match=r"torch is '2\.13\.0' and '2\.0\.0'"):
        frontiers([make_record("llama"), make_record("llada", 8, conditions={"torch": "2.0.0"})])
    found = frontiers([*make_sweep(batch=4), *make_sweep(batch=8)])
    assert [len(item.settings) for item in found] == [5, 5]


def test_points_of_a_curve_and_baselines_timed_again_are_no_settings() -> None:
    assert frontiers(with_baseline_jobs(make_sweep())) == frontiers(make_sweep())


def test_implementations_of_the_baseline_are_settings() -> None:
    records = [implementation("autoregressive", 200.0), implementation("transformers", 300.0, "static")]
    (found,) = frontiers(records)
    assert [item.label for item in found.settings] == ["llama", "llama transformers static"]
    assert found.fronts[0].on == (0,)


def test_without_quality_there_is_no_frontier() -> None:
    assert frontiers(make_sweep(perplexity=None)) == ()
    assert frontiers([make_record("llada", 8, status="failed", reason="out of memory")]) == ()
