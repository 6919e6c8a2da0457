"""How is a verdict said, so that it can be quoted without the table beside it? Numbers in, one sentence out.

The sentence always carries the form of the test, the conditions, and what happened to diversity at the same k,
because generative perplexity alone rewards repetition; a speedup against a slow baseline says so. Called by
`llmbench.analysis.parity` only; `number`, `TITLES` and `NAMES` also serve the tables.
"""

from collections.abc import Mapping, Sequence

from llmbench.record import Record

NAMES: dict[str, str] = {"llama": "LLaMA", "llada": "LLaDA"}
"""How models are called in prose; a name that is not listed stands as it is."""

TITLES: dict[str, str] = {
    "quality/perplexity": "perplexity",
    "quality/bits_per_byte": "bits per byte",
    "quality/bertscore_f1": "BERTScore F1",
    "quality/entropy": "entropy",
    "quality/distinct_2": "distinct-2",
}


ROOFLINE_GATE = 0.5
"""Below this share of what the device could do, a baseline is slow, and a speedup against it says little."""


def named(record: Record) -> str:
    """A side in prose, with its decoder where that is not its family's own: `LLaMA (transformers static)`."""
    way = record.side.removeprefix(record.model).strip()
    name = NAMES.get(record.model, record.model)
    return f"{name} ({way})" if way else name


def slow_phrase(baseline: Record | None) -> str:
    """The gate on speedups: said when the baseline is under half of its roofline and the roofline can judge."""
    if baseline is None or baseline.ceilings is None or not baseline.ceilings.judged:
        return ""
    efficiency = baseline.metrics.get("roofline/efficiency")
    if efficiency is None or efficiency >= ROOFLINE_GATE:
        return ""
    return f"{named(baseline)} at {100 * efficiency:.2g} % of its roofline limit: a speedup against a slow baseline"


def baseline_phrase(chosen: Record | None, baselines: Sequence[Record]) -> str:
    """Which of several implementations is the baseline, with every one's time; empty where there is no choice."""
    if chosen is None or len(baselines) < 2:
        return ""
    times = ", ".join(
        f"{record.label} {number(record.metrics['latency/e2e_ms'])} ms"
        for record in baselines
        if "latency/e2e_ms" in record.metrics
    )
    return f"The baseline is {chosen.label}, the fastest of its implementations by L_e2e ({times})."


def number(value: float, digits: int = 3) -> str:
    """A value to `digits` significant digits, whole numbers in full: 1234, 34.1, 0.600."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def conditions_phrase(records: Sequence[Record]) -> str:
    """The stated conditions: temperature, B, canvas, prompts, device."""
    if not records:
        return ""
    said = records[0].conditions
    heat = list(
        dict.fromkeys(r.conditions["decoding.temperature"] for r in records if "decoding.temperature" in r.conditions)
    )
    parts = [f"temperature {' against '.join(heat)}"] if heat else []
    parts += [f"{name} {said[key]}" for key, name in (("batch", "batch"), ("canvas", "canvas")) if key in said]
    parts += [f"{len(records[0].outputs)} prompts"] if records[0].outputs else []
    device = f" on {said.get('device_name', 'an unnamed device')} ({said.get('device', '?')}, {said.get('dtype', '?')})"
    return ", ".join(parts) + device


def metric_sentence(
    *,
    metric: str,
    names: tuple[str, str],
    baseline: float,
    values: Mapping[int, float],
    reached: int | None,
    best: int,
    canvas: int | None,
    ratios: Mapping[int, tuple[float, float | None, float | None]],
    entropy: tuple[float, Mapping[int, float]] | None,
    where: str,
    slow: str = "",
) -> str:
    """The verdict on one metric as one sentence.

    Args:
        metric: key of METRICS.
        names: baseline and candidate, for people.
        baseline: the value to reach.
        values: the candidate's value at each k.
        reached: S_parity, or None.
        best: the k of the candidate's best value.
        canvas: G; a k beyond it makes no sense, so reaching it is worth saying.
        ratios: speedup, low and high at each k.
        entropy: the baseline's and the candidate's at each k.
        where: the conditions.
        slow: from `slow_phrase`.
    """
    left, right = names
    title = TITLES[metric]
    gate = f" ({slow})" if slow else ""
    if reached is not None:
        head = (
            f"{right} matches {left}'s {title} at k = {reached} diffusion steps "
            f"({number(values[reached])} against {number(baseline)}, point form; {where})"
        )
        speed = f" and is {_ratio(*ratios[reached])} there{gate}" if reached in ratios else ""
        return head + speed + _entropy(metric, left, reached, entropy) + "."
    most = max(values)
    whole = ", the whole canvas" if canvas is not None and most >= canvas else ""
    head = (
        f"Parity not reached for k up to {most}{whole}: {right}'s best {title} is {number(values[best])} (k = {best}) "
        f"against {left}'s {number(baseline)} (point form; {where})"
    )
    timed = [steps for steps in sorted(values) if steps in ratios]
    speed = ""
    if timed:
        ends = " and ".join(
            f"{_ratio(*ratios[steps])} at k = {steps}" for steps in dict.fromkeys((timed[0], timed[-1]))
        )
        speed = f"; it is {ends}{gate}, but no speedup at parity exists"
    return head + speed + _entropy(metric, left, best, entropy) + "."


def metric_title(
    *,
    metric: str,
    names: tuple[str, str],
    baseline: float,
    values: Mapping[int, float],
    reached: int | None,
    best: int,
    ratio: float | None,
) -> str:
    """The verdict on one metric in one line, for a figure's title or a table's note; arguments as `metric_sentence`."""
    left, right = names
    title = TITLES[metric]
    if reached is None:
        against = f"best {number(values[best])} at k = {best} against {left}'s {number(baseline)}"
        return f"Parity in {title} not reached for k up to {max(values)} ({against})"
    speed = f", {number(ratio)}x as fast" if ratio is not None else ""
    against = f"{number(values[reached])} against {number(baseline)}"
    return f"{right} matches {left}'s {title} at k = {reached} ({against}){speed}"


def _ratio(ratio: float, low: float | None, high: float | None) -> str:
    interval = f" [95 % {number(low)} to {number(high)}]" if low is not None and high is not None else ""
    return f"{number(ratio)}x as fast{interval}"


def _entropy(metric: str, left: str, steps: int, entropy: tuple[float, Mapping[int, float]] | None) -> str:
    """What happened to diversity at this k."""
    if entropy is None or steps not in entropy[1]:
        return ""
    own, theirs = entropy[1][steps], entropy[0]
    said = f"; its entropy at k = {steps} is {own:.2f} nats against {left}'s {theirs:.2f}"
    if own < theirs - 0.005:
        return said + (" (lower, which flatters perplexity)" if metric != "quality/bertscore_f1" else " (lower)")
    return said + (" (higher)" if own > theirs + 0.005 else " (the same)")
