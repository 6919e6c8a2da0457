"""What is printed, how much of it, and where else it goes.

All that a sweep or a report prints goes through `emit`: to a stream, and into the log file of the run, which has
everything. Where nobody reads any more (a pager that was quit, `| head`, a lost connection) that costs text, never
work. A command line ends in `flush_output`.
"""

import contextlib
import datetime
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import TextIO, cast

_GONE = (errno.EPIPE, errno.EIO)  # a pipe without a reader; a terminal that was closed
_LEVEL = "LLMBENCH_OUTPUT"
"""Environment variable with the name of a `Level`: processes that a sweep starts print as much as it does."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Level(IntEnum):
    """How much is printed."""

    QUIET = 0  # errors and the verdict
    NORMAL = 1
    VERBOSE = 2


def level() -> Level:
    """How much this process prints."""
    return Level.__members__.get(os.environ.get(_LEVEL, ""), Level.NORMAL)


def set_level(wanted: Level) -> None:
    """Choose how much this process, and those that it starts, print."""
    os.environ[_LEVEL] = wanted.name


def emit(text: str = "", stream: TextIO | None = None, *, at: Level = Level.QUIET) -> None:
    """Print a text and flush it; where its reader has gone, that stream is silent from here on.

    Args:
        text: one or more lines.
        stream: None means standard output.
        at: the least level at which it is printed; the log file has it in any case.
    """
    to_log(text)
    if level() < at:
        return
    to = sys.stdout if stream is None else stream
    try:
        with _beside():
            print(text, file=to, flush=True)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        discard_output(to)


_beside: Callable[[], "contextlib.AbstractContextManager[None]"] = contextlib.nullcontext
"""Takes what is drawn at the foot of a terminal away while something else is printed."""


def print_beside(drawing: Callable[[], "contextlib.AbstractContextManager[None]"]) -> None:
    """From here on `emit` prints inside of this context."""
    global _beside
    _beside = drawing


def discard_output(stream: TextIO) -> None:
    """Send what is still to come, and what waits in the buffer, nowhere."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def flush_output() -> None:
    """Hand over what libraries printed, while it can still be said quietly that nobody reads it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        discard_output(sys.stdout)


_document: TextIO | None = None
"""Standard output, where it is to hold one document."""


def keep_stdout() -> None:
    """Standard output for one document: what anybody else prints there goes to standard error from here on."""
    global _document
    sys.stdout.flush()
    _document = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def wants_document() -> bool:
    """Whether standard output is to hold one document."""
    return _document is not None


def emit_document(text: str) -> None:
    """Print the document, if it is wanted."""
    global _document
    if _document is None:
        return
    to, _document = _document, None
    with contextlib.suppress(BrokenPipeError), to:
        print(text, file=to, flush=True)


# ----------------------------------------------------------------------------------------------------------------
# The log file

LOG_FILE = "llmbench.log"
"""In the folder of a sweep, or of a job that runs alone."""

_before: list[str] = []
"""What was said before there was a log file."""

_log: TextIO | None = None
_owned = False
_own_stderr: TextIO | None = None


def own_process() -> None:
    """This process is a command line: what libraries write to file descriptor 2 may be sent to the log file."""
    global _owned
    _owned = True


def to_log(text: str) -> None:
    """Add lines to the log file, with the time, or keep them until there is one."""
    line = f"{datetime.datetime.now().isoformat(sep=' ', timespec='milliseconds')} {_ANSI.sub('', text)}"
    if _log is None:
        _before.append(line)
        del _before[:-_KEPT]
        return
    with contextlib.suppress(OSError):  # a full disk costs the log
        print(line, file=_log, flush=True)


_KEPT = 1000


@contextlib.contextmanager
def logged(folder: Path, *, others: bool = True) -> Iterator[None]:
    """Write everything into the log file of a folder, warnings and messages of libraries too.

    In a command line's own process that includes what libraries of C write, as "nanobind: leaked" when Python ends.
    Where the file cannot be written there is no log.

    Args:
        folder: of a sweep or a job.
        others: processes that this one starts inherit no terminal then; False where they are to have it.
    """
    global _log
    if _log is not None:
        yield
        return
    try:
        _log = cast(TextIO, (folder / LOG_FILE).open("a", encoding="utf-8", errors="backslashreplace"))
    except OSError:
        yield
        return
    file = _log
    for line in _before:
        with contextlib.suppress(OSError):
            print(line, file=file, flush=True)
    _before.clear()
    if _owned and others:
        _send_to(file)
    try:
        with _library_messages(file):
            yield
    finally:
        _log = None
        with contextlib.suppress(OSError):
            file.close()


def _send_to(file: TextIO) -> None:
    """Let file descriptor 2 be the log, to the end of the process; `sys.stderr` stays the terminal."""
    global _own_stderr
    with contextlib.suppress(OSError, ValueError), _beside():  # what is drawn at the foot is drawn through the old one
        if _own_stderr is None or sys.stderr is not _own_stderr:
            sys.stderr.flush()
            _own_stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1, errors="backslashreplace")
            sys.stderr = _own_stderr
        os.dup2(file.fileno(), 2)


def terminal_descriptor() -> int | None:
    """What a process that this one starts takes as its standard error; None: the same as anybody's."""
    return None if _own_stderr is None or sys.stderr is not _own_stderr else _own_stderr.fileno()


@contextlib.contextmanager
def _library_messages(file: TextIO) -> Iterator[None]:
    """Python's warnings, and what libraries log: into the file and not on the terminal, but with `-v`."""
    handlers: list[logging.Handler] = [logging.StreamHandler(file)]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    if level() is Level.VERBOSE:
        handlers.append(_Emitting())
    root = logging.getLogger()
    others = [root, *(item for item in root.manager.loggerDict.values() if isinstance(item, logging.Logger))]
    before = [(item, item.handlers[:], item.propagate) for item in others if _owned and _prints(item)]
    for item, _, _ in before:  # MLflow and Transformers have handlers of their own
        item.handlers[:], item.propagate = [], True
    for handler in handlers:
        root.addHandler(handler)
    logging.captureWarnings(_owned)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            root.removeHandler(handler)
        for item, own, propagate in before:
            item.handlers[:], item.propagate = own, propagate


def _prints(logger: logging.Logger) -> bool:
    return any(isinstance(item, logging.StreamHandler) for item in logger.handlers)


class _Emitting(logging.Handler):
    """Prints what a library says."""

    def emit(self, record: logging.LogRecord) -> None:
        """One message; the log has it already."""
        with contextlib.suppress(OSError), _beside():
            print(f"{record.name}: {record.getMessage()}", file=sys.stderr, flush=True)
