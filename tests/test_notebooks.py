"""The notebook measures, judges, tabulates and draws a small sweep, and is committed without outputs."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from llmbench.analysis.parity.verdict import Status

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_first_look_goes_from_a_sweep_to_its_figure(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "first_look.ipynb", as_version=4)
    lines = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert len([line for line in lines if line.strip()]) < 25

    (tmp_path / "multirun").mkdir()
    shutil.copy(empty_store, tmp_path / "multirun")
    monkeypatch.setenv("LLMBENCH_RESULTS", str(tmp_path / "multirun"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for cell in notebook.cells:
        # the same sweep of fewer passes
        cell.source = cell.source.replace('workload={"prompts": 8}', SHORTER)
    client = NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()

    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert "llada k=16" in shown
    (status,) = set(re.findall(r"<Status\.\w+: '(\w+)'>", shown))
    assert f"{Status(status).value.upper().replace('_', ' ')}. " in shown  # the verdict, printed
    assert "text/html" in shown  # the DataFrames
    assert "image/png" in shown
    assert len(list((tmp_path / "multirun").glob("*/*/record.json"))) == 5


SHORTER = (
    'workload={"prompts": 4}, timing={"repeats": 2}, hardware="cpu", parity={"baseline_temperatures": [0.0]}, '
    'metric={"likelihood": False, "bertscore": None, "roofline": False}'
)
