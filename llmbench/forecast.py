"""How long will a job take, and how much memory does it need? For `dry_run=true`; loads no weights.

*Time* is what an earlier Record of the same identity took on the same device, if `multirun/` has one. Else it is a
bound from below, for generation alone: the least work of each forward, divided by what the device was just measured to
do at most; every output is taken to fill its canvas (a LLaMA that stops early needs less). Bandwidth enters only where
it binds (`Ceilings.judged`). Where the work depends on what is written, or a cache saves some of it, there is no bound
and the time is unknown. The caller shows which of the three it is.

*Memory* is an estimate from shapes: weights, the key-value cache of the largest batch at its full length, and what the
largest forward holds at once. It is not M_peak: allocators round up, kernels keep workspaces, and on a CPU the
interpreter and its libraries come on top.

Of a server's time and memory nothing is known, unless an earlier Record tells its time.

Called by `llmbench.sweep`; the text is made by `llmbench.report.console`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmbench import config
from llmbench.record import Ceilings, ForwardShape, Record, total

if TYPE_CHECKING:
    from llmbench.job import Prepared
    from llmbench.models.architecture import Architecture

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What can be said about a job before it runs."""

    measured_s: float | None  # the whole job, from an earlier Record
    measured_on: str | None  # its date
    bound_s: float | None  # generation alone, from below; None where a time was measured, or nothing can be said
    weight_bytes: int | None = None  # None: on a server
    cache_bytes: int | None = None  # key-value cache; 0 for a model that caches nothing
    activation_bytes: int | None = None

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
    from llmbench.models import architecture

    measured_s, measured_on = (earlier.duration_s, earlier.started_at[:10]) if earlier else (None, None)
    if isinstance(prepared.job.model.decoder, config.Endpoint):
        return Forecast(measured_s=measured_s, measured_on=measured_on, bound_s=None)
    hardware = prepared.job.hardware
    shapes = architecture.from_config(prepared.checkpoint.config, _BYTES[hardware.dtype])
    weights = shapes.parameters * shapes.bytes_per_element
    bound = None
    if earlier is None and _foreseen(prepared.job.model.decoder):
        device.probe(hardware)  # the job's threads
        bound = bound_seconds(prepared, shapes, device.ceilings(hardware, weights))
    return Forecast(
        measured_s=measured_s,
        measured_on=measured_on,
        bound_s=bound,
        weight_bytes=weights,
        cache_bytes=_cached(prepared, shapes) * prepared.job.batch * _longest(prepared),
        activation_bytes=activation_bytes(prepared, shapes),
    )


def bound_seconds(prepared: "Prepared", shapes: "Architecture", ceilings: Ceilings) -> float:
    """Least seconds of all generations that the plan asks for on every device, if each fills its canvas."""
    from llmbench.models.architecture import bytes_moved, flops

    plan, total = prepared.job.timing, 0.0
    for batch, members in enumerate(prepared.partition):
        times = 1
        if batch < plan.batches:
            times += plan.warmup + plan.repeats - 1 + plan.marked_repeats
        for shape in _forwards(prepared, members):
            seconds = flops(shapes, shape) / ceilings.flops_per_s
            if ceilings.judged:
                seconds = max(seconds, bytes_moved(shapes, shape) / ceilings.bytes_per_s)
            total += times * seconds
    return total


def activation_bytes(prepared: "Prepared", shapes: "Architecture") -> int:
    """What the largest forward holds at once: one block's intermediate values, or the logits that are asked for."""
    decoder, rows = prepared.job.model.decoder, prepared.job.batch
    if isinstance(decoder, config.Diffusion):
        rows *= 2 if decoder.cfg_scale else 1
        queries, logits = _longest(prepared), decoder.block_length
    else:
        queries, logits = prepared.longest_prompt, 1
    attention = 2 * shapes.hidden + 2 * (shapes.heads + shapes.kv_heads) * shapes.head_dim  # residual, norm; q, k, v, o
    feed_forward = 2 * shapes.hidden + 3 * shapes.ffn  # residual, norm; gate, up and their product
    block = rows * queries * max(attention, feed_forward)
    head = rows * (queries * shapes.hidden + logits * shapes.vocab)
    return max(block, head) * shapes.bytes_per_element


def _foreseen(decoder: config.DecoderConfig) -> bool:
    """Whether every forward is known beforehand: the whole sequence in each of `steps`, or one token after another."""
    if not isinstance(decoder, config.Diffusion):
        return True
    shortcuts = (decoder.cache != "none", decoder.adaptive, decoder.forced_tokens_per_forward, decoder.early_stop)
    return not any(shortcuts)


def _cached(prepared: "Prepared", shapes: "Architecture") -> int:
    """Bytes that one position of a row takes in the key-value cache; 0 where nothing is cached."""
    decoder = prepared.job.model.decoder
    cached = not isinstance(decoder, config.Diffusion) or decoder.cache != "none"
    return shapes.kv_bytes_per_position if cached else 0


def _longest(prepared: "Prepared") -> int:
    """Tokens of the longest prompt and its canvas."""
    return prepared.longest_prompt + prepared.job.model.decoder.canvas


def _forwards(prepared: "Prepared", members: tuple[int, ...]) -> Iterator[ForwardShape]:
    """The forwards of one generated batch, the head at one position of each row only: a decoder may need no more."""
    decoder, rows = prepared.job.model.decoder, len(members)
    prompt = max(len(prepared.prompt_ids(i)) for i in members)
    if isinstance(decoder, config.Diffusion):
        rows *= 2 if decoder.cfg_scale else 1
        length = prompt + decoder.canvas
        yield from [ForwardShape(rows=rows, queries=length, keys=length, logits=1)] * decoder.steps
        return
    yield ForwardShape(rows=rows, queries=prompt, keys=prompt, logits=1)
    for made in range(1, decoder.max_new_tokens):
        yield ForwardShape(rows=rows, queries=1, keys=prompt + made, logits=1)
