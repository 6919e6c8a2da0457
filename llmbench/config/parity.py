"""What a verdict tests and what counts as equal, fixed before the run. Defaults are those of docs/metrics.md.

Margins have upper limits: with a larger one anything would be equal.
"""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmbench.config.options import STRICT, Count, NonNegative, Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MarginsConfig:
    """How much worse the diffusion side may be and still count as equal, in the unit of the oriented metric."""

    perplexity: Annotated[float, Field(ge=0, le=0.3, strict=True)] = 0.1  # nats per token
    bits_per_byte: Annotated[float, Field(ge=0, le=0.12, strict=True)] = 0.04
    bertscore_f1: Annotated[float, Field(ge=0, le=0.03, strict=True)] = 0.01
    accuracy: Annotated[float, Field(ge=0, le=0.05, strict=True)] = 0.02


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ThresholdsConfig:
    """Where the gates close. They can be made stricter than docs/metrics.md says, never looser."""

    empty_share: Annotated[float, Field(ge=0, le=0.02, strict=True)] = 0.02  # at most so many empty outputs a side
    length_share: Annotated[float, Field(ge=0.9, le=1, strict=True)] = 0.9  # shorter side / longer side, in bytes
    roofline_share: Annotated[float, Field(ge=0.5, le=1, strict=True)] = 0.5  # a baseline below it is slow


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ChatConfig:
    """What "responsive enough for chat" means, in ms at batch 1. No part of the parity verdict."""

    first_text_ms: Positive = 1000.0  # until text can be shown
    e2e_ms: Positive = 10_000.0  # until all of it is there


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ParityConfig:
    """What the verdicts test, fixed before the run. It changes no job: it is no part of a job's identity."""

    margins: MarginsConfig = Field(default_factory=MarginsConfig)
    thresholds: ThresholdsConfig = Field(default_factory=ThresholdsConfig)
    planned_analyses: Count = 1  # A: verdicts on data that grows; each tests at 0.05 / A
    # of the baseline's quality over diversity; None: 0 to 1 by 0.2 on a CPU, by 0.1 on a GPU; () draws no curve
    baseline_temperatures: tuple[NonNegative, ...] | None = None
    chat: ChatConfig = Field(default_factory=ChatConfig)
