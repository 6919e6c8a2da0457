"""Tables of what belongs to a model or a method and not to one k: likelihood, and accuracy under parallelism."""

import math
from collections.abc import Iterable

from llmbench.analysis.aup import Tradeoff, tradeoffs
from llmbench.record import Likelihood, Record
from llmbench.report.cells import in_order, provenance, weights_of
from llmbench.report.layout import ABSENT, Table


def likelihood_table(records: Iterable[Record], command: str = "") -> Table:
    """How well each model itself predicts a text: one row per model and text, whatever steps its jobs had.

    Args:
        records: those without a likelihood are left out, and of a model's jobs over k only the first is shown.
        command: what recreates it.
    """
    rows: dict[tuple[str, ...], Record] = {}
    for record in in_order(records):
        if record.likelihood is not None and record.likelihood.utf8_bytes:
            rows.setdefault(_likelihood_row(record, record.likelihood), record)
    notes = (
        "Bits per byte: negative log-likelihood / (ln 2 * bytes of the texts); the first token of a text, or a start "
        "token that the tokenizer adds, is given.",
        "An upper bound supports one conclusion only: that a diffusion model is no worse. Where its bound is higher, "
        "the model may be worse or the bound may be loose.",
        "Nats per token compare models that share a tokenizer. None of this depends on k.",
    )
    return Table(
        title="Likelihood of text under the model itself",
        header=("model", "texts", "bits per byte", "standard error", "exact or bound", "nats per token"),
        rows=tuple(rows),
        notes=notes,
        provenance=provenance(list(rows.values()), command, generated=False),
    )


def _likelihood_row(record: Record, found: Likelihood) -> tuple[str, ...]:
    in_bits = math.log(2) * found.utf8_bytes
    error, tokens = found.standard_error_nats, found.scored_tokens
    source = record.signatures.get("likelihood", "held-out")
    return (
        weights_of(record),
        source if found.texts is None else f"{source} ({found.texts})",
        f"{found.nll_nats / in_bits:.4f}",
        ABSENT if error is None else f"{error / in_bits:.4f}",
        "bound" if found.bound else "exact",
        f"{found.nll_nats / tokens:.4f}" if tokens else ABSENT,
    )


def model_properties(records: Iterable[Record]) -> str:
    """One line on what does not depend on k: how well each model itself predicts held-out text. "" when unknown."""
    said: list[str] = []
    source = "held-out text"
    for record in in_order(records):
        found, bits = record.likelihood, record.metrics.get("likelihood/bits_per_byte")
        if found is None or bits is None:
            continue
        named = record.signatures.get("likelihood", "heldout@")
        source = source if named.startswith("heldout@") else named
        name = weights_of(record)
        if not found.bound:
            said.append(f"{name} {bits:.4f}, exact")
            continue
        error = found.standard_error_nats
        margin = "" if error is None else f" ± {error / (math.log(2) * found.utf8_bytes):.4f} (standard error)"
        said.append(f"{name} at most {bits:.4f}{margin}")
    if not said:
        return ""
    return f"Bits per byte of {source}, a property of the model and not of k: {'; '.join(dict.fromkeys(said))}."


def aup_table(records: Iterable[Record], command: str = "") -> Table:
    """Accuracy against tokens per forward in one number per method; no rows where there is no trade-off to show.

    Args:
        records: of one sweep.
        command: what recreates it.
    """
    known = list(records)
    found = tradeoffs(known)
    varied = {key for curve in found for key, text in curve.conditions.items() if text != found[0].conditions.get(key)}

    def name(curve: Tradeoff) -> str:
        own = [f"{key.removeprefix('decoding.')}={curve.conditions.get(key, ABSENT)}" for key in sorted(varied)]
        return " ".join([curve.model, *own])

    rows = tuple(
        (
            name(curve),
            ", ".join(f"{rho:.2f}: {y:.1f}" for rho, y in curve.points),
            f"{curve.kept} of {len(curve.points)}",
            f"{curve.best:.1f}",
            f"{curve.aup:.1f}",
        )
        for curve in found
    )
    note = (
        "AUP (arXiv 2601.07568): accuracy (%) integrated over tokens per forward, lost accuracy weighted down; "
        "settings more than 5 points below the slowest do not count. A summary inside this sweep, without an interval."
    )
    return Table(
        title="Accuracy under parallelism",
        header=("", "tokens/forward: accuracy %", "count", "best % of any side", "AUP"),
        rows=rows,
        notes=(note,),
        provenance=provenance(in_order(known), command),
    )
