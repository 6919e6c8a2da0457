"""From texts to sums: what do a judge and an encoder say about each output, and about texts whose quality is known?

Five texts are scored per prompt: the model's output, and four *subjects* that show what a number is worth: the human
reference; another prompt's reference (fluent, wrong place); the prompt's own last words again (copying); nothing at
all. A metric that does not put the first above the rest says nothing about the output either.

*Judge* (a third, causal model): prompt and text are tokenised separately and joined, behind the start token that its
tokenizer adds to a text, if it adds one; the NLL of the text's tokens
given the prompt is summed, in float32. Where a stop token was produced the judge scores its own stop token too, so
that ending early, or at once, is not free; references, their shuffles and prompt tails are cut from longer texts and
carry none; the empty subject carries one. Texts after the prompt keep their joint (`Prompt.gap`), as a generated text
begins with its space. A prompt that the judge's context cannot hold is cut from the left.

*Diversity*, over the text's first m judge tokens: unigram entropy; bigrams and how many of them differ; tokens that
lie in a 4-gram that occurs more than once among them (every token of every such occurrence, counted once).

*Answers* that can be checked are (`llmbench.metrics.answers`), without a model.

*BERTScore* against the prompt's reference; none for the human subject (a text equals itself) and where there is no
reference.

Only the output's sums depend on the model under test; the others are computed once per process.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmbench.metrics import answers
from llmbench.metrics.bertscore import Encoder
from llmbench.record import Output, PromptScore, Subject

Tick = Callable[[str, int, int], None]

BATCH_TOKENS = 1024
"""Most tokens, padding included, in one forward of the judge."""

NGRAM = 4  # of `repeated_tokens`


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


@dataclass(frozen=True, kw_only=True)
class Item:
    """One text to score after one prompt."""

    prompt_id: str
    subject: Subject
    prompt: str
    text: str
    stopped: bool  # a stop token belongs to the text
    reference: str | None  # what BERTScore compares with
    answer: str | None  # the number that the text should end on


class PromptText(Protocol):
    """A prompt of a workload, as far as scoring reads it."""

    @property
    def id(self) -> str:
        """Unique in the workload."""

    @property
    def text(self) -> str:
        """The prompt as the models see it."""

    @property
    def reference(self) -> str | None:
        """What a human wrote there."""

    @property
    def answer(self) -> str | None:
        """The number that a right text ends on, where there is one."""

    @property
    def gap(self) -> str:
        """The whitespace between prompt and reference."""

    @property
    def tail(self) -> str:
        """The prompt's last words, as many as the reference has."""


class Prompts(Protocol):
    """A workload, as far as scoring reads it."""

    @property
    def prompts(self) -> Sequence[PromptText]:
        """All prompts of the job."""


def items(outputs: Sequence[Output], workload: Prompts) -> tuple[Item, ...]:
    """Everything there is to score: the outputs, human references, shuffled references, prompt tails, nothing.

    Shuffled references are a fixed rearrangement in which no prompt keeps its own; it needs two prompts with one.
    """
    prompts = {prompt.id: prompt for prompt in workload.prompts}
    made = [
        Item(
            prompt_id=output.prompt_id,
            subject="output",
            prompt=output.prompt,
            text=output.text,
            stopped=output.stopped,
            reference=prompts[output.prompt_id].reference,
            answer=prompts[output.prompt_id].answer,
        )
        for output in outputs
        if output.prompt is not None and output.text is not None
    ]

    def item(prompt: PromptText, subject: Subject, text: str, reference: str | None) -> Item:
        return Item(
            prompt_id=prompt.id,
            subject=subject,
            prompt=prompt.text,
            text=text,
            stopped=subject == "empty",
            reference=reference,
            answer=prompt.answer,
        )

    written = [(prompt, prompt.reference) for prompt in workload.prompts if prompt.reference is not None]
    made += [item(prompt, "human", prompt.gap + reference, None) for prompt, reference in written]
    if len(written) > 1:
        for (prompt, reference), other in zip(written, derangement(len(written)), strict=True):
            made.append(item(prompt, "shuffled", prompt.gap + written[other][1], reference))
    for prompt in workload.prompts:
        made.append(item(prompt, "prompt_tail", prompt.gap + prompt.tail, prompt.reference))
        made.append(item(prompt, "empty", "", prompt.reference))
    return tuple(made)


def derangement(size: int) -> list[int]:
    """A fixed random cycle through `size` places (Sattolo 1986): from two places on, none keeps its own."""
    order, draw = list(range(size)), random.Random(0).random
    for last in range(size - 1, 0, -1):
        other = int(draw() * last)
        order[last], order[other] = order[other], order[last]
    return order


def score(
    items: Sequence[Item],
    judge: Judge | None,
    encoder: Encoder | None,
    *,
    diversity_tokens: int,
    tick: Tick = lambda phase, done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[PromptScore, ...]:
    """Sums of every item, in order. What was not asked for (no judge, no encoder, no reference, no answer) is None.

    Args:
        items: from `items`.
        judge: for NLL and diversity.
        encoder: for BERTScore.
        diversity_tokens: m.
        tick: progress.
        note: takes a line that a reader of the numbers must know.
    """
    setting = (
        (judge.name, judge.device) if judge else None,
        (encoder.name, encoder.digest) if encoder else None,
        diversity_tokens,
    )
    new = (item for item in items if item.subject == "output" or (item, setting) not in _CACHE)
    fresh = list(dict.fromkeys(new))
    compared = [item for item in fresh if encoder and item.reference is not None]
    total = (len(fresh) if judge else 0) + len(compared)
    sums: dict[Item, dict[str, Any]] = {item: {} for item in fresh}
    if judge:
        ids = {item: judge.tokenize(item.text) for item in fresh}
        for item in fresh:
            sums[item] |= diversity(ids[item][:diversity_tokens])
        nlls = _nll(fresh, ids, judge, lambda done: tick("score", done, total), note)
        for item, (nll, tokens) in nlls.items():
            sums[item] |= {"nll_nats": nll, "judged_tokens": tokens}
    if encoder:
        tick("score", total - len(compared), total)
        rows = encoder.score([item.text for item in compared], [item.reference or "" for item in compared])
        for item, (precision, recall, f1) in zip(compared, rows, strict=True):
            sums[item] |= {"bertscore_precision": precision, "bertscore_recall": recall, "bertscore_f1": f1}
    for item in fresh:
        if item.answer is not None:
            sums[item]["correct"] = answers.is_right(item.text, item.answer)
    tick("score", total, total)
    made = {
        item: PromptScore(
            prompt_id=item.prompt_id, subject=item.subject, utf8_bytes=len(item.text.encode()), **sums[item]
        )
        for item in fresh
    }
    _CACHE.update({(item, setting): sum_ for item, sum_ in made.items() if item.subject != "output"})
    return tuple(made[item] if item in made else _CACHE[item, setting] for item in items)


_CACHE: dict[tuple[Item, Any], PromptScore] = {}
"""Sums of human and floor texts by judge, encoder and m; numbers alone, no models and no tensors."""


def diversity(tokens: Sequence[int]) -> dict[str, float | int | None]:
    """Entropy, bigrams and repetition of the tokens looked at, as fields of PromptScore.

    Entropy is that of the empirical unigram distribution, -sum p ln p, in nats; None without tokens.
    """
    counts, size = Counter(tokens), len(tokens)
    bigrams = list(itertools.pairwise(tokens))
    places: dict[tuple[int, ...], list[int]] = {}
    for start in range(size - NGRAM + 1):
        places.setdefault(tuple(tokens[start : start + NGRAM]), []).append(start)
    repeated = {start + i for starts in places.values() if len(starts) > 1 for start in starts for i in range(NGRAM)}
    return {
        "entropy_nats": -math.fsum(n / size * math.log(n / size) for n in counts.values()) if size else None,
        "bigrams": len(bigrams),
        "distinct_bigrams": len(set(bigrams)),
        "diversity_tokens": size,
        "repeated_tokens": len(repeated),
    }


def _nll(
    items: Sequence[Item],
    ids: dict[Item, list[int]],
    judge: Judge,
    tick: Callable[[int], None],
    note: Callable[[str], None],
) -> dict[Item, tuple[float, int]]:
    """Summed NLL and number of judged tokens of every item, batched by length."""
    sums = {item: (0.0, 0) for item in items}
    windows: list[tuple[Item, list[int], int]] = []
    prompts: dict[str, list[int]] = {}
    prefix, room, cut = list(judge.prefix), judge.context - len(judge.prefix), 0
    for item in items:
        if item.prompt not in prompts:
            prompts[item.prompt] = judge.tokenize(item.prompt) or ([] if prefix else [judge.eos_id])
        target = ids[item] + [judge.eos_id] * item.stopped
        cut += len(prompts[item.prompt]) + len(target) > room
        made = _windows(prompts[item.prompt], target, room)
        windows += [(item, prefix + row, len(prefix) + start) for row, start in made]
    if prefix:
        note(f"the judge {judge.name} reads its start token before every prompt, as its tokenizer adds one")
    if cut:
        note(
            f"the judge {judge.name} reads {judge.context} tokens: "
            f"the beginnings of {cut} of {len(items)} prompts were cut off"
        )
    windows.sort(key=lambda window: len(window[1]))
    done = 0
    for batch in _batches(windows):
        tick(min(done, len(items)))
        for (item, row, start), nll in zip(batch, _batch_nll(judge, [window[1:] for window in batch]), strict=True):
            before, tokens = sums[item]
            sums[item] = (before + nll, tokens + len(row) - start)
        done += len(batch)
    return sums


def _windows(prompt: list[int], target: list[int], context: int) -> Iterator[tuple[list[int], int]]:
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


def _batches(windows: list[tuple[Item, list[int], int]]) -> Iterator[list[tuple[Item, list[int], int]]]:
    """Runs of windows (sorted by length) that pad to at most BATCH_TOKENS."""
    batch: list[tuple[Item, list[int], int]] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window[1]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _batch_nll(judge: Judge, rows: Sequence[tuple[list[int], int]]) -> list[float]:
    """NLL of each row's ids from its start on: one forward, padded on the right, logits only where they are needed."""
    import torch
    import torch.nn.functional as F

    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), judge.eos_id)  # [B, S]
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (row, _) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    first = min(start for _, start in rows) - 1  # position p predicts token p + 1
    row_of = [i for i, (row, start) in enumerate(rows) for _ in range(start, len(row))]
    column_of = [p for row, start in rows for p in range(start, len(row))]
    ids, mask = ids.to(judge.device), mask.to(judge.device)
    with torch.inference_mode():
        output = judge.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=width - first)
        needed = output.logits[row_of, [p - 1 - first for p in column_of]].float()  # [scored tokens, V]
        losses = F.cross_entropy(needed, ids[row_of, column_of], reduction="none").double()
    sums = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, torch.tensor(row_of), losses.cpu())
    return [float(nll) for nll in sums]
