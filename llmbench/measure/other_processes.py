"""Does another process use the GPU while a job is timed? By its share of the multiprocessors, not by its presence.

The driver names processes by pids that may be of another namespace: in a container this process has another pid than
the one that the driver tells. So it is recognised by its memory: its pid is the one whose memory grows when this
process allocates. Where that is not clear, nothing is said of others: a guess could take this process for another one.
"""

import os
import time
from collections import Counter
from collections.abc import Callable

import psutil

from llmbench.measure.nvml import Nvml

SHARES = range(101)
"""What a sample can say in percent; drivers are known to give others, which are left out."""

PROOF_BYTES = 96 * 2**20
"""What this process allocates to be recognised: more than other processes are likely to take at the same moment."""

_ATTEMPTS = 3
"""Another process that grows at the same moment does not do so each time."""


def own_pid(nvml: Nvml, allocate: Callable[[int], object], release: Callable[[], None]) -> int | None:
    """The driver's pid of this process; None where it cannot be told.

    Args:
        nvml: the device.
        allocate: takes so many bytes of it; makes the context of this process where there is none yet.
        release: gives back to the driver what is no longer used.
    """
    for _ in range(_ATTEMPTS):
        release()
        before = _bytes(nvml)
        try:
            held = allocate(PROOF_BYTES)
        except RuntimeError:  # no memory is left
            return None
        after = _bytes(nvml)
        del held
        release()
        grown = [pid for pid, size in after.items() if size - before[pid] >= PROOF_BYTES]
        if len(grown) == 1:
            return grown[0]
    return None


def _bytes(nvml: Nvml) -> Counter[int]:
    """Memory by pid, of all its contexts."""
    held = Counter[int]()
    for pid, size in nvml.processes() or ():
        held[pid] += size
    return held


class OtherProcesses:
    """What other processes used of the device from now on, as far as the driver tells.

    Args:
        nvml: the device.
        own: the driver's pid of this process; None: not known, so nothing is said.
        now_us: the clock of the samples.
    """

    def __init__(
        self, nvml: Nvml | None, own: int | None, now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self._nvml, self._own = (None if own is None else nvml), own
        self._since = now_us()
        self._shares: dict[int, list[int]] = {}

    def look(self) -> None:
        """Take what the driver has sampled since the last look. No part of a timed region."""
        found = self._nvml.process_samples(self._since) if self._nvml else None
        for pid, at_us, share in sorted(found or (), key=lambda item: item[1]):
            self._since = max(self._since, at_us)
            if share in SHARES:
                self._shares.setdefault(pid, []).append(share)

    def busiest_percent(self) -> float | None:
        """The highest mean share of another process; 0 where only this one has samples.

        None where this one has none, which was busy all the time, or where another process has the same pid.
        An idle process has no samples, so a mean is over as many as the process has that has most.
        """
        own = self._family()
        if self._nvml is None or own.isdisjoint(self._shares):
            return None
        if [pid for pid, _ in self._nvml.processes() or ()].count(self._own or 0) > 1:
            return None  # a sandbox: another process there has this pid too
        most = max(map(len, self._shares.values()))
        return max((sum(shares) / most for pid, shares in self._shares.items() if pid not in own), default=0.0)

    def _family(self) -> set[int | None]:
        """Pids of this process, and of those that it started where the driver's pids are those of this namespace."""
        if self._own != os.getpid():
            return {self._own}
        return {self._own, *(child.pid for child in psutil.Process().children(recursive=True))}
