"""Table 5: accelerated decoding. Caches, block lengths, thresholds and drafts, with the text that each writes."""

from collections.abc import Iterable, Sequence

from llmbench.analysis.formats import TITLES
from llmbench.analysis.frontier import differing, settings_said
from llmbench.analysis.implementations import row_labels
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import DIVERSITY
from llmbench.record import Record
from llmbench.report.axes import by_number
from llmbench.report.cells import Column, condition, forwards, in_order, record_table, value, with_interval
from llmbench.report.layout import ABSENT, Table
from llmbench.report.tables import own_speedup

_QUALITY = ("quality/accuracy", "quality/perplexity", DIVERSITY, "quality/bertscore_f1", "quality/relevance")


def acceleration_table(records: Iterable[Record], verdicts: Sequence[Parity], command: str = "") -> Table:
    """Every way of decoding, LLaMA's first: forwards, time, speedup over the fastest LLaMA, and quality.

    Args:
        records: of a sweep over decoding settings.
        verdicts: of the same Records: the speedups of each setting.
        command: what recreates it.
    """
    rows = in_order(records)
    names, ways = differing(rows), row_labels(rows)
    of = {identity: verdict for verdict in verdicts for identity in verdict.identities}

    def name(record: Record) -> str:
        return " ".join([ways[id(record)], *settings_said(record, names)])

    rows.sort(key=lambda record: (record.steps is not None, record.model, by_number(name(record))))

    def speedup(record: Record) -> str:
        verdict = of.get(record.identity)
        return ABSENT if verdict is None else own_speedup(verdict, record)

    keys: list[Column] = [("", name), *((key, condition(key)) for key in ("batch", "canvas"))]
    if len({condition("seed")(record) for record in rows}) > 1:
        keys.append(("seed", condition("seed")))
    columns: tuple[Column, ...] = (
        *keys,
        ("forwards", forwards),
        ("L_e2e ms [95 %]", with_interval("latency/e2e_ms")),
        ("speedup [95 %]", speedup),
        *((TITLES[key], value(key)) for key in _QUALITY),
        ("tokens/forward", value("throughput/tokens_per_forward")),
        ("tokens/s", value("throughput/tokens_per_s")),
        ("first text ms", value("latency/first_text_ms")),
    )
    notes = (
        "speedup = L_e2e of the fastest LLaMA that was measured / L_e2e here; forwards: those that were made.",
        "A cache is approximate and a threshold commits several tokens at once, so both change the text: perplexity is "
        "read with entropy beside it, at one temperature. A draft changes no text, but draws another sample.",
    )
    main = ("forwards", "speedup [95 %]", *(TITLES[key] for key in _QUALITY[:3]), "L_e2e ms [95 %]")
    return record_table("Accelerated decoding", rows, columns, command, notes, keys=len(keys), main=main)
