"""Is a checkpoint loaded as fast as its files can be read? 16 GB of dummy weights, written, read and loaded in turn.

"Reading" is what the disk and the page cache give to a plain program: the same files, by one thread and by as many as
the loader uses, into memory that is thrown away. It is done in turn with loading: with the files in the page cache, and
after they were dropped from it. The most memory that the process holds while it loads is printed too: on a GPU that
is the libraries, the driver's share and a few pieces of the files.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llmbench.config.job import HardwareConfig
from llmbench.measure.probes import CpuProbe
from llmbench.models import llama, streaming, weights

ROUNDS = {"in the page cache": 3, "dropped from the page cache": 1}
"""Turns in each state; a disk may take half a minute for one."""

_PIECE = 2**24


def measure(config: Any, hardware: HardwareConfig, parent: Path | None = None) -> Iterator[str]:
    """Write a checkpoint of this configuration, and say how fast it was read and loaded, a line as soon as it is known.

    Args:
        config: Transformers' configuration.
        hardware: resolved.
        parent: where the temporary folder is made; needs room for the weights.
    """
    import torch

    dtype: torch.dtype = getattr(torch, hardware.dtype)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        llama.dummy(config, dtype, hardware.device).save_pretrained(folder, max_shard_size="5GB")
        _free(hardware.device)
        files = weights.find(folder, "dummy")
        found = weights.locate(files, llama.shapes(config), "dummy")
        size = sum(path.stat().st_size for path in files)
        host = CpuProbe()
        for state, rounds in ROUNDS.items():
            seconds: dict[str, list[float]] = {}
            resident: list[int | None] = []
            for _ in range(rounds):
                for kind, act in (
                    ("one thread", lambda: _read(files, 1)),
                    ("threads", lambda: _read(files, streaming.THREADS)),
                    ("load", lambda: _load(config, found, dtype, hardware.device)),
                ):
                    _drop(files) if "dropped" in state else _read(files, streaming.THREADS)
                    host.clean()
                    seconds.setdefault(kind, []).append(_seconds(act))
                    if kind == "load":
                        resident.append(host.peak_rss_bytes())
                    _free(hardware.device)
            yield _line(state, size, seconds, max((peak for peak in resident if peak is not None), default=None))


def _line(state: str, size: int, seconds: dict[str, list[float]], resident: int | None) -> str:
    one, many, load = (statistics.median(seconds[kind]) for kind in ("one thread", "threads", "load"))
    speeds = f"read {size / one / 1e9:.2f} GB/s by one thread, {size / many / 1e9:.2f} by {streaming.THREADS}"
    held = "" if resident is None else f"; at most {resident / 2**30:.2f} GiB resident"
    shares = (
        f"{100 * one / load:.0f} % of one thread's reading, {100 * many / load:.0f} % of {streaming.THREADS} threads'"
    )
    loaded = f"loaded {size / load / 1e9:.2f} GB/s, {shares}{held}"
    return f"{size / 1e9:.1f} GB {state}: {speeds}; {loaded}"


def _load(config: Any, found: Any, dtype: Any, device: str) -> None:
    import torch

    llama.load(config, found, dtype, device)
    if device == "cuda":
        torch.cuda.synchronize()


def _read(files: list[Path], threads: int) -> None:
    """Read every byte once, into a buffer per thread."""
    pieces = [(path, begin) for path in files for begin in range(0, path.stat().st_size, _PIECE)]
    share = -(-len(pieces) // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_read_pieces, [pieces[i : i + share] for i in range(0, len(pieces), share)]))


def _read_pieces(pieces: list[tuple[Path, int]]) -> None:
    buffer = memoryview(bytearray(_PIECE))
    for path, begin in pieces:
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            file.readinto(buffer)


def _drop(files: list[Path]) -> None:
    """Ask the system to forget what it keeps of the files; it may keep some all the same."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _free(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _seconds(act: Callable[[], None]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
