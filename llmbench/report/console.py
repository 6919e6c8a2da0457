"""What does a person see in the terminal: the plan, progress, a job's numbers, the ending?

Progress is a tqdm bar on a terminal and a line per phase in a log file, so that long work is visible in both.
Everything else is text that the sweep prints; the tables come from `llmbench.report.tables`.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from llmbench.analysis.wording import number
from llmbench.record import METRICS, Record

if TYPE_CHECKING:
    from llmbench.forecast import Forecast
    from llmbench.plan import Cell


class Progress:
    """Progress of one job: `with Progress("llada k=8") as progress: job.run(prepared, progress.tick)`."""

    def __init__(self, label: str) -> None:
        from tqdm import tqdm

        self._label = label
        self._terminal = sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=1,
            desc=label,
            disable=not self._terminal,
            leave=False,
            bar_format="{desc} |{bar:30}| {n_fmt}/{total_fmt} {elapsed}<{remaining}",
        )
        self._phase = ""
        self._begun = time.monotonic()
        self._reason: str | None = None

    def __enter__(self) -> "Progress":
        return self

    def tick(self, phase: str, done: int, total: int) -> None:
        """Say that `done` of `total` parts of a phase are finished."""
        if phase != self._phase:
            self._phase = phase
            if not self._terminal:
                print(f"{self._label}: {phase}", file=sys.stderr, flush=True)
            self._bar.reset(total=max(total, 1))
            self._bar.set_description_str(f"{self._label:<12} {phase:<10}")
        self._bar.n = done
        self._bar.refresh()

    def failed(self, reason: str) -> None:
        """Remember why the job ends here."""
        self._reason = reason

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        seconds = time.monotonic() - self._begun
        if kind is None:
            ending = f"FAILED after {seconds:.0f} s: {self._reason}" if self._reason else f"done in {seconds:.0f} s"
            print(f"{self._label}: {ending}", file=sys.stderr, flush=True)


def _asked(cells: "Sequence[Cell]") -> str:
    """Whether prompts stand in a chat template."""
    asked = {bool(cell.prepared.job.model.chat) for cell in cells}
    return "" if asked == {False} else " in chat templates" if asked == {True} else ", some in chat templates"


def plan(cells: "Sequence[Cell]", grid: int, forecasts: "Sequence[Forecast]" = ()) -> str:
    """The jobs of a sweep in order, before they run; with forecasts, also their time and memory."""
    from llmbench.plan import forwards

    rows = []
    for place, cell in enumerate(cells, start=1):
        prepared = cell.prepared
        note = "recorded already" if cell.reused else f"stands for {cell.merged} cells" if cell.merged > 1 else ""
        decoder = prepared.job.model.decoder
        expected = _expected(forecasts[place - 1]) if forecasts else []
        made = [place, prepared.job.label, prepared.job.batch, decoder.canvas, forwards(cell) or "-"]
        rows.append([*made, *expected, cell.name, note])
    first = cells[0].prepared
    columns = ["time", "memory, estimated"] if forecasts else []
    table = tabulate(rows, headers=["", "job", "B", "G", "forwards", *columns, "folder", ""], tablefmt="simple")
    jobs = "1 job" if len(cells) == 1 else f"{len(cells)} jobs"
    merged = f" ({grid} cells of the grid)" if grid != len(cells) else ""
    kind = first.job.hardware.quantization
    stored = f", weights in {kind}" if kind else ""
    said = (
        f"{jobs}{merged} on {first.job.hardware.device}, {first.job.hardware.dtype}{stored}; "
        f"{len(first.workload.prompts)} prompts of {first.workload.name}{_asked(cells)}, "
        f"temperature {first.job.temperature}\n{table}"
    )
    if any(item.bound_s is not None for item in forecasts):
        said += "\n> s: least time of generation alone, if every output fills its canvas (roofline, ceilings of now)"
    short = dict.fromkeys(item.shortage for item in forecasts if item.shortage)
    return "\n".join([said, *(f"would be refused now: {line}" for line in short)])


def _expected(forecast: "Forecast") -> list[str]:
    """Time with its source, and memory with its parts."""
    if forecast.measured_s is not None:
        time = f"{forecast.measured_s:.0f} s, measured {forecast.measured_on}"
    else:
        time = "unknown" if forecast.bound_s is None else f"> {number(forecast.bound_s, 2)} s"
    if forecast.memory_bytes is None:
        return [time, "on the server"]
    parts = [(forecast.weight_bytes, "weights"), (forecast.cache_bytes, "cache")]
    parts += [(forecast.activation_bytes, "activations")]
    said = " + ".join(f"{_mib(size)} {name}" for size, name in parts if size)
    return [time, f"{_mib(forecast.memory_bytes)} MiB: {said}"]


def _mib(size: int) -> str:
    return f"{size / 2**20:.3g}" if size < 1000 * 2**20 else f"{size / 2**20:.0f}"


def job_table(record: Record) -> str:
    """Every metric of one job, with its unit."""
    rows = [[key, f"{value:.6g}", METRICS[key].unit if key in METRICS else ""] for key, value in record.metrics.items()]
    return f"{record.label} ({record.identity})\n" + tabulate(
        rows, headers=["metric", "value", "unit"], tablefmt="simple"
    )


def ending(text: str, records: Sequence[Record], folder: Path, where: Sequence[str], seconds: float) -> str:
    """The last thing a sweep prints: tables and verdict, failures, and where to look."""
    lines = ["", text, ""]
    lines += [f"FAILED {record.label}: {record.reason}" for record in records if record.status == "failed"]
    finished = sum(record.status == "finished" for record in records)
    lines += [f"{finished} of {len(records)} jobs finished in {seconds:.0f} s. Records: {folder}", *where]
    return "\n".join(lines)
