"""Who times on which card: locks between real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmbench.measure import cards

HOLD = """import sys
from llmbench.measure import cards
with cards.held(sys.argv[1:]) as card:
    print(card, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_each_process_gets_a_card_of_its_own_and_a_killed_one_lets_go() -> None:
    both = ["GPU-a", "GPU-b"]
    command = [sys.executable, "-c", HOLD, *both]
    with subprocess.Popen(
        command, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == "GPU-a"
        with cards.held(both) as own:
            assert own == "GPU-b"
            assert cards.others_held("b") == cards.others_held("GPU-b") == 1  # torch tells no `GPU-`

            def asked() -> None:
                first.kill()  # the wait ends with it

            with cards.held(both, asked) as third:
                assert third == "GPU-a"
        assert cards.others_held("GPU-b") == 0


def test_nothing_is_held_without_cards() -> None:
    with cards.held(()) as card:
        assert card is None


def test_visible_cards_are_those_that_the_variable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    cards.visible_cards.cache_clear()
    monkeypatch.setenv(cards.VISIBLE, "GPU-b, 1,")
    assert len(cards.visible_cards()) == 2
    cards.visible_cards.cache_clear()
    monkeypatch.setenv(cards.VISIBLE, "")
    assert cards.visible_cards() == ()
    cards.visible_cards.cache_clear()
