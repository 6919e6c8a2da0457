"""How does a model fit a device that is too small for it? The matrices of its blocks are stored in 8 or 4 bits.

Weights alone are narrow: a matrix is widened to the model's dtype for each product (4 bits and few rows: inside the
product's kernel), so activations, cache and arithmetic stay what they are without, and so do the device's ceilings.
What is saved is memory and, at best, the time to read it; widening costs time of its own. Embedding, head, norms and
biases stay as they are, on both sides alike. What it does to quality is measured, like everything else.

    int8   linear: a signed 8-bit number per weight, a float32 scale per 128 of them
    nf4    NormalFloat (QLoRA, arXiv 2305.14314): one of 16 values per weight, a float32 scale per 64 of them

Quantizing, widening and the 4-bit product are those of bitsandbytes (extra `quantization`), which has them for CPUs and
GPUs. Its `Linear8bitLt` is not used: it rounds activations too, computes in float16 whatever the dtype, and lets the
rows of a batch decide for each other which columns stay wide. `models.llama` is the caller.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from llmbench.config import Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BITS: dict[Quantization, int] = {"int8": 8, "nf4": 4}
_BLOCK: dict[Quantization, int] = {"int8": 128, "nf4": 64}
"""Consecutive weights of a matrix, row after row, that share a scale."""


def stored_bytes(kind: Quantization) -> float:
    """Bytes of one weight with its share of a scale."""
    return _BITS[kind] / 8 + 4 / _BLOCK[kind]


class QuantizedLinear(torch.nn.Module):
    """x [..., in] to [..., out], as `torch.nn.Linear`, from a narrow matrix."""

    def __init__(self, kind: Quantization, weight: torch.Tensor, bias: torch.nn.Parameter | None) -> None:
        """Quantize a matrix [out, in] where it lies; the caller may then drop it."""
        super().__init__()
        functional = _library().functional
        if kind == "nf4":
            data, state = functional.quantize_4bit(weight, blocksize=_BLOCK[kind], quant_type=kind)
        else:
            code = functional.create_linear_map(signed=True, total_bits=_BITS[kind])
            data, state = functional.quantize_blockwise(weight, code=code, blocksize=_BLOCK[kind])
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
        return torch.nn.functional.linear(x, self.widened(), self.bias)

    def widened(self) -> torch.Tensor:
        """The matrix [out, in] that the product uses, in the dtype of the one it was made from."""
        functional = self._library.functional
        widen = functional.dequantize_4bit if self.kind == "nf4" else functional.dequantize_blockwise
        return widen(self.data.data, self._state)  # type: ignore[no-any-return]


def take(model: "PreTrainedModel", name: str, weight: torch.Tensor, kind: Quantization) -> bool:
    """Store a weight narrowly if it is a block's matrix: its linear module is replaced.

    Args:
        model: with blocks in `model.layers`; this module's own weight may be on `meta`.
        name: of the weight.
        weight: where it shall stay, in the dtype of the products.
        kind: how.

    Returns:
        Whether it was taken; everything else is to be stored as it is.
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
        take(model, name, weight.data.to(device), kind)
    return model.to(device)


def _library() -> Any:
    """bitsandbytes; `measure.device.resolve` has seen that it is there."""
    if "bitsandbytes" not in sys.modules:
        with _nothing_from_the_hub():
            importlib.import_module("bitsandbytes")
    return sys.modules["bitsandbytes"]


@contextlib.contextmanager
def _nothing_from_the_hub() -> Iterator[None]:
    """While bitsandbytes is imported, there is no `kernels`: with it, it downloads compiled code, else it complains."""
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
