"""What a page says of the rows in blocks. Pure."""

from typing import Any

from benchmarks.engine import cases
from benchmarks.engine import page_cells as cells


def alone(results: dict[str, Any]) -> bool:
    """Whether nothing else was measured."""
    return bool(results["rows"]) and len(cells.found(results, cases.BLOCK_CASES)) == len(results["rows"])


def paragraph(results: dict[str, Any]) -> str:
    """What the rows in blocks are, where there are any."""
    if not cells.found(results, cases.BLOCK_CASES):
        return ""
    shape = (
        "" if alone(results) else "Nemotron: the shape of Nemotron-Labs-Diffusion-8B; its bars were set for an H200. "
    )
    return f"""
{shape}A block step reads {results["settings"]["block"]} tokens, which see each other and the cache, with the head at
the masked ones; a commit reads a finished block causally and writes it into the cache.
"""
