"""`llmbench sync`: from a folder into a store, once."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.cli.sync import main
from llmbench.config.job import TrackingConfig
from llmbench.config.parity import ParityConfig
from llmbench.record import JobContext, Record
from llmbench.sweeps import state
from llmbench.tracking import Store, open_store, sqlite_store, store_uri
from records import make_record, make_sweep

AXIS = (8, 16, 32, 64)
PARENT = "0123456789abcdef0123456789abcdef"


def write_sweep(folder: Path, records: list[Record], saved: int | None = None, parent: str = PARENT) -> list[Path]:
    """A sweep's folder, as a process that was killed leaves it, with so many of its Records; paths of all."""
    records = [replace(item, context=JobContext(parent=parent, steps_axis=AXIS)) for item in records]
    places = [folder / f"{item.model}-{item.identity}" for item in records]
    jobs = {place.name: {"identity": r.identity, "title": r.label} for place, r in zip(places, records, strict=True)}
    plan = {"format": 1, "command": "as typed", "recipe": "parity", "steps_axis": AXIS, "jobs": jobs}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan | {"parity": asdict(ParityConfig())}))
    state._write(folder, state._of_this_process(parent=parent, store="http://away"))
    for item, place in list(zip(records, places, strict=True))[:saved]:
        item.save(place)
    return [place / "record.json" for place in places]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def store(uri: str, request: pytest.FixtureRequest) -> Store:
    """An experiment of the test's own."""
    return open_store(TrackingConfig(uri=uri, experiment=request.node.name))


def sync(store: Store, folder: Path) -> int:
    return main([str(folder), "--uri", store.uri, "--experiment", store.experiment])


def runs(store: Store, parent: str) -> list[tuple[str, str, str]]:
    found = store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return sorted((run.info.run_name, run.info.status, run.data.tags["llmbench.copy"]) for run in found)


def test_a_killed_sweep_is_sent_as_it_is_and_completed_when_the_rest_is_there(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "swept", make_sweep(), saved=2)
    assert sync(store, tmp_path / "swept") == 0
    line = capsys.readouterr().out
    assert "2 Records sent, 0 there already; run " in line
    assert ", killed; the sweep was interrupted; missing: llada k=16, llada k=32, llada k=64\n" in line
    (sweep,) = store.sweeps()
    assert (sweep.status, sweep.jobs, sweep.recipe, sweep.command) == ("KILLED", 5, "parity", "as typed")
    assert len(store.planned(sweep.run_id) or {}) == 5

    moved = (tmp_path / "swept").rename(tmp_path / "another machine")
    write_sweep(moved, make_sweep())
    for sent in ("3 Records sent, 2 there already", "0 Records sent, 5 there already"):
        assert sync(store, moved) == 0
        assert sent in capsys.readouterr().out
        (sweep,) = store.sweeps()
        assert (sweep.status, sweep.verdict) == ("FINISHED", "reached")
        assert len(runs(store, sweep.run_id)) == 5
    run = store.client.get_run(sweep.run_id)
    assert run.info.start_time == min(child.info.start_time for child in store._search("tags.kind = 'job'"))
    assert run.data.metrics["perplexity/diffusion"] == pytest.approx(30), "the curve, at k=64"
    assert AnalysisPlan.from_json(run.data.tags["registered"]).steps == AXIS


def test_the_parent_that_a_store_has_gets_what_is_missing(store: Store, tmp_path: Path) -> None:
    records = make_sweep()
    parent = store.start_sweep(name="swept", command="", jobs=5)
    write_sweep(tmp_path, records, parent=parent)
    own = replace(records[0], context=JobContext(parent=parent, steps_axis=AXIS))
    store.log_job(own, parent=parent, steps_axis=AXIS, swept={})
    store.finish_sweep(parent, [], records[:1], unlogged=[item.label for item in records[1:]])
    assert sync(store, tmp_path) == 0
    (sweep,) = store.sweeps()
    assert (sweep.run_id, sweep.status, sweep.verdict) == (parent, "FINISHED", "reached")
    assert "unlogged_jobs" not in store.client.get_run(parent).data.tags
    assert {status for _, status, _ in runs(store, parent)} == {"FINISHED"}
    assert state.ended(tmp_path), "the same command begins anew"


@pytest.mark.parametrize("fault", ["damaged", "trash"])
def test_a_record_that_a_store_has_lost_is_sent_again(fault: str, uri: str, tmp_path: Path) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment=fault))
    write_sweep(tmp_path, make_sweep((8,)))
    assert sync(store, tmp_path) == 0
    (sweep,) = store.sweeps()
    before = store.records(sweep.run_id)
    run = next(iter(store._search("tags.kind = 'job'")))
    path = sqlite_store.artifact_path(store_uri.sqlite_file(uri), run, "record.json")
    assert path is not None
    if fault == "trash":
        store.client.delete_run(run.info.run_id)
    else:
        path.write_bytes(path.read_bytes()[:1000])
    assert len(store.records(sweep.run_id)) == 1
    assert sync(store, tmp_path) == 0
    assert store.records(sweep.run_id) == before
    assert len(runs(store, sweep.run_id)) == 2


def test_a_folder_of_results_is_sent_whole_and_what_cannot_be_read_is_said(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "2026-11-01", make_sweep(), parent="1" * 32)
    write_sweep(tmp_path / "2026-11-02", make_sweep(), parent="2" * 32)  # the same measurements, taken over
    failed = make_record("llada", 8, status="failed", reason="out of memory", identity="failed")
    write_sweep(tmp_path / "2026-11-03", [*make_sweep((16,)), failed], parent="3" * 32)
    write_sweep(tmp_path / "2026-11-04", make_sweep())
    (tmp_path / "2026-11-04" / "plan.json").write_text("{damaged")
    make_record("llama", identity="alone").save(tmp_path / "2026-11-05")
    assert sync(store, tmp_path) == 3
    shown = capsys.readouterr()
    assert shown.err == "llmbench sync: of 1 folder nothing was sent; the line above says why\n"
    assert "2026-11-04/plan.json: cannot be read" in shown.out
    assert "Traceback" not in shown.out
    found = {sweep.name: sweep for sweep in store.sweeps()}
    assert {name: sweep.status for name, sweep in found.items()} == {
        "2026-11-01": "FINISHED",
        "2026-11-02": "FINISHED",
        "2026-11-03": "FAILED",
    }
    assert {copy for _, _, copy in runs(store, found["2026-11-01"].run_id)} == {"false"}
    assert {copy for _, _, copy in runs(store, found["2026-11-02"].run_id)} == {"true"}
    originals = store.client.search_runs([store.experiment_id], "tags.`llmbench.copy` = 'false' and tags.kind = 'job'")
    assert sorted(run.info.run_name for run in originals).count("llada k=8") == 2, "one that finished, one that failed"
    assert len(store.records(found["2026-11-02"].run_id)) == 5
    before = len(list(store._search("")))
    assert sync(store, tmp_path) == 3
    assert len(list(store._search(""))) == before, "nothing goes in twice"


def test_a_sweep_at_work_and_a_folder_without_any_are_left_alone(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path / "swept", make_sweep())
    with state.held(tmp_path / "swept"):
        assert sync(store, tmp_path / "swept") == 3
    assert "the sweep is still running" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    for name, problem in (("empty", "nothing was recorded there"), ("nowhere", "there is no such folder")):
        assert sync(store, tmp_path / name) == 3
        assert problem in capsys.readouterr().err
    assert store.sweeps() == []
