"""What came back for the requests of one batch, as the passes and the Record read it."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.load import ValidText
from llmbench.job.reply import Reply
from llmbench.record import Marks

CHARACTER_TOKENS = 4
"""A character has at most so many bytes, and so many tokens may come before there is text."""

OTHER_TOKENIZER = 1.5
"""Tokens that a server may count for one our tokenizer finds in its text; where it counts more, some are hidden."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerBatch:
    """The replies of one batch. Tokens are counted when they are first read, which is outside the timed region."""

    replies: Sequence[Reply]
    files: CheckpointFiles
    canvas: int  # G
    one_by_one: bool = True  # tokens come one after the other; else a whole canvas, or its blocks
    count_forwards: Callable[[], float | None] = lambda: None  # of the server, since the batch was sent; asks it once

    @functools.cached_property
    def ids(self) -> list[list[int]]:
        """Every row's text in the checkpoint's own tokens, at most G."""
        encode = self.files.tokenizer
        return [encode(reply.text, add_special_tokens=False)["input_ids"][: self.canvas] for reply in self.replies]

    @functools.cached_property
    def tokens(self) -> torch.Tensor:
        """Ids [B, <= G], padded behind the text."""
        width = max(map(len, self.ids))
        padded = [row + [self.files.pad_id] * (width - len(row)) for row in self.ids]
        return torch.tensor(padded, dtype=torch.int64)

    @functools.cached_property
    def nfe(self) -> float | None:
        """Forwards that the server counted, the mean over rows; None where it does not, or others use it."""
        return self.count_forwards()

    @property
    def longest_row(self) -> int | None:
        """F: tokens of the longest row, the stop token included; None where the first piece held several."""
        if not self.one_by_one or any((reply.first_tokens or 1) > 1 for reply in self.replies):
            return None
        rows = zip(self.replies, self.ids, strict=True)
        return max(1, *(reply.completion_tokens or len(ids) + (reply.finish == "stop") for reply, ids in rows))

    @property
    def hidden(self) -> bool:
        """Whether tokens were written that are no text."""
        if any(reply.other or reply.reasoning_tokens for reply in self.replies):
            return True
        return self.one_by_one and any(itertools.starmap(_hides, zip(self.replies, self.ids, strict=True)))

    @property
    def first_text(self) -> int:
        """The first piece is text."""
        return 1

    @property
    def texts(self) -> list[ValidText]:
        """The valid text of every row: all of it, because a server sends nothing after the stop token."""
        return [
            ValidText(
                text=reply.text, tokens=len(ids), utf8_bytes=len(reply.text.encode()), stopped=reply.finish == "stop"
            )
            for reply, ids in zip(self.replies, self.ids, strict=True)
        ]

    @property
    def size(self) -> tuple[int, int]:
        """Tokens and UTF-8 bytes of the batch."""
        return sum(map(len, self.ids)), sum(len(reply.text.encode()) for reply in self.replies)


def token_marks(first_pass: Sequence[ServerBatch], repeated: Sequence[int]) -> tuple[tuple[Marks, ...], list[str]]:
    """When the tokens of every stream of the repeated batches came, or the reason why that is not known.

    All or none: rows whose pieces happen to be single tokens would stand for the slow ones.
    """
    rows = [
        (batch, *row)
        for batch in repeated
        for row in zip(first_pass[batch].replies, first_pass[batch].ids, strict=True)
    ]
    times = [(batch, _token_times(reply, ids)) for batch, reply, ids in rows if reply.pieces_ms]
    marks = [Marks(batch=batch, repeat=0, at_ms=tuple(at)) for batch, at in times if at is not None]
    if len(marks) == len(times):
        return tuple(marks), []
    pieces = sum(len(reply.pieces_ms) for _, reply, _ in rows)
    tokens = sum(reply.completion_tokens or len(ids) for _, reply, ids in rows)
    return (), [f"latency/token_gap_ms is absent: {tokens} tokens came in {pieces} pieces"]


def _token_times(reply: Reply, ids: Sequence[int]) -> list[float] | None:
    """When each token of a row came; where the server counts none, every piece must be one of the text's tokens."""
    if reply.completion_tokens is None and len(reply.pieces_ms) == len(ids):
        return reply.pieces_ms
    return reply.token_times_ms


def _hides(reply: Reply, ids: Sequence[int]) -> bool:
    """Whether a row holds tokens that are no text, by the server's count."""
    silent, told = reply.silent_tokens or 0, reply.completion_tokens or 0
    beyond = told > OTHER_TOKENIZER * len(ids) + CHARACTER_TOKENS
    return beyond or silent >= CHARACTER_TOKENS
