"""The command line: help is quick because it is light, and every mistake is one line on stderr with exit code 2.

In the test's own process through `main`; as a child process where the process itself is what a test is about.
"""

import subprocess
import sys

import pytest
from child import without_signs
from command_line import called

import llmbench
from llmbench.cli import help_pages, main
from llmbench.config import conf_files, hydra_errors
from llmbench.errors import UsageError
from llmbench.sweeps import job_task


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmbench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout, without_signs(done.stderr))


def test_help_is_written_for_people_and_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['llmbench', '--help']\n"
        "from llmbench.cli.main import main; main()\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'bert_score', 'pydantic', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "llmbench -m model=llama,llada steps=8,16,32,64" in result.stdout
    for word in ("remasking", "hardware", "llada", "steps: 64", "workload"):
        assert word in result.stdout


def test_version():
    assert run("--version").stdout == f"llmbench {llmbench.__version__}\n"


WRONG = {
    "model=lama": "model=lama: no such choice; available: llada, llada_server, llama",
    "modle=llama": "modle: no such key or group; did you mean model?",
    "stesp=8": "stesp: no such key or group; did you mean steps?",
    "model.decoder.threshold=0.9": "write threshold=0.9; the models that have no use for it ignore it",
    "-m model=llama,llada model.decoder.late_eos=true": "model.decoder.late_eos: only model=llada has it",
    "model=llama_endpoint": "model=llama_endpoint: this is called model=llama_server now; write that",
    "model=llama hardware.engine=graph": "hardware.engine=graph: this is called hardware.engine=fused now; write that",
    "experiment=parity dry_run=true": "experiment=parity is a sweep (over model and steps): add -m",
    "model=llada steps=range(4,9) steps=8": "give it once, or as a sweep: -m 'steps=range(4,9),8'",
    "model=llada steps=4 steps=8": "steps is given 2 times, as 4 and 8: give it once, or as a sweep: -m steps=4,8",
    "workload=jsonl workload.source=~/mine.jsonl": "needs quotes: \"workload.source='~/mine.jsonl'\"",
    "workload=jsonl workload.source=a=b(1).jsonl": "needs quotes: \"workload.source='a=b(1).jsonl'\"",
    "workload=jsonl workload.source=a,b.jsonl": "that holds a comma stands in quotes: \"workload.source='a,b.jsonl'\"",
    "workload=jsonl workload.source=a$b(1)!.jsonl": """needs quotes: 'workload.source='"'"'a$b(1)!.jsonl'"'"''""",
    "workload=jsonl workload.source='a": "cannot be read; are all quotes and brackets closed?",
    "-m hydra/launcher=jobli steps=8": "hydra/launcher=jobli: no such choice; available: basic",
    "hydra/launcher=rq": "rq is a plugin of Hydra: pip install hydra-rq-launcher",
    "-m hydra/launcher=ray_gpus": 'hydra/launcher: ray is not installed; pip install "llmbench[ray]"',
    "model=llama isolation=process": "isolation=process is for the jobs of a sweep: use llmbench -m",
    "-m model=llama timeout_s=5": "add isolation=process",
    "--hlp": "--hlp: no such option; see --help",
    "model=llama -m steps=8": "steps=8: options go in front: llmbench -m",
    "--help wrkload": "wrkload: no such key or group; did you mean workload?",
    "metric.judge=smollm2": "metric.judge: this is called metric.perplexity.judge now; write that",
    "hardware=tpu": "hardware=tpu: no such choice; available:",
    "model=llama,llada": "model=llama,llada is a sweep: add -m",
    "steps": "an override is key=value",
    "-v model=llama --quiet": "-q prints less and -v more: give one of them",
    "-q": "nothing is to run: add a model",
    "--json --cfg job": "--json is for what runs or is planned, not for --cfg",
    "model=llada steps=8.5": "steps: input should be a valid integer (got 8.5)",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, capfd, tmp_path):
    result = called(capfd, *arguments.split(), folder=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("llmbench: ")
    assert WRONG[arguments] in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_mistake_ends_a_process_in_the_same_way():
    """At Hydra's hands, where nothing of ours has been imported yet."""
    result = run("-m", "model=lama")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"llmbench: {WRONG['model=lama']}, llama_generate, llama_server\n"


MEANT = {
    "workload.prompt": "did you mean workload.prompts? (see --help workload)",
    "timing.repeat": "did you mean timing.repeats? (see --help timing)",
    "parity.margins.ppl": "did you mean parity.margins.perplexity? (see --help parity)",
    "server.ur": "did you mean server.url? (see --help server)",
    "model.decoder.treshold": "did you mean threshold? (see --help model)",
    "model.steps": "did you mean steps? (see --help model)",
    "workload.zzz": "no such key or group; see --help workload",
    "workload.prompt_tokens": "only workload=synthetic has it",
    "model.decoder.threshold": "write threshold=...; the models that have no use for it ignore it",
}


@pytest.mark.parametrize("key", MEANT)
def test_a_misspelt_key_at_any_depth_gets_the_one_that_was_meant(key):
    assert hydra_errors.unknown_key(key).endswith(MEANT[key])


@pytest.mark.parametrize("old", hydra_errors.RENAMED)
def test_an_old_name_is_answered_with_the_new_one_which_exists(old):
    new = hydra_errors.RENAMED[old]
    assert hydra_errors.unknown_key(old) == f"{old}: this is called {new} now; write that"
    assert any(key == new or key.startswith(f"{new}.") for key in [*conf_files.keys(), *conf_files.groups()])


def test_help_shows_the_files_of_conf_as_they_stand():
    whole = (conf_files.conf_folder() / "config.yaml").read_text()
    settings = whole[whole.index("steps: 64") : whole.index("\nhydra:")].strip()
    assert settings in help_pages.help_page()
    page = run("--help", "workload").stdout
    assert (conf_files.conf_folder() / "workload" / "math.yaml").read_text().strip() in page
    timing = help_pages.topic_page("timing").splitlines()
    assert "  warmup: 1 # untimed generations of the same shape" in timing
    assert not any(line.startswith("dry_run") for line in timing)
    assert help_pages.topic_page("zzz") is None
    assert run("--cfg", "job", "--help").stdout == run().stdout == f"{help_pages.help_page()}\n"


def test_our_options_are_none_of_hydras():
    """`-m -q` and so on: Hydra's own parser would take them, or what they abbreviate, otherwise."""
    from hydra._internal.utils import get_args_parser

    taken = [text for action in get_args_parser()._actions for text in action.option_strings]
    assert not set(main.OUTPUT_OPTIONS) & set(taken)
    assert {"--cfg", "-m", "-c", "-p", "--info"} <= set(taken)


def test_a_recipe_says_its_axes():
    assert list(conf_files.recipe_axes("throughput")) == ["model", "steps", "batch"]
    assert conf_files.recipe_axes("absent") == {}


def test_one_job_of_a_recipe_is_one_when_all_that_it_sweeps_is_said():
    main.reject_ambiguous(["experiment=latency", "model=llada", "steps=8"])
    main.reject_ambiguous(["-m", "experiment=latency"])
    main.reject_ambiguous(["experiment=latency", "--cfg", "job"])
    with pytest.raises(UsageError, match=r"^experiment=latency is a sweep"):
        main.reject_ambiguous(["experiment=latency", "model=llada"])


ODD = [
    "steps=range(4,9,4)",
    "x='a b'",
    'x="a"',
    "x=a;ls",
    "x=$HOME",
    "x=`ls`",
    "x=!!",
    "x='$(ls)'",
    "x=a\\'b",
    "x=~/*",
    "",
    "a\nb",
]


def test_the_command_that_tables_carry_is_what_a_shell_reads(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llmbench", *ODD])
    line = job_task.command()
    shown = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, timeout=20)
    assert shown.stdout.split("\0")[:-1] == ["python", "-m", "llmbench", *ODD]


def test_the_command_that_tables_carry_has_no_password(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["llmbench", "-m", "steps=4,8", "tracking.uri='postgresql://me:pa55@host/db'"])
    assert job_task.command() == "python -m llmbench -m steps=4,8 \"tracking.uri='postgresql://host/db'\""
