"""Sentences about a verdict, made from its numbers, each to be quoted without the table beside it.

A sentence carries the margins and the error of the test, the conditions, and the entropy at the same k, because
generative perplexity alone rewards repetition. The point estimate has a sentence of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmbench.analysis.parity.grouping import FULL_NUCLEUS, nucleus
from llmbench.analysis.parity.interim import ERROR, Terms
from llmbench.analysis.parity.verdict import Speed, Status
from llmbench.record import Record, from_server

if TYPE_CHECKING:
    from llmbench.analysis.parity.parity_test import Tested
    from llmbench.analysis.parity.verdict import Speedup

NAMES: dict[str, str] = {"llama": "LLaMA", "llada": "LLaDA"}
"""How models are called in prose; a name that is not listed stands as it is."""

TITLES: dict[str, str] = {
    "quality/perplexity": "perplexity",
    "quality/bits_per_byte": "bits per byte",
    "quality/bertscore_f1": "BERTScore F1",
    "quality/accuracy": "accuracy",
    "quality/entropy": "entropy",
    "quality/distinct_2": "distinct-2",
}


def named(record: Record) -> str:
    """A side in prose, with its decoder where that is not its family's own: `LLaMA (transformers static)`."""
    way = record.side.removeprefix(record.model).strip()
    name = NAMES.get(record.model, record.model)
    return f"{name} ({way})" if way else name


def baseline_phrase(chosen: Sequence[Record], baselines: Sequence[Record]) -> str:
    """Which of several implementations is the baseline, with every one's time; empty where there is no choice."""
    if len(baselines) <= len(chosen):
        return ""
    times = ", ".join(
        f"{record.label} {number(record.metrics['latency/e2e_ms'])} ms"
        for record in baselines
        if "latency/e2e_ms" in record.metrics
    )
    return f"The baseline is {chosen[0].label}, the fastest of its implementations by L_e2e ({times})."


def number(value: float, digits: int = 3) -> str:
    """A value to `digits` significant digits, whole numbers in full: 1234, 34.1, 0.600."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def conditions_phrase(records: Sequence[Record]) -> str:
    """The stated conditions: temperature, nucleus where there is one, chat template, B, canvas, prompts, device."""
    if not records:
        return ""
    said = records[0].conditions
    temperatures = list(
        dict.fromkeys(r.conditions["decoding.temperature"] for r in records if "decoding.temperature" in r.conditions)
    )
    parts = [f"temperature {' against '.join(temperatures)}"] if temperatures else []
    nuclei = list(dict.fromkeys(map(nucleus, records)))
    parts += [f"top_p {' against '.join(nuclei)}"] if nuclei != [FULL_NUCLEUS] else []
    parts += ["in chat templates"] if "decoding.chat" in said else []
    parts += [f"{name} {said[key]}" for key, name in (("batch", "batch"), ("canvas", "canvas")) if key in said]
    count = len(records[0].outputs)
    parts += [f"{count} prompt{'s' if count > 1 else ''}"] if count else []
    seeds = {record.conditions["seed"] for record in records if "seed" in record.conditions}
    parts += [f"{len(seeds)} seeds"] if len(seeds) > 1 else []
    device = f" on {said.get('device_name', 'an unnamed device')}"
    how = ", ".join([said.get("device", "?"), said.get("dtype", "?"), *quantization(records[0])])
    return ", ".join(parts) + device + ("" if from_server(records[0]) else f" ({how})")


def quantization(record: Record) -> tuple[str, ...]:
    """How quantized weights are stored; () where they are not quantized."""
    kind = record.conditions.get("quantization", "none")
    return () if kind == "none" else (kind,)


def error_phrase(terms: Terms) -> str:
    """The error rate of a verdict."""
    if not terms.unplanned:
        return f"{100 * terms.alpha:.3g} % error"
    return f"at most {100 * ERROR * terms.analyses:.3g} % error: 5 % x {terms.analyses} analyses, this one unplanned"


def unplanned_phrase(terms: Terms) -> str:
    """How an analysis that was not planned differs from those before it."""
    return (
        f"unplanned analysis: it differs from an earlier one of the same question in {', '.join(terms.unplanned)}; the "
        f"error is bounded by 5 % x {terms.analyses} analyses"
    )


@dataclass(frozen=True, kw_only=True)
class SentenceParts:
    """What the sentences about one metric are made of."""

    metric: str  # key of METRICS
    names: tuple[str, str]  # baseline and candidate, for people
    baseline: float | None  # the value to reach; None where its sums give no number
    values: Mapping[int, float]  # the candidate's at each k that has one
    lacking: tuple[str, ...]  # sides without a value
    point: int | None  # S_parity as the point estimate
    best: int | None  # the k of the candidate's best value; None where none can be compared
    canvas: int | None  # G; a k beyond it makes no sense, so reaching it is worth saying
    ratios: Mapping[int, tuple[float, float | None, float | None]]  # speedup, low and high at each k
    entropy: tuple[float, Mapping[int, float]] | None  # the baseline's and the candidate's at each k
    where: str  # the conditions
    doubt: str  # from `doubt_phrase`
    margin: float
    diversity_margin: float | None  # None where the metric needs no entropy
    error: str  # the error rate of the tests


def sentence(tested: "Tested", parts: SentenceParts) -> str:
    """The verdict on one metric as one sentence, to be quoted alone."""
    left, right = parts.names
    allowed = _allowed(parts)
    if tested.status is Status.REACHED:
        assert tested.reached is not None
        assert parts.baseline is not None
        k, what, most = tested.reached, TITLES[parts.metric], max(parts.values)
        shown = f"{number(parts.values[k])} against {number(parts.baseline)}"
        span = f"at every tested k from {k} to {most}" if most > k else f"at k = {k}"
        head = (
            f"{right} matches {left}'s {what} at k = {k} diffusion steps ({shown}; {span} {allowed}, {parts.error}; "
            f"{parts.where})"
        )
        speed = f" and is {_ratio(*parts.ratios[k])} there{_gate(parts)}" if k in parts.ratios else ""
        return head + speed + _entropy(parts, k) + "."
    claim = "exists" if tested.status is Status.NOT_REACHED else "may be claimed"
    return _without_claim(tested, parts, allowed) + f"; {parts.error}; {parts.where}{_times(parts, claim)}."


def _without_claim(tested: "Tested", parts: SentenceParts, allowed: str) -> str:
    """The sentence's head where no parity may be claimed."""
    left, right = parts.names
    what = TITLES[parts.metric]
    if tested.status is Status.INVALID:
        return f"No verdict on {what}: {tested.reason}"
    assert parts.baseline is not None  # else it were invalid
    assert parts.best is not None
    most = max(parts.values)
    top = next((item for item in tested.tests if item.steps == most), None)
    span = f"{signed(top.delta, 2)} [95 % {signed(top.low, 2)} to {signed(top.high, 2)}]" if top else ""
    if tested.status is Status.INSENSITIVE:
        return f"No claim: {what} does not separate {left} from its floor here ({tested.reason})"
    if tested.status is Status.DEGENERATE:
        return (
            f"No parity: at k = {most} {right}'s {what} is as good ({number(parts.values[most])} against "
            f"{number(parts.baseline)}) while its text {_less_varied(tested, parts)} ({tested.reason})"
            f"{_entropy(parts, most)}"
        )
    if tested.status is Status.NOT_REACHED:
        whole = ""
        if parts.canvas is not None:
            whole = ", the whole canvas" if most >= parts.canvas else f" on a canvas of {parts.canvas}"
        return (
            f"Parity not reached for k up to {most}{whole}: {right}'s {what} is worse by more than {_margin(parts)} at "
            f"every k, {number(parts.values[parts.best])} at best (k = {parts.best}) against {left}'s "
            f"{number(parts.baseline)}"
        )
    needed = f"; about {tested.prompts_needed} prompts would decide" if tested.prompts_needed else ""
    return (
        f"Undecided: whether {right} matches {left}'s {what} at k = {most} cannot be said (difference {span}; wanted: "
        f"{allowed}; {tested.stopped_by}){needed}"
    )


def point_sentence(parts: SentenceParts) -> str:
    """The point estimate of one metric."""
    what = TITLES[parts.metric]
    lacking = f"no finite {what} at {', '.join(parts.lacking)}" if parts.lacking else ""
    if parts.baseline is None or parts.best is None:
        return f"Point estimate: none ({lacking})."
    but = lacking and f"; {lacking}"
    if parts.point is not None:
        shown = f"{what} {number(parts.values[parts.point])} against {number(parts.baseline)}{but}"
        speed = f", {_ratio(*parts.ratios[parts.point])} there{_gate(parts)}" if parts.point in parts.ratios else ""
        return f"Point estimate: S_parity = {parts.point} ({shown}){speed}."
    shown = f"best {what} {number(parts.values[parts.best])} at k = {parts.best} against {number(parts.baseline)}{but}"
    return f"Point estimate: not reached for k up to {max(parts.values)} ({shown})."


def title(tested: "Tested", parts: SentenceParts) -> str:
    """The verdict on one metric in one line, for a figure's title or a table's note."""
    left, right = parts.names
    what = TITLES[parts.metric]
    if tested.status is Status.INVALID:
        return f"No parity claim in {what}: the comparison is not valid"
    assert parts.baseline is not None  # else it were invalid
    assert parts.best is not None
    most = max(parts.values)
    if tested.status is Status.REACHED:
        assert tested.reached is not None
        k = tested.reached
        speed = f", {number(parts.ratios[k][0])}x as fast" if k in parts.ratios else ""
        against = f"{number(parts.values[k])} against {number(parts.baseline)}"
        return f"{right} matches {left}'s {what} at k = {k} ({against}){speed}"
    if tested.status is Status.NOT_REACHED:
        against = (
            f"best {number(parts.values[parts.best])} at k = {parts.best} against {left}'s {number(parts.baseline)}"
        )
        return f"Parity in {what} not reached for k up to {most} ({against})"
    short = {
        Status.INSENSITIVE: f"it does not separate {left} from its floor",
        Status.DEGENERATE: f"as good at k = {most}, but its text {_less_varied(tested, parts)}",
    }
    said = short.get(tested.status, f"undecided at k = {most}")
    return f"No parity claim in {what}: {said}"


def _less_varied(tested: "Tested", parts: SentenceParts) -> str:
    """Shown to be less varied, or only not shown to be as varied."""
    top = next((item for item in tested.diversity if item.steps == max(parts.values)), None)
    shown = top is not None and parts.diversity_margin is not None and top.upper < -parts.diversity_margin
    return "is less varied" if shown else "cannot be shown to be as varied"


def flags(
    reached: int | None, stopped_at: int | None, stopped_by: str, point: int | None, steps: Sequence[int]
) -> tuple[str, ...]:
    """What a reader of a reached verdict must know."""
    if reached is None:
        return ()
    found = [f"k = {reached} is the smallest tested: parity may begin below it"] if reached == min(steps) else []
    found += [f"stopped at k = {stopped_at}: {stopped_by}"] if stopped_at is not None else []
    if point != reached:
        found.append(f"the point estimate differs: S_parity = {'none' if point is None else point}")
    return tuple(found)


def speed_sentence(speed: Speed, candidate: str, shown: "Sequence[Speedup]", reason: str) -> str:
    """Viable, inefficient or open, with the ratios behind it; `candidate` is its name for people."""
    ratios = ", ".join(f"{_ratio(item.ratio, item.low, item.high)} at k = {item.steps}" for item in shown)
    said = {
        Speed.VIABLE: f"Viable: {candidate} is faster where its quality passes",
        Speed.INEFFICIENT: f"Inefficient: at every passing k {candidate} is slower",
    }.get(speed, f"Open: whether {candidate} is faster where its quality passes cannot be said")
    return f"{said} ({'; '.join(filter(None, [ratios or 'not timed', reason]))})."


def _allowed(parts: SentenceParts) -> str:
    """The hypothesis that a passing k rejects the opposite of."""
    said = f"at most {_margin(parts)} worse"
    if parts.diversity_margin is None:
        return said
    return f"{said} and at most {parts.diversity_margin:g} nats lower in entropy"


def _margin(parts: SentenceParts) -> str:
    unit = {"quality/perplexity": " nats per token", "quality/bits_per_byte": " bits"}.get(parts.metric, "")
    return f"{parts.margin:g}{unit}"


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign."""
    return f"{'-' if value < 0 else '+'}{number(abs(value), digits)}"


def with_interval(value: float, low: float | None, high: float | None, unit: str = "") -> str:
    """`12.3 ms [95 % 11.9 to 12.8]`; the value alone where it has no interval."""
    interval = f" [95 % {number(low)} to {number(high)}]" if low is not None and high is not None else ""
    return f"{number(value)}{unit}{interval}"


def _gate(parts: SentenceParts) -> str:
    return f" ({parts.doubt})" if parts.doubt else ""


def _times(parts: SentenceParts, claim: str) -> str:
    """The time ratios where nothing may be claimed of them."""
    timed = sorted(parts.ratios)
    ends = " and ".join(f"{_ratio(*parts.ratios[k])} at k = {k}" for k in dict.fromkeys(timed[:1] + timed[-1:]))
    return f"; {parts.names[1]} is {ends}{_gate(parts)}, but no speedup at parity {claim}" if timed else ""


def _ratio(ratio: float, low: float | None, high: float | None) -> str:
    return with_interval(ratio, low, high, "x as fast")


def _entropy(parts: SentenceParts, steps: int) -> str:
    """What happened to diversity at this k."""
    if parts.entropy is None or steps not in parts.entropy[1]:
        return ""
    own, theirs = parts.entropy[1][steps], parts.entropy[0]
    said = f"; its entropy at k = {steps} is {own:.2f} nats against {parts.names[0]}'s {theirs:.2f}"
    if own < theirs - 0.005:
        return said + (" (lower, which improves perplexity)" if parts.diversity_margin is not None else " (lower)")
    return said + (" (higher)" if own > theirs + 0.005 else " (the same)")
