"""The texts of both sides beside each other: the first prompt as HTML, all of them as JSON for the script."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmbench.analysis.formats import TITLES, number
from llmbench.analysis.implementations import row_labels
from llmbench.analysis.parity.grouping import Group, seed_of
from llmbench.metrics.quality import per_prompt, ratio
from llmbench.record import Record
from llmbench.report.html_parts import escape, run_list

SCORES = ("quality/perplexity", "quality/entropy", "quality/relevance", "quality/bertscore_f1", "quality/accuracy")
"""Shown of each text beside its tokens."""

MOST_SETTINGS = 24
"""`page.css` has rules for as many switches."""

Cell = list[str | None]
"""Text (None: there is none), tokens, then the value of each score ("": not measured)."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is shown of the outputs."""

    settings: tuple[Record, ...]
    names: tuple[str, ...]  # of the settings
    prompts: tuple[tuple[str, str], ...]  # id, prompt
    cells: tuple[tuple[Cell | None, ...], ...]  # for each prompt, of each setting; None: it has none
    count: int  # prompts of the sweep

    @property
    def note(self) -> str:
        """How many prompts are here."""
        if len(self.prompts) == self.count:
            return f"All {self.count} prompts."
        return f"The first {len(self.prompts)} of {self.count} prompts: more would make this page too large."


def texts_of(sides: Group, names: tuple[str, str], room: int) -> Texts | None:
    """The outputs of a group; None where it has no text.

    Args:
        sides: the baseline, its curve and the candidates.
        names: of both sides, for people.
        room: bytes that the prompts and texts may take.
    """
    base = sides.baseline.records if sides.baseline else ()
    curve = tuple(r for side in sides.curve for r in side.records if r.identity not in {own.identity for own in base})
    candidates = tuple(record for side in sides.candidates for record in side.records)
    settings = [r for r in (*base, *candidates, *curve) if any(output.text is not None for output in r.outputs)]
    settings = settings[:MOST_SETTINGS]
    if not settings:
        return None
    found = [_cells(record) for record in settings]
    prompts = [(output.prompt_id, output.prompt or "") for output in settings[0].outputs]
    kept: list[tuple[Cell | None, ...]] = []
    for prompt_id, prompt in prompts:
        row = tuple(cells.get(prompt_id) for cells in found)
        parts = [script_json([prompt, row]), _option(len(kept), prompt_id, prompt)]
        if not kept:  # it also stands in the cards
            parts.append(escape([prompt, row]))
        room -= sum(len(part.encode()) for part in parts)
        if room < 0:
            break
        kept.append(row)
    return Texts(
        settings=tuple(settings),
        names=_names(settings, names),
        prompts=tuple(prompts[: len(kept)]),
        cells=tuple(kept),
        count=len(prompts),
    )


def _names(settings: Sequence[Record], names: tuple[str, str]) -> tuple[str, ...]:
    """What tells the settings apart: implementation, k, temperature, and the seed where there are several."""
    seeds = len({seed_of(record) for record in settings} - {""}) > 1
    labels = row_labels(settings)

    def name(record: Record) -> str:
        own = record.side if record.steps is None else f"{record.side} k={record.steps}"
        called = names[record.family == "diffusion"]
        label = labels[id(record)].replace(own, called if record.steps is None else f"{called}, k = {record.steps}", 1)
        parts = [label, f"T = {record.conditions.get('decoding.temperature', '?')}"]
        return ", ".join([*parts, *([f"seed {seed_of(record)}"] if seeds else [])])

    return tuple(map(name, settings))


def _cells(record: Record) -> dict[str, Cell]:
    """By prompt: text and scores."""
    terms = [per_prompt(record, key) for key in SCORES]

    def score(key: str, place: int, prompt_id: str) -> str:
        pair = terms[place].get(prompt_id)
        value = None if pair is None else ratio(key, [pair])
        return "" if value is None else number(value)

    return {
        output.prompt_id: [
            output.text,
            str(output.tokens),
            *(score(k, i, output.prompt_id) for i, k in enumerate(SCORES)),
        ]
        for output in record.outputs
    }


def texts_html(texts: Texts, runs: Mapping[str, str]) -> str:
    """The first prompt with the texts of every setting; the script puts others into the same places."""
    shown = _first_shown(texts)
    titles = ("tokens", *(TITLES[key] for key in SCORES))
    options = "".join(_option(place, prompt_id, prompt) for place, (prompt_id, prompt) in enumerate(texts.prompts))
    switches = "".join(
        f'<label class="{_colour(record)}"><input type="checkbox" value="{place}"'
        f"{' checked' if place in shown else ''}>{escape(name)}</label>"
        for place, (record, name) in enumerate(zip(texts.settings, texts.names, strict=True))
    )
    cards = "".join(
        f'<article class="card s{place} {_colour(record)}"><h4>{escape(name)}</h4>'
        f"<p class=score>{escape(_scores(cell, titles))}</p>"
        f"<pre dir=auto>{escape(_text(cell))}</pre>"
        f"<p class=note>run {run_list([runs.get(record.identity, record.identity)])}</p></article>"
        for place, (record, name, cell) in enumerate(zip(texts.settings, texts.names, texts.cells[0], strict=True))
    )
    data = {"titles": titles, "prompts": [prompt for _, prompt in texts.prompts], "cells": texts.cells}
    return (
        f"<p class=note>{escape(texts.note)} Scores are of this text alone, as docs/metrics.md defines them.</p>"
        f"<div class=scripted hidden><label>Prompt <select id=prompt>{options}</select></label> "
        f"<button type=button id=previous>previous</button> <button type=button id=next>next</button></div>"
        f"<h4>Prompt</h4><pre id=asked dir=auto>{escape(texts.prompts[0][1])}</pre>"
        f'<div class=switch><div class=legend role=group aria-label="Texts shown">{switches}</div>'
        f"<div class=cards>{cards}</div></div>"
        f'<script type="application/json" id=texts>{script_json(data)}</script>'
    )


def _option(place: int, prompt_id: str, prompt: str) -> str:
    return f'<option value="{place}">{escape(f"{prompt_id}: {prompt[:60]}")}</option>'


def _first_shown(texts: Texts) -> set[int]:
    """The baseline as run, and the candidate at the smallest and the largest k."""
    families = [record.family for record in texts.settings]
    base = [place for place, family in enumerate(families) if family == "autoregressive"]
    own = [place for place, family in enumerate(families) if family == "diffusion"]
    return {*base[:1], *own[:1], *own[-1:]}


def _colour(record: Record) -> str:
    return "candidate" if record.family == "diffusion" else "baseline"


def _text(cell: Cell | None) -> str:
    return "(no text)" if cell is None or cell[0] is None else cell[0] or "(empty)"


def _scores(cell: Cell | None, titles: Sequence[str]) -> str:
    known = zip(titles, cell[1:] if cell else (), strict=False)
    return ", ".join(f"{title} {value}" for title, value in known if value)


def script_json(data: object) -> str:
    """JSON that may stand inside a script: nothing in it ends the script or begins a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
