"""`python -m benchmarks.engine`: measure, and write the page. `... page FILE.json`: the page again, without a GPU.

`... load [FOLDER]`: how fast a checkpoint of 16 GB, written into a folder inside FOLDER, is loaded from there.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.engine import cases, numbers, page, vllm_process
from benchmarks.engine import page_cells as cells
from llmbench.errors import HardwareError

NAMES = [case.name for case in cases.ALL]
BESIDE_VLLM = {case.name for case in cases.VLLM_CASES}
GROUPS = {"vllm": BESIDE_VLLM, "blocks": {case.name for case in cases.BLOCK_CASES}}
"""Cases that have a name together, and files of their own."""


def main(arguments: list[str]) -> int:
    """Run; the exit code is 4 when a case failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("action", nargs="?", choices=["run", "page", "load"], default="run")
    parser.add_argument("file", nargs="?", type=Path, help="page: a JSON file of an earlier run; load: a folder")
    parser.add_argument(
        "--only", metavar="NAME,...", help=f"cases to run: {', '.join(NAMES)}; vllm, blocks: all of theirs"
    )
    parser.add_argument(
        "--vllm", metavar="PYTHON", help="an interpreter that has vLLM, for the cases beside it: 'env A=b python3'"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page (docs/results)")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, also without a GPU: tries the code alone")
    parser.add_argument("--no-compile", action="store_true", help="leave out Transformers' compiled static cache")
    given = parser.parse_args(arguments)
    if given.action == "page":
        if given.file is None or not given.file.is_file():
            parser.error("page: give the JSON file of an earlier run")
        print(_write(json.loads(given.file.read_text()), given.file.parent, given.file.stem))
        return 0
    if given.action == "load":
        return _load(given.file, smoke=given.smoke)
    return _run(parser, given)


def _run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    """Measure and write the page."""
    only = _chosen(parser, given)
    if given.smoke and given.out == Path("docs/results"):
        parser.error("--smoke measures nothing that docs/ may show; add --out FOLDER")
    if only not in (None, *GROUPS.values()) and given.out == Path("docs/results"):
        parser.error("--only would replace a complete page by a part of one; add --out FOLDER")
    results = _measure(only, given.out, smoke=given.smoke, compile=not given.no_compile, vllm=given.vllm)
    print(_write(results, given.out, _stem(results, only)))
    failed = [row["name"] for row in results["rows"] if row["failed"] or row["missing"]]
    if failed:
        print(f"benchmarks.engine: {len(failed)} cases failed: {', '.join(failed)}", file=sys.stderr)
    return 4 if failed else 0


def _chosen(parser: argparse.ArgumentParser, given: argparse.Namespace) -> set[str] | None:
    """The cases to run, None: all that can be; refuses names and an interpreter that cannot be meant."""
    only = set(given.only.split(",")) if given.only else None
    for name, group in GROUPS.items():
        if only and name in only:
            only = only - {name} | group
    if only and (unknown := sorted(only - set(NAMES))):
        parser.error(f"--only: no case {unknown[0]}; there are {', '.join(NAMES)}")
    if only and given.vllm is None and (beside := sorted(only & BESIDE_VLLM)):
        parser.error(f"--only: {beside[0]} needs --vllm PYTHON, an interpreter that has vLLM")
    if only and given.vllm is not None and not only & BESIDE_VLLM:
        parser.error("--vllm: none of the cases in --only uses it; add vllm to them")
    if given.vllm is not None and (why := vllm_process.missing(given.vllm)):
        parser.error(f"--vllm {given.vllm}: {why}")
    return only


def _load(folder: Path | None, *, smoke: bool) -> int:
    """Print how fast a checkpoint is read and loaded here."""
    from benchmarks.engine import load
    from llmbench.checkpoints.resolve import resolve_checkpoint
    from llmbench.config.job import HardwareConfig
    from llmbench.measure import device
    from llmbench.measure.probes import set_libraries_aside

    set_libraries_aside()
    config = resolve_checkpoint("bundled:llama" if smoke else "shape:llama-3-8b", "dummy").config
    hardware = device.resolve(HardwareConfig(device="auto" if smoke else "cuda", dtype="auto"))
    for line in load.measure(config, hardware, folder):
        print(line, flush=True)
    return 0


def _measure(only: set[str] | None, out: Path, *, smoke: bool, compile: bool, vllm: str | None) -> dict[str, Any]:
    """All that the page needs, as plain data; saved after every row: a run that is cut off leaves what it had."""
    from benchmarks.engine import measure, turns, vllm_rows
    from llmbench.config.job import HardwareConfig
    from llmbench.measure import device
    from llmbench.measure.probes import set_libraries_aside

    set_libraries_aside()
    hardware = device.resolve(HardwareConfig(device="auto" if smoke else "cuda", dtype="auto"))
    probe = device.probe(hardware)
    results: dict[str, Any] = {
        "format": 2,
        "command": _command(only, smoke=smoke, compile=compile, vllm=vllm),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "smoke": smoke,
        "settings": dataclasses.asdict(cases.SMOKE if smoke else cases.FULL)
        | {"dtype": hardware.dtype, "settle_ms": turns.SETTLE_MS, "timed_ms": turns.TIMED_MS}
        | ({} if vllm is None else {"warm_up_pairs": vllm_rows.WARM_UP}),
        "environment": dataclasses.asdict(device.environment(hardware)),
        "ceilings": dataclasses.asdict(device.ceilings(hardware, 16 * 10**9)),
        "sm_clock_mhz": [probe.sm_clock_mhz()],
    }  # fmt: skip
    results["rows"] = []
    results["sm_clock_mhz"].append(None)
    _save(results, out, _stem(results, only))  # a folder that cannot be written to is found now
    say = functools.partial(print, flush=True)
    for row in measure.run(only, hardware, smoke=smoke, compile=compile, say=say, vllm=vllm):
        results["rows"].append(dataclasses.asdict(row))
        results["rows"][-1]["value"] = numbers.kept(results["rows"][-1], results["settings"])
        results["sm_clock_mhz"][1] = probe.sm_clock_mhz()
        _save(results, out, _stem(results, only))
    return results


def _command(only: set[str] | None, *, smoke: bool, compile: bool, vllm: str | None) -> str:
    """What measures this again; where it is written to, and where vLLM is, is nobody's business."""
    together = next((name for name, group in GROUPS.items() if only == group), None)
    words = [f"--only {together or ','.join(sorted(only))}"] if only else []
    words += [] if vllm is None else ["--vllm PYTHON"]
    words += ["--smoke"] if smoke else []
    words += [] if compile else ["--no-compile"]
    return " ".join(["python -m benchmarks.engine", *words])


def _stem(results: dict[str, Any], only: set[str] | None) -> str:
    """Named after the device; a group of cases alone has files of its own."""
    group = next((f"-{name}" for name, group in GROUPS.items() if only and only <= group), "")
    return f"{cells.slug(results['environment'])}{group}"


def _save(results: dict[str, Any], folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{stem}.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(folder / f"{stem}.json")


def _write(results: dict[str, Any], folder: Path, stem: str) -> str:
    """JSON, page and, where steps were measured, a picture into `folder`; returns where."""
    _save(results, folder, stem)
    if pictured := page.has_picture(results):
        (folder / f"{stem}.png").write_bytes(page.picture(results))
    (folder / f"{stem}.md").write_text(page.markdown(results, f"{stem}.png"))
    return f"{page.tables(results)}\nWritten: {folder / stem}.md, .json{', .png' if pictured else ''}"


def run_or_explain(arguments: list[str]) -> int:
    """`main`; without a GPU one line says what runs."""
    try:
        return main(arguments)
    except HardwareError as error:
        print(f"benchmarks.engine: {error}; without a GPU only --smoke --out FOLDER runs", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run_or_explain(sys.argv[1:]))
