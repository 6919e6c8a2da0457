"""How far is a training, and at what learning rate does it go on? A budget in steps or in seconds that ends at 0.

A linear decay only pays off when it reaches 0. So with a budget in seconds the rate follows the clock, not the number
of steps: on whatever device, shared or not, it is 0 when the time is over.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

WARMUP_STEPS = 200
WARMUP_TIME = 0.05  # of the time for steps, where the clock ends the training


@dataclass
class Schedule:
    """Learning rate of one training.

    Attributes:
        peak: Highest learning rate.
        max_steps: Never more steps than this; None: the clock alone ends the training.
        deadline: ``time.monotonic()`` by which the last step must be done; None for no limit.
        before: Share of the schedule that earlier calls did (of time; steps are counted on).
        begun: ``time.monotonic()`` at the first step; None before it.
    """

    peak: float
    max_steps: int | None = None
    deadline: float | None = None
    before: float = 0.0
    begun: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty budget."""
        if self.max_steps is None and self.deadline is None:
            raise ValueError("neither steps nor seconds say how long to train; set one of them")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} leaves nothing to train")

    def begin(self) -> None:
        """The first step follows: time counts from here."""
        self.begun = time.monotonic()
        if self.deadline is not None and self.begun >= self.deadline:
            raise TimeoutError("the budget in seconds was over before the first step; raise --seconds")

    def share(self, step: int) -> float:
        """Share of the budget that is gone, of steps or of time, whichever is further: 0 to 1."""
        of_steps = 0.0 if self.max_steps is None else step / self.max_steps
        of_time = self.before
        if self.deadline is not None and self.begun is not None:
            passed = (time.monotonic() - self.begun) / (self.deadline - self.begun)
            of_time = self.before + (1 - self.before) * passed
        return min(1.0, max(of_steps, of_time))

    @property
    def warmup(self) -> float:
        """Share of the budget until the peak: of steps 200, or a tenth of a short run."""
        if self.max_steps is None:
            return WARMUP_TIME
        return min(WARMUP_STEPS, max(1, self.max_steps // 10)) / self.max_steps

    def learning_rate(self, step: int) -> float:
        """Linear up to the peak over the warm-up, then linear down to 0."""
        up = self.share(step + 1) / self.warmup
        down = (1 - self.share(step)) / max(1e-9, 1 - self.warmup)
        return self.peak * max(0.0, min(1.0, up, down))
