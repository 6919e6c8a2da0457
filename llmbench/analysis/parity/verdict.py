"""The values of a verdict: frozen data that goes to JSON and comes back. Sentences are made of them in `sentences`.

`Status` says what may be claimed, `Check` what a gate measured, `DeltaTest` the test at one k, `MetricParity` the
verdict on one metric with the point estimate beside it, `Verdict` that of one set of comparable Records.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from llmbench.analysis.estimates import Estimate
from llmbench.analysis.implementations import ImplementationName
from llmbench.analysis.parity.interim import PastAnalysis
from llmbench.config.parity import ParityConfig

JUDGED = ("quality/perplexity", "quality/bits_per_byte", "quality/bertscore_f1", "quality/accuracy")
"""Metrics that can reach parity; the first that was asked for is the headline, also where it gave no number."""

MATCHED = ("quality/perplexity", "quality/bits_per_byte")
"""Metrics that reward text of little variety: they are compared at matched diversity."""

DIVERSITY = "quality/entropy"

NFE = "throughput/nfe"
"""Forwards made: the axis on which engines meet that count k in their own way."""


class Status(StrEnum):
    """What may be claimed: the first of the six that matches, in this order.

    The last three say that nothing could be tested, because a part of the sweep was not asked for.
    """

    INVALID = "invalid"
    INSENSITIVE = "insensitive"
    REACHED = "reached"
    DEGENERATE = "degenerate"
    NOT_REACHED = "not_reached"
    UNDECIDED = "undecided"
    MISSING_BASELINE = "missing_baseline"
    MISSING_CANDIDATES = "missing_candidates"
    NO_QUALITY = "no_quality"


TESTED = tuple(list(Status)[:6])
"""The six that answer the question; the rest say that it was not asked."""


class Speed(StrEnum):
    """Is diffusion faster where its quality passes?"""

    VIABLE = "viable"
    INEFFICIENT = "inefficient"
    OPEN = "open"
    NO_PARITY = "no_parity"  # there is no k at which a speedup could be claimed


class Place(StrEnum):
    """Where a k lies against the baseline's curve of quality over entropy."""

    ON = "on"
    BELOW = "below"  # less varied than its first knot
    ABOVE = "above"  # more varied than its last knot
    DIRECT = "direct"  # the metric is compared without a curve


class CheckName(StrEnum):
    """What a Check looked at."""

    MISSING = "settings missing"
    NOT_RUN = "jobs not run"
    EMPTY = "empty outputs"
    LENGTH = "realised length"
    NOT_TIMED = "outputs scored are not the outputs timed"
    MIXED = "mixed conditions"
    THROTTLED = "throttled clocks"
    TWICE = "prompts that occur twice"
    JUDGE = "the judge is a side"
    PROMPTS = "prompts missing"
    NOT_FINITE = "not finite"
    FEW = "too few prompts for a bound"
    NO_SPREAD = "scores do not vary"
    SHORT = "shares of short outputs"
    REPETITION = "repetition"
    RELEVANCE = "relevance"
    ECHO = "echo of the prompt"
    RELEVANCE_ASSAY = "relevance tells prompts apart"
    COPYING = "shared 4-grams"
    CURVE = "baseline's curve"
    SLOW_BASELINE = "slow baseline"
    THREADS = "CPU threads differ"
    CARD = "cards differ"
    OTHERS = "other process busy"
    UNSTEADY = "unsteady times"
    DRIFT = "drift of the baseline"


Blocks = Literal["verdict", "reached", "speed", "viable", "note"]
"""What a failed Check forbids: a judgement of its k ("verdict"), that its k passes ("reached"), claims on speed in both
directions ("speed") or that the candidate is faster ("viable"); a "note" forbids nothing."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at, with what came out."""

    name: CheckName
    passed: bool
    blocks: Blocks
    steps: int | None = None  # the k it is about; None: the whole set
    metrics: tuple[str, ...] = ()  # () concerns every metric
    values: dict[str, float | str] = field(default_factory=dict)  # numbers, limits and labels, by name

    def forbids(self, blocks: Blocks, metric: str | None = None, steps: int | None = None) -> bool:
        """Whether it failed and forbids this, for a metric and at a k (None: any)."""
        return (
            not self.passed
            and self.blocks == blocks
            and (metric is None or not self.metrics or bool({metric, metric.removesuffix("_second")} & {*self.metrics}))
            and (steps is None or self.steps in (None, steps))
        )


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which conditions both sides were measured."""

    device_name: str
    device: str = ""  # "cpu", "cuda"; "" where only a server is known
    dtype: str = ""
    quantization: str = "none"
    batch: str = ""
    canvas: str = ""
    temperatures: tuple[str, ...] = ()  # the baseline's, then the candidate's where it differs
    nuclei: tuple[str, ...] = ()  # top_p likewise; () where all of the distribution is drawn from
    chat: bool = False
    prompts: int = 0
    documents: int = 0  # clusters of prompts
    seeds: int = 1
    judge: str = ""  # its name; "" without one
    second_judge: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric over k, as logged, with what it must be read against. Absent values are left out."""

    metric: str  # key of METRICS
    baseline: float | None  # the autoregressive side
    values: tuple[tuple[int, float], ...]  # (k, value), k rising
    floor: float | None = None
    human: float | None = None
    floor_text: str = ""  # which of the floor texts it is

    def at(self, steps: int | None) -> float | None:
        """The value at one k; of the baseline for None."""
        return self.baseline if steps is None else dict(self.values).get(steps)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The baseline at one temperature."""

    temperature: float
    entropy: float
    values: tuple[tuple[str, float], ...]  # metric, value as logged
    kept: bool  # whether it is a knot of the curve


@dataclass(frozen=True, kw_only=True)
class Assay:
    """Can the metric tell the reference from its floor?"""

    difference: float  # reference - floor, oriented up
    lower: float  # one-sided, at alpha
    needed: float  # 2 delta

    @property
    def sensitive(self) -> bool:
        """Whether the metric may certify anything."""
        return self.lower > self.needed


@dataclass(frozen=True, kw_only=True)
class DeltaTest:
    """Delta(k) = f(k) - reference of one metric at one k, oriented up. Bounds hold the interpolation allowance."""

    steps: int
    place: Place
    value: float  # f(k), oriented up
    reference: float  # Q(E): the baseline at equal entropy, or Q
    temperature: float | None = None  # of the baseline there
    entropy: float | None = None  # E
    delta: float
    sd: float  # of the linearised difference, per prompt
    skewness: float
    enough: bool  # prompts for this skewness
    allowance: float = 0.0
    lower: float  # one-sided, at alpha: what is tested
    upper: float  # one-sided, at alpha
    low: float  # 95 % two-sided, by the same rule
    high: float
    passes: bool  # lower >= -margin, from enough prompts; never below the curve
    worse: bool  # upper < -margin, on the curve or dominated
    less_varied: bool = False  # E is below the whole curve: upper bound of E - H_1 < 0
    assay: Assay | None = None

    @property
    def dominated(self) -> bool:
        """Less varied than any of the baseline's text, and worse than it."""
        return self.place is Place.BELOW and self.worse


@dataclass(frozen=True, kw_only=True)
class MetricParity:
    """The verdict on one metric, with the point estimate beside it."""

    curve: Curve
    status: Status
    margin: float
    prompts: int
    documents: int  # clusters
    tests: tuple[DeltaTest, ...] = ()  # k rising
    not_judged: tuple[int, ...] = ()  # k that a Check removes
    passing: tuple[int, ...] = ()  # k that may be claimed
    stopped_at: int | None = None  # the k at which the sequence from the top ended
    prompts_needed: int | None = None  # that would decide
    deltas: tuple[tuple[int, float], ...] = ()  # point estimate: (k, f(k) - Q)
    second: "MetricParity | None" = None  # the same under the second judge; `status` and `passing` are those of both
    first_status: Status | None = None  # what the first judge says alone, where there are two

    @property
    def reached(self) -> int | None:
        """The smallest k such that it and every larger tested k pass."""
        return min(self.passing, default=None)

    @property
    def s_parity(self) -> int | None:
        """The point estimate: the smallest k with f(k) >= Q."""
        return next((k for k, delta in self.deltas if delta >= 0), None)

    def test(self, steps: int) -> DeltaTest | None:
        """The test at one k."""
        return next((item for item in self.tests if item.steps == steps), None)


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """L_e2e(baseline) / L_e2e(candidate at k), with its 95 % interval where at least six repeats allow one."""

    steps: int
    ratio: float
    low: float | None
    high: float | None
    baseline_ms: float  # the geometric mean of the timings before and after
    candidate_ms: float
    drift: float | None = None  # baseline after / before; None where it was timed once
    unsteady: float | None = None  # by what the interval was widened; None: times were steady


@dataclass(frozen=True, kw_only=True)
class ExternalServer:
    """A server on hardware that is not known: its times over HTTP, beside the verdict.

    One of an autoregressive model stands in the numerator, over every candidate; one of a diffusion model in the
    denominator, under the baseline.
    """

    label: str
    where: str  # its software and address
    speedups: tuple[Speedup, ...]  # wall clock on both sides
    candidate: bool = False  # it serves a diffusion model

    def speedup(self, steps: int | None) -> Speedup | None:
        """The time ratio at one k."""
        return next((item for item in self.speedups if item.steps == steps), None)


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One way in which the baseline was run, over its seeds."""

    label: str  # of a table's row
    e2e_ms: float | None
    name: ImplementationName | None = None  # None in verdicts of earlier versions
    identities: tuple[str, ...] = ()  # of its Records
    # L_e2e of the chosen one / own (device's clock; host's where one of both is a server); None for the chosen one
    speedup: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one set of comparable Records says about parity."""

    status: Status  # of the headline metric, or why there is none
    headline: str | None = None  # the metric that the status is about
    baseline: str | None = None  # model names
    candidate: str | None = None
    names: tuple[str, str] = ("baseline", "candidate")  # of both sides, for people
    steps: tuple[int, ...] = ()  # K
    seeds: tuple[str, ...] = ()
    conditions: Conditions
    identities: tuple[str, ...] = ()  # of the Records behind it
    metrics: tuple[MetricParity, ...] = ()
    prefix: int | None = None  # judge tokens over which entropy was taken
    points: tuple[CurvePoint, ...] = ()  # the baseline over temperature
    beside: tuple[Curve, ...] = ()  # what is shown beside the judged metrics: entropy, relevance, ...
    implementations: tuple[Implementation, ...] = ()  # of the baseline, the chosen one first, then the fastest
    speedups: tuple[Speedup, ...] = ()
    external_servers: tuple[ExternalServer, ...] = ()
    checks: tuple[Check, ...] = ()
    speed: Speed = Speed.NO_PARITY  # at the headline's passing k
    s_all: int | None = None  # the smallest k from which on every eligible metric passes
    s_all_metrics: tuple[str, ...] = ()  # the eligible ones
    options: ParityConfig = field(default_factory=ParityConfig)
    alpha: float = 0.05
    analyses: int = 1  # of this question so far, this one included
    unplanned: tuple[str, ...] = ()  # what differs from earlier analyses of the question
    analysis: PastAnalysis | None = None  # what later verdicts on the question must count; None: nothing was tested

    @property
    def head(self) -> MetricParity | None:
        """The verdict on the headline metric."""
        return self.metrics[0] if self.metrics else None

    @property
    def prompts(self) -> int:
        """How many."""
        return self.conditions.prompts

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """Every Check that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def metric(self, key: str) -> MetricParity | None:
        """The verdict on one metric."""
        return next((item for item in self.metrics if item.curve.metric == key), None)

    def curve(self, key: str) -> Curve | None:
        """One metric over k, judged or beside."""
        known = (*(item.curve for item in self.metrics), *self.beside)
        return next((item for item in known if item.metric == key), None)

    @property
    def forwards(self) -> tuple[tuple[int, float], ...]:
        """(k, forwards made) of the candidate, where they are known and are not k everywhere."""
        known = self.curve(NFE)
        return known.values if known else ()

    def speedup(self, steps: int | None) -> Speedup | None:
        """The time ratio at one k."""
        return next((item for item in self.speedups if item.steps == steps), None)

    def check(self, name: CheckName, steps: int | None = None) -> Check | None:
        """The first Check of a name at a k."""
        return next((item for item in self.checks if item.name is name and item.steps == steps), None)

    def series(self) -> list[tuple[str, int, float]]:
        """Everything as (key, k, value) for a tracker: both sides' curves, floors, differences, bounds, speedups, S."""
        rows: list[tuple[str, int, float]] = []
        for curve in (*(item.curve for item in self.metrics), *self.beside):
            short = curve.metric.partition("/")[2]
            flat = {
                f"{self.baseline}_{short}": curve.baseline,
                f"{short}_floor": curve.floor,
                f"{short}_human": curve.human,
            }
            rows += [(f"parity/{self.candidate}_{short}", steps, value) for steps, value in curve.values]
            rows += [
                (f"parity/{key}", k, value) for key, value in flat.items() if value is not None for k in self.steps
            ]
        for item in self.metrics:
            rows += _rows(item)
            short = item.curve.metric.partition("/")[2]
            if (at := self.speedup(item.s_parity)) is not None:
                rows.append((f"parity/speedup_at_parity_{short}", at.steps, at.ratio))
        for speed in self.speedups:
            named = {"speedup": speed.ratio, "speedup_ci_low": speed.low, "speedup_ci_high": speed.high}
            named |= {f"{self.baseline}_e2e_ms": speed.baseline_ms, f"{self.candidate}_e2e_ms": speed.candidate_ms}
            rows += [(f"parity/{key}", speed.steps, value) for key, value in named.items() if value is not None]
        several = len(self.external_servers) > 1
        for place, server in enumerate(self.external_servers, start=1):
            key = f"parity/speedup_vs_{server.label.replace(' ', '_')}{f'_{place}' if several else ''}"
            rows += [(key, speed.steps, speed.ratio) for speed in server.speedups]
        return rows


def _rows(item: MetricParity) -> list[tuple[str, int, float]]:
    """A metric's differences from the tested reference with their bounds, the point estimate, and the tested S."""
    short = item.curve.metric.partition("/")[2]
    rows = [(f"parity/point_delta_{short}", steps, value) for steps, value in item.deltas]
    for test in item.tests:
        named = {"": test.delta, "_lower": test.lower, "_upper": test.upper}
        rows += [(f"parity/delta_{short}{suffix}", test.steps, value) for suffix, value in named.items()]
    if item.s_parity is not None:
        rows.append((f"parity/s_parity_{short}", item.s_parity, float(item.s_parity)))
    if item.reached is not None:
        rows.append((f"parity/s_tested_{short}", item.reached, float(item.reached)))
    return rows
