"""Tiny random checkpoints in the exact layout of the hub's, remote code included, and a plain model that reads them.

The code that lies beside the weights writes a file when it is run; `ran` looks for it.
"""

import json
import math
import struct
from pathlib import Path

import torch

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

KINDS = {
    "llada": (LLADA, _OLMO, {"kv_heads": 4, "theta": 500000.0, "eps": 1e-5, "biases": False}),
    "dream": (DREAM, _LLAMA, {"kv_heads": 2, "theta": 1000000.0, "eps": 1e-6, "biases": True}),
    "illada": (ILLADA, _LLAMA, {"kv_heads": 2, "theta": 500000.0, "eps": 1e-5, "biases": False}),
}


class Plain:
    """The forward pass of one row, as the papers write it; nothing of llmbench or Transformers in it."""

    def __init__(self, kind, *, seed=0, width=32, ffn=48, heads=4, layers=2):
        _, self.names, self.facts = KINDS[kind]
        self.heads, self.layers, self.size = heads, layers, width // heads
        generator = torch.Generator().manual_seed(seed)
        keys = self.facts["kv_heads"] * self.size
        shapes = {"embed": (VOCAB, width), "norm": (width,), "head": (VOCAB, width)}
        block = {"norm1": (width,), "norm2": (width,), "q": (width, width), "k": (keys, width), "v": (keys, width),
                 "o": (width, width), "gate": (ffn, width), "up": (ffn, width), "down": (width, ffn)}  # fmt: skip
        for i in range(layers):
            for part, shape in block.items():
                name = self.names[part].format(i=i)
                shapes[f"{name}.weight"] = shape
                if part in "qkv" and self.facts["biases"]:
                    shapes[f"{name}.bias"] = shape[:1]
        self.state = {}
        for part, shape in shapes.items():
            values = torch.randn(shape, generator=generator) * 0.3
            self.state[self.names.get(part, part)] = 1 + values if len(shape) == 1 and "bias" not in part else values
        if kind == "illada":  # one table; the files hold it twice
            self.state[self.names["head"]] = self.state[self.names["embed"]].clone()

    def linear(self, x, part, i):
        name = self.names[part].format(i=i)
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0.0)

    def normed(self, x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.facts["eps"]) * self.state[name]

    def rotated(self, x):
        """[S, heads, D]: the first half of D is the real part, the second the imaginary one."""
        half = self.size // 2
        angles = torch.arange(x.shape[0])[:, None] / self.facts["theta"] ** (torch.arange(half) / half)
        cos, sin = torch.cos(angles)[:, None], torch.sin(angles)[:, None]
        real, imaginary = x[..., :half], x[..., half:]
        return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], -1)

    def logits(self, ids):
        """[S, V] of ids [S]; every position sees every other."""
        x = self.state[self.names["embed"]][ids]
        for i in range(self.layers):
            n = self.normed(x, f"{self.names['norm1'].format(i=i)}.weight")
            q, k, v = (self.linear(n, part, i).view(len(ids), -1, self.size) for part in "qkv")
            q, k = self.rotated(q), self.rotated(k)
            mixed = []
            for head in range(self.heads):
                other = head * self.facts["kv_heads"] // self.heads
                weights = torch.softmax(q[:, head] @ k[:, other].T / math.sqrt(self.size), -1)
                mixed.append(weights @ v[:, other])
            x = x + self.linear(torch.cat(mixed, -1), "o", i)
            n = self.normed(x, f"{self.names['norm2'].format(i=i)}.weight")
            gate = self.linear(n, "gate", i)
            x = x + self.linear(gate * torch.sigmoid(gate) * self.linear(n, "up", i), "down", i)
        return self.normed(x, self.names["norm"]) @ self.state[self.names["head"]].T


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
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}_{kind}.py").write_text(BOMB)
    write_tokenizer(folder, kind)
    return plain


def write_tokenizer(folder, kind):
    """Letters, and the special tokens at the ids that the configuration names; Dream's class is remote code."""
    special = {MASK: "<|mask|>", EOS: "<|endoftext|>"}
    letters = [chr(33 + i) for i in range(VOCAB)]
    vocab = {special.get(i, letters[i]): i for i in range(VOCAB)}
    if kind == "dream":
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        values = {
            "tokenizer_class": "DreamTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
            "added_tokens_decoder": {str(i): {"content": token, "special": True, "lstrip": False, "rstrip": False,
                                              "normalized": False, "single_word": False}
                                     for i, token in special.items()},
        }  # fmt: skip
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
