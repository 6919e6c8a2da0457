"""The parts of a hypothesis: its claim, an outcome for each setting, and one answer from all of them.

A hypothesis is supported or refuted when every setting (a model, its decoding settings, k) says so. Where settings
differ, or none can tell, it is undecided and `decide` says what to run. What the Records were made under stands in the
sentence.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llmbench.analysis.estimates import Estimate
from llmbench.analysis.formats import counted, listed, with_interval
from llmbench.analysis.parity.grouping import (
    CHECKPOINT,
    VARIED,
    WITHOUT_WEIGHTS,
    decoding_settings,
    shared_conditions,
)
from llmbench.analysis.parity.speed_checks import OTHERS_PERCENT
from llmbench.record import Record, timed

FEWEST_PROMPTS = 8
"""n below which a claim about times decides nothing: the recipe of table 1 has so many, two of each of its tasks."""


class Outcome(StrEnum):
    """What the Records say."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class SettingOutcome:
    """What the Records of one setting say."""

    setting: str
    outcome: Outcome
    why: str  # the reason, with numbers, for people
    numbers: tuple[tuple[str, Estimate], ...] = ()
    decide: str = ""  # what to run for an answer; "" when it is decided


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim, and what was found."""

    number: int
    claim: str
    recipe: str  # the file of conf/experiment that speaks to it
    outcome: Outcome
    sentence: str  # to be quoted
    settings: tuple[SettingOutcome, ...] = ()
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
    claim: Claim, settings: Sequence[SettingOutcome], missing: str, decide: str, records: Iterable[Record] = ()
) -> Hypothesis:
    """One answer from what each setting says.

    Args:
        claim: the hypothesis.
        settings: one per setting.
        missing: why there is no finding, said where there is none.
        decide: what to run then.
        records: those that were looked at.
    """
    outcomes = {item.outcome for item in settings}
    if len(outcomes) == 1:
        outcome = outcomes.pop()
        detail = "; ".join(f"{item.setting}: {item.why}" for item in settings)
    else:
        outcome = Outcome.UNDECIDED
        said = [f"{item.outcome.value} for {item.setting} ({item.why})" for item in settings]
        detail = f"the settings differ: {'; '.join(said)}" if said else missing
    records = list(records)
    under = conditions(records) if settings else ""
    commands = [item.decide for item in settings if item.decide]
    wanted = next(iter(commands), PARITY if settings else decide) if outcome is Outcome.UNDECIDED else ""
    return Hypothesis(
        number=claim.number,
        claim=claim.text,
        recipe=claim.recipe,
        outcome=outcome,
        sentence=f"{outcome.value.capitalize()}: {claim.text} ({detail}).{f' {under}' if under else ''}",
        settings=tuple(settings),
        decide=wanted,
        provenance=tuple(record.identity for record in records),
    )


def prompts_of(record: Record) -> int:
    """n: the prompts of a job."""
    return sum(len(batch) for batch in record.partition)


def too_few_prompts(records: Sequence[Record]) -> str:
    """Why times of so few prompts decide nothing; "" where there are enough."""
    fewest = min(map(prompts_of, records), default=FEWEST_PROMPTS)
    if fewest >= FEWEST_PROMPTS:
        return ""
    return f"{counted(fewest, 'prompt')}, and {FEWEST_PROMPTS} are needed"


def disturbed(records: Sequence[Record]) -> str:
    """Why times are not those of the device alone, by the gates of the verdict on speed; "" where none closes."""
    percent = max((record.device_use.other_sm_percent or 0.0 for record in records), default=0.0)
    if percent > OTHERS_PERCENT:
        return f"another process used {percent:.0f} % of the GPU meanwhile"
    if any(timing.throttled for record in records for timing in record.timings):
        return "the clocks were throttled"
    return ""


def conditions(records: Sequence[Record]) -> str:
    """What the Records behind a claim were made under, in a sentence; several values of one condition are all named."""
    if not records:
        return ""
    own = [record.environment for record in records]
    names = _values(item.device_name or "an unnamed device" for item in own)
    how = [*_values(item.device for item in own), *_values(record.conditions.get("dtype") for record in records)]
    if any(item.device == "cpu" for item in own):
        threads = sorted({item.threads for item in own})
        how.append(f"{listed(threads)} {'thread' if threads == [1] else 'threads'}")
        loads = [item.load_average for item in own if item.load_average is not None]
        how += [f"load average up to {max(loads):.1f}"] if loads else []
    parts = [f"on {listed(names)} ({', '.join(how)})"]
    for key in ("batch", "canvas"):
        sizes = sorted({int(value) for record in records if (value := record.conditions.get(key, "")).isdigit()})
        parts += [f"{key} {listed(sizes)}"] if sizes else []
    counts = sorted({prompts_of(record) for record in records})
    parts.append(f"{listed(counts)} {'prompt' if counts == [1] else 'prompts'}")
    if any(record.conditions.get("weights") == "dummy" for record in records):
        parts.append("random weights")
    return f"Conditions: {'; '.join(parts)}."


def _values(found: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in found if value))


PARITY = "llmbench -m experiment=parity"
"""Where settings differ, the one to ask about is the k at which quality passes."""


def finished(records: Iterable[Record], wanted: Callable[[Record], bool] = lambda record: True) -> list[Record]:
    """Finished Records."""
    return [record for record in timed(records) if record.status == "finished" and wanted(record)]


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
        settings = _without_canvas(record) if axis == "canvas" else decoding_settings(record)
        found.setdefault((record.model, record.steps, rest, settings), []).append(record)
    return list(found.values())


def _without_canvas(record: Record) -> tuple[tuple[str, str], ...]:
    """Decoding settings; a block that is the whole canvas stays one at every canvas."""
    canvas = record.conditions.get("canvas")
    kept = []
    for key, value in decoding_settings(record):
        if key in ("decoding.canvas", "decoding.max_new_tokens"):
            continue
        kept.append((key, "canvas" if key == "decoding.block_length" and value == canvas else value))
    return tuple(kept)


def labels(firsts: Sequence[Record], axis: str | None) -> list[str]:
    """A name for each series: the label of its first Record, with conditions where that is not enough."""
    plain = [record.label for record in firsts]
    keys = [key for key in VARIED if key != axis and len({record.conditions.get(key) for record in firsts}) > 1]
    keys += sorted(
        {key for record in firsts for key, _ in decoding_settings(record)} - {CHECKPOINT, WITHOUT_WEIGHTS, *keys}
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


def sweep_that_decides(recipe: str, *overrides: str) -> str:
    """What to run for an answer: the sweep of a file of conf/experiment, with what the answer needs besides."""
    line = " ".join([f"llmbench -m experiment={recipe}", *overrides])
    return f"with the settings of this sweep, {line}"


def span(estimate: Estimate, unit: str = "") -> str:
    """A value with its interval, for people."""
    return with_interval(estimate.value, estimate.low, estimate.high, unit)
