"""What do steps cost beside each other? In turns, so that a drift of the device hits all alike.

Each kind of step runs a burst, one kind after the other, round after round; the first round warms up. A sample is the
mean over a burst, a ratio is taken over two bursts of one round.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import page_cells as cells
from llmbench.config.job import HardwareConfig
from llmbench.decoding.base import Draws, PromptBatch
from llmbench.decoding.greedy import greedy
from llmbench.measure import device
from llmbench.measure.probes import Probe
from llmbench.measure.timing import time_region
from llmbench.models.fused import FusedEngine


def nothing() -> None:
    """No preparation."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A kind of step, and its bursts."""

    step: Callable[[], object]
    count: int  # steps of a burst
    begin: Callable[[], object] = nothing  # before each burst, untimed
    settle: int = 0  # steps behind that, untimed


def in_turns(steps: Mapping[str, Timed], rounds: int, probe: Probe) -> dict[str, list[float]]:
    """Milliseconds per step of every burst, by the name of the kind; one sample of each per round."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, timed in steps.items():
            timed.begin()
            _times(timed.settle, timed.step)
            spent = time_region(probe.clock(), lambda _, timed=timed: _times(timed.count, timed.step))[0].e2e_ms  # type: ignore[misc]
            if number:
                samples[name].append(spent / timed.count)
    return samples


def _times(count: int, call: Callable[[], object]) -> None:
    for _ in range(count):
        call()


@dataclass(frozen=True, kw_only=True, eq=False)
class Forward:
    """A captured forward, with the memory that it works on."""

    replay: Callable[[], None]
    memory: tuple[Any, ...]

    def __call__(self) -> None:
        """Run it; returns before it has ended."""
        self.replay()


def forward(
    engine: FusedEngine, rows: int, start: int, width: int, *, length: int, causal: bool, heads: int
) -> Forward:
    """A forward over `width` tokens per row behind `start` others; the most probable token at the last `heads` of them.

    Args:
        engine: that runs it.
        rows: B.
        start: tokens before them, of every row.
        width: tokens of every row that are read.
        length: positions of the cache.
        causal: each token sees what is before it; else all of them.
        heads: 0: no hidden states either, keys and values alone.
    """
    cache = engine.new_cache(rows, length)
    tokens = torch.full((rows, width), 5, device=engine.device)
    where = torch.full((rows,), start, device=engine.device)
    chosen = torch.zeros(rows * heads, dtype=torch.int64, device=engine.device)

    def step() -> None:
        hidden = engine.extend(tokens, where, cache, causal=causal, wanted=heads > 0)
        if heads:
            logits = engine.head(hidden[:, -heads:].reshape(rows * heads, -1))
            chosen.copy_(greedy(logits)[0])

    replay = engine.capture(step, nothing, Draws(engine.device))
    return Forward(replay=replay, memory=(cache, tokens, where, chosen))


def prompts(rows: int, length: int, vocabulary: int, where: torch.device) -> PromptBatch:
    """Random ids; the same for a shape."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, min(8000, vocabulary), (rows, length), generator=generator)
    return PromptBatch(ids=ids.to(where), mask=None)


# --------------------------------------------------------------------------------------------------------------------
# Pages


def described(command: str, hardware: HardwareConfig, **settings: Any) -> dict[str, Any]:
    """What a page says besides its samples: command, date, machine, settings; `rows` is still empty."""
    return {
        "command": command, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dtype": hardware.dtype, **settings, "environment": dataclasses.asdict(device.environment(hardware)),
        "rows": {},
    }  # fmt: skip


def provenance(results: Mapping[str, Any]) -> str:
    """Command, date, code, hardware and software, in two lines."""
    environment = results["environment"]
    versions = ", ".join(f"{name} {environment['versions'].get(name, '-')}" for name in ("torch", "transformers"))
    return (
        f"Measured by `{results['command']}`, {results['date'][:10]}, commit {cells.commit(environment)}:\n"
        f"{environment['device_name']}, driver {environment['driver'] or '-'}, Python {environment['python']}, "
        f"{versions}."
    )


def write(folder: Path, stem: str, results: Mapping[str, Any], page: str) -> None:
    """JSON and page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(page)
