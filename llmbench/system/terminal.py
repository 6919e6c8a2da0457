"""What goes on, at the foot of a terminal: a line for the sweep and one for the phase. rich draws.

Elsewhere (a pipe, a file, TERM=dumb) it is a line when the phase changes. In both nothing is silent for more than five
seconds: a thread then says once more how far it is. Drawing takes a millisecond or two. Parts of a phase are drawn when
they are done, so outside of what is timed; the thread wakes only where a part takes longer than `SILENT_S`, once in
that time.
"""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from llmbench.system.output import Level, emit, level, print_beside, to_log

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SILENT_S = 3.5
"""Seconds without a sign after which one is given."""

_REDRAW_S = 0.2


@dataclass
class Activity:
    """What goes on: `done` of `total` parts; without a total nobody knows."""

    what: str
    label: str = ""  # whose phase it is
    head: Callable[[], str] = str  # the line above
    done: int = 0
    total: int = 0
    begun: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        """In one line, for a file."""
        parts = f" {self.done}/{self.total}" if self.total > 1 else ""
        return f"{self.named}{parts}, {self.elapsed_s:.0f} s"

    @property
    def named(self) -> str:
        """The phase with its owner."""
        return f"{self.label}: {self.what}" if self.label else self.what

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begun


class _Foot:
    """The activities of this process, the innermost of which is shown."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stack: list[Activity] = []
        self.said = time.monotonic()
        self.others = 0  # processes that have the terminal for themselves
        self._live: Any = None
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, activity: Activity) -> None:
        with self.lock:
            self.stack.append(activity)
            if self._thread is None or not self._thread.is_alive():
                self._woken.clear()
                self.said = time.monotonic()
                self._thread = threading.Thread(target=self._watch, args=(self._woken,), name="foot", daemon=True)
                self._thread.start()
            self.draw()

    def end(self, activity: Activity) -> None:
        with self.lock:
            self.stack.remove(activity)
            if self.stack:  # what was last is shown until something else begins
                self.stack[-1].what, self.stack[-1].begun = activity.named, activity.begun
                return
            self._take_away()
            self._woken.set()
            self._woken, self._thread = threading.Event(), None

    def draw(self, soon: bool = False) -> None:
        """Draw where there is a terminal; `soon`: unless it was just drawn."""
        with self.lock, contextlib.suppress(OSError, ValueError):  # a terminal that was closed costs the lines alone
            if (
                not self.stack
                or self.others
                or not draws(sys.stderr)
                or (soon and time.monotonic() - self.said < _REDRAW_S)
            ):
                return
            if self._live is None:
                from rich.live import Live

                self._live = Live(
                    console=_console(sys.stderr),
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
            self._live.update(_drawn(self.stack[-1]), refresh=True)
            self.said = time.monotonic()

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Print without the lines at the foot, which come back with the next sign."""
        with self.lock:
            self._take_away()
            try:
                yield
            finally:
                self.said = time.monotonic()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        with self.lock:
            self._take_away()
            self.others += 1
        try:
            yield
        finally:
            with self.lock:
                self.others -= 1
                self.said = time.monotonic()

    def _take_away(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            with contextlib.suppress(OSError, ValueError):
                live.stop()

    def _watch(self, ended: threading.Event) -> None:
        """Give a sign where none was given for long."""
        while not ended.wait(max(0.1, SILENT_S - (time.monotonic() - self.said))):
            with self.lock, contextlib.suppress(OSError, ValueError):
                if not self.stack or time.monotonic() - self.said < SILENT_S:
                    continue
                if self.others:
                    self.said = time.monotonic()
                    continue
                if draws(sys.stderr):
                    self.draw()
                elif level() >= Level.NORMAL:
                    print(self.stack[-1].text(), file=sys.stderr, flush=True)
                self.said = time.monotonic()


_foot = _Foot()
print_beside(_foot.beside)


_LINES = "LLMBENCH_LINES"
"""Environment variable of workers that share a terminal: they print lines and draw nothing."""


def lent() -> contextlib.AbstractContextManager[None]:
    """While a process that this one has started shows what goes on, this one does not."""
    return _foot.lent()


def share_terminal() -> None:
    """Several processes are started that print at once."""
    os.environ[_LINES] = "1"


def draws(stream: TextIO) -> bool:
    """Whether lines at the foot of this stream can be drawn and taken away."""
    able = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return able and level() >= Level.NORMAL and _LINES not in os.environ


@contextlib.contextmanager
def doing(what: str, label: str = "", head: Callable[[], str] = str) -> Iterator[Activity]:
    """Show what goes on, until it is over.

    Args:
        what: in a few words.
        label: whose phase it is.
        head: makes the line above.
    """
    activity = Activity(what, label, head)
    to_log(activity.named)
    _foot.begin(activity)
    try:
        yield activity
    finally:
        _foot.end(activity)


def tick(activity: Activity, phase: str, done: int, total: int) -> None:
    """Show how far an activity is; a new phase is said where nothing is drawn."""
    if phase != activity.what:
        activity.what, activity.begun = phase, time.monotonic()
        activity.done, activity.total = done, total
        say_or_draw(activity.named)
        _foot.draw()
        return
    activity.done, activity.total = done, total
    _foot.draw(soon=True)


def say_or_draw(text: str) -> None:
    """Print what the foot of a terminal shows in any case, where there is none, and with `-v`."""
    if draws(sys.stderr) and level() < Level.VERBOSE:
        to_log(text)
    else:
        emit(text, sys.stderr, at=Level.NORMAL)


def width_of(stream: TextIO) -> int | None:
    """Columns of a terminal; None for a file, which has no end."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def coloured(text: str, style: str, stream: TextIO | None = None) -> str:
    """A text in a colour, where the stream has any: not in a file, with NO_COLOR, or TERM=dumb."""
    to = sys.stdout if stream is None else stream
    if not to.isatty():
        return text
    from rich.text import Text

    console = _console(to)
    with console.capture() as captured:
        console.print(Text(text, style=style), end="", soft_wrap=True)
    return captured.get()


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=stream, highlight=False)


def _drawn(activity: Activity) -> "RenderableType":
    """Two lines, cut at the terminal's edge."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = activity.head()
    row: list[RenderableType] = [Text(activity.what if head else activity.named)]
    if activity.total > 1:
        row += [ProgressBar(activity.total, activity.done, width=24), Text(f"{activity.done}/{activity.total}")]
    row.append(Text(f"{activity.elapsed_s:.0f} s"))
    if 0 < activity.done < activity.total:
        left = activity.elapsed_s / activity.done * (activity.total - activity.done)
        row.append(Text(f"about {left:.0f} s left"))
    line = Table.grid(padding=(0, 2, 0, 0))
    for _ in row:
        line.add_column(no_wrap=True)
    line.add_row(*row)
    above = [Text(head, style="bold", no_wrap=True, overflow="ellipsis")] if head else []
    return Group(*above, line)
