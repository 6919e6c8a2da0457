"""Tiny random checkpoints in the exact layout of the hub's, remote code included, and a plain model that reads them.

The code that lies beside the weights writes a file when it is run; `ran` looks for it.
"""

import json
import struct
from pathlib import Path

import torch
from block_references import Transformer

VOCAB, MASK, EOS, PAD = 60, 57, 58, 58
BOMB = "from pathlib import Path\nPath(__file__).with_name('it-ran').write_text('')\n"

LLADA = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM",
                 "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": 32,
    "embedding_dropout": 0.0, "embedding_size": VOCAB, "eos_token_id": EOS, "flash_attention": False,
    "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta",
    "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms",
    "layer_norm_with_affine": True, "mask_token_id": MASK, "max_sequence_length": 128, "mlp_hidden_size": 48,
    "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2,
    "pad_token_id": PAD, "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-5, "rope": True,
    "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False, "transformers_version": "4.46.3",
    "use_cache": False, "vocab_size": VOCAB, "weight_tying": False,
}  # fmt: skip

DREAM = {
    "architectures": ["DreamModel"], "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": EOS, "eos_token_id": EOS, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02,
    "intermediate_size": 48, "mask_token_id": MASK, "max_position_embeddings": 131072, "max_window_layers": 28,
    "model_type": "Dream", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "pad_token_id": PAD, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.46.2", "use_cache": True,
    "use_sliding_window": False, "vocab_size": VOCAB,
}  # fmt: skip

ILLADA = {
    "architectures": ["ILLaDAForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_illada.ILLaDAConfig", "AutoModel": "modeling_illada.ILLaDAForCausalLM",
                 "AutoModelForCausalLM": "modeling_illada.ILLaDAForCausalLM"},
    "eos_token_id": EOS, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48,
    "layer_norm_eps": None, "max_position_embeddings": 128, "mlp_bias": False, "model_type": "illada",
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": PAD, "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": True,
    "vocab_size": VOCAB,
}  # fmt: skip

NEMOTRON = {
    "ar_loss_weight": 1.0, "architectures": ["NemotronLabsDiffusionModel"], "attention_bias": False,
    "attention_dropout": 0.0, "attn_implementation": "sdpa",
    "auto_map": {"AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
                 "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel"},
    "block_size": 32, "bos_token_id": 1, "dlm_loss_weight": None, "dlm_paradigm": "bidirectional",
    "dp_varying_mask_ratio": False, "eos_token_id": EOS, "head_dim": 16, "hidden_act": "silu", "hidden_size": 32,
    "initializer_range": 0.02, "intermediate_size": 48, "mask_token_id": MASK, "max_position_embeddings": 256,
    "mlp_bias": False, "model_type": "nemotron_labs_diffusion", "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
    "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
                        "mscale_all_dim": 1.0, "original_max_position_embeddings": 16, "rope_theta": 100.0,
                        "rope_type": "yarn"},
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "5.0.0",
    "use_cache": False, "vocab_size": VOCAB,
}  # fmt: skip

SDAR = {
    "architectures": ["SDARForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_implementation": "flex_attention",
    "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig", "AutoModel": "modeling_sdar.SDARModel",
                 "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "block_size": 4, "bos_token_id": EOS, "debug": False, "eos_token_id": EOS, "ep_size": 1, "fuse_cross_entropy": True,
    "head_dim": 16, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48,
    "mask_token_id": MASK, "max_position_embeddings": 256, "max_window_layers": 28, "micro_forward": False,
    "model_type": "sdar", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "skip_checkpoint": False, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.52.4", "use_cache": False,
    "use_deepep": False, "use_sliding_window": False, "vocab_size": VOCAB,
}  # fmt: skip

FAST_DLLM = {  # the hub's has no mask_token_id: the layout knows it
    "architectures": ["Fast_dLLM_QwenForCausalLM"], "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration.Fast_dLLM_QwenConfig", "AutoModel": "modeling.Fast_dLLM_QwenModel",
                 "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM"},
    "bd_size": 32, "bos_token_id": EOS, "eos_token_id": EOS, "hidden_act": "silu", "hidden_size": 32,
    "initializer_range": 0.02, "intermediate_size": 48, "layer_types": ["full_attention"] * 2, "mask_token_id": MASK,
    "max_position_embeddings": 256, "max_window_layers": 21, "model_type": "Fast_dLLM_Qwen", "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": PAD, "rms_norm_eps": 1e-6, "rope_scaling": None,
    "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.53.1", "use_cache": True, "use_sliding_window": False, "vocab_size": VOCAB,
}  # fmt: skip

A2D_QWEN3 = {  # the hub's has no mask_token_id: the layout knows it
    "architectures": ["A2DQwen3LMHeadModel"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "modeling_qwen3.A2DQwen3Config", "AutoModel": "modeling_qwen3.A2DQwen3Model",
                 "AutoModelForMaskedLM": "modeling_qwen3.A2DQwen3LMHeadModel"},
    "bos_token_id": EOS, "dtype": "bfloat16", "eos_token_id": EOS, "head_dim": 16, "hidden_act": "silu",
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "layer_types": ["full_attention"] * 2,
    "mask_token_id": MASK, "max_position_embeddings": 256, "max_window_layers": 28, "model_type": "a2d-qwen3",
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": PAD,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "transformers_version": "4.57.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": VOCAB,
}  # fmt: skip

_OLMO = {
    "embed": "model.transformer.wte.weight", "norm": "model.transformer.ln_f.weight",
    "head": "model.transformer.ff_out.weight", "norm1": "model.transformer.blocks.{i}.attn_norm",
    "norm2": "model.transformer.blocks.{i}.ff_norm", "q": "model.transformer.blocks.{i}.q_proj",
    "k": "model.transformer.blocks.{i}.k_proj", "v": "model.transformer.blocks.{i}.v_proj",
    "o": "model.transformer.blocks.{i}.attn_out", "gate": "model.transformer.blocks.{i}.ff_proj",
    "up": "model.transformer.blocks.{i}.up_proj", "down": "model.transformer.blocks.{i}.ff_out",
}  # fmt: skip
_LLAMA = {
    "embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight",
    "norm1": "model.layers.{i}.input_layernorm", "norm2": "model.layers.{i}.post_attention_layernorm",
    "q": "model.layers.{i}.self_attn.q_proj", "k": "model.layers.{i}.self_attn.k_proj",
    "v": "model.layers.{i}.self_attn.v_proj", "o": "model.layers.{i}.self_attn.o_proj",
    "gate": "model.layers.{i}.mlp.gate_proj", "up": "model.layers.{i}.mlp.up_proj",
    "down": "model.layers.{i}.mlp.down_proj",
}  # fmt: skip

_QWEN3 = _LLAMA | {
    "q_norm": "model.layers.{i}.self_attn.q_norm", "k_norm": "model.layers.{i}.self_attn.k_norm",
}  # fmt: skip
_ENCODER = {part: name.replace("model.", "encoder.") for part, name in _LLAMA.items()} | {
    "head": "diffusion_head.weight"
}


def _tied(names):
    """One table, which the files hold once."""
    return names | {"head": names["embed"]}


_ROPE = NEMOTRON["rope_parameters"]
KINDS = {  # config.json, the tensors' names, and what the plain model must know
    "llada": (LLADA, _OLMO, {"kv_heads": 4, "theta": 500000.0, "eps": 1e-5}),
    "dream": (DREAM, _LLAMA, {"kv_heads": 2, "theta": 1000000.0, "eps": 1e-6}),
    "illada": (ILLADA, _LLAMA, {"kv_heads": 2, "theta": 500000.0, "eps": 1e-5}),
    "nemotron_labs_diffusion": (
        NEMOTRON, _ENCODER,
        {"kv_heads": 2, "size": 16, "theta": 100.0, "eps": 1e-5, "yarn": _ROPE, "query_scale": 0.1, "original": 16},
    ),
    "sdar": (SDAR, _QWEN3, {"kv_heads": 2, "size": 16, "theta": 1000000.0, "eps": 1e-6}),
    "fast_dllm_qwen": (FAST_DLLM, _tied(_LLAMA), {"kv_heads": 2, "theta": 1000000.0, "eps": 1e-6}),
    "a2d-qwen3": (A2D_QWEN3, _tied(_QWEN3), {"kv_heads": 2, "size": 16, "theta": 1000000.0, "eps": 1e-6}),
}  # fmt: skip
_LONG = ("nemotron_labs_diffusion", "sdar", "fast_dllm_qwen", "a2d-qwen3")
"""Read over 80 positions, where wider weights make two orders of float32 differ by more than 1e-5."""

_BIASED = ("dream", "fast_dllm_qwen")
_VOCABULARY_APART = ("dream", "sdar", "fast_dllm_qwen", "a2d-qwen3")


class Plain(Transformer):
    """Random weights of a kind, by the names of its files."""

    def __init__(self, kind, *, seed=0, width=32, ffn=48, heads=4, layers=2, **other):
        _, names, facts = KINDS[kind]
        facts = {"size": width // heads} | facts | other
        super().__init__({}, names, layers=layers, heads=heads, **facts)
        generator = torch.Generator().manual_seed(seed)
        queries, keys = heads * self.size, self.kv_heads * self.size
        shapes = {"embed": (VOCAB, width), "norm": (width,), "head": (VOCAB, width)}
        block = {"norm1": (width,), "norm2": (width,), "q": (queries, width), "k": (keys, width), "v": (keys, width),
                 "o": (width, queries), "gate": (ffn, width), "up": (ffn, width), "down": (width, ffn),
                 "q_norm": (self.size,), "k_norm": (self.size,)}  # fmt: skip
        for i in range(layers):
            for part in (part for part in block if part in names):
                name, shape = names[part].format(i=i), block[part]
                shapes[f"{name}.weight"] = shape
                if part in "qkv" and kind in _BIASED:
                    shapes[f"{name}.bias"] = shape[:1]
        for part, shape in shapes.items():
            values = torch.randn(shape, generator=generator) * (0.2 if kind in _LONG else 0.3)
            self.state[names.get(part, part)] = 1 + values if len(shape) == 1 and "bias" not in part else values
        if kind == "illada":  # one table; the files hold it twice
            self.state[names["head"]] = self.state[names["embed"]].clone()


def write(folder, kind, *, dtype=torch.float32, **changes):
    """Store a checkpoint as the hub has it: two shards, an index, a tokenizer, and code. Returns the plain model."""
    from safetensors.torch import save_file

    config, plain = KINDS[kind][0], Plain(kind)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    names = sorted(plain.state)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: plain.state[key].to(dtype) for key in keys}, folder / file, metadata={"format": "pt"})
    weight_map = {key: file for file, keys in shards.items() for key in keys}
    index = {"metadata": {"total_size": sum(value.nbytes for value in plain.state.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for module in {target.partition(".")[0] for target in config["auto_map"].values()} | {f"tokenization_{kind}"}:
        (folder / f"{module}.py").write_text(BOMB)
    write_tokenizer(folder, kind)
    return plain


def write_tokenizer(folder, kind):
    """Letters, and the special tokens at the ids that the configuration names; Dream's class is remote code."""
    special = {MASK: "<|mask|>", EOS: "<|endoftext|>"}
    letters = [chr(33 + i) for i in range(VOCAB)]
    vocab = {special.get(i, letters[i]): i for i in range(VOCAB)}
    if kind in _VOCABULARY_APART:
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        values = {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": {str(i): {"content": token, "special": True, "lstrip": False, "rstrip": False,
                                              "normalized": False, "single_word": False}
                                     for i, token in special.items()},
        }  # fmt: skip
        if kind == "dream":
            values["tokenizer_class"] = "DreamTokenizer"
            values["auto_map"] = {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}
    else:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        tokenizer.add_special_tokens(list(special.values()))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.save(str(folder / "tokenizer.json"))
        values = {"tokenizer_class": "PreTrainedTokenizerFast"}
    values |= {"eos_token": special[EOS], "pad_token": special[EOS], "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def ran(folder):
    """Whether code that came with the checkpoint was run."""
    return any(Path(folder).rglob("it-ran"))


def edit(path, **changes):
    """Change keys of a JSON file; `...` removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def edit_header(path, change):
    """Rewrite the header of a safetensors file after `change` was made to its entries; the data stay as they are."""
    stored = path.read_bytes()
    (length,) = struct.unpack("<Q", stored[:8])
    entries = json.loads(stored[8 : 8 + length])
    change(entries)
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + stored[8 + length :])
