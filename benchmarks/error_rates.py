"""Does the verdict keep its promises? Worlds whose truth is known, judged by the very functions that judge Records.

    python -m benchmarks.error_rates          writes docs/simulation.md and docs/simulation.png (minutes)

*Quality.* A prompt's judged tokens are L ~ uniform{16..64}, its NLL is L m exp(s e - s^2 / 2) + c, e standard normal,
shared in part by both sides: a ratio of sums with prompts of unequal weight, a cost that short texts feel more, and
right-skewed NLL. As e and L are independent, the true ratio is m + c / E[L] whatever s is; the candidate's m is the
baseline's plus a shift, so that Delta = -shift exactly. The candidate is more skewed than the baseline, which is the
dangerous side: a sample without its rare bad texts has too good a mean *and* too small a spread.

*Speed.* A batch's time is T x (batch effect, mean 1, shared in part by both sides) x (repeat, lognormal of median 1):
the speedup's truth is the ratio of the two T. With one batch the truth is that batch's own.

Every rate stands with its Monte-Carlo standard error, beside the limit it is held against.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmbench.analysis.parity.statistics import Array, difference, passed_from_the_top, ratio_interval, resampled_ratios

MARGIN = 0.1
SIZES = (32, 48, 100, 316, 1000)
LAWS = {"mild": 0.3, "skewed": 0.5, "heavy": 0.8}
"""s of the candidate. Skewness of a prompt's NLL per token: 0.95, 1.75, 3.7; of the bundled LLaDA: at most 0.71."""

COLLAPSES = (0.01, 0.05)
"""Shares of texts in `collapses`."""

SPEEDS = ((1, 6), (1, 12), (4, 6), (12, 6), (12, 20))
"""Batches and repeats."""

_CHUNK = 2_000_000
"""Prompts drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A frequency over simulated studies, and what it is held against."""

    what: str
    setting: str
    prompts: int | None
    value: float
    studies: int
    low: float | None  # limits
    high: float | None

    @property
    def error(self) -> float:
        """Monte-Carlo standard error."""
        return float(np.sqrt(self.value * (1 - self.value) / self.studies))

    @property
    def held(self) -> bool:
        """Inside the limits, within two standard errors."""
        slack = 2 * self.error
        return (self.low is None or self.value >= self.low - slack) and (
            self.high is None or self.value <= self.high + slack
        )


# ----------------------------------------------------------------------------------------------------------------
# Quality


def prompts(
    rng: np.random.Generator, studies: int, count: int, shifts: Sequence[float], spread: float
) -> tuple[Array, Array]:
    """Sums per prompt: baseline (studies, n, 2) and candidates (K, studies, n, 2), oriented up as (-NLL, tokens)."""
    shared = rng.standard_normal((studies, count))
    sides = [_side(rng, shared, 2.0, 0.2)]
    sides += [_side(rng, shared, 2.0 + shift, spread) for shift in shifts]
    return sides[0], np.stack(sides[1:])


def _side(rng: np.random.Generator, shared: Array, mean: float, spread: float) -> Array:
    own = rng.standard_normal(shared.shape)
    noise = np.sqrt(0.2) * shared + np.sqrt(0.8) * own
    length = rng.integers(16, 65, size=shared.shape).astype(np.float64)
    nll = length * mean * np.exp(spread * noise - spread**2 / 2) + 5.0
    return np.stack([-nll, length], axis=-1)


def _chunks(studies: int, count: int, sides: int) -> Iterator[int]:
    most = max(1, _CHUNK // (count * sides))
    for first in range(0, studies, most):
        yield min(most, studies - first)


def passed(baseline: Array, candidates: Array, alpha: float, margin: float = MARGIN) -> Any:
    """Whether each k of each study passes by the tested bound: shape (K, studies)."""
    found = difference(baseline, candidates)
    return (found.lower(alpha) >= -margin) & found.enough_below()


def plainly_passed(baseline: Array, candidates: Array, alpha: float) -> Any:
    """The same by the t bound alone."""
    from scipy.special import stdtrit

    found = difference(baseline, candidates)
    return found.delta - stdtrit(found.prompts - 1, 1 - alpha) * found.sd / np.sqrt(found.prompts) >= -MARGIN


def false_claims(rng: np.random.Generator, studies: int, count: int, law: str, drawn: int = 2000) -> list[Rate]:
    """Claims that are false: the smaller k lie on the boundary, the largest is as good as the baseline.

    `count` is the number of prompts of the first of three analyses; the later ones have twice and three times as many.
    `drawn` studies are also judged by the percentile bootstrap, for comparison.
    """
    found = {"bound": 0, "t": 0, "sequence": 0, "bootstrap": 0, "planned": 0, "unplanned": 0}
    for some in _chunks(studies, 3 * count, 4):
        grown, more = prompts(rng, some, 3 * count, (MARGIN, MARGIN, 0.0), LAWS[law])  # k rising: two bad, one good
        base, other = grown[:, :count], more[:, :, :count]
        passes = passed(base, other, 0.05)
        found["bound"] += int(passes[0].sum())
        found["t"] += int(plainly_passed(base, other[0], 0.05).sum())
        found["sequence"] += int((passed_from_the_top(passes.T) >= 2).sum())  # goes on into a k that is too bad
        for name, alpha in (("planned", 0.05 / 3), ("unplanned", 0.05)):
            taken = [passed(grown[:, :n], more[0][:, :n], alpha) for n in (count, 2 * count, 3 * count)]
            found[name] += int(np.any(taken, axis=0).sum())
    base, other = prompts(rng, drawn, count, (MARGIN,), LAWS[law])
    for study in range(drawn):
        ratios = resampled_ratios(np.stack([base[study], other[0, study]]), rng, 1000)
        found["bootstrap"] += bool(np.percentile(ratios[:, 1] - ratios[:, 0], 5) >= -MARGIN)

    def rate(what: str, name: str, total: int, limit: float | None) -> Rate:
        return Rate(
            what=what, setting=law, prompts=count, value=found[name] / total, studies=total, low=None, high=limit
        )

    return [
        rate("false claim at the boundary", "bound", studies, 0.05),
        rate("false claim, sequence over 3 k", "sequence", studies, 0.05),
        rate("false claim, 3 planned analyses at 5 % / 3", "planned", studies, 0.05),
        rate("false claim, 3 unplanned analyses at 5 %", "unplanned", studies, 0.15),
        rate("for comparison: t bound alone", "t", studies, None),
        *([rate("for comparison: percentile bootstrap", "bootstrap", drawn, None)] if drawn else []),
    ]


def collapses(rng: np.random.Generator, studies: int, count: int, share: float) -> list[Rate]:
    """False claims where a rare text collapses: 4 nats per token worse, in a share of the candidate's texts.

    This world was not used to choose the bound. A sample that holds no collapsed text cannot know of them.
    """
    found = plain = 0
    for some in _chunks(studies, count, 2):
        length = rng.integers(16, 65, size=(2, some, count)).astype(np.float64)
        rate = 2 + 0.3 * rng.standard_normal((2, some, count))
        rate[1] += MARGIN + 4.0 * ((rng.random((some, count)) < share) - share)
        base, other = np.stack([-rate * length, length], axis=-1)
        found += int(passed(base, other, 0.05).sum())
        plain += int(plainly_passed(base, other, 0.05).sum())
    setting = f"{100 * share:g} % collapse"
    return [
        Rate(
            what="false claim at the boundary", setting=setting, prompts=count, value=found / studies,
            studies=studies, low=None, high=0.05,
        ),
        Rate(
            what="for comparison: t bound alone", setting=setting, prompts=count, value=plain / studies,
            studies=studies, low=None, high=None,
        ),
    ]  # fmt: skip


def coverage(rng: np.random.Generator, studies: int, count: int, law: str) -> Rate:
    """How often the two-sided 95 % interval of Delta(k) holds the truth."""
    held = 0
    for some in _chunks(studies, count, 2):
        made = difference(*prompts(rng, some, count, (MARGIN,), LAWS[law]))
        held += int(((made.lower(0.025) <= -MARGIN) & (made.upper(0.025) >= -MARGIN)).sum())
    return Rate(
        what="coverage of Delta(k)", setting=law, prompts=count, value=held / studies, studies=studies,
        low=0.93, high=0.97,
    )  # fmt: skip


def power(rng: np.random.Generator, studies: int, count: int, law: str, shift: float) -> Rate:
    """How often a candidate whose true Delta is -shift passes."""
    found = 0
    for some in _chunks(studies, count, 2):
        found += int(passed(*prompts(rng, some, count, (shift,), LAWS[law]), 0.05).sum())
    what = f"power at Delta = {-shift or 0:g}"
    return Rate(what=what, setting=law, prompts=count, value=found / studies, studies=studies, low=None, high=None)


# ----------------------------------------------------------------------------------------------------------------
# Speed


def speed_coverage(rng: np.random.Generator, studies: int, batches: int, repeats: int, resamples: int = 1000) -> Rate:
    """How often the 95 % interval of the speedup holds the truth."""
    held = 0
    for _ in range(studies):
        shared = rng.standard_normal(batches)
        sides, effects = [], []
        for _side_number in range(2):
            effect = np.exp(0.1 * (shared + rng.standard_normal(batches)) - 0.01)  # mean 1
            effects.append(effect)
            repeat = np.exp(0.05 * rng.standard_normal((repeats, 1)))
            sides.append(effect * repeat * np.exp(0.02 * rng.standard_normal((repeats, batches))))
        truth = float(effects[0][0] / effects[1][0]) if batches == 1 else 1.0
        interval = ratio_interval(sides[:1], sides[1:], rng, resamples)
        held += interval.low <= truth <= interval.high
    setting = f"{batches} batch{'es' if batches > 1 else ''}, {repeats} repeats"
    return Rate(
        what="coverage of speedup(k)", setting=setting, prompts=None, value=held / studies, studies=studies,
        low=0.93, high=0.97,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------
# The large run


def run(studies: int, seed: int = 0) -> list[Rate]:
    """Every rate of the documentation."""
    rng = np.random.default_rng(seed)
    rates = []
    for law in LAWS:
        for count in SIZES:
            rates += false_claims(rng, studies, count, law)
            rates.append(coverage(rng, studies, count, law))
            rates += [power(rng, studies, count, law, shift) for shift in (0.0, MARGIN / 2)]
            print(f"{law}, {count} prompts", file=sys.stderr, flush=True)
    for share in COLLAPSES:
        for count in SIZES:
            rates += collapses(rng, studies, count, share)
    for batches, repeats in SPEEDS:
        rates.append(speed_coverage(rng, min(studies, 4000), batches, repeats))
    return rates


def markdown(rates: Sequence[Rate], command: str, sizes: Sequence[int] = SIZES) -> str:
    """The table: a row per promise and law, a column per number of prompts."""
    lines = ["# Does the verdict keep its promises?", "", f"Made by `{command}`; the worlds are described in "]
    lines[-1] += "`benchmarks/error_rates.py`."
    lines += [
        "Each cell is a share of simulated studies in %, in brackets two Monte-Carlo standard errors. **Bold**:",
        "outside the limits by more than that. Limits: false claims 5 % (15 % for three unplanned analyses), coverage",
        "93 to 97 %.",
        f"Margin {MARGIN:g}. Skewness of a prompt's NLL per token: mild 0.95, skewed 1.75, heavy 3.7 (LLaDA of the",
        "bundled pair: at most 0.71).",
        "",
        "![Error, coverage and power over the number of prompts](simulation.png)",
        "",
        f"| | law | {' | '.join(f'n = {n}' for n in sizes)} |",
        "|---|---|" + "---:|" * len(sizes),
    ]
    quality = [rate for rate in rates if rate.prompts is not None]
    for what, law in dict.fromkeys((rate.what, rate.setting) for rate in quality):
        cells = {rate.prompts: _cell(rate) for rate in quality if (rate.what, rate.setting) == (what, law)}
        lines.append(f"| {what} | {law} | {' | '.join(cells[n] for n in sizes)} |")
    lines += ["", "| | setting | share |", "|---|---|---:|"]
    lines += [f"| {rate.what} | {rate.setting} | {_cell(rate)} |" for rate in rates if rate.prompts is None]
    missed = [rate for rate in rates if not rate.held]
    said = "; ".join(f"{rate.what}, {_where(rate)}: {_cell(rate)}" for rate in missed)
    lines += ["", f"Outside the limits: {said or 'none'}.", ""]
    return "\n".join(lines)


def _where(rate: Rate) -> str:
    return rate.setting if rate.prompts is None else f"{rate.setting}, n = {rate.prompts}"


def _cell(rate: Rate) -> str:
    text = f"{100 * rate.value:.1f} ({200 * rate.error:.1f})"
    return text if rate.held else f"**{text}**"


def figure(rates: Sequence[Rate]) -> Any:
    """False claims, coverage and power over the number of prompts."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(12, 4), layout="constrained")
    panels = (
        ("false claim at the boundary", "false claims at the boundary (%)", (5.0,)),
        ("coverage of Delta(k)", "coverage of the 95 % interval (%)", (93.0, 97.0)),
        ("power at Delta = 0", "power, both models equal (%)", ()),
    )
    for place, (what, title, limits) in enumerate(panels, start=1):
        axes = drawn.add_subplot(1, 3, place)
        for law, colour in zip(LAWS, ("#1f5fa8", "#d1622b", "#7a7a7a"), strict=True):
            own = [rate for rate in rates if rate.what == what and rate.setting == law]
            bars = [200 * rate.error for rate in own]
            shown = [100 * rate.value for rate in own]
            axes.errorbar(_sizes(own), shown, yerr=bars, marker="o", color=colour, label=law)
            if place == 1:
                plain = [r for r in rates if r.what == "for comparison: t bound alone" and r.setting == law]
                heights = [100 * rate.value for rate in plain]
                axes.plot(_sizes(plain), heights, ":", color=colour, label=f"{law}, t alone")
        for limit in limits:
            axes.axhline(limit, color="black", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xticks(SIZES, [str(n) for n in SIZES])
        axes.minorticks_off()
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("prompts")
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8, frameon=False)
    return drawn


def _sizes(rates: Sequence[Rate]) -> list[int]:
    return [rate.prompts for rate in rates if rate.prompts is not None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything and write the table and the figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.error_rates", description=__doc__)
    parser.add_argument("--studies", type=int, default=20_000, help="per rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="docs", metavar="FOLDER")
    options = parser.parse_args(arguments)
    rates = run(options.studies, options.seed)
    command = f"python -m benchmarks.error_rates --studies {options.studies} --seed {options.seed}"
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "simulation.md").write_text(markdown(rates, command))
    figure(rates).savefig(out / "simulation.png", dpi=120)
    print(f"Written: {out / 'simulation.md'}, {out / 'simulation.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
