"""The one page of a recorded sweep."""

from llmbench.analysis.parity.analyze import verdicts
from llmbench.analysis.parity.interim import AnalysisPlan
from llmbench.report.html import Origin, sweep_page
from llmbench.sweeps import partial
from llmbench.sweeps.recorded import RecordedSweep


def page_of(sweep: RecordedSweep) -> str:
    """HTML in one file; of a sweep of which Records are missing it begins with what is missing.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    options = AnalysisPlan.from_json(sweep.registered).options if sweep.registered else None
    known = [*sweep.records, *partial.stand_ins(sweep)]
    reached = verdicts(known, options=options, history=sweep.history)
    origin = Origin(
        title=sweep.title,
        command=sweep.command or "",
        recipe=sweep.recipe or "",
        runs=sweep.runs,
        warning=partial.warning(sweep),
    )
    return sweep_page(sweep.records, reached, origin)
