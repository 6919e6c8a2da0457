"""`python -m llmbench report` on a real store, as a child process where the process matters."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.cli.report import main, ui
from llmbench.config.job import TrackingConfig
from llmbench.config.parity import ParityConfig
from llmbench.record import JobContext, Likelihood, Record
from llmbench.report.assemble import sweep_report
from llmbench.sweeps import state
from llmbench.tracking import Store, open_store
from records import make_record, make_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def record_sweep(store: Store, records: list[Record], recipe: str, command: str = "as typed") -> str:
    parent = store.start_sweep(name=f"sweep {recipe}", command=command, jobs=len(records), recipe=recipe)
    for record in records:
        store.log_job(record, parent=parent, steps_axis=[8, 16, 32, 64], swept={})
    store.finish_sweep(parent, verdicts(records), records)
    return parent


def test_every_table_comes_back_from_the_store(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    records = make_sweep()
    for recipe in ("latency", "throughput", "memory", ""):  # "" is the main job: its verdict serves table 4
        record_sweep(store, records, recipe)
    for number, recipe in enumerate(("latency", "throughput", "memory", "parity"), start=1):
        assert main([recipe, "--uri", uri, "--out", str(tmp_path / "paper")]) == 0
        printed = capsys.readouterr().out
        made = sweep_report(records, verdicts(records), recipe=recipe, command="as typed")
        assert printed.startswith(made.text)
        assert (tmp_path / "paper" / f"table{number}.md").read_text() == made.files[f"{recipe}.md"]
        assert rf"\label{{tab:{recipe}}}" in (tmp_path / "paper" / f"table{number}.tex").read_text()
    assert (tmp_path / "paper" / "table4.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "paper" / "table4.html").stat().st_size > 1_000_000


def test_the_newest_finished_sweep_is_taken_or_the_one_that_is_named(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    older = record_sweep(store, [make_record("llama", e2e_ms=111.0)], "latency")
    record_sweep(store, [make_record("llama", e2e_ms=222.0)], "latency")
    store.start_sweep(name="still running", command="", jobs=1, recipe="latency")
    out = ["--uri", uri, "--out", str(tmp_path / "paper")]
    assert main(["latency", *out]) == 0
    assert "222 [" in capsys.readouterr().out
    assert main(["latency", *out, "--sweep", older]) == 0
    assert "111 [" in capsys.readouterr().out


def test_likelihood_comes_from_the_newest_sweep_that_can_have_one(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    out = ["likelihood", "--uri", uri, "--out", str(tmp_path / "paper")]
    assert main(out) == 2
    assert "no likelihood; run `python -m llmbench -m experiment=likelihood`" in capsys.readouterr().err
    found = Likelihood(nll_nats=70.0, utf8_bytes=50, bound=False, standard_error_nats=None, texts=2, scored_tokens=20)
    record_sweep(store, [make_record("llama", likelihood=found)], "")
    record_sweep(store, [make_record("llama")], "latency")
    assert main(out) == 0
    assert "3.5000" in capsys.readouterr().out  # 70 nats over 20 tokens
    assert r"\label{tab:likelihood}" in (tmp_path / "paper" / "likelihood.tex").read_text()


def test_the_frontier_and_the_hypotheses_come_from_the_store(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    out = ["--uri", uri, "--out", str(tmp_path / "paper")]
    assert main(["frontier", *out]) == 2
    assert "no finished sweep with quality" in capsys.readouterr().err
    assert main(["hypotheses", *out]) == 0  # nothing was run: all open, with what to run
    printed = capsys.readouterr().out
    assert printed.count("Undecided:") == 4
    for wanted in ("experiment=latency", "experiment=throughput", "experiment=memory, on a GPU", "From no sweep"):
        assert wanted in printed
    record_sweep(store, make_sweep(), "")
    record_sweep(store, [r for b in (1, 2, 4) for r in make_sweep((16,), batch=b, perplexity=None)], "throughput")
    record_sweep(store, make_sweep((8,), batch=1, perplexity=None), "latency")
    assert main(["frontier", *out]) == 0
    assert "Settings that nothing dominates" in capsys.readouterr().out
    assert main(["hypotheses", *out]) == 0
    printed = capsys.readouterr().out
    titles = re.findall(r"Hypothesis (\d): (\w+)", printed)
    assert titles == [("1", "undecided"), ("2", "undecided"), ("3", "undecided"), ("4", "supported")]
    assert "llada k=16: undecided" in printed
    made = {path.name for path in (tmp_path / "paper").iterdir()}
    assert made == {f"frontier.{kind}" for kind in ("md", "tex", "png")} | {
        f"hypotheses.{kind}" for kind in ("md", "tex", "json")
    }
    assert [item["number"] for item in json.loads((tmp_path / "paper" / "hypotheses.json").read_text())] == [1, 2, 3, 4]


def test_the_frontier_says_whose_it_is_and_what_it_replaced(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    older = record_sweep(store, make_sweep((8, 16)), "older")
    out = ["frontier", "--uri", uri, "--out", str(tmp_path / "paper")]
    assert main(out) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"From sweep sweep older ({older}). Written: " in line  # there is no other
    assert "replaced" not in line
    newer = record_sweep(store, make_sweep(), "newer")
    record_sweep(store, [make_record("llama", perplexity=None)], "latency")
    assert main(out) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"From sweep sweep newer ({newer}), the newest of 2 with quality (--sweep RUN_ID takes another). " in line
    assert line.endswith("(replaced: frontier.md, frontier.png, frontier.tex)")
    for name in ("frontier.md", "frontier.tex"):
        assert f"From sweep sweep newer ({newer})." in (tmp_path / "paper" / name).read_text()
    assert main([*out, "--sweep", older]) == 0
    assert f"From sweep sweep older ({older}). Written: " in capsys.readouterr().out.splitlines()[-1]
    assert f"From sweep sweep older ({older})." in (tmp_path / "paper" / "frontier.md").read_text()


def test_one_sweep_can_be_asked_for_all_of_them(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    parent = record_sweep(store, make_sweep((8,), batch=1, perplexity=None), "")
    assert main(["hypotheses", "--uri", uri, "--out", str(tmp_path / "paper"), "--sweep", parent]) == 0
    assert "Hypothesis 4: supported" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["parity"], "no finished parity sweep in sqlite:///.*; run `llmbench -m experiment=parity` first"),
        (["latency"], "run `llmbench -m experiment=latency` first"),
        (["parity", "--sweep", "123"], "there is no sweep 123"),
        (["parity", "--experiment", "other"], "there is no experiment other"),
        (
            ["parity", "--uri", "sqlite:///nowhere/a.db"],
            "there is no MLflow store .*nowhere/a.db; run `llmbench -m experiment=parity` first",
        ),
        (["parity", "--uri", "mlruns"], "no longer writes to folders"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    uri: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    where = [] if "--uri" in arguments else ["--uri", uri]
    assert main([*arguments, *where]) == 2
    captured = capsys.readouterr()
    assert re.search(said, captured.err)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


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
    axis = [8, 16, 32, 64]
    plan = AnalysisPlan(options=ParityConfig(), steps=tuple(axis)).to_json()
    parent = store.start_sweep(name="2026-11-26_10-00-00-5", command="as typed", jobs=5, registered=plan)
    for record in make_sweep(steps):
        planned = replace(record, context=JobContext(steps_axis=tuple(axis)))
        store.log_job(planned, parent=parent, steps_axis=axis, swept={})
    store.abort_sweep(parent)
    return parent


@pytest.mark.parametrize("steps", [(8, 16, 32), (32, 64), (64,)])
def test_a_sweep_that_was_cut_off_gets_no_verdict_and_replaces_no_table(
    steps: tuple[int, ...], uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At k = 32 and 64 alone LLaDA would match; whether a smaller k does too has not been measured."""
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    parent = interrupted_sweep(store, steps)
    for table in ("parity", "frontier"):
        assert main([table, "--uri", uri, "--sweep", parent, "--out", str(tmp_path / "paper")]) == 3
        shown = capsys.readouterr()
        printed = shown.out
        count = f"{1 + len(steps)} of 5 jobs"
        line = f"PARTIAL: {count} of sweep 2026-11-26_10-00-00-5, interrupted; the same command goes on: as typed"
        assert printed.splitlines()[0] == line
        assert shown.err == "llmbench report: nothing is written: Records of sweep 2026-11-26_10-00-00-5 are missing\n"
        assert not (tmp_path / "paper").exists()
        if table == "parity":
            assert "INVALID" in printed
            assert "matches" not in printed
            assert "unplanned" not in printed
            assert "the same command runs them" in printed


def test_a_sweep_that_was_cut_off_before_a_side_had_run_is_one_line(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = interrupted_sweep(open_store(TrackingConfig(uri=uri, experiment="llmbench")), ())
    assert main(["parity", "--uri", uri, "--sweep", parent]) == 2
    said = capsys.readouterr().err
    assert "PARTIAL: 1 of 5 jobs" in said
    assert "There is nothing to compare yet" in said
    assert "add model=" not in said


def test_sweeps_are_listed_and_found_by_name_and_by_a_beginning_that_only_one_has(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    cut = interrupted_sweep(store, (8,))
    # logging of a finished job that broke off: its run is there, its Record is not
    tags = {"kind": "job", "status": "finished", "mlflow.parentRunId": cut}
    store.client.set_terminated(store.client.create_run(store.experiment_id, tags=tags).info.run_id, status="FAILED")
    whole = record_sweep(store, make_sweep(), "parity")
    assert main(["sweeps", "--uri", uri]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert re.search(rf"^{whole}  sweep parity +finished  5 of 5 +reached +as typed$", printed[2])
    assert re.search(rf"^{cut}  2026-11-26_10-00-00-5  killed +2 of 5 +as typed$", printed[3])
    out = ["parity", "--uri", uri, "--out", str(tmp_path / "paper"), "--sweep"]
    for named in ("sweep parity", "sweep", whole[:20]):
        assert main([*out, named]) == 0
        assert f"From sweep sweep parity ({whole})" in capsys.readouterr().out
    record_sweep(store, make_sweep(), "parity")
    assert main([*out, "sweep"]) == 2
    assert "sweep means 2 sweeps: " in capsys.readouterr().err


def test_a_port_that_is_none_is_refused_in_one_line(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    assert ui(["--uri", uri, "--port", "80000"]) == 2
    assert capsys.readouterr().err == "llmbench ui: --port 80000: a port is a number from 1 to 65535\n"


def test_a_reader_that_is_gone_costs_no_report(uri: str, tmp_path: Path) -> None:
    record_sweep(open_store(TrackingConfig(uri=uri, experiment="llmbench")), make_sweep(), "parity")
    command = [sys.executable, "-m", "llmbench", "report", "parity", "--out", str(tmp_path / "paper"), "--uri", uri]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "BrokenPipe" not in process.stderr.read()
    assert process.wait() == 0
    assert (tmp_path / "paper" / "table4.md").is_file()


def planned_sweep(store: Store, folder: Path, records: list[Record], logged: int | None = None) -> str:
    """A sweep with its plan, in the store and in a folder; only the first so many Records are in the store."""
    axis = [8, 16, 32, 64]
    options = ParityConfig()
    parent = store.start_sweep(
        name=folder.name,
        command="as typed",
        jobs=len(records),
        recipe="parity",
        registered=AnalysisPlan(options=options, steps=tuple(axis)).to_json(),
        planned={record.identity: record.label for record in records},
        folder=str(folder),
    )
    names = {
        record.identity: f"{record.label.replace(' ', '-').replace('=', '')}-{record.identity}" for record in records
    }
    jobs = {names[r.identity]: {"identity": r.identity, "title": r.label, "job": {}, "context": {}} for r in records}
    plan = {"format": 1, "command": "as typed", "recipe": "parity", "steps_axis": axis, "parity": asdict(options)}
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan | {"jobs": jobs}))
    history = store.past_analyses(parent)
    reached = verdicts(records, options=options, history=history)
    with state.running(folder, store, parent) as end:
        for record in records:
            record.save(folder / names[record.identity])
        for record in records[:logged]:
            store.log_job(record, parent=parent, steps_axis=axis, swept={})
        unlogged = [record.label for record in records[logged:]] if logged is not None else []
        store.finish_sweep(parent, reached, records, unlogged=unlogged)
        statuses = ", ".join(dict.fromkeys(item.status.value for item in reached))
        end(logged=not unlogged, verdict=statuses, history=[item.to_json() for item in history])
    return parent


def parity_table(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main(["parity", *map(str, arguments)]) == code
    return capsys.readouterr().out.partition("\nFrom ")[0]


def test_jobs_that_a_store_never_got_are_read_from_the_folder_and_missing_without_it(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path / "elsewhere"))
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    whole = planned_sweep(store, tmp_path / "whole", make_sweep())
    parent = planned_sweep(store, tmp_path / "swept", make_sweep(), logged=3)
    assert store.sweep(parent).status == "FAILED"
    out = ["--out", tmp_path / "paper", "--uri", uri, "--sweep"]
    expected = parity_table(capsys, *out, whole)
    assert parity_table(capsys, *out, parent) == expected
    (tmp_path / "swept").rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "paper")
    printed = parity_table(capsys, *out, parent, code=3)
    first = "PARTIAL: 3 of 5 jobs of sweep swept; missing: llada k=32, llada k=64; the same command goes on: as typed"
    assert printed.splitlines()[0] == first
    assert "INVALID" in printed
    assert not (tmp_path / "paper").exists()


@pytest.mark.parametrize("fault", ["artifact", "damaged", "trash", "no plan"])
def test_a_finished_sweep_of_which_a_record_is_gone_is_partial(
    fault: str, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    parent = planned_sweep(store, tmp_path / "swept", make_sweep())
    shutil.rmtree(tmp_path / "swept")
    found = store.client.search_runs([store.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    (run,) = [run for run in found if run.info.run_name == "llada k=16"]
    path = tmp_path / "artifacts" / run.info.run_id / "artifacts" / "record.json"
    if fault == "trash":
        store.client.delete_run(run.info.run_id)
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    if fault == "no plan":  # as earlier versions logged it: only the number of jobs is known
        (tmp_path / "artifacts" / parent / "artifacts" / "planned.json").unlink()
    assert store.sweep(parent).status == "FINISHED"
    printed = parity_table(capsys, "--uri", uri, "--sweep", parent, "--out", tmp_path / "paper", code=3)
    line = printed.splitlines()[0]
    assert line.startswith("PARTIAL: 4 of 5 jobs of sweep swept")
    assert ("missing: llada k=16" in line) == (fault != "no plan")
    assert ("not a record" in line) == (fault == "damaged")
    assert "not reached for k up to" not in printed
    assert not (tmp_path / "paper").exists()


@pytest.mark.parametrize("table", ["parity", "hypotheses"])
def test_a_folder_that_was_moved_gives_the_same_without_any_store(table: str, uri: str, tmp_path: Path) -> None:
    """In a process of its own, which never imports MLflow; also where an earlier sweep counts."""
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    planned_sweep(store, tmp_path / "results" / "older", make_sweep((8, 16)))
    parent = planned_sweep(store, tmp_path / "results" / "swept", make_sweep())
    program = (
        "import sys; from llmbench.cli.report import main\n"
        "code = main(sys.argv[1:]); print('mlflow' in sys.modules, 'torch' in sys.modules); sys.exit(code)"
    )

    def report(*arguments: object) -> str:
        command = [sys.executable, "-c", program, table, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    from_store = report("--uri", uri, "--sweep", parent, "--out", tmp_path / "a")
    (tmp_path / "mlflow.db").unlink()
    shutil.rmtree(tmp_path / "artifacts")
    (tmp_path / "results").rename(tmp_path / "moved ? 100%")
    place = tmp_path / "moved ? 100%"
    places = [[place / "swept"], [place, "--sweep", parent[:20]] if table == "hypotheses" else [place]]
    for number, arguments in enumerate(places):
        out = tmp_path / f"b{number}"
        shown = report("--folder", *arguments, "--out", out)
        assert shown.partition("\nFrom ")[0] == from_store.partition("\nFrom ")[0]
        assert shown.splitlines()[-1] == "False False"
        for path in (tmp_path / "a").iterdir():
            assert path.suffix in (".png", ".html") or path.read_text() == (out / path.name).read_text()


def test_a_folder_lacks_what_its_plan_names(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(TrackingConfig(uri=uri, experiment="llmbench"))
    planned_sweep(store, tmp_path / "results" / "swept", make_sweep())
    planned_sweep(store, tmp_path / "results" / "later", make_sweep())
    folder = tmp_path / "results" / "later"
    shutil.rmtree(next(folder.glob("llada-k16-*")))
    damaged = next(folder.glob("llada-k8-*")) / "record.json"
    damaged.write_bytes(damaged.read_bytes()[:100])
    printed = parity_table(capsys, "--folder", folder, "--out", tmp_path / "paper", code=3)
    assert printed.startswith("PARTIAL: 3 of 5 jobs of sweep later; missing: llada k=8 (")
    assert ", llada k=16; the same command goes on: as typed" in printed.splitlines()[0]
    assert not (tmp_path / "paper").exists()
    assert main(["sweeps", "--folder", str(tmp_path / "results")]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[1:6] for line in rows] == [
        ["later", "finished", "4", "of", "5"],
        ["swept", "finished", "5", "of", "5"],
    ]


def test_a_folder_of_an_earlier_version_has_no_plan_and_is_read_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results" / "2026-11-26_10-00-00"
    for record in make_sweep():
        record.save(folder / f"{record.label.replace(' ', '-').replace('=', '')}-{record.identity}")
    ended = {"parent": "1" * 32, "store": "", "host": "h", "pid": 1, "started": "2026-11-26", "ended": True}
    (folder / "sweep.json").write_text(json.dumps(ended))
    for place in (folder, tmp_path / "results"):
        assert "REACHED" in parity_table(capsys, "--folder", place, "--out", tmp_path / "paper")
    (folder / "sweep.json").write_text('{"parent": "1111')
    printed = parity_table(capsys, "--folder", folder, "--out", tmp_path / "none", code=3)
    assert printed.startswith("PARTIAL: 5 jobs of sweep 2026-11-26_10-00-00, interrupted")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--folder", "nowhere"], 3, "--folder nowhere: there is no such folder"),
        (["--folder", "."], 2, "no finished parity sweep in .; run `llmbench -m experiment=parity` first"),
        (["--folder", ".", "--uri", "sqlite:///a.db"], 2, "--folder reads no store: leave --uri and --experiment out"),
        (["--folder", "later"], 3, "later/plan.json: plan format 2, this llmbench reads 1"),
        (["--folder", "outside"], 3, "outside/plan.json: not a plan: a job is named by its folder"),
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
