"""How does a model fit a device that is too small for it? The matrices of its blocks are stored in 8 or 4 bits.

Only weights are quantized: a matrix is dequantized to the model's dtype for each product (4 bits and few rows: inside
the product's kernel), so activations, cache, arithmetic and the device's ceilings do not change. It saves memory and,
at best, the time to read it; dequantizing takes time. Embedding, head, norms and biases are not quantized, on both
sides alike.

    int8   linear: a signed 8-bit number per weight
    nf4    NormalFloat (QLoRA, arXiv 2305.14314): one of 16 values per weight

Both with a float32 scale, the largest magnitude, for each 64 weights of a row. Rows that are no whole number of such
blocks are refused: bitsandbytes 0.50.2 dequantizes 4-bit ones wrongly on CPUs with AVX-512.

Quantizing, dequantizing and the 4-bit product are those of bitsandbytes (extra `quantization`), for CPUs and GPUs. Its
`Linear8bitLt` is not used: it rounds activations too, computes in float16 whatever the dtype, and which columns it
quantizes depends on all rows of a batch.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from llmbench.config.job import Quantization
from llmbench.errors import ConfigError
from llmbench.models.architecture import BLOCK, head_dim

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PORTION = 2**18
"""Most weights that are quantized at once on a CPU, where that takes 20 bytes and more for each."""


def require_whole_blocks(config: Any) -> None:
    """Refuse a model whose matrices cannot be quantized; cheap, for the time before weights load.

    Raises:
        ConfigError: a width that is no multiple of `BLOCK`.
    """
    for width in (config.hidden_size, config.num_attention_heads * head_dim(config), config.intermediate_size):
        if width % BLOCK:
            raise ConfigError(
                f"hardware.quantization: the model has rows of {width} weights, which is no multiple of {BLOCK}; "
                "use hardware.quantization=null"
            )


class QuantizedLinear(torch.nn.Module):
    """x [..., in] to [..., out], as `torch.nn.Linear`, with a quantized matrix."""

    def __init__(self, kind: Quantization, weight: torch.Tensor, bias: torch.nn.Parameter | None) -> None:
        """Quantize a matrix [out, in] where it lies; the caller may then drop it."""
        super().__init__()
        if weight.shape[1] % BLOCK:
            raise ValueError(f"rows of {weight.shape[1]} weights cannot be quantized in blocks of {BLOCK}")
        data, state = _quantize(kind, weight)
        self.kind = kind
        self.data = torch.nn.Parameter(data, requires_grad=False)
        self.scales = torch.nn.Parameter(state.absmax, requires_grad=False)
        self.bias = bias
        self._state = state
        self._library = _library()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, and the bias if there is one."""
        if self.kind == "nf4":
            return self._library.matmul_4bit(x, self.data, self._state, bias=self.bias)  # type: ignore[no-any-return]
        return torch.nn.functional.linear(x, self.dequantized(), self.bias)

    def dequantized(self) -> torch.Tensor:
        """The matrix [out, in] that the product uses, in the dtype of the one it was made from."""
        functional = self._library.functional
        dequantize = functional.dequantize_4bit if self.kind == "nf4" else functional.dequantize_blockwise
        return dequantize(self.data.data, self._state)  # type: ignore[no-any-return]


def _quantize(kind: Quantization, weight: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """The quantized numbers of a matrix [out, in], and bitsandbytes' description of them with the scales."""
    functional = _library().functional
    code = functional.create_linear_map(signed=True, total_bits=8)
    portion = max(1, _PORTION // weight.shape[1]) if weight.device.type == "cpu" else weight.shape[0]
    made = [
        functional.quantize_4bit(rows, blocksize=BLOCK, quant_type=kind)
        if kind == "nf4"
        else functional.quantize_blockwise(rows, code=code, blocksize=BLOCK)
        for rows in torch.split(weight, portion)
    ]
    state = made[0][1]
    state.absmax, state.shape = torch.cat([part.absmax for _, part in made]), weight.shape
    return torch.cat([data for data, _ in made]), state


def replace_linear(model: "PreTrainedModel", name: str, weight: torch.Tensor, kind: Quantization) -> bool:
    """Quantize a weight if it is a block's matrix: its linear module is replaced.

    Args:
        model: with blocks in `model.layers`; this module's own weight may be on `meta`.
        name: of the weight.
        weight: where it shall stay, in the dtype of the products.
        kind: how.

    Returns:
        Whether it was quantized.
    """
    path, _, last = name.rpartition(".")
    if last != "weight" or not path.startswith("model.layers."):
        return False
    module = model.get_submodule(path)
    if not isinstance(module, torch.nn.Linear):
        return False
    model.set_submodule(path, QuantizedLinear(kind, weight, module.bias))
    return True


def convert(model: "PreTrainedModel", kind: Quantization, device: str) -> "PreTrainedModel":
    """Move a model that is whole on the host to a device, matrix by matrix, each quantized there."""
    for name, weight in list(model.named_parameters()):
        replace_linear(model, name, weight.data.to(device), kind)
    return model.to(device)


def _library() -> Any:
    """bitsandbytes, which must be installed."""
    if "bitsandbytes" not in sys.modules:
        with _nothing_from_the_hub():
            importlib.import_module("bitsandbytes")
    return sys.modules["bitsandbytes"]


@contextlib.contextmanager
def _nothing_from_the_hub() -> Iterator[None]:
    """Hide `kernels` while bitsandbytes is imported, which would download compiled code, or warn if missing."""
    absent, logger = object(), logging.getLogger("bitsandbytes")
    kept, level = sys.modules.get("kernels", absent), logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if kept is absent:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = kept  # type: ignore[assignment]
