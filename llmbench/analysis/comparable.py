"""Which Records may meet in one comparison? Those whose conditions agree; a difference is named, never averaged over.

A sweep may vary batch, canvas, seed or decoding settings on purpose: `condition_sets` cuts it into the sets inside
which everything but k agrees. What nobody varies on purpose (device name, package versions) must agree:
`check_conditions` refuses it.

A sweep may also time the baseline in several implementations (`model=llama,llama_generate`): the same model under the
same settings, decoded by other code. They share a set, and `choose_baseline` takes the fastest, because a speedup
against a slow baseline is the fault of most published ones.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmbench.errors import RecordError
from llmbench.record import Record

_VARIED = ("device", "dtype", "engine", "weights", "canvas", "batch", "seed", "workload", "judge", "encoder")
"""Conditions that a sweep may vary on purpose; the others (device name, package versions) must agree in all Records."""

IMPLEMENTATION = ("decoding.kind", "decoding.cache", "decoding.stop_check_every")
"""Conditions that say with which code a text is generated, and so how fast; not which text."""


def condition_sets(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Cut Records into sets for `parity`: one diffusion model under one setting over k, with its baseline.

    A baseline serves every set that shares its conditions. Where a sweep over temperature leaves several, the one
    with the candidates' temperature is taken. Implementations of one baseline share a set, also where no candidate is.
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
    alone: dict[tuple[Any, ...], list[Record]] = {}
    for record in baselines:
        if id(record) not in used:
            alone.setdefault((record.model, _varied(record), _sampling(record)), []).append(record)
    return sets + [tuple(members) for members in alone.values()]


def choose_baseline(baselines: Sequence[Record]) -> Record | None:
    """The fastest implementation of the baseline by `latency/e2e_ms`, or the only one; None when there is none.

    Raises:
        RecordError: two of them are the same implementation, or differ in more than that.
    """
    ways = {tuple(record.conditions.get(key) for key in IMPLEMENTATION) for record in baselines}
    if len(ways) < len(baselines) or len({(r.model, _sampling(r)) for r in baselines}) > 1:
        names = ", ".join(f"{record.label} ({record.identity})" for record in baselines)
        raise RecordError(f"one autoregressive Record is needed as the baseline, found {len(baselines)}: {names}")
    return min(baselines, key=lambda record: record.metrics.get("latency/e2e_ms", math.inf), default=None)


def _sampling(record: Record) -> tuple[tuple[str, str], ...]:
    """Decoding settings that shape the text."""
    own = (pair for pair in record.conditions.items() if pair[0].startswith("decoding."))
    return tuple(sorted(pair for pair in own if pair[0] not in IMPLEMENTATION))


def _varied(record: Record) -> tuple[str | None, ...]:
    return tuple(record.conditions.get(key) for key in _VARIED)


def steps_of(record: Record) -> int:
    """k, for sorting; 0 for a model without steps."""
    return record.steps or 0


def check_conditions(records: Sequence[Record]) -> None:
    """Refuse Records that may not be compared: `decoding.*` must agree within a model, everything else across all.

    Only `IMPLEMENTATION` may differ within a model.

    Raises:
        RecordError: names the key and both values.
    """
    firsts: dict[str, Record] = {}
    for record in records:
        _agree(records[0], record, lambda key: not key.startswith("decoding."))
        own = firsts.setdefault(record.model, record)
        _agree(own, record, lambda key: key.startswith("decoding.") and key not in IMPLEMENTATION)


def _agree(first: Record, other: Record, wanted: Callable[[str], bool]) -> None:
    for key in sorted(filter(wanted, first.conditions.keys() | other.conditions.keys())):
        here, there = first.conditions.get(key), other.conditions.get(key)
        if here != there:
            raise RecordError(f"{first.label} and {other.label} cannot be compared: {key} is {here!r} and {there!r}")
