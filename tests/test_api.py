"""The public API: what a notebook writes. Every name is used, and every function called twice."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import llmbench
from llmbench import api
from llmbench.analysis.parity.grouping import group
from llmbench.analysis.parity.speed import baselines_beside
from llmbench.config.keywords import overrides
from llmbench.errors import ConfigError, LlmbenchError, RecordError
from records import make_sweep

SMALL = {
    "workload": {"prompts": 3, "prompt_words": 5},
    "canvas": 8,
    "batch": 2,
    "timing": {"repeats": 2},
    "hardware": {"device": "cpu", "threads": 1},
    "metric": {"likelihood": False, "bertscore": None, "roofline": False},
    "parity": {"baseline_temperatures": [0.0, 0.5]},
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, empty_store):
    """A sweep made through the API, in a folder of results of its own."""
    root = tmp_path_factory.mktemp("results")
    shutil.copy(empty_store, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBENCH_RESULTS", str(root))
        made = llmbench.sweep(model=["llama", "llada"], steps=[2, 4], progress=False, **SMALL)
    return root, made


def test_import_costs_nothing_and_every_name_is_there():
    program = (
        "import sys, llmbench\n"
        "names = [llmbench.sweep, llmbench.run, llmbench.load, llmbench.Job, llmbench.Record, llmbench.Sweep]\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'hydra', 'matplotlib', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert llmbench.Parity.__name__ == 'Parity' and set(llmbench.__all__) <= set(dir(llmbench))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = llmbench.nothing


def test_no_module_shadows_an_exported_name():
    """Importing `llmbench.sweep` would overwrite the function in its package."""
    import pkgutil

    assert not {module.name for module in pkgutil.iter_modules(llmbench.__path__)} & set(llmbench.__all__)


def test_a_sweep_has_a_record_for_every_job_of_the_plan(swept):
    root, made = swept
    assert [record.label for record in made.records] == ["llama", "llada k=2", "llada k=4", *["llama"] * 3]
    assert [record.role for record in made.records[3:]] == ["curve", "curve", "retimed"]
    assert {record.process for record in made.records} == {made.records[0].process} != {""}
    assert {record.status for record in made.records} == {"finished"}
    assert made.missing == ()
    assert made.folder.parent == root
    assert {record.context.steps_axis for record in made.records} == {(2, 4)}
    planned = json.loads((made.folder / "plan.json").read_text())
    assert [job["title"] for job in planned["jobs"].values()] == [
        "llama",
        "llama temperature=0 (curve)",
        "llama temperature=0.5 (curve)",
        "llada k=2",
        "llada k=4",
        "llama (timed again)",
    ]
    assert [name.rpartition("-")[0] for name in planned["jobs"]] == [
        "llama",
        "llama-curve",
        "llama-curve",
        "llada-k2",
        "llada-k4",
        "llama-retimed",
    ]
    assert {name.rpartition("-")[2] for name in planned["jobs"]} == {record.identity for record in made.records}


def test_interleaved_each_speedup_is_made_with_its_neighbours_in_time(tmp_path, empty_store, monkeypatch):
    shutil.copy(empty_store, tmp_path)
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path))
    quick = {"metric": "speed", "metric.roofline": False, "sweep": {"order": "interleaved"}}
    made = llmbench.sweep(model=["llama", "llada"], steps=[2, 4, 8], progress=False, **SMALL | quick)
    in_time = sorted(made.records, key=lambda record: record.started_at)
    assert [record.role for record in in_time] == ["timed", *["timed", "retimed"] * 3]
    compared = group(made.records)
    assert compared.baseline is not None
    for place in (1, 3, 5):
        assert baselines_beside(compared, [in_time[place]]) == [(in_time[place - 1],), (in_time[place + 1],)]


def test_a_plan_shows_the_random_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path))
    quick = {"metric": "speed", "weights": "dummy", "sweep": {"order": "random", "order_seed": 1}, "dry_run": True}
    llmbench.sweep(model=["llama", "llada"], steps=[1, 2, 3, 4, 5], **SMALL | quick)
    shown = re.findall(r"llada k=(\d)", capsys.readouterr().out)
    assert sorted(shown) == list("12345")
    assert shown != list("12345")


def test_a_frame_has_a_row_per_record_with_conditions_and_metrics(swept):
    _, made = swept
    frame = made.to_frame()
    assert list(frame["role"]) == ["timed"] * 3 + ["curve"] * 2 + ["retimed"]
    assert set(frame["decoding.temperature"]) == {"0.7", "0.0", "0.5"}
    assert frame["quality/perplexity"].isna().tolist() == [False] * 5 + [True]
    frame = frame[frame["role"] == "timed"]
    assert list(frame["label"]) == ["llama", "llada k=2", "llada k=4"]
    assert list(frame["latency/e2e_ms"]) == [record.metrics["latency/e2e_ms"] for record in made.records[:3]]
    assert set(frame["decoding.temperature"]) == {"0.7"}
    assert frame["latency/prefill_ms"].isna().tolist() == [False, True, True]  # absent is absent


def test_verdict_table_and_figure(swept):
    _, made = swept
    parity = made.parity()
    assert isinstance(parity, llmbench.Parity)
    assert (parity.steps, parity.baseline, parity.candidate) == ((2, 4), "llama", "llada")
    assert made.parities() == (parity,)
    assert str(parity).startswith(parity.status.upper().replace("_", " "))
    table = made.table("parity")
    assert list(table.iloc[:3, 0]) == ["llama", "llada k=2", "llada k=4"]
    assert len(made.table("latency")) == 3
    assert list(made.table("acceleration")["forwards"]) == list(made.table("latency")["forwards"])
    assert made.figure("parity").axes
    assert made.figure("drift").axes
    assert made.figure("pareto").axes
    assert "price of 1M tokens" in made.table("pareto", price_per_hour=2.0)
    for name, price in (("latency", 2.0), ("pareto", 0.0)):
        with pytest.raises(ConfigError, match="is a positive number for pareto alone"):
            made.table(name, price_per_hour=price)
    for wrong in (made.table, made.figure):
        with pytest.raises(ConfigError, match=r"there is no .* nothing; there are "):
            wrong("nothing")


def test_a_table_of_several_groups_holds_all_of_them():
    records = [replace(r, identity=f"{r.identity}-{t}") for t in (0.0, 0.7) for r in make_sweep(temperature=t)]
    several = llmbench.Sweep(records=tuple(records))
    parities = several.parities()
    assert len(parities) == 2
    table = several.table("parity")
    assert list(table.index.unique("group")) == [f"{place}: {item.where}" for place, item in enumerate(parities)]
    assert len(table) == 2 * (5 + 1 + 2)  # the other LLaMA is a point of the curve; human text and floor
    assert sorted(table.loc[table.iloc[:, 0] == "llama", "temperature"]) == ["0.0", "0.0", "0.7", "0.7"]
    with pytest.raises(RecordError, match=r"0: .*; 1: "):
        several.parity()
    with pytest.raises(RecordError, match="gives a table of latency"):
        llmbench.Sweep(records=()).table("latency")


def test_a_sweep_that_was_moved_loads_twice_and_says_the_same(swept, tmp_path):
    _, made = swept
    moved = shutil.copytree(made.folder, tmp_path / "elsewhere")
    for _ in range(2):
        found = llmbench.load(moved)
        assert found.records == made.records
        assert found.parity() == made.parity()
    assert llmbench.load(str(tmp_path)).records == made.records  # the newest of a folder of results
    by_id = llmbench.load(
        run_id=made.records[0].context.parent, tracking_uri=f"sqlite:///{made.folder.parent}/mlflow.db"
    )
    assert by_id.parity() == made.parity()


def test_a_sweep_without_a_point_of_its_curve_is_partial(swept, tmp_path):
    from llmbench.sweeps import partial

    _, made = swept
    copied = shutil.copytree(made.folder, tmp_path / "copy")
    (gone,) = [folder for folder in copied.iterdir() if folder.name.endswith(made.records[3].identity)]
    shutil.rmtree(gone)
    found = llmbench.load(copied)
    (title,) = found.missing
    assert title in ("llama temperature=0 (curve)", "llama temperature=0.5 (curve)")
    assert f"PARTIAL: 5 of 6 jobs of sweep copy; missing: {title}" in partial.warning(found.recorded)


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path):
    for ask in ({"folder": tmp_path / "nowhere"}, {"folder": tmp_path}):
        with pytest.raises(LlmbenchError) as caught:
            llmbench.load(**ask)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="not both"):
        llmbench.load(tmp_path, run_id="x")


def test_one_job_writes_nothing_unless_it_is_told_where(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path / "results"))
    first = llmbench.run(model="llada", steps=2, progress=False, **SMALL)
    second = llmbench.run(model="llada", steps=2, folder=tmp_path / "mine", progress=False, **SMALL)
    assert [output.text for output in first.outputs] == [output.text for output in second.outputs]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["record.json"]
    assert (first.label, first.identity, first.steps) == ("llada k=2", second.identity, 2)


def test_a_sweep_called_again_takes_nothing_over_from_one_that_ended(swept, monkeypatch):
    root, made = swept
    monkeypatch.setenv("LLMBENCH_RESULTS", str(root))
    again = llmbench.sweep(model="llama", progress=False, folder=root / "again", reuse="none", **SMALL)
    assert [record.identity for record in again.records] == [made.records[0].identity]
    assert again.records[0].started_at >= made.records[0].started_at
    with pytest.raises(RecordError):
        _ = llmbench.Sweep(records=()).parity()


def test_a_folder_that_is_used_again_shows_no_earlier_record_as_its_own(tmp_path, empty_store, monkeypatch):
    """The second sweep is stopped before its job: what the first one measured there is not a result of it."""
    shutil.copy(empty_store, tmp_path)
    from llmbench.sweeps import launchers

    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path))
    settings = SMALL | {"metric": "speed", "model": "llama", "reuse": "none", "folder": tmp_path / "mine"}
    assert llmbench.sweep(progress=False, **settings).missing == ()

    def stopped(self, blocks):
        raise KeyboardInterrupt

    monkeypatch.setattr(launchers.InProcess, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        llmbench.sweep(progress=False, **settings)
    found = llmbench.load(tmp_path / "mine")
    assert (found.records, found.missing) == ((), ("llama",))


WRONG = {
    "several values": (llmbench.run, {"steps": [2, 4]}),
    "stesp: no such key": (llmbench.run, {"stesp": 2}),
    "steps: input should be a valid integer": (llmbench.sweep, {"steps": [8.5]}),
    "workload.promts: no such key": (llmbench.sweep, {"workload": {"promts": 3}}),
    "steps: an axis needs at least one value": (llmbench.sweep, {"steps": []}),
    "model=lama: no such choice": (llmbench.run, {"model": "lama"}),
    "model: choose one of llada, llada_server, llama": (llmbench.run, {"model": None}),
    "one job has no plan": (llmbench.run, {"dry_run": True}),
    "use llmbench.sweep(...)": (llmbench.run, {"isolation": "process"}),
    "experiment=latency is a sweep": (llmbench.run, {"experiment": "latency"}),
    "one recipe at a time": (llmbench.sweep, {"experiment": ["latency"]}),
    "endpoint: this is called server now": (llmbench.run, {"+endpoint": "x"}),
    "judges: give names": (llmbench.run, {"judges": "x"}),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_setting_is_one_line_before_anything_runs(said, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path))
    function, settings = WRONG[said]
    with pytest.raises(ConfigError, match=said) as caught:
        function(**settings)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_values_of_other_libraries_and_the_users_own_keys_arrive(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path))
    given = {"steps": range(2, 5, 2), "seed": np.int64(3), "server": {"extra": {"min_p": 0.1}}}
    written = dict(overrides(given | {"batch": np.array([1, 2]), "judges": {"mine": tmp_path}}))
    assert written == {
        "steps": ["2", "4"],
        "seed": ["3"],
        "++server.extra.min_p": ["0.1"],
        "batch": ["1", "2"],
        "++judges.mine": [f"'{tmp_path}'"],
    }
    planned = llmbench.sweep(**SMALL | given | {"model": "llada"}, dry_run=True)
    assert planned.command.startswith("llmbench.sweep(")


def test_a_password_goes_into_the_environment_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBENCH_CREDENTIALS", "{}")
    settings = api._without_credentials({"tracking": {"uri": "postgresql://u:sec ret1'@h/db"}, "steps": 2})
    assert settings == {"tracking": {"uri": "postgresql://h/db"}, "steps": 2}
    assert "sec" not in api._call(settings)


def test_it_works_inside_a_program_that_uses_hydra_itself(tmp_path):
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from llmbench.config.compose import composing

    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        with composing() as compose:
            assert compose(["steps=3"]).steps == 3
        assert GlobalHydra.instance().is_initialized()


def test_a_list_is_one_value_where_the_setting_is_a_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path))
    tasks = {"workload": {"tasks": ["story", "chat"], "prompts": 2}, "batch": 1}
    planned = llmbench.sweep(**SMALL | tasks, dry_run=True)
    assert planned.records == ()
    assert "1 job on cpu" in capsys.readouterr().out
    llmbench.sweep(**SMALL | tasks | {"workload": {"tasks": [["story"], ["chat"]], "prompts": 2}}, dry_run=True)
    assert "2 jobs on cpu" in capsys.readouterr().out
