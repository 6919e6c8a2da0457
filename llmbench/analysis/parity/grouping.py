"""Which Records are compared with each other: those whose conditions agree. A difference is named, never averaged.

A sweep may vary batch, canvas or decoding settings on purpose: `comparison_groups` cuts it into sets inside which
everything but k and the seed agrees. What nobody varies on purpose (device name, package versions) must agree:
`check_conditions` refuses it. Of several implementations of the baseline (`model=llama,llama_generate`,
`draft=null,lookup`), `choose_baseline` takes the fastest: its text is compared, its curve is the plain decoder's. A
server is an external one, with a speedup of its own and no part in the verdict, unless the user says that it runs on
this device (`server.trust_same_hardware=true`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.analysis.estimates import logged_mean
from llmbench.analysis.implementations import IMPLEMENTATION, way_of
from llmbench.analysis.parity.sides import Side, temperature_of
from llmbench.config.decoders import implementation_conditions
from llmbench.errors import RecordError
from llmbench.record import Record, from_server

CHAT = "decoding.chat"
"""Whether prompts stood in a chat template (absent: they did not): both sides are asked in one role, or neither is."""

VARIED = (
    *(
        "device",
        "dtype",
        "engine",
        "quantization",
        "weights",
        "canvas",
        "batch",
        "workload",
        "judge",
        "second_judge",
        "encoder",
    ),
    CHAT,
)
"""Conditions that a sweep may vary on purpose; the others (device name, package versions) must agree in all Records."""

SPLITTING = (*VARIED, "device_name")
"""Conditions that cut a sweep into sets: also the device, of which the workers of a cluster may meet several."""

TEMPERATURE = "decoding.temperature"

CHECKPOINT, WITHOUT_WEIGHTS = "decoding.checkpoint", "decoding.checkpoint_without_weights"
"""Digests of configuration and tokenizer, with and without the weights. A server's weights are not known: that they are
those of the checkpoint that its configuration names is the user's word."""

FULL_NUCLEUS = "1.0"
"""The nucleus that is the whole distribution; also of Records from before LLaDA had another."""

_UNUSED = {
    "timed": (),
    "curve": ("encoder", "device_name"),  # its texts may be written anywhere
    "retimed": ("judge", "second_judge", "encoder"),
}
"""By role: conditions of scores and times that such a job does not make."""

_UNKNOWN_OF_SERVERS = ("device_name", "device", "dtype", "engine", "quantization", "clock", "torch", "transformers")
"""Conditions that say where and with what a model ran: of a server they are not known."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Comparable Records by side, each side's over seeds."""

    baseline: Side | None
    candidates: tuple[Side, ...]  # k rising
    curve: tuple[Side, ...] = ()  # the baseline's plain decoder at each temperature, rising
    implementations: tuple[Record, ...]  # every timed autoregressive Record that may be the baseline
    retimed: tuple[Record, ...] = ()  # the baseline, timed again
    external_servers: tuple[Side, ...] = ()  # servers that may not be it

    @property
    def sides(self) -> tuple[Side, ...]:
        """The baseline and the candidate at each k."""
        return ((self.baseline,) if self.baseline else ()) + self.candidates

    @property
    def records(self) -> tuple[Record, ...]:
        """Those of the sides."""
        return tuple(record for side in self.sides for record in side.records)


def group(records: Sequence[Record]) -> Group:
    """Sort one set's finished Records into sides; failed ones are passed over.

    Raises:
        RecordError: conditions differ, or two Records claim one place.
    """
    records = [record for record in records if record.status == "finished"]
    check_conditions(records)
    known = [record for record in records if record.family == "autoregressive"]
    baselines = at_one_temperature(records)
    implementations = tuple(record for record in baselines if not is_external_server(record))
    external = [*filter(is_external_server, baselines)]
    candidates: dict[int, list[Record]] = {}
    for record in sorted(records, key=steps_of):
        if record.family == "diffusion" and is_external_server(record):
            external.append(record)
        elif record.family == "diffusion":
            candidates.setdefault(steps_of(record), []).append(record)
    models = sorted({record.model for members in candidates.values() for record in members})
    if len(models) > 1:
        raise RecordError(f"one diffusion model at a time can be compared, found {', '.join(models)}")
    for members in candidates.values():
        if double := _two_of_one_seed(members):
            first, second = double
            raise RecordError(f"two Records of {second.label}: {first.identity} and {second.identity}; drop one")
    chosen = choose_baseline(implementations)
    servers = _grouped_by(external, lambda record: (record.steps, decoding_settings(record)))
    return Group(
        baseline=Side(chosen) if chosen else None,
        candidates=tuple(Side(tuple(sorted(members, key=seed_of))) for members in candidates.values()),
        curve=_curve(chosen, known) if chosen else (),
        implementations=implementations,
        retimed=tuple(r for r in known if r.role == "retimed" and chosen and _is_same_decoder(r, chosen[0])),
        external_servers=tuple(Side(tuple(members)) for members in servers),
    )


def at_one_temperature(records: Sequence[Record]) -> list[Record]:
    """The timed autoregressive Records of the temperature that is compared: the candidates' own, or the nearest.

    The others are points of the baseline's curve.
    """
    timed = [r for r in records if r.status == "finished" and r.family == "autoregressive" and r.role == "timed"]
    beside = sorted((record for record in records if record.family == "diffusion"), key=is_external_server)
    wanted = next(map(temperature_of, beside), None)
    asked = {r.conditions.get(TEMPERATURE): temperature_of(r) for r in timed if not is_external_server(r)}
    if len(asked) < 2 or wanted is None:
        return timed
    nearest = min(asked, key=lambda said: abs((asked[said] or 0.0) - wanted))
    return [r for r in timed if is_external_server(r) or r.conditions.get(TEMPERATURE) == nearest]


def _curve(baseline: Sequence[Record], known: Sequence[Record]) -> tuple[Side, ...]:
    """The points of the baseline's curve: what its plain decoder wrote at each temperature, for all of its seeds.

    Another implementation's texts are taken where there are none of the plain decoder. Drafts of our engine change no
    greedy text, and so such a job serves as the point at temperature 0. A full job comes before one of the curve.
    """
    fitting = [
        record
        for record in known
        if record.role != "retimed"
        and not is_external_server(record)
        and len(_texts_asked((baseline[0], record), TEMPERATURE)) == 1
    ]
    own = [r for r in fitting if r.conditions.get("decoding.kind", "autoregressive") == "autoregressive"] or fitting
    undrafted = [record for record in own if record.draft is None]
    plain = undrafted + [r for r in own if r.draft and (not undrafted or temperature_of(r) == 0)]
    points: dict[float, dict[str, Record]] = {}
    for record in sorted(plain, key=lambda item: (item.draft is not None, item.role != "timed")):
        temperature = temperature_of(record)
        if temperature is not None:
            points.setdefault(temperature, {}).setdefault(seed_of(record), record)
    seeds = {seed_of(record) for record in baseline}
    whole = {t: found for t, found in points.items() if found.keys() >= seeds or found.keys() == {""}}
    return tuple(Side(tuple(found[seed] for seed in sorted(found))) for _, found in sorted(whole.items()))


def _is_same_decoder(record: Record, other: Record) -> bool:
    """Whether both were written by the same code under the same settings."""
    return decoding_settings(record) == decoding_settings(other)


def comparison_groups(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Cut Records into sets for `parity`: one diffusion model under one setting over k and seeds, with its baseline.

    A baseline serves every set that shares its conditions, with all of its temperatures: they are points of its curve.
    Implementations of one baseline share a set, also where no candidate is.
    A failed Record of either side goes with the sets it belongs to: it is missing there, and its reason is known.
    Where nothing finished there is no set.
    """
    known = list(records)
    finished = [record for record in known if record.status == "finished"]
    failed = [record for record in known if record.status != "finished"]
    baselines = [record for record in finished if record.family == "autoregressive"]
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in sorted((*finished, *(r for r in failed if r.conditions)), key=is_external_server):
        if record.family == "diffusion":
            beside = [place for place in groups if place[0] == record.model and _fits(record, place[1])]
            # a server that stands apart does so beside all that it fits
            for place in beside if is_external_server(record) and beside else [_candidate_place(record)]:
                groups.setdefault(place, []).append(record)
    unplaced = [r for r in failed if not r.conditions]  # died before its conditions were known: missing everywhere
    sets, used = [], set()
    for (model, varied, own), candidates in groups.items():
        served = all(map(from_server, candidates))
        fitting = [record for record in baselines if _fits(record, varied, candidate_served=served)]
        used |= {id(record) for record in fitting}
        here = [r for r in candidates if r.status == "finished"]
        if not (fitting or here):
            continue
        absent = [r for r in candidates if r.status != "finished"] + [r for r in unplaced if r.model == model]
        wanted = dict(own).get(TEMPERATURE) if fitting else None
        absent += [r for r in failed if r.family == "autoregressive" and _missing_beside(r, varied, wanted)]
        sets.append((*fitting, *sorted(here, key=steps_of), *absent))
    alone: dict[tuple[Any, ...], list[Record]] = {}
    for record in sorted(baselines, key=from_server):
        if id(record) in used or record.role != "timed":
            continue
        shared = [
            place for place in alone if from_server(record) and place[0] == record.model and _fits(record, place[1])
        ]
        own_place = record.model, shared_conditions(record), text_settings(record)
        for place in shared or [own_place]:
            alone.setdefault(place, []).append(record)
    placed = {model for model, _, _ in groups}
    lost = [r for r in unplaced if r.family == "diffusion" and r.model not in placed]
    return sets + [(*members, *lost) for members in alone.values()]


def _missing_beside(failed: Record, varied: tuple[str | None, ...], temperature: str | None) -> bool:
    """Whether a failed baseline should have stood beside such candidates; None for the temperature: any."""
    temperatures = (failed.conditions.get(TEMPERATURE), None)
    return not failed.conditions or (_fits(failed, varied) and temperature in temperatures)


def is_external_server(record: Record) -> bool:
    """Whether it is a server's, and nobody says that the server runs on this device: no verdict rests on it."""
    return from_server(record) and record.conditions.get("decoding.trust_same_hardware") != "True"


def choose_baseline(baselines: Sequence[Record]) -> tuple[Record, ...]:
    """The fastest implementation of the baseline by `latency/e2e_ms`, or the only one, over its seeds; () for none.

    Raises:
        RecordError: two of them are the same implementation and seed, or differ in more than that.
    """
    baselines = [record for record in baselines if record.status == "finished" and not is_external_server(record)]
    ways = _grouped_by(baselines, way_of)
    if any(map(_two_of_one_seed, ways)) or len({r.model for r in baselines}) > 1 or len(_texts_asked(baselines)) > 1:
        names = ", ".join(f"{record.label} ({record.identity})" for record in baselines)
        raise RecordError(f"one autoregressive Record is needed as the baseline, found {len(baselines)}: {names}")

    clock = "latency/e2e_wall_ms" if any(map(from_server, baselines)) else "latency/e2e_ms"

    def e2e_ms(way: Sequence[Record]) -> float:
        time = logged_mean(way, clock)
        return math.inf if time is None else time

    return tuple(sorted(min(ways, key=e2e_ms, default=()), key=seed_of))


def _grouped_by(records: Iterable[Record], key: Callable[[Record], Any]) -> list[list[Record]]:
    """Records with equal keys together, in the order of their first ones."""
    ways: dict[Any, list[Record]] = {}
    for record in records:
        ways.setdefault(key(record), []).append(record)
    return list(ways.values())


def nucleus(record: Record) -> str:
    """Share of the probability that is drawn from; all where nothing is drawn, or the Record says nothing of it."""
    greedy = record.conditions.get(TEMPERATURE) in ("0", "0.0")
    return FULL_NUCLEUS if greedy else record.conditions.get("decoding.top_p", FULL_NUCLEUS)


def stochastic(record: Record) -> bool:
    """Whether the seed changes the text: sampling, or positions drawn at random."""
    greedy = record.conditions.get(TEMPERATURE) in ("0", "0.0")
    drawn = record.conditions.get("decoding.remasking") in ("random", "origin")
    return not greedy or drawn or record.conditions.get("decoding.remasking_temperature", "0.0") not in ("0", "0.0")


def seed_of(record: Record) -> str:
    """The seed, where it changes anything."""
    return record.conditions.get("seed", "") if stochastic(record) else ""


def _two_of_one_seed(records: Sequence[Record]) -> tuple[Record, Record] | None:
    seen: dict[str, Record] = {}
    for record in records:
        if (other := seen.setdefault(seed_of(record), record)) is not record:
            return other, record
    return None


def decoding_settings(record: Record) -> tuple[tuple[str, str], ...]:
    """All decoding settings; the weights stand for the files beside them, where they are known."""
    unread = () if from_server(record) else (WITHOUT_WEIGHTS,)
    found = (pair for pair in record.conditions.items() if pair[0].startswith("decoding.") and pair[0] not in unread)
    return tuple(sorted(found))


def text_settings(record: Record) -> tuple[tuple[str, str], ...]:
    """Decoding settings that shape the text."""
    return tuple(pair for pair in decoding_settings(record) if pair[0] not in IMPLEMENTATION)


def _texts_asked(records: Iterable[Record], *free: str) -> set[tuple[tuple[str, str], ...]]:
    """The different settings that shape the text, of the checkpoint as far as all of the Records know it."""
    known = list(records)
    left_out = {*_unknown(known), *free, *IMPLEMENTATION}
    asked = [{k: v for k, v in r.conditions.items() if k.startswith("decoding.") and k not in left_out} for r in known]
    return {tuple(sorted(settings.items())) for settings in asked}


def _unknown(records: Iterable[Record]) -> set[str]:
    """The digests of the checkpoint that one of the Records does not know."""
    return {
        key
        for record in records
        for key in (CHECKPOINT, WITHOUT_WEIGHTS)
        if key not in record.conditions or (key == CHECKPOINT and from_server(record))
    }


def shared_conditions(record: Record) -> tuple[str | None, ...]:
    """The conditions that cut a sweep into sets and do not belong to one side."""
    return tuple(record.conditions.get(key) for key in SPLITTING)


def _candidate_place(record: Record) -> tuple[str, tuple[str | None, ...], tuple[tuple[str, str], ...]]:
    """Model, shared conditions and settings of a candidate over k; of a server not its address: each k may have one."""
    if not from_server(record):
        return record.model, shared_conditions(record), decoding_settings(record)
    shared = zip(SPLITTING, shared_conditions(record), strict=True)
    known = tuple(None if key in _UNKNOWN_OF_SERVERS else value for key, value in shared)
    addresses = ("decoding.url", "decoding.served_model")
    return record.model, known, tuple(pair for pair in decoding_settings(record) if pair[0] not in addresses)


def _fits(record: Record, varied: tuple[str | None, ...], *, candidate_served: bool = False) -> bool:
    """Whether a Record belongs to candidates under these conditions; a server's place and role are not asked for."""
    free = (*_not_asked(record), *((CHAT,) if from_server(record) else ()))
    free += _UNKNOWN_OF_SERVERS if candidate_served else ()
    asked = zip(SPLITTING, shared_conditions(record), varied, strict=True)
    return all(own == wanted or key in free for key, own, wanted in asked)


def _not_asked(record: Record) -> tuple[str, ...]:
    """Conditions that a Record need not share, because it cannot know them or did not use them."""
    return (*_UNUSED[record.role], *(_UNKNOWN_OF_SERVERS if from_server(record) else ()))


def steps_of(record: Record) -> int:
    """k, for sorting; 0 for a model without steps."""
    return record.steps or 0


def check_conditions(records: Sequence[Record]) -> None:
    """Refuse Records that may not be compared: `decoding.*` must agree within a model, everything else across all.

    Only `IMPLEMENTATION` may differ within a model (but not a diffusion model's cache: it changes the text), the
    baseline's temperature, and the seed anywhere. A chat template is used by all or by none: an answer and a
    continuation are not the same task. Where a server runs is not asked, nor its weights, but configuration and
    tokenizer are; an external one may decode in its own way.

    Raises:
        RecordError: names the key and both values.
    """
    check_shared_conditions(records)
    firsts: dict[str, Record] = {}
    asked = sorted((record for record in records if not is_external_server(record)), key=from_server)
    for record in asked:
        _agree(asked[0], record, lambda key: key == CHAT)
        own = firsts.setdefault(record.model, record)
        free = implementation_conditions(record.family)
        if record.family == "autoregressive":
            free |= {TEMPERATURE}
        free |= _unknown((own, record))
        _agree(own, record, lambda key: key.startswith("decoding.") and key not in free)  # noqa: B023


def check_shared_conditions(records: Sequence[Record], varied: Sequence[str] = ()) -> None:
    """Refuse Records whose conditions differ in what is neither seed nor decoding.

    Where a server runs is not asked.

    Args:
        records: of any sides.
        varied: conditions that may differ all the same.

    Raises:
        RecordError: names the key and both values.
    """
    # what is known is compared with what is known
    ordered = sorted(records, key=lambda record: (record.role != "timed", from_server(record)))
    for record in ordered:
        free = ("seed", *varied, *_not_asked(record))
        _agree(ordered[0], record, lambda key: key not in free and not key.startswith("decoding."))  # noqa: B023


def _agree(first: Record, other: Record, wanted: Callable[[str], bool]) -> None:
    for key in sorted(filter(wanted, first.conditions.keys() | other.conditions.keys())):
        here, there = first.conditions.get(key), other.conditions.get(key)
        if here != there:
            raise RecordError(f"{first.label} and {other.label} cannot be compared: {key} is {here!r} and {there!r}")
