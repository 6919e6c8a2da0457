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

*Other prompts*: outputs, references and prompt tails are also scored after two other prompts (`draws.two_others`). A
text that has to do with its own prompt is likelier there.

*Diversity*, over the text's first m judge tokens: unigram entropy; bigrams and how many of them differ. Over the whole
text: tokens that lie in a 4-gram that occurs more than once (every token of every such occurrence, counted once); the
entropy of its prefixes; the output's 4-grams that outputs of other prompts share.

A *second judge* gives NLL of the own prompt alone (`add_second`).

*Answers* that can be checked are (`llmbench.metrics.answers`), without a model.

*BERTScore* against the prompt's reference; none for the human subject (a text equals itself) and where there is no
reference.

Only the output's sums depend on the model under test; the others are computed once per process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from llmbench.metrics import answers, draws, judging
from llmbench.metrics.bertscore import Encoder
from llmbench.metrics.diversity import diversity, shared_4grams
from llmbench.metrics.judging import Judge
from llmbench.record import Output, PromptScore, Subject

Tick = Callable[[str, int, int], None]


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
    others: tuple[str, ...] = ()  # two other prompts, after which the text is scored too


class PromptText(Protocol):
    """A prompt of a workload, as far as scoring reads it."""

    @property
    def id(self) -> str:
        """Unique in the workload."""

    @property
    def task(self) -> str:
        """The group that it belongs to."""

    @property
    def document(self) -> str | None:
        """From which it was taken; None: one of its own."""

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
    others = _other_prompts(workload.prompts)
    made = [
        Item(
            prompt_id=output.prompt_id,
            subject="output",
            prompt=output.prompt,
            text=output.text,
            stopped=output.stopped,
            reference=prompts[output.prompt_id].reference,
            answer=prompts[output.prompt_id].answer,
            others=others[output.prompt_id],
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
            others=others[prompt.id] if subject in ("human", "prompt_tail") else (),
        )

    written = [(prompt, prompt.reference) for prompt in workload.prompts if prompt.reference is not None]
    made += [item(prompt, "human", prompt.gap + reference, None) for prompt, reference in written]
    if len(written) > 1:
        for (prompt, reference), other in zip(written, draws.derangement(len(written)), strict=True):
            made.append(item(prompt, "shuffled", prompt.gap + written[other][1], reference))
    for prompt in workload.prompts:
        made.append(item(prompt, "prompt_tail", prompt.gap + prompt.tail, prompt.reference))
        made.append(item(prompt, "empty", "", prompt.reference))
    return tuple(made)


def _other_prompts(prompts: Sequence[PromptText]) -> dict[str, tuple[str, ...]]:
    """Texts of the two other prompts by prompt id; () where there are none."""
    pairs = draws.two_others([prompt.task for prompt in prompts], [prompt.document for prompt in prompts])
    return {
        prompt.id: tuple(prompts[other].text for other in pair or ())
        for prompt, pair in zip(prompts, pairs, strict=True)
    }


def score(
    items: Sequence[Item],
    judge: Judge | None,
    encoder: Encoder | None,
    *,
    diversity_tokens: int,
    canvas: int,
    tick: Tick = lambda phase, done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[PromptScore, ...]:
    """Sums of every item, in order. What was not asked for (no judge, no encoder, no reference, no answer) is None.

    Args:
        items: from `items`.
        judge: for NLL and diversity.
        encoder: for BERTScore.
        diversity_tokens: m.
        canvas: G, the longest prefix whose entropy is taken.
        tick: progress.
        note: takes a line that a reader of the numbers must know.
    """
    setting = (
        (judge.name, judge.device) if judge else None,
        (encoder.name, encoder.digest) if encoder else None,
        diversity_tokens,
        canvas,
    )
    new = (item for item in items if item.subject == "output" or (item, setting) not in _CACHE)
    fresh = list(dict.fromkeys(new))
    compared = [item for item in fresh if encoder and item.reference is not None]
    judged = sum(1 + len(item.others) for item in fresh) if judge else 0
    total = judged + len(compared)
    sums: dict[Item, dict[str, Any]] = {item: {} for item in fresh}
    if judge:
        sums = _judged(fresh, judge, diversity_tokens, canvas, lambda done: tick("score", done, total), note)
    if encoder:
        tick("score", judged, total)
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
"""Sums of human and floor texts by judge, encoder, m and canvas; numbers alone, no models and no tensors."""


def add_second(
    scores: Sequence[PromptScore],
    items: Sequence[Item],
    judge: Judge,
    *,
    tick: Tick = lambda phase, done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> tuple[PromptScore, ...]:
    """The same scores with the NLL of each text under a second judge.

    Args:
        scores: from `score`, of the same items.
        items: from `items`.
        judge: the second one.
        tick: progress.
        note: takes a line that a reader of the numbers must know.
    """
    setting = (judge.name, judge.device)
    own = [replace(item, others=()) for item in items]
    fresh = list(dict.fromkeys(item for item in own if item.subject == "output" or (item, setting) not in _SECOND))
    ids = {item: judge.tokenize(item.text) for item in fresh}
    nlls = _nll(fresh, ids, judge, lambda done: tick("score again", done, len(fresh)), note)
    made = {item: (nll, tokens) for item, ((nll, *_), tokens) in zip(fresh, nlls, strict=True)}
    _SECOND.update({(item, setting): sums for item, sums in made.items() if item.subject != "output"})
    found = [made[item] if item in made else _SECOND[item, setting] for item in own]
    return tuple(
        replace(score, second_nll_nats=nll, second_judged_tokens=tokens)
        for score, (nll, tokens) in zip(scores, found, strict=True)
    )


_SECOND: dict[tuple[Item, Any], tuple[float, int]] = {}
"""NLL and tokens of human and floor texts by second judge."""


def _judged(
    items: Sequence[Item],
    judge: Judge,
    diversity_tokens: int,
    canvas: int,
    tick: Callable[[int], None],
    note: Callable[[str], None],
) -> dict[Item, dict[str, Any]]:
    """What a judge and its tokens say about each item, as fields of PromptScore."""
    ids = {item: judge.tokenize(item.text) for item in items}
    sums = {item: diversity(ids[item], diversity_tokens, canvas) for item in items}
    for item, ((own, *others), tokens) in zip(items, _nll(items, ids, judge, tick, note), strict=True):
        sums[item] |= {"nll_nats": own, "judged_tokens": tokens, "other_nll_nats": tuple(others) or None}
    outputs = [item for item in items if item.subject == "output"]
    for item, share in zip(outputs, shared_4grams([ids[item] for item in outputs]), strict=True):
        sums[item]["shared_4grams"] = share
    return sums


def _nll(
    items: Sequence[Item],
    ids: dict[Item, list[int]],
    judge: Judge,
    tick: Callable[[int], None],
    note: Callable[[str], None],
) -> list[tuple[list[float], int]]:
    """Of every item the summed NLL after its own prompt and after each other one, and how many tokens were judged."""
    prompts = {prompt: judge.prompt_ids(prompt) for item in items for prompt in (item.prompt, *item.others)}
    targets = [ids[item] + [judge.eos_id] * item.stopped for item in items]
    texts = list(zip(items, targets, strict=True))
    if judge.prefix:
        note(f"the judge {judge.name} reads its start token before every prompt, as its tokenizer adds one")
    if cut := sum(len(prompts[item.prompt]) + len(target) > judge.room for item, target in texts):
        note(
            f"the judge {judge.name} reads {judge.context} tokens: "
            f"the beginnings of {cut} of {len(items)} prompts were cut off"
        )
    pairs = [(prompts[prompt], target) for item, target in texts for prompt in (item.prompt, *item.others)]
    sums = iter(judging.nll_sums(judge, pairs, tick))
    return [([next(sums) for _ in range(1 + len(item.others))], len(target)) for item, target in texts]
