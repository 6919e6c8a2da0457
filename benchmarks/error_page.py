"""The page of simulated error rates, made from docs/simulation.json: tables, bars met or missed, a figure."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""Of a case and a number of prompts, or of a race: counts under their names."""

LIMIT = 0.05
"""What an error may be."""

BAR = 0.06
"""What is asked of the error at the boundary, plus two standard errors, in `BAR_WORLDS`."""

BAR_WORLDS = ("clean", "clusters of 4, icc 0.3")
MUST_FAIL = ("looping", "unrelated to the prompt")
COVERAGE, WIDTH = 0.93, 2.0
"""What is asked of the speedup's interval when the level shifts between jobs."""


def share(row: Row, key: str) -> float:
    """A rate."""
    return float(row.get(key, 0)) / float(row["studies"])


def two_errors(row: Row, key: str) -> float:
    """Two Monte-Carlo standard errors of a rate."""
    rate = share(row, key)
    return 2 * math.sqrt(rate * (1 - rate) / row["studies"])


def cell(row: Row, key: str, most: float | None = None, least: float | None = None) -> str:
    """A rate in % with two standard errors; bold where it lies outside a limit by more than that."""
    rate, slack = share(row, key), two_errors(row, key)
    text = f"{100 * rate:.1f} ({100 * slack:.1f})"
    outside = (most is not None and rate > most + slack) or (least is not None and rate < least - slack)
    return f"**{text}**" if outside else text


def write(data: dict[str, Any], out: Path) -> None:
    """Write simulation.md and simulation.png into a folder."""
    (out / "simulation.md").write_text(markdown(data))
    figure(data).savefig(out / "simulation.png", dpi=120)


def markdown(data: dict[str, Any]) -> str:
    """The whole page."""
    made, quality, margin = data["made"], data["quality"], data["margin"]
    versions = ", ".join(f"{name} {value}" for name, value in made["versions"].items())
    boundary = [row for row in quality if row["deltas"] == [-margin]]
    lines = [
        "# Error rates of the verdict in simulated worlds",
        "",
        f"Made by `{made['command']}` at commit {made['commit'] or 'unknown'} in {made['minutes']:g} minutes by "
        f"{made['processes']} process{'es' if made['processes'] > 1 else ''} on {made['cpus']} CPUs "
        f"({made['machine']}; {versions}). `--page` draws it again from [simulation.json](simulation.json).",
        "",
        "Every study is a list of Records with known truth (`benchmarks/worlds.py`, `benchmarks/timed_worlds.py`) and "
        "is judged by the verdict that users get. A cell is a share of studies in %, in brackets two Monte-Carlo "
        "standard errors; **bold**: outside its limit by more than that. "
        f"Margin {margin:g} nats per token, metric perplexity. "
        "Places are LLaMA's temperature at equal entropy; its knots are at 0, 0.2, 0.4, 0.6, 0.7, 0.8 and 1.",
        "",
        "![Error at the boundary, power and the speedup's coverage](simulation.png)",
        "",
        "## What is asked, and what came out",
        *bars(data),
        "",
        *above(data),
        "",
        f"## Falsely `reached`: true Δ = -{margin:g} at the largest k (limit 5 %)",
        *table(boundary, lambda row: cell(row, "reached", most=LIMIT)),
        "",
        f"Three k, the two smaller ones at Δ = -{margin:g} and the largest at 0; shown: one of the smaller is claimed.",
        "",
        *table([row for row in quality if len(row["deltas"]) > 1], lambda row: cell(row, "false", most=LIMIT)),
        "",
        f"## Falsely `not_reached`: true Δ = -{margin:g} (limit 5 %)",
        *table(boundary, lambda row: cell(row, "not_reached", most=LIMIT)),
        "",
        f"## Coverage of the 95 % interval of Δ, at Δ = -{margin:g} (bold: below 95 %)",
        "With the allowance for the curve's bend between its knots; off the curve Δ is against its nearest end.",
        "",
        *table(boundary, lambda row: cell(row, "covered", least=0.95)),
        "",
        "## Power: `reached` at true Δ = 0",
        *table([row for row in quality if row["deltas"] == [0.0]], lambda row: cell(row, "reached")),
        "",
        "## Power: `not_reached` at true Δ = -0.3",
        *table([row for row in quality if row["deltas"] == [-0.3]], lambda row: cell(row, "not_reached")),
        "",
        "## Texts that must never pass: `reached` at true Δ = +0.2",
        "Looping: 30 % of the tokens stand in repeated 4-grams. Unrelated: relevance to the prompt is -0.03.",
        "",
        *table([r for r in quality if r["world"] in MUST_FAIL], lambda row: cell(row, "reached", most=0.0)),
        "",
        *speed_section(data["speed"]),
        "",
    ]
    return "\n".join(lines)


def table(rows: Sequence[Row], shown: Callable[[Row], str]) -> list[str]:
    """A row for each world and place, a column for each number of prompts."""
    sizes = sorted({row["prompts"] for row in rows})
    lines = [f"| world | place | {' | '.join(f'n = {n}' for n in sizes)} |", "|---|---|" + "---:|" * len(sizes)]
    for world, place in dict.fromkeys((row["world"], row["place"]) for row in rows):
        known = {row["prompts"]: shown(row) for row in rows if (row["world"], row["place"]) == (world, place)}
        lines.append(f"| {world} | {place} | {' | '.join(known.get(n, '') for n in sizes)} |")
    return lines if sizes else ["Not run."]


def speed_section(rows: Sequence[Row]) -> list[str]:
    """The table of races."""
    lines = [
        "## Speed",
        "The baseline is timed before and after the candidates. One batch, 6 repeats and a noise of 2 % from repeat to "
        "repeat where nothing else is said; the candidate is exactly as fast as the baseline (truth 1) or slower "
        "(0.98), and passes in quality. Width: median of log(high / low) in %; oracle: the same repeats on a machine "
        "that does not change. Limits: `viable` 5 %, coverage 93 % (at every k together, where there are several).",
        "",
        "| machine | falsely `viable` | coverage | width | oracle's | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        width, oracle = row["width"], row["oracle_width"]
        values = (
            cell(row, "viable", most=LIMIT),
            cell(row, "covered", least=COVERAGE),
            f"{100 * width:.1f}",
            f"{100 * oracle:.1f}",
            f"{width / oracle:.2f}",
        )
        lines.append(f"| {row['world']} | {' | '.join(values)} |")
    return lines


def bars(data: dict[str, Any]) -> list[str]:
    """Each thing that was asked for beforehand, with the worst that was found and whether it holds."""
    margin = data["margin"]
    asked = [
        row
        for row in data["quality"]
        if row["world"] in BAR_WORLDS and row["deltas"] == [-margin] and "curve" not in row["place"]
    ]
    lines = ["| asked | worst | |", "|---|---|---|"]
    if asked:
        worst = max(asked, key=lambda row: share(row, "reached") - two_errors(row, "reached"))
        held = share(worst, "reached") <= BAR + two_errors(worst, "reached")
        lines.append(
            "| falsely `reached` at most 6 % plus two standard errors, on the default grid and between its knots, "
            "n = 100 to 1,000, also with clusters of 4 at icc 0.3 "
            f"| {cell(worst, 'reached')}: {_where(worst)} | {_met(held)} |"
        )
    for level, said in (("one shift", "one at a random moment"), ("own level", "every job at its own level")):
        rows = [row for row in data["speed"] if row["level"] == level]
        if not rows:
            continue
        what = f"level shifts of 5 % between jobs, {said}"
        viable = max(rows, key=lambda row: share(row, "viable"))
        held = share(viable, "viable") <= LIMIT + two_errors(viable, "viable")
        lines.append(
            f"| {what}: falsely `viable` at most 5 % | {cell(viable, 'viable')}: {viable['world']} | {_met(held)} |"
        )
        covered = min(rows, key=lambda row: share(row, "covered"))
        held = share(covered, "covered") >= COVERAGE - two_errors(covered, "covered")
        lines.append(
            f"| {what}: coverage at least 93 % | {cell(covered, 'covered')}: {covered['world']} | {_met(held)} |"
        )
        wide = max(rows, key=lambda row: row["width"] / row["oracle_width"])
        ratio = wide["width"] / wide["oracle_width"]
        found = f"{ratio:.2f}: {wide['world']} | {_met(ratio <= WIDTH)}"
        lines.append(f"| {what}: median width at most twice the oracle's | {found} |")
    return lines


def above(data: dict[str, Any]) -> list[str]:
    """Every error above 5 %, by name."""
    margin, found = data["margin"], []
    for row in data["quality"]:
        keys = {1: ("reached", "not_reached")}.get(len(row["deltas"]), ("false",))
        if len(row["deltas"]) > 1 or row["deltas"] == [-margin]:
            found += [(f"`{key}`, {_where(row)}", row, key) for key in keys if share(row, key) > LIMIT]
        elif row["world"] in MUST_FAIL and row.get("reached"):
            found.append((f"`reached`, {_where(row)}", row, "reached"))
    found += [(f"`viable`, {row['world']}", row, "viable") for row in data["speed"] if share(row, "viable") > LIMIT]
    clear = [
        item
        for item in found
        if item[1]["world"] in MUST_FAIL or share(item[1], item[2]) > LIMIT + two_errors(item[1], item[2])
    ]
    rest = [item for item in found if item not in clear]
    return [
        f"Errors above 5 % by more than two standard errors: {_listed(clear)}.",
        "",
        f"Above 5 %, by less than that: {_listed(rest)}.",
    ]


def _listed(found: Iterable[tuple[str, Row, str]]) -> str:
    return "; ".join(f"{name}: {cell(row, key)}" for name, row, key in found) or "none"


def _where(row: Row) -> str:
    return f"{row['world']}, {row['place']}, n = {row['prompts']}"


def _met(held: bool) -> str:
    return "met" if held else "**missed**"


def figure(data: dict[str, Any]) -> Any:
    """Error at the boundary and power over n, and the speedup's coverage by machine."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(13, 4.2), layout="constrained")
    left, centre, right = drawn.subplots(1, 3)
    margin = data["margin"]
    _lines(left, data["quality"], [-margin], "reached", "on 0.6")
    left.axhline(5, color="black", linewidth=0.8, linestyle="--")
    left.set_title("falsely reached at the boundary, on a knot (%)", fontsize=10)
    left.set_ylim(bottom=0)
    _lines(centre, data["quality"], [0.0], "reached", "on 0.6")
    centre.set_title("power: reached at Δ = 0, on a knot (%)", fontsize=10)
    centre.set_ylim(0, 100)
    if centre.lines:
        centre.legend(fontsize=7, frameon=False)
    rows = [row for row in data["speed"] if row["truths"] == [1.0]]
    places = range(len(rows))
    right.barh(places, [100 * share(row, "covered") for row in rows], color="#9db8d9")
    right.barh(places, [100 * share(row, "viable") for row in rows], color="#d1622b", height=0.4)
    right.set_yticks(places, [row["world"].removesuffix(", truth 1") for row in rows], fontsize=7)
    right.invert_yaxis()
    for limit in (5, 93):
        right.axvline(limit, color="black", linewidth=0.8, linestyle="--")
    right.set_title("speedup: coverage (blue), falsely viable (red) (%)", fontsize=10)
    for axes in (left, centre, right):
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _lines(axes: Any, rows: Sequence[Row], deltas: list[float], key: str, place: str) -> None:
    wanted = [
        row for row in rows if row["deltas"] == deltas and row["place"] == place and row["world"] not in MUST_FAIL
    ]
    sizes = sorted({row["prompts"] for row in wanted})
    for number, world in enumerate(dict.fromkeys(row["world"] for row in wanted)):
        own = [row for row in wanted if row["world"] == world]
        heights, errors = [100 * share(row, key) for row in own], [100 * two_errors(row, key) for row in own]
        at = [row["prompts"] * (1 + 0.015 * number) for row in own]
        axes.errorbar(at, heights, yerr=errors, marker=".", linewidth=1, color=f"C{number}", label=world)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel("prompts")
