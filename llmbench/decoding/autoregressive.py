"""How does a causal model write? One token after the other, each from the key-value cache of all before it.

Greedy output is token-identical to Transformers' `generate` in float32, batched with left padding (tests/decoding).
Sampling is temperature and nucleus, drawn with the same float64 Gumbel noise as diffusion; `generate`'s `multinomial`
would wait for the device at every token.

Whether every row has stopped is known on the device only. Asking costs a synchronisation, so the loop asks every
`stop_check_every` tokens: up to that many forwards run for nothing. They are counted, because they are part of the
latency; their tokens are padding behind the stop token and never count as output.
"""

import abc

import torch

from llmbench.config.decoders import Autoregressive
from llmbench.decoding import base, rules
from llmbench.decoding.base import DecodedBatch, Engine, OnStep, PromptBatch
from llmbench.decoding.greedy import greedy, largest
from llmbench.record import ForwardShape


class AutoregressiveDecoder:
    """Greedy or sampled decoding of a batch."""

    streams = True

    def __init__(self, settings: Autoregressive, *, stop_ids: tuple[int, ...], pad_id: int) -> None:
        self._settings = settings
        self._stop_ids = () if settings.ignore_stop else stop_ids
        self._pad_id = pad_id

    @torch.inference_mode()
    def prepare(self, engine: Engine, batch: PromptBatch) -> "_Loop":
        """The static memory and captured steps for batches of this shape."""
        shape = (*batch.ids.shape, batch.mask is not None)
        key = self._settings, self._stop_ids, shape
        return engine.reuse(key, lambda: _Loop(self._settings, self._stop_ids, self._pad_id, engine, shape))

    @torch.inference_mode()
    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> DecodedBatch:
        """Generate until every row has stopped or `max_new_tokens` are there.

        Rows that stopped are filled with the padding token. One forward per token; `on_step(i)` follows token i.
        """
        settings, (rows, prompt) = self._settings, batch.ids.shape
        loop = self.prepare(engine, batch)
        loop.start(batch, seed)
        forwards: list[ForwardShape] = []
        for i in range(settings.max_new_tokens):
            if i == 0:
                loop.first()
            else:
                loop.next()
            queries = prompt if i == 0 else 1
            forwards.append(ForwardShape(rows=rows, queries=queries, keys=prompt + i, logits=1, padding=batch.padding))
            if on_step is not None:
                on_step(i)
            if self._stop_ids and (i + 1) % settings.stop_check_every == 0 and bool(loop.done.all()):
                break
        tokens = loop.tokens[:, : len(forwards)].clone()
        return DecodedBatch(tokens=tokens, forwards=tuple(forwards), nfe=len(forwards))


class PromptLoop(abc.ABC):
    """What every way of writing token after token keeps: prompts, stop tokens, random numbers. Memory that stays."""

    def __init__(
        self,
        settings: Autoregressive,
        stop_ids: tuple[int, ...],
        pad_id: int,
        engine: Engine,
        shape: tuple[int, int, bool],
    ) -> None:
        """Memory for batches of a shape: rows, prompt tokens, whether some are padded."""
        rows, prompt, padded = shape
        self._settings, self._pad_id, self._engine = settings, pad_id, engine
        device = engine.device
        self._stops = torch.tensor(stop_ids, dtype=torch.int64, device=device)
        self._draws = base.Draws(device)
        self._ids = torch.full((rows, prompt), pad_id, device=device)
        self._mask = torch.ones(rows, prompt, dtype=torch.bool, device=device) if padded else None

    def start(self, batch: PromptBatch, seed: int) -> None:
        """Take the prompts of a batch."""
        self._ids.copy_(batch.ids)
        if self._mask is not None and batch.mask is not None:
            self._mask.copy_(batch.mask)
        self._draws.restart(seed)
        self._reset()

    @abc.abstractmethod
    def _reset(self) -> None:
        """Nothing is written yet."""


class _Loop(PromptLoop):
    """The memory of a generation, and its two steps. They touch this memory alone, so they can be captured."""

    def __init__(
        self,
        settings: Autoregressive,
        stop_ids: tuple[int, ...],
        pad_id: int,
        engine: Engine,
        shape: tuple[int, int, bool],
    ) -> None:
        super().__init__(settings, stop_ids, pad_id, engine, shape)
        (rows, prompt, padded), device = shape, engine.device
        self._cache = engine.new_cache(rows, prompt + settings.max_new_tokens)
        self._token = torch.full((rows,), pad_id, device=device)
        self._made = torch.zeros(1, dtype=torch.int64, device=device)
        self.tokens = torch.full((rows, settings.max_new_tokens), pad_id, device=device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        engine.compile([lambda logits: choose(logits, settings, self._draws)], padded=padded)
        self.first = engine.capture(self._first, self._reset, self._draws)
        self.next = engine.capture(self._next, self._begin, self._draws) if settings.max_new_tokens > 1 else self.first

    def _reset(self) -> None:
        self._made.zero_()
        self.done.zero_()
        self.tokens.fill_(self._pad_id)

    def _begin(self) -> None:
        self._reset()
        self._first()

    def _first(self) -> None:
        self._commit(self._engine.prefill(self._ids, self._mask, self._cache))

    def _next(self) -> None:
        self._commit(self._engine.decode(self._token, self._cache))

    def _commit(self, logits: torch.Tensor) -> None:
        """Choose the next token of every row, and write it down."""
        token = choose(logits, self._settings, self._draws)
        if self._stops.numel():
            token = token.masked_fill(self.done, self._pad_id)
            self.done.logical_or_((token[:, None] == self._stops).any(-1))
        self._token.copy_(token)
        self.tokens.index_copy_(1, self._made, token[:, None])
        self._made.add_(1)


def choose(logits: torch.Tensor, settings: Autoregressive, draws: base.Draws) -> torch.Tensor:
    """The next token of every row: the most probable one at temperature 0, else a draw from the nucleus.

    Rows are drawn for a few at a time, so that float64 noise does not exist for a large batch of a large vocabulary.

    Args:
        logits: [B, V].
        settings: temperature (0 draws nothing), top_k and top_p.
        draws: of the logits' device.

    Returns:
        [B] int64.
    """
    if settings.temperature == 0:
        return greedy(logits)[0] if logits.is_cuda else largest(logits)
    parts = torch.split(logits, max(1, rules.WIDE // logits.shape[1]))
    drawn = [_draw(part, settings, draws) for part in parts]
    return drawn[0] if len(drawn) == 1 else torch.cat(drawn)


def _draw(logits: torch.Tensor, settings: Autoregressive, draws: base.Draws) -> torch.Tensor:
    """`choose` for [N, V] at once, at a temperature above 0."""
    noise = draws.fill_(torch.empty(logits.shape, dtype=torch.float64, device=logits.device))
    rules.gumbel_(noise, settings.temperature)
    kept = rules.keep_top_k(logits, settings.top_k)
    return largest(noise.add_(rules.nucleus(kept, settings.temperature, settings.top_p)))
