"""What does a step with drafts cost against a plain one, by width and batch? `python -m benchmarks.draft_costs`.

LLaMA-3-8B's shape with dummy weights. A plain step, a step that verifies w tokens, and whole steps (draft and
verification) of each kind take turns in bursts; ratios are over bursts of one round. Dummy weights say what a step
costs, not what is accepted: the page says how many tokens a step must write to be as fast as plain decoding.
"""

import argparse
import dataclasses
import datetime
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from llmbench.checkpoints.load import Checkpoint, load_beside, load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive
from llmbench.config.job import HardwareConfig
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import Draws, PromptBatch
from llmbench.decoding.drafts import DraftModel
from llmbench.decoding.greedy import greedy
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.errors import HardwareError
from llmbench.measure import device
from llmbench.measure.probes import set_libraries_aside
from llmbench.measure.timing import time_region
from llmbench.metrics.performance import median_interval
from llmbench.models.fused import FusedEngine

PROMPT, CANVAS, STEPS = 128, 256, 24
WIDTHS = (2, 4, 8, 16)
BATCHES = (1, 8, 32)
ROUNDS = 9
WIDTH = 8
"""Of the whole steps: seven drafted tokens."""

Step = tuple[Callable[[], None], Callable[[], None]]
"""What prepares a burst, untimed, and one step."""


class Bench:
    """The model under test and those that draft for it, on one device."""

    def __init__(self, hardware: HardwareConfig, *, smoke: bool) -> None:
        self._hardware, self._probe = hardware, device.probe(hardware)
        self.prompt, self.canvas = (8, 32) if smoke else (PROMPT, CANVAS)
        self._steps = 4 if smoke else STEPS
        self._kept: list[Any] = []  # what captured steps work on
        names = ["bundled:llama", "bundled:llama", "bundled:llada"] if smoke else []
        names = names or ["shape:llama-3-8b", "shape:llama-3.2-1b", "shape:llada-8b"]
        files = [resolve_checkpoint(name, "dummy") for name in names]
        self._model = load_checkpoint(files[0], hardware, "dummy")
        self.engine = FusedEngine(self._model.model)
        self._drafting = {
            "model": self._drafts(load_beside(files[1], hardware, "dummy")),
            "llada": self._drafts(load_beside(files[2], hardware, "dummy")),
        }

    def _drafts(self, checkpoint: Checkpoint) -> DraftModel:
        return DraftModel(
            engine=FusedEngine(checkpoint.model),
            vocabulary=checkpoint.architecture.vocab,
            verified_vocabulary=self._model.architecture.vocab,
            mask_id=checkpoint.mask_id,
        )

    @torch.inference_mode()
    def row(self, batch: int, widths: Sequence[int], rounds: int) -> dict[str, list[float]]:
        """Milliseconds per step of every burst, by what was run."""
        prompts = self._prompts(batch)
        steps: dict[str, Step] = {"plain": self._plain(prompts)}
        steps |= {f"verify {width}": self._verify(batch, width) for width in widths}
        steps |= {f"{draft} {WIDTH}": self._whole(prompts, draft, 1) for draft in ("lookup", "model", "llada")}
        steps[f"llada {WIDTH}, 2 forwards"] = self._whole(prompts, "llada", 2)
        samples: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + 1):
            for name, (begin, step) in steps.items():
                begin()
                spent = time_region(self._probe.clock(), lambda _, step=step: self._burst(step))[0].e2e_ms  # type: ignore[misc]
                if number:  # the first round warms up
                    samples[name].append(spent / self._steps)
        self._kept.clear()
        for engine in (self.engine, *(model.engine for model in self._drafting.values())):
            engine.close()
        self._probe.clean()
        return samples

    def _burst(self, step: Callable[[], None]) -> None:
        for _ in range(self._steps):
            step()

    def _prompts(self, rows: int) -> PromptBatch:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, min(8000, self._model.architecture.vocab), (rows, self.prompt), generator=generator)
        return PromptBatch(ids=ids.to(self.engine.device), mask=None)

    def _settings(self, **changes: Any) -> Autoregressive:
        return Autoregressive(max_new_tokens=self.canvas, temperature=0.0, **changes)

    def _plain(self, prompts: PromptBatch) -> Step:
        """Tokens from the middle of the canvas on."""
        loop = AutoregressiveDecoder(self._settings(), stop_ids=(), pad_id=0).prepare(self.engine, prompts)

        return self._from_the_middle(loop, prompts)

    def _from_the_middle(self, loop: Any, prompts: PromptBatch) -> Step:
        def begin() -> None:
            loop.start(prompts, 0)
            loop.first()
            for _ in range((self.canvas - self._steps) // 2):
                loop.next()

        return begin, loop.next

    def _verify(self, rows: int, width: int) -> Step:
        """Read `width` tokens per row in the middle of the canvas, and choose a token behind each."""
        engine = self.engine
        cache = engine.new_cache(rows, self.prompt + self.canvas + max(WIDTHS))
        tokens = torch.full((rows, width), 5, device=engine.device)
        start = torch.full((rows,), self.prompt + self.canvas // 2, device=engine.device)
        chosen = torch.zeros(rows * width, dtype=torch.int64, device=engine.device)

        def step() -> None:
            logits = engine.head(engine.extend(tokens, start, cache, causal=True))
            chosen.copy_(greedy(logits.view(rows * width, -1))[0])

        replay = engine.capture(step, _nothing, Draws(engine.device))

        self._kept.append((tokens, start, chosen, cache))
        return _nothing, replay

    def _whole(self, prompts: PromptBatch, draft: str, draft_steps: int) -> Step:
        """Draft and verify; one token is written per step, so that positions are those of the plain steps."""
        settings = self._settings(
            draft=draft, draft_checkpoint="dummy", draft_tokens=WIDTH - 1, draft_steps=draft_steps,
            fixed_accepted_tokens=0,
        )  # fmt: skip
        decoder = SpeculativeDecoder(settings, stop_ids=(), pad_id=0, model=self._drafting.get(draft))
        return self._from_the_middle(decoder.prepare(self.engine, prompts), prompts)


def _nothing() -> None: ...


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    environment = results["environment"]
    versions = ", ".join(f"{name} {environment['versions'].get(name, '-')}" for name in ("torch", "transformers"))
    commit = (environment["git_commit"] or "unknown")[:10] + (" (changed)" if environment["git_dirty"] else "")
    trial = "**A trial of the code with small shapes: none of these numbers means anything.**\n\n"
    body = [cells for batch, samples in results["rows"].items() for cells in _cells(batch, samples)]
    headers = ["B", "step", "ms", "/ plain [95 %]", "tokens a step needs for 1x", "for 1.5x"]
    table = tabulate(body, headers=headers, tablefmt="github", disable_numparse=True)
    return f"""# What drafts cost on one {environment["device_name"]}

{trial if results["smoke"] else ""}Dummy weights: this page says what a step costs, not how many drafted tokens a
real model accepts. The model under test has LLaMA-3-8B's shape; `model` drafts with LLaMA-3.2-1B's, `llada` with
LLaDA-8B's. {results["dtype"]}, greedy, prompt {results["prompt"]}, the middle of {results["canvas"]} new tokens.

`verify w` reads w tokens per row in one forward and chooses a token behind each. The whole steps draft {WIDTH - 1}
tokens and verify {WIDTH}. Ratios are over bursts of one round, in turns with plain steps. The last columns are the
ratio, and 1.5 times it: the tokens that a step must write on average, the model's own one included, to be as fast as
plain decoding and 1.5 times as fast.

{table}

Measured by `{results["command"]}`, {results["date"][:10]}, commit {commit}:
{environment["device_name"]}, driver {environment["driver"] or "-"}, Python {environment["python"]}, {versions}.
"""


def _cells(batch: str, samples: dict[str, list[float]]) -> list[list[str]]:
    made = []
    for name, own in samples.items():
        ratios = [a / b for a, b in zip(own, samples["plain"], strict=True)]
        ratio, interval = statistics.median(ratios), median_interval(ratios)
        within = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        most = int(name.split()[1].rstrip(",")) if name != "plain" else 1
        needs = [f"{times * ratio:.2f}" if times * ratio <= most else f"more than {most}" for times in (1, 1.5)]
        made.append([
            batch, name, f"{statistics.median(own):.3f}",
            *(["1", "-", "-"] if name == "plain" else [f"{ratio:.3f}{within}", *needs]),
        ])  # fmt: skip
    return made


def main(arguments: list[str]) -> int:
    """Run, and write page and JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draft_costs", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page (docs/results)")
    parser.add_argument("--smoke", action="store_true", help="small shapes, also without a GPU: tries the code alone")
    given = parser.parse_args(arguments)
    if given.smoke and given.out == Path("docs/results"):
        parser.error("--smoke measures nothing that docs/ may show; add --out FOLDER")
    set_libraries_aside()
    hardware = device.resolve(HardwareConfig(device="auto" if given.smoke else "cuda", dtype="auto"))
    bench = Bench(hardware, smoke=given.smoke)
    environment = device.environment(hardware)
    results: dict[str, Any] = {
        "command": "python -m benchmarks.draft_costs" + (" --smoke" if given.smoke else ""),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "smoke": given.smoke, "dtype": hardware.dtype, "prompt": bench.prompt, "canvas": bench.canvas,
        "environment": dataclasses.asdict(environment), "rows": {},
    }  # fmt: skip
    name = "-".join(environment.device_name.lower().split())
    given.out.mkdir(parents=True, exist_ok=True)
    for batch in (1, 2) if given.smoke else BATCHES:
        print(f"batch {batch}", flush=True)
        results["rows"][str(batch)] = bench.row(batch, (2, 8) if given.smoke else WIDTHS, 2 if given.smoke else ROUNDS)
        (given.out / f"{name}-drafts.json").write_text(json.dumps(results, indent=1) + "\n")
        (given.out / f"{name}-drafts.md").write_text(markdown(results))
    print(markdown(results))
    return 0


def run_or_explain(arguments: list[str]) -> int:
    """`main`; without a GPU one line says what runs."""
    try:
        return main(arguments)
    except HardwareError as error:
        print(f"benchmarks.draft_costs: {error}; without a GPU only --smoke --out FOLDER runs", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run_or_explain(sys.argv[1:]))
