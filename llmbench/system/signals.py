"""Signals that end a sweep in order: Ctrl-C, `kill`, and a connection that is lost. Only `kill -9` cannot.

Python calls a handler wherever the program happens to be. Inside a finalizer, or a callback of compiled code, what the
handler raises is dropped, and the sweep would go on as if nobody had asked. So the handler also notes the signal, and
`raise_if_stopped`, which every step of a job passes, raises it again.
"""

import signal
import sys
from types import FrameType

_HANGUP = getattr(signal, "SIGHUP", None)  # not on every platform
REASONS = {128 + signal.SIGTERM: "terminated"} | ({128 + _HANGUP: "the terminal has gone"} if _HANGUP else {})
"""What each exit code of this module means."""

_asked: int | None = None


def install_signal_handlers() -> None:
    """From here on these signals raise SystemExit with 128 + their number, and Ctrl-C KeyboardInterrupt as ever."""
    signal.signal(signal.SIGTERM, _note)
    for number, default in ((signal.SIGINT, signal.default_int_handler), (_HANGUP, signal.SIG_DFL)):
        if number is not None and signal.getsignal(number) == default:  # `nohup` and a shell's `&` ignore them
            signal.signal(number, _note)


def raise_if_stopped() -> None:
    """Raise what a signal asked for, if that was lost on its way.

    Raises:
        SystemExit: SIGTERM or SIGHUP came; the code is 128 + the signal's number.
        KeyboardInterrupt: Ctrl-C came.
    """
    if _asked == signal.SIGINT:
        raise KeyboardInterrupt
    if _asked is not None:
        sys.exit(128 + _asked)


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = number
    raise_if_stopped()
