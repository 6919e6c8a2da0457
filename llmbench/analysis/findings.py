"""How is a hypothesis of the brief judged? Supported, refuted or undecided, with its numbers, for every setting.

A `Hypothesis` is a claim of the brief with one `Finding` per setting that could speak to it (a model, its decoding
settings, k). It is supported or refuted when all of them say so; where they differ, or none can tell, it is undecided,
and `decide` names the command that would decide. What the four are tested by: `throughput`, `memory` and `chat` in
this room; `hypotheses` puts them together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llmbench.analysis.comparable import VARIED, ground, own_settings
from llmbench.analysis.statistics import Estimate
from llmbench.analysis.wording import number
from llmbench.config import SYNTHETIC
from llmbench.record import Record


class Outcome(StrEnum):
    """What the Records say."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one setting says."""

    setting: str
    outcome: Outcome
    why: str  # the reason, with numbers, for people
    numbers: tuple[tuple[str, Estimate], ...] = ()
    decide: str = ""  # the command that would decide; "" when it is decided


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim of the brief, and what was found."""

    number: int
    claim: str
    recipe: str  # the file of conf/experiment that speaks to it
    outcome: Outcome
    sentence: str  # to be quoted
    findings: tuple[Finding, ...] = ()
    decide: str = ""
    provenance: tuple[str, ...] = field(default=())  # identities of the Records behind it

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        from pydantic import TypeAdapter

        data: dict[str, Any] = TypeAdapter(Hypothesis).dump_python(self, mode="json")
        return data


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is asked."""

    number: int
    text: str
    recipe: str


def conclude(
    claim: Claim, findings: Sequence[Finding], missing: str, decide: str, records: Iterable[Record] = ()
) -> Hypothesis:
    """One answer from what each setting says.

    Args:
        claim: the hypothesis.
        findings: one per setting.
        missing: why there is no finding, said where there is none.
        decide: the command then.
        records: those that were looked at.
    """
    outcomes = {item.outcome for item in findings}
    if len(outcomes) == 1:
        outcome = outcomes.pop()
        detail = "; ".join(f"{item.setting}: {item.why}" for item in findings)
    else:
        outcome = Outcome.UNDECIDED
        said = [f"{item.outcome.value} for {item.setting} ({item.why})" for item in findings]
        detail = f"the settings do not say the same: {'; '.join(said)}" if said else missing
    commands = [item.decide for item in findings if item.decide]
    wanted = next(iter(commands), PARITY if findings else decide) if outcome is Outcome.UNDECIDED else ""
    return Hypothesis(
        number=claim.number,
        claim=claim.text,
        recipe=claim.recipe,
        outcome=outcome,
        sentence=f"{outcome.value.capitalize()}: {claim.text} ({detail}).",
        findings=tuple(findings),
        decide=wanted,
        provenance=tuple(record.identity for record in records),
    )


PARITY = "make table4"
"""Where settings differ, the one to ask about is the k at which quality passes."""


def finished(records: Iterable[Record], wanted: Callable[[Record], bool] = lambda record: True) -> list[Record]:
    """Finished Records."""
    return [record for record in records if record.status == "finished" and wanted(record)]


def series(records: Iterable[Record], axis: str) -> list[list[Record]]:
    """Records that agree in everything but one condition (and the seed): what a curve over it is made of.

    Args:
        records: finished ones.
        axis: "batch" or "canvas"; decoding settings that say the same as the canvas may differ with it.
    """
    place = VARIED.index(axis)
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        rest = tuple(value for i, value in enumerate(ground(record)) if i != place)
        settings = _without_canvas(record) if axis == "canvas" else own_settings(record)
        found.setdefault((record.model, record.steps, rest, settings), []).append(record)
    return list(found.values())


def _without_canvas(record: Record) -> tuple[tuple[str, str], ...]:
    """Decoding settings; a block that is the whole canvas stays one at every canvas."""
    canvas = record.conditions.get("canvas")
    kept = []
    for key, value in own_settings(record):
        if key in ("decoding.canvas", "decoding.max_new_tokens"):
            continue
        kept.append((key, "canvas" if key == "decoding.block_length" and value == canvas else value))
    return tuple(kept)


def labels(firsts: Sequence[Record], axis: str | None) -> list[str]:
    """A name for each series: the label of its first Record, with conditions where that is not enough."""
    plain = [record.label for record in firsts]
    keys = [key for key in VARIED if key != axis and len({record.conditions.get(key) for record in firsts}) > 1]
    keys += sorted(
        {key for record in firsts for key, _ in own_settings(record)}
        - {"decoding.checkpoint", "decoding.kind", "decoding.cache", "decoding.threshold", "decoding.factor", *keys}
    )
    named = []
    for record, label in zip(firsts, plain, strict=True):
        twins = [other for other, name in zip(firsts, plain, strict=True) if name == label]
        differ = [k for k in keys if len({other.conditions.get(k) for other in twins}) > 1]
        said = [
            f"{key.removeprefix('decoding.')}={record.conditions[key]}" for key in differ if key in record.conditions
        ]
        named.append(" ".join([label, *said]))
    return named


def command(recipe: str, record: Record | None, *more: str) -> str:
    """The sweep of a recipe, with the scale, weights, prompts and dials of what was measured, then `more`."""
    own = record.config if record is not None else {}
    scale, parts = own.get("scale", {}).get("name", "tiny"), []
    parts += [f"scale={scale}"] if scale != "tiny" else []
    parts += ["weights=dummy"] if own.get("weights") == "dummy" else []
    parts += _prompts(own.get("workload", {}))
    chat = own.get("model", {}).get("chat")
    if own.get("workload", {}).get("instructions", False) is not bool(chat):
        parts.append(f"model.chat={str(bool(chat)).lower()}")
    dials = {key: own.get(key, default) for key, default in DIALS.items()}
    if own.get("block_length") not in (None, own.get("canvas")):
        dials["block_length"] = own["block_length"]
    given = {text.partition("=")[0] for text in more}
    parts += [f"{key}={value}" for key, value in dials.items() if value != DIALS.get(key) and key not in given]
    return " ".join([f"python -m llmbench -m experiment={recipe}", *parts, *more])


DIALS = {"canvas": 64, "temperature": 0.7, "cache": "none"}
"""Dials that shape a setting, and what conf/config.yaml gives them: that need not be said."""


def _prompts(workload: Mapping[str, Any]) -> list[str]:
    """The overrides that choose a workload's prompts."""
    source = workload.get("source", "bundled:continuation")
    if source == SYNTHETIC:
        return ["workload=synthetic"]
    if source == "bundled:continuation":
        return []
    if source == "bundled:instruct":
        return ["workload=instruct", *_list("tasks", workload)]
    fields = ("revision", "subset", "split", "prompt_field", "reference_field", "answer_field", "task_field")
    kind = "jsonl" if workload.get("prompt_field") is None else "dataset"
    named = [f"workload.{key}={workload[key]}" for key in fields if workload.get(key) is not None]
    return [f"workload={kind}", f"workload.source={source}", *named, *_list("tasks", workload)]


def _list(key: str, workload: Mapping[str, Any]) -> list[str]:
    return [f"workload.{key}=[{','.join(workload[key])}]"] if workload.get(key) else []


def span(estimate: Estimate, unit: str = "") -> str:
    """A value with its interval, for people."""
    if estimate.low is None or estimate.high is None:
        return f"{number(estimate.value)}{unit}"
    return f"{number(estimate.value)}{unit} [95 % {number(estimate.low)} to {number(estimate.high)}]"
