"""Which token does a denoising step propose at a masked position, and how sure is it? From hidden states, in pieces.

Logits of 10^5 columns at every position of a canvas would be the largest thing in memory, and float64 noise four times
as large. So the head, the noise and the softmax are computed for some positions at a time. Which proposals become final
is decided in `commit`.
"""

from collections.abc import Iterator

import torch

from llmbench.config.decoders import Diffusion
from llmbench.decoding import base, rules
from llmbench.decoding.base import Engine
from llmbench.decoding.greedy import greedy, largest

_PIECE_CPU = 2**18
"""Logits computed at once on a CPU: 2 MiB of float64 noise stay in the second-level cache."""

_PIECE_CUDA = 2**26
"""Logits computed at once on a GPU: at most 128 MiB in bfloat16, and the head's weights are read as rarely as that."""


class Proposal:
    """A token and a confidence for every candidate position, from hidden states."""

    def __init__(
        self,
        settings: Diffusion,
        stop_ids: tuple[int, ...],
        mask_id: int,
        draws: base.Draws,
        engine: Engine,
        *,
        hide_mask: bool = False,
    ) -> None:
        """Take the settings and the model's conventions.

        Args:
            settings: the checked configuration.
            stop_ids: for `suppress_eos` and `late_eos`.
            mask_id: never proposed.
            draws: of the engine's device.
            engine: whose head makes logits.
            hide_mask: the mask token has no share of the confidence's softmax either.
        """
        self._settings = settings
        self._mask_id = mask_id
        self._hide_mask = hide_mask
        self._engine = engine
        self._mask = torch.tensor([mask_id], device=engine.device)
        self._stops = torch.tensor(stop_ids, dtype=torch.int64, device=engine.device)
        self._draws = draws
        self._remasking = rules.remasking(settings)
        self._piece = _PIECE_CPU if engine.device.type == "cpu" else _PIECE_CUDA
        self._vocabulary = 0
        self._plain_greedy = (
            settings.temperature == 0
            and settings.remasking == "low_confidence"
            and settings.confidence_dtype != "float64"
            and not settings.remasking_temperature
            and not settings.late_eos
            and (settings.confidence == "model" or (settings.top_p == 1 and settings.top_k is None))
        )
        self._noise = torch.empty(0, dtype=torch.float64)  # CPU: memory that stays is memory in the cache

    def __call__(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Propose for hidden states [B, M, C], or [2 B, M, C] with guidance: tokens and confidences, both [B, M]."""
        passes = 2 if self._settings.cfg_scale else 1
        rows, masked = hidden.shape[0] // passes, hidden.shape[1]
        flat = hidden.reshape(passes, rows * masked, -1)
        size = self._rows(flat)
        tokens, confidence = zip(
            *(part for piece in torch.split(flat, size, dim=1) for part in self._parts(self._logits(piece))),
            strict=True,
        )
        return _joined(tokens).view(rows, masked), _joined(confidence).view(rows, masked)

    def _rows(self, flat: torch.Tensor) -> int:
        """How many positions are treated at once."""
        if not self._vocabulary:
            self._vocabulary = self._engine.head(flat[0, :1]).shape[-1]
        return max(1, self._piece // self._vocabulary)

    def _parts(self, logits: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Propose for [N, V] logits in parts, where noise or a softmax in a wider type is what takes memory."""
        wide = logits.is_cuda and not self._plain_greedy
        for part in torch.split(logits, max(1, rules.WIDE // logits.shape[1])) if wide else (logits,):
            yield self.of_logits(part)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] of hidden states [1 or 2, N, C], guided if asked for (Ho & Salimans, arXiv 2207.12598)."""
        logits = self._engine.head(hidden[0])
        if self._settings.cfg_scale:
            unconditional = self._engine.head(hidden[1])
            logits = (logits - unconditional).mul_(self._settings.cfg_scale + 1).add_(unconditional)
        if self._settings.suppress_eos:
            logits.index_fill_(-1, self._stops, float("-inf"))
        return logits

    def of_logits(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Propose for [N, V] logits: tokens and confidences, both [N]."""
        if self._hide_mask:
            logits[:, self._mask_id] = float("-inf")
        if self._plain_greedy and logits.is_cuda:
            tokens, probability = greedy(logits, self._mask_id)
            return tokens, probability.to(getattr(torch, self._settings.confidence_dtype))
        if self._settings.confidence == "sampling":
            return self._of_what_is_drawn_from(logits)
        column = logits[:, self._mask_id].clone()
        logits[:, self._mask_id] = float("-inf")
        temperature = self._settings.temperature
        tokens = largest(self._noisy(self._kept(logits, temperature), temperature) if temperature else logits)
        logits[:, self._mask_id] = column
        if self._settings.late_eos:
            logits.index_fill_(-1, self._stops, float("-inf"))
        return tokens, self._remasking(logits, tokens, self._draws)

    def _of_what_is_drawn_from(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`of_logits` with a confidence from the distribution that tokens are drawn from, also at temperature 0.

        The mask token takes part in top_p, top_k and the confidence, and is never proposed: where it alone is kept, the
        most probable token of the others is.
        """
        temperature = self._settings.temperature
        logits = logits.to(getattr(torch, self._settings.confidence_dtype))
        kept = self._kept(logits.div_(temperature) if temperature else logits, 1.0)
        choice = kept.index_fill(-1, self._mask, float("-inf"))
        tokens = largest(logits.index_fill(-1, self._mask, float("-inf")))
        if temperature:
            choice.scatter_(-1, tokens[:, None], logits.gather(-1, tokens[:, None]))
            tokens = largest(self._noisy(choice, 1.0))
        return tokens, self._remasking(kept, tokens, self._draws)

    def _kept(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """What top_p and then top_k leave of logits; they are not changed."""
        return rules.keep_top_k(rules.nucleus(logits, temperature, self._settings.top_p), self._settings.top_k)

    def _noisy(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        """Logits plus Gumbel noise, in float64."""
        if logits.is_cuda:  # the allocator hands the same memory to every piece, and to every captured step
            noise = torch.empty(logits.shape, dtype=torch.float64, device=logits.device)
        else:
            if self._noise.numel() < logits.numel():  # the first piece of the first step is the largest
                self._noise = torch.empty(logits.numel(), dtype=torch.float64)
            noise = self._noise[: logits.numel()].view_as(logits)
        return rules.gumbel_(self._draws.fill_(noise), temperature).add_(logits)


def _joined(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
