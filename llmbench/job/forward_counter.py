"""How many forwards did a server make for a batch? Its own counters, read before the batch is sent and after it ended.

A counter says nothing of who caused it. So the tokens and requests that it counted in between must be those of the
batch, to the last one; else others use the server, and the batch has no number. Counters may lag behind the streams:
they are read again until what belongs to the batch is there. All of that lies outside timed regions.
"""

import time
from collections.abc import Sequence

from llmbench.config.diffusion_engines import Counters
from llmbench.job.openai_client import Client
from llmbench.job.reply import Reply

PATIENCE_S = 2.0
"""For how long counters may lag behind a stream that ended."""

PAUSE_S = 0.02
"""Between two readings."""


class ForwardCounter:
    """The counters of one server, for one job.

    Args:
        client: asks it.
        names: of the counters; None: the engine has none.
    """

    def __init__(self, client: Client, names: Counters | None) -> None:
        self._client, self._names = client, names
        self._before: list[float] | None = None
        self.absent = names is None
        self.shared = False
        """Whether it counted what was not ours."""

    def begin(self) -> None:
        """Before a batch is sent: read until nothing moves any more."""
        if self._names is None or self.absent:
            return
        self._before = self._client.counters(self._names)
        deadline = time.monotonic() + PATIENCE_S
        while self._before is not None and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
            again = self._client.counters(self._names)
            if again == self._before:
                break
            self._before = again
        self.absent = self._before is None

    def made(self, replies: Sequence[Reply]) -> float | None:
        """Forwards since `begin`, the mean over the rows of the batch; None where they are not known.

        Args:
            replies: of the batch, which has ended.
        """
        before, tokens = self._before, [reply.completion_tokens for reply in replies]
        self._before = None
        if self._names is None or before is None or None in tokens:
            return None
        wanted = (sum(token for token in tokens if token is not None), len(replies))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            now = self._client.counters(self._names)
            if now is None:
                return None
            forwards, *counted = (later - earlier for later, earlier in zip(now, before, strict=True))
            if tuple(counted) == wanted:
                return forwards / len(replies)
            if any(count > ours for count, ours in zip(counted, wanted, strict=True)) or time.monotonic() > deadline:
                self.shared = True
                return None
            time.sleep(PAUSE_S)

    def notes(self) -> list[str]:
        """Why there is no number of forwards."""
        if self.absent:
            return ["throughput/nfe is absent: the server tells no forwards"]
        if self.shared:
            return ["throughput/nfe is absent: the server's counters do not fit these requests; others use it too"]
        return []
