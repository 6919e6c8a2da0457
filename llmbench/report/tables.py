"""Tables 1 to 4, and the table of one job: which columns they have, and the text above and below."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from llmbench.analysis.estimates import Estimate, logged_mean
from llmbench.analysis.formats import TITLES, listed, number
from llmbench.analysis.implementations import way_of
from llmbench.analysis.parity import check_sentences, sentences
from llmbench.analysis.parity.grouping import comparison_groups, group, is_external_server
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import DIVERSITY, Check, Curve, Speedup
from llmbench.metrics.keys import METRICS
from llmbench.record import Record
from llmbench.report.cells import (
    Column,
    condition,
    forwards,
    in_order,
    interval,
    naming_columns,
    provenance,
    quantity,
    record_table,
    value,
    weights_of,
    with_interval,
)
from llmbench.report.layout import ABSENT, Quantity, Table


def _roofline(record: Record) -> str:
    """Least possible time / L_e2e, marked where the ceilings cannot judge it."""
    share = record.metrics.get("roofline/efficiency")
    if share is None or (record.ceilings is not None and record.ceilings.judged):
        return quantity(share)
    return Quantity(f"{number(share)} (not judged)", share)


def _doubts(records: Sequence[Record]) -> list[str]:
    """Why a roofline is marked, where one is."""
    if not any(_roofline(record).endswith("(not judged)") for record in records):
        return []
    why = "the weights are not over 4x the last-level cache, or its size is not known"
    return [f"Roofline not judged: {why}; memory bandwidth need not bound them."]


_CHOSEN = "baseline"
"""Marks that one of several implementations against which ratios are taken."""

_MIB = 2.0**20
_E2E: Column = ("L_e2e ms [95 %]", with_interval("latency/e2e_ms"))
_TOKENS: Column = ("tokens/s", value("throughput/tokens_per_s"))
_BYTES: Column = ("bytes/s", value("throughput/bytes_per_s"))
_QUALITY = (
    *("quality/perplexity", "quality/perplexity_second", DIVERSITY, "quality/relevance", "quality/distinct_2"),
    *("quality/bertscore_f1", "quality/accuracy"),
)
_MAIN_QUALITY = ("quality/accuracy", "quality/perplexity", DIVERSITY, "quality/bertscore_f1")
_LATENCY: tuple[Column, ...] = (
    _E2E,
    ("first text ms", value("latency/first_text_ms")),
    ("prefill ms", with_interval("latency/prefill_ms")),
    ("L_itl ms", with_interval("latency/itl_ms")),
    ("step ms", with_interval("latency/step_ms")),
    ("forwards", forwards),
    ("tokenize ms", value("latency/tokenize_ms")),
    ("host overhead ms", value("latency/host_overhead_ms")),
    ("roofline", _roofline),
)
_PER_CANVAS: tuple[Column, ...] = (
    ("canvas tokens/s", value("throughput/canvas_tokens_per_s")),
    ("tokens/forward", value("throughput/tokens_per_forward")),
)
_MEMORY: tuple[Column, ...] = (
    ("M_peak MiB", value("memory/peak_reserved_bytes", _MIB)),
    ("RSS MiB", value("memory/peak_rss_bytes", _MIB)),
)
_OVER_MODEL: Column = ("over model MiB", value("memory/over_model_bytes", _MIB))


def job_table(record: Record, command: str = "") -> Table:
    """One finished job: the columns of tables 1 to 4 as rows."""

    def quality(key: str, record: Record) -> str:
        others = (
            (name, value(f"{key}{suffix}")(record)) for name, suffix in (("human", "_human"), ("floor", "_floor"))
        )
        beside = ", ".join(f"{name} {cell}" for name, cell in others if cell != ABSENT)
        own = value(key)(record)
        return f"{own} ({beside})" if beside and own != ABSENT else own

    columns = (*_LATENCY, _TOKENS, _BYTES, *_PER_CANVAS, *_MEMORY, _OVER_MODEL)
    columns += tuple((TITLES[key], partial(quality, key)) for key in (*_QUALITY, "quality/bits_per_byte"))
    size = ", ".join(f"{key} {condition(key)(record)}" for key in ("batch", "canvas"))
    return Table(
        title=f"{record.label} ({record.identity}): {size}",
        header=("", "value"),
        rows=tuple((name, said) for name, cell in columns if (said := cell(record)) != ABSENT),
        notes=record.notes,
        provenance=provenance([record], command),
    )


def latency_table(records: Iterable[Record], command: str = "") -> Table:
    """Table 1: where the time goes, at each side's own granularity."""
    records = in_order(records)
    names = (*naming_columns(records), ("batch", condition("batch")))
    columns = (*names, *_LATENCY)
    notes = (
        "L_e2e: prompt ids on the device to output ids final, median over repeats. First text: when it can be shown.",
        "L_itl = (L_e2e - prefill) / (forwards - 1); step: one denoising step. Roofline: least possible time / L_e2e.",
        *_doubts(records),
    )
    main = (_E2E[0], "first text ms", "L_itl ms", "step ms", "forwards")
    return record_table("Latency", records, columns, command, notes, keys=len(names), main=main)


def throughput_table(records: Iterable[Record], command: str = "") -> Table:
    """Table 2: capacity over the batch, and R(B) = T_LLaDA / T_LLaMA in bytes per second.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    key = "throughput/bytes_per_s"
    ordered = in_order(records)
    ratios: dict[int, str] = {}
    for members in comparison_groups(ordered):
        sides = group(members)
        base = sides.baseline
        if base is not None and (rate := logged_mean(base.records, key)):
            own = [r for r in members if r.steps is not None and key in r.metrics and not is_external_server(r)]
            ratios |= {id(record): quantity(record.metrics[key] / rate) for record in own}
            if len({way_of(record) for record in sides.implementations}) > 1:
                ratios |= {id(record): _CHOSEN for record in base.records}
    names = (*naming_columns(ordered), ("batch", condition("batch")))
    columns: tuple[Column, ...] = (
        *names,
        _E2E,
        _TOKENS,
        _BYTES,
        ("R(B)", lambda record: ratios.get(id(record), ABSENT)),
        *_PER_CANVAS,
    )
    notes = [
        "Valid output only: what follows the first stop token never counts (in canvas tokens/s it does).",
        "R(B): bytes/s against the autoregressive side at the same batch; above 1, diffusion has the larger capacity.",
    ]
    if _CHOSEN in ratios.values():
        notes.append(f"{_CHOSEN.capitalize()}: the fastest implementation of that side at that batch, by L_e2e.")
    main = (_E2E[0], _TOKENS[0], _BYTES[0], "R(B)")
    title = "Throughput over the batch"
    return record_table(title, ordered, columns, command, notes, keys=len(names), main=main)


def memory_table(records: Iterable[Record], command: str = "") -> Table:
    """Table 3: memory over the length of the canvas."""
    ordered = in_order(records)
    names = (*naming_columns(ordered), ("canvas", condition("canvas")), ("batch", condition("batch")))
    columns: tuple[Column, ...] = (
        *names,
        *_MEMORY,
        _OVER_MODEL,
        ("model MiB", value("memory/model_reserved_bytes", _MIB)),
        ("allocated MiB", value("memory/peak_allocated_bytes", _MIB)),
        ("device MiB", value("memory/device_used_bytes", _MIB)),
        _E2E,
    )
    cuda = any(record.environment.device == "cuda" for record in ordered)
    note = (
        "M_peak: most memory reserved while generating; over model: minus the model alone (cache or activations)."
        if cuda
        else "RSS: peak resident set of the whole process, interpreter and libraries included; M_peak needs a GPU."
    )
    main = (*(name for name, _ in _MEMORY), _OVER_MODEL[0], "model MiB", _E2E[0])
    return record_table("Memory over the canvas", ordered, columns, command, (note,), keys=len(names), main=main)


def parity_table(records: Iterable[Record], parity: Parity, command: str = "") -> Table:
    """Table 4: speed and quality of both sides at each k, with the human reference and the floor beside each quality.

    Args:
        records: the Records that `parity` was made from (others are left out).
        parity: their verdict; its sentences stand above the numbers.
        command: what recreates it.
    """
    ordered = [record for record in in_order(records) if record.identity in parity.identities]
    names = naming_columns(ordered)
    columns: list[Column] = [
        *names,
        _E2E,
        ("speedup [95 %]", partial(own_speedup, parity)),
        *([("forwards", forwards)] if parity.forwards else []),
        *((f"{name}, wall clock [95 %]", cell) for name, cell in _external_servers(parity)),
        ("roofline", _roofline),
        _TOKENS,
        _BYTES,
        *_MEMORY,
    ]
    columns += [(TITLES[key], partial(_quality_cell, parity.curve(key), key)) for key in _QUALITY]
    notes = failed_checks(parity)
    notes += [f"Warning: {text}" for text in sentences.warnings(parity)]
    notes += _references(parity)
    notes += _doubts(ordered)
    if parity.speedups or any(item.speedup for item in parity.implementations):
        notes.append(
            "speedup = L_e2e of the autoregressive side / L_e2e here; intervals: bootstrap over batches, then repeats."
        )
    notes += [
        f"{name} = L_e2e of {f'the baseline / that of {item.label}' if item.candidate else item.label} ({item.where})"
        f"{'' if item.candidate else ' / L_e2e here'}, both by the host clock."
        for item, (name, _) in zip(parity.external_servers, _external_servers(parity), strict=True)
        if item.speedups
    ]
    if any("memory/peak_rss_bytes" in record.metrics for record in ordered):
        notes.append("RSS: of the whole process, with what earlier jobs left in it; do not compare models by it.")
    main = (_E2E[0], "speedup [95 %]", *(TITLES[key] for key in _MAIN_QUALITY))
    title = "Steps to quality parity"
    table = record_table(title, ordered, columns, command, notes, keys=len(names), main=main)
    extra = [
        (name, *(_reference(parity, header, field) for header in table.header[1:]))
        for name, field in (("human reference", "human"), ("floor", "floor"))
    ]
    known = [row for row in extra if set(row[1:]) != {ABSENT}]
    base = [identity for item in parity.implementations[:1] for identity in item.identities[:1]]
    return replace(
        table,
        rows=(*table.rows, *known),
        lead=sentences.lines(parity),
        identities=(*table.identities, *(identity for identity in base for _ in known)),
    )


def of_checkpoints(table: Table, records: Iterable[Record], parity: Parity) -> Table:
    """The table of one verdict of several, with the checkpoints that it is about in front of everything."""
    named = dict.fromkeys(weights_of(record) for record in in_order(records) if record.identity in parity.identities)
    return replace(table, lead=(f"Of {', '.join(named)}.", *table.lead))


def _quality_cell(curve: Curve | None, key: str, record: Record) -> str:
    """A metric of a Record; entropy over the prefix that the verdict takes."""
    if key != DIVERSITY or curve is None:
        return value(key)(record)
    return quantity(curve.at(record.steps))


def failed_checks(parity: Parity) -> list[str]:
    """A line for each gate of a verdict that closed."""
    return list(_failed(parity.failed_checks))


def _failed(checks: Iterable[Check]) -> Iterator[str]:
    """A line for each kind of failed Check: what the first of it found, and at which further k it failed."""
    kinds: list[list[Check]] = []
    for check in checks:
        kind = next((k for k in kinds if _is_same_but_k(k[0], check) and check.steps not in [c.steps for c in k]), None)
        if kind is None:
            kinds.append([check])
        else:
            kind.append(check)
    for first, *others in kinds:
        said = f"Check: {first.name.value}: {check_sentences.reason(first)}; {check_sentences.effect(first)}."
        yield f"{said} It also failed at k = {listed([c.steps for c in others])}." if others else said


def _is_same_but_k(first: Check, other: Check) -> bool:
    """Whether a Check found at another k what the first did."""
    what = [(c.name, c.blocks, c.metrics, *map(c.values.get, ("key", "reason", "measured"))) for c in (first, other)]
    return other.steps is not None and what[0] == what[1]


def _references(parity: Parity) -> list[str]:
    """Which texts the floors are, and where human text stands."""
    curves = [item.curve for item in parity.metrics if item.curve.floor is not None and item.curve.floor_text]
    texts = ", ".join(f"{TITLES[c.metric]}: {_FLOOR_TEXTS.get(c.floor_text, c.floor_text)}" for c in curves)
    found = [f"Floor: the best of three texts that are no answer ({texts})."] if texts else []
    head = parity.head.curve if parity.head else None
    if head is not None and head.human is not None and head.baseline is not None:
        better = METRICS[head.metric].better
        wins = head.human < head.baseline if better == "lower" else head.human > head.baseline
        place = "better" if wins else "worse"
        found.append(
            f"Human text has {TITLES[head.metric]} {number(head.human)}, {place} than {parity.names[0]}'s "
            f"{number(head.baseline)}: the metric measures how likely a text is to the judge, not how good it is."
        )
    return found


_FLOOR_TEXTS = {"shuffled": "references of other prompts", "prompt_tail": "the prompt again", "empty": "no text"}


def _external_servers(parity: Parity) -> list[tuple[str, Callable[[Record], str]]]:
    """Name and cell of each server's own speedup; several servers are numbered."""
    several = len(parity.external_servers) > 1
    return [
        (
            f"{'speedup of' if item.candidate else 'vs'} {item.label}{f' {place}' if several else ''}",
            partial(_speedup, item.speedup, of_server=item.candidate),
        )
        for place, item in enumerate(parity.external_servers, start=1)
    ]


def _speedup(at: Callable[[int | None], Speedup | None], record: Record, *, of_server: bool = False) -> str:
    own = record.family == "diffusion" and is_external_server(record) is of_server
    found = at(record.steps) if own else None
    return ABSENT if found is None else interval(Estimate(value=found.ratio, low=found.low, high=found.high), "x")


def own_speedup(parity: Parity, record: Record) -> str:
    """The speedup cell of a candidate or of another implementation of the baseline; `baseline` for the chosen one.

    Where there is one implementation alone, it is not marked.
    """
    own = [item for item in parity.implementations if record.identity in item.identities]
    if own and own[0].speedup is not None:
        return interval(own[0].speedup, "x")
    if own and len(parity.implementations) > 1 and own[0] is parity.implementations[0]:
        return _CHOSEN
    return _speedup(parity.speedup, record)


def _reference(parity: Parity, header: str, field: str) -> str:
    key = next((key for key, title in TITLES.items() if title == header), None)
    curve = parity.curve(key) if key else None
    return quantity(getattr(curve, field) if curve else None)
