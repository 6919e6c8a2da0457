"""What every page of the bench is put together from: cells of tables, and the line that says where it was measured."""

import re
import statistics
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from llmbench.metrics.performance import median_interval

TRIAL = "**A trial of the code with tiny shapes: none of these numbers means anything.**\n\n"


def provenance(results: dict[str, Any]) -> str:
    """Command, date, code, hardware, software and ceilings, in one paragraph."""
    environment, ceilings = results["environment"], results["ceilings"]
    versions = environment["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "cuda") if name in versions)
    clocks = " then ".join("-" if mhz is None else f"{mhz} MHz" for mhz in results["sm_clock_mhz"])
    return (
        f"Measured by `{results['command'].strip()}`, {results['date'][:10]}, commit {commit(environment)}:\n"
        f"{environment['device_name']}, driver {environment['driver'] or '-'}, Python {environment['python']}, "
        f"{named}; SM clock {clocks}.\n"
        f"Ceilings of the same run: copy {ceilings['bytes_per_s'] / 1e12:.2f} TB/s, matrix product "
        f"{ceilings['flops_per_s'] / 1e12:.0f} TFLOP/s."
    )


def commit(environment: dict[str, Any]) -> str:
    """Of the code, ten digits, and whether it was changed since."""
    return (environment["git_commit"] or "unknown")[:10] + (" (changed)" if environment["git_dirty"] else "")


def slug(environment: dict[str, Any]) -> str:
    """The device's name as it stands in the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", environment["device_name"].lower()).strip("-")


def found(results: dict[str, Any], wanted: Sequence[Any]) -> list[tuple[Any, dict[str, Any]]]:
    """The cases that were run, in order, with their rows."""
    rows = {row["name"]: row for row in results["rows"]}
    return [(case, rows[case.name]) for case in wanted if case.name in rows]


def ms(samples: Sequence[float] | None) -> str:
    """The median."""
    return "-" if not samples else f"{statistics.median(samples):.4g}"


def interval(values: Sequence[float]) -> str:
    """The median and, where there are enough values, its 95 % interval."""
    if not values:
        return "-"
    bounds = median_interval(values)
    shown = f"{statistics.median(values):.3f}"
    return shown if bounds is None else f"{shown} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def judged(values: Sequence[float], limit: float | None, better: str) -> str:
    """The limit where there is one, and whether the median keeps it."""
    if limit is None:
        return "-"
    if not values:
        return f"{limit:.2f}"
    middle = statistics.median(values)
    kept = middle <= limit if better == "lower" else middle >= limit
    return f"{limit:.2f} {'met' if kept else '**missed**'}"


def github(table: tuple[list[str], list[list[str]]]) -> str:
    """Headers and rows as Markdown."""
    headers, rows = table
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
