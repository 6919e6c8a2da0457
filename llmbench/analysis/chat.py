"""Hypothesis 4: is LLaDA responsive enough for chat? L_e2e and `first_text_ms` at batch 1 against fixed thresholds.

The thresholds (`parity.chat.*`) stand in the configuration before the run, so they are read from the Records: 1 s until
text can be shown and 10 s until all of it is there, the limits at which a dialogue stops to feel uninterrupted and
attention leaves it (Miller, AFIPS 1968; Nielsen, Usability Engineering, 1993, ch. 5). LLaDA meets them at a k when the
95 % intervals of both times end below, and fails when one of them begins above. LLaMA's times stand beside; those of a
server on hardware that is not known do not.

Text that appears with the last step (one block as long as the canvas) appears at L_e2e; of a shorter first block the
interval comes from the marked pass, where it was repeated often enough. No torch.
"""

from collections.abc import Sequence
from statistics import fmean, median

from llmbench.analysis.comparable import VARIED, apart, check_ground
from llmbench.analysis.findings import Claim, Finding, Hypothesis, Outcome, command, conclude, finished, labels, span
from llmbench.analysis.statistics import Estimate
from llmbench.metrics.performance import median_interval
from llmbench.parity_config import ChatConfig
from llmbench.record import Record

CLAIM = Claim(number=4, text="LLaDA is responsive enough for chat at batch 1", recipe="latency")


def chat(records: Sequence[Record]) -> Hypothesis:
    """Judge hypothesis 4 for every diffusion setting and k.

    Raises:
        RecordError: device name or versions differ.
    """
    known = finished(records, lambda r: r.conditions.get("batch") == "1" and "latency/e2e_ms" in r.metrics)
    if known:
        check_ground(known, VARIED)
    own = [record for record in known if record.family == "diffusion"]
    limits = list(dict.fromkeys(_limits(record) for record in own))
    beside = _beside([record for record in known if record.family == "autoregressive" and not apart(record)])
    names = labels(own, None)
    findings = [_finding(name, record, limits, beside) for name, record in zip(names, own, strict=True)]
    return conclude(CLAIM, findings, "LLaDA was not run at batch 1", "make table1", known)


def first_text(record: Record) -> Estimate | None:
    """When text could first be shown, with its interval where there is one."""
    found = record.metrics.get("latency/first_text_ms")
    if found is None:
        return None
    source = "latency/prefill_ms" if record.family == "autoregressive" else "latency/e2e_ms"
    if record.metrics.get(source) == found:
        return _timed(record, source)
    repeats: dict[int, list[float]] = {}
    for mark in record.marks:
        if mark.first_text and len(mark.at_ms) >= mark.first_text:
            repeats.setdefault(mark.repeat, []).append(mark.at_ms[mark.first_text - 1])
    means = [fmean(times) for times in repeats.values()]
    interval = median_interval(means)
    return Estimate(value=median(means), low=interval[0], high=interval[1]) if interval else Estimate(value=found)


def _timed(record: Record, key: str) -> Estimate:
    low, high = (record.metrics.get(f"{key}_ci_{end}") for end in ("low", "high"))
    return Estimate(value=record.metrics[key], low=low, high=high)


def _finding(
    name: str, record: Record, limits: Sequence[ChatConfig], beside: Sequence[tuple[str, Estimate]]
) -> Finding:
    whole, first = _timed(record, "latency/e2e_ms"), first_text(record)
    numbers = [("L_e2e ms", whole), *([("first text ms", first)] if first else []), *beside]
    again = command("latency", record, f"steps={record.steps}", "timing.repeats=12", "timing.marked_repeats=6")
    if len(limits) > 1:
        said = " and ".join(f"{item.first_text_ms:g} / {item.e2e_ms:g} ms" for item in limits)
        why = f"the thresholds were changed between the jobs ({said})"
        return Finding(setting=name, outcome=Outcome.UNDECIDED, why=why, numbers=tuple(numbers), decide=again)
    limit = limits[0]
    times = [("first text", first, limit.first_text_ms), ("all of it", whole, limit.e2e_ms)]
    said = "; ".join(f"{what} after {span(time)} ms, at most {most:g}" for what, time, most in times if time)
    pairs = [(time, most) for _, time, most in times]
    if any(time is not None and time.low is not None and time.low > most for time, most in pairs):
        outcome = Outcome.REFUTED
    elif all(time is not None and time.high is not None and time.high <= most for time, most in pairs):
        outcome = Outcome.SUPPORTED
    else:
        outcome = Outcome.UNDECIDED
        if any(time is None or time.high is None for time, _ in pairs):
            said += "; a time without an interval (fewer than 6 repeats) decides nothing"
    decide = again if outcome is Outcome.UNDECIDED else ""
    return Finding(setting=name, outcome=outcome, why=said, numbers=tuple(numbers), decide=decide)


def _beside(records: Sequence[Record]) -> list[tuple[str, Estimate]]:
    found = []
    for name, record in zip(labels(records, None), records, strict=True):
        found.append((f"{name} L_e2e ms", _timed(record, "latency/e2e_ms")))
        first = first_text(record)
        found += [(f"{name} first text ms", first)] if first else []
    return found


def _limits(record: Record) -> ChatConfig:
    own = record.config.get("parity", {}).get("chat", {})
    return ChatConfig(**{key: float(value) for key, value in own.items()})
