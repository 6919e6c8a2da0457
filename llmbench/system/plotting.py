"""Matplotlib without a user's settings: figures are the same from every machine, and files need no window."""

import contextlib
import os
import sys
from collections.abc import Iterator


def import_matplotlib() -> None:
    """Import Matplotlib, which fails where MPLBACKEND names a backend that it does not know.

    One that it knows is set afterwards, so that a notebook's own figures are shown as before.
    """
    if "matplotlib" in sys.modules:
        return
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = named


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Draw and save figures with Matplotlib's defaults, whatever matplotlibrc and styles say; a decorator, too."""
    import_matplotlib()
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
