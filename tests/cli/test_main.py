"""The command line: help is quick because it is light, and every mistake is one line on stderr with exit code 2."""

import dataclasses
import re
import subprocess
import sys

import pytest

import llmbench
from llmbench.cli import help_pages, main
from llmbench.cli.help_pages import groups, help_page
from llmbench.errors import UsageError
from llmbench.sweeps import job_task


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "llmbench", *arguments], capture_output=True, text=True, timeout=120)


def test_help_is_written_for_people_and_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['llmbench', '--help']\n"
        "from llmbench.cli.main import main; main()\n"
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
    "model.decoder.threshold=0.9": "only model=llada has it; write threshold=0.9, which the others ignore",
    "-m model=llama,llada model.decoder.top_p=0.9": (
        "model.decoder.top_p: only model=llama, model=llama_server, model=llama_generate have it; leave the others"
    ),
    "experiment=parity dry_run=true": "experiment=parity is a sweep (over model and steps): add -m",
    "model=llada steps=4 steps=8": "steps is given 2 times, as 4 and 8: give it once, or as a sweep: -m steps=4,8",
    "workload=jsonl workload.source=~/mine.jsonl": "needs quotes: \"workload.source='~/mine.jsonl'\"",
    "workload=jsonl workload.source=a=b(1).jsonl": "needs quotes: \"workload.source='a=b(1).jsonl'\"",
    "workload=jsonl workload.source=a,b.jsonl": "that holds a comma stands in quotes: \"workload.source='a,b.jsonl'\"",
    "workload=jsonl workload.source='a": "cannot be read; are all quotes and brackets closed?",
    "-m hydra/launcher=jobli steps=8": "hydra/launcher=jobli: no such choice; available: basic",
    "hydra/launcher=submitit_slurm": "submitit_slurm is a plugin of Hydra: pip install hydra-submitit-launcher",
    "--hlp": "--hlp: no such option; see --help",
    "model=llama -m steps=8": "steps=8: options go in front: python -m llmbench -m",
    "--help wrkload": "wrkload: no such key or group; did you mean workload?",
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


MEANT = {
    "workload.prompt": "did you mean workload.prompts? (see --help workload)",
    "timing.repeat": "did you mean timing.repeats? (see --help timing)",
    "parity.margins.ppl": "did you mean parity.margins.perplexity? (see --help parity)",
    "server.ur": "did you mean server.url? (see --help server)",
    "model.decoder.treshold": "did you mean threshold? (see --help model)",
    "model.steps": "did you mean steps? (see --help model)",
    "workload.zzz": "no such key or group; see --help workload",
    "workload.prompt_tokens": "only workload=synthetic has it",
}


@pytest.mark.parametrize("key", MEANT)
def test_a_misspelt_key_at_any_depth_gets_the_one_that_was_meant(key):
    assert help_pages.unknown(key).endswith(MEANT[key])


def test_the_settings_are_those_that_hydra_composes(load):
    composed = load("model=llada")
    for item in help_pages.settings():
        if item.group in ("", "parity", "hardware", "tracking") and item.value and not item.key.startswith("judges."):
            node = composed
            for part in item.key.split("."):
                node = getattr(node, part)
    own = {item.key.rpartition(".")[2] for item in help_pages.settings() if item.choice == "diffusion"}
    assert own == {field.name for field in dataclasses.fields(composed.model.decoder)}
    assert help_pages.recipe_axes("throughput") == ["model", "steps", "batch"]
    assert help_pages.recipe_axes("absent") == []


def test_help_on_a_group_lists_its_keys_with_defaults_and_comments():
    page = run("--help", "workload").stdout
    assert "With workload=synthetic, changed with key=value:" in page
    assert re.search(r"^  workload\.prompts: 48 +drawn in turn from the four tasks", page, flags=re.M)
    assert re.search(r"^  timing\.warmup: 1 +untimed generations", help_pages.topic_page("timing"), flags=re.M)
    assert "model.decoder.top_p: 1.0" in help_pages.topic_page("model")
    assert all(f"--help {name}" and help_pages.topic_page(name) for name in groups())
    assert help_pages.topic_page("zzz") is None
    assert run("--cfg", "job", "--help").stdout == run("-m", "--help", "model=llada").stdout == f"{help_page()}\n"


def test_one_job_of_a_recipe_is_one_when_all_that_it_sweeps_is_said():
    main.reject_ambiguous(["experiment=latency", "model=llada", "steps=8"])
    main.reject_ambiguous(["-m", "experiment=latency"])
    main.reject_ambiguous(["experiment=latency", "--cfg", "job"])
    with pytest.raises(UsageError, match=r"^experiment=latency is a sweep"):
        main.reject_ambiguous(["experiment=latency", "model=llada"])


def test_the_command_that_tables_carry_has_no_password(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llmbench", "-m", "steps=4,8", "tracking.uri='postgresql://me:pa55@host/db'"])
    assert job_task.command() == "python -m llmbench -m steps=4,8 tracking.uri='postgresql://host/db'"
