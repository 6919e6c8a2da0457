"""What does a step with drafts cost against a plain one, by width and batch? `python -m benchmarks.draft_costs`.

LLaMA-3-8B's shape with dummy weights. A plain step, a step that verifies w tokens, and whole steps (draft and
verification) of each kind take turns in bursts; ratios are over bursts of one round. Dummy weights say what a step
costs, not what is accepted: the page says how many tokens a step must write to be as fast as plain decoding.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import step_costs
from benchmarks.engine import page_cells as cells
from benchmarks.step_costs import Timed
from llmbench.checkpoints.load import Checkpoint, load_beside, load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive
from llmbench.config.job import HardwareConfig
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.drafts import DraftModel
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.errors import HardwareError
from llmbench.measure import device
from llmbench.measure.probes import set_libraries_aside
from llmbench.models.fused import FusedEngine

PROMPT, CANVAS, STEPS = 128, 256, 24
WIDTHS = (2, 4, 8, 16)
BATCHES = (1, 8, 32)
ROUNDS = 9
WIDTH = 8
"""Of the whole steps: seven drafted tokens."""


class Bench:
    """The model under test and those that draft for it, on one device."""

    def __init__(self, hardware: HardwareConfig, *, smoke: bool) -> None:
        self._hardware, self._probe = hardware, device.probe(hardware)
        self.prompt, self.canvas = (8, 32) if smoke else (PROMPT, CANVAS)
        self._steps = 4 if smoke else STEPS
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
        prompts = step_costs.prompts(batch, self.prompt, self._model.architecture.vocab, self.engine.device)
        steps = {"plain": self._plain(prompts)}
        steps |= {f"verify {width}": self._verify(batch, width) for width in widths}
        steps |= {f"{draft} {WIDTH}": self._whole(prompts, draft, 1) for draft in ("lookup", "model", "llada")}
        steps[f"llada {WIDTH}, 2 forwards"] = self._whole(prompts, "llada", 2)
        samples = step_costs.in_turns(steps, rounds, self._probe)
        del steps
        for engine in (self.engine, *(model.engine for model in self._drafting.values())):
            engine.close()
        self._probe.clean()
        return samples

    def _settings(self, **changes: Any) -> Autoregressive:
        return Autoregressive(max_new_tokens=self.canvas, temperature=0.0, **changes)

    def _plain(self, prompts: PromptBatch) -> Timed:
        """Tokens from the middle of the canvas on."""
        loop = AutoregressiveDecoder(self._settings(), stop_ids=(), pad_id=0).prepare(self.engine, prompts)

        return self._from_the_middle(loop, prompts)

    def _from_the_middle(self, loop: Any, prompts: PromptBatch) -> Timed:
        def begin() -> None:
            loop.start(prompts, 0)
            loop.first()
            for _ in range((self.canvas - self._steps) // 2):
                loop.next()

        return Timed(begin=begin, step=loop.next, count=self._steps)

    def _verify(self, batch: int, width: int) -> Timed:
        """Read `width` tokens per row in the middle of the canvas, and choose a token behind each."""
        length, middle = self.prompt + self.canvas + max(WIDTHS), self.prompt + self.canvas // 2
        step = step_costs.forward(self.engine, batch, middle, width, length=length, causal=True, heads=width)
        return Timed(step=step, count=self._steps)

    def _whole(self, prompts: PromptBatch, draft: str, draft_steps: int) -> Timed:
        """Draft and verify; one token is written per step, so that positions are those of the plain steps."""
        settings = self._settings(
            draft=draft, draft_checkpoint="dummy", draft_tokens=WIDTH - 1, draft_steps=draft_steps,
            fixed_accepted_tokens=0,
        )  # fmt: skip
        decoder = SpeculativeDecoder(settings, stop_ids=(), pad_id=0, model=self._drafting.get(draft))
        return self._from_the_middle(decoder.prepare(self.engine, prompts), prompts)


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    trial = "**A trial of the code with small shapes: none of these numbers means anything.**\n\n"
    body = [row for batch, samples in results["rows"].items() for row in _cells(batch, samples)]
    headers = ["B", "step", "ms", "/ plain [95 %]", "tokens a step needs for 1x", "for 1.5x"]
    return f"""# What drafts cost on one {results["environment"]["device_name"]}

{trial if results["smoke"] else ""}Dummy weights: this page says what a step costs, not how many drafted tokens a
real model accepts. The model under test has LLaMA-3-8B's shape; `model` drafts with LLaMA-3.2-1B's, `llada` with
LLaDA-8B's. {results["dtype"]}, greedy, prompt {results["prompt"]}, the middle of {results["canvas"]} new tokens.

`verify w` reads w tokens per row in one forward and chooses a token behind each. The whole steps draft {WIDTH - 1}
tokens and verify {WIDTH}. Ratios are over bursts of one round, in turns with plain steps. The last columns are the
ratio, and 1.5 times it: the tokens that a step must write on average, the model's own one included, to be as fast as
plain decoding and 1.5 times as fast.

{cells.github((headers, body))}

{step_costs.provenance(results)}
"""


def _cells(batch: str, samples: dict[str, list[float]]) -> list[list[str]]:
    made = []
    for name, own in samples.items():
        ratios = [a / b for a, b in zip(own, samples["plain"], strict=True)]
        ratio = statistics.median(ratios)
        most = int(name.split()[1].rstrip(",")) if name != "plain" else 1
        needs = [f"{times * ratio:.2f}" if times * ratio <= most else f"more than {most}" for times in (1, 1.5)]
        made.append([
            batch, name, f"{statistics.median(own):.3f}",
            *(["1", "-", "-"] if name == "plain" else [cells.interval(ratios), *needs]),
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
    results = step_costs.described(
        "python -m benchmarks.draft_costs" + (" --smoke" if given.smoke else ""),
        hardware, smoke=given.smoke, prompt=bench.prompt, canvas=bench.canvas,
    )  # fmt: skip
    stem = f"{cells.slug(results['environment'])}-drafts"
    for batch in (1, 2) if given.smoke else BATCHES:
        print(f"batch {batch}", flush=True)
        results["rows"][str(batch)] = bench.row(batch, (2, 8) if given.smoke else WIDTHS, 2 if given.smoke else ROUNDS)
        step_costs.write(given.out, stem, results, markdown(results))
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
