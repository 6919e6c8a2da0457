"""How long will a job take, and how much memory does it need? For `dry_run=true`; loads no weights.

*Time* is what an earlier Record of the same identity took on the same device, if `multirun/` has one. Else it is a
bound from below, for generation alone: the least work of each forward, divided by what the device was just measured to
do at most; every output is taken to fill its canvas (a LLaMA that stops early needs less). Bandwidth enters only where
it binds (`Ceilings.judged`). Where the work depends on what is written, or a cache saves some of it, there is no bound
and the time is unknown.

*Memory* is the estimate of `llmbench.job.memory_estimate`, and whether so much is free now.

Of a server's time and memory nothing is known, unless an earlier Record tells its time.

`expected_s` makes of it the time that a whole job probably takes: a first estimate for a person who waits, which the
jobs that have run correct (`sweeps.progress`). It stands in no table.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from llmbench.config.decoders import DecoderConfig, Diffusion
from llmbench.config.options import Option
from llmbench.config.servers import ServerConfig
from llmbench.job import memory_estimate
from llmbench.record import Ceilings, ForwardShape, Record, total
from llmbench.sweeps.plan import generations

if TYPE_CHECKING:
    from llmbench.job.prepared import Prepared
    from llmbench.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What can be said about a job before it runs."""

    measured_s: float | None  # the whole job, from an earlier Record
    measured_on: str | None  # its date
    bound_s: float | None  # generation alone, from below; None where a time was measured, or nothing can be said
    weight_bytes: int | None = None  # None: on a server
    cache_bytes: int | None = None  # key-value cache; 0 for a model that caches nothing
    activation_bytes: int | None = None
    shortage: str | None = None  # why it would be refused now

    @property
    def memory_bytes(self) -> int | None:
        """Weights, cache and activations."""
        return total((self.weight_bytes, self.cache_bytes, self.activation_bytes))


def predict(prepared: "Prepared", earlier: Record | None) -> Forecast:
    """Predict a job.

    Args:
        prepared: the job.
        earlier: a finished Record of the same identity from the same device, if there is one.
    """
    from llmbench.measure import device

    measured_s, measured_on = (earlier.duration_s, earlier.started_at[:10]) if earlier else (None, None)
    if isinstance(prepared.job.model.decoder, ServerConfig):
        return Forecast(
            measured_s=measured_s, measured_on=measured_on, bound_s=None, shortage=memory_estimate.shortage(prepared)
        )
    hardware, needed = prepared.job.hardware, memory_estimate.need(prepared)
    bound = None
    if earlier is None and _foreseen(prepared.job.model.decoder):
        device.probe(hardware)  # the job's threads
        shapes = memory_estimate.shapes(prepared, hardware)
        bound = bound_seconds(prepared, shapes, device.ceilings(hardware, needed.weights))
    return Forecast(
        measured_s=measured_s,
        measured_on=measured_on,
        bound_s=bound,
        weight_bytes=needed.weights,
        cache_bytes=needed.cache,
        activation_bytes=needed.activations,
        shortage=memory_estimate.shortage(prepared),
    )


_SHARE = 0.25
"""Of the roofline that generation reaches: LLaMA 0.17 and LLaDA 0.25 to 0.32 on two busy cores, the bundled pair."""

_FIXED_S = 1.0
_BESIDE_S = {"timed": 0.2, "curve": 0.06, "retimed": 0.0}
"""Seconds of a job beside generation, for all prompts and for each, by role: loading, scoring, likelihood there."""


def expected_s(prepared: "Prepared", earlier: Record | None, ceilings: Ceilings | None) -> float | None:
    """Seconds that a job probably takes: what it took before, else from its bound; None where nothing is known.

    Args:
        prepared: the job.
        earlier: as for `predict`.
        ceilings: of the device; None: not known.
    """
    if earlier is not None:
        return earlier.duration_s
    decoder = prepared.job.model.decoder
    if ceilings is None or isinstance(decoder, ServerConfig) or not _foreseen(decoder):
        return None
    shapes = memory_estimate.shapes(prepared, prepared.job.hardware)
    beside = _FIXED_S + _BESIDE_S[prepared.job.role] * len(prepared.workload.prompts)
    return bound_seconds(prepared, shapes, ceilings) / _SHARE + beside


def bound_seconds(prepared: "Prepared", shapes: "Architecture", ceilings: Ceilings) -> float:
    """Least seconds of all generations that the plan asks for on every device, if each fills its canvas."""
    from llmbench.models.architecture import bytes_moved, flops

    total = 0.0
    for members, times in zip(prepared.partition, generations(prepared), strict=True):
        for shape in _forwards(prepared, members):
            seconds = flops(shapes, shape) / ceilings.flops_per_s
            if ceilings.judged:
                seconds = max(seconds, bytes_moved(shapes, shape) / ceilings.bytes_per_s)
            total += times * seconds
    return total


def _foreseen(decoder: DecoderConfig) -> bool:
    """Whether every forward is known beforehand: the whole sequence in each of `steps`, or one token after another."""
    shortcuts = (item for item in fields(decoder) if item.metadata.get("option", Option()).skips_work)
    return all(getattr(decoder, item.name) == item.default for item in shortcuts)


def _forwards(prepared: "Prepared", members: tuple[int, ...]) -> Iterator[ForwardShape]:
    """The forwards of one generated batch, the head at one position of each row only: a decoder may need no more."""
    decoder, rows = prepared.job.model.decoder, len(members)
    prompt = max(len(prepared.prompt_ids(i)) for i in members)
    if isinstance(decoder, Diffusion) and prepared.checkpoint.mode("diffusion").in_blocks:
        yield ForwardShape(rows=rows, queries=prompt, keys=prompt, logits=0, causal=True)
        for end in range(prompt + decoder.block, prompt + decoder.canvas + 1, decoder.block):
            step = ForwardShape(rows=rows, queries=decoder.block, keys=end, logits=1, causal=False)
            yield from [step] * (min(decoder.steps_of_a_block, decoder.block) + (end < prompt + decoder.canvas))
        return
    if isinstance(decoder, Diffusion):
        rows *= 2 if decoder.cfg_scale else 1
        length = prompt + decoder.canvas
        yield from [ForwardShape(rows=rows, queries=length, keys=length, logits=1)] * decoder.steps
        return
    yield ForwardShape(rows=rows, queries=prompt, keys=prompt, logits=1)
    for made in range(1, decoder.canvas):
        yield ForwardShape(rows=rows, queries=1, keys=prompt + made, logits=1)
