"""How does a masked diffusion model write? All positions at once, from a canvas of masks, in a fixed number of steps.

This is the official LLaDA sampler (ML-GSAI/LLaDA `generate.py` at b7e6c35; described in the LLaDA paper, arXiv
2502.09992). The canvas is G masks behind the prompt, cut into blocks that are filled from left to right. A step reads
the *whole* sequence, later blocks included, proposes a token for every masked position of the current block, and
makes the surest of them final; the schedule says how many. What is final is never revised. There is no early stop: k
steps, k forwards.

Where it does less work than the original, with the same result:
- The schedule is known beforehand, so every row has the same number M of masked positions in its block, and the host
  knows it. The head, the noise and the confidences are computed at exactly those [B, M] positions, the canvas is
  never searched for masks, and nothing waits for the device.
- The [B * M, V] candidates are taken in pieces that fit the cache (on a GPU: a bounded amount of memory), so that
  neither the float64 noise nor a softmax exists for the whole canvas.

Where it differs on purpose:
- The mask token is never proposed: a position must hold text when it is final. It stays in the softmax of the
  confidence, so that confidences are the official ones.
- `late_eos`, the official `confidence_eos_eot_inf`, removes the stop tokens from the softmax of the confidence, at
  every temperature: their confidence is 0, they come last, and still come when nothing else is left. The official
  code does so at temperature 0; above it, a bug exempts EOS. With random remasking it has no effect, there as here.
- `suppress_eos`, the official `logits_eos_inf`, forbids every stop token, not EOS alone.
- A mask token inside a prompt is left alone, not filled in. Guidance hides everything that is not a mask when
  generation starts, which is the prompt and its padding, as in the original.
"""

import torch

from llmbench.config import Diffusion
from llmbench.decoding import base, rules
from llmbench.decoding.base import Engine, Generation, OnStep, PromptBatch
from llmbench.record import ForwardShape

_PIECE_CPU = 2**18
"""Logits treated at once on a CPU: 2 MiB of float64 noise stay in the second-level cache."""

_PIECE_CUDA = 2**24
"""Logits treated at once on a GPU: at most 128 MiB of float64 noise, and few launches."""


class DiffusionDecoder:
    """Unmasking in `steps` denoising steps."""

    streams = False

    def __init__(self, settings: Diffusion, *, stop_ids: tuple[int, ...], mask_id: int) -> None:
        self._settings = settings
        self._stop_ids = stop_ids
        self._mask_id = mask_id

    @torch.inference_mode()
    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> Generation:
        """Fill a canvas of G tokens behind each prompt; `on_step(i)` follows denoising step i."""
        settings, (rows, prompt) = self._settings, batch.ids.shape
        length = prompt + settings.canvas
        canvas = torch.nn.functional.pad(batch.ids, (0, settings.canvas), value=self._mask_id)
        mask = None if batch.mask is None else torch.nn.functional.pad(batch.mask, (0, settings.canvas), value=True)
        given = canvas != self._mask_id
        propose = _Proposal(settings, self._stop_ids, self._mask_id, base.Draws(engine.device, seed), engine.device)
        steps_per_block = settings.steps * settings.block_length // settings.canvas

        forwards: list[ForwardShape] = []
        for start in range(prompt, length, settings.block_length):
            masked = torch.arange(start, start + settings.block_length, device=engine.device).expand(rows, -1)  # [B, M]
            for count in rules.schedule(settings.block_length, steps_per_block):
                logits = self._logits(engine, canvas, mask, given, masked)
                forwards.append(self._shape(rows, length, masked.shape[1]))
                if count:
                    tokens, confidence = propose(logits)
                    final, rest = rules.split(confidence, count)
                    canvas.scatter_(1, masked.gather(1, final), tokens.gather(1, final))
                    masked = masked.gather(1, rest)
                if on_step is not None:
                    on_step(len(forwards) - 1)
        nfe = len(forwards) * (2 if settings.cfg_scale else 1)
        return Generation(tokens=canvas[:, prompt:], forwards=tuple(forwards), nfe=nfe)

    def _logits(
        self,
        engine: Engine,
        canvas: torch.Tensor,
        mask: torch.Tensor | None,
        given: torch.Tensor,
        masked: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [B, M, V] at the masked positions, guided if asked for (Ho & Salimans, arXiv 2207.12598)."""
        scale = self._settings.cfg_scale
        if not scale:
            return engine.denoise(canvas, mask, masked)
        both = torch.cat([canvas, canvas.masked_fill(given, self._mask_id)])
        both_mask = None if mask is None else torch.cat([mask, mask])
        conditional, unconditional = engine.denoise(both, both_mask, torch.cat([masked, masked])).chunk(2)
        return (conditional - unconditional).mul_(scale + 1).add_(unconditional)

    def _shape(self, rows: int, length: int, masked: int) -> ForwardShape:
        passes = 2 if self._settings.cfg_scale else 1
        return ForwardShape(rows=rows * passes, queries=length, keys=length, logits=masked)


class _Proposal:
    """A token and a confidence for every masked position, from logits; holds one generation's scratch memory."""

    def __init__(
        self,
        settings: Diffusion,
        stop_ids: tuple[int, ...],
        mask_id: int,
        draws: base.Draws,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._mask_id = mask_id
        self._stops = torch.tensor(stop_ids, dtype=torch.int64, device=device)
        self._draws = draws
        self._remasking = rules.remasking(settings)
        self._piece = _PIECE_CPU if device.type == "cpu" else _PIECE_CUDA
        self._noise = torch.empty(0, dtype=torch.float64, device=device)

    def __call__(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Propose for [B, M, V] logits, which are overwritten: tokens and confidences, both [B, M]."""
        rows, masked, vocabulary = logits.shape
        if self._settings.suppress_eos:
            logits.index_fill_(-1, self._stops, float("-inf"))
        pieces = torch.split(logits.view(rows * masked, vocabulary), max(1, self._piece // vocabulary))
        tokens, confidence = zip(*(self._propose(piece) for piece in pieces), strict=True)
        return torch.cat(tokens).view(rows, masked), torch.cat(confidence).view(rows, masked)

    def _propose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Propose for [N, V] logits: tokens and confidences, both [N]."""
        column = logits[:, self._mask_id].clone()
        logits[:, self._mask_id] = float("-inf")
        tokens = (self._noisy(logits) if self._settings.temperature else logits).argmax(-1)
        logits[:, self._mask_id] = column
        if self._settings.late_eos:
            logits.index_fill_(-1, self._stops, float("-inf"))
        return tokens, self._remasking(logits, tokens, self._draws)

    def _noisy(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits plus Gumbel noise, in float64, in memory that is reused."""
        if self._noise.numel() < logits.numel():  # the first piece of the first step is the largest
            self._noise = torch.empty(logits.numel(), dtype=torch.float64, device=logits.device)
        noise = self._noise[: logits.numel()].view_as(logits)
        return rules.gumbel_(self._draws.fill_(noise), self._settings.temperature).add_(logits)
