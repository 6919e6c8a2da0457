"""Results are read, judged and shown where torch cannot be imported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_module_that_reads_results_imports_without_torch() -> None:
    found = run("checks/without_torch.py")
    assert found.returncode == 0, found.stderr


def test_a_verdict_and_its_tables_need_no_torch() -> None:
    code = (
        "import sys; sys.path[:0] = ['.', 'checks', 'tests']\n"
        "from without_torch import Blocker; sys.meta_path.insert(0, Blocker())\n"
        "from llmbench.analysis.parity.analyze import verdicts\n"
        "from llmbench.report.assemble import recipe_tables\n"
        "from records import make_sweep\n"
        "records = make_sweep()\n"
        "for recipe in ('latency', 'throughput', 'memory', 'parity'):\n"
        "    print(recipe_tables(records, verdicts(records), recipe, '')[0].title)\n"
    )
    found = run("-c", code)
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == 4


def test_a_module_that_needs_torch_is_named() -> None:
    code = (
        "import sys; sys.path[:0] = ['.', 'checks']\n"
        "import without_torch; without_torch.ROOMS = ('llmbench.models',); sys.exit(without_torch.main())\n"
    )
    found = run("-c", code)
    assert found.returncode == 1
    assert "llmbench.models cannot be imported: torch must not be needed here" in found.stderr
