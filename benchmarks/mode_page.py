"""From what steps cost to the page of three modes: where each is as fast as decoding token after token. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import step_costs
from benchmarks.engine import page_cells as cells

PREFILL, STEP = "prefill", "AR step"
FULL, HALF = "block step, head at all", "block step, head at half"
ASKING = "block step, head at half, asked what is left"
COMMIT, WRITE = "commit", "commit, keys and values alone"
DRAFT = "draft"
"""What the samples are of, and `verify`, `cycle`."""

SHORT_DRAFTS = (7, 15)
"""Drafted tokens besides the most that a block allows."""

VERIFY_BAR = 1.12
"""Of a verifying forward over an AR step."""

DIFFUSION_CLAIM = 2.6
"""Tokens per forward in block diffusion, of Nemotron-Labs-Diffusion-8B, as its maker says."""

SELF_CLAIM, ACCEPTED_CLAIM = 6, 6.82
"""The same in self-speculation; and the mean accepted length with an adapter (LoRA) for drafts, drafts of 31 tokens."""

FASTER_CLAIM = 4
"""Times the maker's own AR mode in self-speculation: batch 1, one B200, SGLang, SPEED-Bench."""


def drafts(block: int) -> tuple[int, ...]:
    """The numbers of drafted tokens that are measured, the largest last."""
    return (*(count for count in SHORT_DRAFTS if count < block - 1), block - 1)


def verify(drafted: int) -> str:
    """The name of the samples of a verifying forward: the last token and so many drafted ones."""
    return f"verify, {drafted} drafted"


def cycle(drafted: int) -> str:
    """The name of the samples of a draft and its verification."""
    return f"draft and verify, {drafted} drafted"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Milliseconds of one round at one batch."""

    size: int  # tokens of a block
    step: float  # of AR decoding
    block: float  # a denoising step
    commit: float
    cycle: float  # draft and verify, with the most drafted tokens
    short_cycles: tuple[float, ...] = ()  # with fewer, in the order of `drafts`

    def steps_per_block(self, times: float = 1.0) -> float | None:
        """Denoising steps of a block with which diffusion is `times` as fast as AR; None where one is too many.

        s steps and a commit write `size` tokens in s block + commit; AR writes them in size step.
        """
        steps = (self.size * self.step / times - self.commit) / self.block
        return steps if steps >= 1 else None

    def tokens_per_step(self) -> float | None:
        """Tokens that a denoising step must make final for that; commits are not counted."""
        steps = self.steps_per_block()
        return None if steps is None else self.size / steps

    def tokens_per_forward(self, times: float = 1.0) -> float | None:
        """The same per forward, commits counted, for `times` the speed of AR."""
        steps = self.steps_per_block(times)
        return None if steps is None else self.size / (steps + 1)

    def tokens_per_cycle(self, times: float = 1.0) -> float | None:
        """Tokens that a cycle of self-speculation must write to be `times` as fast; None: more than it can."""
        tokens = times * self.cycle / self.step
        return tokens if tokens <= self.size else None

    def diffusion_speed(self, tokens: float) -> float:
        """Times as fast as AR at so many tokens per forward, commits counted; at most size / 2."""
        steps = self.size / tokens - 1
        return self.size * self.step / (steps * self.block + self.commit)

    def self_speed(self, tokens: float) -> float:
        """Times as fast as AR at so many tokens per cycle."""
        return tokens * self.step / self.cycle


def of_rounds(samples: Mapping[str, Sequence[float]], size: int) -> list[Costs]:
    """The costs of every round; a step in blocks has half of its tokens masked, as it has on average."""
    *short, most = (samples[cycle(drafted)] for drafted in drafts(size))
    rounds = zip(*(samples[name] for name in (STEP, HALF, COMMIT)), most, *short, strict=True)
    return [
        Costs(size=size, step=step, block=block, commit=commit, cycle=whole, short_cycles=tuple(others))
        for step, block, commit, whole, *others in rounds
    ]


def markdown(results: Mapping[str, Any], picture: str = "") -> str:
    """The page; `picture` is the address of its figure."""
    block, device = results["block"], results["environment"]["device_name"]
    costs = {batch: of_rounds(samples, block) for batch, samples in results["rows"].items()}
    return f"""# What three modes of one set of weights cost on one {device}

**Dummy weights: this page says what forwards cost. It says nothing about how many tokens a trained model makes final
per forward, how many of its drafts it accepts, or how good its text is.** One device; all three modes run on this
project's engine, so the autoregressive (AR) mode that the others are held against is ours. The claims at the end were
made elsewhere, with trained weights, on another GPU and another engine.

{results["checkpoint"]}, {results["dtype"]}, greedy, blocks of {block}, prompts of {results["prompt"]} tokens; every
kind of step stands directly behind the prompt.
{_shown(picture)}
## Costs

{cells.github(_costs(results))}

Medians over rounds; all kinds take turns in every round. Ratios are over bursts of one round, with the 95 % interval
of their median. A *block step* reads {block} tokens that see each other and the context, proposes tokens at all or at
half of its positions, and makes the surest final. "Asked": a rule that looks at confidences waits for the device after
each step, to know what is left. A *commit* reads the finished block and writes its keys and values; where the mode is
seeded it also chooses the first token of the next block. *Draft* reads the last token and {block - 1} masks, *verify*
reads the last token and the drafted ones causally, each with the head at every position that is looked at; *draft and
verify* is the whole cycle of self-speculation with so many drafted tokens: n of them are drafted from n masks.
{_bar(results)}
## Break-even with the AR mode

{cells.github(_even(costs, block))}

- Diffusion: a block of {block} tokens with s denoising steps and one commit costs s x block step + commit; AR takes
  {block} x AR step. They are equal at s\\* = ({block} x AR step - commit) / block step: {block} / s\\* tokens per
  denoising step, {block} / (s\\* + 1) per forward when commits are counted as forwards. The block step has the head at
  half of its positions, as it has on average while a block fills evenly.
- Self-speculation: (draft and verify) / AR step tokens per cycle, the verifying mode's own token included. A cycle is
  two forwards, and writes at most one token more than it drafts.

A mode is faster than AR when it writes more tokens than this. The prompt's forward is the same in all three.

## What the maker's claims would give at these costs

{cells.github(_claims(costs))}

Times as fast as our AR mode, if the claimed numbers of tokens held at every batch; a cycle drafts {block - 1} tokens
(with fewer masks a model may accept others).
The maker claims {DIFFUSION_CLAIM} tokens per forward in block diffusion (read here with commits counted), about
{SELF_CLAIM} in self-speculation, a mean accepted length of {ACCEPTED_CLAIM} with a LoRA adapter for drafts of 31
tokens, and about {FASTER_CLAIM} times its own AR mode in self-speculation at batch 1 on a B200 with SGLang (arXiv
2607.05722 and the model's release). Where a claim does not say whether a draft counts as a forward, both readings are
shown: {SELF_CLAIM} tokens per cycle, or {2 * SELF_CLAIM}. What an adapter costs is not in the cycle. The last two
columns are the other way round: the tokens that each mode must write here to be {FASTER_CLAIM} times as fast.

{_failed(results)}{step_costs.provenance(results)}
"""


def _shown(picture: str) -> str:
    said = "What each mode must write to be as fast as the AR mode, over batch, and what its maker claims"
    return f"\n![{said}]({picture})\n" if picture else ""


def _costs(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for batch, samples in results["rows"].items():
        for name, own in samples.items():
            ratios = [a / b for a, b in zip(own, samples[STEP], strict=True)]
            rows.append([batch, name, f"{statistics.median(own):.3f}", "1" if name == STEP else cells.interval(ratios)])
    return ["B", "what", "ms", "/ AR step [95 %]"], rows


def _bar(results: Mapping[str, Any]) -> str:
    """At which batches the verifying forward keeps its bar."""
    return "".join(_bar_of(results["rows"], drafted) for drafted in drafts(results["block"]))


def _bar_of(rows: Mapping[str, Any], drafted: int) -> str:
    kept = {
        batch: statistics.median(a / b for a, b in zip(samples[verify(drafted)], samples[STEP], strict=True))
        <= VERIFY_BAR
        for batch, samples in rows.items()
    }
    parts = [
        f"{word} at batch {', '.join(found)}"
        for word, found in (
            ("met", [batch for batch, met in kept.items() if met]),
            ("**missed**", [batch for batch, met in kept.items() if not met]),
        )
        if found
    ]
    if not parts:
        return ""
    return f"\nThe bar of {VERIFY_BAR:.2f} for verify / AR step with {drafted} drafted tokens is {', '.join(parts)}.\n"


def _even(costs: Mapping[str, list[Costs]], size: int) -> tuple[list[str], list[list[str]]]:
    short = drafts(size)[:-1]
    headers = ["B", "diffusion: steps per block, s\\*", "tokens per denoising step", "tokens per forward",
               *(f"self-speculation, {drafted} drafted: tokens per cycle" for drafted in drafts(size))]  # fmt: skip
    rows = [
        [
            batch,
            _over(rounds, lambda each: each.steps_per_block(), "below 1"),
            _over(rounds, lambda each: each.tokens_per_step(), _beyond(rounds)),
            _over(rounds, lambda each: each.tokens_per_forward(), _beyond(rounds, 2)),
            *(_short(rounds, place, drafted) for place, drafted in enumerate(short)),
            _over(rounds, lambda each: each.tokens_per_cycle(), _beyond(rounds)),
        ]
        for batch, rounds in costs.items()
    ]
    return headers, rows


def _short(rounds: Sequence[Costs], place: int, drafted: int) -> str:
    """Tokens per cycle of a shorter draft to be as fast as AR."""
    tokens = [each.short_cycles[place] / each.step for each in rounds]
    return cells.interval(tokens) if max(tokens) <= drafted + 1 else f"more than {drafted + 1}"


def _claims(costs: Mapping[str, list[Costs]]) -> tuple[list[str], list[list[str]]]:
    both = 2 * SELF_CLAIM
    headers = ["B", f"diffusion, {DIFFUSION_CLAIM} per forward", f"self-speculation, {SELF_CLAIM} per cycle",
               f"{both} per cycle", f"{ACCEPTED_CLAIM} per cycle",
               f"{FASTER_CLAIM}x: tokens per forward in diffusion", "tokens per cycle"]  # fmt: skip
    rows = [
        [
            batch,
            _over(rounds, lambda each: each.diffusion_speed(DIFFUSION_CLAIM)),
            *(
                _over(rounds, lambda each, tokens=tokens: each.self_speed(tokens))  # type: ignore[misc]
                for tokens in (SELF_CLAIM, both, ACCEPTED_CLAIM)
            ),
            _over(rounds, lambda each: each.tokens_per_forward(FASTER_CLAIM), _beyond(rounds, 2)),
            _over(rounds, lambda each: each.tokens_per_cycle(FASTER_CLAIM), _beyond(rounds)),
        ]
        for batch, rounds in costs.items()
    ]
    return headers, rows


def _beyond(rounds: Sequence[Costs], share: int = 1) -> str:
    """What is said where no number of tokens suffices: the most that there can be, of a block or of two forwards."""
    return f"more than {rounds[0].size // share}"


def _over(rounds: Sequence[Costs], value: Callable[[Costs], float | None], otherwise: str = "-") -> str:
    """The median over rounds and its interval; `otherwise` where a round has no value."""
    found = [value(each) for each in rounds]
    known = [each for each in found if each is not None]
    return cells.interval(known) if len(known) == len(found) else otherwise


def _failed(results: Mapping[str, Any]) -> str:
    """Why batches have no rows."""
    reasons = [f"- Batch {batch}: {why}" for batch, why in results["failed"].items()]
    return "## Failed\n\n" + "\n".join(reasons) + "\n\n" if reasons else ""
