"""The table of the tests behind a verdict: per k the difference, its bounds, what its texts show, what passes."""

from llmbench.analysis.formats import TITLES, UNITS, counted, number, signed
from llmbench.analysis.parity import sentences
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Check, CheckName, DeltaTest, MetricParity, Place
from llmbench.report.layout import Table

_PLACES = {Place.ON: "on the curve", Place.BELOW: "less varied", Place.ABOVE: "more varied", Place.DIRECT: "-"}

_TEXTS = (
    (CheckName.RELEVANCE, "relevance, bound"),
    (CheckName.COPYING, "shared 4-grams"),
    (CheckName.REPETITION, "repetition"),
    (CheckName.LENGTH, "length"),
)
"""Checks on texts that have a column."""


def details_tables(parity: Parity) -> list[Table]:
    """The table of the tests, or none where nothing could be tested; another under a second judge."""
    made = [_table(parity, parity.head)] if parity.head else []
    if parity.head and parity.head.second:
        made.append(_table(parity, parity.head.second))
    return made


def _table(parity: Parity, item: MetricParity) -> Table:
    metric = item.curve.metric
    unit = UNITS.get(metric.removesuffix("_second"), "")
    header = ["k", f"{TITLES[metric]}{f' ({unit})' if unit else ''} [95 %]", "lower", "upper"]
    matched = bool(item.tests) and item.tests[0].place is not Place.DIRECT
    header += ["entropy", "LLaMA at", "place", *(name for _, name in _TEXTS)] if matched else []
    rows = []
    for k in parity.steps:
        cells = [str(k), *_cells(item.test(k)), *(_text(parity.check(name, k), name) for name, _ in _TEXTS)]
        rows.append((*cells[: len(header)], _outcome(parity, item, k)))
    return Table(
        title="The tests behind the verdict" + (", second judge" if metric.endswith("_second") else ""),
        header=(*header, "passes"),
        rows=tuple(rows) if item.tests else (),
        notes=tuple(_notes(parity, item)),
        main=(header[1], "lower", "entropy", "LLaMA at", "passes"),
    )


def _cells(test: DeltaTest | None) -> tuple[str, ...]:
    if test is None:
        return ("-",) * 6
    shown = f"{signed(test.delta)} [{signed(test.low)}, {signed(test.high)}]"
    entropy = "-" if test.entropy is None else f"{test.entropy:.2f}"
    at = "-" if test.temperature is None else f"T = {test.temperature:.2f}"
    place = "dominated" if test.dominated else _PLACES[test.place]
    return shown, signed(test.lower), signed(test.upper), entropy, at, place


def _text(check: Check | None, name: CheckName) -> str:
    """What a text has of a Check's quantity, against the baseline's at equal entropy."""
    if check is None or check.values.get("measured") == "no":
        return "-"
    values = check.values
    if name is CheckName.LENGTH:
        share = values["share"]
        return f"{share:.0%}" if isinstance(share, float) else "-"
    own, other, lower = values["value"], values["reference"], values.get("lower")
    assert isinstance(own, float)
    assert isinstance(other, float)
    shown = f"{number(own)} ({number(other)})"
    return f"{shown}, {signed(lower)}" if isinstance(lower, float) else shown


def _outcome(parity: Parity, item: MetricParity, steps: int) -> str:
    """Yes, or every reason against it."""
    metric = item.curve.metric
    against = [
        check.name.value
        for check in parity.checks
        if check.forbids("verdict", metric, steps) or check.forbids("reached", metric, steps)
    ]
    test = item.test(steps)
    if test is not None and not test.passes:
        against.append("quality" if test.enough or test.place is Place.BELOW else "too few prompts")
    if test is not None and (test.assay is None or not test.assay.sensitive):
        against.append("insensitive")
    if against:
        return f"no: {', '.join(dict.fromkeys(against))}"
    return "yes" if steps in item.passing else "not tested" if test is not None else "-"


def _notes(parity: Parity, item: MetricParity) -> list[str]:
    alpha = f"{100 * parity.alpha:.3g} %"
    matched = item.tests and item.tests[0].place is not Place.DIRECT
    against = "LLaMA at equal entropy" if matched else "autoregressive"
    notes = [
        f"Differences, diffusion minus {against}, more is better; margin {sentences.margin(item)}; "
        f"{counted(item.prompts, 'prompt')} in {counted(item.documents, 'document')}, in pairs; bounds one-sided, "
        f"{alpha}; tested from the largest k down to the first failure."
    ]
    if matched and parity.prefix:
        notes.append(
            f"Entropy: over the first {parity.prefix} judge tokens. Columns of texts: LLaDA (LLaMA at equal entropy); "
            "relevance in nats per token with the lower bound of the difference."
        )
    assay = item.tests[-1].assay if item.tests else None
    if assay is not None:
        said = "enough" if assay.sensitive else "too little"
        notes.append(
            f"Sensitivity at the largest k: LLaMA - floor {signed(assay.difference)}, bound {signed(assay.lower)}: "
            f"{said} (more than {assay.needed:g} is needed)."
        )
    notes += [f"Flag: {text}." for text in sentences.flags(parity, item)]
    if item is parity.head:
        notes += [f"Also: {sentences.title(parity, other)}." for other in parity.metrics[1:]]
        if len(parity.s_all_metrics) > 1:
            names = ", ".join(TITLES[key] for key in parity.s_all_metrics)
            notes.append(f"S_all ({names}): {parity.s_all if parity.s_all is not None else 'none'}.")
    return notes
