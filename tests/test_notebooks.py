"""The notebook of first looks runs against a real store, and is committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from llmbench.analysis.parity.analyze import verdicts
from llmbench.config.job import TrackingConfig
from llmbench.tracking import open_store
from records import make_sweep

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_first_look_shows_the_verdict_of_the_newest_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "multirun").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(TrackingConfig(uri=None, experiment="llmbench"))
    parent = store.start_sweep(name="sweep", command="python -m llmbench -m model=llama,llada", jobs=5)
    records = make_sweep()
    for record in records:
        store.log_job(record, parent=parent, steps_axis=[8, 16, 32, 64], swept={})
    store.finish_sweep(parent, verdicts(records), records)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / "first_look.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    client.execute()

    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert "LLaDA matches LLaMA's perplexity at k = 32" in shown
    assert "| llada k=64 |" in shown
    assert "image/png" in shown
    assert "Opening number 0" in shown
