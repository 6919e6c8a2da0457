"""In which ways can one set of weights be decoded, and what does each way see? As data of a checkpoint.

A *mode* belongs to a family of decoders. Most checkpoints have one; those that were trained with a joint objective have
two, and the shift of the logits belongs to the mode and not to the weights. Attention patterns:

- `causal`: a position sees itself and what is before it. Token after token, from a cache.
- `full`: every position sees every other (LLaDA, Dream). No exact cache.
- `block_causal`: a sequence is cut into blocks. A position sees its own block and all before it (SDAR, Fast-dLLM v2).
  Once a block is final, one last forward writes its keys and values: an exact cache.
- `causal_context`: the prompt and all finished blocks are causal; the block that is being written sees itself both ways
  and all before it (Nemotron-Labs-Diffusion). Once it is final, one causal forward writes its keys and values.
"""

from typing import Any, Literal

from pydantic import StrictBool, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from llmbench.config.options import STRICT, Count, Family

Attention = Literal["causal", "full", "block_causal", "causal_context"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mode:
    """One way of decoding a checkpoint."""

    attention: Attention
    logit_shift: Literal[0, 1] = 0  # how far before a masked position the hidden state lies that predicts it
    block_length: Count | None = None  # of the blocks that it was trained with
    sub_block_length: Count | None = None  # parts of a block that are filled from left to right
    # where the blocks of a `block_causal` row are counted from: its first token, or the end of its prompt
    blocks_from: Literal["start", "prompt_end"] = "start"
    seeded: StrictBool = False  # the first token of a block is not denoised: the forward before the block predicts it
    # what a step makes final at least: by the even schedule; by dllm's (`schedules.rounded`); ceil(masks / steps left)
    minimum: Literal["planned", "rounded", "remaining"] = "planned"
    mask_in_softmax: StrictBool = True  # whether the mask token has a share of the confidence's softmax

    def __post_init__(self) -> None:
        """Refuse blocks where none are, and none where they are needed."""
        if self.in_blocks and self.block_length is None:
            raise ValueError(f"attention {self.attention} needs a block_length")
        if not self.in_blocks and (self.block_length or self.sub_block_length):
            raise ValueError(f"attention {self.attention} has no blocks; leave block_length out")
        if self.sub_block_length and self.block_length and self.block_length % self.sub_block_length:
            raise ValueError(f"sub_block_length {self.sub_block_length} must divide block_length {self.block_length}")
        if not self.in_blocks and self.seeded:
            raise ValueError(f"attention {self.attention} has no blocks; leave seeded out")
        if self.attention == "causal" and self.logit_shift:
            raise ValueError("attention causal predicts the next token; leave logit_shift out")

    @property
    def in_blocks(self) -> bool:
        """Whether text is written block after block, each from the exact cache of those before it."""
        return self.attention in ("block_causal", "causal_context")

    @property
    def aligned(self) -> bool:
        """Whether blocks begin where each row's own length says, and not behind the prompt."""
        return self.attention == "block_causal" and self.blocks_from == "start"

    @property
    def given(self) -> int:
        """Tokens at the beginning of a block that the forward before it predicts; a shift leaves no other way."""
        return int(self.seeded or self.logit_shift > 0)

    @property
    def causal_prompt(self) -> bool:
        """Whether a prompt is read causally."""
        return self.attention in ("causal", "causal_context")


Modes = dict[Family, Mode]
"""The modes of a checkpoint by the family of decoders that they are for."""

CAUSAL = Mode(attention="causal")

_MODES = TypeAdapter(dict[Family, Mode])


def read(values: Any) -> Modes:
    """Modes from plain data, as a layout or config.json has them.

    Raises:
        ValueError: one line that says what is wrong.
    """
    try:
        modes = _MODES.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"modes{'.' if where else ''}{where}: {said[0].lower()}{said[1:]}") from error
    if not modes:
        raise ValueError("modes: name one at least, autoregressive or diffusion")
    for family, mode in modes.items():
        if (family == "autoregressive") != (mode.attention == "causal"):
            raise ValueError(f"modes.{family}: attention {mode.attention} does not belong to this family")
    return dict(sorted(modes.items()))


def first(config: Any) -> Mode:
    """The autoregressive mode of a Transformers configuration, or the only one that there is."""
    return next(iter(of_config(config).values()))


def of_config(config: Any) -> Modes:
    """The modes of a Transformers configuration: what `modes` says, else the only one that its attention has.

    Raises:
        ValueError: one line that says what is wrong.
    """
    stated = getattr(config, "modes", None)
    if stated is not None:
        return read(stated)
    shift = getattr(config, "logit_shift", 0)
    if getattr(config, "is_causal", True) is not False:
        if shift != 0:
            raise ValueError(f"logit_shift {shift} is for a diffusion mode; set is_causal to false, or leave it out")
        return {"autoregressive": CAUSAL}
    return read({"diffusion": {"attention": "full", "logit_shift": shift}})
