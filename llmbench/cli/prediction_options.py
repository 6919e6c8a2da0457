"""The options of `llmbench report prediction`; a typed mistake is one line."""

import argparse
from pathlib import Path

from llmbench.errors import UsageError
from llmbench.record import Ceilings

FIT_BATCHES = (1, 32)

_MAP = ("device", "ceilings", "prompt", "canvas", "block", "batches", "steps")
"""Options of the map, which is made from pages alone."""


def add(options: argparse.ArgumentParser) -> None:
    """Add them to the command line of `llmbench report`."""
    group = options.add_argument_group("prediction", "a model of a forward's time, and a map of where diffusion wins")
    add = group.add_argument
    add("--pages", default=None, type=Path, metavar="PATH", help="measured pages (docs/results), in place of a sweep")
    add("--fit-batches", default=None, type=_counts, metavar="B,...", help="rows to fit (default: 1,32); all others "
        "are judged")  # fmt: skip
    add("--fit-device", default=None, metavar="NAME", help="whose rows to fit (default: the one with most batch sizes)")
    add("--device", default=None, metavar="NAME", help="of the map (default: the fitted one)")
    add("--ceilings", default=None, type=_ceilings, metavar="TFLOP/S,TB/S", help="of a device that was not measured")
    add("--prompt", default=None, type=_count, metavar="P", help="of the map (default: the pages')")
    add("--canvas", default=None, type=_count, metavar="G", help="of the map (default: the pages')")
    add("--block", default=None, type=_count, metavar="TOKENS", help="of the map (default: the pages')")
    add("--batches", default=None, type=_counts, metavar="B,...", help="of the map (default: 1 to 256)")
    add("--steps", default=None, type=_counts, metavar="K,...", help="of the map (default: 1 to all tokens of a block)")


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that mean nothing here, and fill in the batches to fit.

    Raises:
        UsageError: an option of the prediction with another table, or of the map without pages.
    """
    given = [name for name in ("pages", "fit_batches", "fit_device", *_MAP) if getattr(options, name) is not None]
    if given and options.table != "prediction":
        raise UsageError(f"{_typed(given[0])} is for prediction alone; leave it out of {options.table}")
    mapped = [name for name in given if name in _MAP]
    if mapped and options.pages is None:
        raise UsageError(
            f"{_typed(mapped[0])} is for a map, which is made from measured pages; add --pages docs/results"
        )
    sweeps = [name for name in ("sweep", "folder", "uri", "experiment") if getattr(options, name) is not None]
    if options.pages is not None and sweeps:
        raise UsageError(f"--pages reads no sweep; leave {_typed(sweeps[0])} out")
    if options.device is not None and options.ceilings is not None:
        raise UsageError("--ceilings are of a device that was not measured; leave --device out")
    options.fit_batches = options.fit_batches or FIT_BATCHES


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _count(text: str) -> int:
    """A positive whole number.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not (text.strip().isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    """Positive whole numbers with commas between them, in order."""
    return tuple(sorted({_count(part) for part in text.split(",")}))


def _ceilings(text: str) -> Ceilings:
    """`989,3.35`: TFLOP/s and TB/s.

    Raises:
        ArgumentTypeError: they are not two positive numbers.
    """
    try:
        rate, width = (float(part) for part in text.split(","))
    except ValueError:
        rate = width = 0.0
    if not (0 < rate < 1e6 and 0 < width < 1e6):
        raise argparse.ArgumentTypeError(f"{text!r}: give TFLOP/s and TB/s as two numbers: 778,4.09")
    return Ceilings(flops_per_s=rate * 1e12, bytes_per_s=width * 1e12, last_level_cache_bytes=None, judged=True)
