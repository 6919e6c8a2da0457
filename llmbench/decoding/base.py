"""The interfaces between the timed passes, decoders and engines: a `Decoder` generates with an `Engine`.

Shapes: B rows, P prompt tokens, S tokens of a whole sequence, Q of a part of it, G new tokens, M positions, C channels,
V vocabulary.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from llmbench.record import ForwardShape

T = TypeVar("T")

OnStep = Callable[[int], None]
"""Called with 0, 1, 2, ... right after the tokens of that forward are final on the device; nothing is synchronised."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptBatch:
    """Prompts of one batch on the device, padded on the left so that all end at the same position.

    Raises:
        ValueError: a row is padded elsewhere, which no engine computes rightly. Waits for the device, once per batch.
    """

    ids: torch.Tensor  # [B, P] int64
    mask: torch.Tensor | None  # [B, P] bool, False where padded; None when nothing is padded
    padding: int = 0  # padded positions of all rows, known to the host

    def __post_init__(self) -> None:
        if self.mask is not None and bool((self.mask[:, :-1] & ~self.mask[:, 1:]).any()):
            raise ValueError("prompts must be padded on the left: a row has padding behind a token")


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedBatch:
    """The outputs of one batch.

    `forwards` are the passes as they ran, for the roofline: guidance runs its two halves as one pass over twice the
    rows. `nfe` is what the papers count: function evaluations, guidance counted twice. `first_text` is the number of
    calls of `on_step` after which the first text is final and can be shown.
    """

    tokens: torch.Tensor  # [B, <= G] int64, everything after the prompt, as the decoder left it
    forwards: tuple[ForwardShape, ...]
    nfe: int
    first_text: int = 1

    @property
    def longest_row(self) -> None:
        """Forwards are known here."""
        return None


class Engine(Protocol):
    """A model that is ready to run. Logits come in the model's dtype, and the caller may overwrite them.

    A decoder puts all that a generation works on into static memory (a *loop*); a step is a function of that memory
    alone. So `reuse` and `capture` can replay steps as CUDA graphs. An engine without graphs makes a new loop for every
    generation and calls its steps as they are.
    """

    @property
    def device(self) -> torch.device:
        """Where ids, masks and positions must be."""
        ...

    def close(self) -> None:
        """Destroy what was captured."""
        ...

    def new_cache(self, rows: int, length: int) -> Any:
        """Memory for keys and values of `rows` sequences of at most `length` positions."""
        ...

    def reuse(self, key: Hashable, make: Callable[[], T]) -> T:
        """The loop of a shape: what `make` returns, or returned when this key came first."""
        ...

    def compile(self, calls: Sequence[Callable[[torch.Tensor], object]], *, padded: bool) -> None:
        """Compile the kernels of independent calls before the first step; each is given logits [1, V].

        The engine's own kernels are compiled too, for padded batches where `padded` is true.
        """
        ...

    def capture(self, step: Callable[[], None], reset: Callable[[], None], draws: "Draws") -> Callable[[], None]:
        """`step`, ready to be called many times; `reset` prepares the static memory for a warm-up run of it."""
        ...

    def prefill(self, ids: torch.Tensor, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
        """Read the prompts [B, P] into the cache: logits of the token after them [B, V]."""
        ...

    def decode(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        """Append one token per row [B] to the cache: logits of the next one [B, V]."""
        ...

    def extend(
        self, tokens: torch.Tensor, start: torch.Tensor, cache: Any, *, causal: bool, wanted: bool = True
    ) -> torch.Tensor:
        """Read tokens [B, Q] into the cache, each row at its own place `start` [B]; hidden states [B, Q, C].

        Nothing behind them is seen, with `causal` nothing behind each of them. No hidden states where none are
        `wanted`.
        """
        ...

    def denoise(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: Any = None
    ) -> torch.Tensor:
        """Read whole sequences [B, S], into a cache if there is one; hidden states [B, M, C] at `positions` [B, M]."""
        ...

    def refine(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        where: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
    ) -> torch.Tensor:
        """Read the part [B, Q] at `where` [Q] anew against the cache; hidden states [B, M, C] at `positions` [B, M]."""
        ...

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of hidden states [..., C]."""
        ...

    def logits(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Read whole sequences [B, S]; logits at every position [B, S, V], for likelihood."""
        ...


class Decoder(Protocol):
    """A way of generating text."""

    @property
    def streams(self) -> bool:
        """Whether the first token is final long before the last one, so that the timed pass marks it (L_prefill)."""
        ...

    def prepare(self, engine: Engine, batch: PromptBatch) -> Any:
        """Make an engine that keeps loops ready for batches of this shape."""
        ...

    def generate(self, engine: Engine, batch: PromptBatch, *, seed: int, on_step: OnStep | None) -> DecodedBatch:
        """Generate for one batch. The same seed gives the same tokens on the same device and versions."""
        ...


def valid_lengths(tokens: torch.Tensor, stop_ids: Sequence[int]) -> list[tuple[int, bool]]:
    """N_i of every row, and whether the row produced a stop token.

    N_i counts the tokens before the first stop token; stop tokens, padding and what diffusion writes behind the first
    stop token never count. Reads from the device once.

    Args:
        tokens: [B, <= G], everything after the prompt.
        stop_ids: tokens that end an output; may be empty.
    """
    width = tokens.shape[1]
    stops = set(stop_ids)
    lengths = []
    for row in tokens.tolist():
        first = next((i for i, token in enumerate(row) if token in stops), width)
        lengths.append((first, first < width))
    return lengths


class Draws:
    """Uniform random numbers on a device, from a seed; any non-negative integer is one, 0 included.

    On a CPU numpy's SFC64 fills memory twice as fast as torch's Mersenne Twister, which took half of a sampled
    denoising step. On a GPU torch's own generator draws on the device, also inside a captured step.
    """

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.generator = None if device.type == "cpu" else torch.Generator(device)
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Begin again from a seed."""
        if self.generator is None:
            self._host = np.random.Generator(np.random.SFC64(seed))
        else:
            self.generator.manual_seed(seed % 2**63)

    def fill_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Overwrite a contiguous float64 tensor with draws from [0, 1), in the order of its memory."""
        if self.generator is None:
            self._host.random(out=tensor.numpy())
            return tensor
        return tensor.uniform_(generator=self.generator)
