"""The check of the bundled prompts finds what it is for; the bundled ones pass what needs no training text."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmbench.data import workloads
from pretrain.check_prompts import PROMPTS, faults, main, overlaps, read, runs

WORDS = [f"w{i}" for i in range(20)]
COUNTS = {"story": 25, "speech": 20, "chat": 149, "poem": 212}
DOCUMENTS = {"story": 7, "speech": 5, "chat": 60, "poem": 106}
FIRST_48 = 36  # documents behind the first 12 prompts of each task


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "prompt": f"a prompt {name}", "reference": "what follows", "document": name} | changes


def test_runs_are_of_thirteen_words_without_case_and_punctuation() -> None:
    assert list(runs("A, b-b C's d e f g h i j k l m! _N_")) == [
        "a bb cs d e f g h i j k l m",
        "bb cs d e f g h i j k l m n",
    ]
    assert list(runs(" ".join("a" * 12))) == []


@pytest.mark.parametrize(("shared", "found"), [(13, True), (12, False)])
def test_thirteen_shared_words_are_found_across_prompt_and_reference(shared: int, found: bool) -> None:
    own = row("one", prompt=" ".join(WORDS[:8]), reference=" ".join(WORDS[8:]))
    text = "Before, " + "\n".join(WORDS[2 : 2 + shared]).upper() + "; after."
    lines = overlaps([own, row("two")], ["nothing of it", text], "train")
    assert lines == ([f'one: in train: "{" ".join(WORDS[2:15])}"'] if found else [])


def test_faults_among_the_prompts_are_named() -> None:
    four = [row(f"r{i}", document="d") for i in range(4)]
    assert faults([*four, row("e")], fewest=2) == []
    assert faults([*four, row("r4", document="d"), row("e")], fewest=2) == ["d: 5 prompts, at most 4"]
    assert faults([*four, row("e")], fewest=3) == ["2 documents, at least 3"]
    same = row("f", prompt="a  prompt\ne")
    assert faults([row("e"), same], fewest=1) == ["f: the prompt of e"]
    bare = row("g", reference=None, document="")
    assert faults([row("e"), bare], fewest=1) == ["g: no reference", "g: no document"]


def test_the_exit_code_and_a_line_for_each_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(f"r{i}") for i in range(150)]
    prompts, text = tmp_path / "prompts.jsonl", tmp_path / "train.jsonl.xz"
    rows[7]["reference"] = " ".join(WORDS)

    def run(words: list[str]) -> tuple[int, list[str]]:
        prompts.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
        with lzma.open(text, "wt", encoding="utf-8") as file:
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
        code = main([str(text), "--prompts", str(prompts)])
        return code, capsys.readouterr().out.splitlines()

    assert run(["x"]) == (0, ["150 prompts, no violation"])
    assert run(WORDS) == (1, [f'r7: in train.jsonl.xz: "{" ".join(WORDS[:13])}"'])
    rows.pop()
    assert run(["x"]) == (1, ["149 documents, at least 150"])


def test_the_bundled_prompts_have_documents_and_no_text_twice() -> None:
    rows = read(PROMPTS)
    assert faults(rows) == []
    assert Counter(r["task"] for r in rows) == COUNTS
    assert {t: len({r["document"] for r in rows if r["task"] == t}) for t in COUNTS} == DOCUMENTS
    seen: list[str] = []
    for task in COUNTS:  # the second prompt of a document comes after the first of every other
        documents = [r["document"] for r in rows if r["task"] == task]
        assert len(set(documents[: DOCUMENTS[task]])) == DOCUMENTS[task]
        seen += documents[:12]
    assert len(set(seen)) == FIRST_48
    assert not overlaps(rows, (r["text"] for r in read(workloads.BUNDLED / "heldout.jsonl")), "heldout")
    assert PROMPTS.stat().st_size < 2**21
