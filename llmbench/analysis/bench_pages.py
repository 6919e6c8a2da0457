"""The measured pages of the engine's benchmarks (`docs/results/*.json`) as rows whose forwards are known.

Three kinds of page are read: steps and whole generations, LLaMA beside vLLM, and what drafts cost. Of each only our
own decoders' times are rows, because efficiencies belong to an implementation; whole generations of LLaMA by any
implementation are kept as baselines. Pages whose workload is not that of most are left out. Not read are drafted steps:
the forwards of the drafting model are on no page. Samples are medians. Whatever is no such page is left alone.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llmbench.analysis import prediction
from llmbench.analysis.prediction import Cache, Timed
from llmbench.config.decoders import Diffusion
from llmbench.errors import RecordError
from llmbench.models.architecture import Architecture, from_config
from llmbench.record import Ceilings, ForwardShape

LLAMA, LLADA = "llama-3-8b", "llada-8b"
OURS, VLLM = "llmbench", "vLLM"

_DRAFTS = "python -m benchmarks.draft_costs"
"""What wrote a page of drafts."""

_WORKLOAD = ("prompt", "canvas", "block", "steps", "dtype")
"""What must agree; a page of drafts has no block and no k."""

_WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A whole generation of LLaMA, from the prompts to the last token."""

    device: str
    batch: int
    implementation: str
    ms: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What some pages hold, all of one workload."""

    prompt: int
    canvas: int
    block: int
    steps: int  # k of the diffusion rows
    bytes_per_element: int
    rows: tuple[Timed, ...]
    baselines: tuple[Baseline, ...]
    ceilings: dict[str, Ceilings]  # by device: of the first page that has them
    notes: tuple[str, ...]  # what is left out, and why


def shape_of(name: str, bytes_per_element: int) -> Architecture:
    """The architecture of a bundled shape."""
    path = Path(__file__).parents[1] / "bundled" / "shapes" / name / "config.json"
    return from_config(SimpleNamespace(**json.loads(path.read_text())), bytes_per_element)


def read_pages(place: Path) -> Pages:
    """Read the pages of a folder, or one page.

    Raises:
        RecordError: there is none, or one is a trial with small shapes.
    """
    paths = sorted(place.glob("*.json"), key=lambda path: path.stem) if place.is_dir() else [place]
    found = {path.stem: page for path in paths if (page := _page(path)) is not None}
    if not any("settings" in page for page in found.values()):
        raise RecordError(f"{place}: no measured page with ceilings; `make bench` writes one into docs/results")
    if trials := [name for name, page in found.items() if page.get("smoke")]:
        raise RecordError(f"{trials[0]} is a trial with small shapes; name pages that were measured in full")
    known = [page["settings"] for page in found.values() if "settings" in page]
    whole = max(known, key=lambda one: sum(all(other[key] == one[key] for key in _WORKLOAD) for other in known))
    lengths, width = (whole["prompt"], whole["canvas"]), _WIDTHS[whole["dtype"]]
    reader = _Reader(*lengths, whole["block"], whole["steps"], width)
    rows: list[Timed] = []
    baselines: list[Baseline] = []
    notes: list[str] = []
    for name, page in found.items():
        told = page.get("settings", page)
        ceilings = _ceilings_for(page, found.values())
        if any(told.get(key, whole[key]) != whole[key] for key in _WORKLOAD):
            notes.append(f"{name} is left out: its {', '.join(_WORKLOAD)} are not those of most pages.")
        elif ceilings is None:
            notes.append(f"{name} is left out: no page has ceilings of its device.")
        else:
            rows += reader.rows(name, page, ceilings)
            baselines += _baselines(name, page)
    limits = {_device(page): page["ceilings"] for page in reversed(found.values()) if "ceilings" in page}
    return Pages(
        prompt=lengths[0], canvas=lengths[1], block=whole["block"], steps=whole["steps"], bytes_per_element=width,
        rows=tuple(rows), baselines=tuple(baselines), notes=tuple(notes),
        ceilings={device: Ceilings(**values) for device, values in limits.items()},
    )  # fmt: skip


def _page(path: Path) -> dict[str, Any] | None:
    """One page; None where the file is something else.

    Raises:
        RecordError: it cannot be read.
    """
    try:
        page = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise RecordError(f"{path} cannot be read: {problem}") from problem
    if not (isinstance(page, dict) and {"command", "rows", "environment"} <= page.keys()):
        return None
    drafts = page["command"].startswith(_DRAFTS)
    return page if drafts or {"settings", "ceilings"} <= page.keys() else None


def _device(page: dict[str, Any]) -> str:
    return str(page["environment"]["device_name"])


def _ceilings_for(page: dict[str, Any], every: Iterable[dict[str, Any]]) -> Ceilings | None:
    """A page's own ceilings; else those of a page of the same card; else of the same kind of card."""
    uuid = page["environment"].get("device_uuid")
    have = [other for other in every if "ceilings" in other]
    same = [other for other in have if uuid is not None and other["environment"].get("device_uuid") == uuid]
    kind = [other for other in have if _device(other) == _device(page)]
    first = next(iter([page] if "ceilings" in page else [*same, *kind]), None)
    return Ceilings(**first["ceilings"]) if first else None


def _baselines(name: str, page: dict[str, Any]) -> Iterator[Baseline]:
    if isinstance(page["rows"], dict):
        return
    for row in page["rows"]:
        if row["name"].startswith(("ar-whole-", "vllm-")):
            for implementation in (OURS, VLLM):
                if samples := row["samples"].get(implementation):
                    yield Baseline(
                        device=_device(page), batch=_batch(row["name"]), implementation=implementation,
                        ms=statistics.median(samples), source=name,
                    )  # fmt: skip


def _batch(name: str) -> int:
    return int(name.rpartition("-")[2])


class _Reader:
    """Rows of pages of one workload."""

    def __init__(self, prompt: int, canvas: int, block: int, steps: int, width: int) -> None:
        self._prompt, self._canvas = prompt, canvas
        self._settings = {
            cache: Diffusion(steps=steps, canvas=canvas, block_length=block, cache=cache) for cache in ("none", "dual")
        }
        self._llama, self._llada = shape_of(LLAMA, width), shape_of(LLADA, width)

    def rows(self, source: str, page: dict[str, Any], ceilings: Ceilings) -> list[Timed]:
        """All rows of a page."""
        self._source, self._device, self._ceilings = source, _device(page), ceilings
        if isinstance(page["rows"], dict):
            return [
                row
                for batch, samples in page["rows"].items()
                for name, values in samples.items()
                if (row := self._verification(name, int(batch), values)) is not None
            ]
        return [row for each in page["rows"] for row in self._measured(each)]

    def _measured(self, row: dict[str, Any]) -> Iterator[Timed]:
        name, samples, ours = row["name"], row["samples"], row["samples"].get(OURS)
        if not ours or not name.rpartition("-")[2].isdecimal():
            return
        batch = _batch(name)
        where = batch, self._prompt
        first, later = prediction.prefill(*where), list(prediction.later_tokens(*where, self._canvas))
        full = prediction.full_steps(*where, self._settings["none"])
        inner = prediction.inner_steps(*where, self._settings["dual"])
        match name.rpartition("-")[0]:
            case "ar":
                yield self._llama_row(name, "token", batch, later, ours, len(later))
            case "ar-whole" | "vllm":
                yield self._llama_row(name, "generation", batch, [first, *later], ours)
                one = row["prefill_ms"] or samples.get(f"{OURS}, one token")
                if one:
                    yield self._llama_row(f"{name}, first token", "prefill", batch, [first], one)
            case "full":
                yield self._llada_row(name, "full step", "none", batch, full, ours, len(full))
            case "dual":
                yield self._llada_row(name, "inner step", "dual", batch, inner, ours, len(inner))
            case "full-whole" | "dual-whole" as which:
                cache: Cache = "none" if which == "full-whole" else "dual"
                made = prediction.generation(*where, self._settings[cache])
                yield self._llada_row(name, "generation", cache, batch, made, ours)

    def _verification(self, name: str, batch: int, samples: Sequence[float]) -> Timed | None:
        """A forward over `w` tokens per row in the middle of the canvas; a plain token is w = 1."""
        kind, _, number = name.partition(" ")
        if kind not in ("plain", "verify"):
            return None
        width = int(number or 1)
        shape = ForwardShape(
            rows=batch, queries=width, keys=self._prompt + self._canvas // 2 + width, logits=width, causal=True
        )
        label = f"{name}, B={batch}"
        return self._llama_row(label, "token" if width == 1 else "verification", batch, [shape], samples)

    def _llama_row(
        self, name: str, kind: str, batch: int, shapes: Sequence[ForwardShape], samples: Sequence[float], times: int = 1
    ) -> Timed:
        """`samples` are of all the forwards together, or with `times` the mean of so many."""
        return Timed(
            name=name, source=self._source, device=self._device, family="autoregressive", kind=kind, batch=batch,
            ms=statistics.median(samples) * times, costs=prediction.costs(self._llama, shapes),
            ceilings=self._ceilings,
        )  # fmt: skip

    def _llada_row(
        self,
        name: str,
        kind: str,
        cache: Cache,
        batch: int,
        shapes: Sequence[ForwardShape],
        samples: Sequence[float],
        times: int = 1,
    ) -> Timed:
        """As above."""
        return Timed(
            name=name, source=self._source, device=self._device, family="diffusion", kind=kind, batch=batch,
            ms=statistics.median(samples) * times, costs=prediction.costs(self._llada, shapes),
            ceilings=self._ceilings, cache=cache,
        )  # fmt: skip
