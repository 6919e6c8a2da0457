"""Does another process use the GPU while a job is timed? By its share of the multiprocessors, not by its presence.

The driver samples five times a second (an H200 under driver 580). A pass may be shorter, so its end waits until a few
samples can be there; what disturbs for so short a time and is gone is not seen. In a container whose pids are not those
of the driver this process does not find itself, and nothing is said of others.
"""

import os
import time
from collections.abc import Callable

import psutil

from llmbench.measure.nvml import Nvml

SHARES = range(101)
"""What a sample can say in percent; drivers are known to give others, which are left out."""

WINDOW_S = 0.6
"""The shortest time over which a process is looked at."""


class OtherProcesses:
    """What other processes use of the device from now on, as far as the driver tells.

    Args:
        nvml: the device; None where there is none.
        now_us: the clock of the samples.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        nvml: Nvml | None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._nvml, self._now_us, self._sleep = nvml, now_us, sleep
        self._begun = self._since = now_us()
        self._span_us = 0
        self._used: dict[int, int] = {}  # share times microseconds, by pid

    def look(self) -> None:
        """Take what the driver has sampled since the last look. No part of a timed region.

        The driver gives each process that was busy one mean share since then, and nothing for the others.
        """
        found = (self._nvml.process_samples(self._since) if self._nvml else None) or []
        newest = max((at_us for _, at_us, _ in found), default=self._since)
        span, self._since = newest - self._since, newest
        self._span_us += span
        for pid, _, share in found:
            if share in SHARES:
                self._used[pid] = self._used.get(pid, 0) + share * span

    def busiest_percent(self) -> float | None:
        """The highest mean share of another process.

        None where the driver gives no samples, or does not know this process by its pid.
        """
        if self._nvml is None or os.getpid() not in {pid for pid, _ in self._nvml.processes() or ()}:
            return None
        self._sleep(max(0.0, WINDOW_S - (self._now_us() - self._begun) / 1e6))
        self.look()
        if not self._span_us:
            return None
        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        return max((used / self._span_us for pid, used in self._used.items() if pid not in own), default=0.0)
