"""How does text become token ids? A byte-level BPE, trained on the training split alone, shared by all models.

Byte-level, because every string is then encodable and ``decode(encode(text)) == text`` holds exactly: no unknown
token, no normalisation, no prefix space. One tokenizer for all, so that tokens of one model can be compared with
tokens of the other. Three entries are special: the end of a document, padding, and the mask, which is none of the
others.

``train`` writes the two files that Hugging Face reads. ``tokenizer_config.json`` is written by hand: it names the class
that takes ``tokenizer.json`` as it is, whatever tokenizer the model's type would suggest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pretrain.recipe import EOS, MASK, MAX_POSITIONS, PAD, SPECIAL_TOKENS, VOCABULARY

FILES = ("tokenizer.json", "tokenizer_config.json")


def train(texts: Iterable[str], folder: Path, vocabulary: int = VOCABULARY) -> Tokenizer:
    """Train on ``texts`` and write ``tokenizer.json`` and ``tokenizer_config.json`` into ``folder``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(), indent=2) + "\n", encoding="utf-8")
    return tokenizer


def load(folder: Path) -> Tokenizer:
    """The tokenizer that ``train`` wrote into ``folder``."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; make it with: python -m pretrain tokenizer")
    return Tokenizer.from_file(str(path))


def byte_lengths(tokenizer: Tokenizer) -> list[int]:
    """UTF-8 bytes that each token id stands for; 0 for special tokens.

    A byte-level vocabulary spells every byte as one printable character: as many characters, as many bytes.
    """
    special = {tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    spelling = {i: token for token, i in tokenizer.get_vocab().items()}
    return [0 if i in special else len(spelling[i]) for i in range(tokenizer.get_vocab_size())]


def _config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "mask_token": MASK,
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
