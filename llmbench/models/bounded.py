"""Does a program that came with a checkpoint end? It is tried in a process that may be killed.

A chat template cannot reach Python's objects or files, but it can loop without end, write gigabytes or compute
9**(9**9); a tokenizer's expressions can backtrack for hours; neither can be interrupted from inside. So it is first
tried in a fork, which has `SECONDS` and `BYTES` more memory than there was, and is gone afterwards. Linux alone has
such a fork; elsewhere nothing is bounded. `models.chats` is the caller.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable

SECONDS = 20
BYTES = 2**30
LONGEST = 2**20
"""Characters that may come back."""


class Unbounded(Exception):
    """It did not end within time and memory."""


def run(make: Callable[[], str], more_seconds: int = 0) -> str:
    """What `make` returns, made in a process of its own.

    Args:
        make: called there.
        more_seconds: that it may take beside `SECONDS`, where there is much to do.

    Raises:
        Unbounded: it took too long, or too much memory.
        ValueError: what `make` raised, in its words.
    """
    if sys.platform != "linux":
        return make()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of threads that the child does not have: it runs what is above and nothing else
        child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(make, writing, SECONDS + more_seconds)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    if not said or len(said) > LONGEST:
        limits = f"{SECONDS + more_seconds} s, {BYTES >> 30} GiB and {LONGEST} characters"
        raise Unbounded(f"it broke down, or did not end within {limits}")
    if said[0] == "-":
        raise ValueError(said[1:])
    return said[1:]


def _answer(make: Callable[[], str], writing: int, seconds: int) -> None:
    """In the child: write what was made, or what went wrong; an alarm's default action ends C code too."""
    import faulthandler
    import resource
    import signal

    try:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a panic of compiled code tells its whole stack
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = now + BYTES if hard == resource.RLIM_INFINITY else min(now + BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        try:
            said = "+" + make()
        except MemoryError:
            os._exit(1)
        except Exception as error:
            said = "-" + str(error)[:LONGEST]
        with contextlib.suppress(OSError), os.fdopen(writing, "wb") as pipe:
            pipe.write(said[: LONGEST + 2].encode(errors="replace"))
    finally:
        os._exit(0)
