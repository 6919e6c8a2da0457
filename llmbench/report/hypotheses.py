"""A table for each hypothesis: its sentence, what would decide it, and the numbers of each setting."""

from collections.abc import Sequence

from llmbench.analysis.hypotheses.outcomes import Hypothesis, SettingOutcome
from llmbench.record import Record
from llmbench.report.cells import in_order, interval, provenance
from llmbench.report.layout import ABSENT, Table


def hypothesis_tables(records: Sequence[Record], found: Sequence[Hypothesis], command: str = "") -> list[Table]:
    """One table for each; its lead is the sentence."""
    return [_table(records, item, command) for item in found]


def _table(records: Sequence[Record], item: Hypothesis, command: str) -> Table:
    own = [record for record in in_order(records) if record.identity in item.provenance]
    return Table(
        title=f"Hypothesis {item.number}: {item.outcome.value}",
        header=("", "", "value [95 %]"),
        rows=tuple(row for setting in item.settings for row in _rows(setting)) or (("nothing to judge", "", ABSENT),),
        provenance=provenance(own, command) if own else "",
        lead=(item.sentence, *([f"To decide it: {item.decide}"] if item.decide else [])),
    )


def _rows(setting: SettingOutcome) -> list[tuple[str, str, str]]:
    """The setting with its outcome, then its numbers."""
    head = f"{setting.setting}: {setting.outcome.value}"
    shown = [(name, interval(own)) for name, own in setting.numbers] or [("", "")]
    return [(head if place == 0 else "", name, cell) for place, (name, cell) in enumerate(shown)]
