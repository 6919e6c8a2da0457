"""Write `llmbench/bundled/workloads/edit.jsonl`: texts to be written again with one name changed.

An answer repeats most of its prompt, which is what drafts from the prompt live on. The texts are prompts and references
of the stories and speeches of `continuation.jsonl` and `heldout.jsonl`; the name is the capitalised word that occurs
most often inside sentences. `python -m pretrain.edit_prompts`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

WORKLOADS = Path(__file__).parents[1] / "llmbench" / "bundled" / "workloads"
WORDS = 110
"""Most words of a text."""

LEAST = 2
"""How often the name must occur."""

NAMES = ("Alvarez", "Bertram", "Castor", "Delphine", "Emmerich", "Fairfax", "Gideon", "Hartley")

_INSIDE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{3,}\b")


def texts() -> Iterator[tuple[str, str, str]]:
    """Document, licence and text."""
    for line in (WORKLOADS / "continuation.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["task"] in ("story", "speech"):
            yield row["document"], row["license"], f"{row['prompt']} {row['reference']}"
    for number, line in enumerate((WORKLOADS / "heldout.jsonl").read_text().splitlines()):
        row = json.loads(line)
        if row["source"] in ("fiction", "tales", "speech"):
            words = row["text"].split()
            for begin in range(0, len(words) - WORDS, WORDS):
                yield f"heldout text {number}", row["license"], " ".join(words[begin : begin + WORDS])


def main() -> None:
    """Write the file."""
    rows: list[dict[str, str]] = []
    for document, licence, whole in texts():
        text = " ".join(whole.split()[:WORDS])
        found = Counter(_INSIDE.findall(text)).most_common(1)
        if not found or found[0][1] < LEAST:
            continue
        old, new = found[0][0], NAMES[len(rows) % len(NAMES)]
        instruction = f'Write this text again with "{old}" changed to "{new}". Change nothing else.'
        rows.append({
            "id": f"edit-{len(rows):03d}", "task": "edit", "document": document,
            "prompt": f"{instruction}\n\n{text}", "reference": re.sub(rf"\b{old}\b", new, text), "license": licence,
        })  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (WORKLOADS / "edit.jsonl").write_text(lines)
    print(f"{len(rows)} prompts of {len({row['document'] for row in rows})} documents")


if __name__ == "__main__":
    main()
