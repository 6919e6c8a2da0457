"""How is a recipe run? Device, time, sizes of batches and of the held-out text: what may differ between machines."""

from __future__ import annotations

from dataclasses import dataclass, field

from pretrain.recipe import BATCH_TOKENS, EVALUATION_LENGTH, LENGTH_SHARES, VOCABULARY


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as opposed to what to train.

    Attributes:
        device: Where to train.
        seconds: Wall-clock budget, compilation and final scores included; the learning rate follows it.
        steps: Upper bound of steps. Neither of them: what the recipe says.
        batch_tokens: Tokens of a batch.
        shares: Row length -> share of the tokens.
        evaluation_length: Tokens of an evaluation window.
        evaluation_rows: Windows of an evaluation batch.
        evaluation_batches: At most this many batches of windows; None: all that the held-out text gives.
        final_batches: The same for the scores at the end.
        evaluations: Evaluations in the course of the training.
        draws: Times that every window is masked anew in a masked evaluation.
        reserve_seconds: Part of the budget kept for the final scores.
        compile: Whether to compile; None: on CUDA only.
        vocabulary: Entries of the tokenizer.
    """

    device: str = "cpu"
    seconds: float | None = None
    steps: int | None = None
    batch_tokens: int = BATCH_TOKENS
    shares: dict[int, float] = field(default_factory=lambda: dict(LENGTH_SHARES))
    evaluation_length: int = EVALUATION_LENGTH
    evaluation_rows: int = 256
    evaluation_batches: int | None = None
    final_batches: int | None = None
    evaluations: int = 15
    draws: int = 4
    reserve_seconds: float = 12.0
    compile: bool | None = None
    vocabulary: int = VOCABULARY
