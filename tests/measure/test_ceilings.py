"""The device's limits: measured once, physically possible, and judged only where they bind."""

from pathlib import Path

import pytest

from llmbench.config.job import HardwareConfig
from llmbench.measure import ceilings, device

CPU = HardwareConfig(device="cpu", dtype="float32")


def _cache(folder: Path, index: int, level: int, kind: str, size: str) -> None:
    entry = folder / f"index{index}"
    entry.mkdir(parents=True)
    for name, text in (("level", str(level)), ("type", kind), ("size", size)):
        (entry / name).write_text(text + "\n")


def test_the_last_level_cache_is_the_highest_level_that_holds_data(tmp_path: Path) -> None:
    _cache(tmp_path, 0, 1, "Data", "48K")
    _cache(tmp_path, 1, 1, "Instruction", "32K")
    _cache(tmp_path, 2, 2, "Unified", "1280K")
    _cache(tmp_path, 3, 3, "Unified", "48M")
    assert ceilings.last_level_cache_bytes("cpu", tmp_path) == 48 * 2**20


def test_an_unknown_cache_is_none(tmp_path: Path) -> None:
    assert ceilings.last_level_cache_bytes("cpu", tmp_path / "missing") is None
    _cache(tmp_path, 0, 1, "Data", "huge")
    assert ceilings.last_level_cache_bytes("cpu", tmp_path) is None


@pytest.mark.parametrize(
    ("cache", "weights", "judged"),
    [(10, 41, True), (10, 40, False), (10, 1, False), (None, 10**12, False)],
)
def test_weights_are_judged_only_above_four_caches(
    monkeypatch: pytest.MonkeyPatch, cache: int | None, weights: int, judged: bool
) -> None:
    monkeypatch.setattr(ceilings, "last_level_cache_bytes", lambda device: cache)
    monkeypatch.setattr(ceilings, "_rates", lambda *hardware: (1.0, 1.0))
    assert ceilings.measure(CPU, weights).judged is judged


def test_measured_ceilings_are_possible_and_measured_once() -> None:
    first = device.ceilings(CPU, 14_000_000)
    assert 1e8 < first.flops_per_s < 1e15
    assert 1e8 < first.bytes_per_s < 1e14
    again = device.ceilings(CPU, 14_000_000)
    assert (again.flops_per_s, again.bytes_per_s) == (first.flops_per_s, first.bytes_per_s)
