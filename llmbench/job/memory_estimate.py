"""How much memory does a job need, is there so much, and what would fit? Before any weight is read.

An estimate from shapes: weights, the key-value cache of the largest batch at its full length, and what the largest
forward holds at once. It is not M_peak: allocators round up, kernels keep workspaces, the fused engine copies one
block's largest matrix when it joins it, and on a CPU the interpreter and its libraries come on top. So it errs on the
small side, and a device that has less is refused without doubt; one that has a little more may still run out.

Judges and the encoder are loaded after generation, when the model under test can go, so they count by themselves:
their weights, in float32.

A job is refused unless the run is dry, which shows the estimate. lm-eval's prompts come late, so its jobs ask twice
(`require_model`): for the weights before it loads them, for all before it generates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.load import elements, kept_bytes
from llmbench.config.decoders import Autoregressive, DecoderConfig, Diffusion
from llmbench.config.job import HardwareConfig, Job, Quantization
from llmbench.config.modes import Mode
from llmbench.config.servers import ServerConfig
from llmbench.errors import CheckpointError, HardwareError
from llmbench.measure import device
from llmbench.models import architecture, weights
from llmbench.models.architecture import Architecture
from llmbench.record import Family

if TYPE_CHECKING:
    from llmbench.job.prepared import Prepared

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_JUDGED_BYTES = 4  # judges and encoders are float32 whatever the models under test are


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a model under test takes on its device."""

    weights: int
    cache: int  # 0 for a model that caches nothing
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.cache + self.activations


def shapes(prepared: "Prepared", hardware: HardwareConfig) -> Architecture:
    """The model under test as this hardware would store it."""
    return _shapes(prepared.checkpoint, hardware, prepared.job.model.decoder.family)


def _shapes(files: CheckpointFiles, hardware: HardwareConfig, family: Family | None = None) -> Architecture:
    mode = files.mode(family) if family else None
    return architecture.from_config(files.config, _BYTES[hardware.dtype], hardware.quantization, mode)


def need(prepared: "Prepared", hardware: HardwareConfig | None = None) -> Need:
    """What the model under test needs while it generates.

    Args:
        prepared: a job that runs here, not on a server.
        hardware: resolved; None: the job's own.
    """
    hardware = hardware or prepared.job.hardware
    drafting = _shapes(prepared.draft, hardware) if prepared.draft else None
    return _need(prepared.job, prepared.checkpoint, hardware, prepared.longest_prompt, drafting)


def _need(
    job: Job,
    files: CheckpointFiles,
    hardware: HardwareConfig,
    longest_prompt: int | None,
    drafting: Architecture | None = None,
) -> Need:
    """What a model needs for prompts of at most so many tokens; None: its weights alone.

    A model that drafts for it has weights and a cache of the same length of its own.
    """
    mode, stored = files.mode(job.model.decoder.family), _shapes(files, hardware, job.model.decoder.family)
    weights = stored.weight_bytes + (drafting.weight_bytes if drafting else 0)
    if longest_prompt is None:
        return Need(weights=weights, cache=0, activations=0)
    decoder = job.model.decoder
    cached = not isinstance(decoder, Diffusion) or decoder.cache != "none" or mode.in_blocks
    positions = _rows(job) * (longest_prompt + decoder.canvas + beyond_canvas(decoder, mode))
    each = stored.kv_bytes_per_position + (drafting.kv_bytes_per_position if drafting else 0)
    return Need(
        weights=weights,
        cache=positions * each if cached else 0,
        activations=_activations(job, stored, longest_prompt, mode),
    )


def beyond_canvas(decoder: DecoderConfig, mode: Mode) -> int:
    """Positions behind the canvas that a forward may read: drafted tokens, and the rest of a last block."""
    if mode.aligned and isinstance(decoder, Diffusion):
        return decoder.block
    return verified_tokens(decoder)


def verified_tokens(decoder: DecoderConfig) -> int:
    """Tokens that a forward verifies, each of which has a place in the cache; 0 without a draft."""
    return decoder.draft_tokens + 1 if isinstance(decoder, Autoregressive) and decoder.draft else 0


def _rows(job: Job) -> int:
    """Sequences that one forward of a full batch reads: guidance reads each of them twice."""
    return job.batch * (2 if getattr(job.model.decoder, "cfg_scale", 0) else 1)


def _activations(job: Job, stored: Architecture, longest_prompt: int, mode: Mode) -> int:
    """What the largest forward holds at once: one block's intermediate values, or the logits that are asked for.

    A quantized matrix is widened for its product; the largest one comes on top.
    """
    decoder, rows = job.model.decoder, _rows(job)
    if isinstance(decoder, Diffusion):
        queries, logits = longest_prompt + decoder.canvas, decoder.block
        queries = max(longest_prompt, decoder.block) if mode.in_blocks else queries
    else:
        width = verified_tokens(decoder)
        queries, logits = max(longest_prompt, width), max(1, width)
    attention = 2 * stored.hidden + 2 * (stored.heads + stored.kv_heads) * stored.head_dim  # residual, norm; q, k, v, o
    feed_forward = 2 * stored.hidden + 3 * stored.ffn  # residual, norm; gate, up and their product
    block = rows * queries * max(attention, feed_forward)
    block += stored.hidden * max(stored.ffn, stored.heads * stored.head_dim) if stored.matrix_bytes is not None else 0
    head = rows * (queries * stored.hidden + logits * stored.vocab)
    return max(block, head) * stored.bytes_per_element


# ----------------------------------------------------------------------------------------------------------------
# Is there so much?


def shortage(prepared: "Prepared") -> str | None:
    """Why this job cannot run in the memory that is free now, in one line that says what could; None if it may."""
    hardware = prepared.job.hardware
    said = None
    if not isinstance(prepared.job.model.decoder, ServerConfig):
        said = _model_shortage(prepared.job, prepared.checkpoint, prepared.longest_prompt, prepared.draft)
    lines = (scoring_too_small(needed, hardware.device, _free(hardware)) for needed in scoring_bytes(prepared))
    return said or next(filter(None, lines), None)


def _model_shortage(
    job: Job, files: CheckpointFiles, longest_prompt: int | None, draft: CheckpointFiles | None = None
) -> str | None:
    """`shortage` of the model under test, and of the one that drafts for it."""

    def need_on(hardware: HardwareConfig) -> Need:
        drafting = _shapes(draft, hardware) if draft else None
        return _need(job, files, hardware, longest_prompt, drafting)

    hardware = job.hardware
    needed = need_on(hardware)
    others = {_named(other, hardware): need_on(other).total for other in _narrower(hardware)}
    return too_small(files.name, hardware.device, needed, others, _free(hardware))


def _free(hardware: HardwareConfig) -> int:
    return device.free_bytes(hardware) + kept_bytes(hardware)


def require(prepared: "Prepared") -> None:
    """Refuse a job whose device has too little memory.

    Raises:
        HardwareError: as `shortage`.
    """
    if said := shortage(prepared):
        raise HardwareError(said)


def require_model(job: Job, files: CheckpointFiles, longest_prompt: int | None = None) -> None:
    """Refuse a model under test that its device has too little memory for.

    Args:
        job: hardware resolved; runs here, not on a server.
        files: of the model.
        longest_prompt: tokens; None: not known yet, so the weights alone are counted.

    Raises:
        HardwareError: as `shortage`.
    """
    if said := _model_shortage(job, files, longest_prompt):
        raise HardwareError(said)


def too_small(name: str, place: str, needed: Need, others: Mapping[str, int], free: int) -> str | None:
    """The line for a model under test that does not fit; None if it fits.

    Args:
        name: of the checkpoint.
        place: "cuda" or "cpu".
        needed: as configured.
        others: bytes under other settings, by how the user asks for them.
        free: bytes that it could have.
    """
    if needed.total <= free:
        return None
    parts = ((needed.weights, "weights"), (needed.cache, "cache"), (needed.activations, "activations"))
    sum_of = " + ".join(f"{_gib(size)} {part}" for size, part in parts if size)
    has = f"{name} needs {_gib(needed.total)} GiB on {place} ({sum_of}), {_gib(free)} GiB are free"
    fitting = {setting: size for setting, size in others.items() if size <= free}
    if fitting:
        return f"{has}; " + ", ".join(f"{setting} needs {_gib(size)} GiB" for setting, size in fitting.items())
    smallest = {key: size for key, size in others.items() if size == min(others.values()) and size < needed.total}
    least = "".join(f"even {setting} needs {_gib(size)} GiB, " for setting, size in smallest.items())
    return f"{has}; {least}use a smaller checkpoint, batch or canvas, or a device with more memory"


def judge_bytes(files: CheckpointFiles) -> int:
    """Bytes of a judge's weights."""
    return _JUDGED_BYTES * elements(files)


def scoring_bytes(prepared: "Prepared") -> tuple[dict[str, int], ...]:
    """Bytes of the models that score afterwards, by the key that asks for them.

    Returns:
        Those that are loaded at once: judge and encoder, then the second judge.
    """
    found = {}
    if prepared.judge is not None:
        found["metric.perplexity.judge"] = judge_bytes(prepared.judge)
    if prepared.encoder is not None:
        files = sorted(prepared.encoder.path.glob("model*.safetensors"))
        try:
            stored = [tensor for file in files for tensor in weights.header(file, prepared.encoder.name).values()]
        except CheckpointError:
            stored = []  # bert-score reads it, and says what is wrong
        found["metric.bertscore"] = _JUDGED_BYTES * sum(tensor.elements for tensor in stored)
    second = prepared.second_judge
    alone = {"metric.perplexity.second_judge": judge_bytes(second)} if second is not None else {}
    return tuple(filter(None, (found, alone)))


def scoring_too_small(needed: Mapping[str, int], place: str, free: int) -> str | None:
    """The line for models that score at once and do not fit; None if they fit.

    Arguments as `scoring_bytes`, `too_small`.
    """
    total = sum(needed.values())
    if total <= free:
        return None
    keys = " and ".join(f"{key} ({_gib(size)})" for key, size in needed.items())
    return (
        f"{keys} need {_gib(total)} GiB on {place} after generation, {_gib(free)} GiB are free; "
        f"use a smaller one, or {' or '.join(f'{key}=null' for key in needed)}"
    )


def _narrower(hardware: HardwareConfig) -> list[HardwareConfig]:
    """Other ways to store the same model on this device."""
    dtypes = dict.fromkeys((hardware.dtype, "bfloat16" if hardware.dtype == "float32" else hardware.dtype))
    ways = [
        replace(hardware, dtype=dtype, engine=hardware.engine if kind is None else "eager", quantization=kind)
        for dtype in dtypes
        for kind in (None, *get_args(Quantization))
    ]
    return [way for way in ways if way != hardware]


def _named(other: HardwareConfig, own: HardwareConfig) -> str:
    """What the user has to say to get `other`."""
    said = [f"hardware.dtype={other.dtype}"] if other.dtype != own.dtype else []
    if other.quantization != own.quantization:
        said.append(f"hardware.quantization={other.quantization or 'null'}")
        said += [f"hardware.engine={other.engine}"] if other.engine != own.engine else []
    return " ".join(said)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2g}" if size < 2**30 else f"{size / 2**30:.1f}"
