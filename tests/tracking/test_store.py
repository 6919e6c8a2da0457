"""What a sweep leaves in a real SQLite store, read back with MLflow's own client."""

import base64
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.analysis.parity.parity import Parity
from llmbench.config.job import TrackingConfig
from llmbench.config.parity import ParityConfig
from llmbench.errors import TrackingError
from llmbench.record import Record
from llmbench.report.assemble import sweep_report
from llmbench.tracking import Store, open_store, view_url
from records import make_record, make_sweep

AXIS = [8, 16, 32, 64]
COMMAND = "python -m llmbench -m model=llama,llada steps=8,16,32,64 tracking.uri=http://user:pa55word@host"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    folder = tmp_path_factory.mktemp("store with space")
    shutil.copy(empty_store, folder)
    return open_store(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", experiment="llmbench"))


def with_secret(record: Record) -> Record:
    return replace(record, config=record.config | {"tracking": {"uri": "http://user:pa55word@host", "experiment": "x"}})


@pytest.fixture(scope="module")
def sweep(store: Store) -> Iterator[str]:
    """A finished sweep: its parent's run id."""
    records = [with_secret(record) for record in make_sweep()]
    registered = AnalysisPlan(options=ParityConfig(), steps=tuple(AXIS)).to_json()
    parent = store.start_sweep(name="2026-11-23", command=COMMAND, jobs=5, recipe="parity", registered=registered)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=AXIS, swept={"model": record.model, "steps": "8"})
    found = verdicts(records)
    shown = sweep_report(records, found, recipe="parity", command=COMMAND)
    store.finish_sweep(parent, found, records, note=shown.note, files=shown.files)
    return parent


def children(store: Store, parent: str) -> dict[str, Any]:
    found = store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in found}


def history(store: Store, run: Any, key: str) -> dict[int, float]:
    return {item.step: item.value for item in store.client.get_metric_history(run.info.run_id, key)}


def artifact(store: Store, run_id: str, name: str) -> bytes:
    return Path(store.client.download_artifacts(run_id, name)).read_bytes()


def test_one_finished_parent_and_a_finished_child_for_each_job(store: Store, sweep: str) -> None:
    assert store.client.get_run(sweep).info.status == "FINISHED"
    found = children(store, sweep)
    assert sorted(found) == ["llada k=16", "llada k=32", "llada k=64", "llada k=8", "llama"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_every_metric_stands_at_its_k_and_the_flat_side_at_every_k(store: Store, sweep: str) -> None:
    found = children(store, sweep)
    records = {record.label: record for record in make_sweep()}
    for label, run in found.items():
        assert run.data.metrics == pytest.approx(records[label].metrics)
    assert history(store, found["llada k=16"], "quality/perplexity") == pytest.approx({16: 60})
    assert history(store, found["llama"], "quality/perplexity") == pytest.approx(dict.fromkeys(AXIS, 45))


def test_params_are_what_people_group_by(store: Store, sweep: str) -> None:
    found = children(store, sweep)
    params = found["llada k=16"].data.params
    assert params["model"] == "llada"
    assert (params["steps"], params["batch"], params["temperature"], params["device"]) == ("16", "4", "0.7", "cpu")
    assert "steps" not in found["llama"].data.params  # it has none, whatever cell of the grid it stood for


def test_tags_say_what_was_run_and_where(store: Store, sweep: str) -> None:
    tags = children(store, sweep)["llama"].data.tags
    record = make_record("llama")
    assert tags["identity"] == record.identity
    assert tags["mlflow.source.git.commit"] == record.environment.git_commit
    assert (tags["device_name"], tags["version.torch"], tags["git_dirty"]) == ("Test CPU", "2.13.0", "false")
    assert tags["signature.checkpoint"] == "bundled:llama@llama0"


def test_the_records_come_back_as_they_were(store: Store, sweep: str) -> None:
    clean = [
        replace(record, config=record.config | {"tracking": {"uri": "http://host", "experiment": "x"}})
        for record in make_sweep()
    ]
    assert store.records(sweep) == clean


def test_the_configuration_is_an_artifact(store: Store, sweep: str) -> None:
    run = children(store, sweep)["llada k=8"]
    config = yaml.safe_load(artifact(store, run.info.run_id, "config.yaml"))
    assert config["model"]["decoder"]["steps"] == 8


def test_generations_are_a_table_that_the_ui_shows(store: Store, sweep: str) -> None:
    run = children(store, sweep)["llada k=8"]
    table = json.loads(artifact(store, run.info.run_id, "generations.json"))
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "generations.json", "type": "table"}]
    assert table["columns"][:4] == ["prompt_id", "task", "prompt", "output"]
    assert len(table["data"]) == 8
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["prompt"].startswith("Opening number 0")
    scores = {score.subject: score for score in make_sweep()[1].scores if score.prompt_id == row["prompt_id"]}
    for column, subject in (("nll_per_token", "output"), ("human_nll_per_token", "human")):
        assert row[column] == pytest.approx(scores[subject].nll_nats / scores[subject].judged_tokens, abs=1e-3)


def test_the_parent_carries_the_curve_the_figures_and_the_verdict(store: Store, sweep: str) -> None:
    run = store.client.get_run(sweep)
    assert history(store, run, "parity/llada_perplexity") == pytest.approx({8: 80, 16: 60, 32: 40, 64: 30})
    assert history(store, run, "parity/llama_perplexity") == pytest.approx(dict.fromkeys(AXIS, 45))
    assert history(store, run, "parity/speedup") == pytest.approx({8: 2.5, 16: 1.25, 32: 0.625, 64: 0.3125})
    names = {item.path for item in store.client.list_artifacts(sweep)}
    assert names == {"parity.json", "parity.md", "parity.png", "parity.html", "frontier.md", "frontier.png"}
    assert artifact(store, sweep, "parity.png").startswith(b"\x89PNG")
    note = run.data.tags["mlflow.note.content"]
    (verdict,) = verdicts(make_sweep())
    places = [note.index(said) for said in (*str(verdict).splitlines(), "| llada k=64 |", "behind the verdict")]
    assert places == sorted(places)
    assert [Parity.from_dict(item) for item in json.loads(artifact(store, sweep, "parity.json"))] == [verdict]
    assert json.loads(run.data.tags["registered"])["margins"]["perplexity"] == 0.1
    assert json.loads(run.data.tags["registered"])["steps"] == AXIS
    assert (run.data.tags["verdict"], run.data.tags["recipe"], run.data.tags["jobs"]) == ("reached", "parity", "5")


def test_no_password_is_anywhere_in_the_store(store: Store, sweep: str) -> None:
    folder = Path(store.uri.removeprefix("sqlite:///")).parent
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 15
    assert [path for path in written if b"pa55word" in path.read_bytes()] == []


def test_sweeps_are_listed_newest_first(store: Store, sweep: str) -> None:
    later = store.start_sweep(name="later", command="again", jobs=1)
    assert [item.run_id for item in store.sweeps()] == [later, sweep]
    store.abort_sweep(later)
    assert store.sweep(later).status == "KILLED"
    with pytest.raises(TrackingError, match="there is no sweep 123"):
        store.sweep("123")


def test_a_failed_job_is_a_failed_run_with_its_reason_and_fails_the_parent(store: Store) -> None:
    parent = store.start_sweep(name="with a failure", command="", jobs=1)
    failed = make_record("llada", 8, status="failed", reason="OutOfMemoryError: 20 GiB")
    run = store.client.get_run(store.log_job(failed, parent=parent, steps_axis=AXIS, swept={}))
    assert (run.info.status, run.data.tags["reason"], run.data.metrics) == ("FAILED", "OutOfMemoryError: 20 GiB", {})
    store.finish_sweep(parent, verdicts([failed]), [failed], failed=[failed.label])
    ended = store.client.get_run(parent)
    assert (ended.info.status, ended.data.tags["failed_jobs"]) == ("FAILED", "llada k=8")


def test_a_point_of_a_curve_is_a_run_with_its_record_and_no_line_in_a_chart(store: Store) -> None:
    parent = store.start_sweep(name="roles", command=COMMAND, jobs=2)
    records = [make_record("llama", identity="full"), make_record("llama", identity="point", role="curve")]
    for record in records:
        store.log_job(record, parent=parent, steps_axis=AXIS, swept={"temperature": "0.2"})
    found = children(store, parent)
    assert list(found["llama temperature=0.2"].data.metrics) == list(records[0].metrics)
    point = found["llama temperature=0.2 (curve)"]
    assert point.data.metrics == {}
    assert (point.data.tags["llmbench.role"], point.data.params["temperature"]) == ("curve", "0.7")
    assert store.records(parent) == records


def test_a_job_alone_has_no_parent_and_its_values_at_step_0(store: Store) -> None:
    run = store.client.get_run(store.log_job(make_record("llama"), parent=None, steps_axis=[], swept={}))
    assert "mlflow.parentRunId" not in run.data.tags
    assert history(store, run, "latency/e2e_ms") == {0: 200 / 2}


def test_many_steps_pass_mlflow_s_limit_on_one_request(store: Store) -> None:
    axis = list(range(1, 65))  # 64 k times some 30 metrics are more than 1000 values
    record = make_record("llama", identity="many")
    run = store.client.get_run(store.log_job(record, parent=None, steps_axis=axis, swept={}))
    assert sorted(history(store, run, "latency/e2e_ms")) == axis


def test_the_memory_trace_is_an_artifact_of_a_gpu_job(store: Store) -> None:
    run_id = store.log_job(make_record("llada", 8, device="cuda"), parent=None, steps_axis=[], swept={})
    assert json.loads(artifact(store, run_id, "memory/reserved_trace.json")) == [120 * 2**20, 160 * 2**20]
    assert json.loads(artifact(store, run_id, "memory/allocated_trace.json")) == [110 * 2**20, 130 * 2**20]


def test_odd_names_do_not_stop_the_log(store: Store) -> None:
    records = [make_record("llama"), make_record("my [model] @ home", 8)]
    parent = store.start_sweep(name="odd", command="", jobs=2)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=[8], swept={"+model.decoder.x@y": "1"})
    store.finish_sweep(parent, verdicts(records), records)
    assert "parity/my _model_ _ home_perplexity" in store.client.get_run(parent).data.metrics


def test_several_settings_leave_several_verdicts_and_no_mixed_curve(store: Store) -> None:
    records = [record for batch in (2, 4) for record in make_sweep((8,), batch=batch)]
    parent = store.start_sweep(name="batches", command="", jobs=4, recipe="throughput")
    store.finish_sweep(parent, verdicts(records), records)
    assert store.client.get_run(parent).data.metrics == {}
    assert len(json.loads(artifact(store, parent, "parity.json"))) == 2


def test_a_deleted_experiment_is_said(store: Store) -> None:
    config = TrackingConfig(uri=store.uri, experiment="gone")
    store = open_store(config)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(TrackingError, match=r"experiment gone of .* is deleted; restore it"):
        open_store(config)


def test_a_job_that_is_not_in_the_store_fails_the_parent_and_is_named(store: Store) -> None:
    records = make_sweep()
    parent = store.start_sweep(name="outage", command="", jobs=5)
    store.finish_sweep(parent, verdicts(records), records, unlogged=["llada k=8", "llada k=16"])
    run = store.client.get_run(parent)
    assert (run.info.status, run.data.tags["unlogged_jobs"]) == ("FAILED", "llada k=8, llada k=16")
    store.abort_sweep(parent)
    assert store.client.get_run(parent).info.status == "FAILED", "one that has ended stays as it is"


def test_the_plan_of_a_sweep_is_in_the_store(store: Store) -> None:
    planned = {f"{i:012x}": f"llada k={i} temperature=0.7 seed={i}" for i in range(300)}
    parent = store.start_sweep(name="wide", command="", jobs=300, planned=planned)
    assert store.planned(parent) == planned
    assert store.planned(store.start_sweep(name="older", command="", jobs=300)) is None


def test_a_reader_finds_no_experiment_that_is_not_there(store: Store) -> None:
    with pytest.raises(TrackingError, match="there is no experiment other"):
        open_store(TrackingConfig(uri=store.uri, experiment="other"), create=False)


def test_the_view_opens_curves_grouped_by_model(store: Store) -> None:
    url = view_url("http://user:pa55word@127.0.0.1:5000/", store.experiment_id)
    assert url == (
        f"http://127.0.0.1:5000/#/experiments/{store.experiment_id}/runs"
        "?viewStateShareKey=llmbench&compareRunsMode=CHART&workflowType=machine_learning"
    )
    saved = json.loads(store.client.get_experiment(store.experiment_id).tags["mlflow.sharedViewState.llmbench"])
    state = json.loads(zlib.decompress(base64.b64decode(saved["state"].removeprefix("deflate;"))))
    assert state["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "model"}]
    assert state["searchFilter"] == "tags.`llmbench.copy` = 'false'"


def test_curves_of_two_implementations_are_not_averaged_into_one() -> None:
    from llmbench.tracking.run_payload import params
    from records import implementation

    made = [implementation("autoregressive", 200.0), implementation("transformers", 300.0, "dynamic")]
    assert [params(record, {"model": "llama"})["model"] for record in made] == ["llama", "llama transformers"]
