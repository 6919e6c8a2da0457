"""`llmbench report compare A B`: folders, stores and run ids, what is printed and written, and exit codes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.analysis.parity.analyze import verdicts
from llmbench.api import load
from llmbench.cli.report import main
from llmbench.config.job import TrackingConfig
from llmbench.record import Record
from llmbench.tracking import open_store
from records import make_record, make_sweep

AGAIN = replace(make_record("llama", e2e_ms=201.0), role="retimed", outputs=(), scores=(), identity="again")


def in_folder(folder: Path, records: Sequence[Record]) -> Path:
    """A sweep's folder."""
    for record in records:
        record.save(folder / f"{record.label.replace(' ', '-')}-{record.role}-{record.identity}")
    (folder / "sweep.json").write_text(json.dumps({"ended": True}))
    return folder


def slower(records: Sequence[Record], factor: float) -> list[Record]:
    return [replace(r, timings=tuple(replace(t, e2e_ms=t.e2e_ms * factor) for t in r.timings)) for r in records]


@pytest.fixture
def sweeps(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A sweep, a copy of it, and a copy with times of 1.06."""
    records = [*make_sweep((8, 16)), AGAIN]
    changed = [
        replace(r, environment=replace(r.environment, git_commit="c" * 40)) for r in slower(records, 1.06)
    ]  # fmt: skip
    made = ("before", records), ("same", records), ("after", changed)
    return tuple(in_folder(tmp_path / name, own) for name, own in made)  # type: ignore[return-value]


def test_a_slower_copy_is_found_and_an_equal_one_is_not(
    sweeps: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, same, after = map(str, sweeps)
    out = tmp_path / "out"
    assert main(["compare", before, same, "--fail-if-worse=0%", "--out", str(out)]) == 0
    made = json.loads((out / "compare.json").read_text())
    assert (made["changed"], made["failing"], made["conditions"]) == ([], [], [])
    assert "The same measurement on both sides" in capsys.readouterr().out

    assert main(["compare", before, after, "--out", str(out)]) == 0  # no gate was asked for
    made = json.loads((out / "compare.json").read_text())
    assert [(item["setting"], item["outcome"]) for item in made["changed"]] == [("all settings together", "worse")]
    assert made["conditions"] == [{"key": "commit", "a": ["0123456789"], "b": ["cccccccccc"]}]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.index("Conditions that differ") < printed.index("commit") < printed.index("Times")
    assert r"\label{tab:compare}" in (out / "compare.tex").read_text()


def test_the_gate_ends_with_1_where_the_lower_bound_is_beyond_it(
    sweeps: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _, after = map(str, sweeps)
    place = ["--out", str(tmp_path / "out")]
    assert main(["compare", before, after, "--fail-if-worse", "0%", *place]) == 1
    said = capsys.readouterr().err
    assert "all settings together time" in said
    assert said.count("\n") == 1
    assert main(["compare", before, after, "--fail-if-worse", "5%", *place]) == 0  # 6 %, but not surely more than 5 %
    assert main(["compare", after, before, "--fail-if-worse", "0%", *place]) == 0  # faster
    assert main(["compare", before, after, "--fail-if-worse=0%", "--process-sd=10%", *place]) == 0


def test_what_cannot_be_told_passes_no_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = in_folder(tmp_path / "whole", make_sweep((8, 16)))
    failed = make_record("llada", 16, status="failed", reason="out of memory")
    broken = in_folder(tmp_path / "broken", [*make_sweep((8,)), failed])
    short = in_folder(tmp_path / "short", make_sweep((8, 16), repeats=2, perplexity=None))
    out = ["--out", str(tmp_path / "out")]
    for other, reason in ((broken, "llada k=16"), (short, "timing.repeats=6")):
        assert main(["compare", str(whole), str(other), *out]) == 0
        assert main(["compare", str(whole), str(other), *out, "--fail-if-worse=5%"]) == 3
        assert reason in capsys.readouterr().err
    other = in_folder(tmp_path / "other", make_sweep((8, 16), batch=2))
    assert main(["compare", str(whole), str(other), *out]) == 3
    assert "share no setting" in capsys.readouterr().err


def test_stores_and_runs_are_compared_with_folders(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shutil.copy(empty_store, tmp_path / "own.db")
    store = open_store(TrackingConfig(uri=f"sqlite:///{file}"))
    runs = []
    for factor in (1.0, 1.5):
        records = slower(make_sweep((8,)), factor)
        parent = store.start_sweep(name=f"sweep {factor}", command="as typed", jobs=len(records), recipe="")
        for record in records:
            store.log_job(record, parent=parent, steps_axis=[8], swept={})
        store.finish_sweep(parent, verdicts(records), records)
        runs.append(parent)
    folder = in_folder(tmp_path / "results" / "swept", make_sweep((8,)))
    out = ["--out", str(tmp_path / "out"), "--fail-if-worse=20%"]
    assert main(["compare", runs[0], runs[1], "--uri", store.uri, *out]) == 1
    assert main(["compare", runs[0][:20], str(folder), "--uri", store.uri, *out]) == 0
    assert main(["compare", str(folder.parent), str(file), *out]) == 1  # the newest of each
    assert main(["compare", str(folder), store.uri, *out]) == 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere/a", "nowhere/b"], 2, "there is no such folder or store"),
        (["before", "unknown run", "--uri", "sqlite:///none.db"], 2, "none.db"),
        (["--fail-if-worse=5", "a", "b"], 2, "write 5% or 0.05"),
        (["--fail-if-worse=-1%", "a", "b"], 2, "write 5% or 0.05"),
        (["a"], 2, "required: B"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    in_folder(tmp_path / "before", make_sweep((8,)))
    try:
        ended = main(["compare", *arguments])
    except SystemExit as stop:
        ended = stop.code
    assert ended == code
    assert said in capsys.readouterr().err


def test_in_python_and_as_a_process(sweeps: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before, same, after = (load(folder) for folder in sweeps)
    assert before.compare(same).beyond_noise == ()
    assert "worse (all settings together)" in str(before.compare(after))
    assert before.compare(after, process_sd=0.1).beyond_noise == ()
    command = [sys.executable, "-m", "llmbench", "report", "compare", *map(str, sweeps[::2]), "--fail-if-worse=0%"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
