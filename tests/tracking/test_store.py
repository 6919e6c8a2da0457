"""What a sweep leaves in a real SQLite store, read back with MLflow's own client."""

import base64
import json
import shutil
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.analysis.parity.parity import Parity
from llmbench.config.job import TrackingConfig
from llmbench.config.parity import ParityConfig
from llmbench.errors import TrackingError
from llmbench.record import JobContext, Record
from llmbench.report.assemble import sweep_report
from llmbench.tracking import Store, open_store, view_url
from llmbench.tracking.run_payload import metric_key
from records import implementation, make_record, make_sweep

AXIS = [8, 16, 32, 64]
COMMAND = "python -m llmbench -m model=llama,llada steps=8,16,32,64 tracking.uri=http://user:pa55word@host"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    folder = tmp_path_factory.mktemp("store with space")
    shutil.copy(empty_store, folder)
    return open_store(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", experiment="llmbench"))


def with_secret(record: Record) -> Record:
    return replace(record, config=record.config | {"tracking": {"uri": "http://user:pa55word@host", "experiment": "x"}})


def in_sweep(record: Record) -> Record:
    """A Record that knows K and its values on the axes `model`, `steps` and `decoding.note`."""
    swept = {"model": record.model, "decoding.note": "a"} | ({"steps": str(record.steps)} if record.steps else {})
    return replace(record, context=JobContext(steps_axis=tuple(AXIS), swept=swept))


@pytest.fixture(scope="module")
def sweep(store: Store) -> Iterator[str]:
    """A finished sweep: its parent's run id."""
    records = [in_sweep(with_secret(record)) for record in make_sweep()]
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
        wanted = {metric_key(key): value for key, value in records[label].metrics.items()}
        assert run.data.metrics == pytest.approx(wanted)
    assert history(store, found["llada k=16"], "quality/perplexity") == pytest.approx({16: 60})
    assert history(store, found["llama"], "quality/perplexity") == pytest.approx(dict.fromkeys(AXIS, 45))


def test_only_a_page_of_charts_stands_outside_of_detail(store: Store, sweep: str) -> None:
    keys = list(children(store, sweep)["llada k=16"].data.metrics)
    charted = [key for key in keys if not key.startswith("detail/")]
    assert {"latency/e2e_ms", "quality/perplexity", "quality/entropy", "throughput/tokens_per_s"} <= {*charted}
    assert len(charted) <= 18
    assert {"detail/latency/e2e_ms_n", "detail/quality/distinct_2"} <= {*keys}


def test_params_are_what_people_group_by(store: Store, sweep: str) -> None:
    found = children(store, sweep)
    params = found["llada k=16"].data.params
    assert params["model"] == "llada"
    assert (params["k"], params["batch"], params["temperature"], params["device"]) == ("16", "4", "0.7", "cpu")
    assert "k" not in found["llama"].data.params  # it has none, whatever cell of the grid it stood for


def test_tags_say_what_was_run_and_where(store: Store, sweep: str) -> None:
    tags = children(store, sweep)["llama"].data.tags
    record = make_record("llama")
    assert tags["identity"] == record.identity
    assert tags["mlflow.source.git.commit"] == record.environment.git_commit
    assert (tags["device_name"], tags["version.torch"], tags["git_dirty"]) == ("Test CPU", "2.13.0", "false")
    assert tags["signature.checkpoint"] == "bundled:llama@llama0"


def test_the_records_come_back_as_they_were(store: Store, sweep: str) -> None:
    clean = [
        replace(in_sweep(record), config=record.config | {"tracking": {"uri": "http://host", "experiment": "x"}})
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
    assert history(store, run, "perplexity/diffusion") == pytest.approx({8: 80, 16: 60, 32: 40, 64: 30})
    assert history(store, run, "perplexity/autoregressive_matched") == pytest.approx(dict.fromkeys(AXIS, 45))
    assert history(store, run, "detail/parity/llama_perplexity") == pytest.approx(dict.fromkeys(AXIS, 45))
    assert history(store, run, "entropy/autoregressive") == pytest.approx(dict.fromkeys(AXIS, 3.2))
    assert history(store, run, "e2e_ms/diffusion") == pytest.approx({8: 80, 16: 160, 32: 320, 64: 640})
    assert history(store, run, "e2e_ms/autoregressive") == pytest.approx(dict.fromkeys(AXIS, 200))
    assert history(store, run, "speedup/diffusion") == pytest.approx({8: 2.5, 16: 1.25, 32: 0.625, 64: 0.3125})
    assert len([key for key in run.data.metrics if not key.startswith("detail/")]) == 7
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
    assert run.data.params == {"model": "llama, llada", "k": "8, 16, 32, 64", "decoding.note": "a"}
    assert note.splitlines()[0] == f"**Reached, 0.625x at k = 32.** {verdict.title}."


def test_no_password_is_anywhere_in_the_store(store: Store, sweep: str) -> None:
    folder = Path(store.uri.removeprefix("sqlite:///")).parent
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 15
    assert [path for path in written if b"pa55word" in path.read_bytes()] == []


def test_sweeps_are_listed_newest_first(store: Store, sweep: str) -> None:
    later = store.start_sweep(name="later", command="again", jobs=1)
    assert [(item.run_id, item.name) for item in store.sweeps()] == [(later, "later"), (sweep, "2026-11-23")]
    assert store.sweep("2026-11").run_id == sweep, "by its folder's name, whatever its run is called"
    store.abort_sweep(later)
    assert store.sweep(later).status == "KILLED"
    with pytest.raises(TrackingError, match="there is no sweep 123"):
        store.sweep("123")


def test_a_sweep_of_an_earlier_version_is_found_by_its_name_and_concluded_as_a_new_one(store: Store) -> None:
    records = [in_sweep(record) for record in make_sweep((8,))]
    parent = store.start_sweep(name="older", command="", jobs=2)
    store.client.delete_tag(parent, "llmbench.name")
    for record in records:
        run_id = store.log_job(record, parent=parent, steps_axis=[8], swept={})
        store.client.log_metric(run_id, "latency/e2e_ms_q1", 1.0, step=8)
    assert store.sweep("older").run_id == parent
    assert store.records(parent) == records
    store.finish_sweep(parent, verdicts(records), records)
    assert store.sweep("older").run_id == parent, "its run has another name now"
    assert store.client.get_run(parent).data.params["k"] == "8, 16, 32, 64"


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
    assert len(found["llama temperature=0.2"].data.metrics) == len(records[0].metrics)
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
    assert "detail/parity/my _model_ _ home_perplexity" in store.client.get_run(parent).data.metrics


def test_several_settings_leave_several_verdicts_and_no_mixed_curve(store: Store) -> None:
    records = [
        replace(record, context=JobContext(steps_axis=(8,), swept={"batch": str(batch)}))
        for batch in (2, 4)
        for record in make_sweep((8,), batch=batch)
    ]
    parent = store.start_sweep(name="batches", command="", jobs=4, recipe="throughput")
    store.finish_sweep(parent, verdicts(records), records)
    run = store.client.get_run(parent)
    assert (run.data.metrics, run.info.run_name) == ({}, "2 undecided")
    state = view_state(store, parent)
    assert state["groupBy"]["groupByKeys"] == [
        {"mode": "param", "groupByData": "model"},
        {"mode": "param", "groupByData": "batch"},
    ]
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


def test_stores_that_are_opened_at_once_make_one_experiment(store: Store) -> None:
    together = threading.Barrier(8)

    def opened(name: str) -> str:
        together.wait()
        return open_store(TrackingConfig(uri=store.uri, experiment=name)).experiment_id

    with ThreadPoolExecutor(8) as threads:
        for name in ("first", "second", "third"):
            assert len(set(threads.map(opened, [name] * 8))) == 1


def test_a_reader_finds_no_experiment_that_is_not_there(store: Store) -> None:
    with pytest.raises(TrackingError, match="there is no experiment other"):
        open_store(TrackingConfig(uri=store.uri, experiment="other"), create=False)


def view_state(store: Store, view: str) -> dict[str, Any]:
    """What MLflow's page reads when the address names a view."""
    tag = store.client.get_experiment(store.experiment_id).tags[f"mlflow.sharedViewState.{view}"]
    assert len(tag) < 5000, "MLflow takes no more"
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(json.loads(tag)["state"].partition(";")[2])))
    return state


def test_the_printed_link_opens_four_charts_and_the_columns_of_the_sweep(store: Store, sweep: str) -> None:
    url = store.address(sweep)
    asked = parse_qs(url.partition("?")[2])
    assert url.startswith(f"http://127.0.0.1:5000/#/experiments/{store.experiment_id}/runs?")
    assert (asked["compareRunsMode"], asked["workflowType"]) == (["CHART"], ["machine_learning"]), "not the GenAI page"
    state = view_state(store, asked["viewStateShareKey"][0])
    charts = [card for card in state["compareRunCharts"] if not card["deleted"]]
    assert [card["displayName"] for card in charts] == [
        "Perplexity at matched diversity, over k",
        "Entropy (nats) over k",
        "L_e2e (ms) over k",
        "Speedup over k",
    ]
    run, shown = store.client.get_run(sweep), {section["uuid"] for section in state["compareRunSections"]}
    assert {key for card in charts for key in card["selectedMetricKeys"]} <= {*run.data.metrics}
    assert all(card["metricSectionId"] in shown for card in charts)
    open_sections = [section["name"] for section in state["compareRunSections"] if section["display"]]
    assert open_sections == ["Verdict: reached; S_parity: 32", "Speedup: 0.625x at k = 32"]
    drawn_by_mlflow = {*run.data.metrics} - {card["metricKey"] for card in state["compareRunCharts"]}
    folded = {section["name"] for section in state["compareRunSections"] if not section["display"]}
    assert {key.rpartition("/")[0] for key in drawn_by_mlflow} <= folded
    assert state["selectedColumns"] == [
        *("tags.`verdict`", "tags.`S_parity`", "tags.`speedup`"),
        *("params.`model`", "params.`k`"),
    ]
    found = store.client.search_runs([store.experiment_id], state["searchFilter"])
    assert {run.info.run_id for run in found} == {run.info.run_id for run in children(store, sweep).values()}
    assert [run.data.tags[key] for key in ("verdict", "S_parity", "speedup")] == ["reached", "32", "0.625x at k = 32"]
    assert run.info.run_name == "reached, 0.625x at k = 32"
    assert children(store, sweep)["llada k=8"].data.tags["speedup"] == "2.50x"


def test_the_experiment_s_description_links_to_the_last_sweep_and_to_all(store: Store, sweep: str) -> None:
    experiment = store.client.get_experiment(store.experiment_id)
    parent = store.start_sweep(name="last", command="", jobs=1)
    store.finish_sweep(parent, verdicts(make_sweep()), make_sweep())
    note = store.client.get_experiment(store.experiment_id).tags["mlflow.note.content"]
    url = view_url("http://user:pa55word@127.0.0.1:5000/", store.experiment_id)
    for page in (url, store.address(parent)):
        assert f"({page.removeprefix('http://127.0.0.1:5000/')})" in note
    assert "reached, 0.625x at k = 32; S_parity: 32" in note
    assert "pa55word" not in url
    assert store.newest_view() == (parent, "reached, 0.625x at k = 32")
    assert view_state(store, "llmbench")["selectedColumns"] == view_state(store, parent)["selectedColumns"]
    store.client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "Ada's own words")
    store.finish_sweep(parent, [], [])
    open_store(TrackingConfig(uri=store.uri, experiment="llmbench"))
    assert store.client.get_experiment(store.experiment_id).tags["mlflow.note.content"] == "Ada's own words"


def test_every_job_but_the_baseline_s_has_its_speedup(store: Store) -> None:
    records = [implementation("autoregressive", 200.0), implementation("autoregressive", 400.0, draft="lookup")]
    records += make_sweep()[1:]
    parent = store.start_sweep(name="drafts", command="", jobs=len(records))
    for record in records:
        store.log_job(record, parent=parent, steps_axis=AXIS, swept={})
    store.finish_sweep(parent, verdicts(records), records, note="", files={})
    shown = {name: run.data.tags.get("speedup") for name, run in children(store, parent).items()}
    assert (shown["llama"], shown["llama draft=lookup"], shown["llada k=8"]) == (None, "0.500x", "2.50x")


def test_curves_of_two_implementations_are_not_averaged_into_one() -> None:
    from llmbench.tracking.run_payload import params

    made = [implementation("autoregressive", 200.0), implementation("transformers", 300.0, "dynamic")]
    assert [params(record, {"model": "llama"})["model"] for record in made] == ["llama", "llama transformers"]
