"""Under which margins, and at which error, is a verdict reached? Looks at growing data are counted.

A job's Record keeps the margins, the announced looks J and K as they stood before it ran. Each of J announced looks
tests at 0.05 / J. Where the Records of one verdict were made under more plans than were announced (a longer K with old
jobs taken over, or other margins afterwards), somebody has looked in between: that is allowed, tests at 0.05, and the
verdict carries the bound 0.05 x looks. Data that was thrown away leaves no trace here and cannot be counted.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from llmbench.config import ParityConfig
from llmbench.errors import RecordError
from llmbench.record import Record

ERROR = 0.05


@dataclass(frozen=True, kw_only=True)
class Look:
    """The terms of one verdict."""

    options: ParityConfig
    alpha: float  # of every one-sided test
    taken: int  # verdicts so far, as far as the Records show
    error: str  # the error rate, for people
    note: str = ""


def look(records: Sequence[Record], options: ParityConfig | None = None) -> Look:
    """The terms for a verdict on these Records.

    Args:
        records: the finished ones.
        options: margins and looks; None takes those of the newest Record.

    Raises:
        RecordError: a Record carries margins that cannot be read.
    """
    plans = []
    for record in sorted(records, key=lambda record: record.started_at):
        registered = record.config.get("parity")
        if registered is not None:
            axis = record.config.get("tracking", {}).get("steps_axis") or []
            plans.append((_read(registered, record), tuple(axis)))
    used = options or (plans[-1][0] if plans else ParityConfig())
    changed = sorted({name for plan, _ in plans for name in _changed(plan, used)})
    taken = len(set(_keys(plans))) + (1 if plans and used not in [plan for plan, _ in plans] else 0)
    taken = max(taken, 1)
    if taken <= used.looks:
        alpha = ERROR / used.looks
        return Look(options=used, alpha=alpha, taken=taken, error=f"{100 * alpha:.3g} % error")
    why = f"{', '.join(changed)} changed" if changed else "K grew"
    bound = f"{100 * ERROR * taken:.3g} % error, {taken} looks"
    note = f"unannounced look: {why} between the jobs of this verdict; the error is bounded by 5 % x {taken} looks"
    return Look(options=used, alpha=ERROR, taken=taken, error=bound, note=note)


def registration(options: ParityConfig, steps: Sequence[int]) -> str:
    """What a sweep commits itself to before its first job, as JSON: margins, looks and K."""
    return json.dumps({**asdict(options), "error": ERROR, "steps": list(steps)}, sort_keys=True)


def _keys(plans: Sequence[tuple[ParityConfig, tuple[int, ...]]]) -> list[str]:
    return [repr(plan) for plan in plans]


def _changed(one: ParityConfig, other: ParityConfig) -> list[str]:
    """Names of the options on which two plans differ."""
    first, second = ({**asdict(plan)["margins"], "looks": plan.looks} for plan in (one, other))
    return [name if name == "looks" else f"margin of {name}" for name in first if first[name] != second[name]]


def _read(registered: object, record: Record) -> ParityConfig:
    from pydantic import TypeAdapter

    try:
        parsed: ParityConfig = TypeAdapter(ParityConfig).validate_python(registered)
    except ValueError as error:
        raise RecordError(f"{record.label}: its margins cannot be read: {str(error).splitlines()[0]}") from error
    return parsed
