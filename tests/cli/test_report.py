"""`python -m llmbench report` on a real store, as a child process where the process matters.

Making a store takes seconds, an experiment in it none: the tests share a store, and each has its own experiment.
"""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import CheckName, Status
from llmbench.api import load
from llmbench.cli.report import main, ui
from llmbench.config.job import TrackingConfig
from llmbench.config.parity import ParityConfig
from llmbench.record import JobContext, Likelihood, Record
from llmbench.report.assemble import recipe_tables
from llmbench.report.layout import Table
from llmbench.sweeps import partial, state
from llmbench.sweeps.folder import read_sweep
from llmbench.sweeps.recorded import RecordedSweep
from llmbench.sweeps.stored import read_run
from llmbench.tracking import Store, open_store
from records import make_record, make_sweep

ROOT = Path(__file__).parents[2]
AXIS = (8, 16, 32, 64)
COUNT = itertools.count()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(TrackingConfig(uri=uri, experiment=f"llmbench {next(COUNT)}"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "paper"


def record_sweep(store: Store, records: list[Record], recipe: str, command: str = "as typed") -> str:
    parent = store.start_sweep(name=f"sweep {recipe}", command=command, jobs=len(records), recipe=recipe)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=list(AXIS), swept={})
    store.finish_sweep(parent, verdicts(records), records)
    return parent


def report(store: Store | None, table: str, *arguments: object, out: Path | None = None) -> int:
    where = ["--uri", store.uri, "--experiment", store.experiment] if store else []
    return main([table, *where, *map(str, arguments), *(["--out", str(out)] if out else [])])


def in_text(tables: Iterable[Table]) -> str:
    return "\n".join(table.text() for table in tables)


def judged(sweep: RecordedSweep) -> Parity:
    """The verdict that is printed of a sweep."""
    options = AnalysisPlan.from_json(sweep.registered).options if sweep.registered else None
    (found,) = verdicts([*sweep.records, *partial.stand_ins(sweep)], options=options, history=sweep.history)
    return found


def test_every_table_comes_back_from_the_store(store: Store, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_sweep()
    for recipe in ("latency", "throughput", "memory", ""):  # "" is the main job: its verdict serves table 4
        record_sweep(store, records, recipe)
    for number, recipe in enumerate(("latency", "throughput", "memory", "parity"), start=1):
        assert report(store, recipe, out=out) == 0
        made = recipe_tables(records, verdicts(records), recipe, "as typed")
        assert capsys.readouterr().out.startswith(in_text(made))
        assert (out / f"table{number}.md").read_text() == "\n".join(table.markdown() for table in made)
        assert rf"\label{{tab:{recipe}}}" in (out / f"table{number}.tex").read_text()
    assert (out / "table4.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "table4.html").stat().st_size > 1_000_000


def test_the_newest_finished_sweep_is_taken_or_the_one_that_is_named(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = record_sweep(store, [make_record("llama", e2e_ms=111.0)], "latency")
    record_sweep(store, [make_record("llama", e2e_ms=222.0)], "latency")
    store.start_sweep(name="still running", command="", jobs=1, recipe="latency")
    assert report(store, "latency", out=out) == 0
    assert "222 [" in capsys.readouterr().out
    assert report(store, "latency", "--sweep", older, out=out) == 0
    assert "111 [" in capsys.readouterr().out


def test_likelihood_comes_from_the_newest_sweep_that_can_have_one(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(store, "likelihood", out=out) == 2
    assert "experiment=likelihood" in capsys.readouterr().err
    found = Likelihood(nll_nats=70.0, utf8_bytes=50, bound=False, standard_error_nats=None, texts=2, scored_tokens=20)
    record_sweep(store, [make_record("llama", likelihood=found)], "")
    record_sweep(store, [make_record("llama")], "latency")
    assert report(store, "likelihood", out=out) == 0
    assert "3.5000" in capsys.readouterr().out  # 70 nats over 20 tokens
    assert r"\label{tab:likelihood}" in (out / "likelihood.tex").read_text()


def test_the_frontier_and_the_hypotheses_come_from_the_store(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(store, "frontier", out=out) == 2
    assert "experiment=parity" in capsys.readouterr().err
    assert report(store, "hypotheses", out=out) == 0  # nothing was run: all open, with what to run, and no file
    assert not out.exists()
    printed = capsys.readouterr().out
    assert printed.count(": undecided") == 4
    for wanted in ("experiment=latency", "experiment=throughput", "experiment=memory"):
        assert wanted in printed
    record_sweep(store, make_sweep(), "")
    record_sweep(store, [r for b in (1, 2, 4) for r in make_sweep((16,), batch=b, perplexity=None)], "throughput")
    record_sweep(store, make_sweep((8,), batch=1, perplexity=None), "latency")
    assert report(store, "frontier", out=out) == 0
    assert report(store, "hypotheses", out=out) == 0
    assert outcomes(out) == ["undecided", "undecided", "undecided", "supported"]
    made = {path.name for path in out.iterdir()}
    assert made == {f"frontier.{kind}" for kind in ("md", "tex", "png")} | {
        f"hypotheses.{kind}" for kind in ("md", "tex", "json")
    }


def outcomes(out: Path) -> list[str]:
    found = json.loads((out / "hypotheses.json").read_text())
    assert [item["number"] for item in found] == [1, 2, 3, 4]
    return [item["outcome"] for item in found]


def test_one_sweep_can_be_asked_for_all_hypotheses(store: Store, out: Path) -> None:
    parent = record_sweep(store, make_sweep((8,), batch=1, perplexity=None), "")
    assert report(store, "hypotheses", "--sweep", parent, out=out) == 0
    assert outcomes(out)[-1] == "supported"


def test_the_drift_of_the_newest_sweep_is_a_table_and_a_figure(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_sweep(store, [replace(make_record("llama"), timings=())], "")
    assert report(store, "drift", out=out) == 2
    assert "timed no batch twice" in capsys.readouterr().err
    record_sweep(store, make_sweep(), "")
    assert report(store, "drift", out=out) == 0
    assert "llada k=64" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"drift.md", "drift.tex", "drift.png"}


def test_the_plane_of_speeds_is_a_table_a_figure_and_its_values(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(store, "pareto", out=out) == 2
    assert "run `llmbench -m experiment=throughput` first" in capsys.readouterr().err
    record_sweep(store, [r for b in (2, 4) for r in make_sweep((8,), batch=b)], "throughput")
    assert report(store, "pareto", "--price-per-hour", "3.6", out=out) == 0
    printed = capsys.readouterr().out
    assert "LLaMA plain, our engine" in printed
    assert {path.name for path in out.iterdir()} == {f"pareto.{kind}" for kind in ("md", "tex", "png", "json")}
    (plane,) = json.loads((out / "pareto.json").read_text())
    made = [(p["label"], p["batch"], p["price"] * p["rates"]["tokens"]["per_device"]) for p in plane["points"]]
    assert made == [(label, b, pytest.approx(1000)) for label in ("llama", "llada k=8") for b in (2, 4)]
    assert {p["judgement"] for p in plane["points"]} == {None, "undecided"}
    assert report(store, "pareto", "price_per_hour=7.2", out=out) == 0
    (dearer,) = json.loads((out / "pareto.json").read_text())
    assert dearer["points"][0]["price"] == pytest.approx(2 * plane["points"][0]["price"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pareto", "--price-per-hour", "2 euros"], "'2 euros' is no price"),
        (["pareto", "--price-per-hour", "-1"], "'-1' is no price"),
        (["pareto", "price_per_hour=nan"], "'nan' is no price"),
        (["latency", "--price-per-hour", "2"], "--price-per-hour is for pareto alone; leave it out of latency"),
    ],
)
def test_a_price_is_a_positive_number_and_for_the_plane_alone(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as error:  # argparse
        code = error.code
    assert (code, said in capsys.readouterr().err) == (2, True)


def test_the_frontier_says_whose_it_is_and_what_it_replaced(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def last_line(*arguments: str) -> str:
        assert report(store, "frontier", *arguments, out=out) == 0
        return capsys.readouterr().out.splitlines()[-1]

    older = record_sweep(store, make_sweep((8, 16)), "older")
    line = last_line()
    assert f"({older}). " in line  # there is no other
    assert "replaced" not in line
    newer = record_sweep(store, make_sweep(), "newer")
    record_sweep(store, [make_record("llama", perplexity=None)], "latency")
    line = last_line()
    assert f"({newer}), the newest of 2 with quality" in line
    assert line.endswith("(replaced: frontier.md, frontier.png, frontier.tex)")
    for name in ("frontier.md", "frontier.tex"):
        assert newer in (out / name).read_text()
    assert f"({older}). " in last_line("--sweep", older)
    assert older in (out / "frontier.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["parity"], "in sqlite:///.*; run `llmbench -m experiment=parity` first"),
        (["latency"], "run `llmbench -m experiment=latency` first"),
        (["parity", "--sweep", "123"], "there is no sweep 123"),
        (["parity", "--experiment", "other"], "there is no experiment other"),
        (["parity", "--uri", "sqlite:///nowhere/a.db"], "nowhere/a.db; run `llmbench -m experiment=parity` first"),
        (["parity", "--uri", "mlruns"], "no longer writes to folders"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    store: Store, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(store, *arguments) == 2
    captured = capsys.readouterr()
    assert re.search(said, captured.err)
    assert (captured.err.count("\n"), captured.out) == (1, "")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import runpy, sys; sys.argv = ['llmbench', 'report', '--help']\n"
        "try: runpy.run_module('llmbench', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'mlflow', 'matplotlib', 'plotly', 'numpy', 'pandas'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--sweep RUN_ID" in shown
    assert shown.splitlines()[-1] == "set()"


def interrupted_sweep(store: Store, steps: tuple[int, ...]) -> str:
    """A sweep over k = 8 to 64 that was cut off when LLaMA and these k had run."""
    plan = AnalysisPlan(options=ParityConfig(), steps=AXIS).to_json()
    parent = store.start_sweep(name="2026-11-26_10-00-00-5", command="as typed", jobs=5, registered=plan)
    for record in make_sweep(steps):
        planned = replace(record, context=JobContext(steps_axis=AXIS))
        store.log_job(planned, parent=parent, steps_axis=list(AXIS), swept={})
    store.abort_sweep(parent)
    return parent


@pytest.mark.parametrize("steps", [(8, 16, 32), (32, 64)])
def test_a_sweep_that_was_cut_off_gets_no_verdict_and_replaces_no_table(
    steps: tuple[int, ...], store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At k = 32 and 64 alone LLaDA would match; whether a smaller k does too has not been measured."""
    parent = interrupted_sweep(store, steps)
    for table in ("parity", "frontier"):
        assert report(store, table, "--sweep", parent, out=out) == 3
        shown = capsys.readouterr()
        assert shown.out.splitlines()[0] == (
            f"PARTIAL: {1 + len(steps)} of 5 jobs of sweep 2026-11-26_10-00-00-5, interrupted; "
            "the same command goes on: as typed"
        )
        assert shown.err.count("\n") == 1
        assert not out.exists()
        if table == "parity":
            found = judged(read_run(store, store.sweep(parent)))
            assert str(found) in shown.out
            assert found.status is Status.INVALID
            assert not any(item.passing for item in found.metrics)
            absent = {check.steps for check in found.failed_checks if check.name is CheckName.NOT_RUN}
            assert absent == {*AXIS, None} - set(steps)
            assert (found.unplanned, found.analyses) == ((), 1), "jobs that have not run are no other plan"


def test_a_sweep_that_was_cut_off_before_a_side_had_run_is_one_line(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(store, "parity", "--sweep", interrupted_sweep(store, ())) == 2
    said = capsys.readouterr()
    assert "PARTIAL: 1 of 5 jobs" in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


def test_sweeps_are_listed_and_found_by_name_and_by_a_beginning_that_only_one_has(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = interrupted_sweep(store, (8,))
    # logging of a finished job that broke off: its run is there, its Record is not
    tags = {"kind": "job", "status": "finished", "mlflow.parentRunId": cut}
    store.client.set_terminated(store.client.create_run(store.experiment_id, tags=tags).info.run_id, status="FAILED")
    whole = record_sweep(store, make_sweep(), "parity")
    assert report(store, "sweeps") == 0
    printed = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()[2:]]
    assert printed == [
        [whole, "sweep parity", "finished", "5 of 5", "reached", "as typed"],
        [cut, "2026-11-26_10-00-00-5", "killed", "2 of 5", "as typed"],
    ]
    for named in ("sweep parity", "sweep", whole[:20]):
        assert report(store, "latency", "--sweep", named, out=out) == 0
        assert f"({whole})" in capsys.readouterr().out
    record_sweep(store, make_sweep(), "parity")
    assert report(store, "latency", "--sweep", "sweep", out=out) == 2
    assert "sweep means 2 sweeps: " in capsys.readouterr().err


def test_a_port_that_is_none_is_refused_in_one_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ui(["--uri", store.uri, "--experiment", store.experiment, "--port", "80000"]) == 2
    assert capsys.readouterr().err == "llmbench ui: --port 80000: a port is a number from 1 to 65535\n"


def test_times_are_predicted_from_a_sweep_and_from_pages(
    store: Store, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of Records of one amount of work the mean time is fitted; batch 8 takes 1.25 times as long: an error of 20 %."""
    assert report(store, "prediction", out=out) == 2
    assert "--pages" in capsys.readouterr().err
    sizes = (1, 2, 4, 8, 16, 32)
    records = [
        make_record(
            "llama", batch=size, prompts=size, e2e_ms=125.0 if size == 8 else 100.0, spread=0.0, perplexity=None
        )
        for size in sizes
    ]
    parent = record_sweep(store, records, "throughput")
    assert report(store, "prediction", "--sweep", parent, out=out) == 3  # two rows at batch 1 and 32
    assert "--fit-batches" in capsys.readouterr().err
    assert not (out / "prediction.json").exists()
    assert report(store, "prediction", "--fit-batches", "1,2,4,16,32", out=out) == 0
    assert re.search(r"Test CPU, batch 8 +1 +20.0 %", capsys.readouterr().out)
    values = json.loads((out / "prediction.json").read_text())
    assert values["errors"]["held_out"] == {"median": pytest.approx(0.2), "largest": pytest.approx(0.2), "rows": 1}
    assert "map" not in values
    assert not (out / "prediction.png").exists()
    pages = ROOT / "docs" / "results"
    assert report(None, "prediction", "--pages", pages, "--batches", "1,64", "--steps", "64,128", out=out) == 0
    told = capsys.readouterr().out
    assert "all held out" in told
    assert f"From {pages}. Written:" in told
    mapped = json.loads((out / "prediction.json").read_text())["map"]
    assert [(line["batch"], line["extrapolated"]) for line in mapped["lines"][:2]] == [(1, False), (64, True)]
    assert (out / "prediction.png").read_bytes().startswith(b"\x89PNG")
    assert "| dual-8 " in (out / "prediction.md").read_text()  # every row is in the file


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["pareto", "--pages", "docs"], "--pages is for prediction alone"),
        (["prediction", "--steps", "8"], "add --pages"),
        (["prediction", "--pages", "docs", "--sweep", "x"], "leave --sweep out"),
        (["prediction", "--pages", "docs", "--device", "A", "--ceilings", "1,1"], "leave --device out"),
        (["prediction", "--pages", str(ROOT / "docs" / "results"), "--device", "TPU"], "no page is of TPU"),
    ],
)
def test_options_of_the_prediction_that_mean_nothing_are_refused(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(None, *arguments) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--ceilings", "989", "TFLOP/s and TB/s"), ("--batches", "1,0", "'0' is no positive whole number")],
)
def test_numbers_of_the_prediction_that_are_none_are_refused(
    option: str, value: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        report(None, "prediction", "--pages", "docs", option, value)
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_a_reader_that_is_gone_costs_no_report(store: Store, out: Path) -> None:
    record_sweep(store, make_sweep(), "latency")
    command = [sys.executable, "-m", "llmbench", "report", "latency", "--out", str(out), "--uri", store.uri]
    command += ["--experiment", store.experiment]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "BrokenPipe" not in process.stderr.read()
    assert process.wait() == 0
    assert (out / "table1.md").is_file()


def planned_sweep(store: Store, folder: Path, records: list[Record], logged: int | None = None) -> str:
    """A sweep with its plan, in the store and in a folder; only the first so many Records are in the store."""
    options = ParityConfig()
    parent = store.start_sweep(
        name=folder.name,
        command="as typed",
        jobs=len(records),
        recipe="parity",
        registered=AnalysisPlan(options=options, steps=AXIS).to_json(),
        planned={record.identity: record.label for record in records},
        folder=str(folder),
    )
    names = {
        record.identity: f"{record.label.replace(' ', '-').replace('=', '')}-{record.identity}" for record in records
    }
    jobs = {names[r.identity]: {"identity": r.identity, "title": r.label, "job": {}, "context": {}} for r in records}
    plan = {"format": 1, "command": "as typed", "recipe": "parity", "steps_axis": AXIS, "parity": asdict(options)}
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan | {"jobs": jobs}))
    history = store.past_analyses(parent)
    reached = verdicts(records, options=options, history=history)
    with state.held(folder), state.running(folder, store, parent) as end:
        for record in records:
            record.save(folder / names[record.identity])
        for record in records[:logged]:
            store.log_job(record, parent=parent, steps_axis=list(AXIS), swept={})
        unlogged = [record.label for record in records[logged:]] if logged is not None else []
        store.finish_sweep(parent, reached, records, unlogged=unlogged)
        statuses = ", ".join(dict.fromkeys(item.status.value for item in reached))
        end(logged=not unlogged, verdict=statuses, history=[item.to_json() for item in history])
    return parent


def test_jobs_that_a_store_never_got_are_read_from_the_folder_and_missing_without_it(
    store: Store, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path / "elsewhere"))
    parent = planned_sweep(store, tmp_path / "swept", make_sweep(), logged=3)
    assert store.sweep(parent).status == "FAILED"
    whole = read_run(store, store.sweep(parent))
    assert [record.label for record in whole.records] == [record.label for record in make_sweep()]
    assert report(store, "parity", "--sweep", parent, out=out) == 0
    assert capsys.readouterr().out.startswith(in_text(recipe_tables(whole.records, [judged(whole)], "", "as typed")))
    (tmp_path / "swept").rename(tmp_path / "gone")
    shutil.rmtree(out)
    assert report(store, "parity", "--sweep", parent, out=out) == 3
    assert capsys.readouterr().out.splitlines()[0] == (
        "PARTIAL: 3 of 5 jobs of sweep swept; missing: llada k=32, llada k=64; the same command goes on: as typed"
    )
    assert judged(read_run(store, store.sweep(parent))).status is Status.INVALID
    assert not out.exists()


@pytest.mark.parametrize("fault", ["artifact", "damaged", "trash", "no plan"])
def test_a_finished_sweep_of_which_a_record_is_gone_is_partial(
    fault: str, store: Store, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = planned_sweep(store, tmp_path / "swept", make_sweep())
    shutil.rmtree(tmp_path / "swept")
    found = store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    (run,) = [run for run in found if run.info.run_name == "llada k=16"]
    artifacts = Path(store.uri.removeprefix("sqlite:///")).parent / "artifacts"
    path = artifacts / run.info.run_id / "artifacts" / "record.json"
    if fault == "trash":
        store.client.delete_run(run.info.run_id)
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    if fault == "no plan":  # as earlier versions logged it: only the number of jobs is known
        (artifacts / parent / "artifacts" / "planned.json").unlink()
    assert store.sweep(parent).status == "FINISHED"
    assert report(store, "parity", "--sweep", parent, out=out) == 3
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("PARTIAL: 4 of 5 jobs of sweep swept")
    assert not out.exists()
    sweep = read_run(store, store.sweep(parent))
    assert [title.partition(" (")[0] for title in sweep.missing] == ([] if fault == "no plan" else ["llada k=16"])
    assert ("not a record" in line) == (fault == "damaged")
    loaded = load(run_id=parent, tracking_uri=store.uri, experiment=store.experiment)
    assert loaded.missing == sweep.missing
    assert loaded.parity().status is Status.INVALID
    assert judged(sweep).status is Status.INVALID


def test_a_folder_that_was_moved_gives_the_same_without_any_store(store: Store, tmp_path: Path, out: Path) -> None:
    """In a process of its own, which never imports MLflow; also where an earlier sweep counts."""
    planned_sweep(store, tmp_path / "results" / "older", make_sweep((8, 16)))
    parent = planned_sweep(store, tmp_path / "results" / "swept", make_sweep())
    for table in ("parity", "hypotheses"):
        assert report(store, table, "--sweep", parent, out=out) == 0
    (tmp_path / "results").rename(tmp_path / "moved ? 100%")
    place = tmp_path / "moved ? 100%"
    runs = [
        ["parity", "--folder", str(place / "swept"), "--out", "0"],
        ["parity", "--folder", str(place), "--out", "1"],
        ["hypotheses", "--folder", str(place / "swept"), "--out", "0"],
        ["hypotheses", "--folder", str(place), "--sweep", parent[:20], "--out", "1"],
    ]
    program = (
        "import json, sys; from llmbench.cli.report import main\n"
        "print([main(run) for run in json.loads(sys.argv[1])], {'mlflow', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, json.dumps(runs)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0] set()", done.stderr
    for path in out.iterdir():
        for folder in ("0", "1"):
            again = tmp_path / folder / path.name
            assert again.is_file() if path.suffix in (".png", ".html") else path.read_text() == again.read_text()


def test_one_page_names_runs_from_the_store_and_folders_without_it(
    store: Store, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(store, "html", out=out) == 2
    assert "run `llmbench -m model=llama,llada" in capsys.readouterr().err
    folder = tmp_path / "results" / "swept"
    parent = planned_sweep(store, folder, make_sweep())
    assert report(store, "html", out=out) == 0
    assert capsys.readouterr().out.splitlines() == [f"From sweep swept ({parent}). Written: {out / 'report.html'}"]
    found = store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert len(found) == 5
    assert all(page.count(run.info.run_id) > 3 for run in found)
    assert (
        main(["html", "--folder", str(folder.parent), "--sweep", "swept", "-o", str(tmp_path / "new" / "a.html")]) == 0
    )
    page = (tmp_path / "new" / "a.html").read_text(encoding="utf-8")
    assert all(page.count(path.parent.name) > 3 for path in folder.glob("*/record.json"))
    assert load(folder).html() == page
    shutil.rmtree(next(folder.glob("llada-k16-*")))
    assert report(None, "html", "--folder", folder, out=tmp_path / "none") == 3
    assert capsys.readouterr().out.splitlines()[-2].startswith("PARTIAL: 4 of 5 jobs of sweep swept")
    assert not (tmp_path / "none").exists()
    assert "<p class=warning role=alert>PARTIAL: 4 of 5" in load(folder).html()


def test_a_folder_lacks_what_its_plan_names(
    store: Store, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned_sweep(store, tmp_path / "results" / "swept", make_sweep())
    planned_sweep(store, tmp_path / "results" / "later", make_sweep())
    folder = tmp_path / "results" / "later"
    shutil.rmtree(next(folder.glob("llada-k16-*")))
    damaged = next(folder.glob("llada-k8-*")) / "record.json"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert report(None, "parity", "--folder", folder, out=out) == 3
    assert capsys.readouterr().out.startswith("PARTIAL: 3 of 5 jobs of sweep later; missing: llada k=8 (")
    assert [title.partition(" (")[0] for title in read_sweep(folder).missing] == ["llada k=8", "llada k=16"]
    assert not out.exists()
    assert report(None, "sweeps", "--folder", tmp_path / "results") == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[1:6] for line in rows] == [
        ["later", "finished", "4", "of", "5"],
        ["swept", "finished", "5", "of", "5"],
    ]


def test_a_folder_of_an_earlier_version_has_no_plan_and_is_read_all_the_same(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results" / "2026-11-26_10-00-00"
    for record in make_sweep():
        record.save(folder / f"{record.label.replace(' ', '-').replace('=', '')}-{record.identity}")
    ended = {"parent": "1" * 32, "store": "", "host": "h", "pid": 1, "started": "2026-11-26", "ended": True}
    (folder / "sweep.json").write_text(json.dumps(ended))
    for place in (folder, tmp_path / "results"):
        assert report(None, "parity", "--folder", place, out=out) == 0
        assert str(verdicts(make_sweep())[0]) in capsys.readouterr().out
    (folder / "sweep.json").write_text('{"parent": "1111')
    assert report(None, "parity", "--folder", folder, out=tmp_path / "none") == 3
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("PARTIAL: 5 jobs of sweep 2026-11-26_10-00-00, interrupted")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--folder", "nowhere"], 3, "--folder nowhere: there is no such folder"),
        (["--folder", "."], 2, "run `llmbench -m experiment=parity` first"),
        (["--folder", ".", "--uri", "sqlite:///a.db"], 2, "leave --uri and --experiment out"),
        (["--folder", "later"], 3, "later/plan.json: plan format 2, this llmbench reads 1"),
        (["--folder", "outside"], 3, "outside/plan.json: not a plan"),
        (["--folder", "cut"], 3, "cut/plan.json: cannot be read"),
        (["--folder", ".", "--sweep", "x"], 2, "there is no sweep x in ."),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_line(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    plans = {
        "later": '{"format": 2, "jobs": {}}',
        "outside": '{"format": 1, "jobs": {"../x": {}}}',
        "cut": '{"format": 1, "jo',
    }
    for name, text in plans.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text(text)
    assert main(["parity", *arguments]) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")
