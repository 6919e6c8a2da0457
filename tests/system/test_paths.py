"""One rule says where results go, from wherever the program is started."""

from pathlib import Path

import pytest

from llmbench.system import paths


def test_the_nearest_folder_above_is_taken_else_one_is_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    below = tmp_path / "notebooks" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert paths.results() == below / "multirun"
    (tmp_path / "multirun").mkdir()
    assert paths.results() == tmp_path / "multirun"


def test_the_variable_comes_first_and_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "multirun").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(paths.VARIABLE, "elsewhere")
    assert paths.results() == tmp_path / "elsewhere"
