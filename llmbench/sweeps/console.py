"""What does a person read in the terminal: the plan, a job's numbers, the ending?

The tables come from `llmbench.report`, progress from `sweeps.progress`.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from llmbench.analysis.formats import counted, number
from llmbench.config.decoders import Diffusion
from llmbench.record import Record
from llmbench.report import tables
from llmbench.report.model_tables import model_properties
from llmbench.sweeps.card import card, fitted
from llmbench.sweeps.progress import duration
from llmbench.system.output import Level
from llmbench.system.terminal import coloured

if TYPE_CHECKING:
    from llmbench.analysis.parity.parity import Parity
    from llmbench.config.job import Job
    from llmbench.job.prepared import Prepared
    from llmbench.report.assemble import SweepReport
    from llmbench.report.layout import Table
    from llmbench.sweeps.forecast import Forecast
    from llmbench.sweeps.plan import Cell


def _shared(cells: "Sequence[Cell]") -> str:
    """Under what the jobs run: values that differ are all named, but of temperatures, which the rows tell apart."""

    def all_of(read: "Callable[[Prepared], str | None]") -> str:
        return " / ".join(dict.fromkeys(text for cell in cells if (text := read(cell.prepared))))

    stored = all_of(lambda prepared: prepared.job.hardware.quantization)
    where = [
        all_of(lambda prepared: prepared.job.hardware.device),
        all_of(lambda prepared: prepared.job.hardware.dtype),
        f"weights in {stored}" if stored else "",
    ]
    asked = all_of(lambda prepared: f"{counted(len(prepared.workload.prompts), 'prompt')} of {prepared.workload.name}")
    return f"{', '.join(filter(None, where))}; {asked}{_asked(cells)}{_temperature(cells)}"


def _temperature(cells: "Sequence[Cell]") -> str:
    """The temperature, or that of each family; nothing where a family has several, which the rows tell apart."""
    by_family: dict[str, set[float]] = {}
    for cell in cells:
        by_family.setdefault(cell.family, set()).add(cell.prepared.job.model.decoder.temperature)
    if any(len(values) > 1 for values in by_family.values()):
        return ""
    values = {family: values.pop() for family, values in sorted(by_family.items())}
    if len(set(values.values())) == 1:
        return f", temperature {next(iter(values.values()))}"
    return f", temperature {' and '.join(f'{value} ({family})' for family, value in values.items())}"


def _asked(cells: "Sequence[Cell]") -> str:
    """Whether prompts stand in a chat template."""
    asked = {bool(cell.prepared.job.model.chat) for cell in cells}
    return "" if asked == {False} else " in chat templates" if asked == {True} else ", some in chat templates"


def plan(
    cells: "Sequence[Cell]",
    grid: int,
    forecasts: "Sequence[Forecast]" = (),
    refusals: Sequence[str] = (),
    expected: "Mapping[str, float | None] | None" = None,
    width: int | None = None,
) -> str:
    """The jobs of a sweep in order, before they run; with forecasts, also their time and memory.

    Args:
        cells: the plan.
        grid: how many cells were asked for.
        forecasts: one for each cell, or none.
        refusals: why the jobs would not start now.
        expected: seconds that each job probably takes, by identity.
        width: of the terminal, for which columns are left out; None: there is no limit.
    """
    from llmbench.sweeps.plan import forwards, notes

    predicted = dict(zip((cell.prepared.identity for cell in cells), forecasts, strict=False))
    rows, asked = [], [cell for cell in cells if cell.role == "timed"]
    for place, cell in enumerate(asked, start=1):
        prepared = cell.prepared
        note = "recorded already" if cell.reused else f"stands for {cell.merged} cells" if cell.merged > 1 else ""
        decoder = prepared.job.model.decoder
        more = _expected(predicted[prepared.identity]) if forecasts else []
        made = [place, cell.title, prepared.job.batch, decoder.canvas, forwards(cell) or "-"]
        if expected is not None:
            about = expected.get(prepared.identity)
            more = ["-" if cell.reused else "?" if about is None else f"about {duration(about)}"]
        rows.append([*made, *more, cell.name, note])
    columns = ["time", "memory, estimated"] if forecasts else ["time"] if expected is not None else []
    table = _narrowed(["", "job", "B", "G", "forwards", *columns, "folder", ""], rows, width)
    jobs = counted(len(asked), "job")
    merged = f" ({grid} cells of the grid)" if grid != len(asked) else ""
    extra = f" and {len(cells) - len(asked)} more of the baseline" if len(cells) > len(asked) else ""
    order = cells[0].prepared.job.sweep
    drawn = f"; LLaDA's jobs in an order drawn from seed {order.order_seed}" if order.order == "random" else ""
    said = "\n".join([f"{jobs}{merged}{extra} on {_shared(asked)}{drawn}", table, *_baseline_jobs(cells, predicted)])
    if any(item.bound_s is not None for item in forecasts):
        said += "\n> s: least time of generation alone, if every output fills its canvas (roofline, ceilings of now)"
    decoders = [cell.prepared.job.model.decoder for cell in cells]
    idle = dict.fromkeys(d.idle_phrase for d in decoders if isinstance(d, Diffusion) and d.idle_steps)
    said = "\n".join([said, *idle, *notes(cells)])
    if expected is not None:
        said += f"\n{expectation(list(expected.values()))}"
    short = dict.fromkeys([*(item.shortage for item in forecasts if item.shortage), *refusals])
    return "\n".join([said, *(f"would be refused now: {line}" for line in short)])


def _narrowed(headers: Sequence[str], rows: Sequence[Sequence[object]], width: int | None) -> str:
    """A table without the columns that a person misses least, where all are too wide."""
    dropped: list[str] = []
    for name in ("", "folder", "forwards", "G", "B"):
        dropped += [name] if name else []
        places = [place for place, head in enumerate(headers) if head not in dropped]
        cells = [[row[place] for place in places] for row in rows]
        table = tabulate(cells, headers=[headers[place] for place in places], tablefmt="simple")
        if width is None or max(map(len, table.splitlines())) <= width:
            break
    return table


def expectation(expected: "Sequence[float | None]") -> str:
    """The time that all jobs together probably take, in a line."""
    known = [value for value in expected if value is not None]
    if not known:
        return "Expected time: not known before the first job has run here"
    unknown = len(expected) - len(known)
    more = f", and {counted(unknown, 'job')} of unknown time" if unknown else ""
    return f"Expected time: about {duration(math.fsum(known))}{more}; the first jobs will tell more"


def _baseline_jobs(cells: "Sequence[Cell]", predicted: "Mapping[str, Forecast]") -> list[str]:
    """The jobs that the sweep plans by itself, a line for each curve and each time that the baseline is timed again."""
    from llmbench.sweeps.plan import forwards, title

    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        job, named = cell.prepared.job, {key: value for key, value in cell.swept.items() if key != "temperature"}
        if job.role == "curve":
            groups.setdefault(("curve", title(replace(job, role="timed"), named)), []).append(cell)
        elif job.role == "retimed":
            when = "before and after each candidate" if job.retiming_number else f"{job.retiming} the candidates"
            groups.setdefault((f"timed again {when}", ""), []).append(cell)
    lines = []
    for (what, name), members in groups.items():
        if what == "curve":
            temperatures = (f"{cell.prepared.job.model.decoder.temperature:g}" for cell in members)
            who = f"{name} at temperature {', '.join(temperatures)}"
            cost = [f"{counted(len(members), 'job')}, texts only"]
        else:
            timed = list(dict.fromkeys(title(_as_timed(c.prepared.job), c.swept) for c in members))
            more = f" and {len(timed) - _NAMED} more" if len(timed) > _NAMED else ""
            who, cost = ", ".join(timed[:_NAMED]) + more, [f"{counted(len(members), 'job')}, times only"]
        counts = [count for cell in members if (count := forwards(cell)) is not None]
        cost += [f"{sum(counts)} forwards"] if counts else []
        own = [item for cell in members if (item := predicted.get(cell.prepared.identity)) is not None]
        cost += [_time_of_all(own)] if own else []
        recorded = sum(cell.reused is not None for cell in members)
        cost += [f"{recorded} recorded already"] if recorded else []
        lines.append(f"{what}: {who} ({', '.join(cost)})")
    return lines


def _as_timed(job: "Job") -> "Job":
    return replace(job, role="timed", retiming=None, retiming_number=0)


_NAMED = 4
"""So many jobs are named in one line."""


def _time_of_all(forecasts: "Sequence[Forecast]") -> str:
    """The time of several jobs together; what was measured of some is a bound for all."""
    known = [time for item in forecasts for time in (item.measured_s, item.bound_s) if time is not None]
    if len(known) < len(forecasts):
        return "time unknown"
    return f"{'' if all(item.measured_s is not None for item in forecasts) else '> '}{number(math.fsum(known), 2)} s"


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


def job_ending(
    record: Record,
    path: Path,
    where: Sequence[str],
    command: str,
    taken: bool = False,
    *,
    width: int | None = None,
    level: Level = Level.NORMAL,
) -> str:
    """The last thing a single job prints: its numbers as the tables have them, and where to look.

    Args:
        record: of the job.
        path: of its file.
        where: lines on what shows more.
        command: what was typed.
        taken: the Record is an earlier run's.
        width: of the terminal; None: there is no limit.
        level: QUIET has the numbers alone.
    """
    lines = ["", *([f"Recorded already, {_measured([record])}; nothing was measured now."] if taken else [])]
    if record.status == "finished":
        table, properties = tables.job_table(record, command), model_properties([record])
        if level is Level.QUIET:
            return fitted(table, width)
        lines += [_long(table, width), "", *([_wrapped(properties, width)] if properties else [])]
    lines += [*(_wrapped(line, width) for line in cut_off([(record.label, record)])), f"Record: {path}", *where]
    return "\n".join(lines)


def _measured(records: Sequence[Record]) -> str:
    """When Records were made, to the minute."""
    times = sorted(record.started_at[:16].replace("T", " ") for record in records)
    return f"measured {times[0]}" + (f" to {times[-1]}" if times[-1] != times[0] else "") + " UTC"


def cut_off(jobs: Sequence[tuple[str, Record]]) -> list[str]:
    """A line on outputs that end because the canvas does, not because the model stopped; none where there are none.

    Args:
        jobs: names for people, and Records. Random weights and `ignore_stop` end nowhere, so nothing is cut off there.
    """
    filled: dict[int, list[str]] = {}
    for name, record in jobs:
        if record.role != "timed":
            continue
        endless = record.config["model"]["decoder"].get("ignore_stop") or record.conditions.get("weights") == "dummy"
        full = 0 if endless else sum(not output.stopped for output in record.outputs)
        if full and record.canvas:
            own = f"{full} of {len(record.outputs)}"
            filled.setdefault(record.canvas, []).append(f"{own} outputs" if len(jobs) == 1 else f"{name} {own}")
    prefix = "Outputs: " if len(jobs) > 1 else ""
    return [
        f"{prefix}{', '.join(said)} fill the canvas of {canvas} tokens: cut off there, not ended by the model"
        for canvas, said in filled.items()
    ]


def ending(
    reached: "Sequence[Parity]",
    made: "SweepReport",
    jobs: Sequence[tuple[str, Record]],
    failed: Sequence[tuple[str, str | None]],
    closing: Sequence[str],
    *,
    width: int | None = None,
    level: Level = Level.NORMAL,
) -> str:
    """The last thing a sweep prints: table, failed gates, verdict, and where to look.

    Args:
        reached: the verdicts.
        made: tables.
        jobs: names and Records of all.
        failed: names and reasons of those that failed.
        closing: what stands below: counts, and where to look.
        width: of the terminal; None: there is no limit.
        level: QUIET has verdicts and failures alone, VERBOSE every table and note.
    """
    fails = [coloured(f"FAILED {name}: {reason}", "bold red") for name, reason in failed]
    cards = [card(verdict, width) for verdict in reached]
    first = made.text.strip().partition("\n")[0]
    if not reached and first not in [table.title for table in made.tables]:
        cards = [first]  # why there is no verdict
    if level is Level.QUIET:
        return "\n".join([*["\n\n".join(cards)][: len(cards)], *fails])
    rows = [table for table in made.tables if table.identities]
    if level is Level.VERBOSE:
        shown = [_long(table, width) for table in made.tables] or [made.text]
    else:
        shown = [f"{table.title}\n\n{fitted(table, width)}" for table in rows] or [made.text]
        if len(rows) == len(cards) > 1:  # each table with its verdict
            shown, cards = [f"{table}\n\n{own}" for table, own in zip(shown, cards, strict=True)], []
        leads = [line for table in made.tables if not table.identities for line in table.lead]
        shown += ["\n".join(_wrapped(line, width) for line in leads)] if leads else []
    gates = [line for verdict in reached for line in tables.failed_checks(verdict)] if level is Level.NORMAL else []
    checks = [_wrapped(line, width) for line in dict.fromkeys([*gates, *cut_off(jobs)])]
    parts = [*shown, *(["\n".join(checks)] if checks else []), *cards, "\n".join([*fails, *closing])]
    return "\n" + "\n\n".join(parts)


def _long(table: "Table", width: int | None) -> str:
    """A table with every column and note."""
    notes = [_wrapped(line, width) for line in (*table.notes, table.provenance) if line]
    lead = [_wrapped(line, width) for line in table.lead]
    return "\n".join([table.title, "", *lead, fitted(table, width, whole=True), "", *notes])


def _wrapped(text: str, width: int | None) -> str:
    return text if width is None else textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def closing(
    jobs: Sequence[tuple[str, Record]], planned: int, seconds: float, taken: Sequence[Record], folder: Path
) -> str:
    """How many jobs finished, how long it took, and where the Records are.

    Args:
        jobs: names and Records of all.
        planned: how many jobs there were, also those that could write no Record.
        seconds: that the sweep took.
        taken: Records that come from earlier runs.
        folder: of the sweep.
    """
    finished = sum(record.status == "finished" for _, record in jobs)
    earlier = f", {len(taken)} of them taken over from earlier ({_measured(taken)})" if taken else ""
    return f"{finished} of {counted(planned, 'job')} finished in {seconds:.0f} s{earlier}. Records: {folder}"
