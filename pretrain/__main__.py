"""The door: ``python -m pretrain all``, or one stage at a time.

    python -m pretrain tokenizer              train the tokenizer
    python -m pretrain encode                 turn the corpus into ids, once
    python -m pretrain train llada            train one model (on one GPU, or slowly on a CPU)
    python -m pretrain train trimode --resume --seconds 3600    go on with a run that was stopped, for an hour
    python -m pretrain export                 turn runs into checkpoints and model cards
    python -m pretrain measure trimode        score a checkpoint of several modes and put the numbers into its card
    python -m pretrain all                    all of it, one model after the other

What lies between the stages is kept in ``--work``. A smoke test of the whole way, a few minutes on a laptop:

    python -m pretrain all --steps 3 --batch-tokens 960 --evaluation-rows 4 --evaluation-batches 1 --final-batches 1
        --windows 2 --prompts 1
        --work build/smoke --target build/smoke/bundled
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain import tokenizer
from pretrain.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    import torch

BUNDLED = Path(__file__).parents[1] / "llmbench" / "bundled"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pretrain", description="Make the bundled checkpoints.")
    parser.add_argument("stage", choices=("all", "tokenizer", "encode", "train", "export", "measure"))
    parser.add_argument("names", nargs="*", metavar="name", help=f"models, default all: {', '.join(RECIPES)}")
    parser.add_argument(
        "--work", type=Path, default=Path("build/pretrain"), help="between the stages (default %(default)s)"
    )
    parser.add_argument("--target", type=Path, default=BUNDLED, help="where checkpoints go (default %(default)s)")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--seconds", type=float, help="wall-clock budget of each model; the learning rate follows it")
    parser.add_argument("--steps", type=int, help="at most this many per model; default: the recipe's")
    parser.add_argument("--batch-tokens", type=int, help="default: the recipe's")
    parser.add_argument("--evaluation-rows", type=int, default=256, help="windows of a batch (default %(default)s)")
    parser.add_argument("--evaluation-batches", type=int, help="at most this many; default: the whole held-out text")
    parser.add_argument("--final-batches", type=int, help="the same for the scores at the end")
    parser.add_argument("--draws", type=int, default=4, help="of masks for each window (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, help="at the peak; default: the recipe's")
    parser.add_argument("--alpha", type=float, help="weight of trimode's diffusion loss; default: the recipe's")
    parser.add_argument("--windows", type=int, default=512, help="of each split to measure (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=32, help="continued with drafts (default %(default)s)")
    parser.add_argument("--reserve-seconds", type=float, default=12.0, help="of --seconds, for the scores at the end")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on CUDA alone")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(RECIPES))
    if unknown:
        parser.error(f"unknown model {', '.join(unknown)}; there are: {', '.join(RECIPES)}")
    options.names = options.names or list(RECIPES)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the stages that were asked for."""
    options = parse(arguments)
    if options.stage in ("all", "tokenizer"):
        from pretrain.data import documents

        tokenizer.train(documents("train"), options.work / "tokenizer")
    if options.stage in ("all", "encode"):
        streams(options)
    for name in options.names:
        if options.stage in ("all", "train"):
            train(name, options)
        if options.stage in ("all", "export"):
            export(name, options)
        if options.stage in ("all", "measure") and RECIPES[name].start is not None:
            measure(name, options)


def streams(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The encoded splits, by name."""
    from pretrain.data import SPLITS, load_stream

    trained = tokenizer.load(options.work / "tokenizer")
    return {split: load_stream(split, trained, options.work / "ids") for split in SPLITS}


def train(name: str, options: argparse.Namespace) -> None:
    """Train one model into ``<work>/runs/<name>``. Its budget in seconds starts here and covers the imports."""
    started = time.monotonic()
    import torch

    from pretrain.options import Options
    from pretrain.train import Training

    recipe = changed(RECIPES[name], options)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    how = Options(
        device=device,
        seconds=options.seconds,
        steps=options.steps,
        batch_tokens=options.batch_tokens or recipe.batch_tokens,
        evaluation_rows=options.evaluation_rows,
        evaluation_batches=options.evaluation_batches,
        final_batches=options.final_batches,
        draws=options.draws,
        reserve_seconds=options.reserve_seconds,
        compile=options.compile,
    )
    lengths = tokenizer.byte_lengths(tokenizer.load(options.work / "tokenizer"))
    start = options.target / recipe.start if recipe.start else None
    training = Training(recipe, how, streams(options), lengths, options.work / "runs" / name, started, start)
    if options.resume:
        training.resume()
    training.run()


def export(name: str, options: argparse.Namespace) -> None:
    """Turn ``<work>/runs/<name>`` into a checkpoint."""
    from pretrain.export import export as export_run

    folder = options.work / "runs" / name
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    print(export_run(run, folder, options.work / "tokenizer", options.target / name))


def changed(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says otherwise."""
    if options.learning_rate is not None:
        recipe = replace(recipe, learning_rate=options.learning_rate)
    if options.alpha is not None and recipe.kind == "trimode":
        recipe = replace(recipe, alpha=options.alpha)
    return recipe


def measure(name: str, options: argparse.Namespace) -> None:
    """Score ``<target>/<name>``, and put the numbers into its run and its card."""
    import torch

    from pretrain.card import card
    from pretrain.measure import Sizes
    from pretrain.measure import measure as measure_modes

    folder, target = options.work / "runs" / name, options.target / name
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))

    def keep(found: dict[str, object]) -> None:
        run["measured"] = found
        (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        (target / "README.md").write_text(card(run), encoding="utf-8")

    held_out = {split: ids for split, ids in streams(options).items() if split != "train"}
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sizes = Sizes(windows=options.windows, prompts=options.prompts, draws=2 * options.draws)
    start = options.target / run["recipe"]["start"]
    found = measure_modes(target, start, held_out, device, sizes, keep)
    for row in (*found["likelihoods"], *found["drafts"]):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
