"""The cells, rows and provenance of tables that are made from Records.

A cell is text with sensible digits and an interval where one exists; an absent value is "-". A table ends with its
provenance, made from the values that were really used: device, versions, commit, prompts, repeats, date, command.
"""

from collections.abc import Callable, Iterable, Sequence

from llmbench.analysis.estimates import Estimate, logged
from llmbench.analysis.formats import counted, number, quantization
from llmbench.analysis.implementations import row_labels, way_of
from llmbench.analysis.parity.grouping import seed_of, steps_of
from llmbench.record import Record, from_server, timed
from llmbench.report.layout import ABSENT, Quantity, Table

Column = tuple[str, Callable[[Record], str]]
"""Header, and the cell of a Record."""


def value(key: str, scale: float = 1.0) -> Callable[[Record], str]:
    """The cell of one metric."""

    def cell(record: Record) -> str:
        found = record.metrics.get(key)
        return quantity(None if found is None else found / scale)

    return cell


def quantity(found: float | None) -> str:
    """A number, where there is one."""
    return ABSENT if found is None else Quantity(number(found), found)


def with_interval(key: str) -> Callable[[Record], str]:
    """A metric with its 95 % interval, where it was recorded."""
    return lambda record: interval(logged(record, key))


def forwards(record: Record) -> str:
    """Forwards made; every one where they are whole."""
    made = record.metrics.get("throughput/nfe")
    return ABSENT if made is None else Quantity(f"{made:g}", made)


def interval(estimate: Estimate | None, unit: str = "") -> str:
    """`12.3x [11.9, 12.8]`; the value alone where it has no interval."""
    if estimate is None:
        return ABSENT
    said = f"{number(estimate.value)}{unit}"
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return Quantity(said, estimate.value)
    return Quantity(f"{said} [{number(low)}, {number(high)}]", estimate.value, low, high)


def condition(key: str) -> Callable[[Record], str]:
    """The cell of one condition."""
    return lambda record: record.conditions.get(key, ABSENT)


def in_order(records: Iterable[Record]) -> list[Record]:
    """Finished full measurements as tables list them: models without steps first (servers last), then by k and size.

    Implementations of one model stand below each other, each over the sizes, and the seeds of each size.
    """
    finished = [record for record in timed(records) if record.status == "finished"]
    keys = ("batch", "canvas", "seed")
    size = {id(r): tuple(int(r.conditions.get(key, 0)) for key in keys) for r in finished}

    def row_order(record: Record) -> tuple[object, ...]:
        way = record.side, *(value or "" for value in way_of(record))
        of_side = record.steps is not None, record.model, from_server(record), steps_of(record)
        return (*of_side, *way, size[id(record)])

    return sorted(finished, key=row_order)


def naming_columns(records: Sequence[Record]) -> tuple[Column, ...]:
    """Which implementation and k a row is of; its seed and temperature where the rows differ in them."""
    labels = row_labels(records)
    columns: list[Column] = [("", lambda record: labels[id(record)])]
    if len(set(map(seed_of, records)) - {""}) > 1:
        columns.append(("seed", condition("seed")))
    temperature = condition("decoding.temperature")
    if len(set(map(temperature, records))) > 1:
        columns.append(("temperature", temperature))
    return tuple(columns)


def provenance(records: Sequence[Record], command: str = "", *, generated: bool = True) -> str:
    """The line that recreates a table, from the values really used; values that differ are all named.

    Args:
        records: what the table shows.
        command: what was typed.
        generated: whether the table rests on generated and timed texts; then it says how many.
    """
    if not records:
        return ""

    def all_of(read: Callable[[Record], str | None]) -> str:
        return " / ".join(dict.fromkeys(text for record in records if (text := read(record))))

    def versions(record: Record) -> str:
        named = record.environment.versions
        return ", ".join(
            f"{package} {named[package]}" for package in ("llmbench", "torch", "transformers") if package in named
        )

    def device(record: Record) -> str:
        said = record.conditions
        if from_server(record):
            return f"{record.label}: {said.get('device_name', 'a server')}, asked from {record.environment.device_name}"
        count = record.environment.threads
        threads = f", {count} thread{'s' if count != 1 else ''}" if record.environment.device == "cpu" else ""
        how = ", ".join([*(said[key] for key in ("device", "dtype", "engine") if key in said), *quantization(record)])
        return f"{record.environment.device_name} ({how}{threads})"

    def commit(record: Record) -> str | None:
        known = record.environment.git_commit
        return known and f"commit {known[:10]}{' (changed)' if record.environment.git_dirty else ''}"

    def size(record: Record) -> str:
        repeats = len({timing.repeat for timing in record.timings})
        batches = len(record.repeated_batches)
        repeated = f"{counted(repeats, 'repeat')} of {counted(batches, 'batch', 'batches')}"
        return f"{counted(len(record.outputs), 'prompt')}, {repeated}"

    parts = [
        all_of(device),
        all_of(versions),
        all_of(commit),
        all_of(size) if generated else "",
        all_of(lambda record: record.started_at[:10]),
    ]
    return "; ".join(part for part in (*parts, command) if part)


def record_table(
    title: str,
    records: Sequence[Record],
    columns: Sequence[Column],
    command: str,
    notes: Sequence[str] = (),
    *,
    keys: int = 1,
    main: tuple[str, ...] = (),
) -> Table:
    """One row per Record; columns without a single value are left out.

    Args:
        title: of the table.
        records: its rows.
        columns: the first `keys` of them name a row.
        command: what recreates it.
        notes: what must be known to read it.
        keys: how many columns name a row; one that says the same in every row names none.
        main: headers of the columns that print shows first.
    """
    cells = [[cell(record) for _, cell in columns] for record in records]
    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] != ABSENT for row in cells)]
    common = set[str].intersection(*(set(record.notes) for record in records)) if len(records) > 1 else set()
    own = dict.fromkeys(
        f"{'All jobs' if note in common else record.label}: {note}" for record in records for note in record.notes
    )
    naming = [i for i in kept[:keys] if i == 0 or len({row[i] for row in cells}) > 1]
    kept = [*naming, *(i for i in kept if i not in naming)]
    return Table(
        title=title,
        header=tuple(columns[i][0] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in cells),
        notes=(*notes, *own),
        provenance=provenance(records, command),
        identities=tuple(record.identity for record in records),
        keys=len(naming),
        main=main,
    )


def weights_of(record: Record) -> str:
    """Side, checkpoint and, where they are quantized, how: what a likelihood belongs to."""
    named = [record.signatures.get("checkpoint", "unnamed checkpoint"), *quantization(record)]
    return f"{record.model} ({', '.join(named)})"
