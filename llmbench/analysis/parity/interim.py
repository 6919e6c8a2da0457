"""At which error does a verdict test, and which earlier analyses of the same question does it count?

The question is what the sentence is about: both models, their decoding settings, judge, canvas, batch, device, and
where the prompts come from. A planned analyses test at 0.05 / A each, as long as data only grows (more prompts, more
seeds, a longer K). The same plan that gives the same texts is no further analysis. Everything else is one that nobody
planned: it tests at 0.05, and its verdict says so with the bound 0.05 x analyses (docs/method.md). What was thrown
away, or measured into another store or experiment, leaves no trace and cannot be counted.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmbench.analysis.parity.grouping import CHAT, VARIED, Group, decoding_settings, seed_of, text_settings
from llmbench.config.parity import ParityConfig
from llmbench.errors import RecordError
from llmbench.record import Record

ERROR = 0.05


@dataclass(frozen=True, kw_only=True)
class AnalysisPlan:
    """What a verdict will test, registered before the first job."""

    options: ParityConfig
    steps: tuple[int, ...]  # K, whether its jobs have run or not

    def to_json(self) -> str:
        """As JSON, with every margin and threshold by name."""
        return json.dumps({**asdict(self.options), "error": ERROR, "steps": list(self.steps)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "AnalysisPlan":
        """The inverse of `to_json`. Raises RecordError."""
        try:
            values = json.loads(text)
            steps = tuple(int(k) for k in values.pop("steps", ()))
            values.pop("error", None)
            return cls(options=_options(values), steps=steps)
        except (ValueError, AttributeError, TypeError) as error:
            raise RecordError(f"not a plan of an analysis: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, kw_only=True)
class PastAnalysis:
    """An analysis that was made, as the store remembers it."""

    question: str  # hash
    options: ParityConfig
    steps: tuple[int, ...]  # K, failed jobs included
    prompts: str  # content hash
    count: int  # how many prompts
    seeds: tuple[str, ...]
    # "" (the baseline), k, or T=temperature (its curve): hash of what was written
    texts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "PastAnalysis":
        """The inverse of `to_json`. Raises RecordError."""
        from pydantic import TypeAdapter

        try:
            values = json.loads(text)
            parsed: PastAnalysis = TypeAdapter(cls).validate_python(values | {"options": _options(values["options"])})
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"not an analysis: {str(error).splitlines()[0]}") from error
        return parsed

    def repeats(self, other: "PastAnalysis") -> bool:
        """Whether both are one analysis: the same plan, and the same texts where both have some."""
        shared = self.texts.keys() & other.texts.keys()
        return not self.differences(other) and all(self.texts[key] == other.texts[key] for key in shared)

    def extends(self, other: "PastAnalysis") -> bool:
        """Whether this is `other`'s plan on more data: what `parity.planned_analyses` announces."""
        return (
            _terms(self.options) == _terms(other.options)
            and set(other.steps) <= set(self.steps)
            and set(other.seeds) <= set(self.seeds)
            and (bool(self.differences(other)) if self.prompts == other.prompts else self.count > other.count)
        )

    def differences(self, other: "PastAnalysis") -> set[str]:
        """What differs between the two plans: settings, "steps", "prompts", "seeds"."""
        own, theirs = _terms(self.options), _terms(other.options)
        plain = {name for name in ("steps", "prompts", "seeds") if getattr(self, name) != getattr(other, name)}
        return plain | {name for name, value in own.items() if theirs[name] != value}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Under which terms one verdict is reached."""

    options: ParityConfig
    alpha: float  # of every one-sided test
    analyses: int = 1  # of this question so far, this one included
    unplanned: tuple[str, ...] = ()  # what differs from earlier analyses; () for a planned one
    analysis: PastAnalysis | None = None  # what the store will remember; None where one side is missing


def terms(
    group: Group,
    failed: Sequence[Record] = (),
    options: ParityConfig | None = None,
    history: Sequence[PastAnalysis] = (),
) -> Terms:
    """The terms for a verdict on these Records.

    Args:
        group: the sides.
        failed: Records of jobs that should have been part of them: their k belongs to K.
        options: what is tested; None takes that of the newest Record.
        history: earlier analyses, oldest first; those of other questions are passed over.

    Raises:
        RecordError: a Record carries margins that cannot be read.
    """
    records = group.records
    used = options or options_of(records)
    planned = ERROR / used.planned_analyses
    now = _analysis(group, failed, used)
    if now is None:
        return Terms(options=used, alpha=planned)
    asked = [item for item in history if item.question == now.question]
    own = [item for item in _planned(records, now) if not item.repeats(now)]
    earlier: list[PastAnalysis] = []
    for item in itertools.takewhile(lambda item: not now.repeats(item), [*asked, *own]):
        if not any(item.repeats(known) for known in earlier):
            earlier.append(item)
    count = len(earlier) + 1
    if count <= used.planned_analyses and all(now.extends(item) for item in earlier):
        return Terms(options=used, alpha=planned, analyses=count, analysis=now)
    differ = set.union(*(now.differences(item) for item in earlier)) or {"texts"}
    return Terms(options=used, alpha=ERROR, analyses=count, unplanned=tuple(sorted(differ)), analysis=now)


def options_of(records: Sequence[Record]) -> ParityConfig:
    """What the newest Record that carries some was to be tested by; the defaults where none does.

    Raises:
        RecordError: it cannot be read.
    """
    known = [record for record in records if "parity" in record.config]
    return _read(max(known, key=lambda record: record.started_at)) if known else ParityConfig()


def _planned(records: Sequence[Record], now: PastAnalysis) -> list[PastAnalysis]:
    """The plans under which the jobs ran, over the data of now: those of jobs taken over may be others."""
    ordered = sorted((r for r in records if "parity" in r.config), key=lambda record: record.started_at)
    return [replace(now, options=_read(r), steps=r.context.steps_axis or now.steps, texts={}) for r in ordered]


def _terms(options: ParityConfig) -> dict[str, Any]:
    """What a verdict is tested with, by its setting. The thresholds for chat are no part of it."""
    values = asdict(options)
    named = {f"parity.{part}.{key}": own for part in ("margins", "thresholds") for key, own in values[part].items()}
    return named | {
        "parity.planned_analyses": options.planned_analyses,
        "parity.baseline_temperatures": options.baseline_temperatures,
    }


def _analysis(group: Group, failed: Sequence[Record], options: ParityConfig) -> PastAnalysis | None:
    """This analysis; None where one side is missing, so that nothing is tested."""
    if not group.baseline or not group.candidates:
        return None
    first = group.baseline.records[0]
    steps = {side.steps for side in group.candidates} | {record.steps for record in failed}
    sides = {"" if side.steps is None else str(side.steps): side.records for side in group.sides}
    seeds = {seed_of(record) for side in sides.values() for record in side} - {""}
    sides |= {f"T={side.temperature:g}": side.records for side in group.curve if side.records[0].role == "curve"}
    texts = {
        key: _digest([[[o.prompt_id, o.prompt, o.text] for o in record.outputs] for record in side])
        for key, side in sides.items()
        if {seed_of(record) for record in side} in (seeds, {""})  # else a seed's job failed, and will be made up for
    }
    return PastAnalysis(
        question=_question(first, group.candidates[0].records[0]),
        options=options,
        steps=tuple(sorted(k for k in steps if k is not None)),
        prompts=first.conditions.get("workload", ""),
        count=len(first.outputs),
        seeds=tuple(sorted(seeds)),
        texts=texts,
    )


def _question(baseline: Record, candidate: Record) -> str:
    """Hash of what a verdict is about. How many prompts, seeds and k are data; package versions are circumstances."""
    shared = {key: baseline.conditions.get(key) for key in ("device_name", *VARIED) if key not in ("workload", CHAT)}
    if shared["engine"] == "fused":
        shared["engine"] = "graph"  # its name when the first of the hashes that stores hold were made
    workload = baseline.config.get("workload", {})
    prompts = {key: workload.get(key) for key in _WHICH_PROMPTS}
    prompts |= {key: workload[key] for key in _OF_A_DATA_SET if workload.get(key) is not None}
    return _digest(
        [shared, prompts, baseline.model, text_settings(baseline), candidate.model, decoding_settings(candidate)]
    )


_WHICH_PROMPTS = ("source", "tasks", "prompt_words", "reference_words", "diversity_tokens", "prompt_tokens")
_OF_A_DATA_SET = ("subset", "split", "prompt_field", "reference_field", "answer_field", "task_field")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _read(record: Record) -> ParityConfig:
    try:
        return _options(record.config["parity"])
    except ValueError as error:
        raise RecordError(f"{record.label}: its margins cannot be read: {str(error).splitlines()[0]}") from error


def _options(values: Any) -> ParityConfig:
    """From plain data, also of a version in which planned analyses were called looks. Raises ValueError."""
    from pydantic import TypeAdapter

    named = {"planned_analyses" if key == "looks" else key: own for key, own in dict(values).items()}
    if isinstance(named.get("margins"), dict):  # diversity had a margin of its own once; it is matched now
        named["margins"] = {key: own for key, own in named["margins"].items() if key != "entropy"}
    parsed: ParityConfig = TypeAdapter(ParityConfig).validate_python(named)
    return parsed
