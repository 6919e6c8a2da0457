"""Which texts is the likelihood of a model measured on (`metric.likelihood_source`)?

`bundled:heldout` is a fixed set that the bundled models were not trained on. Any other source is a file:

    *.jsonl         one object a line, the text under "text"; other keys are not read, blank lines are skipped
    anything else   plain text in UTF-8; a blank line begins a new text
    *.gz, .bz2, .xz the same, compressed

Texts are read whole, in file order, by every model: they are never cut to a context, because then two models would not
be scored on the same text. The digest is over the texts as they are used, and belongs to a job's identity.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from llmbench.config.job import HELDOUT
from llmbench.data.texts import first_words, json_lines, read_utf8, suffix
from llmbench.data.workloads import BUNDLED
from llmbench.errors import WorkloadError
from llmbench.system import digests

PER_SOURCE = 4
WORDS = 80


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is scored, in order."""

    name: str
    texts: tuple[str, ...]
    shorten: str  # what to do about a text that is too long

    @property
    def digest(self) -> str:
        """12 hexadecimal digits over the texts."""
        return digests.digest(json.dumps(self.texts))


def load(source: str, count: int | None = None) -> Texts:
    """Read and check the texts of a source.

    Args:
        source: see the module docstring.
        count: so many of them: of a file the first, of the bundled ones in turn from every source. None takes all.

    Raises:
        WorkloadError: one line that names the file, the line and what to change.
    """
    if source == HELDOUT:
        return Texts(name="heldout", texts=tuple(heldout(count)), shorten="give metric.likelihood_source another file")
    path = Path(source).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WorkloadError(
            f"metric.likelihood_source={source}: {path.absolute()} {what}; give a .jsonl or text file, or {HELDOUT}"
        )
    in_lines = suffix(path) == ".jsonl"
    content = read_utf8(path, "metric.likelihood_source")
    texts = _lines(content, path) if in_lines else [part.strip() for part in re.split(r"\n[^\S\n]*\n", content)]
    texts = [text for text in texts if text]
    if not texts:
        expected = 'one JSON object a line: {"text": "..."}' if in_lines else "some text"
        raise WorkloadError(f"metric.likelihood_source: {path} is empty; write {expected}")
    if count is not None and count > len(texts):
        raise WorkloadError(f"metric.likelihood_texts={count}, but {path} has {len(texts)} texts; null takes all")
    shorten = "cut it" if in_lines else "cut it, or divide it by a blank line"
    return Texts(name=path.name, texts=tuple(texts[:count]), shorten=shorten)


def heldout(count: int | None = None) -> list[str]:
    """The bundled texts: the first 80 words of the first four texts of each of the six held-out sources.

    A fixed set, so that the figure depends on the model alone: 24 texts, about 10 kB (some chats are shorter than 80
    words), which cost the bundled models seconds.

    Args:
        count: so many of them, in turn from every source; None takes all.

    Raises:
        WorkloadError: there are not so many.
    """
    by_source: dict[str, list[str]] = {}
    for line in (BUNDLED / "heldout.jsonl").read_bytes().splitlines():  # bytes: split at line feeds only
        row = json.loads(line)
        by_source.setdefault(row["source"], []).append(first_words(row["text"], WORDS))
    whole = PER_SOURCE * len(by_source)
    if count is None:
        count = whole
    elif count > whole:
        raise WorkloadError(f"metric.likelihood_texts={count}, but there are {whole} held-out texts; null takes all")
    each, more = divmod(count, len(by_source))
    return [text for i, texts in enumerate(by_source.values()) for text in texts[: each + (i < more)]]


def _lines(content: str, path: Path) -> list[str]:
    """The "text" of every line of a JSONL file."""
    texts = []
    try:
        rows = list(json_lines(content))
    except ValueError as error:
        raise WorkloadError(f"{path}, {error}") from error
    for number, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise WorkloadError(f'{path}, line {number}: no "text"; write {{"text": "..."}}')
        if not row["text"].strip():
            raise WorkloadError(f'{path}, line {number}: "text" is empty; remove the line')
        try:
            row["text"].encode()
        except UnicodeEncodeError as error:
            raise WorkloadError(f'{path}, line {number}: "text" holds half of a character') from error
        texts.append(row["text"].strip())
    return texts
