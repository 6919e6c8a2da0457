"""What the documentation tells people to type exists and is accepted. CI runs `make run` and `make test` themselves."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from composition import composed
from hydra.core.override_parser.overrides_parser import OverridesParser

from llmbench.analysis.parity.analyze import verdicts
from llmbench.cli import report_compare
from llmbench.cli.main import COMMANDS
from llmbench.cli.report import parser
from llmbench.config.build import build_job
from llmbench.config.conf_files import conf_folder
from llmbench.report.assemble import RECIPES
from llmbench.sweeps import plan, state
from records import make_sweep

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md")) if page.stem != "simulation"),
]
SHORT = "llmbench "
LONG = "python -m llmbench "


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def typed(pattern: str) -> list[str]:
    """Commands of the pages' shell blocks, without comments."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(re.split(r"\s+#|\s{3,}", line)[0] for line in lines if line.startswith(pattern)))


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z0-9]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {command.split()[1] for command in typed("make ")}
    assert {"run", "test", "table1"} <= named
    assert named <= targets


def commands() -> list[list[str]]:
    """Words behind `llmbench` of every command of the pages."""
    lines = [command.removeprefix(LONG).removeprefix(SHORT) for command in [*typed(SHORT), *typed(LONG)]]
    return [shlex.split(line.rstrip(" \\")) for line in lines]


@pytest.mark.parametrize(
    "words", [c for c in commands() if c[0] not in ("--help", *COMMANDS) and "/path" not in " ".join(c)], ids=" ".join
)
def test_every_command_composes_to_jobs(words):
    not_here = (
        "-m",
        "workload=jsonl",
        "workload=dataset",
        *(f"workload.{key}" for key in ("source", "subset", "split", "prompt_field", "reference_field")),
        "metric.perplexity.judge",
        "metric.likelihood_source",
        "hardware.quantization",
        "hydra",
    )  # files and packages of the reader's own
    words = [word for word in words if not word.startswith(not_here)]
    words = [*words, "dry_run=true"] if "dry_run=true" not in words else words  # so is the memory that an 8B takes
    grid = plan.expand(OverridesParser.create().parse_overrides(words))
    assert all(build_job(composed(*overrides)) for overrides, _ in grid)


def test_every_report_is_one():
    for words in commands():
        if words[:2] == ["report", "compare"]:
            report_compare.parser().parse_args(words[2:])
        elif words[0] == "report":
            parser().parse_args([word for word in words[1:] if word not in ("FOLDER", "RUN_ID")])


def test_the_python_of_the_readme_gives_the_verdict_of_a_folder_that_was_moved(tmp_path, capsys):
    (block,) = blocks("README.md", "python")
    for record in make_sweep():
        record.save(tmp_path / "moved" / record.identity)
    (tmp_path / "moved" / state.SWEEP_FILE).write_text(json.dumps({"ended": True}))
    lines = block.replace("multirun/2026-...", str(tmp_path / "moved"))
    names: dict[str, Any] = {}
    exec(lines, names)
    (verdict,) = verdicts(make_sweep())
    assert (verdict.status, names["sweep"].parity()) == ("reached", verdict)
    assert str(verdict) in capsys.readouterr().out
    assert len(names["sweep"].to_frame()) == len(make_sweep())


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_table_has_its_recipe_and_target(recipe):
    assert (conf_folder() / "experiment" / f"{recipe}.yaml").is_file()
    assert f"experiment={recipe} " in (ROOT / "Makefile").read_text()


def test_links_lead_somewhere():
    """Those of docs/ are checked where the site is built."""
    for page in ("README.md", "CONTRIBUTING.md", "examples/README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_map_names_files_that_exist():
    for row in (ROOT / "CONTRIBUTING.md").read_text().splitlines():
        for name in re.findall(r"`((?:llmbench|conf|tests|docs|benchmarks|checks)/[\w/.]+)`", row):
            assert (ROOT / name).exists(), name
