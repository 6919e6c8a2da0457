"""What runs a checkpoint: its weights on a device, with its tokenizer.

The model that was loaded last is the one piece of process-wide state: jobs are ordered by model, so each is read once,
and a new one evicts the old one first. Judges are not kept: while a job is measured, one model is in memory.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.resolve import shapes_of, stored
from llmbench.decoding import base
from llmbench.errors import CheckpointError, first_cause, one_line
from llmbench.record import Family

if TYPE_CHECKING:
    import torch

    from llmbench.config.job import HardwareConfig, Quantization
    from llmbench.metrics.judging import Judge
    from llmbench.models.architecture import Architecture
    from llmbench.models.engine import EagerEngine
    from llmbench.models.fused import FusedEngine


@dataclass(frozen=True, kw_only=True)
class ValidText:
    """The part of a generated row that counts: its tokens before the first stop token."""

    text: str | None  # None with dummy weights
    tokens: int
    utf8_bytes: int | None
    stopped: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A model on a device, with its tokenizer."""

    files: CheckpointFiles
    model: Any  # a Transformers causal LM
    architecture: "Architecture"
    weight_bytes: int

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end an output."""
        return self.files.stop_ids

    @property
    def pad_id(self) -> int:
        """What prompts are padded with, and outputs behind their stop token."""
        return self.files.pad_id

    @property
    def mask_id(self) -> int | None:
        """The token that stands for "not yet known"; None for a model that has none."""
        return self.files.mask_id

    @overload
    def engine(self, kind: Literal["eager"], family: Family | None = None) -> "EagerEngine": ...

    @overload
    def engine(self, kind: Literal["eager", "fused"], family: Family | None = None) -> "EagerEngine | FusedEngine": ...

    def engine(self, kind: Literal["eager", "fused"], family: Family | None = None) -> "EagerEngine | FusedEngine":
        """What runs this model's forward passes: the modules as they are, or their weights joined.

        Args:
            kind: which of them.
            family: whose mode it is; None: the only one, or the autoregressive one. Engines of both share the weights.
        """
        from llmbench.models.engine import EagerEngine
        from llmbench.models.fused import FusedEngine

        mode = self.files.mode(family) if family else None
        return EagerEngine(self.model, mode) if kind == "eager" else FusedEngine(self.model, mode)

    def architecture_of(self, family: Family) -> "Architecture":
        """The shapes as a family sees them."""
        return replace(self.architecture, causal=self.files.mode(family).attention == "causal")

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each prompt."""
        return [self.files.tokenize(text) for text in texts]

    def to_device(self, ids: Sequence[Sequence[int]]) -> base.PromptBatch:
        """Pad prompts on the left to the longest, and put them on the model's device."""
        import torch

        width = max(map(len, ids))
        padded = [[self.pad_id] * (width - len(row)) + list(row) for row in ids]
        real = [[False] * (width - len(row)) + [True] * len(row) for row in ids]
        device = self.model.device
        return base.PromptBatch(
            ids=torch.tensor(padded, device=device),
            mask=None if all(map(all, real)) else torch.tensor(real, device=device),
            padding=sum(row.count(False) for row in real),
        )

    def texts(self, prompts: base.PromptBatch, batch: base.DecodedBatch) -> list[ValidText]:
        """The valid text of every row, as it stands behind its prompt."""
        texts = []
        lengths = base.valid_lengths(batch.tokens, self.stop_ids)
        for prompt, row, (length, stopped) in zip(_unpadded(prompts), batch.tokens.tolist(), lengths, strict=True):
            text = self.files.text_behind(prompt, row[:length]) if self.files.writes_text else None
            size = None if text is None else len(text.encode())
            texts.append(ValidText(text=text, tokens=length, utf8_bytes=size, stopped=stopped))
        return texts


def _unpadded(prompts: base.PromptBatch) -> list[list[int]]:
    """Ids of each prompt of a batch."""
    rows: list[list[int]] = prompts.ids.tolist()
    padding = [0] * len(rows) if prompts.mask is None else (~prompts.mask).sum(1).tolist()
    return [row[count:] for row, count in zip(rows, padding, strict=True)]


_loaded: "tuple[tuple[str | None, ...], Checkpoint] | None" = None


def load_checkpoint(
    files: CheckpointFiles, hardware: "HardwareConfig", weights: Literal["real", "dummy"]
) -> Checkpoint:
    """Put a model on the device. The one that was loaded last is kept; any other is evicted before this one is read.

    Args:
        files: from `resolve`.
        hardware: resolved, no "auto".
        weights: "dummy" fills the right shapes with random numbers, the same on every call, and reads no weights.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    global _loaded
    key = (files.digest, hardware.device, hardware.dtype, hardware.quantization, weights)
    if _loaded is not None and _loaded[0] == key:
        return _loaded[1]
    _drop(hardware.device)
    checkpoint = load_beside(files, hardware, weights)
    _loaded = (key, checkpoint)
    return checkpoint


def load_beside(files: CheckpointFiles, hardware: "HardwareConfig", weights: Literal["real", "dummy"]) -> Checkpoint:
    """Put one more model on the device, and evict none: it drafts for the one under test. It is not kept.

    Arguments and errors as `load_checkpoint`.
    """
    import torch

    from llmbench.models import architecture

    dtype: torch.dtype = getattr(torch, hardware.dtype)
    model = _model(files, dtype, hardware.device, weights, hardware.quantization)
    return Checkpoint(
        files=files,
        model=model,
        architecture=architecture.from_config(model.config, dtype.itemsize, hardware.quantization),
        weight_bytes=sum(weight.nbytes for weight in model.parameters()),
    )


def kept_bytes(hardware: "HardwareConfig") -> int:
    """Bytes of the kept model on a device; loading another model frees them."""
    return _loaded[1].weight_bytes if _loaded is not None and _loaded[0][1] == hardware.device else 0


def make_room(needed: int, hardware: "HardwareConfig") -> None:
    """Drop the kept model if `needed` more bytes do not fit beside it; the next job then reads it again."""
    from llmbench.measure import device as devices

    if needed > devices.free_bytes(hardware):
        _drop(hardware.device)


def _drop(device: str) -> None:
    """Free the kept model's memory."""
    import torch

    global _loaded
    _loaded = None
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def elements(files: CheckpointFiles) -> int:
    """How many numbers a checkpoint of any kind holds; 0 for a GGUF file, whose header is not read."""
    from llmbench.models import architecture, llama, weights

    if files.config.model_type in llama.BLOCKS:
        return architecture.from_config(files.config, 1).parameters
    if files.gguf:
        return 0
    headers = [weights.header(path, files.name) for path in weights.find(files.path, files.name)]
    return sum(stored.elements for header in headers for stored in header.values())


def load_judge(files: CheckpointFiles, hardware: "HardwareConfig") -> "Judge":
    """Put a judge on the device, in float32 whatever the models under test run in. It is not kept.

    Raises:
        CheckpointError: it is bidirectional, has no end-of-text token, or cannot be read.
    """
    import torch

    from llmbench.metrics.judging import Judge

    files.require_judge()
    return Judge(
        model=_model(files, torch.float32, hardware.device, "real"),
        tokenize=lambda text: files.tokenizer(text, add_special_tokens=False)["input_ids"],
        eos_id=files.stop_ids[0],
        context=files.context,
        device=hardware.device,
        name=f"{files.name}@{files.digest}",
        prefix=files.start_ids,
    )


def _model(
    files: CheckpointFiles,
    dtype: "torch.dtype",
    device: str,
    weights: Literal["real", "dummy"],
    quantized: "Quantization | None" = None,
) -> Any:
    from llmbench.models import llama, quantization
    from llmbench.models import weights as weight_files

    if weights == "dummy":
        return llama.dummy(files.config, dtype, device, quantized=quantized)
    try:
        if files.gguf or files.config.model_type not in llama.BLOCKS:
            whole = llama.load_other(files.path, files.config, dtype, files.gguf)
            return quantization.convert(whole, quantized, device) if quantized else whole.to(device)
        shapes, paths = shapes_of(files.config, files.name), weight_files.find(files.path, files.name)
        found = stored(paths, shapes, files.config, files.layout, files.name)
        return llama.load(files.config, found, dtype, device, quantized)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors, Transformers and GGUF readers raise their own
        raise CheckpointError(
            f"checkpoint {files.name}: its weights cannot be read: {one_line(first_cause(error))}"
        ) from error
