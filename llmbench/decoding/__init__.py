"""How does text come out of a model? One decoder per kind of model, chosen by the type of its settings.

Tokens in, tokens out: this room knows neither clocks nor tokenizers. It asks an `Engine` for logits and hands back a
`DecodedBatch`; `generate` alone asks for the model and lets Transformers run its own loop. Adding a family means one
settings class in `config`, one decoder here, and one line in `build`.
"""

from collections.abc import Sequence

from llmbench.config.decoders import Autoregressive, DecoderConfig, Diffusion, Transformers
from llmbench.config.modes import Mode
from llmbench.config.servers import DiffusionServer, ServerDecoder
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import Decoder
from llmbench.decoding.blocks import BlockDecoder
from llmbench.decoding.diffusion import DiffusionDecoder
from llmbench.decoding.drafts import DraftModel
from llmbench.decoding.generate import TransformersDecoder
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.errors import ConfigError


def build(
    settings: DecoderConfig,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    mask_id: int | None,
    mode: Mode | None = None,
    draft: DraftModel | None = None,
) -> Decoder:
    """Make the decoder that `settings` describe.

    Args:
        settings: the checked configuration; its type chooses the decoder.
        stop_ids: tokens that end an output (EOS, end of turn); may be empty.
        pad_id: written after the stop token of a row that ended before the others.
        mask_id: the token that stands for "not yet known"; None for checkpoints that have none.
        mode: in which a diffusion model is decoded; None: it sees everything, and its logits are not shifted.
        draft: the model that drafts, where one does.

    Raises:
        ConfigError: a diffusion decoder for a checkpoint without a mask token; a decoder that is a server.
    """
    match settings:
        case Autoregressive() if settings.draft is not None:
            return SpeculativeDecoder(settings, stop_ids=tuple(stop_ids), pad_id=pad_id, model=draft)
        case Autoregressive():
            return AutoregressiveDecoder(settings, stop_ids=tuple(stop_ids), pad_id=pad_id)
        case Transformers():
            return TransformersDecoder(settings, stop_ids=tuple(stop_ids), pad_id=pad_id, draft=draft)
        case Diffusion():
            if mask_id is None:
                raise ConfigError("model=llada needs a checkpoint with a mask token; use model=llama for this one")
            mode, stop = mode or Mode(attention="full"), tuple(stop_ids)
            if mode.in_blocks:
                return BlockDecoder(settings, mode, stop_ids=stop, mask_id=mask_id, pad_id=pad_id)
            return DiffusionDecoder(settings, stop_ids=stop, mask_id=mask_id, logit_shift=mode.logit_shift)
        case ServerDecoder() | DiffusionServer():
            raise ConfigError("a server has no decoder here: it decodes itself")
