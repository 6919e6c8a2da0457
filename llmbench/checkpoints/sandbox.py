"""Does a program that came with a checkpoint end? It is tried in a process that may be killed.

A chat template cannot reach Python's objects or files, but it can loop without end, write gigabytes or compute
9**(9**9); a tokenizer's expressions can backtrack for hours; neither can be interrupted from inside. So it is first
tried in a fork, which has `SECONDS` and `BYTES` more memory than there was, and is gone afterwards, also where the
parent is interrupted. Linux alone has such a fork; elsewhere, and where the system grants none, nothing is bounded.
`models.chats` is the caller.

The fork has the calling thread alone: CUDA, MLflow and the pools of compiled libraries are not alive in it. So it
touches none of them, starts no pool (`TOKENIZERS_PARALLELISM`; its stacks alone could exceed `BYTES`), and collects
nothing that the parent left (`gc.freeze`), which may hold memory of a GPU.
"""

import contextlib
import faulthandler
import gc
import os
import signal
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
        make: called there; here where there can be no such process.
        more_seconds: that it may take beside `SECONDS`, where there is much to do.

    Raises:
        Unbounded: it took too long, or too much memory.
        ValueError: what `make` raised, in its words.
    """
    if sys.platform != "linux":
        return _here(make)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of threads that the child does not have
                child = os.fork()
        except OSError:  # no memory or process to spare: that is no fault of the checkpoint
            os.close(writing)
            return _here(make)
        if child == 0:
            _answer(make, writing, SECONDS + more_seconds)
        try:
            os.close(writing)
            said = pipe.read().decode(errors="replace")
        except BaseException:  # Ctrl-C: nothing goes on behind it
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            ended = _wait(child)
    if ended != 0 or not said or len(said) > LONGEST:
        limits = f"{SECONDS + more_seconds} s, {BYTES >> 30} GiB and {LONGEST} characters"
        raise Unbounded(f"it broke down, or did not end within {limits}")
    if said[0] == "-":
        raise ValueError(said[1:])
    return said[1:]


def _here(make: Callable[[], str]) -> str:
    """What `make` returns, without bounds."""
    try:
        return make()
    except Exception as error:
        raise ValueError(str(error)) from error


def _wait(child: int) -> int:
    """The exit status of the child; 0 where the system tells nobody, because SIGCHLD is ignored."""
    try:
        return os.waitpid(child, 0)[1]
    except ChildProcessError:
        return 0


def _answer(make: Callable[[], str], writing: int, seconds: int) -> None:
    """In the child: write what was made, or what went wrong; an alarm's default action ends C code too."""
    status = 1
    try:
        for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.alarm(seconds)  # before everything else that could wait
        gc.freeze()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a panic of compiled code tells its whole stack
        _limit_memory()
        try:
            said = "+" + make()
        except MemoryError:
            return
        except Exception as error:
            said = "-" + str(error)[: LONGEST - 1]
        with contextlib.suppress(OSError), os.fdopen(writing, "wb") as pipe:
            pipe.write(said[: LONGEST + 2].encode(errors="replace"))
        status = 0
    finally:
        os._exit(status)


def _limit_memory() -> None:
    import resource  # not on every platform

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = now + BYTES if hard == resource.RLIM_INFINITY else min(now + BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
