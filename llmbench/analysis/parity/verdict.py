"""A verdict as frozen data that goes to JSON and comes back.

`Status` says what to do next, `Curve` holds one metric over k with what it must be read against, `DeltaTest` the test
at one k, `MetricParity` the verdict on one metric with the point estimate beside it, `Parity` that of one set of
comparable Records.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llmbench.analysis.parity.interim import PastAnalysis
from llmbench.config.parity import ParityConfig
from llmbench.errors import RecordError

JUDGED = ("quality/perplexity", "quality/bits_per_byte", "quality/bertscore_f1", "quality/accuracy")
"""Metrics that can reach parity; the first that was asked for is the headline, also where it gave no number."""

DIVERSITY = "quality/entropy"


class _Advice(StrEnum):
    """A string member that carries its advice."""

    next_step: str

    def __new__(cls, value: str, next_step: str) -> "_Advice":
        """Keep the advice beside the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.next_step = next_step
        return member


class Status(_Advice):
    """What the test says; the first of the six that matches, in this order. `next_step`: what to do about it.

    The last three say that nothing could be tested, because a part of the sweep was not asked for.
    """

    INVALID = (
        "invalid",
        "change what each gate names (docs/method.md lists the settings), and run again",
    )
    INSENSITIVE = "insensitive", "use a metric or judge that ranks LLaMA above its floor, or more prompts"
    REACHED = "reached", "read the speedup at that k and the entropy beside it; add smaller steps if it is the smallest"
    DEGENERATE = "degenerate", "raise the diversity at the same k (temperature, remasking) and run again"
    NOT_REACHED = "not_reached", "add larger steps, up to the canvas; at the canvas, this is the answer"
    UNDECIDED = "undecided", "raise workload.prompts, or add seeds: seed=1,2,3"
    MISSING_BASELINE = "missing_baseline", "add the autoregressive side: model=llama,llada"
    MISSING_CANDIDATES = "missing_candidates", "add the diffusion side: model=llama,llada steps=8,16,32,64"
    NO_QUALITY = "no_quality", "only speed was measured; add metric=default, with real weights and prompts of text"


TESTED = tuple(list(Status)[:6])
"""The six that answer the question; the rest say that it was not asked."""


class Speed(_Advice):
    """Is diffusion faster where its quality passes?"""

    VIABLE = "viable", "report the speedup with its interval"
    INEFFICIENT = "inefficient", "look for parity at fewer steps, or for a faster decoder"
    OPEN = "open", "raise timing.repeats and timing.batches"
    NO_PARITY = "no_parity", "there is no k at which a speedup could be claimed"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A condition that failed, and what it blocks."""

    name: str
    reason: str  # with the numbers
    steps: int | None = None  # the k that it blocks; None blocks the whole set
    metrics: tuple[str, ...] = ()  # () blocks every metric
    blocks: str = "parity"  # or "speed": the claim that LLaDA is viable
    change: str = ""  # the settings that would open it; "" in verdicts older than this field


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric over k, as logged, with what it must be read against. Absent values are left out."""

    metric: str  # key of METRICS
    baseline: float | None  # the autoregressive side
    values: tuple[tuple[int, float], ...]  # (k, value), k rising
    floor: float | None
    human: float | None


@dataclass(frozen=True, kw_only=True)
class DeltaTest:
    """Delta(k) = f(k) - Q of one metric at one k, oriented up, with its bounds."""

    steps: int
    delta: float
    sd: float  # of the linearised ratio, over prompts
    skewness: float  # of the same
    enough: bool  # prompts for this skewness
    lower: float  # one-sided, at alpha: what is tested
    upper: float  # one-sided, at alpha
    low: float  # 95 % two-sided, by the same rule
    high: float
    drawn_low: float  # 95 % paired bootstrap, percentile: what the figure draws
    drawn_high: float
    passes: bool  # lower >= -margin, from enough prompts
    lower_t: float | None = None  # the t bound of docs/metrics.md, which `lower` never exceeds; None in old verdicts


@dataclass(frozen=True, kw_only=True)
class Assay:
    """Can the metric tell the baseline from its floor?"""

    difference: float  # Q - floor, oriented up
    lower: float  # one-sided, at alpha
    needed: float  # 2 delta

    @property
    def sensitive(self) -> bool:
        """Whether the metric may certify anything."""
        return self.lower > self.needed


@dataclass(frozen=True, kw_only=True)
class MetricParity:
    """The verdict on one metric, with the point estimate beside it."""

    curve: Curve
    status: Status
    reason: str  # why this status, with the numbers
    margin: float
    prompts: int
    tests: tuple[DeltaTest, ...] = ()  # k rising
    diversity: tuple[DeltaTest, ...] = ()  # of entropy, where the metric needs it
    diversity_margin: float | None = None
    assay: Assay | None = None
    reached: int | None = None  # the smallest k such that it and every larger tested k pass
    stopped_at: int | None = None  # the k at which the sequence from the top ended
    stopped_by: str = ""
    flags: tuple[str, ...] = ()
    prompts_needed: int | None = None
    frequencies: tuple[tuple[int | None, float], ...] = ()  # bootstrap: (S_parity, share); None = none
    deltas: tuple[tuple[int, float], ...]  # point estimate: (k, f(k) - Q)
    s_parity: int | None  # point estimate
    title: str  # the verdict in a line
    sentence: str  # with conditions, speed and diversity: to be quoted
    point_sentence: str  # the point estimate

    @property
    def passing(self) -> tuple[int, ...]:
        """Every k that may be claimed."""
        known = [steps for steps, _ in self.deltas]
        return tuple(steps for steps in known if self.reached is not None and steps >= self.reached)

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
    baseline_ms: float
    candidate_ms: float


@dataclass(frozen=True, kw_only=True)
class ExternalServer:
    """A server on hardware that is not known: its times over HTTP, beside the verdict."""

    label: str
    where: str  # its software and address
    speedups: tuple[Speedup, ...]  # wall clock on both sides

    def speedup(self, steps: int | None) -> Speedup | None:
        """The time ratio at one k."""
        return next((item for item in self.speedups if item.steps == steps), None)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What one set of comparable Records says about parity."""

    status: Status  # of the headline metric, or why there is none
    sentence: str  # to be quoted
    headline: str | None  # the metric that `sentence` is about
    baseline: str | None  # model names
    candidate: str | None
    steps: tuple[int, ...]  # K
    prompts: int
    seeds: tuple[str, ...] = ()
    where: str = ""  # the conditions, for people
    baseline_choice: str = ""  # where a sweep timed several implementations of the baseline: which one it is, and why
    identities: tuple[str, ...] = ()  # of the Records behind it
    conditions: dict[str, str] = field(default_factory=dict)
    metrics: tuple[MetricParity, ...] = ()
    diversity_curves: tuple[Curve, ...] = ()
    speedups: tuple[Speedup, ...] = ()
    external_servers: tuple[ExternalServer, ...] = ()
    gates: tuple[Gate, ...] = ()
    warnings: tuple[str, ...] = ()  # what blocks nothing and should be known
    speed: Speed = Speed.NO_PARITY  # at the headline's passing k
    speed_sentence: str = ""
    s_all: int | None = None  # the smallest k from which on every eligible metric passes
    s_all_metrics: tuple[str, ...] = ()  # the eligible ones
    options: ParityConfig = field(default_factory=ParityConfig)
    alpha: float = 0.05
    analyses: int = 1  # of this question so far, this one included
    analysis: PastAnalysis | None = None  # what later verdicts on the question must count; None: nothing was tested
    seed: int = 0  # of the bootstrap

    @property
    def title(self) -> str:
        """The verdict in a line."""
        return self.metrics[0].title if self.metrics else f"No parity verdict ({self.status.value.replace('_', ' ')})"

    def __str__(self) -> str:
        """The verdict in words: status and sentence, the point estimate, the speed, and what to do next."""
        return "\n".join(self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """What `str` says, line by line."""
        first = f"{self.status.value.replace('_', ' ').upper()}. {self.sentence}"
        more = (self.point_sentence, self.speed_sentence, f"Next: {self.next_step}." if self.metrics else "")
        return (first, *filter(None, more))

    @property
    def point_sentence(self) -> str:
        """The point estimate of the headline metric, as a sentence."""
        return self.metrics[0].point_sentence if self.metrics else ""

    @property
    def next_step(self) -> str:
        """What to do about the status; where gates forbid a verdict, the settings that would open each of them."""
        if self.status is not Status.INVALID:
            return self.status.next_step
        judged = {item.curve.metric for item in self.metrics[:1]}  # none where a whole side failed
        judged |= {DIVERSITY for item in self.metrics[:1] if item.diversity_margin is not None}
        blocking = [g for g in self.gates if g.blocks == "parity" and (not g.metrics or judged & {*g.metrics})]
        if not blocking:  # too few prompts for a bound
            return "raise workload.prompts, and run again"
        changes = dict.fromkeys(f"{gate.name}: {gate.change}" for gate in blocking if gate.change)
        return f"{'; '.join(changes)}; then run again" if changes else self.status.next_step

    def metric(self, key: str) -> MetricParity | None:
        """The verdict on one metric."""
        return next((item for item in self.metrics if item.curve.metric == key), None)

    def curve(self, key: str) -> Curve | None:
        """One metric over k, judged or beside."""
        return next(
            (item for item in (*(m.curve for m in self.metrics), *self.diversity_curves) if item.metric == key), None
        )

    def speedup(self, steps: int | None) -> Speedup | None:
        """The time ratio at one k."""
        return next((item for item in self.speedups if item.steps == steps), None)

    def series(self) -> list[tuple[str, int, float]]:
        """Everything as (key, k, value) for a tracker: both sides' curves, floors, deltas, bounds, speedups, S."""
        rows: list[tuple[str, int, float]] = []
        for curve in (*(item.curve for item in self.metrics), *self.diversity_curves):
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
            rows += _tested_rows(item)
            short = item.curve.metric.partition("/")[2]
            if item.s_parity is not None:
                rows.append((f"parity/s_parity_{short}", item.s_parity, float(item.s_parity)))
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

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Parity":
        """The inverse of `to_dict`.

        Raises:
            RecordError: when `data` is something else.
        """
        try:
            parsed: Parity = _adapter().validate_python(data)
        except ValueError as error:
            raise RecordError(f"not a parity verdict: {str(error).splitlines()[0]}") from error
        return parsed


def _tested_rows(item: MetricParity) -> list[tuple[str, int, float]]:
    """A metric's differences with their bounds, entropy's beside perplexity, and the tested S."""
    short = item.curve.metric.partition("/")[2]
    rows = [(f"parity/delta_{short}", steps, value) for steps, value in item.deltas]
    sets = [(short, item.tests)]
    if item.curve.metric == "quality/perplexity":
        sets.append(("entropy", item.diversity))
        rows += [("parity/delta_entropy", test.steps, test.delta) for test in item.diversity]
    for name, tests in sets:
        rows += [(f"parity/delta_{name}_lower", test.steps, test.lower) for test in tests]
        rows += [(f"parity/delta_{name}_upper", test.steps, test.upper) for test in tests]
    if item.reached is not None:
        rows.append((f"parity/s_tested_{short}", item.reached, float(item.reached)))
    return rows


def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Parity)
