"""Who proposes the tokens that a forward verifies? Four ways; they change how fast a text comes, and not the text.

Each works on static memory and waits for nothing, so that a whole step can be one CUDA graph. `text` [B, S] holds
prompt and output of every row, and padding behind them; `end` [B] is the position of its last token.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from llmbench.config.decoders import Autoregressive
from llmbench.config.schedules import even
from llmbench.decoding.base import Engine
from llmbench.decoding.greedy import greedy

NGRAM = 3
"""Longest n-gram that is looked up; shorter ones follow where it does not occur. Saxena's prompt lookup decoding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftModel:
    """The model that drafts, ready to run."""

    engine: Engine
    vocabulary: int
    verified_vocabulary: int  # of the model under test
    mask_id: int | None = None  # of a diffusion model
    logit_shift: int = 0  # likewise: how far before a masked position the hidden state lies that predicts it

    def readable(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids without those that this model lacks: padded vocabularies differ, and random weights write any id."""
        return ids.clamp(max=self.vocabulary - 1)

    def proposable(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids without those that the model under test lacks."""
        return ids.clamp(max=self.verified_vocabulary - 1)


class Draft(Protocol):
    """Proposes tokens for the batches of one shape."""

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Take the prompts [B, P]."""
        ...

    def propose(self, text: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """The tokens that may follow the last one of each row: [B, N]."""
        ...


class LookupDraft:
    """What followed the last tokens where they occurred before: the longest n-gram, and of its places the latest."""

    def __init__(self, count: int) -> None:
        self._count = count

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Nothing: the text is looked at when tokens are proposed."""

    def propose(self, text: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """See `Draft`. A text that ends before so many tokens repeats what it has from there; without a place, its end.

        Where nothing is found the last token itself is proposed again.
        """
        length = text.shape[1]
        best = torch.full_like(end, -1)  # n * length + the place behind the n-gram; a longer one counts more
        for n in range(1, min(NGRAM, length) + 1):
            behind = torch.arange(n, length + 1, device=text.device)
            suffix = text.gather(1, (end[:, None] + torch.arange(1 - n, 1, device=text.device)).clamp(min=0))
            found = (text.unfold(1, n, 1) == suffix[:, None]).all(-1) & (behind <= end[:, None])
            best = torch.maximum(best, torch.where(found, n * length + behind, -1).amax(1))
        begin = torch.where(best < 0, end, best % length)
        ahead = torch.arange(self._count, device=text.device)
        return text.gather(1, begin[:, None] + ahead % (end + 1 - begin)[:, None])


class ModelDraft:
    """The greedy continuation of a smaller causal model, token by token from its own cache."""

    def __init__(self, model: DraftModel, rows: int, length: int, count: int) -> None:
        self._model, self._engine, self._count = model, model.engine, count
        self._cache = model.engine.new_cache(rows, length)

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """See `Draft`."""
        self._engine.prefill(self._model.readable(ids), mask, self._cache)

    def propose(self, text: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """See `Draft`. The last two tokens are read: where all was accepted, the cache lacks the first of them."""
        place, proposed = end - 1, list[torch.Tensor]()
        tokens = self._model.readable(text.gather(1, torch.stack([place, end], 1)))
        for _ in range(self._count):
            hidden = self._engine.extend(tokens, place, self._cache, causal=True)[:, -1]
            place = place + tokens.shape[1]
            tokens = greedy(self._engine.head(hidden))[0][:, None]
            proposed.append(tokens)
        return self._model.proposable(torch.cat(proposed, 1))


class DiffusionDraft:
    """A block of masks behind the text, filled by a diffusion model in `draft_steps` forwards, the surest first.

    What lies before the block is read from a cache that was written when it was the block itself: approximate, as the
    prefix cache of diffusion decoding is, which costs acceptance and nothing else. The tokens that were accepted last
    are read anew.
    """

    def __init__(self, model: DraftModel, rows: int, length: int, prompt: int, settings: Autoregressive) -> None:
        assert model.mask_id is not None
        self._model, self._engine = model, model.engine
        self._mask_id, self._shift = model.mask_id, model.logit_shift
        self._count = settings.draft_tokens
        self._schedule = even(self._count, settings.draft_steps)
        self._before = min(self._count + 1, prompt)
        self._cache = model.engine.new_cache(rows, length)

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """See `Draft`."""
        self._engine.denoise(self._model.readable(ids), mask, ids[:, :0], self._cache)

    def propose(self, text: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """See `Draft`."""
        start = end + 1 - self._before
        known = text.gather(1, start[:, None] + torch.arange(self._before, device=text.device))
        known = self._model.readable(known)
        block = torch.full((text.shape[0], self._count), self._mask_id, device=text.device)
        for step, count in enumerate(self._schedule):
            hidden = self._engine.extend(torch.cat([known, block], 1), start, self._cache, causal=False)
            begin = self._before - self._shift
            logits = self._engine.head(hidden[:, begin : begin + self._count].reshape(block.numel(), -1))
            tokens, sure = (part.view_as(block) for part in greedy(logits, self._mask_id))
            if step + 1 == len(self._schedule):
                block = torch.where(block == self._mask_id, tokens, block)
            else:
                sure = sure.masked_fill(block != self._mask_id, -1.0)
                chosen = sure.topk(count, dim=1).indices
                block = block.scatter(1, chosen, tokens.gather(1, chosen))
        return self._model.proposable(block)


class SelfDraft:
    """A block of masks behind the last token, filled at once by the model under test in its diffusion mode.

    It reads the cache of the verified text, and writes its own keys and values behind it, where the forward that
    verifies the draft overwrites them (Nemotron-Labs-Diffusion, arXiv 2607.05722, linear self-speculation).
    """

    def __init__(self, model: DraftModel, cache: Any, count: int) -> None:
        """Take the model under test, in its diffusion mode, and the cache of its text."""
        assert model.mask_id is not None
        self._model, self._engine, self._cache, self._count = model, model.engine, cache, count
        self._mask_id, self._shift = model.mask_id, model.logit_shift

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Nothing: the prompt is in the cache."""

    def propose(self, text: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """See `Draft`."""
        block = torch.nn.functional.pad(text.gather(1, end[:, None]), (0, self._count), value=self._mask_id)
        hidden = self._engine.extend(block, end, self._cache, causal=False)
        hidden = hidden[:, :-1] if self._shift else hidden[:, 1:]
        logits = self._engine.head(hidden.reshape(-1, hidden.shape[2]))
        return greedy(logits, self._mask_id)[0].view(-1, self._count)


def build(settings: Autoregressive, model: DraftModel | None, rows: int, prompt: int, length: int, cache: Any) -> Draft:
    """The draft that `settings` ask for, for batches of one shape.

    Args:
        settings: with a draft.
        model: that drafts: a smaller one, a diffusion model, or for `draft=self` the one under test.
        rows: B.
        prompt: P.
        length: positions of a sequence, drafted ones included.
        cache: of the text, of the model under test.
    """
    if settings.draft == "lookup":
        return LookupDraft(settings.draft_tokens)
    assert model is not None
    if settings.draft == "self":
        return SelfDraft(model, cache, settings.draft_tokens)
    if settings.draft == "model":
        return ModelDraft(model, rows, length, settings.draft_tokens)
    return DiffusionDraft(model, rows, length, prompt, settings)
