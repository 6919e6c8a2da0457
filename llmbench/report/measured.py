"""The numbers of every job, side by side, where its Records cannot be compared: nothing is divided by anything."""

from collections.abc import Iterable

from llmbench.analysis.formats import TITLES
from llmbench.record import Record
from llmbench.report.cells import Column, condition, in_order, naming_columns, record_table, value, with_interval
from llmbench.report.layout import Table

_SIZES = ("batch", "canvas")

_METRICS = (
    ("first text ms", "latency/first_text_ms"),
    ("tokens/s", "throughput/tokens_per_s"),
    ("bytes/s", "throughput/bytes_per_s"),
    ("forwards", "throughput/nfe"),
)

_QUALITY = ("quality/perplexity", "quality/entropy", "quality/bertscore_f1", "quality/accuracy")


def measured_table(records: Iterable[Record], command: str = "") -> Table:
    """A row for every finished full measurement.

    Args:
        records: of a sweep.
        command: what recreates it.
    """
    rows = in_order(records)
    differing = [key for key in _SIZES if len({record.conditions.get(key) for record in rows}) > 1]
    columns: tuple[Column, ...] = (
        *naming_columns(rows),
        *((key, condition(key)) for key in differing),
        ("L_e2e ms [95 %]", with_interval("latency/e2e_ms")),
        *((title, value(key)) for title, key in _METRICS),
        *((TITLES[key], value(key)) for key in _QUALITY),
    )
    return record_table("What was measured", rows, columns, command)
