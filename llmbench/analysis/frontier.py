"""Which settings of either side does nothing dominate? Quality against latency for all of them, entropy beside.

A setting is on the frontier of a metric (the Pareto frontier) when no other is at least as fast and at least as good,
and better in one of the two. Perplexity and bits per byte reward text that repeats itself, so they have a second
frontier that counts entropy as well (docs/method.md). Intervals are each setting's own; the parity verdict says what
may be claimed about a difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmbench.analysis.estimates import Estimate, Interval, logged, mean_over_seeds
from llmbench.analysis.implementations import IMPLEMENTATION, apart
from llmbench.analysis.parity.bounds import interval_of
from llmbench.analysis.parity.conditions import conditions_of
from llmbench.analysis.parity.grouping import (
    check_shared_conditions,
    decoding_settings,
    seed_of,
    shared_conditions,
)
from llmbench.analysis.parity.sentences import where
from llmbench.analysis.parity.sides import orientation, pooled, side_value
from llmbench.analysis.parity.verdict import DIVERSITY, JUDGED, MATCHED
from llmbench.config.decoders import label_conditions
from llmbench.config.parity import ThresholdsConfig
from llmbench.record import Record, timed


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of one side, over its seeds."""

    label: str  # unique: side, k, and what else differs between settings
    model: str
    side: str  # the label without k
    curve: str  # the label without k, with what else differs: what a line joins
    steps: int | None
    ms: Estimate  # L_e2e
    qualities: Mapping[str, Estimate]  # by metric
    entropy: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Front:
    """The frontier of one metric; indices into the settings, fastest first."""

    metric: str
    on: tuple[int, ...]  # nothing is faster and better
    varied: tuple[
        int, ...
    ]  # nothing is faster, better and more varied; `on` for a metric that repetition does not help
    compared: int  # settings that have this metric


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """All settings that were measured under the same shared conditions."""

    where: str  # the conditions they share
    settings: tuple[Setting, ...]  # fastest first
    fronts: tuple[Front, ...]
    left_out: tuple[str, ...]  # settings that compete with nothing, and why
    identities: tuple[str, ...]


def frontiers(records: Iterable[Record], limits: ThresholdsConfig | None = None) -> tuple[Frontier, ...]:
    """A frontier for each set of shared conditions (device, engine, batch, canvas, prompts, judge).

    Args:
        records: of a sweep; failed ones are passed over.
        limits: of the gates: a setting with more empty outputs is left out, because writing nothing takes no time.

    Raises:
        RecordError: device name or versions differ.
    """
    groups: dict[tuple[str | None, ...], list[Record]] = {}
    for record in timed(records):
        if record.status == "finished" and "latency/e2e_ms" in record.metrics:
            groups.setdefault(shared_conditions(record), []).append(record)
    made = [_frontier(members, limits or ThresholdsConfig()) for members in groups.values()]
    return tuple(item for item in made if item.fronts)


def undominated(costs: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Rows that no other row dominates: at most as large everywhere and smaller somewhere. Equal rows both stay."""
    rows = np.array(costs, dtype=np.float64)
    if not len(rows):
        return ()
    no_worse = np.all(rows[None, :, :] <= rows[:, None, :], axis=2)  # [i, j]: j is no worse than i
    better = np.any(rows[None, :, :] < rows[:, None, :], axis=2)
    return tuple(int(i) for i in np.flatnonzero(~np.any(no_worse & better, axis=1)))


def every_setting(records: Sequence[Record]) -> list[tuple[Setting, list[Record]]]:
    """Each setting of the finished, timed ones of these Records, whatever its texts are like, with its Records."""
    sides: dict[tuple[object, ...], list[Record]] = {}
    records = [r for r in timed(records) if r.status == "finished" and "latency/e2e_ms" in r.metrics]
    for record in records:
        members = sides.setdefault((record.model, record.steps, decoding_settings(record)), [])
        if seed_of(record) not in {seed_of(other) for other in members}:  # one that was measured twice counts once
            members.append(record)
    names, ways = differing(records), apart(records)
    return [(_setting(side, (*ways[id(side[0])], *settings_said(side[0], names))), side) for side in sides.values()]


def _frontier(records: Sequence[Record], limits: ThresholdsConfig) -> Frontier:
    check_shared_conditions(records)
    settings, left_out = [], []
    for made, side in every_setting(records):
        empty = side_value(side, "quality/empty_share")
        if empty is not None and empty > limits.empty_share:
            left_out.append(f"{made.label} ({100 * empty:.3g} % of its outputs are empty)")
        elif made.qualities:
            settings.append(made)
        elif any(record.scores for record in side):
            left_out.append(f"{made.label} (its quality is no finite number)")
    settings.sort(key=lambda item: (item.ms.value, item.label))
    fronts = [_front(settings, key) for key in JUDGED if any(key in item.qualities for item in settings)]
    return Frontier(
        where=_where(records),
        settings=tuple(settings),
        fronts=tuple(fronts),
        left_out=tuple(left_out),
        identities=tuple(record.identity for record in records),
    )


def _front(settings: Sequence[Setting], metric: str) -> Front:
    known = [i for i, item in enumerate(settings) if metric in item.qualities]
    sign = -1.0 if metric == "quality/perplexity" else orientation(metric)
    plain = [(settings[i].ms.value, -sign * settings[i].qualities[metric].value) for i in known]
    on = tuple(known[i] for i in undominated(plain))
    entropies = [item.value for i in known if (item := settings[i].entropy) is not None]
    if metric not in MATCHED or len(entropies) < len(known):
        return Front(metric=metric, on=on, varied=on, compared=len(known))
    wished = [(*row, -entropy) for row, entropy in zip(plain, entropies, strict=True)]
    return Front(metric=metric, on=on, varied=tuple(known[i] for i in undominated(wished)), compared=len(known))


# ----------------------------------------------------------------------------------------------------------------
# One setting


def _setting(side: Sequence[Record], said: Sequence[str]) -> Setting:
    first = side[0]
    ms = mean_over_seeds([logged(record, "latency/e2e_ms") for record in side])
    assert ms is not None  # `frontiers` leaves out what was not timed
    steps = [] if first.steps is None else [f"k={first.steps}"]
    estimates = {key: _quality(side, key) for key in (*JUDGED, DIVERSITY)}
    qualities = {key: item for key, item in estimates.items() if item is not None and key != DIVERSITY}
    return Setting(
        label=" ".join([first.side, *steps, *said]),
        model=first.model,
        side=first.side,
        curve=" ".join([first.side, *said]),
        steps=first.steps,
        ms=ms,
        qualities=qualities,
        entropy=estimates[DIVERSITY],
    )


def settings_said(record: Record, names: Mapping[str, Sequence[str]]) -> list[str]:
    """A Record's values of the settings on which its model's Records differ (`differing`): `T=0.7`, `block=16`."""
    own = names.get(record.model, ())
    said = [f"{short}={record.conditions[key]}" for key, short in _SHORT.items() if key in own]
    other = [key for key in own if key not in _SHORT and key in record.conditions]
    return said + [f"{key.removeprefix('decoding.')}={record.conditions[key]}" for key in sorted(other)]


_SHORT = {"decoding.temperature": "T", "decoding.block_length": "block"}

_NAMED = IMPLEMENTATION | label_conditions()
"""What a side's own label says already."""


def differing(records: Sequence[Record]) -> dict[str, list[str]]:
    """By model: the decoding settings on which its Records differ, or which another model has at another value."""
    found: dict[str, list[str]] = {}
    temperatures = {record.conditions.get("decoding.temperature") for record in records}
    for model in dict.fromkeys(record.model for record in records):
        own = [record.conditions for record in records if record.model == model]
        keys = sorted({key for conditions in own for key in conditions if key.startswith("decoding.")} - set(_NAMED))
        found[model] = [
            key
            for key in keys
            if len({conditions.get(key) for conditions in own}) > 1
            or (key == "decoding.temperature" and len(temperatures) > 1)
        ]
    return found


def _quality(side: Sequence[Record], metric: str) -> Estimate | None:
    found = side_value(side, metric)
    if found is None:
        return None
    terms = list(pooled(side, metric).values())
    interval = interval_of(np.array(terms, dtype=np.float64).reshape(len(terms), 2)) if terms else None
    if interval is None:
        return Estimate(value=found)
    if metric == "quality/perplexity":  # its sums are of -NLL
        interval = Interval(low=float(np.exp(-interval.high)), high=float(np.exp(-interval.low)))
    return Estimate(value=found, low=interval.low, high=interval.high)


def _where(records: Sequence[Record]) -> str:
    """The conditions that the settings share: a temperature that differs is in the labels."""
    shared = conditions_of(records)
    return where(shared if len(shared.temperatures) == 1 else replace(shared, temperatures=()))
