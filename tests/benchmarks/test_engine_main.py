"""The command, tried with tiny shapes on whatever is here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.engine", *arguments], capture_output=True, text=True, cwd=ROOT
    )


def test_a_trial_runs_every_case_and_the_page_comes_again_from_its_json(tmp_path):
    done = bench("--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("*.json")
    results = json.loads(found.read_text())
    assert len(results["rows"]) == 13
    assert not any(row["failed"] or row["missing"] for row in results["rows"])
    written = found.with_suffix(".md").read_text()
    found.with_suffix(".md").unlink()
    assert bench("page", str(found)).returncode == 0
    assert found.with_suffix(".md").read_text() == written


def test_loading_is_held_against_reading(tmp_path):
    done = bench("load", str(tmp_path), "--smoke")
    assert done.returncode == 0, done.stderr
    warm, cold = done.stdout.splitlines()
    assert "in the page cache: read" in warm
    assert "dropped from the page cache: read" in cold
    assert re.search(r"\d % of one thread's reading, \d+ % of 8 threads'; at most \d\.\d\d GiB resident$", cold)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_refused_in_one_line():
    for arguments, said in (
        (["--only", "ar-1,nothing"], "no case nothing"),
        (["--smoke"], "--smoke measures nothing that docs/ may show"),
        (["--only", "ar-1"], "--only would replace a complete page"),
        (["page"], "give the JSON file"),
    ):
        done = bench(*arguments)
        assert done.returncode == 2
        assert said in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_one_line_says_what_runs():
    done = bench()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("benchmarks.engine: hardware.device: cuda was asked for")
    assert line.endswith("only --smoke --out FOLDER runs")
