"""Which tokens become final in a denoising step, and how many more than planned? Where does the randomness come from?

Every function states one rule of the official LLaDA sampler (ML-GSAI/LLaDA `generate.py` at b7e6c35) or of Dream's
(Dream-org/Dream-v0-Instruct-7B `generation_utils.py`) and does it for a whole batch at once. Nothing here waits for the
device: how many tokens are final after each step is known beforehand (`Diffusion.schedule`), or counted on the device,
so shapes never depend on values. Both decoders use the same noise, so "temperature 0.7" means the same on both sides.

Dream's names: `maskgit_plus` is `LowConfidence`, `topk_margin` is `TopkMargin`, `entropy` is `Entropy`, `origin` is
`Chance` over `Random`, and `alg_temp` is `Drawn`.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from llmbench.config.decoders import Diffusion
from llmbench.config.schedules import chances
from llmbench.decoding.base import Draws

WIDE = 2**24
"""Draws and probabilities at once where they are held in a wider type than the logits: at most 128 MiB in float64."""


class Transfer(Protocol):
    """How many of its candidates a row makes final beyond what the schedule demands."""

    def __call__(self, confidence: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Counts [B] from confidences [B, M] in falling order; what is no candidate has -inf.

        `done` [B, 1]: steps of this block so far.
        """
        ...


class Scheduled:
    """None: the schedule alone decides."""

    def __call__(self, confidence: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(confidence.shape[0], dtype=torch.int64, device=confidence.device)


class Threshold:
    """Every candidate that is sure enough (Fast-dLLM, arXiv 2505.22618)."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, confidence: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Candidates with a confidence of at least the threshold."""
        return (confidence >= self.threshold).sum(-1)


class Factor:
    """The longest prefix in which the n-th confidence is at least 1 - factor / (n + 1) (Fast-dLLM, theorem 1).

    Fast-dLLM's published code (24cc59e) is off by one: it always commits the last two tokens of a block together.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, confidence: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Length of that prefix."""
        rank = torch.arange(1, confidence.shape[1] + 1, device=confidence.device)
        return (confidence >= 1 - self.factor / (rank + 1)).cumprod(-1).sum(-1)


class Chance:
    """Each candidate by itself, with the chance of the step: "origin", the reverse process as Dream's code samples it.

    The confidences are uniform draws from [0, 1), and those within the chance of 1 become final.
    """

    def __init__(self, chances: Sequence[float], device: torch.device | None = None) -> None:
        self._least = 1 - torch.tensor(chances, dtype=torch.float64, device=device)

    def __call__(self, confidence: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Candidates with a draw of at least 1 - chance."""
        return (confidence >= self._least[done]).sum(-1)


def transfer(settings: Diffusion, device: torch.device | None = None) -> Transfer:
    """The rule that `settings` ask for; `device` is that of the confidences."""
    if settings.drawn_counts:
        return Chance(chances(len(settings.schedule)), device)
    if settings.adaptive and settings.threshold is not None:
        return Threshold(settings.threshold)
    if settings.adaptive and settings.factor is not None:
        return Factor(settings.factor)
    return Scheduled()


def gumbel_(uniform: torch.Tensor, temperature: float) -> torch.Tensor:
    """Turn uniform draws from [0, 1) into temperature-scaled Gumbel noise, in place.

    argmax(logits + noise) is a draw from softmax(logits / temperature). The official `exp(logits) / (-ln u) **
    temperature` has the same argmax, but overflows. The draws must be float64: float32 has no value between 1 -
    2**-24 and 1, which cuts the noise off at 17 and acts like a lower temperature (arXiv 2409.02908). u = 0 gives
    -inf, a token that is not chosen, as in the official form; 1 is never drawn, so +inf cannot occur.

    Args:
        uniform: float64, any shape; overwritten.
        temperature: > 0.
    """
    return uniform.log_().neg_().log_().mul_(-temperature)


def keep_top_k(logits: torch.Tensor, k: int | None) -> torch.Tensor:
    """Set to -inf what is less probable than the k-th token; equals of that one stay. Fan et al., arXiv 1805.04833.

    Args:
        logits: [..., V]; not changed.
        k: None keeps everything.
    """
    if k is None or k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[..., -1:], float("-inf"))


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Set to -inf what lies outside the nucleus: the fewest most probable tokens that reach a mass of `top_p` together.

    Holtzman et al., arXiv 1904.09751. The most probable token stays. Temperature applies first, as in `generate`.

    Args:
        logits: [N, V]; not changed.
        temperature: > 0; shapes the distribution whose mass is counted, the logits returned are not scaled.
        top_p: 1 keeps everything.
    """
    if top_p >= 1:
        return logits
    ordered, order = (logits.float() / temperature).sort(dim=-1, descending=True, stable=True)
    mass = ordered.softmax(-1).cumsum(-1)
    outside = torch.zeros_like(mass, dtype=torch.bool)
    outside[:, 1:] = mass[:, :-1] >= top_p  # the mass of the more probable ones suffices
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), float("-inf"))


class Remasking(Protocol):
    """How sure a step is of each candidate; the surest become final, the others are masked again."""

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Confidence [N] of candidate `tokens` [N] under un-noised `logits` [N, V], which it must not change.

        The logits are the model's, or tempered and filtered: those of what is kept, -inf for the rest.
        """
        ...


class LowConfidence:
    """The model's own probability of the candidate; "low-confidence remasking" keeps the most probable ones.

    `dtype` decides ties: the official code stays in the model's dtype (bfloat16 on a GPU since f51cb17, float64
    before), where many probabilities near 1 are equal.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Softmax over all columns, the mask token's included."""
        return logits.to(self._dtype).softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


class TopkMargin:
    """The difference of the two largest probabilities, whatever the candidate; `dtype` as in `LowConfidence`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, draws: Draws) -> torch.Tensor:
        """From 0 to 1."""
        first, second = logits.to(self._dtype).softmax(-1).topk(2, dim=-1).values.unbind(-1)
        return first - second


class Entropy:
    """The negative entropy of the distribution in nats, whatever the candidate; `dtype` as in `LowConfidence`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, draws: Draws) -> torch.Tensor:
        """From -ln V to 0."""
        nats: torch.Tensor = torch.special.entr(logits.to(self._dtype).softmax(-1)).sum(-1)
        return nats.neg()


class Random:
    """No preference: positions become final in random order."""

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Uniform draws from [0, 1)."""
        return draws.fill_(torch.empty(tokens.shape, dtype=torch.float64, device=tokens.device))


class Drawn:
    """Positions drawn from softmax(confidence / temperature) without replacement, in place of the surest.

    The largest values of confidence / temperature + Gumbel noise are such a draw (Kool et al., arXiv 1903.06059).
    """

    def __init__(self, rule: Remasking, temperature: float) -> None:
        self._rule = rule
        self._temperature = temperature

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Confidences plus noise, in float64; from -inf."""
        confidence = self._rule(logits, tokens, draws)
        noise = draws.fill_(torch.empty(tokens.shape, dtype=torch.float64, device=tokens.device))
        return gumbel_(noise, self._temperature).add_(confidence)


def remasking(settings: Diffusion) -> Remasking:
    """The rule that `settings.remasking` names, and `settings.remasking_temperature` softens."""
    dtype = getattr(torch, settings.confidence_dtype)
    rule: Remasking
    match settings.remasking:
        case "low_confidence":
            rule = LowConfidence(dtype)
        case "topk_margin":
            rule = TopkMargin(dtype)
        case "entropy":
            rule = Entropy(dtype)
        case "random" | "origin":
            return Random()
    return Drawn(rule, settings.remasking_temperature) if settings.remasking_temperature else rule


def surest_first(confidence: torch.Tensor) -> torch.Tensor:
    """Order of the candidates [B, M] of every row by falling confidence; among equals the first comes first."""
    return confidence.sort(dim=-1, descending=True, stable=True).indices


def ascending_first(positions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Positions [B, M] of every row sorted: the `wanted` [B, M] ones in ascending order, then the others."""
    behind = torch.iinfo(positions.dtype).max // 2
    ordered = torch.where(wanted, positions, positions + behind).sort(dim=-1).values
    return torch.where(ordered >= behind, ordered - behind, ordered)
