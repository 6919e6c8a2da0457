"""How fast is Transformers' own `generate`? A second autoregressive baseline, the one that most papers compare with.

A second baseline shows how much of a published speedup is the baseline's own. This decoder runs `generate` as it is:
its loop, its caches, its sampling. It asks the engine for nothing but the model, so the modules run eagerly
whatever `hardware.engine` says; with `cache: static` Transformers itself compiles the decoding forward on CUDA (on a
CPU it does not).

- Greedy tokens in float32 are those of `AutoregressiveDecoder` (tests/decoding). Sampled ones follow the same
  distribution from other draws: `generate` draws with `multinomial` from torch's global generator, which is seeded
  for the call and put back afterwards.
- Nothing but the settings counts: what the checkpoint's generation_config.json says (temperature, penalties, stop
  tokens) is kept out, and `top_k`, whose default is 50, is off.
- `on_step(i)` is called from a stopping criterion: token i of every row is chosen, padded where the row had stopped,
  and appended; the host has not looked yet whether all rows have stopped. The criterion is there in every pass, since
  it counts the forwards (newer versions may run one more than there are tokens). It costs an `or` of B booleans per
  token. `generate` itself waits for the device at every token to ask whether all rows have stopped; that is part of
  what is measured.
- With `draft` it drafts and verifies as `generate` does by itself: prompt lookup, or an assistant model, for one
  sequence at a time. How many tokens a forward read is not told; `forwards` count one each, the least.
- A static cache is as long as the longest one that this decoder was asked for, and the compiled forward is kept from
  call to call; both are forgotten with the decoder, so that no job inherits another's.
"""

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch

from llmbench.config.decoders import Transformers
from llmbench.decoding.base import DecodedBatch, Engine, OnStep, PromptBatch
from llmbench.decoding.drafts import NGRAM, DraftModel
from llmbench.record import ForwardShape


@runtime_checkable
class HasModel(Protocol):
    """An engine that hands out the Transformers model it runs."""

    @property
    def model(self) -> Any:
        """A causal LM with `generate`."""
        ...


class TransformersDecoder:
    """`generate`, greedy or sampled, for one batch at a time."""

    streams = True

    def __init__(
        self, settings: Transformers, *, stop_ids: tuple[int, ...], pad_id: int, draft: DraftModel | None = None
    ) -> None:
        self._settings = settings
        self._draft = draft
        self._stop_ids = stop_ids
        self._pad_id = pad_id
        self._known: weakref.finalize[Any, Any] | None = None  # forgets what `generate` left on the model

    def prepare(self, engine: Engine, batch: PromptBatch) -> None:
        """Nothing: `generate` makes what it needs when it is called first."""

    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> DecodedBatch:
        """Generate until every row has stopped or `max_new_tokens` are there; on_step: see the module.

        Raises:
            TypeError: the engine has no `model`.
        """
        if not isinstance(engine, HasModel):
            raise TypeError(f"model.decoder=transformers needs an engine with a model, not {type(engine).__name__}")
        model = engine.model
        if self._known is None:
            _forget(model)
            self._known = weakref.finalize(self, _forget, model)
            self._known.atexit = False
        rows, prompt = batch.ids.shape
        counter = _Counter(on_step, torch.zeros(rows, dtype=torch.bool, device=batch.ids.device))
        with _own_settings(model), self._assistant() as more, self._seeded(batch.ids.device, seed):
            whole = model.generate(
                input_ids=batch.ids,
                attention_mask=torch.ones_like(batch.ids) if batch.mask is None else batch.mask.long(),
                generation_config=self._generation_config(),
                stopping_criteria=[counter],
                **more,
            )
        first = ForwardShape(rows=rows, queries=prompt, keys=prompt, logits=1, padding=batch.padding)
        later = (replace(first, queries=1, keys=length) for length in counter.lengths[:-1])
        return DecodedBatch(tokens=whole[:, prompt:], forwards=(first, *later), nfe=len(counter.lengths))

    @contextlib.contextmanager
    def _assistant(self) -> Iterator[dict[str, Any]]:
        """The arguments of `generate` that make it draft, always so many tokens, as the settings ask for."""
        from transformers import GenerationConfig

        count = self._settings.draft_tokens
        match self._settings.draft:
            case "lookup":
                yield {"prompt_lookup_num_tokens": count, "max_matching_ngram_size": NGRAM}
            case "model":
                assert self._draft is not None
                model: Any = self._draft.engine.model  # type: ignore[attr-defined]
                constant = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
                with _own_settings(model, GenerationConfig(num_assistant_tokens=count, **constant)):
                    yield {"assistant_model": model}
            case _:
                yield {}

    def _generation_config(self) -> Any:
        from transformers import GenerationConfig

        settings = self._settings
        watch = bool(self._stop_ids) and not settings.ignore_stop
        sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k or 0}
        return GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=settings.temperature > 0,
            eos_token_id=list(self._stop_ids) if watch else None,
            pad_token_id=self._pad_id,
            cache_implementation="static" if settings.cache == "static" else None,
            **(sampling if settings.temperature > 0 else {}),
        )

    @contextlib.contextmanager
    def _seeded(self, device: torch.device, seed: int) -> Iterator[None]:
        """Torch's global generators start from `seed` and are put back; greedy decoding leaves them alone."""
        if not self._settings.temperature:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed % 2**63)
            yield


class _Counter:
    """A stopping criterion that never stops: counts forwards and marks tokens."""

    def __init__(self, on_step: OnStep | None, never: torch.Tensor) -> None:
        self.lengths: list[int] = []  # of the sequences, behind each forward
        self._on_step = on_step
        self._never = never  # [B] of False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Called once per forward, after its tokens are appended to `input_ids` [B, P + tokens]."""
        if self._on_step is not None:
            self._on_step(len(self.lengths))
        self.lengths.append(input_ids.shape[1])
        return self._never


@contextlib.contextmanager
def _own_settings(model: Any, ours: Any = None) -> Iterator[None]:
    """Hide the checkpoint's generation settings: `generate` fills whatever is None from them, stop tokens too.

    Args:
        model: with a `generation_config`.
        ours: what stands there meanwhile; None: nothing.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = ours or GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _forget(model: Any) -> None:
    """Drop what `generate` keeps on a model from call to call: the compiled forward, the length of static caches."""
    compiled = model.__dict__.pop("_compiled_call", None)
    for name in ("_last_compile_config", "_previous_max_cache_length"):
        model.__dict__.pop(name, None)
    if compiled is not None:
        torch.compiler.reset()  # its graphs hold memory
