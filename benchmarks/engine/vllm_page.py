"""What the page says about LLaMA beside vLLM. Pure; nothing where these rows are absent."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.engine import cases, numbers
from benchmarks.engine import page_cells as cells
from benchmarks.engine.cases import OURS, OURS_ONE, VLLM, VLLM_ONE


def alone(results: dict[str, Any]) -> bool:
    """Whether nothing else was measured."""
    return bool(results["rows"]) and len(cells.found(results, cases.VLLM_CASES)) == len(results["rows"])


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row for every batch size."""
    rows = []
    for case, row in cells.found(results, cases.VLLM_CASES):
        ratio = numbers.values(case, row, results["settings"])
        later = [cells.ms(samples) for samples in _later(row, results)]
        rows.append(
            [
                str(case.batch),
                cells.ms(row["samples"].get(VLLM)),
                cells.ms(row["samples"].get(OURS)),
                "failed" if row["failed"] else cells.interval(ratio),
                cells.judged(ratio, case.bar, "higher"),
                *later,
            ]
        )
    headers = ["batch", "vLLM, ms", "**llmbench**, ms", "vLLM / llmbench [95 %]", "bar", "vLLM, ms per later token"]
    return [*headers, "llmbench, ms per later token"], rows


def section(results: dict[str, Any]) -> str:
    """How it was measured, the table, and what it says."""
    found = cells.found(results, cases.VLLM_CASES)
    about: dict[str, str] = next((row["engine"] for _, row in found if row.get("engine")), {})
    measured = [(case, row) for case, row in found if row["samples"]]
    if not measured:
        return ""
    settings, engine = results["settings"], _named(about)
    pairs = min(len(numbers.values(case, row, settings)) for case, row in measured)
    return f"""## LLaMA beside vLLM

{engine}, offline: `LLM.generate` in a process of its own, no server. The shape of LLaMA-3-8B with dummy weights,
{settings["dtype"]}, greedy, prompts of {settings["prompt"]} tokens, exactly {settings["canvas"]} new tokens; both
engines get the same prompts. {_configured(about)}
Dummy weights are each engine's own (vLLM's lie within 0.001, ours are normal(0, 0.02)), so the tokens differ.

A time is that of a whole generation by the host clock, on both sides, from lists of token ids to lists of token ids.
Both models stay on the same card. Their generations take turns, vLLM first; nothing runs beside the one that is timed.
The ratio is taken per pair of generations ({pairs} pairs behind {settings["warm_up_pairs"]} that do not count); in
brackets the 95 % interval of its median. Above 1 llmbench is faster; a bar is met when the ratio is no smaller. "Per
later token" is the difference to a generation of one token, taken in the same turns, over {settings["canvas"] - 1}.

{cells.github(table(results))}

{_verdict(measured, results, engine)}

"""


def _verdict(measured: Sequence[Any], results: dict[str, Any], engine: str) -> str:
    """A sentence for the batch sizes that meet their bar, and one for each that does not."""
    settings = results["settings"]
    under = f"offline with dummy weights, prompts of {settings['prompt']} tokens and {settings['canvas']} new ones"
    middles = {
        case: statistics.median(values) for case, row in measured if (values := numbers.values(case, row, settings))
    }
    met = {case.batch: middle for case, middle in middles.items() if middle >= case.bar}
    said = []
    if met:
        least, most = min(met.values()), max(met.values())
        times = f"{least:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"
        sizes = ", ".join(map(str, met))
        said.append(f"llmbench is {times} times as fast as {engine} ({under}) at batch {sizes}.")
    for case, row in measured:
        if case in middles and case.batch not in met:
            said.append(
                f"At batch {case.batch} llmbench is {middles[case]:.2f} times as fast as {engine} ({under}), "
                f"below the bar of {case.bar:.2f}{_parts(row, results)}. The reason is not known."
            )
    return "\n".join(f"- {sentence}" for sentence in said)


def _parts(row: dict[str, Any], results: dict[str, Any]) -> str:
    """One token alone and every later one, vLLM's and ours."""
    ones = [row["samples"].get(name, []) for name in (VLLM_ONE, OURS_ONE)]
    if not all(ones):
        return ""
    theirs, ours = (cells.ms(samples) for samples in ones)
    later_theirs, later_ours = (cells.ms(samples) for samples in _later(row, results))
    return (
        f": one token alone takes vLLM {theirs} ms and llmbench {ours}, every later one {later_theirs} and {later_ours}"
    )


def _later(row: dict[str, Any], results: dict[str, Any]) -> list[list[float]]:
    """Milliseconds of each later token, vLLM's and ours."""
    samples, tokens = row["samples"], results["settings"]["canvas"]
    return [
        numbers.later_tokens(samples.get(whole, []), samples.get(one, []), tokens)
        for whole, one in ((VLLM, VLLM_ONE), (OURS, OURS_ONE))
    ]


def _named(about: dict[str, str]) -> str:
    version, torch = about.get("version"), about.get("torch")
    return f"vLLM {version or 'of unknown version'}" + (f" on torch {torch}" if torch else "")


def _configured(about: dict[str, str]) -> str:
    """The settings that vLLM's configuration tells; chosen were only no prefix caching and no tokenizer."""
    told = ", ".join(f"{name} {value}" for name, value in about.items() if name not in ("version", "torch"))
    return "vLLM's defaults, but no prefix caching and no tokenizer" + (f"; configured: {told}." if told else ".")
