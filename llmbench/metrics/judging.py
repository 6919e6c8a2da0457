"""What does a judge, a causal language model, find likely? The NLL of texts after prompts, batched by length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

BATCH_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Most tokens, padding included, in one forward of the judge, by device."""

Window = tuple[list[int], int]
"""The ids that a judge reads, and where the scored ones begin."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A causal language model that judges texts."""

    model: Any  # transformers causal LM: input_ids, attention_mask, logits_to_keep -> .logits [B, keep, V]
    tokenize: Callable[[str], list[int]]  # without special tokens
    eos_id: int
    context: int  # most tokens it can read
    device: str
    name: str  # with its content hash: the cache's key
    prefix: tuple[int, ...] = ()  # what its tokenizer puts before every text: a start token, or nothing

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt, without the prefix.

        The end token for one that has neither, so that the text's first token has a place before it.
        """
        return self.tokenize(prompt) or ([] if self.prefix else [self.eos_id])

    @property
    def room(self) -> int:
        """Most tokens of prompt and text together."""
        return self.context - len(self.prefix)


def nll_sums(
    judge: Judge, pairs: Sequence[tuple[list[int], list[int]]], tick: Callable[[int], None] = lambda done: None
) -> list[float]:
    """Summed NLL of each text's tokens given its prompt, in nats.

    Args:
        judge: scores them.
        pairs: ids of prompt and text. A prompt that the context cannot hold is cut from the left.
        tick: takes how many texts are done, about.
    """
    prefix = list(judge.prefix)
    windows = [
        (index, (prefix + row, len(prefix) + start))
        for index, (prompt, target) in enumerate(pairs)
        for row, start in _windows(prompt, target, judge.room)
    ]
    windows.sort(key=lambda window: len(window[1][0]))
    sums, done = [0.0] * len(pairs), 0
    for batch in _batches(windows, BATCH_TOKENS.get(judge.device, 1024)):
        tick(min(done, len(pairs)))
        for (index, _), losses in zip(batch, token_nll(judge, [window for _, window in batch]), strict=True):
            sums[index] += sum(losses)
        done += len(batch)
    return sums


def token_nll(judge: Judge, windows: Sequence[Window]) -> list[list[float]]:
    """NLL of each scored id in nats, row by row: one forward, padded on the right, logits only where needed."""
    import torch
    import torch.nn.functional as F

    width = max(len(ids) for ids, _ in windows)
    ids = torch.full((len(windows), width), judge.eos_id)  # [B, S]
    mask = torch.zeros(len(windows), width, dtype=torch.long)
    for i, (row, _) in enumerate(windows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    first = min(start for _, start in windows) - 1  # position p predicts token p + 1
    row_of = [i for i, (row, start) in enumerate(windows) for _ in range(start, len(row))]
    column_of = [p for row, start in windows for p in range(start, len(row))]
    ids, mask = ids.to(judge.device), mask.to(judge.device)
    with torch.inference_mode():
        output = judge.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=width - first)
        needed = output.logits[row_of, [p - 1 - first for p in column_of]].float()  # [scored tokens, V]
        losses = F.cross_entropy(needed, ids[row_of, column_of], reduction="none").double()
    each = iter(losses.tolist())
    return [[next(each) for _ in range(start, len(row))] for row, start in windows]


def _windows(prompt: list[int], target: list[int], context: int) -> Iterator[Window]:
    """The ids that the judge reads, and where the scored ones begin.

    One window, if need be with the prompt cut from the left; a target that does not fit at all is scored in pieces of
    half a context, each after as much text as fits.
    """
    size = len(target) if len(target) < context else max(1, context // 2)
    whole = prompt + target
    for begin in range(len(prompt), len(whole), max(1, size)):
        end = min(begin + size, len(whole))
        first = max(0, end - context)
        yield whole[first:end], begin - first


def _batches(windows: list[tuple[int, Window]], most: int) -> Iterator[list[tuple[int, Window]]]:
    """Runs of windows (sorted by length) that pad to at most so many tokens."""
    batch: list[tuple[int, Window]] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window[1][0]) > most:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
