"""Which models are made, and with what settings? Data only; every other file reads its numbers here.

``llama`` and ``llada`` agree in every field except ``kind``, seed, ``prefix_share`` (which only a masked loss has)
and ``steps``: next-token prediction starts to memorise a small corpus long before masked diffusion, which sees the
same text under new masks each time. ``trimode`` has their shape and goes on from the weights of ``llama``; four noisy
copies of each clean row give the diffusion the more tokens that it wants. ``judge`` is larger and has a seed of its
own, because a model must not judge its own text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["causal", "masked", "trimode"]

VOCABULARY = 8192
MAX_POSITIONS = 512
EOS, PAD, MASK = "<|endoftext|>", "<|pad|>", "<|mdm_mask|>"
SPECIAL_TOKENS = (EOS, PAD, MASK)  # in this order they get the ids 0, 1, 2
EOS_ID, PAD_ID, MASK_ID = range(3)

BATCH_TOKENS = 98_304
# Generation runs at 96 to 320 tokens, starts mid-document, and a bidirectional model sees both ends of its sequence. So
# it must have been trained at such lengths. Values: share of the tokens trained at that length.
LENGTH_SHARES = {96: 0.4, 160: 0.4, 320: 0.2}
EVALUATION_LENGTH = 160


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model to train.

    Attributes:
        name: Folder of the checkpoint, and the name on the command line.
        hidden: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads (key-value heads are as many), each ``hidden / heads`` wide.
        ffn: Inner width of the gated feed-forward part.
        kind: ``causal``: next-token prediction. ``masked``: masked diffusion with attention in both directions.
            ``trimode``: both in one set of weights, the diffusion in blocks that see the text before them.
        seed: Seed of the weights, of the order of the data, and of the masks.
        learning_rate: Peak of the schedule.
        steps: Updates, at the end of which the learning rate is 0; None: ``seconds`` say how long.
        seconds: Wall-clock budget where there are no ``steps``, start-up and scores at the end included.
        prefix_share: Share of the sequences of which a random-length beginning is never masked, as a prompt is not.
        batch_tokens: Tokens of a batch (of ``trimode``: of clean text; noisy copies come to it).
        start: Checkpoint whose weights are trained on; None: random weights.
        block_length: Tokens of a diffusion block (``trimode`` alone).
        alpha: Weight of the diffusion loss beside that of next-token prediction, which is 1 (``trimode`` alone).
        seeded_share: Share of the blocks whose first token is given, as in decoding (``trimode`` alone).
        draft_share: Share of the blocks whose other tokens are all masked besides, as in a draft; these are among the
            seeded ones (``trimode`` alone).
        copies: Noisy copies of each row, each under masks of its own (``trimode`` alone).
    """

    name: str
    hidden: int
    layers: int
    heads: int
    ffn: int
    kind: Kind
    seed: int
    learning_rate: float
    steps: int | None = None
    seconds: float | None = None
    prefix_share: float = 0.0
    batch_tokens: int = BATCH_TOKENS
    start: str | None = None
    block_length: int | None = None
    alpha: float = 0.0
    seeded_share: float = 0.0
    draft_share: float = 0.0
    copies: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, naming key and value."""
        if self.hidden % self.heads:
            raise ValueError(f"{self.name}: hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.prefix_share and self.kind != "masked":
            raise ValueError(f"{self.name}: prefix_share={self.prefix_share} needs kind=masked; set it to 0")
        for key in ("prefix_share", "seeded_share", "draft_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{self.name}: {key}={getattr(self, key)} is not within 0 and 1")
        if self.draft_share > self.seeded_share:
            raise ValueError(f"{self.name}: draft_share={self.draft_share} exceeds seeded_share={self.seeded_share}")
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(f"{self.name}: set steps or seconds, and not both")
        if self.copies < 1:
            raise ValueError(f"{self.name}: copies={self.copies} is less than 1")
        if (self.kind == "trimode") != (self.block_length is not None and self.alpha > 0):
            raise ValueError(f"{self.name}: kind=trimode, and no other, needs block_length and alpha above 0")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="llama", hidden=256, layers=6, heads=4, ffn=704, kind="causal", seed=1, learning_rate=3e-3,
               steps=3010),
        Recipe(name="llada", hidden=256, layers=6, heads=4, ffn=704, kind="masked", seed=2, learning_rate=3e-3,
               steps=9837, prefix_share=0.5),
        Recipe(name="trimode", hidden=256, layers=6, heads=4, ffn=704, kind="trimode", seed=4, learning_rate=2e-3,
               seconds=410, batch_tokens=40_960, start="llama", block_length=32, alpha=2.0, seeded_share=0.75,
               draft_share=0.25, copies=4),
        Recipe(name="judge", hidden=384, layers=6, heads=6, ffn=1056, kind="causal", seed=3, learning_rate=2e-3,
               steps=3234),
    )
}  # fmt: skip
