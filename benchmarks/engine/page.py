"""From the JSON of a run to its page. Pure: every number on the page is in the JSON, what is absent there is "-" here.

A bar or goal is met when the median over pairs of samples meets it (`numbers`).
"""

import io
import statistics
from typing import Any

from tabulate import tabulate

from benchmarks.engine import block_page, cases, numbers, vllm_page
from benchmarks.engine import page_cells as cells
from benchmarks.engine.cases import EAGER, FLOOR, FLOOR_TURNS, OFFICIAL, OURS, OURS_TURNS, SAME_LOOP, STATIC


def tables(results: dict[str, Any]) -> str:
    """All tables for a terminal."""
    return "\n\n".join(
        tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
        for headers, rows in (_steps(results), _wholes(results), vllm_page.table(results))
        if rows
    )


def markdown(results: dict[str, Any], picture_name: str) -> str:
    """The page; of a run beside vLLM alone, or of block diffusion alone, one about that alone."""
    name = results["environment"]["device_name"]
    head = f"{cells.TRIAL if results['smoke'] else ''}{cells.provenance(results)}\n"
    if vllm_page.alone(results):
        text = f"# LLaMA beside vLLM on one {name}\n\n{head}\n{vllm_page.section(results)}{_failed(results)}"
        return f"{text.rstrip()}\n"
    if block_page.alone(results):
        text = f"{head}{_models(results)}{_per_step(results, picture_name)}\n{_missed(results)}{_failed(results)}"
        return f"# Block diffusion at the limit of one {name}\n\n{text.rstrip()}\n"
    return f"""# 8B models at the limit of one {name}

{head}{_models(results)}{_per_step(results, picture_name)}
## Whole generations, nothing excluded

{cells.github(_wholes(results))}

{_missed(results)}{vllm_page.section(results)}{_failed(results)}## Not measured here

LLaDA's own code: "official loop" is its published loop and modules written anew here, operation by operation, so that
the host launches what it launches for theirs. Fast-dLLM's own code (its caches at batch 1), {_engines(results)}.
{_static(results)}
"""


def _models(results: dict[str, Any]) -> str:
    """Which models, with which weights, and how they were decoded."""
    settings = results["settings"]
    named = "shape of Nemotron-Labs-Diffusion-8B" if block_page.alone(results) else "shapes of LLaMA-3-8B and LLaDA-8B"
    return f"""
Dummy weights, normal(0, 0.02), of the exact {named}, {settings["dtype"]}, greedy; prompt
{settings["prompt"]}, {settings["canvas"]} new tokens, block {settings["block"]}, k = {settings["steps"]}. Medians.
{block_page.paragraph(results)}"""


def _per_step(results: dict[str, Any], picture_name: str) -> str:
    """Picture and table of the steps."""
    bars = "an H200" if block_page.alone(results) else "an H100 80GB"
    return f"""
![Milliseconds per step]({picture_name})

## Per step

The floor is every matrix product of the model at that shape through cuBLAS, in one CUDA graph and nothing else. A ratio
is taken per pair of samples; in brackets the 95 % interval of its median over the pairs. It meets a bar or a goal when
it is no larger; both were set for {bars}. Our last block computes its queries only where logits are asked for;
the floor multiplies everywhere. MHz: the SM clock at the end of the bursts of floor and decoder, while they still ran.

{_turns(results)}

{cells.github(_steps(results))}
"""


def _engines(results: dict[str, Any]) -> str:
    """The engines that stand nowhere on this page."""
    return "SGLang" if vllm_page.section(results) else "vLLM and SGLang"


def has_picture(results: dict[str, Any]) -> bool:
    """Whether steps were measured, which are what the picture shows."""
    return bool(cells.found(results, cases.STEP_CASES))


def _turns(results: dict[str, Any]) -> str:
    """How floor and decoder were interleaved; format 1 took turns of many steps."""
    if results["format"] == 1:
        return "Floor and decoder took turns of 7 to 15 steps, the floor always first."
    settle, timed = results["settings"]["settle_ms"] / 1000, results["settings"].get("timed_ms", 500) / 1000
    return f"""Floor and decoder run in bursts, in turn; the first {settle:.1f} s of each are not timed, the next
{timed:.1f} s are. A GPU at its power limit lowers its clocks some time *after* the power was drawn, so in turns of one
step one kind of work pays for what the other drew: the column "by turns" shows floor, decoder and ratio so measured
(medians). Where it differs while the sum of floor and decoder does not, the difference is how the limit was shared."""


def _static(results: dict[str, Any]) -> str:
    """The paragraph about the compiled baseline."""
    if any(STATIC in row["samples"] for row in results["rows"]):
        return "Transformers' static cache was compiled for B=1 alone: it takes most of a minute per shape."
    return "Transformers' static cache with compile was left out of this run."


def picture(results: dict[str, Any]) -> bytes:
    """Milliseconds per step, as PNG: the floor, this project, others. Points, because a logarithm has no zero."""
    from matplotlib.figure import Figure

    rows = [row for row in cells.found(results, cases.STEP_CASES) if row[1]["samples"]]
    figure = Figure(figsize=(9, 1.2 + 0.45 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    looks = {
        FLOOR: ("|", "0.35"),
        OURS: ("o", "#1f77b4"),
        OFFICIAL: ("s", "#d62728"),
        EAGER: ("^", "#ff7f0e"),
        STATIC: ("v", "#9467bd"),
    }
    for name, (marker, colour) in looks.items():
        points = [
            (statistics.median(row["samples"][name]), i) for i, (_, row) in enumerate(rows) if name in row["samples"]
        ]
        if points:
            values, heights = zip(*points, strict=True)
            axes.plot(values, heights, marker, color=colour, label=name, markersize=14 if marker == "|" else 7)
            for value, height in points if name != FLOOR else []:
                axes.annotate(
                    f"{value:.3g}", (value, height), (0, 8), textcoords="offset points", ha="center", fontsize=7
                )
    axes.set_yticks(range(len(rows)), [case.title for case, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.grid(axis="y", color="0.9")
    if rows:
        axes.set_xscale("log")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=5, frameon=False)
    axes.set_xlabel("milliseconds per step (logarithmic)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _missed_whole(case: cases.WholeCase, row: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What is behind a whole generation of LLaDA that is not as much faster than the official loop as it should be."""
    ours, official = row["samples"].get(OURS, []), row["samples"].get(OFFICIAL, [])
    if not ours or not official or statistics.median(official) / statistics.median(ours) >= case.goal:
        return []
    same = row["samples"].get(SAME_LOOP, [])
    beside = f"; through Transformers' modules the same loop took {min(same):.4g} to {max(same):.4g} ms" if same else ""
    least, most = _floor_of_generation(case, results), ""
    if least:
        most = (
            f" The matrix products of its forwards alone, at their floor, take {least:.4g} ms: "
            f"{statistics.median(official) / least:.2f} times is the most that could be had beside this loop."
        )
    return [
        f"**{case.title}**: ours is its steps, whose kernels are above; it took {min(ours):.4g} to {max(ours):.4g} ms. "
        "The official loop launches every kernel from the host and asks for a count per row and step, so its time is "
        f"the host's; it took {min(official):.4g} to {max(official):.4g} ms{beside}.{most}"
        f"{_beside_the_bars_host(results)}\n\n"
    ]


def _beside_the_bars_host(results: dict[str, Any]) -> str:
    """How fast this host is beside the one on which the bars were set; both loops are bound by it."""
    samples = {case.name: row["samples"] for case, row in cells.found(results, cases.STEP_CASES)}
    official, eager = samples.get("full-1", {}).get(OFFICIAL), samples.get("ar-1", {}).get(EAGER)
    if not official or not eager:
        return ""
    return (
        f" The bar is from another host, where {cases.BAR_HOST}; here they take {statistics.median(official):.3g} and "
        f"{statistics.median(eager):.3g} ms."
    )


def _floor_of_generation(case: cases.WholeCase, results: dict[str, Any]) -> float | None:
    """Milliseconds of every matrix product of a generation, from the floors of its steps; None where one is missing."""
    floors = {found.name: row["samples"].get(FLOOR) for found, row in cells.found(results, cases.STEP_CASES)}
    full, dual = floors.get(f"full-{case.batch}"), floors.get(f"dual-{case.batch}")
    settings = results["settings"]
    refreshes = settings["steps"] if case.cache == "none" else settings["canvas"] // settings["block"]
    inner = settings["steps"] - refreshes
    if not full or (inner and not dual):
        return None
    least = refreshes * statistics.median(full)
    return float(least + inner * statistics.median(dual)) if inner and dual else float(least)


def _failed(results: dict[str, Any]) -> str:
    """Why cases have no numbers."""
    reasons = []
    for case, row in cells.found(results, cases.ALL):
        reasons += [f"- {case.title}: {row['failed']}"] if row["failed"] else []
        reasons += [f"- {case.title}, {part}: {why}" for part, why in row.get("missing", {}).items()]
    return "## Failed\n\n" + "\n".join(reasons) + "\n\n" if reasons else ""


# ----------------------------------------------------------------------------------------------------------------
# Tables


def _steps(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    headers = ["per step, ms", FLOOR, "**llmbench**", "ratio [95 %]", "bar", "goal", "by turns", "MHz", "others"]
    rows = []
    for case, row in cells.found(results, cases.STEP_CASES):
        if row["failed"]:
            limits = (cells.judged([], limit, "lower") for limit in (case.bar, case.goal))
            rows.append([case.title, "-", "-", "failed", *limits, "-", "-", "-"])
            continue
        ours = row["samples"].get(OURS, [])
        ratio = numbers.values(case, row, results["settings"])
        rows.append(
            [
                case.title,
                cells.ms(row["samples"].get(FLOOR)),
                cells.ms(row["samples"].get(OURS)),
                cells.interval(ratio),
                cells.judged(ratio, case.bar, "lower"),
                cells.judged(ratio, case.goal, "lower"),
                _by_turns(row),
                _clocks(row),
                ", ".join(_times_ours(row, ours)) or "-",
            ]
        )
    return headers, rows


def _by_turns(row: dict[str, Any]) -> str:
    """Floor, decoder and ratio in turns of one step."""
    floor, ours = (row["samples"].get(name, []) for name in (FLOOR_TURNS, OURS_TURNS))
    if not floor:
        return "-"
    return f"{cells.ms(floor)}, {cells.ms(ours)}: {statistics.median(numbers.ratios(ours, floor)):.3f}"


def _clocks(row: dict[str, Any]) -> str:
    """SM clock at the end of the bursts of the floor, and of ours."""
    clocks = [row.get("sm_clock_mhz", {}).get(name) for name in (FLOOR, OURS)]
    return ", ".join(f"{statistics.median(mhz):.0f}" for mhz in clocks if mhz) or "-"


def _times_ours(row: dict[str, Any], ours: list[float]) -> list[str]:
    """The loops of others, and how many times as long as ours they take."""
    own = (FLOOR, OURS, FLOOR_TURNS, OURS_TURNS)
    return [
        f"{name} {cells.ms(samples)} ({statistics.median(samples) / statistics.median(ours):.1f}x)"
        for name, samples in row["samples"].items()
        if name not in own and ours
    ]


def _wholes(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    headers = ["whole", "**llmbench**", "against", "value [95 %]", "bar", "goal"]
    rows = []
    for case, row in cells.found(results, cases.WHOLE_CASES):
        if row["failed"]:
            rows.append([case.title, "-", "-", "failed", f"{case.bar:.2f}", f"{case.goal:.2f}"])
            continue
        ours = row["samples"].get(OURS, [])
        against = numbers.against(row, results["settings"])
        values = numbers.values(case, row, results["settings"])
        rows.append(
            [
                case.title,
                f"{cells.ms(ours)} ms",
                f"{cells.ms(against)} ms",
                cells.interval(values),
                cells.judged(values, case.bar, case.better),
                cells.judged(values, case.goal, case.better),
            ]
        )
    return headers, rows + _others(results)


def _others(results: dict[str, Any]) -> list[list[str]]:
    """Memory and set-up, from the step rows."""
    rows = []
    found = {case.name: row for case, row in cells.found(results, cases.STEP_CASES)}
    over = found.get("full-32", {}).get("over_model_bytes")
    if over is not None:
        gib = over / 2**30
        rows.append(
            ["reserved over the model, LLaDA B=32", f"{gib:.2f} GiB", "-", "-",
             cells.judged([gib], cases.MEMORY_BAR, "lower"), cells.judged([gib], cases.MEMORY_GOAL, "lower")]
        )  # fmt: skip
    setups = {name: row["setup_s"] for name, row in found.items() if row["setup_s"] is not None}
    if setups:
        worst = max(setups, key=lambda name: setups[name])
        rows.append(
            [f"engine set-up per shape, the slowest ({worst})", f"{setups[worst]:.1f} s", "-", "-",
             *(cells.judged([setups[worst]], limit, "lower") for limit in (cases.SETUP_BAR, cases.SETUP_GOAL))]
        )  # fmt: skip
    return rows


def _missed(results: dict[str, Any]) -> str:
    """Where a goal is missed: the kernels of one step."""
    parts: list[str] = []
    for case, row in cells.found(results, cases.STEP_CASES):
        ratio = numbers.values(case, row, results["settings"])
        middle = statistics.median(ratio) if ratio else 0.0
        missed = {name: limit for name, limit in (("bar", case.bar), ("goal", case.goal)) if limit and middle > limit}
        if not missed or not row["profile"]:
            continue
        by = " and ".join(f"its {name} by {100 * (middle / limit - 1):.1f} %" for name, limit in missed.items())
        kernels = [
            [f"`{k['kernel'][:70]}`", str(k["count"]), f"{k['us'] / k['count']:.1f}", f"{100 * k['share']:.1f} %"]
            for k in row["profile"]
        ]
        table = cells.github((["kernel", "launches", "us each", "share"], kernels))
        parts.append(f"**{case.title}** misses {by}. Kernels of one step:\n\n{table}\n\n")
    for case, row in cells.found(results, cases.WHOLE_CASES):
        parts += _missed_whole(case, row, results)
    return "## What holds back where a goal is missed\n\n" + "".join(parts) if parts else ""
