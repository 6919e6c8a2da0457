"""The plane on which engines are compared: tokens per second of one user against those of the device, over batch.

A larger batch gives a device more work and each user less speed. A point is on the frontier (the Pareto frontier) when
no other is at least as fast for a user and for the device, and faster in one of the two. Points of both families and of
all implementations are in one plane, for valid tokens and, because tokenizers differ, for bytes. It compares speed
alone: quality and the verdict at each k stand beside it and move no point. Servers on hardware that is not known are
listed apart (docs/metrics.md).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Any, Literal

from llmbench.analysis.formats import called
from llmbench.analysis.frontier import differing, settings_said, undominated
from llmbench.analysis.implementations import ImplementationName, apart, implementation_name
from llmbench.analysis.parity.conditions import conditions_of
from llmbench.analysis.parity.grouping import (
    CHAT,
    SPLITTING,
    check_shared_conditions,
    decoding_settings,
    is_external_server,
    seed_of,
)
from llmbench.analysis.parity.sentences import where
from llmbench.analysis.parity.sides import side_value
from llmbench.analysis.parity.verdict import DIVERSITY, Status, Verdict
from llmbench.metrics.performance import throughput
from llmbench.record import Record, from_server, timed

QUALITIES = ("quality/perplexity", DIVERSITY, "quality/accuracy")
"""What stands beside a point."""

UNITS: tuple[Literal["tokens", "bytes"], ...] = ("tokens", "bytes")

_VARIED = ("batch", "engine")
"""Conditions on which points of one plane may differ."""

_NOT_OF_SERVERS = ("device_name", "device", "dtype", "quantization", CHAT)
"""Conditions of a plane that a server need not share."""


class Judgement(StrEnum):
    """What the parity verdict says about a k."""

    REACHED = "reached"
    NOT_REACHED = "not reached"  # shown to be worse than the margin
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Valid output per second."""

    per_user: float
    per_device: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of one side at one batch size, over its seeds."""

    label: str  # side, k and what else differs between settings; points over batch share it
    name: str  # the same in prose
    model: str
    side: str
    steps: int | None
    batch: int
    implementation: ImplementationName
    rates: Mapping[str, Rate]  # by unit; without text there are no bytes
    joules_per_token: float | None = None
    joules_per_byte: float | None = None
    price: float | None = None  # of a million valid tokens, in the unit of the price per hour
    qualities: Mapping[str, float]
    judgement: Judgement | None = None  # None: no verdict is about it

    @property
    def curve(self) -> str:
        """What a line over batch joins."""
        return self.label


@dataclass(frozen=True, kw_only=True)
class Plane:
    """All points that were measured under the same conditions but for the batch size and the engine."""

    where: str  # the conditions they share
    points: tuple[Point, ...]  # by side and setting, the batch rising
    on: Mapping[str, tuple[int, ...]]  # by unit: the points of the frontier
    external: tuple[Point, ...] = ()  # servers on hardware that is not known
    price_per_hour: float | None = None
    identities: tuple[str, ...]


def planes(
    records: Iterable[Record], verdicts: Sequence[Verdict] = (), price_per_hour: float | None = None
) -> tuple[Plane, ...]:
    """A plane for each set of shared conditions (device, canvas, prompts, weights).

    Args:
        records: of a sweep; failed ones, and those that were not timed, are passed over.
        verdicts: of the same sweep, for the judgement of each k.
        price_per_hour: of the device; None leaves money out.

    Raises:
        RecordError: versions differ.
    """
    known = [r for r in timed(records) if r.status == "finished" and _rates([r])]
    places: dict[tuple[Any, ...], list[Record]] = {}
    for record in sorted(known, key=from_server):
        shared = [place for place in places if from_server(record) and _fits(record, place)]
        for place in shared or [_place(record)]:
            places.setdefault(place, []).append(record)
    judged = {identity: item for verdict in verdicts for identity, item in _judgements(verdict, known)}
    return tuple(_plane(members, judged, price_per_hour) for members in places.values())


_SHARED = tuple(key for key in SPLITTING if key not in _VARIED)


def _place(record: Record) -> tuple[str | None, ...]:
    return tuple(record.conditions.get(key) for key in _SHARED)


def _fits(record: Record, place: tuple[str | None, ...]) -> bool:
    """Whether a server was asked for the same as a plane's points."""
    asked = zip(_SHARED, _place(record), place, strict=True)
    return all(own == other or key in _NOT_OF_SERVERS for key, own, other in asked)


def _plane(records: Sequence[Record], judged: Mapping[str, Judgement], price_per_hour: float | None) -> Plane:
    check_shared_conditions(records, SPLITTING)
    settings: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        key = (record.model, record.steps, decoding_settings(record), *map(record.conditions.get, _VARIED))
        members = settings.setdefault(key, [])
        if seed_of(record) not in {seed_of(other) for other in members}:  # one that was measured twice counts once
            members.append(record)
    told = _told(records)
    made = [(_point(members, told, records, judged), is_external_server(members[0])) for members in settings.values()]
    made.sort(
        key=lambda pair: (pair[0].steps is not None, pair[0].model, pair[0].steps or 0, pair[0].label, pair[0].batch)
    )
    points = tuple(_priced(point, price_per_hour) for point, external in made if not external)
    shared = conditions_of(sorted(records, key=from_server))
    temperatures = shared.temperatures if len(shared.temperatures) == 1 else ()
    return Plane(
        where=where(replace(shared, batch="", temperatures=temperatures)),
        points=points,
        on={unit: front for unit in UNITS if (front := _front(points, unit))},
        external=tuple(point for point, external in made if external),
        price_per_hour=price_per_hour,
        identities=tuple(record.identity for record in records),
    )


def _front(points: Sequence[Point], unit: str) -> tuple[int, ...]:
    known = [(i, point.rates[unit]) for i, point in enumerate(points) if unit in point.rates]
    on = undominated([(-rate.per_user, -rate.per_device) for _, rate in known])
    return tuple(known[place][0] for place in on)


# ----------------------------------------------------------------------------------------------------------------
# One point


def _told(records: Sequence[Record]) -> Callable[[Record], list[str]]:
    """What tells a Record's setting from the others of its side, besides the batch size.

    Servers are told from servers: their weights are not known, and so their checkpoint has another digest.
    """
    served, local = (differing([r for r in records if from_server(r) is there]) for there in (True, False))
    ways = apart(records)
    engines = {r.conditions.get("engine") for r in records if not from_server(r)}

    def said(record: Record) -> list[str]:
        own = [f"engine={record.conditions['engine']}"] if len(engines) > 1 and not from_server(record) else []
        return [*ways[id(record)], *settings_said(record, served if from_server(record) else local), *own]

    return said


def _point(
    side: Sequence[Record],
    told: Callable[[Record], list[str]],
    among: Sequence[Record],
    judged: Mapping[str, Judgement],
) -> Point:
    first = side[0]
    said, implementation = told(first), implementation_name(first, among)
    steps = [] if first.steps is None else [f"k={first.steps}"]
    label = " ".join([first.side, *steps, *said])
    own = [word for word in said if word not in implementation.settings]
    prose = " ".join([str(implementation), *own])
    return Point(
        label=label,
        name=label.replace(first.model, called(first.model), 1) if first.family == "diffusion" else prose,
        model=first.model,
        side=first.side,
        steps=first.steps,
        batch=int(first.conditions["batch"]),
        implementation=implementation,
        rates=_rates(side),
        joules_per_token=_mean([record.metrics.get("energy/joules_per_token") for record in side]),
        joules_per_byte=_mean([record.metrics.get("energy/joules_per_byte") for record in side]),
        qualities={key: value for key in QUALITIES if (value := side_value(side, key)) is not None},
        judgement=judged.get(first.identity),
    )


def _rates(side: Sequence[Record]) -> dict[str, Rate]:
    """By unit, the mean over seeds; without the units that one of the Records lacks or wrote nothing in."""
    each = [throughput(record) for record in side]
    found: dict[str, Rate] = {}
    for unit in UNITS:
        user = _mean([values.get(f"throughput/{unit}_per_s_per_user") for values in each])
        device = _mean([values.get(f"throughput/{unit}_per_s") for values in each])
        if user and device:
            found[unit] = Rate(per_user=user, per_device=device)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _priced(point: Point, price_per_hour: float | None) -> Point:
    """With the money that a million valid tokens cost while the device is busy with them."""
    rate = point.rates.get("tokens")
    if price_per_hour is None or rate is None:
        return point
    return replace(point, price=price_per_hour / 3600 / rate.per_device * 1e6)


def _judgements(verdict: Verdict, records: Sequence[Record]) -> list[tuple[str, Judgement]]:
    """By identity, what a verdict says about the k of its candidates; nothing where no quality was compared."""
    head = verdict.head
    if head is None:
        return []

    def judgement(steps: int) -> Judgement:
        if steps in head.passing:
            return Judgement.REACHED
        test = head.test(steps)
        decided = verdict.status not in (Status.INVALID, Status.INSENSITIVE) and steps not in head.not_judged
        return Judgement.NOT_REACHED if decided and test is not None and test.worse else Judgement.UNDECIDED

    own = [r for r in records if r.steps is not None and r.identity in verdict.identities]
    return [(record.identity, judgement(record.steps or 0)) for record in own]
