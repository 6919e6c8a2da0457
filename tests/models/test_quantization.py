"""Matrices in 8 or 4 bits: the rounding that is promised, the same model otherwise, and no more memory than that."""

import os
import subprocess
import sys

import pytest
import tiny_models
import torch

from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.job import HardwareConfig
from llmbench.errors import ConfigError
from llmbench.models import architecture, llama, quantization

pytest.importorskip("bitsandbytes")

KINDS = ["int8", "nf4"]

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
       0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip
"""The values of QLoRA's appendix (arXiv 2305.14314)."""


def config(**changes):
    """Two blocks whose rows are whole blocks of 64, and wide enough to be quantized in several portions."""
    made = tiny_models.config(**changes)
    made.hidden_size, made.intermediate_size, made.head_dim = 64, 192, 16
    return made


def rounded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """The slow twin: 64 numbers at a time, each to the nearest value times the largest of them."""
    made = []
    for block in weight.float().flatten().split(64):
        largest = block.abs().max()
        values = torch.arange(-127, 128) / 127 if kind == "int8" else torch.tensor(NF4)
        nearest = (block[:, None] / largest - values).abs().argmin(1)
        made.append(values[nearest] * largest)
    return torch.cat(made).view(weight.shape)


def differing(made: torch.Tensor, weight: torch.Tensor, kind: str) -> list[tuple[int, int]]:
    """Where `made` is not the twin's rounding of `weight`; what lies in the middle of two values may go to either."""
    expected = rounded(weight, kind)
    ties = ((made - weight).abs() - (expected - weight).abs()).abs() < 1e-3 * weight.abs().max()
    return ((made - expected).abs() > 1e-5).logical_and(~ties).nonzero().tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(48, 64), (5, 192), (3, 64 * 4097)])  # the last one in three portions
def test_a_matrix_is_rounded_as_promised(kind, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    module = quantization.QuantizedLinear(kind, weight, None)
    assert differing(module.dequantized(), weight, kind) == []


def test_rows_that_are_no_whole_blocks_are_refused_before_weights_load():
    with pytest.raises(ConfigError, match="rows of 32 weights, which is no multiple of 64"):
        quantization.require_whole_blocks(tiny_models.config())
    quantization.require_whole_blocks(config())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(1, 1), (3, 5)])
def test_the_product_is_that_of_the_rounded_matrix_in_dtype(kind, dtype, rows):
    weight, bias = torch.randn(48, 64).to(dtype), torch.nn.Parameter(torch.randn(48).to(dtype), requires_grad=False)
    module, x = quantization.QuantizedLinear(kind, weight, bias), torch.randn(*rows, 64).to(dtype)
    with torch.inference_mode():
        made = module(x)
    assert made.dtype == dtype
    assert torch.allclose(made, torch.nn.functional.linear(x, module.dequantized(), bias), atol=1e-5)
    assert module.dequantized().dtype == dtype


def load(folder, kind, dtype="float32"):
    return load_checkpoint(
        resolve_checkpoint(str(folder)),
        HardwareConfig(device="cpu", dtype=dtype, engine="eager", quantization=kind),
        "real",
    )


def store(folder, *, causal=True, tied=False, biases=False):
    """A random checkpoint, large enough in its values to disagree with others."""
    from tiny_models import write_tokenizer

    values = config(causal=causal, tied=tied)
    if biases:
        from transformers import Qwen2Config

        kept = {key: value for key, value in values.to_dict().items() if key not in ("model_type", "architectures")}
        values = Qwen2Config(**kept | {"layer_types": None})
    model = llama.dummy(values, torch.float32, "cpu")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(10)
    model.save_pretrained(folder)
    write_tokenizer(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [{}, {"causal": False}, {"tied": True}, {"biases": True}])
def test_a_loaded_model_is_the_plain_one_with_rounded_block_matrices(tmp_path, kind, form):
    store(tmp_path, **form)
    wide = load(tmp_path, None).model
    narrow = load(tmp_path, kind)
    replaced = 0
    with torch.inference_mode():
        for name, module in narrow.model.named_modules():
            if isinstance(module, quantization.QuantizedLinear):
                wide.get_submodule(name).weight.copy_(module.dequantized())
                replaced += 1
        assert replaced == 7 * 2
        ids, _ = tiny_models.prompts([7, 7])
        assert torch.allclose(narrow.model(ids).logits, wide(ids).logits, atol=1e-5)
    assert torch.equal(narrow.model.lm_head.weight, wide.lm_head.weight)
    assert narrow.weight_bytes == narrow.architecture.weight_bytes
    assert narrow.model.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [True, False])
def test_the_shapes_tell_how_many_bytes_there_are(kind, causal):
    model = llama.dummy(config(causal=causal), torch.bfloat16, "cpu", quantized=kind)
    foreseen = architecture.from_config(config(causal=causal), 2, kind)
    assert sum(weight.nbytes for weight in model.parameters()) == foreseen.weight_bytes
    matrices = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192)  # of both blocks
    rest = 2 * (2 * 40 * 64 + 2 * 2 * 64 + 64)  # two tables, five norms, in 2 bytes
    assert foreseen.weight_bytes == rest + matrices * (8 + 32 / 64 if kind == "int8" else 4 + 32 / 64) / 8


@pytest.mark.parametrize("kind", KINDS)
def test_dummy_weights_are_those_of_the_plain_dummy_rounded(kind):
    wide, narrow = (llama.dummy(config(), torch.float32, "cpu", quantized=each) for each in (None, kind))
    assert torch.equal(wide.model.embed_tokens.weight, narrow.model.embed_tokens.weight)
    before = wide.model.layers[1].mlp.down_proj.weight
    assert differing(narrow.model.layers[1].mlp.down_proj.dequantized(), before, kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_is_whole_on_the_host_becomes_the_same(kind):
    """GGUF files come through Transformers' own reader."""
    converted = quantization.convert(llama.dummy(config(), torch.float32, "cpu"), kind, "cpu")
    ids, _ = tiny_models.prompts([7, 7])
    with torch.inference_mode():
        expected = llama.dummy(config(), torch.float32, "cpu", quantized=kind)(ids).logits
        assert torch.equal(converted(ids).logits, expected)


def test_the_library_fetches_no_compiled_code(tmp_path):
    """With the package `kernels` it would, on some CPUs, when it is imported."""
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*names, **settings):\n    open('fetched', 'w').close()\n    raise RuntimeError\n"
    )
    child = (
        "import sys; from llmbench.models import quantization; quantization._library(); "
        "import kernels; assert 'get_kernel' in vars(kernels)"
    )
    done = subprocess.run(
        [sys.executable, "-c", child], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "fetched").exists()
