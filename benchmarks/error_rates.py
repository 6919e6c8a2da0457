"""How often is the verdict wrong? Simulated studies whose truth is known, judged by the verdict that users get.

    python -m benchmarks.error_rates --studies 2000 --processes 16     writes docs/simulation.json, .md and .png
    python -m benchmarks.error_rates --page                            draws the page again from the JSON

Every study is a list of Records (`worlds`, `timed_worlds`) and goes through `analysis.parity.analyze.parity`: nothing
of the rule is written here. A study has a seed of its own, so results do not depend on the number of processes.
Studies of 1,000 prompts are half as many as the others, and those that show power alone a quarter.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import error_page
from benchmarks.cells import MARGIN, QUALITY, SIZES, SPEED, Case
from benchmarks.timed_worlds import passing_study, timed_study
from benchmarks.worlds import shift_for, study
from llmbench.analysis.parity.analyze import parity
from llmbench.analysis.parity.grouping import group
from llmbench.analysis.parity.parity import Parity
from llmbench.analysis.parity.speed import speedup
from llmbench.analysis.parity.verdict import Speed, Status
from llmbench.record import Record

Task = tuple[str, str, int, int, int, int, int]
"""Kind ("quality", "speed"), name, prompts, first study, end, planned studies, seed."""


# ----------------------------------------------------------------------------------------------------------------
# Studies


def quality_chunk(name: str, prompts: int, indices: Iterable[int], studies: int, seed: int) -> list[Counter[str]]:
    """Counts of every case of a setting over some studies, in the order of its cases.

    Keys: "studies", "covered" (the 95 % interval of Delta at the largest k holds the truth), "false" (`reached` with a
    smallest k whose truth is at or below the margin), and every status that occurred.
    """
    setting = QUALITY[name]
    counts: list[Counter[str]] = [Counter() for _ in setting.cases]
    for index in indices:
        wanted = [i for i, case in enumerate(setting.cases) if index < case.share * studies]
        for i, verdict in zip(wanted, judged(name, prompts, index, wanted, seed), strict=True):
            counts[i].update(outcome(setting.cases[i], verdict))
    return counts


def outcome(case: Case, verdict: Parity) -> list[str]:
    """What is counted of one verdict."""
    head, made = verdict.head, ["studies", verdict.status.value]
    if head is None:
        return made
    if head.tests and head.tests[-1].low <= case.deltas[-1] <= head.tests[-1].high:
        made.append("covered")
    if head.reached is not None and case.deltas[head.reached - 1] <= -MARGIN:
        made.append("false")
    return made


def judged(name: str, prompts: int, index: int, wanted: Sequence[int], seed: int) -> Iterator[Parity]:
    """The verdicts on one study of a setting: one for each of the wanted cases, all against one baseline."""
    setting = QUALITY[name]
    cases = [setting.cases[i] for i in wanted]
    truths = [(case.entropy, delta) for case in cases for delta in case.deltas]
    bend = setting.world.bend
    world = replace(
        setting.world,
        prompts=prompts,
        shifts=[shift_for(delta, entropy, bend) for entropy, delta in truths],
        entropies=[entropy for entropy, _ in truths],
        steps=[k for case in cases for k in case.steps],
    )
    records = study(world, np.random.default_rng([seed, zlib.crc32(name.encode()), prompts, index]))
    baseline = [record for record in records if record.family == "autoregressive"]
    candidates = iter(records[len(baseline) :])
    for case in cases:
        yield parity([*baseline, *(next(candidates) for _ in case.steps)])


@dataclass(kw_only=True)
class Times:
    """What came out of some studies of a race."""

    viable: int = 0
    inefficient: int = 0
    covered: int = 0  # the interval holds the truth at every k
    widths: list[float] = field(default_factory=list)  # log(high / low) at the smallest k
    oracle: list[float] = field(default_factory=list)  # the same on a machine that does not change


def speed_chunk(name: str, indices: Iterable[int], seed: int) -> Times:
    """The speeds claimed in some studies of a race."""
    race, made = SPEED[name], Times()
    steps = [16 * 2**i for i in range(len(race.truths))]
    written = passing_study(race.machine.batches, steps)
    for index in indices:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
        changed, steady = timed_study(race.machine, race.truths, written, rng)
        verdict = parity(changed, seed=index)
        if verdict.status is not Status.REACHED or verdict.head is None or verdict.head.reached != steps[0]:
            raise AssertionError(f"quality must pass in a study of speed: {verdict}")
        made.viable += verdict.speed is Speed.VIABLE
        made.inefficient += verdict.speed is Speed.INEFFICIENT
        ends = [(item.low or np.nan, item.high or np.nan) for item in verdict.speedups]
        made.covered += all(low <= truth <= high for (low, high), truth in zip(ends, race.truths, strict=True))
        made.widths.append(float(np.log(ends[0][1] / ends[0][0])))
        made.oracle.append(_oracle_width(steady, index))
    return made


def _oracle_width(steady: Sequence[Record], seed: int) -> float:
    sides = group(steady)
    found = speedup(sides.candidates[0].steps or 0, sides, sides.candidates[0].records, np.random.default_rng(seed))
    return float(np.log((found.high or np.nan) / (found.low or np.nan))) if found else float("nan")


# ----------------------------------------------------------------------------------------------------------------
# All of them


def tasks(studies: int, seed: int, only: str = "") -> list[Task]:
    """Everything that must run, the costly first, cut so that processes end together."""
    made: list[Task] = []
    for name in QUALITY:
        for prompts in SIZES:
            planned = max(1, studies // 2 if prompts == SIZES[-1] else studies)
            made += [("quality", name, prompts, *part, planned, seed) for part in _cut(planned, 5000 // prompts)]
    for name in SPEED:
        made += [("speed", name, 0, *part, studies, seed) for part in _cut(studies, 50)]
    return sorted((task for task in made if only in task[1]), key=cost, reverse=True)


def _cut(studies: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, studies)) for first in range(0, studies, size)]


def cost(task: Task) -> float:
    """About how many seconds of one core a task takes."""
    kind, name, prompts, first, end, planned, _ = task
    if kind == "speed":
        return 0.017 * (end - first) * (1 + len(SPEED[name].truths)) / 2
    setting = QUALITY[name]
    judged_cases = sum(max(0.0, min(end, case.share * planned) - first) for case in setting.cases)
    return 0.5e-4 * (80 + prompts) * (judged_cases + 0.2 * len(setting.world.temperatures) * (end - first))


def run_task(task: Task) -> Any:
    """A task's counts or times."""
    kind, name, prompts, first, end, planned, seed = task
    gc.disable()  # it would walk through every Record again and again; they hold no cycles
    if kind == "speed":
        made: Any = speed_chunk(name, range(first, end), seed)
    else:
        made = quality_chunk(name, prompts, range(first, end), planned, seed)
    gc.enable()
    return made


def run(plan: Sequence[Task], processes: int) -> dict[str, list[dict[str, Any]]]:
    """Every rate, by kind: one row for a case and a number of prompts, one for a race."""
    quality: dict[tuple[str, int], list[Counter[str]]] = {}
    speed: dict[str, Times] = {}

    def take(task: Task, result: Any) -> None:
        kind, name, prompts, *_ = task
        if kind == "speed":
            so_far = speed.setdefault(name, Times())
            for key in ("viable", "inefficient", "covered", "widths", "oracle"):
                setattr(so_far, key, getattr(so_far, key) + getattr(result, key))
        else:
            kept = quality.setdefault((name, prompts), [Counter() for _ in QUALITY[name].cases])
            for counter, more in zip(kept, result, strict=True):
                counter.update(more)

    _work(plan, processes, take)
    return {
        "quality": [
            {"world": name, "prompts": prompts, "place": case.place, "entropy": round(case.entropy, 4)}
            | {"deltas": list(case.deltas), **counter}
            for name in QUALITY
            for prompts in SIZES
            for case, counter in zip(QUALITY[name].cases, quality.get((name, prompts), []), strict=False)
        ],
        "speed": [_row(name, speed[name]) for name in SPEED if name in speed],
    }


def _row(name: str, made: Times) -> dict[str, Any]:
    machine = SPEED[name].machine
    return {
        "world": name, "truths": list(SPEED[name].truths), "level": machine.level, "size": machine.size,
        "noise": machine.noise, "repeats": machine.repeats, "batches": machine.batches, "studies": len(made.widths),
        "viable": made.viable, "inefficient": made.inefficient, "covered": made.covered,
        "width": float(np.median(made.widths)), "oracle_width": float(np.median(made.oracle)),
    }  # fmt: skip


def _work(plan: Sequence[Task], processes: int, take: Callable[[Task, Any], None]) -> None:
    """Run every task, here or in processes, and say on stderr how much is left."""
    started, whole, done = time.monotonic(), sum(map(cost, plan)), 0.0

    def ended(task: Task, result: Any) -> None:
        nonlocal done
        take(task, result)
        done += cost(task)
        left = (time.monotonic() - started) / done * (whole - done)
        print(f"\r{100 * done / whole:5.1f} %, {left / 60:.1f} minutes left ", end="", file=sys.stderr, flush=True)

    if processes == 1:
        for task in plan:
            ended(task, run_task(task))
    else:
        with ProcessPoolExecutor(processes) as pool:
            waiting = {pool.submit(run_task, task): task for task in plan}
            for future in as_completed(waiting):
                ended(waiting[future], future.result())
    print(file=sys.stderr)


def made_by(command: str, processes: int) -> dict[str, Any]:
    """Command, machine, versions and commit."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": command,
        "processes": processes,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "scipy")},
        "commit": os.environ.get("LLMBENCH_COMMIT") or head.stdout.strip() or None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything and write the JSON, the page and the figure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.error_rates", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=400, help="for each rate (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: %(default)s, the CPUs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="TEXT", help="worlds whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="FOLDER")
    parser.add_argument("--page", action="store_true", help="run nothing: write the page from FOLDER/simulation.json")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    data_file = options.out / "simulation.json"
    if not options.page:
        plan = tasks(options.studies, options.seed, options.only)
        print(f"About {sum(map(cost, plan)) / 60:.0f} minutes of one core.", file=sys.stderr)
        command = f"python -m benchmarks.error_rates --studies {options.studies} --seed {options.seed}"
        made, started = made_by(command, options.processes), time.monotonic()
        rates = run(plan, options.processes)
        made["minutes"] = round((time.monotonic() - started) / 60, 1)
        data_file.write_text(json.dumps({"made": made, "margin": MARGIN, **rates}, indent=1) + "\n")
    error_page.write(json.loads(data_file.read_text()), options.out)
    print(f"Written: {data_file}, {options.out / 'simulation.md'}, {options.out / 'simulation.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
