"""Which prompts does a job answer, and what did a human write there?

A workload is a JSONL file, one object a line: `prompt` (the only key that is needed), `reference` (a human's text in
its place, or null), `answer` (one plain number that a right text ends on; a reference that ends as GSM8K's
do, `#### 42`, brings it along), `id` (default: the line's number), `task` (default "all"), `document` (where the prompt
was taken from: prompts of one document are a cluster to the analysis); other keys are not read. Or it is a data set
(`llmbench.data.hf_datasets`) whose fields the configuration names; rows without a prompt are left out there.

Two selected prompts of equal text are refused: they would count as two and say what one says.

`workload.tasks` keeps some of the tasks. One prompt of each task is taken in turn, in file order, so 52 prompts of four
tasks are 13 of each, and fewer prompts are a prefix of more.

Lengths are cut in *words* (`texts`), never in tokens: both models under test read the same text whatever their
tokenizers. A prompt keeps its last words (the ones that its continuation depends on), a reference its first; the
whitespace between the words stays, because the line ends of verse and chats are part of the text. Whitespace at the
ends goes.

`source=synthetic` reads no file: prompts are `prompt_tokens` random draws each, which every checkpoint maps onto its
own ordinary tokens (`CheckpointFiles.prompt_ids`). Both sides get equal draws whatever their vocabularies, all prompts
are equally long, and nothing can be said about quality.

The digest is taken over the selected prompts as they are used, after cutting: two jobs with equal digests read the
same text, from whatever file. Bundled files and their licences: `llmbench/bundled/workloads/README.md`.
"""

import difflib
import functools
import itertools
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmbench.config.job import SYNTHETIC, WorkloadConfig
from llmbench.data import hf_datasets, texts
from llmbench.data.texts import count_words, first_words, last_words
from llmbench.errors import WorkloadError
from llmbench.system import digests

_NUMBER = r"[-−]?[$€£]?(?:(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)%?"
"""One plain number, with a sign, a currency, thousands separators or a percent sign; nothing else is graded rightly."""

_ANSWER = re.compile(rf"####\s*({_NUMBER})\s*$")
"""The last line of GSM8K's solutions."""

_KEYS = ("prompt", "reference", "answer", "id", "task", "document")
"""What is read of a line."""

_LINE = '{"prompt": "...", "reference": "..."}'

BUNDLED = Path(__file__).parents[1] / "bundled" / "workloads"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question and, where it exists, what a human wrote there."""

    id: str
    task: str
    text: str  # "" where the prompt is `draws`
    reference: str | None
    answer: str | None = None
    """One plain number; a right text ends on it (`llmbench.metrics.answers`)."""
    document: str | None = None  # where it was taken from; None: a document of its own
    gap: str = " "
    """The whitespace between prompt and reference, which tokenizers see: a new line where the prompt is in lines and
    ends on a whole one (verse), else a space (prose, or a chat that ends on `A:`)."""
    draws: tuple[int, ...] | None = None
    """One random number in [0, 2^32) per token of a synthetic prompt; None where the prompt is `text`."""

    @property
    def tail(self) -> str:
        """A floor text: the prompt's last words, as many as the reference has (all, if it has more or is missing)."""
        return last_words(self.text, None if self.reference is None else count_words(self.reference))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The selected prompts, in the order in which they are batched."""

    name: str
    digest: str  # 12 hexadecimal digits over `prompts`
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()  # on the file, for people: keys of its lines that are not read

    def require_references(self, metric: str) -> None:
        """Refuse prompts without a reference when `metric` compares with one.

        Raises:
            WorkloadError: naming the first such prompt.
        """
        for prompt in self.prompts:
            if prompt.reference is None:
                raise WorkloadError(
                    f"workload {self.name}: prompt {prompt.id!r} has no reference, which metric.{metric} compares "
                    f"with; set metric.{metric}=null, or give every prompt a reference"
                )


def load(config: WorkloadConfig) -> Workload:
    """Read, check, select and cut the prompts of a workload.

    Raises:
        WorkloadError: one line that names the file, the line and what to change. The whole file is checked, also
            the lines that are not selected.
    """
    if config.source == SYNTHETIC:
        return _synthetic(config)
    if config.tasks is not None and not config.tasks:
        raise WorkloadError("workload.tasks is empty; null keeps all")
    notes: tuple[str, ...] = ()
    if config.prompt_field is not None:
        rows = hf_datasets.read(config)
        name = where = rows.name
        prompts = _from_rows(rows)
        if left_out := rows.rows[-1][0] - len(rows.rows):
            notes = (f"{where}: rows without a prompt, left out: {left_out}",)
    else:
        path, name = _locate(config.source)
        where, (prompts, unread) = str(path), _read(path, digests.stamp([path]))
        if unread and path.parent != BUNDLED:
            notes = (f"{path}: keys that are not read: {', '.join(map(_perhaps, unread))}",)
    if config.tasks is not None:
        known = sorted({prompt.task for prompt in prompts})
        if unknown := sorted(set(config.tasks) - set(known)):
            raise WorkloadError(f"workload.tasks: {where} has no task {unknown[0]!r}; there are {', '.join(known)}")
        prompts = [prompt for prompt in prompts if prompt.task in config.tasks]
    if len(prompts) < config.count:
        raise WorkloadError(
            f"workload.prompts={config.count}, but {where} has only {len(prompts)}"
            f"{' of these tasks' if config.tasks else ''}; "
            f"set workload.prompts={len(prompts)}"
        )
    selected = tuple(
        Prompt(
            id=prompt.id,
            task=prompt.task,
            text=last_words(prompt.text, config.prompt_words),
            reference=None if prompt.reference is None else first_words(prompt.reference, config.reference_words),
            answer=prompt.answer,
            document=prompt.document,
            gap=prompt.gap,
        )
        for prompt in itertools.islice(_in_turn(prompts), config.count)
    )
    _require_different(selected, where)
    uncut = [p for p in selected if not (texts.has_words(p.text) and texts.has_words(p.reference or ""))]
    if uncut and (config.prompt_words or config.reference_words):
        notes += (
            f"{where}: prompts in a script without blanks between words: {len(uncut)}; "
            "workload.prompt_words and reference_words count what stands between blanks, and hardly cut them",
        )
    return replace(_workload(name, selected, [_digested(p) for p in selected]), notes=notes)


def _require_different(prompts: Iterable[Prompt], where: str) -> None:
    """Refuse two prompts of equal text. Raises WorkloadError."""
    first: dict[str, str] = {}
    for prompt in prompts:
        if (other := first.setdefault(prompt.text, prompt.id)) != prompt.id:
            raise WorkloadError(
                f"{where}: prompts {other!r} and {prompt.id!r} are the same text after cutting, and would count twice; "
                "remove one of them, or raise workload.prompt_words (null keeps all)"
            )


def _perhaps(key: str) -> str:
    """A key, with the one that it may have been meant to be."""
    close = difflib.get_close_matches(key.lower(), _KEYS, n=1, cutoff=0.7)
    return f"{key!r} (did you mean {close[0]!r}?)" if close else repr(key)


def _digested(prompt: Prompt) -> tuple[Any, ...]:
    """What the digest is taken over; answer and document only where there is one."""
    common = (prompt.id, prompt.task, prompt.text, prompt.reference, prompt.gap)
    answer = () if prompt.answer is None else (prompt.answer,)
    return (*common, *answer) if prompt.document is None else (*common, *answer, {"document": prompt.document})


def _synthetic(config: WorkloadConfig) -> Workload:
    """Random prompts; with more of them, or longer ones, the first draws stay the same."""
    prompts = []
    for number in range(config.count):
        draw = random.Random(f"{config.seed}/{number}").getrandbits
        draws = tuple(draw(32) for _ in range(config.prompt_tokens or 0))
        prompts.append(Prompt(id=f"synthetic-{number}", task=SYNTHETIC, text="", reference=None, draws=draws))
    return _workload(SYNTHETIC, tuple(prompts), [(p.id, p.draws) for p in prompts])


def _workload(name: str, prompts: tuple[Prompt, ...], content: Sequence[Any]) -> Workload:
    return Workload(name=name, digest=digests.digest(json.dumps(content)), prompts=prompts)


def _locate(source: str) -> tuple[Path, str]:
    """The file behind `workload.source`, and its name for people."""
    prefix, _, name = source.partition(":")
    if prefix == "bundled":
        known = sorted(path.stem for path in BUNDLED.glob("*.jsonl") if path.stem != "heldout")
        if name not in known:
            raise WorkloadError(
                f"workload.source={source}: no such bundled workload; there are bundled:{', bundled:'.join(known)}"
            )
        return BUNDLED / f"{name}.jsonl", name
    path = Path(source).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WorkloadError(
            f"workload.source={source}: {path.absolute()} {what}; give a JSONL file or bundled:continuation"
        )
    return path, path.name


@functools.lru_cache(maxsize=4)
def _read(path: Path, stamp: digests.Stamp) -> tuple[list[Prompt], list[str]]:
    """Every prompt of a JSONL file, and the keys that are not read; blank lines are skipped.

    Args:
        path: of the file.
        stamp: changes when the file does: all jobs of a sweep read one file.
    """
    if texts.suffix(path) in (".parquet", ".csv", ".tsv"):
        raise WorkloadError(f"workload.source: {path} is no JSONL file, but perhaps a data set; {_DATASET}")
    text = texts.read_utf8(path, "workload.source")
    prompts: list[Prompt] = []
    lines: dict[str, int] = {}
    unread: dict[str, None] = {}
    for number, row in enumerate(text.split("\n"), start=1):  # not splitlines: JSON text may hold U+2028
        if not row.strip():
            continue
        try:
            values = _object(row)
            prompt = _prompt(values, f"line-{number}")
            if prompt.id in lines:
                raise ValueError(f'"id" {prompt.id!r} is already on line {lines[prompt.id]}; ids must differ')
        except ValueError as error:
            raise WorkloadError(f"{path}, line {number}: {error}") from error
        lines[prompt.id] = number
        prompts.append(prompt)
        unread |= dict.fromkeys(values.keys() - {*_KEYS})
    if not prompts:
        raise WorkloadError(f"{path} has no prompts; write one JSON object a line: {_LINE}")
    return prompts, sorted(unread)


def _from_rows(source: hf_datasets.Rows) -> list[Prompt]:
    """The rows of a data set as Prompts."""
    prompts = []
    for number, row in source.rows:
        names = {key: str(row[key]) for key in ("task", "document") if type(row.get(key)) is int}
        try:
            prompts.append(_prompt(row | names, f"row-{number}"))
        except _ValueOfKeyError as error:
            hint = ""
            if isinstance(row[error.key], datetime):
                hint = "; was it a text of a JSON file? workload.source=FILE, in place of its folder, keeps texts"
            elif error.key == "reference" and type(row["reference"]) in _NUMBERS:
                hint = "; answers that are numbers go into workload.answer_field, not reference_field"
            field = source.fields[error.key]
            raise WorkloadError(f"{source.name}, row {number}, field {field!r}: {error}{hint}") from error
    if not prompts:
        raise WorkloadError(f"{source.name} has no row with a prompt; set workload.prompt_field to another field")
    return prompts


class _ValueOfKeyError(ValueError):
    """What a row says under a key cannot be used."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f'"{key}" {what}')
        self.key = key


_NUMBERS = (int, float, Decimal)

_DATASET = "those are read with workload=dataset workload.prompt_field=FIELD"


def _object(line: str) -> dict[str, Any]:
    """One line as an object that has a prompt. Raises ValueError with what is wrong, without file and line."""
    try:
        row = texts.parse_json(line)
    except ValueError as error:
        looks = "" if line.lstrip().startswith("{") else f"; a line looks like {_LINE}; Parquet and CSV: {_DATASET}"
        raise ValueError(f"{error}{looks}") from error
    if not isinstance(row, dict):
        raise ValueError(f'{type(row).__name__} instead of an object; write {{"prompt": "..."}}')
    if "prompt" not in row:
        raise ValueError(f'no "prompt"; the keys are {", ".join(map(repr, row)) or "none"}')
    return row


def _prompt(row: dict[str, Any], name: str) -> Prompt:
    """A Prompt from its keys. Raises ValueError."""
    prompt = _text(row, "prompt")
    if row.get("reference") == "":
        row["reference"] = None
    if type(row.get("id")) is int:
        row["id"] = str(row["id"])
    if type(row.get("answer")) in _NUMBERS:
        row["answer"] = format(Decimal(str(row["answer"])), "f")  # 1e-05 would be read as -5
    given = {key: _text(row, key) for key in _KEYS[1:] if row.get(key) is not None}
    if "answer" not in given and (marked := _ANSWER.search(given.get("reference", ""))):
        given["answer"] = marked[1]
    if "answer" in given and not re.fullmatch(_NUMBER, given["answer"]):
        shown = given["answer"][:40]
        raise _ValueOfKeyError(
            "answer",
            f"must be one plain number such as -1,234.5, not {shown!r}; leave it out if it cannot be checked",
        )
    return Prompt(
        id=given.get("id", name),
        task=given.get("task", "all"),
        text=prompt,
        reference=given.get("reference"),
        answer=given.get("answer"),
        document=given.get("document"),
        gap="\n" if "\n" in prompt and not prompt.endswith(":") else " ",
    )


def _text(row: dict[str, Any], key: str) -> str:
    """A text that has words and can be written as UTF-8, without whitespace at its ends."""
    value = row[key]
    if not isinstance(value, str):
        raise _ValueOfKeyError(key, f"must be a text, not {_shown(value)}")
    if not value.strip():
        raise _ValueOfKeyError(key, "is empty; " + ("remove the line" if key == "prompt" else "leave it out instead"))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise _ValueOfKeyError(key, f"holds half of a character ({half}) and is no valid text") from error
    return value.strip()


def _shown(value: Any) -> str:
    """A value in an error: as JSON writes it, or what JSON does not know with its type (`date 2024-01-01`)."""
    try:
        return json.dumps(value)[:40]
    except (TypeError, ValueError):
        return f"{type(value).__name__} {value}"[:40]


def _in_turn(prompts: Iterable[Prompt]) -> Iterable[Prompt]:
    """One prompt of each task in turn, in file order; a task that runs out is passed over."""
    tasks: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        tasks.setdefault(prompt.task, []).append(prompt)
    rounds = itertools.zip_longest(*tasks.values())
    return (prompt for turn in rounds for prompt in turn if prompt is not None)
