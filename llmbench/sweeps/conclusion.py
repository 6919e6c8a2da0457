"""What do the Records of a sweep come to? Verdicts, tables and figures, from the same Records always the same."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench.errors import RecordError

if TYPE_CHECKING:
    from llmbench.analysis.parity.interim import PastAnalysis
    from llmbench.analysis.parity.parity import Parity
    from llmbench.config.parity import ParityConfig
    from llmbench.record import Record
    from llmbench.report.assemble import SweepReport


def conclude(
    records: "Sequence[Record]",
    *,
    options: "ParityConfig | None",
    history: "Sequence[PastAnalysis]",
    recipe: str,
    command: str,
) -> "tuple[tuple[Parity, ...], SweepReport]":
    """The verdicts of a sweep, and what is shown of it; where its Records cannot be compared, why.

    Args:
        records: all of the sweep.
        options: what the verdicts test; None: not known.
        history: analyses of earlier sweeps that count.
        recipe: the file of conf/experiment; "" for none.
        command: what was typed.
    """
    from llmbench.analysis.parity.analyze import verdicts
    from llmbench.report.assemble import SweepReport, sweep_report

    try:
        reached = verdicts(records, options=options, history=history)
        return reached, sweep_report(records, reached, recipe=recipe, command=command)
    except RecordError as error:  # what was measured is shown; only the comparison is refused
        from llmbench.report.measured import measured_table

        said, table = f"No verdict: {error}", measured_table(records, command)
        text, note = f"{said}\n\n{table.text()}", f"{said}\n\n{table.markdown()}"
        return (), SweepReport(text=text, note=note, files={}, tables=(table,))
