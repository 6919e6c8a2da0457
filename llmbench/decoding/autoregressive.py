"""How does a causal model write? One token after the other, each from the key-value cache of all before it.

Greedy output is token-identical to Transformers' `generate` in float32, batched with left padding (tests/decoding).
Sampling is temperature and nucleus, drawn with the same float64 Gumbel noise as diffusion; `generate`'s `multinomial`
would wait for the device at every token.

Whether every row has stopped is known on the device only. Asking costs a synchronisation, so the loop asks every
`stop_check_every` tokens: up to that many forwards run for nothing. They are counted, because they are part of the
latency; their tokens are padding behind the stop token and never count as output.
"""

import torch

from llmbench.config import Autoregressive
from llmbench.decoding import base, rules
from llmbench.decoding.base import Engine, Generation, OnStep, PromptBatch
from llmbench.record import ForwardShape


class AutoregressiveDecoder:
    """Greedy or sampled decoding of a batch."""

    streams = True

    def __init__(self, settings: Autoregressive, *, stop_ids: tuple[int, ...], pad_id: int) -> None:
        self._settings = settings
        self._stop_ids = stop_ids
        self._pad_id = pad_id

    @torch.inference_mode()
    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> Generation:
        """Generate until every row has stopped or `max_new_tokens` are there.

        Rows that stopped are filled with the padding token. One forward per token; `on_step(i)` follows token i.
        """
        settings, (rows, prompt) = self._settings, batch.ids.shape
        stops = torch.tensor(self._stop_ids, dtype=torch.int64, device=engine.device)
        draws = base.Draws(engine.device, seed)
        watch = bool(self._stop_ids) and not settings.ignore_stop
        done = torch.zeros(rows, dtype=torch.bool, device=engine.device)
        tokens = torch.full((rows, settings.max_new_tokens), self._pad_id, device=engine.device)

        logits, cache = engine.prefill(batch.ids, batch.mask)
        forwards = [ForwardShape(rows=rows, queries=prompt, keys=prompt, logits=1)]
        for i in range(settings.max_new_tokens):
            token = choose(logits, settings.temperature, settings.top_p, draws)
            if watch:
                token = token.masked_fill(done, self._pad_id)
                done |= torch.isin(token, stops)
            tokens[:, i] = token
            if on_step is not None:
                on_step(i)
            made = i + 1
            if made == settings.max_new_tokens or (
                watch and made % settings.stop_check_every == 0 and bool(done.all())
            ):
                break
            logits = engine.decode(token, cache)
            forwards.append(ForwardShape(rows=rows, queries=1, keys=prompt + made, logits=1))
        return Generation(tokens=tokens[:, : len(forwards)], forwards=tuple(forwards), nfe=len(forwards))


def choose(logits: torch.Tensor, temperature: float, top_p: float, draws: base.Draws) -> torch.Tensor:
    """The next token of every row: the likeliest at temperature 0, else a draw from the nucleus.

    Args:
        logits: [B, V].
        temperature: 0 draws nothing.
        top_p: share of the probability mass, in (0, 1].
        draws: of the logits' device.

    Returns:
        [B] int64.
    """
    if temperature == 0:
        return logits.argmax(-1)
    noise = draws.fill_(torch.empty(logits.shape, dtype=torch.float64, device=logits.device))
    rules.gumbel_(noise, temperature)
    return noise.add_(nucleus(logits, temperature, top_p)).argmax(-1)


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Set to -inf what lies outside the nucleus: the fewest likeliest tokens that reach a mass of `top_p` together.

    Holtzman et al., arXiv 1904.09751. The likeliest token always stays. Temperature applies first, as in `generate`.

    Args:
        logits: [B, V]; not changed.
        temperature: > 0; shapes the distribution whose mass is counted, the logits returned are not scaled.
        top_p: 1 keeps everything.
    """
    if top_p >= 1:
        return logits
    ordered, order = (logits.float() / temperature).sort(dim=-1, descending=True, stable=True)
    mass = ordered.softmax(-1).cumsum(-1)
    outside = torch.zeros_like(mass, dtype=torch.bool)
    outside[:, 1:] = mass[:, :-1] >= top_p  # the mass of the likelier ones suffices already
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), float("-inf"))
