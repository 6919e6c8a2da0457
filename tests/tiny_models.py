"""Models of a few thousand random weights, large enough to disagree with each other, for tests of real forwards."""

import json

import torch

EOS, PADDING, MASKED = "<|endoftext|>", "<|pad|>", "<|mask|>"  # get the ids 0, 1, 2
VOCAB, STOP, PAD, MASK = 40, 0, 1, 2


def config(*, causal=True, tied=False, kv_heads=2, vocab=VOCAB, head_dim=8):
    from transformers import LlamaConfig

    made = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=STOP,
        pad_token_id=PAD,
    )
    if not causal:
        made.is_causal = False
        made.mask_token_id = MASK
    return made


def model(*, causal=True, seed=0, **shape):
    """Random weights of a size that makes outputs vary: at the usual 0.02 every prompt gives the same token."""
    from llmbench.models import llama

    made = llama.dummy(config(causal=causal, **shape), torch.float32, "cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3, generator=generator)
    return made


def prompts(lengths, *, seed=0, vocab=VOCAB):
    """Left-padded random prompts: ids [B, P] and mask [B, P], or None when all lengths agree."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(3, vocab, (len(lengths), width), generator=generator)
    mask = torch.tensor([[i >= width - n for i in range(width)] for n in lengths])
    ids = ids.masked_fill(~mask, PAD)
    return ids, (None if mask.all() else mask)


def write_tokenizer(folder, *, bos=None):
    """A byte-level tokenizer without merges: 3 special tokens and 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = [EOS, PADDING, MASKED]
    vocab = {token: i for i, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PADDING,
        "mask_token": MASKED,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values | ({"bos_token": bos} if bos else {})))
