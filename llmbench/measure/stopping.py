"""When are there enough repeats? Where `timing.until` is set: when the interval of L_e2e is narrow enough.

The rule looks at the width alone and never at the estimate, at the other side or at a verdict, so that it cannot stop
where a result pleases. docs/method.md says what is left of the interval's coverage.
"""

from llmbench.config.job import TimingConfig
from llmbench.record import Stopping


def goes_on(plan: TimingConfig, repeats: int, half_width: float | None) -> bool:
    """Whether `timing.until` asks for one more repeat: on the width of the interval alone, never on what it holds.

    Args:
        plan: with floor, width and limit.
        repeats: that were made.
        half_width: of the 95 % interval over the median; None without an interval.
    """
    if plan.until is None or repeats >= plan.until_repeats:
        return False
    return half_width is None or half_width > plan.until


def stopped(plan: TimingConfig, repeats: int, half_width: float | None) -> Stopping | None:
    """Why no further repeat is made; None where their number was fixed. Arguments as in `goes_on`."""
    if plan.until is None:
        return None
    narrow = half_width is not None and half_width <= plan.until
    return Stopping(
        repeats=repeats,
        half_width=half_width,
        until=plan.until,
        reason="narrow" if narrow else "most repeats",
    )


def note(found: Stopping) -> str:
    """What a reader of the Record is told."""
    width = "there is no interval" if found.half_width is None else f"{_percent(found.half_width)} reached"
    most = "" if found.reason == "narrow" else ", the most that timing.until_repeats allows"
    return (
        f"stopped after {found.repeats} repeats{most}: half the 95 % interval of L_e2e, of its median: {width}, "
        f"{_percent(found.until)} asked for"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
