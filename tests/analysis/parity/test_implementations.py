"""Several implementations of the baseline: which is compared, whose text, whose curve, and what each is called."""

from dataclasses import replace

import pytest

from llmbench.analysis.implementations import ImplementationName, implementation_name, row_labels
from llmbench.analysis.parity.analyze import parity, verdicts
from llmbench.analysis.parity.grouping import choose_baseline, group
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import CheckName, Speed
from llmbench.errors import RecordError
from llmbench.record import Record
from records import implementation, make_record, make_sweep, server_record, with_curve

PERPLEXITY = "quality/perplexity"


def plain(e2e_ms: float = 200.0, seed: str = "1", **changes: object) -> Record:
    return implementation(
        "autoregressive", e2e_ms, conditions={"seed": seed, **changes.pop("conditions", {})}, **changes
    )  # type: ignore[arg-type, dict-item]


def drafted(e2e_ms: float = 100.0, seed: str = "1", draft: str = "lookup", **changes: object) -> Record:
    return implementation("autoregressive", e2e_ms, draft=draft, conditions={"seed": seed}, **changes)  # type: ignore[arg-type]


def llada(seed: str = "1", **changes: object) -> Record:
    return make_record("llada", 8, e2e_ms=50.0, perplexity=40.0, entropy=3.3, conditions={"seed": seed}, **changes)  # type: ignore[arg-type]


def again(record: Record, e2e_ms: float, at: str) -> Record:
    """The same baseline, timed once more."""
    times = tuple(replace(t, e2e_ms=e2e_ms) for t in record.timings)
    metrics = {"latency/e2e_ms": e2e_ms}
    return replace(record, role="retimed", identity=f"again {at}", started_at=f"2026-11-23T{at}+00:00", timings=times,
                   metrics=metrics, outputs=(), scores=())  # fmt: skip


def test_the_fastest_over_its_seeds_is_compared_with_its_own_text_and_the_plain_decoders_curve() -> None:
    """Plain takes 200 and 180 ms, with drafts 100 and 240: 170 on average. Perplexities are 45, 45 and 50, 60."""
    own = [plain(200.0, "1"), plain(180.0, "2")]
    fast = [drafted(100.0, "1", perplexity=50.0), drafted(240.0, "2", perplexity=60.0)]
    verdict = parity(with_curve([*own, *fast, llada("1"), llada("2")]))
    chosen, other = verdict.implementations
    assert (chosen.name, chosen.e2e_ms) == (ImplementationName(model="llama", draft="lookup"), pytest.approx(170.0))
    assert (other.name, other.e2e_ms) == (ImplementationName(model="llama"), pytest.approx(190.0))
    assert {*chosen.identities, *other.identities} == {record.identity for record in (*own, *fast)}
    assert verdict.speedups[0].ratio == pytest.approx(170 / 50)
    assert verdict.metric(PERPLEXITY).curve.baseline == pytest.approx((50 * 60) ** 0.5)  # type: ignore[union-attr]
    points = {point.temperature: dict(point.values)[PERPLEXITY] for point in verdict.points}
    assert (len(points), points[0.7]) == (7, pytest.approx(45.0))
    assert verdict.names == ("LLaMA", "LLaDA")
    assert Parity.from_dict(verdict.to_dict()) == verdict


def test_only_the_chosen_one_that_was_timed_again_counts() -> None:
    own, fast = plain(), drafted()
    candidate = replace(llada(), started_at="2026-11-23T11:00:00+00:00")
    timed = [again(own, 1.0, "12:00:00"), again(fast, 121.0, "12:30:00")]
    (found,) = parity([own, fast, candidate, *timed]).speedups
    assert (found.baseline_ms, found.drift) == (pytest.approx((100 * 121) ** 0.5), pytest.approx(1.21))


def test_drafts_serve_as_a_point_where_nothing_is_drawn_and_the_plain_decoder_has_none() -> None:
    own, fast = plain(entropy=3.2), drafted(entropy=3.2)
    greedy = replace(drafted(seed="0", temperature=0.0, perplexity=20.0, entropy=2.8), identity="greedy")
    warm = replace(drafted(temperature=0.9, perplexity=70.0, entropy=3.4), identity="warm")

    def curve(*records: Record) -> list[tuple[float | None, str]]:
        return [(side.temperature, side.records[0].identity) for side in group([*records, llada()]).curve]

    assert curve(own, fast, greedy, warm) == [(0.0, "greedy"), (0.7, own.identity)]
    cold = replace(plain(seed="0", temperature=0.0), role="curve", identity="cold")
    assert curve(own, fast, greedy, cold) == [(0.0, "cold"), (0.7, own.identity)]
    assert curve(fast, greedy) == [(0.0, "greedy"), (0.7, fast.identity)]  # there is no plain decoder


def test_an_option_that_is_null_is_the_one_that_older_records_lack() -> None:
    """One implementation and seed twice: refused, and never two implementations."""
    old, new = plain(), plain(150.0, conditions={"decoding.draft": "None"})
    with pytest.raises(RecordError, match="found 2"):
        choose_baseline([old, new])
    assert len(choose_baseline([old, plain(150.0, "2", conditions={"decoding.draft": "None"})])) == 2


def test_rows_of_one_label_are_told_apart_by_what_differs() -> None:
    often, seldom = (plain(t, conditions={"decoding.stop_check_every": n}) for t, n in ((200.0, "1"), (190.0, "8")))
    records = [often, seldom, drafted(), implementation("transformers", 300.0, "static"), llada()]
    assert list(row_labels(records).values()) == [
        "llama stop_check_every=1", "llama stop_check_every=8", "llama draft=lookup", "llama transformers static",
        "llada k=8",
    ]  # fmt: skip
    assert next(iter(row_labels(records[1:]).values())) == "llama"
    name = implementation_name(often, records)
    assert (name.engine, name.draft, name.settings) == ("ours", None, ("stop_check_every=1",))
    assert implementation_name(records[3], records).settings == ("static",)
    served = implementation_name(server_record(90.0))
    assert (served.engine, served.server) == ("server", "vllm 0.11")
    assert [item.label for item in parity(records).implementations][:2] == [
        "llama draft=lookup", "llama stop_check_every=8",
    ]  # fmt: skip


def test_a_lost_implementation_of_the_same_label_may_have_been_the_faster_one() -> None:
    own = plain(conditions={"decoding.stop_check_every": "1"})
    lost = plain(conditions={"decoding.stop_check_every": "8"})
    gone = replace(lost, identity="lost", status="failed", reason="out of memory", outputs=(), timings=(), scores=(),
                   metrics={})  # fmt: skip
    sweep = [own, *(replace(r, conditions=r.conditions | {"seed": "1"}) for r in make_sweep((8,))[1:])]
    (verdict,) = verdicts([*sweep, gone])
    assert verdict.check(CheckName.MISSING).blocks == "viable"  # type: ignore[union-attr]
    assert verdict.speed is not Speed.VIABLE
