"""The command line: help is quick because it is light, and every mistake is one line on stderr with exit code 2."""

import subprocess
import sys

import pytest

import llmbench
from llmbench import task
from llmbench.cli import groups, help_page


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "llmbench", *arguments], capture_output=True, text=True, timeout=120)


def test_help_is_written_for_people_and_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['llmbench', '--help']\n"
        "from llmbench.cli import main; main()\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'bert_score', 'pydantic', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "python -m llmbench -m model=llama,llada steps=8,16,32,64" in result.stdout
    for word in ("remasking", "hardware", "llada", "steps: 64", "workload"):
        assert word in result.stdout


def test_the_columns_of_the_help_never_touch():
    page = help_page().splitlines()
    for group, choices in groups().items():
        for name, comment in choices:
            assert not comment or any(line.startswith(f"    {name}  ") and line.endswith(comment) for line in page), (
                group,
                name,
            )
    (row,) = [line for line in page if '"prompt", "reference"' in line]
    assert '"answer"' in row


def test_version():
    assert run("--version").stdout == f"llmbench {llmbench.__version__}\n"


WRONG = {
    "model=lama": "model=lama: no such choice; available: llada, llama",
    "modle=llama": "modle: no such key or group; did you mean model?",
    "stesp=8": "stesp: no such key or group; did you mean steps?",
    "model.decoder.threshold=0.9": "model.decoder.threshold: no such key or group; see --help",
    "metric.judge=smollm2": "metric.judge: no such key or group; did you mean metric.perplexity.judge?",
    "hardware=tpu": "hardware=tpu: no such choice; available:",
    "model=llama,llada": "model=llama,llada is a sweep: add -m",
    "steps": "an override is key=value",
    "model=llada steps=8.5": "steps: input should be a valid integer (got 8.5)",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(arguments):
    result = run(*arguments.split())
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("llmbench: ")
    assert WRONG[arguments] in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_that_tables_carry_has_no_password(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llmbench", "-m", "steps=4,8", "tracking.uri='postgresql://me:pa55@host/db'"])
    assert task.command() == "python -m llmbench -m steps=4,8 tracking.uri='postgresql://host/db'"
