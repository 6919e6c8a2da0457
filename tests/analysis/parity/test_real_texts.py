"""Texts that are made to flatter, real ones under the bundled judge: none is `reached`, and a Check says why.

The candidate is LLaDA's Record at k = 64 with other texts in it. LLaMA's Records are as they were measured.
The judge's forwards take the time: half of the prompts are enough for most statuses.
"""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from pydantic import ValidationError
from real_texts import CANVAS, SOME, controls, first_prompts, judge_texts, records, with_metrics

from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.verdict import CheckName, Place, Status
from llmbench.config.parity import MarginsConfig
from llmbench.metrics import scoring
from llmbench.metrics.judging import Judge
from llmbench.record import Output, Record

FEW = 32
"""Prompts where nothing else is said; with 24 the perplexity of one constant passes no more."""


@functools.cache
def llama(count: int = FEW) -> list[Record]:
    return [first_prompts(record, count) for record in records() if record.family == "autoregressive"]


@functools.cache
def llada(count: int = FEW) -> Record:
    return first_prompts(next(record for record in records() if record.steps == 64), count)


@pytest.fixture(scope="module")
def baseline() -> list[Record]:
    return llama()


@pytest.fixture(scope="module")
def template() -> Record:
    return llada()


@pytest.fixture(scope="module")
def judge() -> Judge:
    from llmbench.checkpoints.load import load_judge
    from llmbench.checkpoints.resolve import resolve_checkpoint
    from llmbench.config.job import HardwareConfig

    return load_judge(resolve_checkpoint("bundled:judge"), HardwareConfig(device="cpu", dtype="float32"))


def texts_of(records: Sequence[Record], temperature: str) -> list[str]:
    found = next(r for r in records if r.conditions["decoding.temperature"] == temperature)
    return [output.text or "" for output in found.outputs]


@dataclass(frozen=True)
class _Prompt:
    """A prompt as scoring reads it."""

    id: str
    task: str
    text: str
    document: str | None
    reference: str | None = None
    answer: str | None = None
    gap: str = " "
    tail: str = ""


@dataclass(frozen=True)
class _Prompts:
    prompts: tuple[_Prompt, ...]


def candidate(template: Record, texts: Sequence[str], judge: Judge) -> Record:
    """The template with these texts, judged as a job judges them."""
    outputs = tuple(
        replace(o, text=t, utf8_bytes=len(t.encode()), stopped=False, tokens=o.tokens if t else 0)
        for o, t in zip(template.outputs, texts, strict=True)
    )
    asked = _Prompts(tuple(_Prompt(o.prompt_id, o.task, o.prompt or "", o.document) for o in outputs))
    items = [item for item in scoring.items(outputs, asked) if item.subject == "output"]
    scores = scoring.score(items, judge, None, diversity_tokens=32, canvas=CANVAS)
    return with_metrics(replace(template, outputs=outputs, scores=scores, timings=_timed(template, outputs)))


def _timed(template: Record, outputs: Sequence[Output]) -> tuple:
    written = {batch: sum(o.tokens for o in outputs if o.batch == batch) for batch in {o.batch for o in outputs}}
    return tuple(replace(timing, tokens=written[timing.batch]) for timing in template.timings)


def cut(texts: Sequence[str], tokens: int, judge: Judge, tail: int = 0) -> list[str]:
    """The first judge tokens of each text, in whole words; then its last words again and again."""
    made = []
    for text in texts:
        words, size = text.split(" "), len(judge.tokenize(text))
        kept = words[: max(1, round(len(words) * tokens / max(size, 1)))]
        made.append(" ".join(kept + kept[-4:] * tail))
    return made


def shifted_within_tasks(texts: Sequence[str], outputs: Sequence[Output]) -> list[str]:
    """Every text under the next prompt of its task."""
    moved = list(texts)
    for task in {output.task for output in outputs}:
        places = [i for i, output in enumerate(outputs) if output.task == task]
        for place, other in zip(places, places[1:] + places[:1], strict=True):
            moved[place] = texts[other]
    return moved


def passages(count: int, size: int) -> list[str]:
    """Passages of the corpus that no prompt asked for, again and again."""
    from llmbench.config.job import WorkloadConfig
    from llmbench.data import workloads

    prompts = workloads.load(WorkloadConfig(prompts=2 * SOME)).prompts[SOME:]
    return [prompts[i % count].reference or "" for i in range(size)]


Make = Callable[[list[str], Record, Judge], list[str]]
EMOJI = "😀😁😂🤣😃"


def _random_texts(signs: str, length: int, size: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choice(signs) for _ in range(length)) for _ in range(size)]


ADVERSARIES: dict[str, tuple[Make, Status, CheckName]] = {
    "five constants": (lambda own, t, j: [own[i % 5] for i in range(len(own))], Status.UNDECIDED, CheckName.RELEVANCE),
    "five passages": (lambda own, t, j: passages(5, len(own)), Status.INSENSITIVE, CheckName.RELEVANCE),
    "wrong prompts": (lambda own, t, j: shifted_within_tasks(own, t.outputs), Status.UNDECIDED, CheckName.RELEVANCE),
    "the judge without prompts": (lambda own, t, j: judge_texts(prompted=False), Status.INVALID, CheckName.RELEVANCE),
    "looped tails": (lambda own, t, j: cut(own, 48, j, tail=4), Status.NOT_REACHED, CheckName.REPETITION),
    "half empty": (lambda own, t, j: [s * (i % 2) for i, s in enumerate(own)], Status.INVALID, CheckName.EMPTY),
    "emoji": (lambda own, t, j: _random_texts(EMOJI, 12, len(own)), Status.INVALID, CheckName.RELEVANCE),
    "white space": (lambda own, t, j: [" " * 60] * len(own), Status.INVALID, CheckName.EMPTY),
    "very short": (lambda own, t, j: cut(own, 12, j), Status.INVALID, CheckName.LENGTH),
    "an echo": (lambda own, t, j: [f"{o.prompt} " * 5 for o in t.outputs], Status.INVALID, CheckName.REPETITION),
}
"""The texts, the status, and a Check that forbids parity."""

PROMPTS = {"the judge without prompts": SOME} | dict.fromkeys(
    ["half empty", "emoji", "white space", "very short", "an echo", "looped tails"], 16
)


@pytest.mark.parametrize("name", ADVERSARIES)
def test_texts_that_are_made_to_flatter_are_never_reached(name: str, judge: Judge) -> None:
    make, status, stops = ADVERSARIES[name]
    baseline, template = llama(PROMPTS.get(name, FEW)), llada(PROMPTS.get(name, FEW))
    texts = make(texts_of(baseline, "0.4"), template, judge)
    verdict = parity([*baseline, candidate(template, texts, judge)])
    check = verdict.check(stops, 64)
    assert (verdict.status, check is not None and check.passed) == (status, False)


def test_one_text_for_all_prompts_would_pass_by_perplexity_alone_and_is_not_reached(
    baseline: list[Record], template: Record, judge: Judge
) -> None:
    verdict = parity([*baseline, candidate(template, [texts_of(baseline, "0.4")[0]] * FEW, judge)])
    assert verdict.head is not None
    assert verdict.head.tests[-1].passes
    check = verdict.check(CheckName.COPYING, 64)
    assert (verdict.status, check is not None and check.passed) == (Status.UNDECIDED, False)


def test_the_judges_own_texts_pass_every_check_so_the_judge_may_be_no_side(
    baseline: list[Record], template: Record, judge: Judge
) -> None:
    """A job refuses it before it runs, a copy under another name too (tests/job/test_judge_check.py)."""
    written = candidate(template, judge_texts(prompted=True)[:FEW], judge)
    assert parity([*baseline, written]).status is Status.REACHED
    honest = written.conditions | {"decoding.checkpoint": written.conditions["judge"]}
    verdict = parity([*baseline, replace(written, conditions=honest)])
    assert (verdict.status, verdict.check(CheckName.JUDGE, 64) is not None) == (Status.INVALID, True)


def test_one_prompt_many_times(baseline: list[Record], template: Record) -> None:
    def repeated(record: Record) -> Record:
        return replace(record, outputs=tuple(replace(o, prompt=record.outputs[0].prompt) for o in record.outputs))

    verdict = parity([*map(repeated, baseline), repeated(template)])
    assert (verdict.status, verdict.check(CheckName.TWICE) is not None) == (Status.INVALID, True)


@pytest.mark.parametrize("temperature", ["0.0", "0.7"])
def test_sides_that_are_swapped(temperature: str, baseline: list[Record], template: Record) -> None:
    its = next(r for r in baseline if r.conditions["decoding.temperature"] == temperature)
    swapped = replace(template, model="llama", family="autoregressive", steps=None, role="timed")
    verdict = parity([swapped, as_candidate(its, template)])
    assert verdict.status is not Status.REACHED


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte", "bertscore_f1", "accuracy"])
def test_a_margin_of_3_is_refused(metric: str) -> None:
    with pytest.raises(ValidationError):
        MarginsConfig(**{metric: 3.0})


def as_candidate(record: Record, template: Record) -> Record:
    """LLaMA's texts as if LLaDA had written them."""
    return replace(
        record,
        model="llada",
        family="diffusion",
        steps=64,
        role="timed",
        conditions=template.conditions,
        config=template.config,
        timings=_timed(template, record.outputs),
    )


@pytest.mark.parametrize("control", controls(), ids=lambda record: record.conditions["decoding.temperature"])
def test_llama_with_another_seed_is_not_worse_than_llama(control: Record) -> None:
    """400 prompts. At 0.9 its perplexity is near the floor's, so the metric may say nothing there."""
    template = next(record for record in records() if record.steps == 64)
    measured = [record for record in records() if record.family == "autoregressive"]
    verdict: Parity = parity([*measured, as_candidate(control, template)])
    assert verdict.head is not None
    (test,) = verdict.head.tests
    assert test.place is Place.ON
    assert abs(test.delta) <= test.allowance + 2 * test.sd / 400**0.5
    expected = Status.INSENSITIVE if control.conditions["decoding.temperature"] == "0.9" else Status.REACHED
    assert verdict.status is expected
