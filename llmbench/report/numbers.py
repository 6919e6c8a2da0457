r"""The numbers of a verdict as LaTeX macros for prose: `\benchSpeedup`, `\benchPerplexityKSixteen`, ...

Those of `ALWAYS` are defined whatever was measured, and say "not measured" where it was not. Every other macro is there
only with its number. k stands in a name as a word, because a macro's name has letters alone.
"""

from collections.abc import Iterator, Sequence

from llmbench.analysis.formats import TITLES, number
from llmbench.analysis.parity import sentences
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Curve, Speedup
from llmbench.record import Record
from llmbench.report.latex import prose_latex

ALWAYS = (
    *("Verdict", "Sentence", "SpeedSentence", "Headline", "Margin", "SParity", "SParityPoint"),
    *("Speedup", "SpeedupLow", "SpeedupHigh", "SpeedupAt", "LargestK", "Baseline", "Candidate"),
    *("PerplexityBaseline", "PerplexityCandidate", "LatencyBaseline", "LatencyCandidate"),
    *("Device", "Dtype", "Batch", "Canvas", "Temperature", "Prompts", "Documents", "Judge"),
    *("Commit", "Versions", "Date"),
)
"""Names behind `\\bench` that are always defined."""

ABSENT = "not measured"


def macros(records: Sequence[Record], parity: Parity | None) -> dict[str, str]:
    r"""LaTeX by the macro's name without `\bench`.

    Args:
        records: that the verdict was made from, and others of the same sweep.
        parity: the verdict; None where none was reached.
    """
    found = dict.fromkeys(ALWAYS, ABSENT)
    if parity is not None:
        found |= dict(_verdict(parity))
        found |= dict(_conditions([r for r in records if r.identity in parity.identities], parity))
    return found


def numbers_tex(values: dict[str, str]) -> str:
    r"""The file: a \newcommand for each."""
    head = "% numbers of the verdict, for prose: \\benchSpeedup{} times as fast. Written by llmbench report paper."
    return "\n".join([head, *(rf"\newcommand{{\bench{name}}}{{{text}}}" for name, text in values.items()), ""])


def _verdict(parity: Parity) -> Iterator[tuple[str, str]]:
    head, largest = parity.head, max(parity.steps, default=None)
    yield "Verdict", parity.status.value.replace("_", " ")
    yield "Sentence", prose_latex(sentences.result(parity))
    if said := sentences.speed(parity):
        yield "SpeedSentence", prose_latex(said)
    yield "Baseline", prose_latex(parity.names[0])
    yield "Candidate", prose_latex(parity.names[1])
    none = "none" if largest is None else f"none up to ${{k = {largest}}}$"
    if largest is not None:
        yield "LargestK", _math(str(largest))
    reached = head.reached if head else None
    if head is not None:
        yield "Headline", TITLES[head.curve.metric]
        yield "Margin", prose_latex(sentences.margin(head))
        yield "SParity", none if reached is None else f"${{k = {reached}}}$"
        yield "SParityPoint", none if head.s_parity is None else f"${{k = {head.s_parity}}}$"
    at = parity.speedup(reached if reached is not None else largest)
    if at is not None:
        yield "SpeedupAt", f"${{k = {at.steps}}}$"
        yield "LatencyBaseline", _math(number(at.baseline_ms))
        yield "LatencyCandidate", _math(number(at.candidate_ms))
        yield from _fast("Speedup", at)
    for item in parity.speedups:
        yield from _fast(f"SpeedupK{word(item.steps)}", item)
        yield f"LatencyK{word(item.steps)}", _math(number(item.candidate_ms))
    for curve in (*(item.curve for item in parity.metrics), *parity.beside):
        yield from _quality(curve, at.steps if at else largest)


def _fast(name: str, item: Speedup) -> Iterator[tuple[str, str]]:
    yield name, _math(number(item.ratio))
    for end, value in (("Low", item.low), ("High", item.high)):
        if value is not None:
            yield f"{name}{end}", _math(number(value))


def _quality(curve: Curve, steps: int | None) -> Iterator[tuple[str, str]]:
    title = camel(TITLES[curve.metric])
    references = (("Baseline", curve.baseline), ("Human", curve.human), ("Floor", curve.floor))
    ends = (*references, ("Candidate", curve.at(steps) if steps is not None else None))
    for name, value in (*ends, *((f"K{word(k)}", value) for k, value in curve.values)):
        if value is not None:
            yield f"{title}{name}", _math(number(value))


def _conditions(records: Sequence[Record], parity: Parity) -> Iterator[tuple[str, str]]:
    own = parity.conditions
    environments = [record.environment for record in records]
    versions = [(name, e.versions[name]) for e in environments for name in ("llmbench", "torch") if name in e.versions]
    said = {
        "Device": own.device_name,
        "Dtype": own.dtype,
        "Batch": own.batch,
        "Canvas": own.canvas,
        "Temperature": " and ".join(own.temperatures),
        "Prompts": str(own.prompts),
        "Documents": str(own.documents),
        "Judge": own.judge,
        "Commit": " / ".join(dict.fromkeys(e.git_commit[:10] for e in environments if e.git_commit)),
        "Versions": ", ".join(dict.fromkeys(f"{name} {version}" for name, version in versions)),
        "Date": " / ".join(dict.fromkeys(record.started_at[:10] for record in records)),
    }
    yield from ((name, prose_latex(text)) for name, text in said.items() if text)


def _math(text: str) -> str:
    return rf"\ensuremath{{{text}}}"


def camel(title: str) -> str:
    """`perplexity, second judge` as `PerplexitySecondJudge`: letters alone, digits as words."""
    parts = ["".join(sign for sign in part if sign.isalnum()) for part in title.replace("-", " ").split()]
    return "".join(word(int(part)) if part.isdigit() else part[:1].upper() + _spelled(part[1:]) for part in parts)


def _spelled(text: str) -> str:
    return "".join(word(int(sign)) if sign.isdigit() else sign for sign in text)


_ONES = (
    *("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"),
    *("Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen"),
)
_TENS = ("", "", "Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")


def word(count: int) -> str:
    """`64` as `SixtyFour`."""
    if count < 20:
        return _ONES[count]
    if count < 100:
        return _TENS[count // 10] + (word(count % 10) if count % 10 else "")
    size, name = (100, "Hundred") if count < 1000 else (1000, "Thousand")
    return word(count // size) + name + (word(count % size) if count % size else "")
