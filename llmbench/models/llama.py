"""One Transformer for both families: Transformers' own Llama, causal or bidirectional.

LLaDA is Llama without the causal mask; so both sides run the same modules and the same kernels, and no code that came
with a checkpoint is ever run. `is_causal = False` is set on the *configuration*. Set on the
attention layers alone it works until a padding mask is passed, and then silently turns causal
(tests/models/test_llama.py). Here it is set in both places, so that the kernel flag and the mask cannot disagree in
any version.

Attention is `scaled_dot_product_attention` for both; it picks the kernel by shape, by the same rule.

Llama rotates queries and keys in the model's dtype. Where the configuration says `rope_full_precision`, as LLaDA's
does, they are rotated in float32 and rounded back afterwards, as LLaDA's own code does.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmbench.config.job import Quantization
from llmbench.models import quantization
from llmbench.models.weights import Stored
from llmbench.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

BLOCKS = ("llama", "mistral", "ministral3", "qwen2", "qwen3", "smollm3")
"""Model types that `engine` and `architecture` describe rightly: a plain head behind Llama's blocks, full attention.

Biases (Qwen2), normed queries and keys (Qwen3) and scaled queries (Ministral3) change nothing there but a few vectors.
tests/models/test_kinds.py compares each with Transformers' own forward.
"""


def is_causal(config: "PretrainedConfig") -> bool:
    """Whether a position sees only what is before it. Causal unless the configuration says otherwise."""
    return getattr(config, "is_causal", True) is not False


def rotates_in_float32(config: "PretrainedConfig") -> bool:
    """Whether queries and keys are rotated in float32 whatever the model's dtype is. Not unless the layout says so."""
    return getattr(config, "rope_full_precision", False) is True


def shapes(config: "PretrainedConfig") -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint of this configuration holds; nothing is allocated."""
    with torch.device("meta"):
        model = _from_config(config, torch.float32)
    tied = copies(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}


def copies(config: "PretrainedConfig") -> dict[str, str]:
    """Tensors that are another one under a second name; a file may hold them all the same."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}


def load(
    config: "PretrainedConfig",
    stored: Mapping[str, Stored],
    dtype: torch.dtype,
    device: str,
    quantized: Quantization | None = None,
) -> "PreTrainedModel":
    """Read weights straight onto the device, in `dtype`; the host never holds more than a few pieces of them.

    To be quantized they come block by block: the device never holds more than one block in `dtype`.

    Args:
        config: of one of the kinds in `BLOCKS`.
        stored: where every tensor of `shapes` lies, from `weights.locate`; it may name those of `copies` as well.
        dtype: of all weights.
        device: where they go.
        quantized: how the blocks' matrices are stored; None: in `dtype`.

    Raises:
        OSError: a file cannot be read.
        ValueError: some weight is in no file or not finite, or one that is another under a second name differs from it.
    """
    from llmbench.models import streaming

    with torch.device("meta"):
        model = _from_config(config, dtype)
    twins = copies(config)
    names = [name for name in stored if name not in twins]
    with streaming.Reader() as reader:
        for together in _blockwise(names) if quantized else [names]:
            made = {name: torch.empty(stored[name].shape, dtype=dtype, device=device) for name in together}
            reader.fill((weight, stored[name]) for name, weight in made.items())
            _require_finite(made.items())
            _assign(model, made, quantized)
            del made  # before the next block is made
        for name, twin in twins.items():
            if name in stored:
                copy = torch.empty(stored[name].shape, dtype=dtype, device=device)
                reader.fill([(copy, stored[name])])
                if not torch.equal(copy, model.get_parameter(twin)):
                    raise ValueError(
                        f"{name} differs from {twin}, but tie_word_embeddings says that they are one: set it to false"
                    )
                del copy
    _complete(model, device)
    left = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    if left:
        raise ValueError(f"no weights for {left[0]} ({len(left)} missing)")
    return _ready(model)


def load_other(
    folder: Path, config: "PretrainedConfig", dtype: torch.dtype, gguf: str | None = None
) -> "PreTrainedModel":
    """Read a model of any kind that Transformers contains, or a GGUF file, onto the CPU, by Transformers' own reader.

    Raises:
        Exception: what Transformers or safetensors raise; it may not name the file.
        ValueError: some weight is in no file, and would have been left random; or it is not finite.
    """
    from transformers import AutoModelForCausalLM

    source: dict[str, Any] = {"gguf_file": gguf} if gguf else {"use_safetensors": True}
    with (
        quiet_transformers(),
        contextlib.redirect_stderr(io.StringIO()),
    ):  # the GGUF reader's bar has no switch; errors are raised
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **source,
        )
    missing = sorted(set(report["missing_keys"]) - copies(model.config).keys())
    if missing:
        raise ValueError(f"no weights for {missing[0]} ({len(missing)} missing)")
    _require_finite(model.named_parameters())
    return _ready(model)


def dummy(
    config: "PretrainedConfig", dtype: torch.dtype, device: str, seed: int = 0, quantized: Quantization | None = None
) -> "PreTrainedModel":
    """Random weights of the right shapes: matrices and biases from normal(0, 0.02), norms 1. The same on every call.

    No zeros: power draw depends on values. Every weight is written once, on the device and in `dtype`: 16 GB need no
    host memory and no float32 copy. To be quantized, one is made after the other.
    """
    with torch.device("meta"):
        model = _from_config(config, dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in [(name, weight.shape) for name, weight in model.named_parameters()]:
        weight = torch.empty(shape, dtype=dtype, device=device)
        if weight.dim() > 1 or name.endswith(".bias"):
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            weight.fill_(1.0)
        _assign(model, {name: weight}, quantized)
        del weight  # before the next one is made
    _complete(model, device)
    return _ready(model)


def _require_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse weights with NaN or infinity. Sums show them, with one read from the device."""
    floating = [(name, weight) for name, weight in weights if weight.is_floating_point()]
    wide = torch.empty(2**20, dtype=torch.float32)  # used by a CPU only
    finite = torch.isfinite(torch.stack([_sum(weight, wide) for _, weight in floating])).tolist() if floating else []
    if not all(finite):
        name, weight = floating[finite.index(False)]
        raise ValueError(
            f"{name} holds NaN or infinity in {str(weight.dtype).removeprefix('torch.')}; fetch or write it again, "
            "or set hardware.dtype to that of the files"
        )


def _sum(weight: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """The sum in float32, [] on the weight's device.

    On a CPU a sum in a wider type copies its operand. Pieces are copied into `wide` [n], one after the other: memory
    allocated anew for each weight would fragment malloc's heap and stay in the resident set.
    """
    if weight.device.type != "cpu" or weight.dtype == wide.dtype:
        return weight.sum(dtype=wide.dtype)
    total = torch.zeros((), dtype=wide.dtype)
    for piece in torch.split(weight.reshape(-1), len(wide)):
        total += wide[: len(piece)].copy_(piece).sum()
    return total


def _blockwise(names: list[str]) -> Iterator[list[str]]:
    """Names of weights, those of one block together: `model.layers.7.*`."""
    together: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        together.setdefault(parts[2] if parts[1] == "layers" else "", []).append(name)
    yield from together.values()


def _assign(model: "PreTrainedModel", made: dict[str, torch.Tensor], quantized: Quantization | None) -> None:
    """Assign weights to a model; matrices of its blocks are quantized first if that is asked for."""
    replaced = {
        name
        for name, weight in made.items()
        if quantized and quantization.replace_linear(model, name, weight, quantized)
    }
    model.load_state_dict({name: made[name] for name in made.keys() - replaced}, strict=False, assign=True)


def _from_config(config: "PretrainedConfig", dtype: torch.dtype) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    attention = _rounding_attention() if rotates_in_float32(config) else "sdpa"
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
    )
    return model


def _rounding_attention() -> str:
    """Transformers' name of its `sdpa` behind a rounding of queries and keys to the dtype of the values."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *more: Any, **named: Any
    ) -> Any:
        return sdpa_attention_forward(module, query.to(value.dtype), key.to(value.dtype), value, *more, **named)

    AttentionInterface.register("sdpa_of_rounded", attend)
    AttentionMaskInterface.register("sdpa_of_rounded", sdpa_mask)
    return "sdpa_of_rounded"


def _complete(model: "PreTrainedModel", device: str) -> None:
    """Tie shared tensors and compute the buffers that no checkpoint holds; a model from `meta` has neither."""
    model.tie_weights()
    with torch.device(device):
        rotation = type(model.model.rotary_emb)(model.config)
    if rotates_in_float32(model.config):  # cosines and sines come in the dtype of the first argument, which is not read
        rotation.register_forward_pre_hook(lambda _, given: (given[0].new_empty(0, dtype=torch.float32), *given[1:]))
    model.model.rotary_emb = rotation


def _ready(model: "PreTrainedModel") -> "PreTrainedModel":
    """For inference alone, with `is_causal` on every attention module as on the configuration."""
    causal = is_causal(model.config)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = causal
    return model.eval().requires_grad_(False)
