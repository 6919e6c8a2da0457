"""Figures are the same files whatever a user's Matplotlib is set to, and one that fails is said."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from llmbench.analysis.parity.analyze import parity
from llmbench.report.assemble import sweep_report
from records import make_sweep

ODD_SETTINGS = [
    {"text.usetex": True, "font.family": ["serif"], "font.size": 30},
    {"savefig.bbox": "tight", "savefig.transparent": True, "axes.facecolor": "black", "path.sketch": (1, 100, 2)},
]


@pytest.mark.parametrize("settings", ODD_SETTINGS)
def test_a_user_s_settings_of_matplotlib_change_no_file(settings: dict[str, Any]) -> None:
    records = make_sweep((8, 16))
    verdict = parity(records)
    plain = sweep_report(records, [verdict], recipe="parity").files
    with matplotlib.rc_context(settings):
        odd = sweep_report(records, [verdict], recipe="parity").files
        kept = {key: matplotlib.rcParams[key] for key in settings}
    assert {name: odd[name] == content for name, content in plain.items() if name.endswith(".png")} == {
        "parity.png": True,
        "frontier.png": True,
    }
    assert kept == settings, "the user's own figures are drawn as before"


@pytest.mark.parametrize("name", ["module://matplotlib_inline.backend_inline", "module://no.such", "nonsense", "tkagg"])
def test_a_backend_for_windows_keeps_no_figure_from_its_file(name: str) -> None:
    program = """
import os
from llmbench.system.plotting import own_settings
with own_settings():
    from matplotlib.figure import Figure
    Figure().savefig(os.devnull, format="png")
import matplotlib
print(matplotlib.rcParams["backend"], os.environ["MPLBACKEND"])
"""
    environment = os.environ | {"MPLBACKEND": name, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    backend, kept = done.stdout.split()
    assert kept == name
    assert backend == name or name == "nonsense"


def test_a_figure_that_cannot_be_drawn_is_said_where_the_table_is(monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_sweep((8, 16))
    verdict = parity(records)

    def fail(*arguments: object, **settings: object) -> None:
        raise RuntimeError("no\nink")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    made = sweep_report(records, [verdict], recipe="parity")
    assert "parity.md" in made.files
    for shown in (made.text, made.note):
        assert "No figure could be drawn (RuntimeError: no ink)" in shown
