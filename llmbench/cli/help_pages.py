"""Which settings are there, what do they stand at, and which one was meant by a key that does not exist?

Read from the files of `conf/` as text, so that the comments come along and `--help` imports nothing heavy. The files
are block style, two spaces a level, with one comment behind a value. `llmbench.cli` is the caller.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.config.compose import conf_folder


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key as one file has it."""

    key: str  # dotted, as it is typed: timing.repeats, model.decoder.top_p
    value: str  # "" above a level of its own
    comment: str
    group: str  # "" for conf/config.yaml
    choice: str


@functools.cache
def settings() -> tuple[Setting, ...]:
    """Every key of every file, but of recipes and checkpoints, which only set keys of others."""
    root = conf_folder()
    found = list(_of_file(root / "config.yaml", "", ""))
    for group, choices in groups().items():
        for choice, _ in choices:
            path = root / group / f"{choice}.yaml"
            if "# @package" not in path.read_text():
                found += _of_file(path, group, f"{group.replace('/', '.')}.")
    return tuple(found)


def _of_file(path: Path, group: str, prefix: str) -> Iterator[Setting]:
    """The keys of a file in order."""
    above: list[str] = []
    for line in path.read_text().splitlines():
        parts = re.match(r"( *)(\w+):(?: +(?!#)(.*?))?(?: +# (.*))?$", line)
        if parts is None:
            continue
        del above[len(parts[1]) // 2 :]
        above.append(parts[2])
        if above[0] not in ("defaults", "hydra"):
            key, value, comment = ".".join(above), parts[3] or "", parts[4] or ""
            yield Setting(key=prefix + key, value=value, comment=comment, group=group, choice=path.stem)


@functools.cache
def groups() -> dict[str, list[tuple[str, str]]]:
    """Every configuration group with its choices and the comment that each file begins with."""
    found: dict[str, list[tuple[str, str]]] = {}
    root = conf_folder()
    for path in sorted(root.glob("*/**/*.yaml")):
        comments = [
            line[2:] for line in path.read_text().splitlines() if line.startswith("# ") and "@package" not in line
        ]
        group = path.parent.relative_to(root).as_posix()
        found.setdefault(group, []).append((path.stem, comments[0] if comments else ""))
    return found


def dials() -> set[str]:
    """The single values at the top, which every model may be told."""
    return {item.key for item in settings() if not item.group and "." not in item.key and item.value}


def recipe_axes(name: str) -> list[str]:
    """The keys that a file of conf/experiment sweeps over; none for a file that is not there."""
    path = conf_folder() / "experiment" / f"{name}.yaml"
    below = path.read_text().partition("\n    params:\n")[2] if path.is_file() else ""
    return re.findall(r"^      (\S+):", below, flags=re.MULTILINE)


def _names() -> set[str]:
    """What an override can begin with."""
    return {item.key for item in settings() if "." not in item.key} | {*groups()}


# ---------------------------------------------------------------------------------------------------------------------
# A key that does not exist


def unknown(key: str, arguments: Sequence[str] = ()) -> str:
    """What to say of a key that the composed configuration does not have.

    Args:
        key: as Hydra names it.
        arguments: the command line, for the value that was to be set.
    """
    key = key.lstrip("+~")
    first, leaf = key.partition(".")[0], key.rpartition(".")[2]
    if first not in _names():
        close = difflib.get_close_matches(first, sorted(_names()), n=1)
        return f"{key}: no such key or group" + (f"; did you mean {close[0]}?" if close else "; see --help")
    if choices := _choices_with(key):
        return _of_others(key, choices, arguments)
    meant = _meant(key)
    if meant.rpartition(".")[2] in dials() and meant.startswith("model.decoder."):
        meant = meant.rpartition(".")[2]  # the spelling that a sweep of several models takes too
    if not meant and leaf in dials():
        meant = leaf
    topic = f"see --help {first}"
    return f"{key}: no such key or group; " + (f"did you mean {meant}? ({topic})" if meant else topic)


def _choices_with(key: str) -> list[str]:
    """The choices (`model=llada`) under which a key exists, for a key that does not exist under all."""
    with_it = [item for item in settings() if item.key == key]
    if with_it and with_it[0].group == "model/decoder":
        return [f"model={model}" for item in with_it for model in _models_with(item.choice)]
    return [f"{item.group}={item.choice}" for item in with_it if item.group]


def _models_with(decoder: str) -> list[str]:
    """The choices of `model` that come with a decoder."""
    files = sorted((conf_folder() / "model").glob("*.yaml"))
    return [path.stem for path in files if f"- decoder: {decoder}\n" in path.read_text()]


def _of_others(key: str, choices: Sequence[str], arguments: Sequence[str]) -> str:
    """A key that some choices have and a chosen one has not."""
    leaf = key.rpartition(".")[2]
    said = f"{key}: only {', '.join(choices)} {'has' if len(choices) == 1 else 'have'} it"
    if not key.startswith("model.decoder."):
        return said
    if leaf not in dials():
        return f"{said}; leave the others out, or give them a sweep of their own"
    given = [text.partition("=")[2] for text in arguments if text.partition("=")[0].lstrip("+") == key]
    return f"{said}; write {leaf}={given[-1] if given else '...'}, which the others ignore"


def _meant(key: str) -> str:
    """The key of the same group that was probably meant; "" for none."""
    first, (parent, _, leaf) = key.partition(".")[0], key.rpartition(".")
    known = [item.key for item in settings() if item.key.startswith(f"{first}.") and item.value]
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == parent}
    if close := difflib.get_close_matches(leaf, beside, n=1, cutoff=0.45):
        return beside[close[0]]
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(known)}
    close = difflib.get_close_matches(leaf, elsewhere, n=1, cutoff=0.75)
    return elsewhere[close[0]] if close and elsewhere[close[0]] != key else ""


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def _columns(indent: str, rows: Iterable[tuple[str, str]], least: int) -> list[str]:
    """Names and comments in two columns that never touch; names without a comment may be longer."""
    rows = list(rows)
    width = max([least, *(len(name) + 2 for name, comment in rows if comment)])
    return [f"{indent}{name:<{width}}{comment}".rstrip() for name, comment in rows]


def topic_page(topic: str) -> str | None:
    """The text of `--help TOPIC`: a group, or a key of conf/config.yaml with those below it; None if there is none."""
    topic = topic.replace(".", "/") if topic.replace(".", "/") in groups() else topic
    lines: list[str] = []
    for group, choices in groups().items():
        if group == topic or group.startswith(f"{topic}/"):
            lines += [f"{group}, chosen with {group}=choice (with -m also {group}=a,b):"]
            lines += [*_columns("  ", choices, 16), ""]
    files = dict.fromkeys(
        (s.group, s.choice) for s in settings() if s.group == topic or s.group.startswith(f"{topic}/")
    )
    for group, choice in files:
        own = [item for item in settings() if (item.group, item.choice) == (group, choice)]
        lines += [f"With {group}={choice}, changed with key=value:"]
        lines += [*_columns("  ", [(f"{s.key}: {s.value}".rstrip(), s.comment) for s in own], 24), ""]
    own = [s for s in settings() if not s.group and (s.key == topic or s.key.startswith(f"{topic}."))]
    own = [item for item in own if item.value or item.comment]
    if own and not files:
        lines += ["Changed with key=value (with -m also key=a,b):"]
        lines += _columns("  ", [(f"{s.key}: {s.value}".rstrip(), s.comment) for s in own], 24)
    return "\n".join(lines).rstrip() if lines else None


def help_page() -> str:
    """The text of `--help`, made from the files of `conf/`."""
    lines = [
        "llmbench: at what number of diffusion steps does LLaDA match LLaMA's quality, and is it faster there?",
        "",
        "  python -m llmbench -m model=llama,llada steps=8,16,32,64     the sweep and its parity verdict",
        "  python -m llmbench model=llada steps=16                      one job",
        "  python -m llmbench -m ... dry_run=true                       the plan, and nothing runs",
        "  python -m llmbench --help workload                           the keys of a group and their defaults",
        "  python -m llmbench report parity                             a table again, from what was recorded",
        "  python -m llmbench eval run --model llmbench --tasks ...  tasks of lm-evaluation-harness",
        "",
        "Groups, chosen with group=choice (with -m also group=a,b):",
    ]
    for group, choices in groups().items():
        lines.append(f"  {group}")
        lines += _columns("    ", choices, 16)
    lines += ["", "Values, changed with key=value (with -m also key=a,b):"]
    rows = []
    for item in settings():
        if not item.group:
            indent, name = "  " * item.key.count("."), item.key.rpartition(".")[2]
            rows.append((f"{indent}{name}: {item.value}".rstrip(), item.comment))
    lines += _columns("  ", rows, 24)
    lines += [
        "",
        "Any key inside a group can be changed too: workload.prompts=150 (--help workload lists them). What the",
        "decoder of one model alone has can be told to that model alone: model=llama model.decoder.top_p=0.9.",
        "Also: --cfg job (print the composed configuration), --version. Definitions: docs/metrics.md.",
    ]
    return "\n".join(lines)
