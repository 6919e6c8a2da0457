"""What do the three modes of one set of weights cost? `python -m benchmarks.mode_costs`.

One model with dummy weights that is decoded token after token, as block diffusion and as its own drafter: a step of
each kind at the same place behind the same context, in turns (`step_costs`). `mode_page` derives from it how many
tokens per forward each mode must write to be as fast as the autoregressive one.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import mode_figure, mode_page, step_costs
from benchmarks.engine import page_cells as cells
from benchmarks.engine.turns import reason
from benchmarks.step_costs import Timed
from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.load import load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.config.job import HardwareConfig
from llmbench.decoding.autoregressive import AutoregressiveDecoder
from llmbench.decoding.base import PromptBatch
from llmbench.decoding.blocks import BlockDecoder
from llmbench.decoding.drafts import DraftModel
from llmbench.decoding.speculation import SpeculativeDecoder
from llmbench.errors import CheckpointError, HardwareError, LlmbenchError
from llmbench.measure import device
from llmbench.measure.probes import set_libraries_aside
from llmbench.models.fused import FusedEngine
from llmbench.system import shell

CHECKPOINT = "shape:nemotron-labs-diffusion-8b"
BATCHES = (1, 8, 32, 64, 128)
PROMPT, ROUNDS = 512, 7
MANY_ROWS = 32
"""From so many rows on a step in blocks takes long enough that a burst has half as many."""


class Bench:
    """One model, with an engine for each family of decoders."""

    def __init__(self, files: CheckpointFiles, hardware: HardwareConfig, prompt: int) -> None:
        self._prompt, self._probe = prompt, device.probe(hardware)
        checkpoint = load_checkpoint(files, hardware, "dummy")
        self._mode, self._vocabulary = files.mode("diffusion"), checkpoint.architecture.vocab
        assert self._mode.block_length is not None
        assert files.mask_id is not None
        self.block, self._mask_id = self._mode.block_length, files.mask_id
        self.drafts = mode_page.drafts(self.block)
        self._causal = FusedEngine(checkpoint.model, files.mode("autoregressive"))
        self._blocks = FusedEngine(checkpoint.model, self._mode)

    @torch.inference_mode()
    def row(self, batch: int, rounds: int) -> dict[str, list[float]]:
        """Milliseconds per step of every burst, by what was run (`mode_page` names it)."""
        prompts = step_costs.prompts(batch, self._prompt, self._vocabulary, self._causal.device)
        count = 4 if batch >= MANY_ROWS else 8
        try:
            steps = self._tokens(prompts) | self._denoising(prompts, count) | self._others(batch, count)
            for drafted in self.drafts:
                steps[mode_page.verify(drafted)] = Timed(step=self._verify(batch, drafted + 1), count=count, settle=1)
                steps[mode_page.cycle(drafted)] = self._cycle(prompts, count, drafted)
            return step_costs.in_turns(steps, rounds, self._probe)
        finally:
            steps = {}
            self._causal.close()
            self._blocks.close()
            self._probe.clean()

    def _tokens(self, prompts: PromptBatch) -> dict[str, Timed]:
        """The prompt, and behind it tokens one by one; in the middle they see what the last of a first block sees."""
        settle = self.block // 2
        settings = Autoregressive(max_new_tokens=1 + settle + self.block, temperature=0.0)
        loop = AutoregressiveDecoder(settings, stop_ids=(), pad_id=0).prepare(self._causal, prompts)
        return {
            mode_page.PREFILL: Timed(begin=lambda: loop.start(prompts, 0), step=loop.first, count=1),
            mode_page.STEP: Timed(step=loop.next, count=self.block, settle=settle),  # directly behind the prompt
        }

    def _denoising(self, prompts: PromptBatch, count: int) -> dict[str, Timed]:
        """Steps of the first block; which rule makes tokens final costs nothing, but one may ask what is left."""
        settings = Diffusion(
            steps=self.block, canvas=self.block, block_length=self.block, threshold=0.9, temperature=0.0
        )
        decoder = BlockDecoder(settings, self._mode, stop_ids=(), mask_id=self._mask_id, pad_id=0)
        loop = decoder.prepare(self._blocks, prompts)
        loop.start(prompts, 0)
        loop.read()
        text = loop.text.clone()

        def begin() -> None:
            loop.text.copy_(text)
            loop.begin_part(0, 0)

        def ask() -> None:
            loop.step(self.block // 2)
            loop.masked()

        half = self.block // 2
        return {
            mode_page.FULL: Timed(begin=begin, step=lambda: loop.step(self.block), count=count, settle=1),
            mode_page.HALF: Timed(begin=begin, step=lambda: loop.step(half), count=count, settle=1),
            mode_page.ASKING: Timed(begin=begin, step=ask, count=count, settle=1),
        }

    def _others(self, batch: int, count: int) -> dict[str, Timed]:
        """Forwards over one block of tokens behind the prompt, by the engine whose mode they belong to."""
        causal = self._mode.causal_prompt
        kinds = {
            mode_page.COMMIT: (self._blocks, causal, self._mode.given),
            mode_page.WRITE: (self._blocks, causal, 0),
            mode_page.DRAFT: (self._blocks, False, self.block - 1),
        }
        if not self._mode.given:
            del kinds[mode_page.WRITE]  # it is the commit
        return {
            name: Timed(
                step=step_costs.forward(
                    engine, batch, self._prompt, self.block, length=self._prompt + self.block, causal=order, heads=heads
                ),
                count=count,
                settle=1,
            )
            for name, (engine, order, heads) in kinds.items()
        }

    def _verify(self, batch: int, width: int) -> step_costs.Forward:
        return step_costs.forward(
            self._causal, batch, self._prompt, width, length=self._prompt + width, causal=True, heads=width
        )

    def _cycle(self, prompts: PromptBatch, count: int, drafted: int) -> Timed:
        """Draft and verify; one token is written per cycle, so that its place is that of the other steps."""
        settings = Autoregressive(
            draft="self", draft_tokens=drafted, fixed_accepted_tokens=0, max_new_tokens=2 + count,
            temperature=0.0,
        )  # fmt: skip
        model = DraftModel(
            engine=self._blocks,
            vocabulary=self._vocabulary,
            verified_vocabulary=self._vocabulary,
            mask_id=self._mask_id,
            logit_shift=self._mode.logit_shift,
        )
        loop = SpeculativeDecoder(settings, stop_ids=(), pad_id=0, model=model).prepare(self._causal, prompts)

        def begin() -> None:
            loop.start(prompts, 0)
            loop.first()

        return Timed(begin=begin, step=loop.next, count=count, settle=1)


def require_modes(files: CheckpointFiles) -> None:
    """Refuse a checkpoint that has not all three modes.

    Raises:
        CheckpointError: one line.
    """
    mode = files.modes.get("diffusion")
    if "autoregressive" not in files.modes or mode is None or mode.attention != "causal_context":
        raise CheckpointError(
            f"checkpoint {files.name}: needs an autoregressive mode, and a diffusion mode in blocks behind a causal "
            f"context; use --checkpoint {CHECKPOINT}"
        )
    if mode.block_length is not None and not 2 <= mode.block_length <= 32:
        raise CheckpointError(f"checkpoint {files.name}: drafts are 1 to 31 tokens, its block {mode.block_length}")


def main(arguments: list[str]) -> int:
    """Run, and write page and JSON; the exit code is 4 when a batch failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mode_costs", description=__doc__)
    parser.add_argument("--checkpoint", default=CHECKPOINT, help=f"source of its configuration ({CHECKPOINT})")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the code (cuda)")
    parser.add_argument("--batches", type=_counts, default=BATCHES, metavar="N,...", help="1,8,32,64,128")
    parser.add_argument("--prompt", type=_count, default=PROMPT, help=f"tokens before the steps ({PROMPT})")
    parser.add_argument("--rounds", type=_count, default=ROUNDS, help=f"samples; 6 or more for intervals ({ROUNDS})")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page (docs/results)")
    parser.add_argument("--page", type=Path, metavar="JSON", help="make the page beside an earlier run's JSON again")
    given = parser.parse_args(arguments)
    if given.page is not None:
        try:
            _write(given.page.parent, given.page.stem, json.loads(given.page.read_text()))
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"--page {given.page}: {reason(error)}; give the JSON of a run of this version")
        return 0
    if given.device == "cpu" and given.out == Path("docs/results"):
        parser.error("--device cpu measures nothing that docs/ may show; add --out FOLDER")
    set_libraries_aside()
    hardware = device.resolve(HardwareConfig(device=given.device, dtype="auto"))
    files = resolve_checkpoint(given.checkpoint, "dummy")
    require_modes(files)
    if (longest := given.prompt + 2 * files.modes["diffusion"].block_length) > files.context:  # type: ignore[operator]
        parser.error(f"--prompt {given.prompt}: {longest} tokens are read, and {files.name} reads {files.context}")
    bench = Bench(files, hardware, given.prompt)
    results = step_costs.described(
        _command(given), hardware, checkpoint=files.name, prompt=given.prompt, block=bench.block, failed={}
    )
    stem = f"tri-mode-{cells.slug(results['environment'])}"
    for batch in given.batches:
        print(f"batch {batch}", flush=True)
        try:
            results["rows"][str(batch)] = bench.row(batch, given.rounds)
        except Exception as error:  # memory, most of all; the other batches have their rows
            results["failed"][str(batch)] = reason(error)
        _write(given.out, stem, results)
    print(mode_page.markdown(results))
    return 4 if results["failed"] else 0


def _write(folder: Path, stem: str, results: dict[str, Any]) -> None:
    """JSON, page and, from the first batch on, the figure."""
    figure = f"{stem}.png" if results["rows"] else ""
    step_costs.write(folder, stem, results, mode_page.markdown(results, figure))
    if figure:
        (folder / figure).write_bytes(mode_figure.picture(results))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _command(given: argparse.Namespace) -> str:
    """What measures this again; a folder of one's own is named by its last part alone."""
    options: dict[str, Any] = {
        "--device": given.device,
        "--batches": ",".join(map(str, given.batches)),
        "--prompt": given.prompt,
        "--rounds": given.rounds,
    }
    if given.checkpoint != CHECKPOINT:
        options["--checkpoint"] = given.checkpoint if ":" in given.checkpoint else Path(given.checkpoint).name
    words = [text for name, value in options.items() for text in (name, str(value))]
    return shell.joined(["python", "-m", "benchmarks.mode_costs", *words])


def run_or_explain(arguments: list[str]) -> int:
    """`main`; what cannot run is said in one line."""
    try:
        return main(arguments)
    except HardwareError as error:
        print(f"benchmarks.mode_costs: {error}; --device cpu tries the code with a small checkpoint", file=sys.stderr)
    except LlmbenchError as error:
        print(f"benchmarks.mode_costs: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run_or_explain(sys.argv[1:]))
