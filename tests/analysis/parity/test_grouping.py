"""Which Records are compared, which are refused, and where a server's stands: beside the verdict, unless trusted."""

from dataclasses import replace

import pytest

from llmbench.analysis.parity.analyze import parity, verdicts
from llmbench.analysis.parity.grouping import comparison_groups, group, seed_of
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Status
from llmbench.errors import RecordError
from records import implementation, make_record, make_sweep, server_record, with_curve


def test_a_server_changes_no_verdict_and_has_its_own_speedups() -> None:
    without = verdicts(make_sweep())
    (verdict,) = verdicts([server_record(50.0, perplexity=20.0), *make_sweep()])  # faster and better than LLaMA here
    assert [replace(verdict, external_servers=(), identities=())] == [replace(item, identities=()) for item in without]
    (server,) = verdict.external_servers
    assert (server.label, server.where) == ("llama server", "vllm 0.11 at http://host:8000/v1")
    assert {s.steps: s.ratio for s in server.speedups} == pytest.approx(
        {k: 50 / (10 * k + 0.1) for k in (8, 16, 32, 64)}  # the host clock of the helper says 0.1 ms more
    )
    assert all(s.low is not None and s.low <= s.ratio <= s.high for s in server.speedups)
    assert ("parity/speedup_vs_llama_server", 8, pytest.approx(50 / 80.1)) in verdict.series()
    assert Parity.from_dict(verdict.to_dict()) == verdict


def test_a_servers_speedup_is_wall_clock_over_wall_clock() -> None:
    sweep = make_sweep((8,))
    slow_host = replace(
        sweep[1],
        timings=tuple(replace(t, e2e_wall_ms=2 * t.e2e_ms) for t in sweep[1].timings),
        metrics=sweep[1].metrics | {"latency/e2e_wall_ms": 2 * sweep[1].metrics["latency/e2e_ms"]},
    )
    (verdict,) = verdicts([sweep[0], slow_host, server_record(200.0)])
    assert verdict.speedups[0].ratio == pytest.approx(200 / 80)  # the device's clock, as ever
    (ours,) = verdict.external_servers[0].speedups
    assert ours.ratio == pytest.approx(200 / 160)
    assert ours.low is not None
    assert ours.low < 200 / 160 * 1.1


def test_two_servers_have_a_speedup_each() -> None:
    sweep = [*make_sweep((8,)), server_record(160.0), server_record(40.0, url="http://other:30000/v1")]
    (verdict,) = verdicts(sweep)
    assert [[s.ratio for s in item.speedups] for item in verdict.external_servers] == [
        [pytest.approx(160 / 80.1)],
        [pytest.approx(40 / 80.1)],
    ]
    assert {key for key, _, _ in verdict.series() if "_vs_" in key} == {
        f"parity/speedup_vs_llama_server_{i}" for i in (1, 2)
    }


def test_the_users_word_makes_it_an_implementation_of_the_baseline() -> None:
    (verdict,) = verdicts([*make_sweep(), server_record(150.0, trust_same_hardware=True)])
    assert verdict.external_servers == ()
    assert verdict.speedups[0].baseline_ms == 150.0
    assert [item.label for item in verdict.implementations] == ["llama server", "llama"]
    (slower,) = verdicts([*make_sweep(), server_record(250.0, trust_same_hardware=True)])
    assert slower.speedups[0].baseline_ms == 200.0
    (only,) = verdicts([*make_sweep()[1:], server_record(150.0, trust_same_hardware=True)])
    assert only.status is Status.REACHED


def test_a_vouched_server_must_be_asked_for_the_same_text() -> None:
    chat = server_record(150.0, trust_same_hardware=True)
    chat = replace(chat, conditions=chat.conditions | {"decoding.chat": "True"})
    with pytest.raises(RecordError, match=r"decoding\.chat is None and 'True'"):
        verdicts([*make_sweep(), chat])
    beside = replace(chat, conditions=chat.conditions | {"decoding.trust_same_hardware": "False"})
    (verdict,) = verdicts([*make_sweep(), beside])
    assert len(verdict.external_servers) == 1


def test_without_another_baseline_there_is_no_verdict() -> None:
    (verdict,) = verdicts([*make_sweep()[1:], server_record(100.0)])
    assert verdict.status is Status.MISSING_BASELINE
    assert verdict.speedups == ()
    assert len(verdict.external_servers[0].speedups) == 4
    assert (verdict.conditions.device_name, verdict.conditions.dtype) == ("Test CPU", "float32")


def test_a_server_joins_the_sets_of_its_batch_whatever_they_ran_on() -> None:
    small, large = make_sweep((8,)), make_sweep((8,), batch=8)
    sets = comparison_groups([*small, *large, server_record(90.0), server_record(95.0, batch=8)])
    assert [[record.label for record in members] for members in sets] == [["llama", "llama server", "llada k=8"]] * 2
    assert [{record.conditions["batch"] for record in members} for members in sets] == [{"4"}, {"8"}]
    (alone,) = comparison_groups([server_record(90.0), small[0]])
    assert [record.label for record in alone] == ["llama", "llama server"]
    (only,) = comparison_groups([server_record(90.0)])
    assert parity(only).conditions.device_name == "vllm 0.11 at http://host:8000/v1"


def test_what_is_known_of_a_server_must_agree_and_so_must_the_rest() -> None:
    with pytest.raises(RecordError, match="workload is"):
        group([*make_sweep((8,)), _other_prompts()])
    elsewhere = make_record("llada", 16, conditions={"device_name": "Another CPU"})
    with pytest.raises(RecordError, match="device_name"):
        group([server_record(90.0), *make_sweep((8,)), elsewhere])


def _other_prompts():
    made = server_record(90.0)
    return replace(made, conditions=made.conditions | {"workload": "w1"})


# Conditions


def test_seeds_that_met_two_devices_are_told_apart_and_share_the_curve() -> None:
    """Workers of a cluster: each ratio is of one device, and the curve's texts may be written on either."""
    sweep = with_curve(make_sweep((8,)))
    elsewhere = [make_record("llama", conditions={"device_name": "B", "seed": "1"})]
    elsewhere += [make_record("llada", 8, conditions={"device_name": "B", "seed": "1"})]
    found = comparison_groups([*sweep, *elsewhere])
    devices = [{r.conditions["device_name"] for r in members if r.role == "timed"} for members in found]
    assert devices == [{"Test CPU"}, {"B"}]
    assert [sum(r.role == "curve" for r in members) for members in found] == [len(sweep) - 2] * 2


@pytest.mark.parametrize("key", ["torch", "device_name", "transformers", "judge"])
def test_records_under_other_conditions_are_refused_with_key_and_both_values(key: str) -> None:
    sweep = [*make_sweep()[:2], make_record("llada", 16, conditions={key: "other"})]
    old = sweep[0].conditions[key]
    with pytest.raises(RecordError, match=f"llama and llada k=16 cannot be compared: {key} is '{old}' and 'other'"):
        parity(sweep)


def test_a_point_of_the_curve_made_by_another_version_is_refused() -> None:
    *others, last = with_curve(make_sweep())
    with pytest.raises(RecordError, match=r"torch is '2\.13\.0' and '2\.0\.0'"):
        parity([*others, replace(last, conditions=last.conditions | {"torch": "2.0.0"})])


def test_decoding_settings_must_agree_within_a_model_only() -> None:
    llama, *others = make_sweep()
    own = replace(llama, conditions=llama.conditions | {"decoding.ignore_stop": "True"})
    assert parity([own, *others]).status is Status.REACHED
    for key, value in (("decoding.remasking", "random"), ("decoding.cache", "dual")):  # both change the text
        with pytest.raises(RecordError, match=rf"{key} is None and '{value}'"):
            parity([llama, *others, make_record("llada", 128, conditions={key: value})])


@pytest.mark.parametrize(
    ("drawn", "counts"),
    [
        ({"decoding.remasking": "entropy", "decoding.remasking_temperature": "0.0"}, False),
        ({"decoding.remasking": "entropy", "decoding.remasking_temperature": "0.1"}, True),
        ({"decoding.remasking": "random"}, True),
        ({"decoding.remasking": "origin"}, True),
    ],
)
def test_the_seed_of_greedy_text_counts_where_positions_are_drawn(drawn: dict[str, str], counts: bool) -> None:
    record = make_record("llada", 8, conditions={"decoding.temperature": "0.0", "seed": "7"} | drawn)
    assert seed_of(record) == ("7" if counts else "")


def test_two_records_for_one_place_are_refused() -> None:
    with pytest.raises(RecordError, match="one autoregressive Record is needed as the baseline, found 2"):
        parity([make_record("llama"), make_record("llama"), make_record("llada", 8)])
    with pytest.raises(RecordError, match="two Records of llada k=8"):
        parity([make_record("llama"), make_record("llada", 8), make_record("llada", 8)])
    with pytest.raises(RecordError, match="one diffusion model at a time"):
        parity([make_record("llada", 8), make_record("dream", 8)])
    nucleus = implementation("transformers", 400.0, "dynamic")
    nucleus = replace(nucleus, conditions=nucleus.conditions | {"decoding.top_p": "0.9"})
    with pytest.raises(RecordError, match=r"decoding\.top_p is None and '0\.9'"):
        parity([implementation("autoregressive", 200.0), nucleus, make_record("llada", 8)])


def test_a_sweep_over_batches_is_cut_into_one_verdict_a_batch() -> None:
    sweep = [record for batch in (2, 4) for record in with_curve(make_sweep((8, 16), batch=batch))]
    found = verdicts(sweep)
    assert [verdict.conditions.batch for verdict in found] == ["2", "4"]
    assert [len(verdict.points) for verdict in found] == [7, 7]
    lost = make_record("llada", 8, batch=8, status="failed", reason="out of memory")
    found = verdicts([*sweep, make_record("llama", batch=8), lost])
    assert {verdict.conditions.batch: verdict.status for verdict in found} == {
        "2": Status.NOT_REACHED,
        "4": Status.NOT_REACHED,
        "8": Status.INVALID,
    }


def test_a_chat_and_a_continuation_never_meet() -> None:
    plain = make_sweep((8,))
    chat = [replace(r, conditions=r.conditions | {"decoding.chat": "True"}) for r in plain]
    found = verdicts([*plain, *chat])
    assert [verdict.conditions.chat for verdict in found] == [False, True]
    assert all(verdict.status is not Status.MISSING_BASELINE for verdict in found)
    with pytest.raises(RecordError, match=r"llama and llada k=8 cannot be compared: decoding.chat is 'True' and None"):
        parity([chat[0], plain[1]])


def test_implementations_without_a_candidate_are_one_set() -> None:
    both = [implementation("transformers", 400.0, "dynamic"), implementation("autoregressive", 200.0)]
    (verdict,) = verdicts(both)
    assert (verdict.status, len(verdict.identities)) == (Status.MISSING_CANDIDATES, 2)
    assert verdicts([make_record("llama", status="failed", reason="x")]) == ()
