"""Which models are made, and with what settings? Data only; every other file reads its numbers here.

``llama`` and ``llada`` agree in every field except ``causal``, seed, ``prefix_share`` (which only a masked loss has)
and ``steps``: next-token prediction starts to memorise a small corpus long before masked diffusion, which sees the
same text under new masks each time. ``judge`` is larger and has a seed of its own, because a model must not judge its
own text.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        causal: True for next-token prediction, False for masked diffusion with attention in both directions.
        seed: Seed of the weights, of the order of the data, and of the masks.
        learning_rate: Peak of the schedule.
        steps: Updates, at the end of which the learning rate is 0.
        prefix_share: Share of the sequences of which a random-length beginning is never masked, as a prompt is not.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    ffn: int
    causal: bool
    seed: int
    learning_rate: float
    steps: int
    prefix_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, naming key and value."""
        if self.hidden % self.heads:
            raise ValueError(f"{self.name}: hidden={self.hidden} is not a multiple of heads={self.heads}")
        if self.causal and self.prefix_share:
            raise ValueError(f"{self.name}: prefix_share={self.prefix_share} needs causal=False; set it to 0")
        if not 0 <= self.prefix_share <= 1:
            raise ValueError(f"{self.name}: prefix_share={self.prefix_share} is not within 0 and 1")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="llama", hidden=256, layers=6, heads=4, ffn=704, causal=True, seed=1, learning_rate=3e-3,
               steps=3010),
        Recipe(name="llada", hidden=256, layers=6, heads=4, ffn=704, causal=False, seed=2, learning_rate=3e-3,
               steps=9837, prefix_share=0.5),
        Recipe(name="judge", hidden=384, layers=6, heads=6, ffn=1056, causal=True, seed=3, learning_rate=2e-3,
               steps=3234),
    )
}  # fmt: skip
