"""What if nobody reads any more? A pager that was quit, `| head` or a lost connection costs text, never work.

All that a sweep or a report prints goes through `emit`; a command line ends in `flush_output`.
"""

import contextlib
import errno
import os
import sys
from typing import TextIO

_GONE = (errno.EPIPE, errno.EIO)  # a pipe without a reader; a terminal that was closed


def emit(text: str = "", stream: TextIO | None = None) -> None:
    """Print a text and flush it; where its reader has gone, that stream is silent from here on.

    Args:
        text: one or more lines.
        stream: None means standard output.
    """
    to = sys.stdout if stream is None else stream
    try:
        print(text, file=to, flush=True)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        discard_output(to)


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
