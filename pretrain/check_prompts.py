"""Are the bundled prompts clean? ``python -m pretrain.check_prompts TEXTS ...``, one line per violation.

    python -m pretrain.check_prompts pretrain/corpus/train.jsonl.xz pretrain/corpus/valid.jsonl.xz
        llmbench/bundled/workloads/heldout.jsonl

TEXTS are files whose every line has a "text" (``.jsonl`` or ``.jsonl.xz``): what the models were trained on, what chose
their checkpoints, and the texts that measure likelihood. No 13 words in a row of a prompt with its reference
(lower-cased, without punctuation) may occur in them. Besides: every prompt has a reference and a document, no document
has more than four prompts, there are at least 150 documents, and no two prompts are equal.

Exit code 1 if there is a violation. A gigabyte of memory and half a minute for 48 MB of text.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).parents[1] / "llmbench" / "bundled" / "workloads" / "continuation.jsonl"
RUN = 13  # words; GPT-3's length for finding test text in training text (Brown et al. 2020, appendix C)
MOST_PER_DOCUMENT = 4
FEWEST_DOCUMENTS = 150

Row = Mapping[str, Any]
"""A line of a workload."""


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a ``.jsonl`` or ``.jsonl.xz`` file."""
    data = path.read_bytes()
    text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def runs(text: str) -> Iterator[str]:
    """Every 13 words in a row, lower-cased and without punctuation."""
    words = re.sub(r"[^\w\s]|_", "", text.lower()).split()
    return (" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1))


def overlaps(rows: Sequence[Row], texts: Iterable[str], name: str) -> list[str]:
    """One line per prompt that shares a run of words with a text.

    Args:
        rows: lines of a workload.
        texts: what no prompt may come from.
        name: of the texts, for the line.
    """
    wanted: dict[str, list[str]] = {}
    for row in rows:
        for run in runs(f"{row['prompt']} {row.get('reference') or ''}"):
            wanted.setdefault(run, []).append(row["id"])
    found: dict[str, str] = {}
    for text in texts:
        for run in runs(text):
            for prompt in wanted.get(run, ()):
                found.setdefault(prompt, run)
    return [f'{prompt}: in {name}: "{run}"' for prompt, run in found.items()]


def faults(rows: Sequence[Row], fewest: int = FEWEST_DOCUMENTS) -> list[str]:
    """One line per fault that the prompts have among themselves.

    Args:
        rows: lines of a workload.
        fewest: documents that there must be.
    """
    lines = [f"{row['id']}: no {key}" for row in rows for key in ("reference", "document") if not row.get(key)]
    counts = Counter(row["document"] for row in rows if row.get("document"))
    lines += [
        f"{document}: {count} prompts, at most {MOST_PER_DOCUMENT}"
        for document, count in counts.items()
        if count > MOST_PER_DOCUMENT
    ]
    if len(counts) < fewest:
        lines.append(f"{len(counts)} documents, at least {fewest}")
    first: dict[str, str] = {}
    for row in rows:
        text = " ".join(row["prompt"].split())
        if text in first:
            lines.append(f"{row['id']}: the prompt of {first[text]}")
        first.setdefault(text, row["id"])
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Check, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pretrain.check_prompts", description="Check the bundled prompts.")
    parser.add_argument("texts", nargs="+", type=Path, help="what no prompt may come from: .jsonl or .jsonl.xz files")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="default: the bundled ones")
    options = parser.parse_args(arguments)
    rows = read(options.prompts)
    lines = faults(rows)
    for path in options.texts:
        lines += overlaps(rows, (row["text"] for row in read(path)), path.name)
    print("\n".join(lines) if lines else f"{len(rows)} prompts, no violation")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
