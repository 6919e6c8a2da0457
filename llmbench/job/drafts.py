"""Which model drafts for the model under test, and may it? Its files are found before any weight is read."""

from typing import Any

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive
from llmbench.config.job import Job
from llmbench.errors import CheckpointError, ConfigError
from llmbench.models import blocks
from llmbench.record import Family


def resolve(job: Job, files: CheckpointFiles, longest_prompt: int) -> CheckpointFiles | None:
    """The files of the model that drafts; None where none does.

    Args:
        job: hardware resolved.
        files: of the model under test.
        longest_prompt: tokens.

    Raises:
        CheckpointError: it cannot be read, writes other tokens than the model under test, or reads too few.
        ConfigError: this engine cannot verify drafts.
    """
    decoder: Any = job.model.decoder
    draft = getattr(decoder, "draft", None)
    if draft is None:
        return None
    require_engine(job)
    if draft == "self":
        _require_self(files, decoder.draft_tokens)
    if draft in ("lookup", "self"):
        return None
    try:
        found = resolve_checkpoint(decoder.draft_checkpoint, job.weights, family=family(draft))
    except CheckpointError as error:
        raise CheckpointError(f"draft_checkpoint: {error}") from error
    if decoder.kind == "autoregressive":
        blocks.require_fused(found.config)
    length = longest_prompt + decoder.canvas + decoder.draft_tokens + 1
    if length > found.context:
        raise CheckpointError(
            f"draft_checkpoint: {found.name} reads {found.context} tokens, and longest prompt, canvas and draft are "
            f"{length}; lower canvas, or use another draft"
        )
    if job.weights == "real":
        _require_same_tokens(files, found)
    return found


def family(draft: str | None) -> Family:
    """Of the mode in which a draft's model is decoded."""
    return "diffusion" if draft in ("llada", "self") else "autoregressive"


def _require_self(files: CheckpointFiles, draft_tokens: int) -> None:
    """Refuse to let a model draft for itself that cannot.

    Raises:
        ConfigError: it has no diffusion mode that reads the cache of its autoregressive one, or shorter blocks.
    """
    mode = files.modes.get("diffusion")
    if mode is None or mode.block_length is None or mode.attention != "causal_context":
        raise ConfigError(
            f"draft=self needs a checkpoint that is also decoded in blocks behind a causal context, and {files.name} "
            "is not; use draft=lookup"
        )
    if draft_tokens + 1 > mode.block_length:
        raise ConfigError(
            f"draft_tokens {draft_tokens} + 1 exceed the block of {mode.block_length} tokens of {files.name}; use at "
            f"most {mode.block_length - 1}"
        )


def require_engine(job: Job) -> None:
    """Refuse drafts of ours on the engine that cannot verify them.

    Raises:
        ConfigError: a draft on the eager engine.
    """
    decoder = job.model.decoder
    if isinstance(decoder, Autoregressive) and decoder.draft and job.hardware.engine == "eager":
        raise ConfigError(
            f"draft={decoder.draft} needs the fused engine, which does not run here; use draft=null, or "
            "model=llama_generate for Transformers' own drafts"
        )


def _require_same_tokens(files: CheckpointFiles, draft: CheckpointFiles) -> None:
    """Refuse a draft whose ids mean other tokens; ids that one of them alone has are never accepted, and harmless."""
    own, other = (each.tokenizer.get_vocab() for each in (files, draft))
    shared = own.keys() & other.keys()
    if len(shared) < 0.99 * max(len(own), len(other)) or any(own[token] != other[token] for token in shared):
        raise CheckpointError(
            f"draft_checkpoint: {draft.name} has another tokenizer than {files.name}; use a checkpoint with the same, "
            "or draft=lookup"
        )
