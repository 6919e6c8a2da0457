"""Hypothesis 4: is LLaDA responsive enough for chat? L_e2e and `first_text_ms` at batch 1 against fixed thresholds.

The thresholds (`parity.chat.*`) are those of the configuration before the run, so they are read from the Records.
LLaDA meets them at a k when the 95 % intervals of both times end below, and fails when one of them begins above
(docs/method.md). Fewer than
`FEWEST_PROMPTS` prompts, or a disturbed device, decide nothing. LLaMA's times are shown beside; those of a server on
unknown hardware are not.
"""

from collections.abc import Sequence

from llmbench.analysis.estimates import Estimate, logged, mean_over_seeds
from llmbench.analysis.hypotheses.outcomes import (
    FEWEST_PROMPTS,
    Claim,
    Hypothesis,
    Outcome,
    SettingOutcome,
    conclude,
    disturbed,
    finished,
    labels,
    prompts_of,
    series,
    span,
    sweep_that_decides,
    too_few_prompts,
)
from llmbench.analysis.parity.grouping import VARIED, check_shared_conditions, is_external_server
from llmbench.config.parity import ChatConfig
from llmbench.metrics import performance
from llmbench.record import Record

CLAIM = Claim(number=4, text="LLaDA is responsive enough for chat at batch 1", recipe="latency")


def chat(records: Sequence[Record]) -> Hypothesis:
    """Judge hypothesis 4 for every diffusion setting and k.

    Raises:
        RecordError: device name or versions differ.
    """
    known = finished(records, lambda r: r.conditions.get("batch") == "1" and "latency/e2e_ms" in r.metrics)
    if known:
        check_shared_conditions(known, VARIED)
    own = [record for record in known if record.family == "diffusion" and not is_external_server(record)]
    limits = list(dict.fromkeys(_limits(record) for record in own))
    beside = _beside(
        [record for record in known if record.family == "autoregressive" and not is_external_server(record)]
    )
    settings = [_judge_setting(name, members, limits, beside) for name, members in _settings(own)]
    return conclude(CLAIM, settings, "LLaDA was not run at batch 1", "llmbench -m experiment=latency", known)


def _settings(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Name and Records of every setting, each over seeds; the batch is 1 in all of them."""
    joined = series(records, "batch")
    return list(zip(labels([members[0] for members in joined], None), joined, strict=True))


def first_text(members: Sequence[Record]) -> Estimate | None:
    """When text could first be shown, over seeds, with its interval where there is one; from the raw times."""
    found = [performance.first_text(record) for record in members]
    return mean_over_seeds(
        [None if item is None else Estimate(value=item.median, low=item.ci_low, high=item.ci_high) for item in found]
    )


def _whole(members: Sequence[Record]) -> Estimate:
    """L_e2e over seeds."""
    found = mean_over_seeds([logged(record, "latency/e2e_ms") for record in members])
    assert found is not None  # `chat` leaves out what was not timed
    return found


def _judge_setting(
    name: str, members: Sequence[Record], limits: Sequence[ChatConfig], beside: Sequence[tuple[str, Estimate]]
) -> SettingOutcome:
    record, whole, first = members[0], _whole(members), first_text(members)
    numbers = [("L_e2e ms", whole), *([("first text ms", first)] if first else []), *beside]
    more = ["timing.repeats=12", "timing.token_timing_repeats=6"]
    if prompts_of(record) < FEWEST_PROMPTS:
        more.append(f"workload.prompts={FEWEST_PROMPTS}")
    again = sweep_that_decides("latency", f"steps={record.steps}", *more)
    if len(limits) > 1:
        said = " and ".join(f"{item.first_text_ms:g} / {item.e2e_ms:g} ms" for item in limits)
        why = f"the thresholds were changed between the jobs ({said})"
        return SettingOutcome(setting=name, outcome=Outcome.UNDECIDED, why=why, numbers=tuple(numbers), decide=again)
    limit = limits[0]
    times = [("first text", first, limit.first_text_ms), ("all of it", whole, limit.e2e_ms)]
    said = "; ".join(f"{what} after {span(time)} ms, at most {most:g}" for what, time, most in times if time)
    pairs = [(time, most) for _, time, most in times]
    doubt = too_few_prompts(members) or disturbed(members)
    if doubt:
        outcome, said = Outcome.UNDECIDED, f"{doubt}; {said}"
    elif any(time is not None and time.low is not None and time.low > most for time, most in pairs):
        outcome = Outcome.REFUTED
    elif all(time is not None and time.high is not None and time.high <= most for time, most in pairs):
        outcome = Outcome.SUPPORTED
    else:
        outcome = Outcome.UNDECIDED
        if any(time is None or time.high is None for time, _ in pairs):
            said += "; a time without an interval (fewer than 6 repeats) decides nothing"
    decide = again if outcome is Outcome.UNDECIDED else ""
    return SettingOutcome(setting=name, outcome=outcome, why=said, numbers=tuple(numbers), decide=decide)


def _beside(records: Sequence[Record]) -> list[tuple[str, Estimate]]:
    found = []
    for name, members in _settings(records):
        found.append((f"{name} L_e2e ms", _whole(members)))
        first = first_text(members)
        found += [(f"{name} first text ms", first)] if first else []
    return found


def _limits(record: Record) -> ChatConfig:
    own = record.config.get("parity", {}).get("chat", {})
    return ChatConfig(**{key: float(value) for key, value in own.items()})
