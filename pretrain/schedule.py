"""How many steps, and at what learning rate? A budget in steps or in seconds, turned into a schedule that ends at 0.

A linear decay only pays off when it reaches 0, so the number of steps must be known early. With a budget in seconds
it is measured: a few dozen steps after compilation are timed, which gives the total; the warm-up, which does not
depend on the total, covers them. A device may be shared, so every evaluation measures again and plans the rest anew:
the end stays just before the deadline, and the rate bends a little instead of ending above 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

WARMUP_STEPS = 200
TIMED_FROM, TIMED_TO = 10, 50
FEWEST_TIMED = 40  # no plan from fewer steps
SAFETY = 0.97  # plan to use this share of the time that is left


@dataclass
class Schedule:
    """Step count and learning rate of one training.

    Attributes:
        peak: Highest learning rate.
        max_steps: Never more steps than this.
        deadline: ``time.monotonic()`` by which the last step must be done; None for no limit.
        total: Steps planned; ``max_steps`` until the calibration.
        step_seconds: Measured seconds of a step; None until measured.
        plans: Every plan made: step, measured seconds of a step, total.
    """

    peak: float
    max_steps: int
    deadline: float | None = None
    total: int = field(init=False)
    step_seconds: float | None = field(init=False, default=None)
    plans: list[dict[str, float]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Refuse an empty budget."""
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} leaves nothing to train")
        self.total = self.max_steps

    @property
    def warmup(self) -> int:
        """Steps until the peak: 200, or a tenth of a short run."""
        return min(WARMUP_STEPS, max(1, self.total // 10))

    def learning_rate(self, step: int) -> float:
        """Linear up to the peak over the warm-up, then linear down to 0 at ``total``."""
        up = (step + 1) / self.warmup
        down = (self.total - step) / max(1, self.total - self.warmup)
        return self.peak * max(0.0, min(1.0, up, down))

    def plan(self, step: int, step_seconds: float) -> None:
        """Fix the total, at ``step``, from the measured time of a step; nothing to do without a deadline."""
        self.step_seconds = step_seconds
        if self.deadline is not None:
            left = max(0.0, self.deadline - time.monotonic())
            self.total = min(self.max_steps, step + int(left * SAFETY / step_seconds))
            self.plans.append({"step": step, "step_seconds": step_seconds, "total": self.total})

    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline
