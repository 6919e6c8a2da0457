"""One page of a sweep that opens without a network: question, verdict, figures, tables, texts, method, environment.

Everything is in the file. Without JavaScript only choosing another prompt, sorting a table and the larger labels of
points are missing. Nothing that a model wrote is taken for markup: every text is escaped, and the page's policy (CSP)
lets no other script than its own run and nothing be loaded.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from string import Template

from llmbench.analysis.formats import TITLES, listed, with_interval
from llmbench.analysis.parity import sentences
from llmbench.analysis.parity.grouping import Group, comparison_groups, group
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import Speedup
from llmbench.record import ROLE_SUFFIX, Record, sorted_records
from llmbench.report.assemble import recipe_tables
from llmbench.report.details import details_tables
from llmbench.report.html_charts import charts
from llmbench.report.html_figures import figure
from llmbench.report.html_parts import anchor, escape, run_list, table_html
from llmbench.report.html_texts import MOST_SETTINGS, texts_html, texts_of
from llmbench.report.model_tables import model_properties

MOST_BYTES = 2_900_000
"""Of a page; texts of further prompts are left out above it."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The sweep that a page is about."""

    title: str  # name and run id
    command: str = ""  # what was typed
    recipe: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)  # run id, or folder, by a Record's identity
    warning: str = ""  # Records are missing


def sweep_page(records: Sequence[Record], verdicts: Sequence[Parity], origin: Origin) -> str:
    """The page of a sweep, at most about `MOST_BYTES` long.

    Args:
        records: of the sweep.
        verdicts: of the same Records.
        origin: which sweep it is.

    Raises:
        RecordError: Records that must be comparable are not.
    """
    pairs = [(verdict, _sides(records, verdict)) for verdict in verdicts]
    parts = {
        "title": escape(_title(verdicts, origin)),
        "question": escape(_question(verdicts)),
        "origin": _origin(records, origin),
        "verdicts": "".join(_verdict(verdict, sides, origin.runs, len(pairs) > 1) for verdict, sides in pairs),
        "tables": _tables(records, pairs, origin),
        "method": _method(verdicts),
        "environment": _environment(records),
        "runs": _runs(records, origin.runs),
    }
    rest = sum(len(part.encode()) for part in parts.values())
    chosen = next(((v, s) for v, s in pairs if v.head), pairs[0] if pairs else None)
    parts["texts"] = _texts(chosen, origin.runs, MOST_BYTES - rest - 100_000, len(pairs) > 1)
    parts["texts_link"] = '<a href="#texts-shown">Texts</a>' if parts["texts"] else ""
    return _filled(parts)


def _filled(parts: Mapping[str, str]) -> str:
    files = resources.files("llmbench.report") / "page"
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    style += "".join(
        f".switch:has(.legend input[value='{n}']:not(:checked)) .s{n}{{display:none}}\n" for n in range(MOST_SETTINGS)
    )
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    page = Template((files / "page.html").read_text(encoding="utf-8"))
    return page.substitute(parts, style=style, script=script, policy=policy)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _sides(records: Sequence[Record], verdict: Parity) -> Group:
    """The Records behind a verdict."""
    own = set(verdict.identities)
    for members in comparison_groups(records):
        if own & {record.identity for record in members}:
            return group(members)
    return Group(baseline=None, candidates=(), implementations=())


def _title(verdicts: Sequence[Parity], origin: Origin) -> str:
    said = listed([verdict.status.value.replace("_", " ") for verdict in verdicts])
    return f"{said or 'no verdict'}: {origin.title}"


def _question(verdicts: Sequence[Parity]) -> str:
    names = {verdict.names for verdict in verdicts if verdict.baseline and verdict.candidate}
    left, right = next(iter(names)) if len(names) == 1 else ("LLaMA", "LLaDA")
    return f"At how many diffusion steps k does {right} match {left}'s quality, and is it faster there?"


def _origin(records: Sequence[Record], origin: Origin) -> str:
    dates = sorted({record.started_at[:10] for record in records})
    when = f", {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else ""
    typed = f"<p><code>{escape(origin.command)}</code></p>" if origin.command else ""
    warning = f"<p class=warning role=alert>{escape(origin.warning)}</p>" if origin.warning else ""
    return f"<p>From {escape(origin.title)}{escape(when)}.</p>{typed}{warning}"


def _verdict(parity: Parity, sides: Group, runs: Mapping[str, str], several: bool) -> str:
    """Status, key numbers, sentences and figures."""
    result, *more = sentences.lines(parity)
    heading = f"Verdict: {parity.where}" if several else "Verdict"
    said = "".join(f"<p>{escape(line)}</p>" for line in more)
    drawn = [figure(chart) for chart in charts(parity, sides, runs)]
    shown, others = drawn[:4], drawn[4:]
    folded = f"<details><summary>Other metrics</summary><div class=figures>{''.join(others)}</div></details>"
    return (
        f"<section><h2>{escape(heading)}</h2>{_facts(parity, sides, runs)}"
        f"<p class=result>{escape(result)}</p>{said}"
        f"<div class=figures>{''.join(shown)}</div>{folded if others else ''}</section>"
    )


def _facts(parity: Parity, sides: Group, runs: Mapping[str, str]) -> str:
    """Status, S_parity and speedup with their runs."""
    head, most = parity.head, max(parity.steps, default=None)
    status = f'<b class="status {parity.status.value}">{escape(parity.status.value.replace("_", " "))}</b>'
    facts = [("Verdict", status)]

    def of(steps: int | None) -> str:
        own = [r for side in sides.candidates if side.steps == steps for r in side.records]
        own += sides.baseline.records if sides.baseline else ()
        return run_list([runs.get(record.identity, record.identity) for record in own])

    def fast(item: Speedup | None) -> str:
        return with_interval(item.ratio, item.low, item.high, "x") if item else "not timed"

    def fact(name: str, value: str, more: str, runs: str) -> None:
        facts.append((name, f"<b>{escape(value)}</b><small>{escape(more)}</small> <div>{runs}</div>"))

    if head is not None:
        tested, k, none = head.reached, head.s_parity, f"none up to k = {most}"
        fact("S_parity, tested", f"k = {tested}" if tested is not None else none, "", of(tested or most))
        more = f"{fast(parity.speedup(k))} as fast there" if k is not None else ""
        fact("S_parity, point estimate", f"k = {k}" if k is not None else none, more, of(k or most))
    if parity.speedups:
        at = parity.speedup(head.reached if head else None) or parity.speedup(most) or parity.speedups[-1]
        where = "at the tested S_parity" if head and at.steps == head.reached else "no k passes: no speedup at parity"
        value, _, interval = fast(at).partition(" ")
        more = "; ".join(filter(None, [interval, where if head else ""]))
        fact(f"Speedup at k = {at.steps}", value, more, of(at.steps))
    return f"<dl class=facts>{''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in facts)}</dl>"


def _tables(records: Sequence[Record], pairs: Sequence[tuple[Parity, Group]], origin: Origin) -> str:
    """The tables of the recipe; those of the tests with the runs of each k."""
    verdicts = [verdict for verdict, _ in pairs]
    tests = {table: sides for verdict, sides in pairs for table in details_tables(verdict)}
    said = {line for verdict in verdicts for line in sentences.lines(verdict)}
    parts = []
    for table in recipe_tables(records, verdicts, origin.recipe, origin.command):
        own = []
        if sides := tests.get(table):
            by_steps = {str(side.steps): side.records for side in sides.candidates}
            own = [[origin.runs.get(r.identity, r.identity) for r in by_steps.get(row[0], ())] for row in table.rows]
        lead = tuple(line for line in table.lead if line not in said)
        parts.append(table_html(replace(table, lead=lead), origin.runs, own))
    properties = model_properties(records)
    return "".join([*parts, f"<p>{escape(properties)}</p>" if properties else ""])


def _texts(chosen: tuple[Parity, Group] | None, runs: Mapping[str, str], room: int, several: bool) -> str:
    """The section of the texts; "" where none was written."""
    found = texts_of(chosen[1], chosen[0].names, room) if chosen else None
    if chosen is None or found is None:
        return ""
    of = f"<p class=note>Of the verdict on {escape(chosen[0].where)}.</p>" if several else ""
    body = texts_html(found, runs) if found.cells else f"<p>{escape(found.note)}</p>"
    return f"<section><h2>Texts</h2>{of}{body}</section>"


def _method(verdicts: Sequence[Parity]) -> str:
    """What the numbers mean, in short."""
    shown = next((verdict for verdict in verdicts if verdict.head), None)
    terms = ""
    if shown is not None and shown.head is not None:
        head, (left, right) = shown.head, shown.names
        terms = (
            f"Here: {TITLES[head.curve.metric]}, margin {sentences.margin(head)}, one-sided bounds at "
            f"{100 * shown.alpha:.3g} %, {head.prompts} prompts in {head.documents} documents. Where a metric rewards "
            f"text of little variety, {right} at k is compared with {left} at the temperature at which its text is as "
            "varied (entropy of the judge's tokens)."
        )
    said = "".join(f"<p>{escape(text)}</p>" for text in filter(None, (*_METHOD, terms)))
    return f"{said}<p class=note>{_IN_FULL}</p>"


_METHOD = (
    "Point estimate: S_parity = min{k : f(k) ≥ Q}, f(k) the quality of the diffusion model at k steps, Q that of the "
    "autoregressive model; speedup = L_e2e(autoregressive) / L_e2e(diffusion at k), both from prompt ids on the device "
    "to final output ids.",
    "What is claimed is a test, whose margin was fixed before the run: every k from the largest downward must be shown "
    "to be no worse than the margin; S_parity (tested) is the smallest k down to which that holds. Prompts are paired, "
    "prompts of one document are a cluster. Gates on timing, lengths, relevance, repetition and shared text can forbid "
    "a claim.",
)

_IN_FULL = (
    "In full, in the repository https://github.com/llmbench/llmbench: docs/method.md (the test, its error rates, what "
    "it does not say), docs/metrics.md (every number)."
)


def _environment(records: Sequence[Record]) -> str:
    """Device, software and weights; values that differ between jobs are all named."""

    def every(values: Sequence[str]) -> str:
        return escape(" / ".join(dict.fromkeys(filter(None, values))) or "-")

    rows = {
        "device": every([f"{r.environment.device_name} ({r.environment.device})" for r in records]),
        "driver": every([r.environment.driver or "" for r in records]),
        "CPU threads": every([str(r.environment.threads) for r in records]),
        "platform": every([r.environment.platform for r in records]),
        "Python": every([r.environment.python for r in records]),
        "commit": every(
            [
                f"{r.environment.git_commit or 'unknown'}{' (changed)' if r.environment.git_dirty else ''}"
                for r in records
            ]
        ),
    }
    for name in ("engine", "dtype", "quantization", "batch", "canvas", "weights"):
        rows[name] = every([r.conditions.get(name, "") for r in records])
    for name in sorted({name for r in records for name in r.signatures}):
        rows[name.replace("_", " ")] = every([r.signatures.get(name, "") for r in records])
    for name in sorted({name for r in records for name in r.environment.versions}):
        rows[name] = every([r.environment.versions.get(name, "") for r in records])
    body = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows.items())
    head = "<thead><tr><th scope=col>what</th><th scope=col>value</th></tr></thead>"
    return f"<div class=scroll><table><caption>Environment</caption>{head}<tbody>{body}</tbody></table></div>"


def _runs(records: Sequence[Record], runs: Mapping[str, str]) -> str:
    """Every job with its run."""
    names = ("run", "job", "temperature", "seed", "status", "started (UTC)", "took", "identity")
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    rows = []
    for record in sorted_records(records):
        run = runs.get(record.identity, record.identity)
        cells = (
            record.label + ROLE_SUFFIX[record.role],
            record.conditions.get("decoding.temperature", "-"),
            record.conditions.get("seed", "-"),
            record.status + (f": {record.reason}" if record.reason else ""),
            record.started_at[:19].replace("T", " "),
            f"{record.duration_s:.0f} s",
            record.identity,
        )
        shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr id="{escape(anchor(run))}"><th scope=row><code>{escape(run)}</code></th>{shown}</tr>')
    return (
        "<div class=scroll><table class=sortable><caption>Jobs: run ids of MLflow, or names of folders where the sweep "
        f"was read from its folder</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
