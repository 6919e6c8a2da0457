"""The table of the tests behind a verdict: per k the difference, its interval, the bound, and whether it passes."""

from collections.abc import Sequence

from llmbench.analysis.parity.sentences import TITLES, signed
from llmbench.analysis.parity.verdict import DeltaTest, Gate, MetricParity, Parity, Status
from llmbench.report.layout import Table, counted


def details_tables(parity: Parity) -> list[Table]:
    """The table of the tests, or none where nothing could be tested."""
    head = parity.metrics[0] if parity.metrics else None
    if head is None:
        return []
    what = TITLES[head.curve.metric]
    paired = bool(head.diversity)
    unit = {"quality/perplexity": " (nats per token)"}.get(head.curve.metric, "")
    header = ["k", f"{what}{unit} [95 %]", f"bound, from {-head.margin:g}"]
    header += ["entropy [95 %]", f"bound, from {-(head.diversity_margin or 0):g}"] if paired else []
    varied = {item.steps: item for item in head.diversity}
    rows = []
    for steps in parity.steps:
        cells = [str(steps), *_cells(head.test(steps)), *(_cells(varied.get(steps)) if paired else ())]
        rows.append((*cells, _outcome(head, varied.get(steps), steps, parity.gates)))
    return [
        Table(
            title="The tests behind the verdict",
            header=(*header, "passes"),
            rows=tuple(rows) if head.tests else (),
            notes=tuple(_notes(parity, head)),
        )
    ]


def _cells(test: DeltaTest | None) -> tuple[str, str]:
    if test is None:
        return "-", "-"
    return f"{signed(test.delta)} [{signed(test.low)}, {signed(test.high)}]", signed(test.lower)


def _outcome(head: MetricParity, varied: DeltaTest | None, steps: int, gates: Sequence[Gate]) -> str:
    """Yes, or every reason against it."""
    test = head.test(steps)
    against = [
        gate.name
        for gate in gates
        if gate.blocks == "parity"
        and gate.steps in (None, steps)
        and (not gate.metrics or head.curve.metric in gate.metrics)
    ]
    for name, item, margin in (("quality", test, head.margin), ("entropy", varied, head.diversity_margin or 0)):
        if item is not None and not item.passes:
            against.append("too few prompts" if item.lower >= -margin else name)
    if against:
        return f"no: {', '.join(dict.fromkeys(against))}"
    if head.status is Status.INSENSITIVE:
        return "no: insensitive"
    return "yes" if steps in head.passing else "not tested" if test is not None else "-"


def _notes(parity: Parity, head: MetricParity) -> list[str]:
    alpha = f"{100 * parity.alpha:.3g} %"
    notes = [
        f"Differences, diffusion minus autoregressive, more is better; {counted(head.prompts, 'prompt')} in pairs; "
        f"bound: one-sided, {alpha}; tested from the largest k down to the first failure."
    ]
    if head.assay is not None:
        said = "enough" if head.assay.sensitive else "too little"
        notes.append(
            f"Sensitivity: Q - floor {signed(head.assay.difference)}, bound {signed(head.assay.lower)}: {said} "
            f"(more than {head.assay.needed:g} is needed)."
        )
    notes += [f"Flag: {text}." for text in head.flags]
    if head.frequencies:
        drawn = ", ".join(f"{'none' if k is None else k} {_share(share)}" for k, share in head.frequencies)
        notes.append(f"Point estimate of S_parity, prompts resampled: {drawn}.")
    notes += [f"Also: {item.title}." for item in parity.metrics[1:]]
    if len(parity.s_all_metrics) > 1:
        names = ", ".join(TITLES[key] for key in parity.s_all_metrics)
        notes.append(f"S_all ({names}): {parity.s_all if parity.s_all is not None else 'none'}.")
    return notes


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "< 1%"
