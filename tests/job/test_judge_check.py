"""A copy of the model under test does not judge it, whatever its files are called and however they are stored."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from composition import composed
from safetensors.torch import load_file, save_file

from llmbench.checkpoints import load as loading
from llmbench.checkpoints.resolve import BUNDLED
from llmbench.config.build import build_job
from llmbench.errors import ConfigError
from llmbench.job import judge_check
from llmbench.job.prepare import prepare_job

SMALL = ("workload.prompts=4", "canvas=8", "batch=2", "hardware=cpu", "metric.bertscore=null")


def prepare(*overrides: str) -> None:
    prepare_job(build_job(composed(*SMALL, *overrides)))


def rewritten(folder: Path, dtype: torch.dtype, noise: float = 0.0) -> Path:
    """The bundled LLaMA in two files and another type, each tensor off by a share of its own spread."""
    shutil.copytree(BUNDLED / "llama", folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    changed = {}
    for key in sorted(tensors):
        value = tensors[key].float()
        changed[key] = (value + noise * value.std() * torch.randn_like(value)).to(dtype)
    weight_map = {key: f"{'ab'[place % 2]}.safetensors" for place, key in enumerate(changed)}
    for file in set(weight_map.values()):
        save_file({key: value for key, value in changed.items() if weight_map[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("key", ["judge", "second_judge"])
def test_a_copy_in_other_files_and_another_type_is_refused(tmp_path, dtype, key):
    copy = rewritten(tmp_path / "other", dtype)
    with pytest.raises(ConfigError, match=rf"^metric.perplexity.{key} .*same log-prob.*bundled:llama, the model") as it:
        prepare("model=llama", f"metric.perplexity.{key}={copy}")
    assert "\n" not in str(it.value)


def test_two_judges_that_are_one_are_refused(tmp_path):
    copy = rewritten(tmp_path / "other", torch.float32)
    with pytest.raises(ConfigError, match=r"second_judge .*same log-probabilities as the judge bundled:llama"):
        prepare("model=llada", "metric.perplexity.judge=bundled:llama", f"metric.perplexity.second_judge={copy}")


def test_other_weights_of_the_same_shape_are_a_judge(tmp_path):
    prepare("model=llama", f"metric.perplexity.judge={rewritten(tmp_path / 'other', torch.float32, noise=0.3)}")


def test_a_diffusion_model_is_not_compared(tmp_path):
    prepare("model=llada", f"metric.perplexity.judge={rewritten(tmp_path / 'other', torch.float32)}")


def test_checkpoints_of_other_shapes_are_not_loaded(monkeypatch):
    monkeypatch.setattr(loading, "_model", None)  # nothing can be loaded
    judge_check.is_copy.cache_clear()
    prepare("model=llama")
