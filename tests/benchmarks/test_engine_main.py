"""The command, tried with tiny shapes on whatever is here."""

import json
import re

import pytest
import torch

from benchmarks.engine import __main__ as command


def test_a_trial_runs_every_case_and_the_page_comes_again_from_its_json(tmp_path):
    assert command.main(["--smoke", "--out", str(tmp_path)]) == 0
    (found,) = tmp_path.glob("*.json")
    results = json.loads(found.read_text())
    assert len(results["rows"]) == 19
    assert not any(row["failed"] or row["missing"] for row in results["rows"])
    written = found.with_suffix(".md").read_text()
    found.with_suffix(".md").unlink()
    assert command.main(["page", str(found)]) == 0
    assert found.with_suffix(".md").read_text() == written


def test_loading_is_held_against_reading(tmp_path, capsys):
    assert command.main(["load", str(tmp_path), "--smoke"]) == 0
    warm, cold = capsys.readouterr().out.splitlines()
    assert "in the page cache: read" in warm
    assert "dropped from the page cache: read" in cold
    assert re.search(r"\d % of one thread's reading, \d+ % of 8 threads'; at most \d\.\d\d GiB resident$", cold)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "ar-1,nothing"], "no case nothing"),
        (["--smoke"], "--smoke measures nothing that docs/ may show"),
        (["--only", "ar-1"], "--only would replace a complete page"),
        (["--only", "blocks,ar-1"], "--only would replace a complete page"),
        (["--only", "block-1"], "--only would replace a complete page"),
        (["page"], "give the JSON file"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_one_line_says_what_runs(capsys):
    assert command.run_or_explain([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks.engine: hardware.device: cuda was asked for")
    assert line.endswith("only --smoke --out FOLDER runs")
