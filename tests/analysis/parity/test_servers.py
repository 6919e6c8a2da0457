"""Verdicts over Records that jobs made, a real server among them: by the user's word a baseline, else beside it."""

import dataclasses

import pytest
from hydra import compose, initialize_config_dir

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.verdict import Status
from llmbench.config.build import build_job
from llmbench.config.conf_files import conf_folder
from llmbench.errors import RecordError
from llmbench.job.prepare import prepare_job
from llmbench.job.run import run_job
from llmbench.record import Record, parse
from llmbench.sweeps.conclusion import conclude
from serving import text_server

SMALL = [
    *("workload.prompts=4", "canvas=12", "batch=2", "timing.repeats=2", "timing.token_timing_repeats=0"),
    *("hardware=cpu", "temperature=0", "metric=speed", "metric.roofline=false"),
]


def made(*overrides: str) -> Record:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        record = run_job(prepare_job(build_job(compose("config", overrides=[*SMALL, *overrides]))))
    return parse(record.to_json())


@pytest.fixture(scope="module")
def local() -> list[Record]:
    return [made("model=llama"), made("model=llada", "steps=2"), made("model=llada", "steps=4")]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict[str, Record]:
    """LLaMA by a server, with the user's word and without."""
    with text_server(tmp_path_factory.mktemp("server")) as server:
        return {
            word: made("model=llama_server", f"server.url={server.url}", f"server.trust_same_hardware={word}")
            for word in ("true", "false")
        }


def at(record: Record, e2e_ms: float) -> Record:
    """The Record with this time: which of two implementations is faster is not left to chance."""
    timings = tuple(dataclasses.replace(t, e2e_ms=e2e_ms, e2e_wall_ms=e2e_ms) for t in record.timings)
    times = {"latency/e2e_ms": e2e_ms, "latency/e2e_wall_ms": e2e_ms}
    return dataclasses.replace(record, timings=timings, metrics=record.metrics | times)


def test_by_the_users_word_the_fastest_implementation_is_the_baseline(local, served):
    llama, *candidates = local
    for server_ms, fastest in ((5.0, "llama server"), (500.0, "llama")):
        records = [at(llama, 50.0), at(served["true"], server_ms), *candidates]
        (verdict,) = verdicts(records)
        assert verdict.implementations[0].label == fastest
        assert sorted(item.e2e_ms for item in verdict.implementations) == sorted((50.0, server_ms))
        assert verdict.external_servers == ()
        assert {item.baseline_ms for item in verdict.speedups} == {min(50.0, server_ms)}
        assert set(verdict.identities) == {record.identity for record in records}
        assert verdict.status is Status.NO_QUALITY


def test_without_it_the_server_is_a_column_of_its_own(local, served):
    (verdict,) = verdicts([*local, served["false"]])
    assert [item.label for item in verdict.implementations] == ["llama"]
    (server,) = verdict.external_servers
    assert [item.steps for item in server.speedups] == [2, 4]
    assert len(verdict.speedups) == 2


def test_a_server_of_another_checkpoint_is_refused_and_every_number_is_shown(local, served):
    other = dataclasses.replace(
        served["true"],
        conditions=served["true"].conditions | {"decoding.checkpoint_without_weights": "0"},
    )
    with pytest.raises(RecordError, match=r"decoding\.checkpoint_without_weights is"):
        verdicts([*local, other])
    reached, shown = conclude([*local, other], options=None, history=(), recipe="", command="as typed")
    assert reached == ()
    rows = [line.split("  ")[0] for line in shown.text.splitlines() if line.startswith(("llama", "llada"))]
    assert rows[:4] == ["llama", "llama server", "llada k=2", "llada k=4"]
    assert "No verdict: " in shown.note


def test_what_is_known_of_the_checkpoint_on_either_side_agrees(local, served):
    llama, server = local[0].conditions, served["true"].conditions
    assert llama["decoding.checkpoint_without_weights"] == server["decoding.checkpoint_without_weights"]
    assert llama["decoding.checkpoint"] != llama["decoding.checkpoint_without_weights"]
    assert "decoding.checkpoint" not in server
