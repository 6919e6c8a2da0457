"""How does a run become a checkpoint that anybody can load? As a plain Hugging Face directory.

It holds configuration, weights, tokenizer and model card.

Weights are stored once, in bfloat16, as safetensors: the output layer is the embedding and is left out. No file
exceeds ``MAX_FILE`` bytes, so larger models come in shards with an index. The bidirectional model says so in its
*configuration* (``is_causal: false``); set on the attention layers alone, the flag is overruled as soon as a padding
mask is passed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pretrain import tokenizer
from pretrain.recipe import EOS_ID, MASK_ID, MAX_POSITIONS, PAD_ID, Recipe

MAX_FILE = 16 * 2**20 - 2**16  # room for the header


def llama_config(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    """Arguments of ``transformers.LlamaConfig`` for one recipe."""
    config: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.ffn,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }
    if recipe.kind != "causal":
        config["mask_token_id"] = MASK_ID
    if recipe.kind == "masked":
        config["is_causal"] = False
    if recipe.kind == "trimode":
        config["modes"] = {
            "autoregressive": {"attention": "causal"},
            "diffusion": {"attention": "causal_context", "block_length": recipe.block_length, "seeded": True},
        }
    return config


def write_weights(state: Mapping[str, torch.Tensor], folder: Path) -> list[Path]:
    """Write ``state`` in bfloat16 into as few files of at most ``MAX_FILE`` bytes as the order of its entries allows.

    Each file is replaced at once: a reader, or a killed writer, never leaves half a file.
    """
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, value in state.items():
        if name == "lm_head.weight":
            continue
        stored = value.detach().to("cpu", torch.bfloat16).contiguous()
        if size + stored.nbytes > MAX_FILE:
            shards.append({})
            size = 0
        shards[-1][name] = stored
        size += stored.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / f"{name}.part", metadata={"format": "pt"})
        (folder / f"{name}.part").chmod(0o644)  # save_file leaves it readable to its owner alone
        os.replace(folder / f"{name}.part", folder / name)
        paths.append(folder / name)
    return paths


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of ``folder``, from however many files."""
    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        state |= load_file(path)
    if not state:
        raise FileNotFoundError(f"{folder} holds no model*.safetensors; run: python -m pretrain train {folder.name}")
    return state


def export(run: dict[str, Any], run_folder: Path, tokenizer_folder: Path, target: Path) -> Path:
    """Make ``target`` a complete checkpoint of the run in ``run_folder``; whatever was there before is replaced."""
    from transformers import GenerationConfig, LlamaConfig

    from pretrain.card import card

    recipe = Recipe(**run["recipe"])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in tokenizer.FILES:
        shutil.copyfile(tokenizer_folder / name, target / name)
    write_index(write_weights(read_weights(run_folder), target), target)
    config = LlamaConfig(**llama_config(recipe, run["options"]["vocabulary"]))
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(target)
    GenerationConfig(do_sample=False, eos_token_id=EOS_ID, pad_token_id=PAD_ID).save_pretrained(target)
    (target / "README.md").write_text(card(run), encoding="utf-8")
    return target


def write_index(paths: list[Path], folder: Path) -> None:
    """Say which file holds which weight, if there are several."""
    if len(paths) == 1:
        return
    where: dict[str, str] = {}
    size = 0
    for path in paths:
        size += sum(value.nbytes for value in load_file(path).values())
        with safe_open(path, framework="pt") as weights:
            where |= dict.fromkeys(weights.keys(), path.name)
    index = {"metadata": {"total_size": size}, "weight_map": where}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
