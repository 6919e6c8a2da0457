"""`llmbench report paper` on a folder of results: every file of a paper, from what the sweeps left."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.cli.report import main
from llmbench.config.job import HardwareConfig
from llmbench.measure.device import environment, resolve
from llmbench.record import Record
from llmbench.report.assemble import RECIPES
from records import make_record, make_sweep, with_curve

COMMAND = "python -m llmbench -m experiment=x"


def with_energy(record: Record) -> Record:
    """300 J in 10 s for 2000 tokens: 0.15 J each; 20 tokens a request."""
    use = replace(record.device_use, energy_joules=300.0, energy_window_s=10.0, energy_tokens=2000)
    return replace(record, device_use=use, metrics=record.metrics | {"energy/joules_per_token": 0.15})


def save(results: Path, recipe: str, records: list[Record], day: int) -> None:
    """A finished sweep's folder."""
    folder = results / f"2026-11-{day:02}"
    for record in records:
        record.save(folder / f"job-{record.identity}")
    jobs = {f"job-{record.identity}": {"title": record.label} for record in records}
    state = {"ended": True, "started": f"2026-11-{day:02}T00:00:00", "verdict": "reached"}
    (folder / "sweep.json").write_text(json.dumps(state))
    (folder / "plan.json").write_text(json.dumps({"format": 1, "recipe": recipe, "command": COMMAND, "jobs": jobs}))


SWEEPS = {
    "latency": make_sweep(batch=1, perplexity=None),
    "throughput": [r for batch in (1, 2, 4) for r in make_sweep((16,), batch=batch, perplexity=None)],
    "memory": [make_record(model, 32, canvas=c, perplexity=None) for c in (32, 64) for model in ("llama", "llada")],
    "parity": with_curve(make_sweep()),
    "acceleration": make_sweep((64,)),
    "energy": [with_energy(record) for record in make_sweep(device="cuda", perplexity=None)],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for day, (recipe, records) in enumerate(SWEEPS.items(), start=1):
        save(folder, recipe, records, day)
    return folder


@pytest.fixture(scope="module")
def paper(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper")
    assert main(["paper", "--folder", str(results), "--out", str(out)]) == 0
    return out


def macros(paper: Path) -> dict[str, str]:
    return dict(re.findall(r"\\newcommand\{\\(bench\w+)\}\{(.*)\}", (paper / "numbers.tex").read_text()))


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row[""]: row for row in csv.DictReader(file)}


def test_every_table_is_there_as_text_latex_csv_and_json_and_every_figure_as_pdf_and_svg(paper: Path) -> None:
    for number, recipe in enumerate(RECIPES, start=1):
        for name in (f"table{number}.md", f"table{number}.tex", f"table{number}_appendix.tex", f"table{number}.csv"):
            assert (paper / name).stat().st_size, name
        assert json.loads((paper / f"table{number}.json").read_text())[0]["rows"]
        assert (paper / f"fig_{recipe}.pdf").read_bytes().startswith(b"%PDF")
        assert 'width="' in (paper / f"fig_{recipe}.svg").read_text()[:2000]


def test_csv_holds_what_the_records_hold(paper: Path) -> None:
    by_label = {record.label: record for record in SWEEPS["parity"] if record.role == "timed"}
    table = rows(paper / "table4.csv")
    for label, record in by_label.items():
        for name, key in (
            ("L_e2e ms", "latency/e2e_ms"),
            ("L_e2e ms, low", "latency/e2e_ms_ci_low"),
            ("L_e2e ms, high", "latency/e2e_ms_ci_high"),
            ("perplexity", "quality/perplexity"),
            ("BERTScore F1", "quality/bertscore_f1"),
        ):
            assert float(table[label][name]) == record.metrics[key], (label, name)
    assert table["llama"]["speedup"] == ""  # absent


def test_energy_is_per_token_per_request_and_as_power(paper: Path) -> None:
    row = rows(paper / "table6.csv")["llada k=8"]
    assert (float(row["J/token"]), float(row["J/request"]), float(row["power W"])) == pytest.approx((0.15, 3.0, 30.0))


def test_where_no_counter_was_read_the_table_of_energy_says_why(tmp_path: Path) -> None:
    save(tmp_path / "results", "parity", make_sweep((8,)), 1)
    assert main(["paper", "--folder", str(tmp_path / "results"), "--out", str(tmp_path / "paper")]) == 0
    (table,) = json.loads((tmp_path / "paper" / "table6.json").read_text())
    assert table["rows"] == [{"": "not measured"}]
    assert "Test CPU" in table["notes"][0]
    assert not (tmp_path / "paper" / "fig_energy.pdf").exists()


def test_the_speedup_of_every_way_of_decoding_is_over_the_fastest_baseline(paper: Path) -> None:
    table = rows(paper / "table5.csv")
    assert float(table["llada k=64"]["speedup"]) == pytest.approx(200 / 640)
    assert float(table["llada k=64"]["forwards"]) == 64


def test_every_macro_that_the_paper_uses_is_defined_with_the_numbers_of_the_verdict(
    paper: Path, tmp_path: Path
) -> None:
    known = macros(paper)
    text = (paper / "paper.tex").read_text()
    used = set(re.findall(r"\\(bench[A-Z]\w*)", text))
    assert used
    assert used <= known.keys()
    assert known["benchVerdict"] == "reached"
    assert known["benchSParity"] == "${k = 32}$"
    assert known["benchSpeedup"] == known["benchSpeedupKThirtyTwo"] == r"\ensuremath{0.625}"
    assert known["benchPerplexityKSixteen"] == r"\ensuremath{60.0}"
    assert known["benchPerplexityHuman"] == r"\ensuremath{25.0}"
    save(tmp_path / "results", "memory", SWEEPS["memory"], 1)  # without a verdict prose still compiles
    assert main(["paper", "--folder", str(tmp_path / "results"), "--out", str(tmp_path / "paper")]) == 0
    alone = macros(tmp_path / "paper")
    assert used <= alone.keys()
    assert alone["benchSpeedup"] == "not measured"
    assert "benchPerplexityKSixteen" not in alone


def test_what_was_written_into_the_paper_stays_and_all_else_is_the_same_again(results: Path, paper: Path) -> None:
    before = {path.name: path.read_bytes() for path in paper.iterdir()}
    (paper / "paper.tex").write_text("my own words")
    (paper / "table1.tex").write_text("")
    assert main(["paper", "--folder", str(results), "--out", str(paper)]) == 0
    after = {path.name: path.read_bytes() for path in paper.iterdir()}
    assert after.pop("paper.tex") == b"my own words"
    (paper / "paper.tex").write_bytes(original := before.pop("paper.tex"))
    assert original
    assert after == before


def test_missing_are_the_recipes_without_a_sweep_of_this_commit_device_and_versions(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMBENCH_COMMIT", "a" * 40)
    here = environment(resolve(HardwareConfig()))

    def made(**changes: object) -> list[Record]:
        where = replace(here, **changes)  # type: ignore[arg-type]
        return [replace(record, environment=where) for record in SWEEPS["latency"]]

    save(tmp_path, "latency", made(), 1)
    save(tmp_path, "throughput", made(git_commit="b" * 40), 2)
    save(tmp_path, "memory", made(device_name="another"), 3)
    save(tmp_path, "parity", made(git_dirty=True), 4)
    assert main(["paper", "--missing", "--folder", str(tmp_path)]) == 0
    missing = ["throughput", "memory", "parity", "acceleration", *(["energy"] if here.device == "cuda" else [])]
    assert capsys.readouterr().out.split() == missing
    monkeypatch.delenv("LLMBENCH_COMMIT")
    assert main(["latency", "--missing", "--folder", str(results)]) == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_it_compiles_and_nothing_is_too_wide(paper: Path) -> None:
    for _ in range(2):
        command = ["pdflatex", "-interaction=nonstopmode", "paper.tex"]
        done = subprocess.run(command, cwd=paper, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (paper / "paper.log").read_text(errors="replace")
    assert "Overfull" not in log
    assert "undefined" not in log
