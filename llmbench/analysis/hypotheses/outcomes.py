"""How is a hypothesis of the brief judged? Supported, refuted or undecided, with its numbers, for every setting.

A `Hypothesis` is a claim of the brief with one `Finding` per setting that could speak to it (a model, its decoding
settings, k). It is supported or refuted when all of them say so; where they differ, or none can tell, it is undecided,
and `decide` names the command that would decide. What the four are tested by: `throughput`, `memory` and `chat` in
this room; `hypotheses` puts them together.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from llmbench.analysis.parity.grouping import VARIED, own_settings, shared_conditions
from llmbench.analysis.parity.sentences import number
from llmbench.analysis.parity.statistics import Estimate
from llmbench.config.decoders import Autoregressive, Diffusion, Transformers
from llmbench.config.job import DIFFUSION_DIALS, SYNTHETIC
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
        rest = tuple(value for i, value in enumerate(shared_conditions(record)) if i != place)
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
        - {"decoding.checkpoint", "decoding.kind", "decoding.cache", *label_conditions(), *keys}
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
    """The sweep of a recipe with what was measured (checkpoints, weights, storage, prompts, dials), then `more`.

    What only one family takes (a decoder's options, a layout) cannot be said to a sweep of both models: such a command
    asks for that model alone, or, where the recipe compares the two, says behind a # what it leaves out.

    Args:
        recipe: a file of conf/experiment.
        record: of the setting that is asked about; None: everything as the recipe has it.
        more: overrides that the answer needs; they replace those of the Record.
    """
    own: Mapping[str, Any] = record.config if record is not None else {}
    parts = _scale(own) + (["weights=dummy"] if own.get("weights") == "dummy" else [])
    parts += _hardware(own.get("hardware", {})) + _prompts(own.get("workload", {}))
    chat = own.get("model", {}).get("chat")
    if own.get("workload", {}).get("instructions", False) is not bool(chat):
        parts.append(f"model.chat={str(bool(chat)).lower()}")
    alone, side = _of_one_side(own.get("model", {}))
    left_out = ""
    if alone and recipe in COMPARING:
        left_out = f"  # without {', '.join(alone)}: no sweep of both models can be told that"
    elif alone:
        parts = [f"model={side}", *parts, *alone]
    parts += _dials(recipe, own)
    given = {text.partition("=")[0] for text in more}
    kept = [part for part in parts if part.partition("=")[0] not in given]
    return " ".join([f"python -m llmbench -m experiment={recipe}", *kept, *more]) + left_out


DIALS: dict[str, Any] = {
    **{"canvas": 64, "temperature": 0.7, "seed": 0, "cache": "none", "remasking": "low_confidence", "cfg_scale": 0.0},
    **{"threshold": None, "factor": None, "early_stop": False, "fixed_tokens_per_forward": None},
}
"""Dials that shape a setting, and what conf/config.yaml gives them: that need not be said."""

SCALES = {
    "tiny": {"llama": "bundled:llama", "llada": "bundled:llada"},
    "8b": {
        "llama": "hub:meta-llama/Meta-Llama-3-8B@8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920",
        "llada": "hub:GSAI-ML/LLaDA-8B-Base@0f2787f2d87eac5eed8a087d5ecd24277e6255b2",
    },
    "8b_instruct": {
        "llama": "hub:meta-llama/Meta-Llama-3-8B-Instruct@8afb486c1db24fe5011ec46dfbe5b5dccdb575c2",
        "llada": "hub:GSAI-ML/LLaDA-8B-Instruct@08b83a6feb34df1a6011b80c3c00c7563e963b07",
    },
}
"""The pairs of conf/pair, with real weights; a Record says itself what they are with others."""

COMPARING = ("throughput",)
"""Recipes whose answer needs both models in one sweep."""

RECIPES: dict[str, dict[str, Any]] = {"memory": {"ignore_stop": True, "steps": 32}}
"""Dials that a recipe of conf/experiment turns itself, and that no command gives it anyway."""

_SIDES: dict[str, tuple[str, type]] = {
    "autoregressive": ("llama", Autoregressive),
    "transformers": ("llama_generate", Transformers),
    "diffusion": ("llada", Diffusion),
}
"""By the kind of a decoder: the choice of conf/model, and what it can be told."""

_SHARED = ("steps", "canvas", "max_new_tokens", "temperature", "ignore_stop")
"""Settings of decoders that are dials, which every model may be told."""


def _scale(own: Mapping[str, Any]) -> list[str]:
    """The overrides that choose both sides' checkpoints."""
    scale, model = own.get("pair", {}), own.get("model", {})
    name = scale.get("name", "tiny")
    known = scale.get(own.get("weights", "real")) or SCALES.get(name)
    parts = [f"pair={name}"] if known and name != "tiny" else []
    for side, usual in (known or SCALES["tiny"]).items():
        used = model.get("checkpoint") if _side(model) == side else None
        used = used or scale.get(side, usual)
        parts += [_said(f"pair.{side}", used)] if used != usual else []
    return parts


def _side(model: Mapping[str, Any]) -> str:
    """The side of a scale that a model takes its checkpoint from."""
    return "llada" if model.get("decoder", {}).get("kind") == "diffusion" else "llama"


def _hardware(hardware: Mapping[str, Any]) -> list[str]:
    """How weights are stored and forwards run, where that is not what the device gets by itself."""
    on_gpu, quantization = hardware.get("device") == "cuda", hardware.get("quantization")
    usual = {
        "dtype": "bfloat16" if on_gpu else "float32",
        "engine": "graph" if on_gpu and not quantization else "eager",
    }
    parts = [f"hardware.quantization={quantization}"] if quantization else []
    return parts + [f"hardware.{key}={hardware[key]}" for key in usual if hardware.get(key, usual[key]) != usual[key]]


def _of_one_side(model: Mapping[str, Any]) -> tuple[list[str], str]:
    """The overrides that no other model could be given, and the choice of conf/model that takes them."""
    decoder = model.get("decoder", {})
    side, kind = _SIDES.get(decoder.get("kind", ""), ("", None))
    if kind is None:
        return [], side
    parts = [_said("model.layout", model["layout"])] if model.get("layout") else []
    parts += [_said("model.name", model["name"])] if model.get("name", side) != side.partition("_")[0] else []
    dials = (*_SHARED, *DIFFUSION_DIALS) if kind is Diffusion else _SHARED
    usual = {item.name: item.default for item in fields(kind) if item.name not in dials and item.name != "kind"}
    differ = [key for key, value in usual.items() if decoder.get(key, value) != value]
    return parts + [_said(f"model.decoder.{key}", decoder[key]) for key in differ], side


def _dials(recipe: str, own: Mapping[str, Any]) -> list[str]:
    """Dials that were turned, and what a decoder was told past its dial."""
    decoder = own.get("model", {}).get("decoder", {})
    read = {"canvas": decoder.get("canvas", decoder.get("max_new_tokens")), "temperature": decoder.get("temperature")}
    if decoder.get("kind") == "diffusion":
        read |= {key: decoder.get(key) for key in DIALS.keys() & {*DIFFUSION_DIALS}}
    dials = {key: own.get(key, usual) for key, usual in DIALS.items()}
    dials |= {key: value for key, value in read.items() if dials[key] == DIALS[key] and value is not None}
    parts = [_said(key, value) for key, value in dials.items() if value != DIALS[key]]
    block = decoder.get("block_length", own.get("block_length"))
    parts += [f"block_length={block}"] if block not in (None, dials["canvas"]) else []
    said = {"ignore_stop": False, "steps": decoder.get("steps")} | RECIPES.get(recipe, {})
    told = {"ignore_stop": own.get("ignore_stop", said["ignore_stop"]), "steps": decoder.get("steps")}
    return parts + [_said(key, value) for key, value in told.items() if value not in (None, said[key])]


def _prompts(workload: Mapping[str, Any]) -> list[str]:
    """The overrides that choose a workload's prompts."""
    source = workload.get("source", "bundled:continuation")
    lengths = {"prompt_tokens": 128 if source == SYNTHETIC else None}
    lengths |= {"prompt_words": 10 if source == "bundled:continuation" else None}
    parts = [
        _said(f"workload.{key}", workload[key]) for key in lengths if workload.get(key, lengths[key]) != lengths[key]
    ]
    if source == SYNTHETIC:
        return ["workload=synthetic", *parts]
    if source == "bundled:continuation":
        return [*_list("tasks", workload), *parts]
    if source == "bundled:instruct":
        return ["workload=instruct", *_list("tasks", workload), *parts]
    named = ("revision", "subset", "split", "prompt_field", "reference_field", "answer_field", "task_field")
    kind = "jsonl" if workload.get("prompt_field") is None else "dataset"
    chosen = [_said(f"workload.{key}", workload[key]) for key in named if workload.get(key) is not None]
    return [f"workload={kind}", _said("workload.source", source), *chosen, *_list("tasks", workload), *parts]


def _list(key: str, workload: Mapping[str, Any]) -> list[str]:
    return [f"workload.{key}=[{','.join(workload[key])}]"] if workload.get(key) else []


_PLAIN = re.compile(r"[\w/.:@+%-]+")
"""What neither a shell nor Hydra takes for anything but text."""


def _said(key: str, value: object) -> str:
    """An override as it is typed into a shell."""
    if value is None or isinstance(value, bool):
        return f"{key}={'null' if value is None else str(value).lower()}"
    if _PLAIN.fullmatch(str(value)):
        return f"{key}={value}"
    inside = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return shlex.quote(f"{key}='{inside}'")


def span(estimate: Estimate, unit: str = "") -> str:
    """A value with its interval, for people."""
    if estimate.low is None or estimate.high is None:
        return f"{number(estimate.value)}{unit}"
    return f"{number(estimate.value)}{unit} [95 % {number(estimate.low)} to {number(estimate.high)}]"
