"""How does a causal model write several tokens with one forward? It verifies what something cheaper has drafted.

Speculative decoding (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318). A step reads the last token
and N drafted ones at once, chooses the model's own token behind each, and keeps the drafted ones up to the first that
differs, and the model's token there. So a step writes 1 to N + 1 tokens, and each is one that the model chose:

- at temperature 0 the text is that of plain decoding, token by token (in float32: sums of other shapes round
  differently);
- above it, a draft is a token and no distribution, and for such a draft rejection sampling is this: draw from the
  model, and accept where the draw is the drafted token. That happens with the model's probability of it, and a draw
  that differs follows what is left of the distribution. So the text has the distribution of plain decoding, not its
  draws.

Rows of a batch accept differently, so each has its own place in the cache. The whole step is one CUDA graph, the
draft included. Only the device knows how many tokens there are; the host asks when all rows may be done at the
earliest, and where outputs may stop, every `stop_check_every` steps.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from llmbench.config.decoders import Autoregressive
from llmbench.decoding import drafts
from llmbench.decoding.autoregressive import PromptLoop, choose
from llmbench.decoding.base import DecodedBatch, Engine, OnStep, PromptBatch
from llmbench.decoding.drafts import DraftModel
from llmbench.record import ForwardShape


class SpeculativeDecoder:
    """Greedy or sampled decoding of a batch, with drafted tokens."""

    streams = True

    def __init__(
        self, settings: Autoregressive, *, stop_ids: tuple[int, ...], pad_id: int, model: DraftModel | None = None
    ) -> None:
        """Take the settings, and the model that drafts, where one does."""
        self._settings, self._model, self._pad_id = settings, model, pad_id
        self._stop_ids = () if settings.ignore_stop else stop_ids

    @torch.inference_mode()
    def prepare(self, engine: Engine, batch: PromptBatch) -> "_Loop":
        """The static memory and captured steps for batches of this shape."""
        shape = (*batch.ids.shape, batch.mask is not None)
        key = self._settings, self._stop_ids, shape
        return engine.reuse(
            key, lambda: _Loop(self._settings, self._stop_ids, self._pad_id, engine, self._model, shape)
        )

    @torch.inference_mode()
    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> DecodedBatch:
        """Generate until every row has stopped or `max_new_tokens` are there.

        Rows that stopped are filled with the padding token. `on_step(i)` follows forward i, which made at least token i
        of every row that goes on. `forwards` are the verifying model's, its own drafts included; their keys are those
        of a row on average.
        """
        settings, prompt = self._settings, batch.ids.shape[1]
        loop = self.prepare(engine, batch)
        loop.start(batch, seed)
        loop.first()
        steps, left = 0, settings.max_new_tokens - 1
        written: Sequence[int] = ()
        if on_step is not None:
            on_step(0)
        while left:
            due = -(-left // loop.width)
            for _ in range(min(due, settings.stop_check_every) if self._stop_ids else due):
                loop.next()
                steps += 1
                if on_step is not None:
                    on_step(steps)
            left, written = loop.look(steps)
        forwards = [_shape(batch, queries=prompt, keys=prompt, logits=1)]
        for made in written:
            keys = prompt + made // batch.ids.shape[0] + loop.width - 1
            verifying = _shape(batch, queries=loop.width, keys=keys, logits=loop.width)
            if settings.draft == "self":  # the same model reads as many positions, and sees them both ways
                forwards.append(replace(verifying, logits=loop.width - 1, causal=False))
            forwards.append(verifying)
        tokens = loop.text[:, prompt : prompt + settings.max_new_tokens].clone()
        return DecodedBatch(tokens=tokens, forwards=tuple(forwards), nfe=len(forwards))


def _shape(batch: PromptBatch, *, queries: int, keys: int, logits: int) -> ForwardShape:
    rows = batch.ids.shape[0]
    return ForwardShape(rows=rows, queries=queries, keys=keys, logits=logits, padding=batch.padding)


class _Loop(PromptLoop):
    """The memory of a generation, and its two steps. They touch this memory alone, so they can be captured."""

    def __init__(
        self,
        settings: Autoregressive,
        stop_ids: tuple[int, ...],
        pad_id: int,
        engine: Engine,
        model: DraftModel | None,
        shape: tuple[int, int, bool],
    ) -> None:
        super().__init__(settings, stop_ids, pad_id, engine, shape)
        (rows, prompt, padded), device = shape, engine.device
        self._prompt = prompt
        self.width = settings.draft_tokens + 1
        length = prompt + settings.max_new_tokens + self.width  # drafts behind the last token need a place
        self._cache = engine.new_cache(rows, length)
        self._draft = drafts.build(settings, model, rows, prompt, length, self._cache)
        self.text = torch.full((rows, length), pad_id, device=device)
        self._end = torch.zeros(rows, dtype=torch.int64, device=device)  # where the last token stands
        self._done = torch.zeros(rows, dtype=torch.bool, device=device)
        self._ahead = torch.arange(self.width, device=device)
        self._steps = torch.zeros(1, dtype=torch.int64, device=device)
        self._before = torch.zeros(settings.max_new_tokens, dtype=torch.int64, device=device)  # tokens before each step
        engine.compile([lambda logits: choose(logits, settings, self._draws)], padded=padded)
        self.first = engine.capture(self._first, self._reset, self._draws)
        self.next = engine.capture(self._next, self._begin, self._draws) if settings.max_new_tokens > 1 else self.first

    def look(self, steps: int) -> tuple[int, list[int]]:
        """Tokens that the row furthest behind lacks, and the tokens of all rows before each of `steps`. Waits."""
        lacking = (self._prompt + self._settings.max_new_tokens - 1 - self._end).masked_fill(self._done, 0)
        left, *before = torch.cat([lacking.max()[None], self._before[:steps]]).tolist()
        return left, before

    def _reset(self) -> None:
        self._done.zero_()
        self._steps.zero_()
        self.text.fill_(self._pad_id)
        self.text[:, : self._prompt] = self._ids
        self._end.fill_(self._prompt - 1)

    def _begin(self) -> None:
        self._reset()
        self._first()

    def _first(self) -> None:
        self._draft.read(self._ids, self._mask)
        logits = self._engine.prefill(self._ids, self._mask, self._cache)
        self._commit(choose(logits, self._settings, self._draws)[:, None], torch.ones_like(self._end))

    def _next(self) -> None:
        """Draft, verify, and write down what was accepted."""
        self._before.index_copy_(0, self._steps, (self._end - self._prompt + 1).sum()[None])
        self._steps.add_(1)
        drafted = self._draft.propose(self.text, self._end)
        tokens = torch.cat([self.text.gather(1, self._end[:, None]), drafted], 1)
        logits = self._engine.head(self._engine.extend(tokens, self._end, self._cache, causal=True))
        chosen = choose(logits.view(-1, logits.shape[-1]), self._settings, self._draws).view_as(tokens)
        accepted = (chosen[:, :-1] == drafted).cumprod(1).sum(1)
        if (fixed := self._settings.fixed_accepted_tokens) is not None:
            accepted = torch.full_like(accepted, fixed)
        self._commit(chosen, accepted + 1)

    def _commit(self, chosen: torch.Tensor, count: torch.Tensor) -> None:
        """Write the first `count` [B] of the `chosen` [B, <= W] tokens behind each row, up to its stop token or G."""
        room = self._prompt + self._settings.max_new_tokens - 1 - self._end
        count = torch.minimum(count, room).masked_fill(self._done, 0)
        ahead = self._ahead[: chosen.shape[1]]
        if self._stops.numel():
            stops = (chosen[..., None] == self._stops).any(-1)
            behind = stops.cumsum(1) - stops.long()  # stop tokens before each one
            count = torch.minimum(count, (behind == 0).sum(1))
            self._done.logical_or_((stops & (ahead < count[:, None])).any(1))
        where = self._end[:, None] + 1 + ahead
        self.text.scatter_(1, where, torch.where(ahead < count[:, None], chosen, self._pad_id))
        self._end.add_(count)
