"""How well does the model under test itself predict held-out human text? Negative log-likelihood in nats.

*Autoregressive*: exact, one causal forward per text. *Diffusion*: a Monte-Carlo estimate of LLaDA's upper bound
(Nie et al. 2025, arXiv:2502.09992, with the given first token as prompt): of a text's L scored tokens mask l ~
U{1..L}, exactly l of them without replacement, and

    -log p  <=  E_l E_mask [ L/l * sum over masked i of -log p(y_i | the unmasked rest) ].

So "LLaDA no worse" can be read off, "LLaDA worse" may be slack of the bound. Draws of one text are stratified by one
u ~ U(0, 1): l_i = 1 + floor(L * frac(u + i/b)), which has every l equally often in expectation for every L and b (the
official minibatch rounds half to even and is off by several percent for short texts).

A model that writes in blocks has the same bound block by block, each given the text before it; the blocks of a text are
the terms of its chain rule (Arriola et al. 2025, arXiv:2503.09573).

The first token of a text is given and not scored, for both families: a causal model without a start token has no
prediction for it, and this way the two numbers are about the same tokens. Where a tokenizer adds a start token, that
is the given one. The bytes are those of the whole text. Likelihood is a property of the model and does not depend on
the number of diffusion steps, so a figure is computed once per process and model.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from llmbench.config.modes import Mode
from llmbench.errors import ConfigError
from llmbench.record import Likelihood

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 1024
"""Most tokens in one forward: an 8B model's logits of them are half a gigabyte in float32."""


class Engine(Protocol):
    """What is asked of the model under test."""

    @property
    def device(self) -> "torch.device":
        """Where ids are expected."""

    def logits(self, ids: "torch.Tensor", mask: "torch.Tensor | None", /) -> "torch.Tensor":
        """Logits [B, S, V] of ids [B, S]; no mask: every position is a real token."""

    def block_logits(self, text: "torch.Tensor", noisy: "torch.Tensor", blocks: "torch.Tensor", /) -> "torch.Tensor":
        """Logits [B, S, V] that predict each position of `noisy` [B, S] in its block [S], given the text before it."""


def model_likelihood(
    engine: Engine,
    token_ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    *,
    mode: Mode,
    mask_id: int | None,
    samples: int,
    seed: int,
    tick: Callable[[str, int, int], None],
    name: str | None = None,
) -> Likelihood:
    """Summed negative log-likelihood of held-out texts.

    Args:
        engine: the model under test.
        token_ids: ids of each text, under the model's own tokenizer.
        texts: the same texts, for their bytes.
        mode: in which the model is decoded; it says which formula.
        mask_id: the mask token; diffusion only.
        samples: Monte-Carlo samples per text; diffusion only. Two independent halves of them give the standard error:
            draws inside one stratified half are not independent. With one sample there is no error estimate.
        seed: of the masks. They are drawn on the CPU, so that every device sees the same ones.
        tick: progress.
        name: of the model with its content hash, device and dtype: the key of the cache. None caches nothing.

    Raises:
        ConfigError: diffusion without a mask token.
    """
    import torch

    causal = mode.attention == "causal"
    key = (name, mode, tuple(texts), samples, seed)
    if name is not None and key in _CACHE:
        return _CACHE[key]
    if not causal and mask_id is None:
        raise ConfigError(
            "metric.likelihood=true needs a mask token, and this checkpoint has none; set metric.likelihood=false"
        )
    generator = torch.Generator().manual_seed(seed)
    total, variance = 0.0, 0.0
    with torch.inference_mode():
        for done, ids in enumerate(token_ids):
            tick("likelihood", done, len(token_ids))
            text = torch.tensor([list(ids)], device=engine.device)
            if text.shape[1] < 2:
                continue  # nothing but the given token
            if mask_id is None or causal:
                total -= float(exact(engine, text, [1])[0])
                continue
            halves = [n for n in (samples - samples // 2, samples // 2) if n]
            means = [
                block_bound(engine, text, mask_id, n, generator, mode)
                if mode.in_blocks
                else bound(engine, text, 1, mask_id, n, generator, mode.logit_shift)
                for n in halves
            ]
            total += sum(means) / len(means)
            variance += (means[0] - means[-1]) ** 2 / 4
    tick("likelihood", len(token_ids), len(token_ids))
    likelihood = Likelihood(
        nll_nats=total,
        utf8_bytes=sum(len(text.encode()) for text in texts),
        bound=not causal,
        standard_error_nats=math.sqrt(variance) if not causal and samples > 1 else None,
        texts=len(texts),
        scored_tokens=sum(max(0, len(ids) - 1) for ids in token_ids),
    )
    if name is not None:
        _CACHE[key] = likelihood
    return likelihood


_CACHE: dict[tuple[object, ...], Likelihood] = {}
"""By model, mode, texts, samples and seed; numbers alone, no models and no tensors."""


def masked_counts(length: int, samples: int, u: float) -> list[int]:
    """How many of `length` tokens each of `samples` stratified draws masks; u in [0, 1)."""
    return [min(length, 1 + math.floor(length * ((u + i / samples) % 1.0))) for i in range(samples)]


def exact(engine: Engine, ids: "torch.Tensor", given: Sequence[int]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Log-likelihood of each row under a causal model, and whether every scored token is the most probable one.

    Args:
        engine: a causal model.
        ids: [B, S] int64, no padding.
        given: [B] how many tokens of each row are read and not scored, at least 1.

    Returns:
        [B] float64 in nats, [B] bool.
    """
    import torch
    import torch.nn.functional as F

    first = min(given)
    logits = engine.logits(ids, None)[:, first - 1 : -1].float()  # [B, S - first, V]: position p predicts p + 1
    wanted = ids[:, first:]
    scored = torch.arange(first, ids.shape[1], device=ids.device) >= torch.tensor(given, device=ids.device)[:, None]
    losses = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").double()
    return -losses.where(scored, 0.0).sum(1), ((logits.argmax(-1) == wanted) | ~scored).all(1)


def bound(
    engine: Engine,
    ids: "torch.Tensor",
    given: int,
    mask_id: int,
    samples: int,
    generator: "torch.Generator",
    logit_shift: int = 0,
) -> float:
    """Upper bound of the negative log-likelihood: mean over stratified draws of L/l * masked cross-entropy, in nats.

    Args:
        engine: a masked diffusion model.
        ids: [1, S] int64.
        given: tokens at the beginning that are never masked, `logit_shift` at least; the other L = S - given count.
        mask_id: the mask token.
        samples: draws.
        generator: of the masks, on the CPU, so that every device sees the same ones.
        logit_shift: how many positions before a masked one the logits stand that predict it.
    """
    import torch
    import torch.nn.functional as F

    length = ids.shape[1] - given
    counts = masked_counts(length, samples, float(torch.rand((), generator=generator, dtype=torch.float64)))
    hidden = torch.zeros(samples, ids.shape[1], dtype=torch.bool)
    for row, count in enumerate(counts):
        hidden[row, given + torch.randperm(length, generator=generator)[:count]] = True
    hidden = hidden.to(ids.device)
    weights = torch.tensor([length / count for count in counts], dtype=torch.float64, device=ids.device)
    total = 0.0
    rows = max(1, BATCH_TOKENS // ids.shape[1])
    for part in range(0, samples, rows):
        chosen = hidden[part : part + rows]  # [b, S]
        read = ids.expand(chosen.shape).masked_fill(chosen, mask_id)
        # [masked, V]: a masked position predicts itself, or the one `logit_shift` before it does
        logits = engine.logits(read, None)[chosen.roll(-logit_shift, 1)].float()
        losses = F.cross_entropy(logits, ids.expand(chosen.shape)[chosen], reduction="none").double()
        total += float((losses * weights[part : part + rows].repeat_interleave(chosen.sum(1))).sum())
    return total / samples


def block_bound(
    engine: Engine, ids: "torch.Tensor", mask_id: int, samples: int, generator: "torch.Generator", mode: Mode
) -> float:
    """`bound` of a model that writes in blocks, the first token given: the sum of its blocks' bounds, in nats.

    Blocks begin where the model would begin them behind a prompt of one token: behind it, or at the text's beginning. A
    token that the mode has given in a block is scored exactly.

    Args:
        engine: the model.
        ids: [1, S] int64.
        mask_id: the mask token.
        samples: draws.
        generator: of the masks, on the CPU, so that every device sees the same ones.
        mode: of the model.
    """
    import torch
    import torch.nn.functional as F

    assert mode.block_length is not None
    length, size = ids.shape[1], mode.block_length
    offset = 0 if mode.aligned else size - 1  # the given token begins a block, or ends one
    number = (torch.arange(length) + offset) // size
    scored = torch.arange(length) > 0
    given = scored & (number.diff(prepend=number[:1] - 1) != 0) if mode.given else torch.zeros_like(scored)
    hidden = torch.zeros(samples, length, dtype=torch.bool)
    weights = torch.zeros(samples, length, dtype=torch.float64)
    for block in range(int(number[-1]) + 1):
        places = torch.nonzero(scored & ~given & (number == block))[:, 0]
        if not len(places):
            continue
        u = float(torch.rand((), generator=generator, dtype=torch.float64))
        for row, count in enumerate(masked_counts(len(places), samples, u)):
            hidden[row, places[torch.randperm(len(places), generator=generator)[:count]]] = True
            weights[row, places] = len(places) / count
    weights[:, given] = 1.0
    device = ids.device
    hidden, weights, number, given = hidden.to(device), weights.to(device), number.to(device), given.to(device)
    total = 0.0
    rows = max(1, BATCH_TOKENS // (2 * length))
    for part in range(0, samples, rows):
        masked = hidden[part : part + rows]
        text, chosen = ids.expand(masked.shape), masked | given
        logits = engine.block_logits(text, text.masked_fill(masked, mask_id), number)[chosen].float()
        losses = F.cross_entropy(logits, text[chosen], reduction="none").double()
        total += float((losses * weights[part : part + rows][chosen]).sum())
    return total / samples
