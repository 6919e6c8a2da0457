"""What does the fused engine keep of sequences: keys and values in memory that stays, and where each row begins?"""

from dataclasses import dataclass

import torch

from llmbench.config.modes import Mode
from llmbench.models import patterns


@dataclass(frozen=True, eq=False)
class StaticCache:
    """Keys and values of every layer, [L, B, K, S, D] each, in memory that stays."""

    keys: torch.Tensor
    values: torch.Tensor
    position: torch.Tensor  # [1] int64: where the next token goes (causal models)
    first: torch.Tensor  # [B] int64: the first position that is no padding
    padded: list[bool]  # one element: whether `first` must be looked at; known to the host, fixed when captured

    def note_padding(self, mask: torch.Tensor | None) -> None:
        """Keep where each sequence of a mask [B, P] begins."""
        self.padded[0] = mask is not None
        if mask is not None:
            self.first.copy_((~mask).sum(-1))


@dataclass(frozen=True, eq=False)
class Padding:
    """Padding on the left, in the two forms that kernels want; None twice where attention is plain."""

    first: torch.Tensor | None  # [B] int64, the first position that is no padding
    bias: torch.Tensor | None  # [B, 1, 1 or S, S], added to scores

    @classmethod
    def of(cls, mask: torch.Tensor | None, ids: torch.Tensor, mode: Mode, dtype: torch.dtype) -> "Padding":
        """What attention must know of whole sequences: where they are padded, and of blocks.

        Args:
            mask: [B, S] bool, False where padded; None where nothing is.
            ids: [B, S].
            mode: in which they are read.
            dtype: of the scores.

        Raises:
            ValueError: padding that is not on the left; on a CPU alone, because looking at a GPU's mask would wait for
                it. `decoding.base.PromptBatch` looks there, once per batch.
        """
        first = None if mask is None else (~mask).sum(-1)
        if mask is None:
            if mode.attention != "block_causal":
                return cls(None, None)
            mask = torch.ones_like(ids[:1], dtype=torch.bool)
        if mask.device.type == "cpu" and bool((mask[:, :-1] & ~mask[:, 1:]).any()):
            raise ValueError("sequences must be padded on the left: a row has padding behind a token")
        visible = patterns.prompt(mode, mask)
        zeros = torch.zeros(visible.shape, dtype=dtype, device=mask.device)
        return cls(first, zeros.masked_fill_(~visible, float("-inf")))
