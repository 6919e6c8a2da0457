"""How long does a forward take on a device, and where is diffusion faster? A model with four fitted numbers.

A forward of F floating-point operations and Q bytes (the least of both, `llmbench.models.architecture`) takes

    t = ((F / (e_F R))^p + (Q / (e_Q W))^p)^(1/p) + c

on a device whose measured ceilings are R operations and W bytes per second. e_F and e_Q are the shares of the ceilings
that are reached, c is a constant per forward, and p says how far computing and reading overlap: 1 is one after the
other, a large p is the roofline's maximum (Williams, Waterman and Patterson, CACM 2009). A generation is the sum over
its forwards. The four are fitted by least squares on log(predicted / measured); no row that the model is judged on
takes part.

The relative error of a row is |predicted / measured - 1|.

Pure: numpy and scipy, no torch.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from llmbench.config.decoders import Diffusion
from llmbench.errors import RecordError
from llmbench.models.architecture import bytes_moved, flops
from llmbench.record import Ceilings, Family, ForwardCost, ForwardShape, Record, from_server, timed

if TYPE_CHECKING:
    from llmbench.models.architecture import Architecture

Cache = Literal["none", "dual"]

_PARAMETERS = 4
_MOST_OVERLAP = 64.0
"""A larger exponent cannot be told from the maximum: at 64, two equal times add 1 %."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A measured time and the forwards that it covers."""

    name: str  # for people
    source: str  # the page or job that it stands in
    device: str  # its name
    family: Family
    kind: str  # what was timed: "token", "prefill", "full step", "inner step", "generation", "verification"
    batch: int
    ms: float  # of all forwards together
    costs: tuple[ForwardCost, ...] = field(repr=False)
    ceilings: Ceilings = field(repr=False)
    cache: Cache | None = None  # of a diffusion row

    @property
    def forwards(self) -> int:
        """How many forwards the time covers."""
        return sum(cost.count for cost in self.costs)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The fitted numbers; see the module docstring."""

    flops_efficiency: float
    bytes_efficiency: float
    forward_ms: float
    overlap: float

    def ms(self, costs: Sequence[ForwardCost], ceilings: Ceilings) -> float:
        """Predicted milliseconds of forwards."""
        return self._sum(_arrays(costs, ceilings))

    def _sum(self, work: np.ndarray) -> float:
        """Of rows (count, milliseconds at the peak rate, milliseconds at the bandwidth)."""
        count, compute, move = work.T
        compute, move = compute / self.flops_efficiency, move / self.bytes_efficiency
        longer = np.maximum(compute, move)
        shorter = np.minimum(compute, move) / np.where(longer > 0, longer, 1.0)
        both = longer * (1 + shorter**self.overlap) ** (1 / self.overlap)
        return float(np.sum(count * (both + self.forward_ms)))


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Relative errors of some rows."""

    median: float
    largest: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A fit and the rows that it is judged on."""

    device: str  # whose rows are fitted
    batches: tuple[int, ...]  # of the fitted rows
    model: Model
    fitted: tuple[Timed, ...]
    held_out: tuple[Timed, ...]


def predict(rows: Sequence[Timed], batches: Sequence[int], device: str | None = None) -> Prediction:
    """Fit the rows of some batch sizes of one device; all other rows are held out.

    Args:
        rows: all that were measured.
        batches: of the rows to fit.
        device: whose rows are fitted; None: the one that was measured at the most batch sizes.

    Raises:
        RecordError: too few rows are left to fit.
    """
    sizes: dict[str, set[int]] = {}
    for row in rows:
        sizes.setdefault(row.device, set()).add(row.batch)
    if not sizes:
        raise RecordError("there is no measured time with ceilings and the work of its forwards")
    device = device or max(sizes, key=lambda name: len(sizes[name]))
    if device not in sizes:
        raise RecordError(f"no row was measured on {device}; there are {', '.join(sizes)}")
    fitted = tuple(row for row in rows if row.device == device and row.batch in batches)
    held_out = tuple(row for row in rows if row.device != device or row.batch not in batches)
    return Prediction(device=device, batches=tuple(batches), model=fit(fitted), fitted=fitted, held_out=held_out)


def _arrays(costs: Sequence[ForwardCost], ceilings: Ceilings) -> np.ndarray:
    return np.array(
        [(c.count, 1e3 * c.flops / ceilings.flops_per_s, 1e3 * c.bytes / ceilings.bytes_per_s) for c in costs]
    )


def fit(rows: Sequence[Timed]) -> Model:
    """The numbers that fit these rows best, every row with the same weight.

    Raises:
        RecordError: there are fewer rows than five, too few for four numbers.
    """
    from scipy.optimize import least_squares

    if len(rows) <= _PARAMETERS:
        raise RecordError(
            f"{len(rows)} measured rows are too few to fit {_PARAMETERS} numbers; name other batches with "
            "--fit-batches, or measure more of them"
        )
    work = [_arrays(row.costs, row.ceilings) for row in rows]
    measured = np.log([row.ms for row in rows])
    least = min(row.ms / row.forwards for row in rows)

    def model(values: np.ndarray) -> Model:
        compute, move, constant, overlap = map(float, values)
        return Model(flops_efficiency=compute, bytes_efficiency=move, forward_ms=constant * least, overlap=overlap)

    def residuals(values: np.ndarray) -> np.ndarray:
        found = model(values)
        return np.log([found._sum(each) for each in work]) - measured

    bounds = ([1e-3, 1e-3, 0.0, 1.0], [10.0, 10.0, 1.0, _MOST_OVERLAP])
    starts = [(0.8, 0.8, 0.1, 2.0), (0.3, 0.3, 0.5, 4.0)]
    found = [least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12) for start in starts]
    return model(min(found, key=lambda one: one.cost).x)


def error(model: Model, row: Timed) -> float:
    """|predicted / measured - 1|."""
    return abs(model.ms(row.costs, row.ceilings) / row.ms - 1)


def errors(model: Model, rows: Sequence[Timed]) -> Errors | None:
    """Median and largest relative error; None for no rows."""
    found = [error(model, row) for row in rows]
    return Errors(median=statistics.median(found), largest=max(found), rows=len(found)) if found else None


# ----------------------------------------------------------------------------------------------------------------
# Forwards


def costs(architecture: "Architecture", shapes: Iterable[ForwardShape]) -> tuple[ForwardCost, ...]:
    """The least work of forwards."""
    return tuple(
        ForwardCost(shape=shape, count=1, flops=flops(architecture, shape), bytes=bytes_moved(architecture, shape))
        for shape in shapes
    )


def prefill(rows: int, prompt: int) -> ForwardShape:
    """The forward that reads the prompts and gives the first token."""
    return ForwardShape(rows=rows, queries=prompt, keys=prompt, logits=1)


def later_tokens(rows: int, prompt: int, canvas: int) -> Iterator[ForwardShape]:
    """The forwards of tokens 2 to `canvas`."""
    for made in range(1, canvas):
        yield ForwardShape(rows=rows, queries=1, keys=prompt + made, logits=1)


def full_steps(rows: int, prompt: int, settings: Diffusion) -> list[ForwardShape]:
    """The steps of one block that each read the whole sequence; the head at the positions that are still masked."""
    masked, shapes = settings.block, []
    length = prompt + settings.canvas
    for count in settings.schedule:
        shapes.append(ForwardShape(rows=rows, queries=length, keys=length, logits=masked))
        masked -= count
    return shapes


def inner_steps(rows: int, prompt: int, settings: Diffusion) -> list[ForwardShape]:
    """The steps behind the first one of a block that read this block alone, the rest from a dual cache."""
    return [
        ForwardShape(rows=rows, queries=settings.block, keys=step.keys, logits=step.logits)
        for step in full_steps(rows, prompt, settings)[1:]
    ]


def generation(rows: int, prompt: int, settings: Diffusion) -> list[ForwardShape]:
    """All steps of a generation without guidance or a rule that looks at the text, with no or a dual cache."""
    block = full_steps(rows, prompt, settings)
    if settings.cache == "dual":
        block = [*block[:1], *inner_steps(rows, prompt, settings)]
    return block * (settings.canvas // settings.block)


# ----------------------------------------------------------------------------------------------------------------
# Records


def timed_records(records: Sequence[Record]) -> list[Timed]:
    """The generations of Records that hold ceilings and the work of their forwards, by our own decoders.

    The time is the median over the repeats of the first repeated batch. Servers and Transformers' loops are left out:
    efficiencies belong to an implementation. So are drafts of another model, whose own forwards no Record holds.

    Raises:
        RecordError: they ran on several engines.
    """
    found, engines = [], set()
    for record in timed(records):
        if record.status != "finished" or record.ceilings is None or not record.forward_costs or from_server(record):
            continue
        decoder = record.config.get("model", {}).get("decoder", {})
        if decoder.get("kind") == "transformers" or record.draft in ("model", "llada"):
            continue
        batch = record.repeated_batches[0] if record.repeated_batches else 0
        times = [timing.e2e_ms for timing in record.timings if timing.batch == batch]
        if times and batch < len(record.partition):
            engines.add(record.conditions.get("engine", "eager"))
            found.append(
                Timed(
                    name=record.label, source=record.identity, device=record.environment.device_name,
                    family=record.family, kind="generation", batch=len(record.partition[batch]),
                    ms=statistics.median(times), costs=record.forward_costs, ceilings=record.ceilings,
                )
            )  # fmt: skip
    if len(engines) > 1:
        raise RecordError(
            f"times of the engines {' and '.join(sorted(engines))} are not fitted together; name one sweep"
        )
    return found
