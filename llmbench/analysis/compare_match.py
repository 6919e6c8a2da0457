"""Which Records of two sweeps measure the same thing, and in what were they measured differently?

A setting is what is measured: model, k, decoder, batch, canvas, weights. Where and with what it ran (device, driver,
versions, commit, dtype, engine), the checkpoint's weights, the workload and the judges may differ between two sweeps:
they are listed, and cut a sweep into settings only where one of the two varies them. A condition that only one of the
sweeps knows, because the other's Records are older, is listed too.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.analysis.parity.grouping import seed_of
from llmbench.errors import RecordError
from llmbench.record import Record, timed

LISTED = (
    "device_name",
    "device",
    "dtype",
    "engine",
    "quantization",
    "clock",
    "torch",
    "transformers",
    "workload",
    "judge",
    "second_judge",
    "encoder",
    "decoding.checkpoint",
    "decoding.checkpoint_without_weights",
    "decoding.url",
    "decoding.served_model",
    "decoding.trust_same_hardware",
)
"""Conditions that two sweeps may differ in all the same."""

_Key = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What both sweeps measured."""

    label: str
    pairs: tuple[tuple[Record, Record], ...]  # of A and B, one for each seed that both have

    @property
    def across_devices(self) -> bool:
        """Whether it ran on devices of two names."""
        return any(a.conditions.get("device_name") != b.conditions.get("device_name") for a, b in self.pairs)


@dataclass(frozen=True, kw_only=True)
class Differing:
    """A condition of which A and B have different values; "" stands for not known."""

    key: str
    a: tuple[str, ...]
    b: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The settings of two sweeps side by side; labels of those that only one has, or that failed there."""

    settings: tuple[Setting, ...]
    differing: tuple[Differing, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    failed_a: tuple[str, ...]
    failed_b: tuple[str, ...]
    copies: int  # pairs that are one measurement: of one process, begun at one moment
    uncommitted: bool  # one of the sides ran code with changes that no commit holds
    load_a: float | None  # median of the load averages at the start of the jobs; None where not known
    load_b: float | None


def match(a: Sequence[Record], b: Sequence[Record]) -> Matched:
    """Pair the finished full measurements of two sweeps.

    Raises:
        RecordError: two Records of one sweep are the same setting.
    """
    ours, theirs = _finished(a), _finished(b)
    free = _free(ours, theirs)
    places = [_placed(side, free) for side in (ours, theirs)]
    shared = {key: sorted(own.keys() & places[1][key].keys()) for key, own in places[0].items() if key in places[1]}
    shared = {key: seeds for key, seeds in shared.items() if seeds}
    labels = _labels({key: next(iter(own.values())) for side in places for key, own in side.items()})
    settings = tuple(
        Setting(label=labels[key], pairs=tuple((places[0][key][seed], places[1][key][seed]) for seed in seeds))
        for key, seeds in shared.items()
    )
    used = [pair for setting in settings for pair in setting.pairs]
    return Matched(
        settings=settings,
        differing=_differing(used),
        only_a=tuple(labels[key] for key in places[0] if key not in shared),
        only_b=tuple(labels[key] for key in places[1] if key not in shared),
        failed_a=_failed(a),
        failed_b=_failed(b),
        copies=sum(a.process == b.process and a.started_at == b.started_at for a, b in used),
        uncommitted=any(bool(record.environment.git_dirty) for pair in used for record in pair),
        load_a=_load(first for first, _ in used),
        load_b=_load(second for _, second in used),
    )


def _finished(records: Sequence[Record]) -> list[Record]:
    return [record for record in timed(records) if record.status == "finished"]


def _failed(records: Sequence[Record]) -> tuple[str, ...]:
    return tuple(record.label for record in timed(records) if record.status != "finished")


def _load(records: Iterable[Record]) -> float | None:
    known = [r.environment.load_average for r in records if r.environment.load_average is not None]
    return statistics.median(known) if known else None


def _free(a: Sequence[Record], b: Sequence[Record]) -> dict[str, frozenset[str]]:
    """By model: conditions that do not cut a sweep into settings."""
    found = {}
    for model in dict.fromkeys(record.model for record in (*a, *b)):
        sides = [[record for record in side if record.model == model] for side in (a, b)]
        known = [{key for record in side for key in record.conditions} for side in sides]
        one_sided = known[0] ^ known[1] if all(sides) else set()
        free = {*LISTED, *one_sided, "seed"}
        for side in sides:
            groups: dict[_Key, list[Record]] = {}
            for record in side:
                groups.setdefault((*_key(record, free), ("seed", seed_of(record))), []).append(record)
            for members in groups.values():
                free -= {key for key in free - {"seed"} if len({r.conditions.get(key) for r in members}) > 1}
        found[model] = frozenset(free)
    return found


def _key(record: Record, free: Iterable[str]) -> _Key:
    left_out = set(free)
    own = sorted((key, value) for key, value in record.conditions.items() if key not in left_out)
    steps = None if record.steps is None else str(record.steps)
    return (("model", record.model), ("steps", steps), *own)


def _placed(records: Sequence[Record], free: dict[str, frozenset[str]]) -> dict[_Key, dict[str, Record]]:
    """By setting and seed."""
    found: dict[_Key, dict[str, Record]] = {}
    for record in records:
        own = found.setdefault(_key(record, free[record.model]), {})
        first = own.setdefault(seed_of(record), record)
        if first is not record:
            raise RecordError(f"two Records of {record.label}: {first.identity} and {record.identity}; drop one")
    return found


def _labels(firsts: dict[_Key, Record]) -> dict[_Key, str]:
    """Names of settings: the job's, with what tells it from others of that name."""
    twins: dict[str, list[_Key]] = {}
    for key, record in firsts.items():
        twins.setdefault(record.label, []).append(key)
    found = {}
    for label, keys in twins.items():
        values = [dict(key) for key in keys]
        apart = sorted(name for name in set().union(*values) if len({own.get(name) for own in values}) > 1)
        for key, own in zip(keys, values, strict=True):
            words = [f"{name.removeprefix('decoding.')}={own[name]}" for name in apart if own.get(name) is not None]
            found[key] = " ".join([label, *words])
    return found


def _differing(pairs: Sequence[tuple[Record, Record]]) -> tuple[Differing, ...]:
    """What differs within pairs; devices and software first, then the rest."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for pair in pairs:
        a, b = map(_facts, pair)
        for key in a.keys() | b.keys():
            if a.get(key) != b.get(key):
                sides = found.setdefault(key, ({}, {}))
                for side, facts in zip(sides, (a, b), strict=True):
                    side[facts.get(key, "")] = None
    first = ["device_name", "card", "driver", "device", "dtype", "engine", "quantization", "commit", "threads"]
    order = {key: place for place, key in enumerate(dict.fromkeys([*first, *LISTED]))}
    keys = sorted(found, key=lambda key: (order.get(key, len(order)), key))
    return tuple(Differing(key=key, a=tuple(found[key][0]), b=tuple(found[key][1])) for key in keys)


def _facts(record: Record) -> dict[str, str]:
    """Everything that is known of how a Record was made, as text."""
    where = record.environment
    known: dict[str, Any] = {
        "card": where.device_uuid,
        "driver": where.driver,
        "threads": where.threads,
        "python": where.python,
        "platform": where.platform,
        "commit": where.git_commit and f"{where.git_commit[:10]}{' (changed)' if where.git_dirty else ''}",
        **where.versions,
        **{f"timing.{key}": value for key, value in record.config.get("timing", {}).items()},
        **record.conditions,
    }
    return {key: str(value) for key, value in known.items() if value is not None}
