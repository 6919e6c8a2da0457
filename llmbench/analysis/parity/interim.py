"""Under which terms, and at which error, is a verdict reached? Looks at growing data are counted.

A *look* is a verdict on one question under one plan on one set of data. The question is what the sentence is about:
both models, their decoding settings, judge, canvas, batch, device, and where the prompts come from. The plan: terms
(margins, thresholds of the gates, announced looks), K, prompts and seeds. The data: the texts that were written. The
looks at a question are those of the Records of this verdict (jobs taken over carry the plan they ran under) and those
that earlier sweeps of the experiment left in the store (`history`).

- The same plan with the same texts is the same look, however often it is repeated: nothing was drawn anew, so there is
  no second chance. Jobs that failed then and finished now complete that look.
- More prompts, more seeds or a longer K are the next look. J announced ones (`parity.looks`) test at 0.05 / J each.
- Anything else (other terms, a shorter K, other prompts, other texts from the same plan) is a look that nobody can have
  announced; so is a look beyond J. It is allowed, tests at 0.05, and the sentence carries the bound 0.05 x looks.

A verdict counts the looks up to itself: the bound holds for it and all before it together. Data that was thrown away,
or measured into another store or experiment, leaves no trace here and cannot be counted.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmbench.analysis.parity.grouping import CHAT, VARIED, Group, own_settings, sampling, seed_of
from llmbench.config.parity import ParityConfig
from llmbench.errors import RecordError
from llmbench.record import Record

ERROR = 0.05


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One look, as the store remembers it."""

    question: str  # hash
    options: ParityConfig
    steps: tuple[int, ...]  # K, failed jobs included
    prompts: str  # content hash
    count: int  # how many prompts
    seeds: tuple[str, ...] | None  # None: not known
    texts: dict[str, str] = field(default_factory=dict)  # "" (the baseline) or k: hash of what was written

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> "Taken":
        """The inverse of `dump`. Raises RecordError."""
        from pydantic import TypeAdapter

        try:
            parsed: Taken = TypeAdapter(cls).validate_json(text)
        except ValueError as error:
            raise RecordError(f"not a look: {str(error).splitlines()[0]}") from error
        return parsed

    def repeats(self, other: "Taken") -> bool:
        """Whether both are one look: the same plan, and the same texts where both have some."""
        plans = [(terms(look.options), look.steps, look.prompts) for look in (self, other)]
        seeds = None in (self.seeds, other.seeds) or self.seeds == other.seeds
        shared = self.texts.keys() & other.texts.keys()
        return plans[0] == plans[1] and seeds and all(self.texts[key] == other.texts[key] for key in shared)

    def grew(self, other: "Taken") -> bool:
        """Whether this is `other`'s plan on more data: what `parity.looks` announces."""
        more = (set(self.steps) - set(other.steps), set(self.seeds or ()) - set(other.seeds or ()))
        whole = set(other.steps) <= set(self.steps) and set(other.seeds or ()) <= set(self.seeds or ())
        same = self.prompts == other.prompts
        larger = bool(any(more)) if same else self.count > other.count
        return terms(self.options) == terms(other.options) and whole and larger


@dataclass(frozen=True, kw_only=True)
class Look:
    """The terms of one verdict."""

    options: ParityConfig
    alpha: float  # of every one-sided test
    taken: int  # looks at this question so far, this one included
    error: str  # the error rate, for people
    note: str = ""
    own: Taken | None = None  # this look; None where one side is missing


def look(
    group: Group,
    failed: Sequence[Record] = (),
    options: ParityConfig | None = None,
    history: Sequence[Taken] = (),
) -> Look:
    """The terms for a verdict on these Records.

    Args:
        group: the sides.
        failed: Records of jobs that should have been part of them: their k belongs to K.
        options: margins, thresholds and looks; None takes those of the newest Record.
        history: looks that earlier sweeps took, oldest first; those at other questions are passed over.

    Raises:
        RecordError: a Record carries margins that cannot be read.
    """
    records = sorted((r for _, side in group.sides for r in side), key=lambda record: record.started_at)
    plans = [(_read(record), _axis(record)) for record in records if "parity" in record.config]
    used = options or (plans[-1][0] if plans else ParityConfig())
    now = _taken(group, failed, used)
    if now is None:
        return Look(options=used, alpha=ERROR / used.looks, taken=1, error=_percent(ERROR / used.looks))
    before: list[Taken] = []
    for item in history:
        if item.question == now.question:
            _enter(before, item)
    for terms_then, steps in plans:  # jobs taken over from a sweep that may not have come to a verdict
        then = replace(now, options=terms_then, steps=steps or now.steps, seeds=None, texts={})
        if not any(then.repeats(item) for item in (*before, now)):
            before.append(then)
    place = next((i for i, item in enumerate(before) if now.repeats(item)), len(before))
    return _judged(now, before[:place])


def options_of(records: Sequence[Record]) -> ParityConfig:
    """The margins, thresholds and looks of the newest Record that carries some; the defaults where none does.

    Raises:
        RecordError: they cannot be read.
    """
    known = [record for record in records if "parity" in record.config]
    return _read(max(known, key=lambda record: record.started_at)) if known else ParityConfig()


def _enter(before: list[Taken], item: Taken) -> None:
    """Add a look, or complete the one that it repeats."""
    for i, known in enumerate(before):
        if item.repeats(known):
            before[i] = replace(known, texts=known.texts | item.texts)
            return
    before.append(item)


def _judged(now: Taken, before: Sequence[Taken]) -> Look:
    """Announced or not."""
    taken, announced = len(before) + 1, now.options.looks
    if taken <= announced and all(now.grew(item) for item in before):
        alpha = ERROR / announced
        return Look(options=now.options, alpha=alpha, taken=taken, error=_percent(alpha), own=now)
    bound = f"at most {_percent(ERROR * taken)}: 5 % x {taken} looks, unannounced"
    why = _why(now, before)
    note = f"unannounced look: {why} since an earlier look; the error is bounded by 5 % x {taken} looks"
    return Look(options=now.options, alpha=ERROR, taken=taken, error=bound, note=note, own=now)


def _percent(error: float) -> str:
    return f"{100 * error:.3g} % error"


def _why(now: Taken, before: Sequence[Taken]) -> str:
    """What became different."""
    own, last = terms(now.options), before[-1]
    names = sorted({name for item in before for name, value in terms(item.options).items() if own[name] != value})
    reasons = [f"{', '.join(names)} changed"] if names else []
    if now.steps != last.steps:
        longer = set(now.steps) > set(last.steps)
        reasons.append("K grew" if longer else f"K changed from {_listed(last.steps)} to {_listed(now.steps)}")
    if now.prompts != last.prompts:
        more = now.count > last.count
        reasons.append(f"prompts grew from {last.count} to {now.count}" if more else "the prompts changed")
    if None not in (now.seeds, last.seeds) and now.seeds != last.seeds:
        reasons.append(f"seeds changed from {_listed(last.seeds or ())} to {_listed(now.seeds or ())}")
    return "; ".join(reasons) or "the same plan was measured anew and gave other texts"


def _listed(values: Sequence[object]) -> str:
    return ",".join(map(str, values)) or "none"


def terms(options: ParityConfig) -> dict[str, float]:
    """What a verdict is tested with, by name. The thresholds for chat are no part of it."""
    values = asdict(options)
    named = {f"margin of {name}": value for name, value in values["margins"].items()}
    named |= {f"threshold of {name}": value for name, value in values["thresholds"].items()}
    return named | {"looks": values["looks"]}


def registration(options: ParityConfig, steps: Sequence[int]) -> str:
    """What a sweep commits itself to before its first job, as JSON: margins, thresholds, looks and K."""
    return json.dumps({**asdict(options), "error": ERROR, "steps": list(steps)}, sort_keys=True)


def registered(text: str | None) -> ParityConfig | None:
    """The options of a `registration`; None where there is none. Raises RecordError."""
    return _registration(text)[0] if text else None


def registered_steps(text: str | None) -> tuple[int, ...]:
    """K of a `registration`, whether its jobs have run or not; () where there is none. Raises RecordError."""
    return _registration(text)[1] if text else ()


def _registration(text: str) -> tuple[ParityConfig, tuple[int, ...]]:
    try:
        values = json.loads(text)
        steps = tuple(int(k) for k in values.pop("steps", ()))
        values.pop("error", None)
        return _options(values), steps
    except (ValueError, AttributeError, TypeError) as error:
        raise RecordError(f"not a registration: {str(error).splitlines()[0]}") from error


def _taken(group: Group, failed: Sequence[Record], options: ParityConfig) -> Taken | None:
    """This look; None where one side is missing, so that nothing is tested."""
    if not group.baseline or not group.candidates:
        return None
    first = group.baseline[0]
    steps = {k for k, _ in group.candidates} | {r.steps for r in failed if r.steps is not None}
    sides = {"" if k is None else str(k): records for k, records in group.sides}
    seeds = {seed_of(record) for side in sides.values() for record in side} - {""}
    whole = {
        key: _hash([[[o.prompt_id, o.prompt, o.text] for o in record.outputs] for record in side])
        for key, side in sides.items()
        if {seed_of(record) for record in side} in (seeds, {""})  # else a seed's job failed, and will be made up for
    }
    return Taken(
        question=_question(first, group.candidates[0][1][0]),
        options=options,
        steps=tuple(sorted(steps)),
        prompts=first.conditions.get("workload", ""),
        count=len(first.outputs),
        seeds=tuple(sorted(seeds)),
        texts=whole,
    )


def _question(baseline: Record, candidate: Record) -> str:
    """Hash of what a verdict is about. How many prompts, seeds and k are data; package versions are circumstances."""
    shared = {key: baseline.conditions.get(key) for key in ("device_name", *VARIED) if key not in ("workload", CHAT)}
    workload = baseline.config.get("workload", {})
    prompts = {key: workload.get(key) for key in _WHICH_PROMPTS}
    prompts |= {key: workload[key] for key in _OF_A_DATA_SET if workload.get(key) is not None}
    return _hash([shared, prompts, baseline.model, sampling(baseline), candidate.model, own_settings(candidate)])


_WHICH_PROMPTS = ("source", "tasks", "prompt_words", "reference_words", "diversity_tokens", "prompt_tokens")
_OF_A_DATA_SET = ("subset", "split", "prompt_field", "reference_field", "answer_field", "task_field")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _axis(record: Record) -> tuple[int, ...]:
    """K as its sweep planned it; () for a job that ran alone."""
    return tuple(record.config.get("tracking", {}).get("steps_axis") or ())


def _read(record: Record) -> ParityConfig:
    try:
        return _options(record.config["parity"])
    except ValueError as error:
        raise RecordError(f"{record.label}: its margins cannot be read: {str(error).splitlines()[0]}") from error


def _options(values: Any) -> ParityConfig:
    from pydantic import TypeAdapter

    parsed: ParityConfig = TypeAdapter(ParityConfig).validate_python(values)
    return parsed
