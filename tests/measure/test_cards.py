"""Who times on which card: locks between real processes."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from llmbench.measure import cards

HOLD = """import sys
from llmbench.measure import cards
with cards.held(sys.argv[1:]) as card:
    print(card, flush=True)
    input()
"""


def test_each_process_gets_a_card_of_its_own_and_a_killed_one_lets_go() -> None:
    both = [f"GPU-{uuid.uuid4()}" for _ in range(2)]
    command = [sys.executable, "-c", HOLD, *both]
    with subprocess.Popen(
        command, env=dict(os.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == both[0]
        with cards.held(both) as own:
            assert own == both[1]
            named = [cards.others_held(both[1]), cards.others_held(both[1].removeprefix("GPU-"))]  # as torch says it
            assert named == [cards.others_held(None) - 1] * 2
            assert named[0] >= 1

            def asked() -> None:
                first.kill()  # the wait ends with it

            with cards.held(both, asked) as third:
                assert third == both[0]
        assert cards.others_held(both[1]) == named[0] - 1


def test_a_card_whose_lock_cannot_be_made_is_used_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_folder", lambda: tmp_path / "file" / "no folder")
    (tmp_path / "file").touch()
    with cards.held(["GPU-a"]) as card:
        assert card == "GPU-a"
    assert cards.others_held("GPU-a") == 0


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
