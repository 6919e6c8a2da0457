"""Which Records may meet in one comparison? Those whose conditions agree; a difference is named, never averaged over.

A sweep may vary batch, canvas, seed or decoding settings on purpose: `condition_sets` cuts it into the sets inside
which everything but k agrees. What nobody varies on purpose (device name, package versions) must agree:
`check_conditions` refuses it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmbench.errors import RecordError
from llmbench.record import Record

_VARIED = ("device", "dtype", "engine", "weights", "canvas", "batch", "seed", "workload", "judge", "encoder")
"""Conditions that a sweep may vary on purpose; the others (device name, package versions) must agree in all Records."""


def condition_sets(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Cut Records into sets for `parity`: one diffusion model under one setting over k, with its baseline.

    A baseline serves every set that shares its conditions. Where a sweep over temperature leaves several, the one
    with the candidates' temperature is taken.
    """
    finished = [record for record in records if record.status == "finished"]
    baselines = [record for record in finished if record.family == "autoregressive"]
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in finished:
        if record.family == "diffusion":
            own = sorted((key, value) for key, value in record.conditions.items() if key.startswith("decoding."))
            groups.setdefault((record.model, _varied(record), tuple(own)), []).append(record)
    sets, used = [], set()
    for (_, varied, own_settings), candidates in groups.items():
        fitting = [record for record in baselines if _varied(record) == varied]
        if len(fitting) > 1:
            wanted = dict(own_settings).get("decoding.temperature")
            fitting = [r for r in fitting if r.conditions.get("decoding.temperature") == wanted] or fitting
        used |= {id(record) for record in fitting}
        sets.append((*fitting, *sorted(candidates, key=steps_of)))
    return sets + [(record,) for record in baselines if id(record) not in used]


def _varied(record: Record) -> tuple[str | None, ...]:
    return tuple(record.conditions.get(key) for key in _VARIED)


def steps_of(record: Record) -> int:
    """k, for sorting; 0 for a model without steps."""
    return record.steps or 0


def check_conditions(records: Sequence[Record]) -> None:
    """Refuse Records that may not be compared: `decoding.*` must agree within a model, everything else across all.

    Raises:
        RecordError: names the key and both values.
    """
    firsts: dict[str, Record] = {}
    for record in records:
        _agree(records[0], record, lambda key: not key.startswith("decoding."))
        _agree(firsts.setdefault(record.model, record), record, lambda key: key.startswith("decoding."))


def _agree(first: Record, other: Record, wanted: Callable[[str], bool]) -> None:
    for key in sorted(filter(wanted, first.conditions.keys() | other.conditions.keys())):
        here, there = first.conditions.get(key), other.conditions.get(key)
        if here != there:
            raise RecordError(f"{first.label} and {other.label} cannot be compared: {key} is {here!r} and {there!r}")
