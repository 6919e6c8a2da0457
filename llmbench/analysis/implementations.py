"""With which code was a side run, and how is that called?

One model may be run by our engine, by Transformers or by a server, each with or without drafts. All of them write the
same text, or text of the same distribution, at other speeds (docs/method.md). Conditions that say which it was are the
options that `config.decoders` marks as `implementation`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llmbench.analysis.formats import called
from llmbench.config.decoders import implementation_conditions, label_conditions, labelled
from llmbench.record import Record, from_server

IMPLEMENTATION = implementation_conditions("autoregressive")
"""Conditions that say with which code a baseline is generated, and so how fast; not which text."""

_DRAFTS = {
    "lookup": "with prompt lookup",
    "model": "with a smaller model's drafts",
    "llada": "with LLaDA's drafts",
    "self": "with its own drafts",
}

_TOLD = label_conditions() | {"decoding.kind", "decoding.trust_same_hardware"}
"""What a label says already, or what tells no two implementations apart."""


@dataclass(frozen=True, kw_only=True)
class ImplementationName:
    """One way of running a model; `str` is its name in prose."""

    model: str
    engine: Literal["ours", "transformers", "server"] = "ours"
    draft: str | None = None  # lookup, model, llada, self
    server: str = ""  # its software and version, as far as it says them
    settings: tuple[str, ...] = ()  # what else tells it from the others: `static`, `draft_tokens=4`

    def __str__(self) -> str:
        """`LLaMA plain, our engine`, `LLaMA with prompt lookup, our engine`, `LLaMA through Transformers (static)`."""
        name = called(self.model)
        drafted = _DRAFTS.get(self.draft, f"with draft={self.draft}") if self.draft else ""
        if self.engine == "ours":
            said = f"{name} {drafted or 'plain'}, our engine"
        else:
            through = "Transformers" if self.engine == "transformers" else self.server or "a server"
            said = f"{name} {drafted}, through {through}" if drafted else f"{name} through {through}"
        return f"{said} ({', '.join(self.settings)})" if self.settings else said


def way_of(record: Record) -> tuple[str | None, ...]:
    """What tells implementations apart: the values of their conditions. An option that is null may be absent."""
    found = (record.conditions.get(key) for key in sorted(IMPLEMENTATION))
    return tuple(None if value == "None" else value for value in found)


def implementation_name(record: Record, among: Iterable[Record] = ()) -> ImplementationName:
    """How the implementation is called that made a Record.

    Args:
        record: of either family.
        among: the Records that it is told from.
    """
    decoder = record.config.get("model", {}).get("decoder", {})
    words = [
        word for key, word in labelled(decoder).items() if f"decoding.{key}" in IMPLEMENTATION - {"decoding.draft"}
    ]
    served = from_server(record)
    kind = record.conditions.get("decoding.kind", "")
    return ImplementationName(
        model=record.model,
        engine="server" if served else "transformers" if kind == "transformers" else "ours",
        draft=record.draft,
        server=record.conditions.get("device_name", "").partition(" at ")[0] if served else "",
        settings=(*words, *apart([record, *among])[id(record)]),
    )


def apart(records: Sequence[Record]) -> dict[int, tuple[str, ...]]:
    """By a Record's id: the settings of its implementation that tell it from others of its label."""
    twins: dict[str, list[Record]] = {}
    for record in records:
        twins.setdefault(record.label, []).append(record)
    found: dict[int, tuple[str, ...]] = {}
    for members in twins.values():
        differ = [key for key in sorted(IMPLEMENTATION - _TOLD) if len({r.conditions.get(key) for r in members}) > 1]
        for record in members:
            own = [(key, record.conditions[key]) for key in differ if record.conditions.get(key, "None") != "None"]
            found[id(record)] = tuple(f"{key.removeprefix('decoding.')}={value}" for key, value in own)
    return found


def row_labels(records: Sequence[Record]) -> dict[int, str]:
    """By a Record's id: its label, with what tells its implementation from others of that label."""
    told = apart(records)
    return {id(record): " ".join([record.label, *told[id(record)]]) for record in records}
