"""Table 6: energy by the device's counter, per token, byte and request."""

from collections.abc import Iterable

from llmbench.record import Record
from llmbench.report.cells import (
    Column,
    condition,
    in_order,
    naming_columns,
    quantity,
    record_table,
    value,
    with_interval,
)
from llmbench.report.layout import ABSENT, Table

TITLE = "Energy"


def energy_table(records: Iterable[Record], command: str = "") -> Table:
    """A row for each side and k; where no job has read a counter there is no row, and the notes say why.

    Args:
        records: of a sweep.
        command: what recreates it.
    """
    every = in_order(records)
    rows = [record for record in every if record.device_use.energy_joules is not None]
    if not rows:
        return Table(title=TITLE, header=("", "J/token"), rows=(("not measured", ABSENT),), notes=_why(every))
    names = (*naming_columns(rows), ("batch", condition("batch")), ("canvas", condition("canvas")))
    columns: tuple[Column, ...] = (
        *names,
        ("J/token", value("energy/joules_per_token")),
        ("J/byte", value("energy/joules_per_byte")),
        ("J/request", lambda record: quantity(joules_per_request(record))),
        ("power W", lambda record: quantity(watts(record))),
        ("L_e2e ms [95 %]", with_interval("latency/e2e_ms")),
        ("window s", lambda record: quantity(record.device_use.energy_window_s)),
        ("SM clock MHz", value("hardware/sm_clock_mhz")),
    )
    notes = (
        "Energy of the whole device by NVML's counter, over a window of generations back to back (power: its mean), "
        "divided by valid output: what follows the first stop token does not count.",
        "Request: one prompt with its answer; J/token times the mean tokens of an output.",
        *((f"Without energy: {', '.join(_labels(every, rows))}.",) if len(rows) < len(every) else ()),
    )
    main = ("J/token", "J/byte", "J/request", "power W", "L_e2e ms [95 %]")
    return record_table(TITLE, rows, columns, command, notes, keys=len(names), main=main)


def joules_per_request(record: Record) -> float | None:
    """Energy of one prompt with its answer: joules per token times N_out of the batches that were repeated."""
    each = record.metrics.get("energy/joules_per_token")
    timings = [timing for timing in record.timings if timing.batch in record.repeated_batches]
    rows = sum(len(record.partition[timing.batch]) for timing in timings)
    return None if each is None or not rows else each * sum(timing.tokens for timing in timings) / rows


def watts(record: Record) -> float | None:
    """Mean power over the window."""
    joules, seconds = record.device_use.energy_joules, record.device_use.energy_window_s
    return None if joules is None or not seconds else joules / seconds


def _labels(every: list[Record], rows: list[Record]) -> list[str]:
    known = {record.identity for record in rows}
    return list(dict.fromkeys(record.label for record in every if record.identity not in known))


def _why(records: list[Record]) -> tuple[str, ...]:
    """Why there is no energy: what the jobs noted, or what their devices lack."""
    noted = dict.fromkeys(note for record in records for note in record.notes if "energy" in note)
    devices = dict.fromkeys(r.environment.device_name for r in records if r.environment.device != "cuda")
    said = [f"Not measured on {name}: energy is read from the counter of an NVIDIA GPU." for name in devices]
    return (*said, *(f"{note[:1].upper()}{note[1:]}." for note in noted)) or ("Not measured.",)
