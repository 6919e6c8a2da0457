"""What can be said about parity, as plain frozen data: it prints, goes to JSON and comes back.

`Status` says what to do next, `Curve` holds one metric over k with what it must be read against, `MetricParity` the
point form of one metric, `Parity` all of one set of comparable Records. Built by `llmbench.analysis.parity`, read by
tracking and report.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llmbench.errors import RecordError


class Status(StrEnum):
    """What the point form says; `next_step` is what to do about it."""

    next_step: str

    def __new__(cls, value: str, next_step: str) -> "Status":
        """A string member that carries its advice."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.next_step = next_step
        return member

    REACHED = "reached", "read the speedup at S_parity, and the entropy beside it"
    NOT_REACHED = "not_reached", "add larger steps, up to the canvas; at the canvas, this is the answer"
    MISSING_BASELINE = "missing_baseline", "add the autoregressive side: model=llama,llada"
    MISSING_CANDIDATES = "missing_candidates", "add the diffusion side: model=llama,llada steps=8,16,32,64"
    NO_QUALITY = "no_quality", "add metric=default: only speed was measured"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric over k, as logged, with what it must be read against. Absent values are left out."""

    metric: str  # key of METRICS
    baseline: float | None  # the autoregressive side
    values: tuple[tuple[int, float], ...]  # (k, value), k rising
    floor: float | None
    human: float | None


@dataclass(frozen=True, kw_only=True)
class MetricParity:
    """The point form of one metric."""

    curve: Curve
    status: Status
    deltas: tuple[tuple[int, float], ...]  # (k, f(k) - Q), oriented up; perplexity in nats per token
    s_parity: int | None
    title: str  # the verdict in a line
    sentence: str  # with conditions, speed and diversity: to be quoted


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
class Parity:
    """What one set of comparable Records says about parity."""

    status: Status  # of the headline metric, or why there is none
    sentence: str  # to be quoted
    headline: str | None  # the metric that `sentence` is about
    baseline: str | None  # model names
    candidate: str | None
    steps: tuple[int, ...]  # K
    prompts: int
    where: str = ""  # the conditions, for people
    baseline_choice: str = ""  # where a sweep timed several implementations of the baseline: which one it is, and why
    identities: tuple[str, ...] = ()  # of the Records behind it
    conditions: dict[str, str] = field(default_factory=dict)
    metrics: tuple[MetricParity, ...] = ()
    beside: tuple[Curve, ...] = ()
    speedups: tuple[Speedup, ...] = ()
    warnings: tuple[str, ...] = ()
    seed: int = 0  # of the bootstrap

    @property
    def title(self) -> str:
        """The verdict in a line."""
        return self.metrics[0].title if self.metrics else f"No parity verdict ({self.status.value.replace('_', ' ')})"

    def metric(self, key: str) -> MetricParity | None:
        """The verdict on one metric."""
        return next((item for item in self.metrics if item.curve.metric == key), None)

    def curve(self, key: str) -> Curve | None:
        """One metric over k, judged or beside."""
        return next((item for item in (*(m.curve for m in self.metrics), *self.beside) if item.metric == key), None)

    def speedup(self, steps: int | None) -> Speedup | None:
        """The time ratio at one k."""
        return next((item for item in self.speedups if item.steps == steps), None)

    def series(self) -> list[tuple[str, int, float]]:
        """Everything as (key, k, value) for a tracker: curves of both sides, floors, deltas, speedups, S_parity."""
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
            short = item.curve.metric.partition("/")[2]
            rows += [(f"parity/delta_{short}", steps, value) for steps, value in item.deltas]
            if item.s_parity is not None:
                rows.append((f"parity/s_parity_{short}", item.s_parity, float(item.s_parity)))
                if (at := self.speedup(item.s_parity)) is not None:
                    rows.append((f"parity/speedup_at_parity_{short}", at.steps, at.ratio))
        for speed in self.speedups:
            named = {"speedup": speed.ratio, "speedup_ci_low": speed.low, "speedup_ci_high": speed.high}
            named |= {f"{self.baseline}_e2e_ms": speed.baseline_ms, f"{self.candidate}_e2e_ms": speed.candidate_ms}
            rows += [(f"parity/{key}", speed.steps, value) for key, value in named.items() if value is not None]
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


def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Parity)
