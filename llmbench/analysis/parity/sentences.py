"""A verdict in words, made of its values. Nothing decides on what is written here.

Three short sentences: the result with its margin, the speed at that k and against what, the conditions. Then the point
estimate, with its temperatures, and what to do next.
"""

from collections.abc import Callable, Sequence

from llmbench.analysis.formats import TITLES, UNITS, counted, listed, number, signed, with_interval
from llmbench.analysis.parity.check_sentences import change, reason
from llmbench.analysis.parity.verdict import (
    MATCHED,
    CheckName,
    Conditions,
    DeltaTest,
    Implementation,
    MetricParity,
    Place,
    Speed,
    Speedup,
    Status,
    Verdict,
)

ERROR = 0.05

FEW_PROMPTS = 32
FEW_DOCUMENTS = 100


def lines(verdict: Verdict) -> tuple[str, ...]:
    """The verdict, line by line."""
    first = f"{verdict.status.value.replace('_', ' ').upper()}. {result(verdict)}"
    head = verdict.head
    more = [" ".join(filter(None, [speed(verdict), baseline_choice(verdict)])), conditions_sentence(verdict)]
    more += [point(verdict, head), *other_judge(head)] if head else []
    return (first, *filter(None, more), f"Next: {next_step(verdict)}.")


def title(verdict: Verdict, item: MetricParity | None = None) -> str:
    """The verdict on a metric (the headline) in one line, with its margin: of a figure or a table's note."""
    item = item or verdict.head
    if item is None:
        return f"No parity verdict: {verdict.status.value.replace('_', ' ')}"
    left, right = verdict.names
    what = f"{TITLES[item.curve.metric]} (margin {margin(item)})"
    if item.status is Status.REACHED:
        fast = verdict.speedup(item.reached)
        return f"{right} matches {_other(left, item)}'s {what} at k = {item.reached}" + (
            f", {number(fast.ratio)}x as fast" if fast else ""
        )
    if item.status is Status.NOT_REACHED:
        return f"{right} does not match {_other(left, item)}'s {what} at any k up to {max(verdict.steps)}"
    said = {
        Status.INVALID: "the comparison is not valid",
        Status.INSENSITIVE: f"it does not tell {left} from its floor",
        Status.DEGENERATE: f"{right}'s text is less varied than any of {left}'s",
    }.get(item.status, "undecided")
    return f"No claim on {what}: {said}"


def result(verdict: Verdict) -> str:
    """The first sentence: what may be claimed."""
    head = verdict.head
    if head is None:
        gone = [check for check in verdict.failed_checks if check.name in (CheckName.MISSING, CheckName.NOT_RUN)]
        reasons = "; ".join(reason(check) for check in gone)
        return f"No parity verdict: {reasons or _ABSENT.get(verdict.status, 'nothing was measured')}."
    removed = not_judged(verdict, head)
    return _RESULTS[head.status](verdict, head) + (f" {removed}" if removed and head.status is not _INVALID else "")


_INVALID = Status.INVALID

_ABSENT = {
    Status.MISSING_BASELINE: "there is no autoregressive side",
    Status.MISSING_CANDIDATES: "there is no diffusion side",
    Status.NO_QUALITY: "only speed was measured",
}


def _reached(verdict: Verdict, item: MetricParity) -> str:
    left, right = verdict.names
    k = item.reached
    assert k is not None
    test, most = item.test(k), max(verdict.steps)
    span = f"at every tested k from {k} to {most}" if most > k else f"at k = {k}"
    few = ""
    if item.documents < FEW_DOCUMENTS:
        few = (
            f" It rests on {counted(item.documents, 'document')}; with fewer than {FEW_DOCUMENTS} the error is larger."
        )
    return (
        f"{right} matches {_other(left, item)}'s {TITLES[item.curve.metric]} {span}: at most {margin(item)} worse "
        f"({_shown(test)}).{few}"
    )


def _not_reached(verdict: Verdict, item: MetricParity) -> str:
    left, right = verdict.names
    judged = [test for test in item.tests if test.steps not in item.not_judged]
    best = max(judged, key=lambda test: test.delta)
    whole = f", the whole canvas of {verdict.conditions.canvas} tokens" if _fills(verdict) else ""
    varied = [test.steps for test in judged if test.place is Place.BELOW]
    less = ""
    if len(varied) == len(judged):
        less = f" Its text is also less varied than any of {left}'s."
    elif varied:
        less = f" At k = {listed(varied)} its text is also less varied than any of {left}'s."
    return (
        f"{right} does not match {_other(left, item)}'s {TITLES[item.curve.metric]} at any k up to "
        f"{max(verdict.steps)}{whole}: it is worse by more than {margin(item)} at every k, least at k = {best.steps} "
        f"({_shown(best)}).{less}"
    )


def _degenerate(verdict: Verdict, item: MetricParity) -> str:
    left, right = verdict.names
    test = item.test(max(verdict.steps))
    return (
        f"At k = {max(verdict.steps)} {right}'s text is less varied than any of {left}'s, which flatters it, "
        f"and it is not shown to be worse ({_shown(test)})."
    )


def _insensitive(verdict: Verdict, item: MetricParity) -> str:
    left, _ = verdict.names
    test = item.test(max(verdict.steps))
    if test is None or test.assay is None:
        return f"The floor of {TITLES[item.curve.metric]} was not measured."
    return (
        f"{_capital(TITLES[item.curve.metric])} does not tell {left} from {_FLOORS.get(item.curve.floor_text, 'its')} "
        f"floor (lower bound {signed(test.assay.lower)}, more than {number(test.assay.needed)} is needed)."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_FLOORS = {"shuffled": "the shuffled references'", "prompt_tail": "the repeated prompt's", "empty": "the empty text's"}


def _invalid(verdict: Verdict, item: MetricParity) -> str:
    metric = item.curve.metric
    blocking = [check for check in verdict.checks if check.forbids("verdict", metric)]
    largest = [check for check in blocking if check.steps in (None, max(verdict.steps, default=None))]
    reasons = "; ".join(dict.fromkeys(reason(check) for check in largest or blocking))
    return f"No verdict on {TITLES[metric]}: {reasons or 'the largest k was not measured'}."


def _undecided(verdict: Verdict, item: MetricParity) -> str:
    left, right = verdict.names
    k = max(verdict.steps)
    if item.second is not None and item.first_status is not None and item.first_status is not item.second.status:
        one, other = (status.value.replace("_", " ") for status in (item.first_status, item.second.status))
        return f"The two judges differ: {other} under the second, {one} under the first."
    test = item.test(k)
    against = [reason(c) for c in verdict.checks if c.forbids("reached", item.curve.metric, k)]
    if test is not None and test.place is Place.ABOVE and not test.passes:
        against.append(f"its text is more varied than {left}'s at the highest temperature of the curve")
    why = f"; {'; '.join(against)}" if against else ""
    needed = ""
    if item.prompts_needed:
        needed = f" About {item.prompts_needed} prompts would decide."
    return (
        f"Whether {right} matches {_other(left, item)}'s {TITLES[item.curve.metric]} within {margin(item)} "
        f"at k = {k} cannot be said ({_shown(test)}{why}).{needed}"
    )


def undecided(verdict: Verdict, item: MetricParity) -> str:
    """What is not known, with the margin, and how many prompts would decide; without the numbers of the test."""
    left, right = verdict.names
    said = (
        f"whether {right} matches {_other(left, item)}'s {TITLES[item.curve.metric]} (margin {margin(item)}) "
        f"at k = {max(verdict.steps)} cannot be said"
    )
    more = item.prompts_needed is not None and item.prompts_needed > item.prompts
    return said + (f"; about {item.prompts_needed} prompts would decide" if more else "")


_RESULTS: dict[Status, Callable[[Verdict, MetricParity], str]] = {
    Status.REACHED: _reached,
    Status.NOT_REACHED: _not_reached,
    Status.DEGENERATE: _degenerate,
    Status.INSENSITIVE: _insensitive,
    Status.INVALID: _invalid,
    Status.UNDECIDED: _undecided,
}


def not_judged(verdict: Verdict, item: MetricParity) -> str:
    """Which k are not judged, and why; empty where all are."""
    said = []
    for k in item.not_judged:
        why = [reason(c) for c in verdict.checks if c.forbids("verdict", item.curve.metric) and c.steps == k]
        said.append(f"k = {k} is not judged: {'; '.join(dict.fromkeys(why)) or 'it was not measured'}.")
    return " ".join(said)


def _other(left: str, item: MetricParity) -> str:
    """The baseline, as it is compared."""
    return f"equally varied {left}" if item.curve.metric.removesuffix("_second") in MATCHED else left


def _shown(test: DeltaTest | None) -> str:
    if test is None:
        return "not measured"
    against = ""
    if test.temperature is not None:
        against = f", against temperature {number(test.temperature, 2) if test.temperature else '0'}"
    return f"{signed(test.delta)} [95 % {signed(test.low)} to {signed(test.high)}]{against}"


def margin(item: MetricParity) -> str:
    """The margin with its unit: `0.1 nats per token`."""
    unit = UNITS.get(item.curve.metric.removesuffix("_second"), "")
    return f"{item.margin:g} {unit}".strip()


def _fills(verdict: Verdict) -> bool:
    canvas = verdict.conditions.canvas
    return canvas.isdigit() and max(verdict.steps) >= int(canvas)


def speed(verdict: Verdict) -> str:
    """The second sentence: the speed at that k, or at the largest."""
    head, right = verdict.head, verdict.names[1]
    if not verdict.speedups:
        return ""
    if head is None or not head.passing:
        shown = verdict.speedup(max(verdict.steps)) or verdict.speedups[-1]
        doubts = _doubts(verdict, shown.steps)
        return f"At k = {shown.steps} {right} is {ratio(shown)}{doubts}; no k passes, so this is no speedup at parity."
    shown_at = [item for item in verdict.speedups if item.steps in head.passing]
    listing = ", ".join(f"{ratio(item)} at k = {item.steps}" for item in shown_at) or "not timed"
    said = {
        Speed.VIABLE: f"Viable: {right} is faster where its quality passes",
        Speed.INEFFICIENT: f"Inefficient: {right} is slower at every passing k",
    }.get(verdict.speed, f"Open: whether {right} is faster where its quality passes cannot be said")
    return f"{said} ({listing}{_doubts(verdict, *head.passing)})."


def _doubts(verdict: Verdict, *steps: int) -> str:
    found = [
        reason(check)
        for check in verdict.failed_checks
        if check.name in _OF_SPEED and (check.steps is None or check.steps in steps)
    ]
    return f" ({'; '.join(dict.fromkeys(found))})" if found else ""


_OF_SPEED = (
    CheckName.SLOW_BASELINE,
    CheckName.THREADS,
    CheckName.CARD,
    CheckName.OTHERS,
    CheckName.UNSTEADY,
    CheckName.DRIFT,
)


def ratio(item: Speedup) -> str:
    """`0.45x [95 % 0.44 to 0.46] as fast`."""
    return f"{with_interval(item.ratio, item.low, item.high, 'x')} as fast"


def conditions_sentence(verdict: Verdict) -> str:
    """The third sentence: error, judges and conditions."""
    own = verdict.conditions
    parts = [error(verdict)] if verdict.head else []
    if verdict.head and own.judge:
        parts.append(f"judges {own.judge} and {own.second_judge}" if own.second_judge else f"one judge ({own.judge})")
    return f"Conditions: {'; '.join([*parts, where(own)])}."


def error(verdict: Verdict) -> str:
    """The error rate, and of what it is one."""
    if not verdict.unplanned:
        rate = f"{100 * verdict.alpha:.3g} %"
        return f"tested at {rate} error, the chance of a false claim of parity in one metric"
    most = 100 * ERROR * verdict.analyses
    return (
        f"false claims in all {verdict.analyses} analyses of this question have a chance of at most {most:.3g} %: this "
        "one was not planned"
    )


def where(own: Conditions) -> str:
    """The conditions in words: temperatures, batch, canvas, prompts, device."""
    parts = [f"temperature {' against '.join(own.temperatures)}"] if own.temperatures else []
    parts += [f"top_p {' against '.join(own.nuclei)}"] if own.nuclei else []
    parts += ["in chat templates"] if own.chat else []
    parts += [f"batch {own.batch}"] if own.batch else []
    parts += [f"canvas {own.canvas}"] if own.canvas else []
    if own.prompts:
        of = f" from {counted(own.documents, 'document')}" if own.documents not in (0, own.prompts) else ""
        parts.append(f"{counted(own.prompts, 'prompt')}{of}")
    parts += [f"{own.seeds} seeds"] if own.seeds > 1 else []
    how = [item for item in (own.device, own.dtype, own.quantization) if item not in ("", "none")]
    device = (own.device_name or "an unnamed device") + (f" ({', '.join(how)})" if how else "")
    return f"{', '.join(parts)} on {device}" if parts else device


def point(verdict: Verdict, item: MetricParity) -> str:
    """The point estimate with its temperatures and, where it differs from the verdict, why."""
    k = item.s_parity
    known = item.curve.baseline is not None and bool(item.curve.values)
    why = _why(verdict, item, k) if k is not None and known else ""
    return f"Point estimate: {estimate(verdict, item)}.{why}"


def estimate(verdict: Verdict, item: MetricParity) -> str:
    """The point estimate with its temperatures."""
    what, curve = TITLES[item.curve.metric], item.curve
    lacking = [k for k in verdict.steps if curve.at(k) is None]
    if curve.baseline is None or not curve.values:
        return f"none (no finite {what} on a side)"
    but = f"; no finite {what} at k = {listed(lacking)}" if lacking else ""
    at = (
        f" at temperature {' against '.join(verdict.conditions.temperatures)}"
        if verdict.conditions.temperatures
        else ""
    )
    k = item.s_parity
    shown_at = best_k(item)
    shown = f"{what} {number(curve.at(shown_at) or 0.0)} against {number(curve.baseline)}{at}{but}"
    if k is None:
        return f"not reached for k up to {max(verdict.steps)} (best at k = {shown_at}: {shown})"
    fast = verdict.speedup(k)
    return f"S_parity = {k} ({shown})" + (f", {ratio(fast)} there" if fast else "")


def best_k(item: MetricParity) -> int:
    """S_parity, or the k that comes closest; there are values."""
    return item.s_parity or min(item.curve.values, key=lambda pair: -_good(item, pair[0]))[0]


def _good(item: MetricParity, steps: int) -> float:
    return dict(item.deltas).get(steps, float("-inf"))


def _why(verdict: Verdict, item: MetricParity, k: int) -> str:
    """Why the point estimate and the verdict differ; empty where they do not."""
    if item.reached == k or item.status in (Status.INVALID, Status.INSENSITIVE):
        return ""
    entropy = verdict.curve("quality/entropy")
    own, theirs = (entropy.at(k), entropy.baseline) if entropy else (None, None)
    matched = item.curve.metric.removesuffix("_second") in MATCHED
    if matched and own is not None and theirs is not None and own < theirs - 0.005:
        return f" It differs because that text is less varied: entropy {number(own)} against {number(theirs)} nats."
    if item.reached is not None:
        return " It differs because the verdict asks for a bound within the margin at every larger k."
    return " It differs because the verdict asks for a bound, not for an estimate."


def other_judge(item: MetricParity) -> list[str]:
    """What the second judge says, where there is one."""
    if item.second is None:
        return []
    found = item.second
    shown = ", ".join(
        f"{signed(test.delta)} [{signed(test.low)}, {signed(test.high)}] at k = {test.steps}" for test in found.tests
    )
    return [f"Under the second judge: {found.status.value.replace('_', ' ')} ({shown or 'no test'})."]


def next_step(verdict: Verdict) -> str:
    """What to do about the status."""
    if verdict.status is Status.INVALID:
        metric = verdict.headline
        blocking = [check for check in verdict.checks if check.forbids("verdict", metric)]
        changes = dict.fromkeys(f"{check.name.value}: {change(check)}" for check in blocking)
        return f"{'; '.join(changes)}; then run again" if changes else "measure the largest k, and run again"
    steps = _NEXT[verdict.status]
    if verdict.status is Status.NOT_REACHED and _fills(verdict):
        return f"nothing at this canvas: k = {max(verdict.steps)} fills it"
    if verdict.status is Status.UNDECIDED and verdict.head is not None:
        test = verdict.head.test(max(verdict.steps))
        if test is not None and test.place is Place.ABOVE:
            highest = max((item.temperature for item in verdict.points), default=1.0)
            return f"add temperatures above {highest:g} to parity.baseline_temperatures, or lower diffusion_temperature"
        if test is not None and test.passes:
            stops = [c for c in verdict.checks if c.forbids("reached", verdict.headline, test.steps)]
            changes = dict.fromkeys(f"{check.name.value}: {change(check)}" for check in stops)
            return "; ".join(changes) or steps
    return steps


_NEXT = {
    Status.INSENSITIVE: "use a metric or judge that ranks LLaMA above its floor, or more prompts",
    Status.REACHED: "read the speed at that k; add smaller steps if it is the smallest",
    Status.DEGENERATE: "raise diffusion_temperature, and run again",
    Status.NOT_REACHED: "add larger steps, up to the canvas",
    Status.UNDECIDED: "raise workload.prompts, or add seeds: seed=1,2,3",
    Status.MISSING_BASELINE: "add the autoregressive side: model=llama,llada",
    Status.MISSING_CANDIDATES: "add the diffusion side: model=llama,llada steps=8,16,32,64",
    Status.NO_QUALITY: "only speed was measured; add metric=default, with real weights and prompts of text",
}


def warnings(verdict: Verdict) -> list[str]:
    """What blocks nothing and should be known."""
    found = []
    if verdict.unplanned:
        found.append(
            f"unplanned analysis: it differs from an earlier one of the same question in "
            f"{', '.join(verdict.unplanned)}; the error is bounded by 5 % x {verdict.analyses} analyses"
        )
    head = verdict.head
    if head and head.prompts < FEW_PROMPTS:
        found.append(f"{counted(head.prompts, 'prompt')}: the bounds were tried with {FEW_PROMPTS} and more")
    dropped = [f"{item.temperature:g}" for item in verdict.points if not item.kept]
    if dropped:
        found.append(
            f"{verdict.names[0]} at temperature {listed(dropped)} is left out of its curve: its text is not more "
            "varied than at the temperature before"
        )
    return found


def baseline_choice(verdict: Verdict) -> str:
    """Which implementation of the baseline the speed is against, and the others with their times.

    Empty where nothing was timed, or the only implementation is compared with nothing.
    """
    timed = [item for item in verdict.implementations if item.e2e_ms is not None]
    if not timed or (len(timed) == 1 and not verdict.speedups):
        return ""
    chosen, *others = timed
    what = "Speed is against" if verdict.speedups else "The baseline is"
    if not others:
        return f"{what} {_implementation(chosen)} (no other implementation was measured)."
    own, *beside = (f"{_implementation(item)}, {number(item.e2e_ms or 0.0)} ms" for item in (chosen, *others))
    return f"{what} {own}, the fastest of {len(timed)} implementations (also measured: {'; '.join(beside)})."


def baseline_name(verdict: Verdict) -> str:
    """The implementation of the baseline that speeds are against; "" where nothing was timed."""
    timed = [item for item in verdict.implementations if item.e2e_ms is not None]
    return _implementation(timed[0]) if timed else ""


def _implementation(item: Implementation) -> str:
    return item.label if item.name is None else str(item.name)


def flags(verdict: Verdict, item: MetricParity) -> Sequence[str]:
    """What a reader of a reached verdict must know."""
    if item.reached is None:
        return ()
    found = []
    if item.reached == min(verdict.steps):
        found.append(f"k = {item.reached} is the smallest tested: parity may begin below it")
    if item.stopped_at is not None:
        found.append(f"the sequence stopped at k = {item.stopped_at}")
    return found
