"""How good is a checkpoint of several modes? Its losses and the worth of its own drafts, as the benchmark counts them.

Likelihood: ``llmbench.metrics.likelihood`` on windows of held-out text, for each mode, and beside them that of the
checkpoint that the training started from, on the same windows. Drafts: ``llmbench.decoding.speculation`` with
``draft=self`` at temperature 0, prompt by prompt, in float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from llmbench.checkpoints.load import Checkpoint, load_beside
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive
from llmbench.config.job import HardwareConfig
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.drafts import DraftModel
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.metrics.likelihood import model_likelihood
from llmbench.record import Family

DRAFT_TOKENS = (7, 31)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        windows: Texts of a split, evenly spaced in it.
        length: Tokens of a window.
        draws: Of masks for each window.
        prompts: Beginnings of test windows that are continued.
        prompt: Tokens of a prompt.
        new_tokens: Tokens of a continuation.
    """

    windows: int = 512
    length: int = 160
    draws: int = 8
    prompts: int = 32
    prompt: int = 64
    new_tokens: int = 64


def cut(stream: torch.Tensor, count: int, length: int) -> list[list[int]]:
    """At most ``count`` windows that do not overlap, evenly spaced in ``stream`` (tokens,)."""
    windows = stream[: stream.numel() // length * length].view(-1, length)
    places = torch.linspace(0, len(windows) - 1, min(count, len(windows))).long()
    found: list[list[int]] = windows[places].tolist()
    return found


def likelihoods(
    folder: Path, start: Path, held_out: dict[str, torch.Tensor], device: str, sizes: Sizes
) -> list[dict[str, Any]]:
    """Rows of a table: split, mode, ``start`` (whether it is that checkpoint), nats per token, bound, error."""
    rows: list[dict[str, Any]] = []
    for split, stream in held_out.items():
        ids = cut(stream, sizes.windows, sizes.length)
        for began in (True, False):
            families: tuple[Family, ...] = ("autoregressive",) if began else ("autoregressive", "diffusion")
            checkpoint = _load(start if began else folder, device)
            texts = [checkpoint.files.tokenizer.decode(window) for window in ids]
            for family in families:
                found = model_likelihood(
                    checkpoint.engine("eager", family), ids, texts, mode=checkpoint.files.mode(family),
                    mask_id=checkpoint.mask_id, samples=sizes.draws, seed=0, tick=lambda *_: None,
                )  # fmt: skip
                tokens, error = sum(len(window) - 1 for window in ids), found.standard_error_nats
                rows.append(
                    {
                        "split": split, "mode": family, "start": began, "bound": found.bound,
                        "nats_per_token": found.nll_nats / tokens, "tokens": tokens,
                        "standard_error": None if error is None else error / tokens,
                    }
                )  # fmt: skip
    return rows


def accepted(folder: Path, stream: torch.Tensor, draft_tokens: int, sizes: Sizes) -> dict[str, float]:
    """Mean drafted tokens that a verification accepts, of continuations of the beginnings of windows of ``stream``.

    A verification writes what it accepts and one token of its own, so of G new tokens, of which the prompt's forward
    writes the first, V verifications accepted G - 1 - V.
    """
    checkpoint = _load(folder, "cpu")
    settings = Autoregressive(
        max_new_tokens=sizes.new_tokens, temperature=0.0, draft="self", draft_tokens=draft_tokens, ignore_stop=True
    )
    vocabulary = checkpoint.model.config.vocab_size
    drafts = DraftModel(
        engine=checkpoint.engine("fused", "diffusion"), vocabulary=vocabulary, verified_vocabulary=vocabulary,
        mask_id=checkpoint.mask_id,
    )  # fmt: skip
    decoder = SpeculativeDecoder(settings, stop_ids=checkpoint.stop_ids, pad_id=checkpoint.pad_id, model=drafts)
    engine, verifications = checkpoint.engine("fused", "autoregressive"), 0
    prompts = cut(stream, sizes.prompts, sizes.length)
    for window in prompts:
        batch = PromptBatch(ids=torch.tensor([window[: sizes.prompt]]), mask=None)
        verifications += (decoder.generate(engine, batch, seed=0, on_step=None).nfe - 1) // 2  # each with its draft
    written = len(prompts) * (sizes.new_tokens - 1)
    return {"draft_tokens": draft_tokens, "accepted": written / verifications - 1, "verifications": verifications}


def measure(
    folder: Path, start: Path, held_out: dict[str, torch.Tensor], device: str, sizes: Sizes,
    keep: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:  # fmt: skip
    """All of it; ``keep`` gets what is there after each part."""
    found: dict[str, Any] = {"sizes": vars(sizes), "device": device}
    found["likelihoods"] = likelihoods(folder, start, held_out, device, sizes)
    keep(found)
    found["drafts"] = []
    for draft_tokens in DRAFT_TOKENS:
        found["drafts"].append(accepted(folder, held_out["test"], draft_tokens, sizes))
        keep(found)
    return found


def _load(folder: Path, device: str) -> Checkpoint:
    kind: Literal["cpu", "cuda"] = "cuda" if device.startswith("cuda") else "cpu"
    hardware = HardwareConfig(device=kind, dtype="float32", engine="eager")
    return load_beside(resolve_checkpoint(str(folder)), hardware, "real")
