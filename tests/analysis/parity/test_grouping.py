"""Where does a server's Record stand? Beside the verdict, with a speedup of its own, until the user vouches for it."""

from dataclasses import replace

import pytest

from llmbench.analysis.parity.analyze import parity, verdicts
from llmbench.analysis.parity.grouping import comparison_groups, group
from llmbench.analysis.parity.verdict import Parity, Status
from llmbench.errors import RecordError
from llmbench.report import tables
from llmbench.report.cells import ABSENT
from records import make_record, make_sweep, server_record


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


def test_the_table_shows_it_as_a_row_and_a_column() -> None:
    sweep = [server_record(400.0), *make_sweep((8, 64))]
    (verdict,) = verdicts(sweep)
    table = tables.parity_table(sweep, verdict)
    column = table.header.index("vs llama server, wall clock [95 %]")
    assert table.header[column - 1] == "speedup [95 %]"
    cells = {row[0]: row[column] for row in table.rows}
    assert cells["llada k=8"].startswith("4.99x [")  # 400 / 80.1
    assert cells["llama"] == cells["llama server"] == ABSENT
    assert "vs llama server = L_e2e of llama server (vllm 0.11 at http://host:8000/v1)" in " ".join(table.notes)
    assert "Test CPU (cpu, float32, eager, 1 thread) / llama server: vllm 0.11 at" in table.provenance
    assert len(tables.throughput_table(sweep).rows) == 4


def test_two_servers_have_a_column_each() -> None:
    sweep = [*make_sweep((8,)), server_record(160.0), server_record(40.0, url="http://other:30000/v1")]
    (verdict,) = verdicts(sweep)
    assert [[s.ratio for s in item.speedups] for item in verdict.external_servers] == [
        [pytest.approx(160 / 80.1)],
        [pytest.approx(40 / 80.1)],
    ]
    header = tables.parity_table(sweep, verdict).header
    assert [h for h in header if h.startswith("vs")] == [f"vs llama server {i}, wall clock [95 %]" for i in (1, 2)]
    assert {key for key, _, _ in verdict.series() if "_vs_" in key} == {
        f"parity/speedup_vs_llama_server_{i}" for i in (1, 2)
    }


def test_the_users_word_makes_it_an_implementation_of_the_baseline() -> None:
    (verdict,) = verdicts([*make_sweep(), server_record(150.0, trust_same_hardware=True)])
    assert verdict.external_servers == ()
    assert verdict.speedups[0].baseline_ms == 150.0
    assert verdict.baseline_choice.startswith("The baseline is llama server, the fastest of its implementations")
    (slower,) = verdicts([*make_sweep(), server_record(250.0, trust_same_hardware=True)])
    assert slower.speedups[0].baseline_ms == 200.0
    (only,) = verdicts([*make_sweep()[1:], server_record(150.0, trust_same_hardware=True)])
    assert only.status is Status.REACHED
    assert "LLaMA (server)" in only.sentence


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
    assert "on Test CPU (cpu, float32)" in verdict.sentence


def test_a_server_joins_the_sets_of_its_batch_whatever_they_ran_on() -> None:
    small, large = make_sweep((8,)), make_sweep((8,), batch=8)
    sets = comparison_groups([*small, *large, server_record(90.0), server_record(95.0, batch=8)])
    assert [[record.label for record in members] for members in sets] == [["llama", "llama server", "llada k=8"]] * 2
    assert [{record.conditions["batch"] for record in members} for members in sets] == [{"4"}, {"8"}]
    (alone,) = comparison_groups([server_record(90.0), small[0]])
    assert [record.label for record in alone] == ["llama", "llama server"]
    (only,) = comparison_groups([server_record(90.0)])
    assert "on vllm 0.11 at http://host:8000/v1)" in parity(only).sentence


def test_what_is_known_of_a_server_must_agree_and_so_must_the_rest() -> None:
    with pytest.raises(RecordError, match="workload is"):
        group([*make_sweep((8,)), _other_prompts()])
    elsewhere = make_record("llada", 16, conditions={"device_name": "Another CPU"})
    with pytest.raises(RecordError, match="device_name"):
        group([server_record(90.0), *make_sweep((8,)), elsewhere])


def _other_prompts():
    made = server_record(90.0)
    return replace(made, conditions=made.conditions | {"workload": "w1"})
