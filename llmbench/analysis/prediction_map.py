"""Over batch and k: how many times as fast is diffusion as the fastest measured baseline? Pure.

speedup(B, k) = L_e2e of LLaMA at B / predicted L_e2e of LLaDA at B and k. The baseline is the fastest whole generation
that was measured at that batch on that device with these lengths, by any implementation; where none was, it is
predicted too.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.analysis import prediction
from llmbench.analysis.bench_pages import LLADA, LLAMA, Baseline, Pages, shape_of
from llmbench.analysis.prediction import Cache, Model
from llmbench.config.decoders import Diffusion
from llmbench.errors import UsageError
from llmbench.record import Ceilings

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CACHES: tuple[Cache, ...] = ("none", "dual")


@dataclass(frozen=True, kw_only=True)
class Place:
    """For what a map is made."""

    device: str  # as it is called
    ceilings: Ceilings
    measured_lengths: bool  # whether these lengths are those of the pages
    prompt: int
    canvas: int
    block: int
    batches: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """The predictions at one batch size."""

    batch: int
    cache: Cache
    baseline_ms: float
    implementation: str | None  # whose measured time the baseline is; None: it is predicted
    extrapolated: bool  # whether no smaller or no larger batch was measured of either side
    diffusion_ms: dict[int, float]  # by k
    speedups: dict[int, float]  # by k

    @property
    def most_steps(self) -> int | None:
        """The largest k of the map at which diffusion is faster; None where it is at none."""
        return max((k for k, speedup in self.speedups.items() if speedup > 1), default=None)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A speedup of two measured times."""

    batch: int
    steps: int
    cache: Cache
    speedup: float
    predicted: float  # diffusion's predicted time in place of the measured one
    whole: bool  # False: diffusion's time is the sum of its measured steps


def place_of(
    pages: Pages,
    device: str,
    *,
    ceilings: Ceilings | None = None,
    prompt: int | None = None,
    canvas: int | None = None,
    block: int | None = None,
    batches: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Place:
    """For what a map is made; what is not given is as on the pages.

    Args:
        pages: what was measured.
        device: whose ceilings count, and whose measured times are compared.
        ceilings: of a device that was not measured.
        prompt: P.
        canvas: G.
        block: of diffusion.
        batches: B; None: 1 to 256, by doubling.
        steps: k; None: from one step a block to one step a token, by doubling.

    Raises:
        UsageError: no page is of the device, or a k, a block and the canvas do not fit.
    """
    if ceilings is None and device not in pages.ceilings:
        raise UsageError(f"--device: no page is of {device}; there are {', '.join(pages.ceilings)}")
    told = (prompt or pages.prompt, canvas or pages.canvas, block or pages.block)
    blocks = max(1, told[1] // told[2])
    doubled = [blocks * 2**i for i in range(told[2].bit_length()) if 2**i <= told[2]]
    for k in steps or doubled:
        _settings(k, told[1], told[2], "none")
    return Place(
        device=device if ceilings is None else "a device with these ceilings",
        ceilings=ceilings or pages.ceilings[device],
        measured_lengths=told == (pages.prompt, pages.canvas, pages.block),
        prompt=told[0], canvas=told[1], block=told[2], batches=tuple(batches or BATCHES), steps=tuple(steps or doubled),
    )  # fmt: skip


def _settings(steps: int, canvas: int, block: int, cache: Cache) -> Diffusion:
    try:
        return Diffusion(steps=steps, canvas=canvas, block_length=block, cache=cache)
    except ValueError as problem:
        raise UsageError(f"k = {steps}, canvas {canvas}, block {block}: {problem}") from problem


def lines(model: Model, pages: Pages, place: Place) -> list[Line]:
    """The map, batch by batch, without and with a dual cache."""
    llama, llada = (shape_of(name, pages.bytes_per_element) for name in (LLAMA, LLADA))
    found = []
    for cache in CACHES:
        known = {row.batch for row in _steps(pages, place, cache)} if place.measured_lengths else set()
        compared = {item.batch for item in _baselines(pages, place)}
        for batch in place.batches:
            baseline = _fastest(pages, place, batch)
            if baseline is None:
                shapes = [
                    prediction.prefill(batch, place.prompt),
                    *prediction.later_tokens(batch, place.prompt, place.canvas),
                ]
                baseline_ms = model.ms(prediction.costs(llama, shapes), place.ceilings)
            else:
                baseline_ms = baseline.ms
            times = {}
            for k in place.steps:
                shapes = prediction.generation(batch, place.prompt, _settings(k, place.canvas, place.block, cache))
                times[k] = model.ms(prediction.costs(llada, shapes), place.ceilings)
            found.append(
                Line(
                    batch=batch, cache=cache, baseline_ms=baseline_ms, diffusion_ms=times,
                    implementation=baseline.implementation if baseline else None,
                    extrapolated=not (_within(batch, known) and _within(batch, compared)),
                    speedups={k: baseline_ms / ms for k, ms in times.items()},
                )
            )  # fmt: skip
    return found


def points(model: Model, pages: Pages, place: Place) -> list[Point]:
    """Where both sides were measured, at the pages' own k: whole generations, else the sums of measured steps."""
    found = []
    for cache in CACHES if place.measured_lengths else ():
        for batch in sorted({row.batch for row in _steps(pages, place, cache)}):
            baseline, settings = _fastest(pages, place, batch), _settings(pages.steps, place.canvas, place.block, cache)
            whole = [row.ms for row in _rows(pages, place, "generation", cache) if row.batch == batch]
            ms = statistics.median(whole) if whole else _summed(pages, place, batch, settings)
            if baseline is None or ms is None:
                continue
            shapes = prediction.generation(batch, place.prompt, settings)
            llada = shape_of(LLADA, pages.bytes_per_element)
            predicted = model.ms(prediction.costs(llada, shapes), place.ceilings)
            found.append(
                Point(
                    batch=batch, steps=pages.steps, cache=cache, speedup=baseline.ms / ms,
                    predicted=baseline.ms / predicted, whole=bool(whole),
                )
            )  # fmt: skip
    return found


@dataclass(frozen=True, kw_only=True)
class SpeedMap:
    """A map, and what was measured of it."""

    place: Place
    measured_steps: int  # k of LLaDA's measured rows
    lines: tuple[Line, ...]
    points: tuple[Point, ...]


def speed_map(model: Model, pages: Pages, device: str, **wanted: Any) -> SpeedMap:
    """The map of a device; `wanted` as in `place_of`, which says what is refused."""
    place = place_of(pages, device, **wanted)
    return SpeedMap(
        place=place,
        measured_steps=pages.steps,
        lines=tuple(lines(model, pages, place)),
        points=tuple(points(model, pages, place)),
    )


def _summed(pages: Pages, place: Place, batch: int, settings: Diffusion) -> float | None:
    """Milliseconds of a generation from those of its measured steps; None where one was not measured."""
    full = [row.ms / row.forwards for row in _rows(pages, place, "full step", "none") if row.batch == batch]
    inner = [row.ms / row.forwards for row in _rows(pages, place, "inner step", "dual") if row.batch == batch]
    blocks = settings.canvas // settings.block
    if not full or (settings.cache == "dual" and not inner):
        return None
    if settings.cache == "none":
        return settings.steps * statistics.median(full)
    return blocks * statistics.median(full) + (settings.steps - blocks) * statistics.median(inner)


def _rows(pages: Pages, place: Place, kind: str, cache: Cache) -> list[prediction.Timed]:
    return [
        row
        for row in pages.rows
        if (row.device, row.family, row.kind, row.cache) == (place.device, "diffusion", kind, cache)
    ]


def _steps(pages: Pages, place: Place, cache: Cache) -> list[prediction.Timed]:
    return _rows(pages, place, "full step" if cache == "none" else "inner step", cache)


def _baselines(pages: Pages, place: Place) -> list[Baseline]:
    return [item for item in pages.baselines if place.measured_lengths and item.device == place.device]


def _fastest(pages: Pages, place: Place, batch: int) -> Baseline | None:
    own = [item for item in _baselines(pages, place) if item.batch == batch]
    return min(own, key=lambda item: item.ms, default=None)


def _within(batch: int, measured: Iterable[int]) -> bool:
    known = list(measured)
    return bool(known) and min(known) <= batch <= max(known)
