"""How does text become batches? Documents, each ended by a special token, make one stream, which every epoch cuts anew.

An epoch starts its cut at a random offset and draws the length of every row from a few fixed values, so no two epochs
show the same rows, yet each shows every token. A row that crosses the end of the stream goes on at its beginning.
Rows of equal length make a batch; all batches hold about the same number of tokens, so a step costs the same whatever
its length. Rows left over when an epoch ends wait for the next one: none is dropped.

The stream (26 MB as 16-bit integers) lies on the training device, and batches are gathered there: no loader, no
workers.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from pretrain.recipe import EOS

CORPUS = Path(__file__).parent / "corpus"
SPLITS = ("train", "valid", "test")


def documents(split: str, corpus: Path = CORPUS) -> Iterator[str]:
    """The texts of one split, in the order of the file."""
    with lzma.open(corpus / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def encode(tokenizer: Tokenizer, texts: Iterator[str]) -> npt.NDArray[np.uint16]:
    """One stream of ids: each document followed by the end-of-document token."""
    eos = tokenizer.token_to_id(EOS)
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return np.concatenate([np.asarray([*encoding.ids, eos], dtype=np.uint16) for encoding in encodings])


def load_stream(split: str, tokenizer: Tokenizer, cache: Path, corpus: Path = CORPUS) -> torch.Tensor:
    """The encoded split, from ``cache`` where an earlier call left it. 16-bit, shape (tokens,)."""
    path = cache / f"{split}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, encode(tokenizer, documents(split, corpus)))
    ids = np.load(path)
    if ids.max() > np.iinfo(np.int16).max:
        raise ValueError(f"{path}: token id {ids.max()} needs more than 15 bits; make the vocabulary smaller")
    return torch.from_numpy(ids.astype(np.int16))


class Rows:
    """Endless batches from one stream, epoch after epoch, each of shape (rows, length).

    Args:
        stream: All token ids, on the device where batches are wanted. 16-bit, shape (tokens,).
        shares: Row length -> share of the tokens that is cut into rows of that length.
        batch_tokens: Upper bound of rows x length.
        seed: Seed of offsets, lengths and order.
    """

    def __init__(self, stream: torch.Tensor, shares: Mapping[int, float], batch_tokens: int, seed: int) -> None:
        if batch_tokens < max(shares):
            raise ValueError(f"batch_tokens={batch_tokens} is less than one row of {max(shares)}")
        if stream.numel() < max(shares):
            raise ValueError(f"the stream has {stream.numel()} tokens, less than one row of {max(shares)}")
        self.stream = stream
        self.shares = dict(shares)
        self.batch_rows = {length: batch_tokens // length for length in shares}
        self.random = np.random.default_rng(seed)
        self._waiting = {length: np.empty(0, dtype=np.int64) for length in shares}

    def cut(self) -> dict[int, npt.NDArray[np.int64]]:
        """Cut the stream once, from a random offset: row length -> where its rows start, shuffled."""
        tokens = self.stream.numel()
        lengths = np.array(list(self.shares))
        odds = np.array(list(self.shares.values())) / lengths  # a share of tokens, turned into a share of rows
        drawn = self.random.choice(lengths, size=tokens // lengths.min() + 1, p=odds / odds.sum())
        ends = drawn.cumsum()
        count = int(np.searchsorted(ends, tokens)) + 1
        starts = (ends[:count] - drawn[:count] + self.random.integers(tokens)) % tokens
        return {int(length): self.random.permutation(starts[drawn[:count] == length]) for length in lengths}

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Batches without end; the lengths come in random order."""
        while True:
            plan: list[tuple[int, npt.NDArray[np.int64]]] = []
            for length, cut in self.cut().items():
                starts = np.concatenate([self._waiting[length], cut])
                rows = self.batch_rows[length]
                full = len(starts) // rows * rows
                plan += [(length, starts[i : i + rows]) for i in range(0, full, rows)]
                self._waiting[length] = starts[full:]
            for i in self.random.permutation(len(plan)):
                yield self.gather(*plan[i])

    def gather(self, length: int, starts: npt.NDArray[np.int64]) -> torch.Tensor:
        """The rows of one length that start at ``starts``. int64, shape (len(starts), length)."""
        first = torch.from_numpy(starts).to(self.stream.device, non_blocking=True)
        places = first[:, None] + torch.arange(length, device=self.stream.device)
        return self.stream[places % self.stream.numel()].long()


def windows(stream: torch.Tensor, length: int, rows: int) -> torch.Tensor:
    """The stream cut into windows that do not overlap, in batches. int64, shape (batches, rows, length).

    Raises:
        ValueError: If the stream is too short for one batch.
    """
    batches = stream.numel() // (length * rows)
    if not batches:
        raise ValueError(f"the stream has {stream.numel()} tokens, less than {rows} windows of {length}")
    return stream[: batches * rows * length].view(batches, rows, length).long()
