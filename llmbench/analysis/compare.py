"""What changed between two sweeps beyond noise? docs/compare.md gives the rule and its error rates.

Settings are matched (`compare_match`), times compared (`compare_times`), qualities paired by prompt
(`compare_quality`). All bounds hold together with 95 % (Bonferroni): half of the 5 % is for times, half for qualities.
Of the times' half, one half is for the change that all settings share, the other is cut evenly over the settings; the
qualities' is cut evenly over settings and metrics. Each bound takes one side of its part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from llmbench.analysis.compare_match import Matched, Setting, match
from llmbench.analysis.compare_noise import PROCESS_SD, AssumedNoise, Noise, measured_noise
from llmbench.analysis.compare_quality import (
    QualityChange,
    Skipped,
    Why,
    quality_changes,
    same_texts,
    shared_prompts,
)
from llmbench.analysis.compare_times import TimeChange, drift, is_busy, time_change
from llmbench.analysis.formats import counted, listed
from llmbench.errors import ConfigError, RecordError
from llmbench.metrics.quality import PERPLEXITIES
from llmbench.record import Record

ALPHA = 0.05
"""Chance that two sweeps of equal truth differ beyond a bound in any setting and metric."""

TIME = "latency/e2e_ms"

ALL_SETTINGS = "all settings together"

_ABSOLUTE = ("quality/accuracy", "quality/bertscore_f1")
"""Metrics whose loss is a difference; of the others it is a share of A's value."""


class Outcome(Enum):
    """What a change comes to."""

    WORSE = "worse"
    BETTER = "better"
    NO_CHANGE = "no change beyond noise"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric of one setting: times as the ratio B / A, qualities as the difference B - A, more is better."""

    setting: str  # its label, or ALL_SETTINGS
    metric: str  # TIME, or a key of compare_quality.SCORED_BY
    a: float | None  # as logged: ms, perplexity, ...; None for all settings together
    b: float | None
    change: float  # perplexity: nats per token
    low: float | None  # bounds that hold together; None where noise cannot be told
    high: float | None
    prompts: int | None = None  # shared, of a quality
    tokens: float | None = None  # of a time: tokens that were written meanwhile, B / A

    @property
    def outcome(self) -> Outcome:
        """Whether it lies beyond noise, and on which side."""
        if self.low is None or self.high is None:
            return Outcome.NOT_JUDGED
        nothing = 1.0 if self.metric == TIME else 0.0
        if self.low <= nothing <= self.high:
            return Outcome.NO_CHANGE
        return Outcome.WORSE if (self.low > nothing) == (self.metric == TIME) else Outcome.BETTER

    @property
    def worse_by(self) -> float | None:
        """The least worsening that the bounds allow, as a share: 0.05 is 5 % slower, or 5 % of quality lost.

        Of a time its ratio less 1, of perplexity the same; of bits per byte and entropy the loss over A's value; of
        accuracy and BERTScore the loss itself. Negative where there may be none; None without bounds.
        """
        if self.low is None or self.high is None:
            return None
        if self.metric == TIME:
            return self.low - 1
        if self.metric in PERPLEXITIES:
            return math.expm1(-self.high)
        if self.metric in _ABSOLUTE:
            return -self.high
        return -self.high / abs(self.a) if self.a else None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Sweep B against sweep A."""

    matched: Matched
    changes: tuple[Change, ...]  # times of all settings together, then by setting: time, qualities
    skipped: tuple[Skipped, ...]
    texts: dict[str, tuple[int, int]]  # by setting: prompts with equal texts, shared prompts
    noise: Noise  # of times

    @property
    def beyond_noise(self) -> tuple[Change, ...]:
        """What changed."""
        return tuple(item for item in self.changes if item.outcome in (Outcome.WORSE, Outcome.BETTER))

    @property
    def judged(self) -> int:
        """How many changes have bounds."""
        return sum(item.outcome is not Outcome.NOT_JUDGED for item in self.changes)

    def worse_than(self, share: float) -> tuple[Change, ...]:
        """The changes whose worsening is larger than a share even at its lower bound (`Change.worse_by`)."""
        return tuple(item for item in self.changes if item.worse_by is not None and item.worse_by > share)

    @property
    def undecidable(self) -> tuple[str, ...]:
        """Labels of settings that B failed, or that could not be judged through no choice of the user.

        Its scores are no numbers, or the machine did other work.
        """
        lost = [
            item.setting
            for item in self.skipped
            if item.why is Why.BUSY or (item.why is Why.NOT_FINITE and item.side == "B")
        ]
        return tuple(dict.fromkeys([*(label for label in self.matched.failed_b), *lost]))

    def __str__(self) -> str:
        """The answer in one sentence."""
        left = f" Not judged: {counted(len(self.skipped), 'comparison')}." if self.skipped else ""
        if not self.judged:
            return f"Nothing was judged.{left}"
        worse, better = (
            [item for item in self.beyond_noise if item.outcome is outcome]
            for outcome in (Outcome.WORSE, Outcome.BETTER)
        )
        parts = [
            f"{len(items)} {outcome.value} ({listed(list(dict.fromkeys(item.setting for item in items)))})"
            for items, outcome in ((worse, Outcome.WORSE), (better, Outcome.BETTER))
            if items
        ]
        of = f"of {counted(self.judged, 'comparison')} in {counted(len(self.matched.settings), 'setting')}"
        answer = f"Changed beyond noise, {of}: {'; '.join(parts)}." if parts else f"No change beyond noise, {of}."
        return answer + left


def compare(
    a: Sequence[Record],
    b: Sequence[Record],
    *,
    process_sd: float | None = None,
    repeats_of_a: Sequence[Sequence[Record]] = (),
) -> Comparison:
    """Compare two sweeps.

    Args:
        a: all Records of the first sweep, also baselines that were timed again.
        b: of the second.
        process_sd: standard deviation of ln L_e2e between two processes of one commit on one machine, each side. None
            is `PROCESS_SD`, and times of a busy CPU are not judged.
        repeats_of_a: further sweeps of A's commit under its conditions, at least four: they measure the noise.

    Raises:
        ConfigError: `process_sd` is no number from 0 to 1, there are too few repeats, or both are given.
        RecordError: no setting is in both sweeps, two Records of one sweep are the same setting, or a repeat is none.
    """
    if process_sd is not None and repeats_of_a:
        raise ConfigError("process_sd assumes what repeats of A measure: leave one of them out")
    if process_sd is not None and not 0 <= process_sd <= 1:
        raise ConfigError(f"process_sd={process_sd} is a share: a number from 0 to 1, as 0.0125")
    matched = match(a, b)
    if not matched.settings:
        raise RecordError(_nothing_shared(matched))
    noise: Noise
    if repeats_of_a:
        noise = measured_noise(a, repeats_of_a)
    else:
        assumed = PROCESS_SD if process_sd is None else process_sd
        noise = AssumedNoise(process_sd=assumed, drift_a=drift(a), drift_b=drift(b))
    times, skipped = _times(matched.settings, idle_only=process_sd is None and not repeats_of_a)
    qualities: list[QualityChange] = []
    for setting in matched.settings:
        found, left_out = quality_changes(setting)
        qualities += found
        skipped += left_out
    changes = _bounded_times(times, noise)
    alpha = ALPHA / 4 / max(len(qualities), 1)
    changes += [_bounded_quality(item, alpha) for item in qualities]
    prompts = {setting.label: shared_prompts(setting) for setting in matched.settings}
    return Comparison(
        matched=matched,
        changes=tuple(changes),
        skipped=tuple(skipped),
        texts={s.label: (same_texts(s, prompts[s.label]), len(prompts[s.label])) for s in matched.settings},
        noise=noise,
    )


def _nothing_shared(matched: Matched) -> str:
    sides = [
        f"{name} has {', '.join([*only[:3], *(['...'] if len(only) > 3 else [])]) or 'no finished job'}"
        for name, only in (("A", matched.only_a), ("B", matched.only_b))
    ]
    return f"the two sweeps share no setting: {'; '.join(sides)}"


def _times(settings: Sequence[Setting], *, idle_only: bool) -> tuple[list[TimeChange], list[Skipped]]:
    times, skipped = [], []
    for setting in settings:
        if not any(record.timings for pair in setting.pairs for record in pair):
            continue
        found = time_change(setting)
        busy = idle_only and any(is_busy(record) for pair in setting.pairs for record in pair)
        if found is not None:
            times.append(replace(found, noise=()) if busy else found)
        if found is None or busy or not found.noise:
            why = Why.NOT_TIMED if found is None else Why.FEW_REPEATS if not found.noise else Why.BUSY
            skipped.append(Skipped(setting=setting.label, metric=TIME, why=why))
    return times, skipped


def _bounded_times(times: Sequence[TimeChange], noise: Noise) -> list[Change]:
    """Of all settings together, where there are several, then of each."""
    judged = [item for item in times if item.noise]
    several = len(judged) > 1
    made = []
    if several:
        middle = sum(item.change for item in judged) / len(judged)
        made.append(_of_time(ALL_SETTINGS, middle, noise.joint_width(judged, ALPHA / 8)))
    alpha = ALPHA / (8 if several else 4) / max(len(judged), 1)
    return made + [
        _of_time(item.label, item.change, noise.width(item, alpha) if item.noise else None, item) for item in times
    ]


def _of_time(label: str, middle: float, width: float | None, item: TimeChange | None = None) -> Change:
    return Change(
        setting=label,
        metric=TIME,
        a=item.a_ms if item else None,
        b=item.b_ms if item else None,
        change=math.exp(middle),
        low=None if width is None else math.exp(middle - width),
        high=None if width is None else math.exp(middle + width),
        tokens=item.tokens if item else None,
    )


def _bounded_quality(item: QualityChange, alpha: float) -> Change:
    return Change(
        setting=item.setting,
        metric=item.metric,
        a=item.a,
        b=item.b,
        change=item.bound.delta,
        low=item.bound.lower(alpha),
        high=item.bound.upper(alpha),
        prompts=item.bound.prompts,
    )
