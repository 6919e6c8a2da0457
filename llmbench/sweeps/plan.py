"""Which jobs will a sweep run, in which order, and what can be said about them before they run?

The whole grid is composed, built and checked before the first job: one wrong cell refuses the sweep and names itself.
Cells that build the same job (LLaMA at every `steps`) become one cell; jobs that an earlier sweep finished under the
same conditions are taken over when `reuse` allows it; the rest is ordered by model, so that every checkpoint loads
once. The sweeper (`llmbench.sweeps.run`) calls it, and `llmbench.sweeps.job_task` for a job alone.
"""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmbench import record
from llmbench.config.build import build_job, keys_of, unread_options
from llmbench.config.compose import composed_once
from llmbench.config.conf_files import typed
from llmbench.config.decoders import DECODERS, Diffusion, labelled
from llmbench.config.job import PROMPTS, Job
from llmbench.config.options import options
from llmbench.config.servers import ServerConfig
from llmbench.errors import ConfigError, JudgeError, RecordError, UsageError
from llmbench.job.prepare import prepare_job
from llmbench.job.prepared import Prepared
from llmbench.record import ROLE_SUFFIX, Environment, Family, JobContext, Record, Role
from llmbench.sweeps import engines, plan_file, state

RECORD_FILE = "record.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One job of the plan."""

    swept: dict[str, str]  # the axes on which this job differs from others, with its values
    prepared: Prepared
    unread: frozenset[str] = frozenset()  # options that were given and that this job's decoder does not have
    merged: int = 1  # cells of the grid that build this same job
    reused: Record | None = None  # found finished in an earlier sweep

    @property
    def family(self) -> Family:
        """Of its model."""
        return self.prepared.job.model.decoder.family

    @property
    def role(self) -> Role:
        """What it is for."""
        return self.prepared.job.role

    @property
    def title(self) -> str:
        """What tells this job from the others of its sweep, for people."""
        return title(self.prepared.job, self.swept)

    @property
    def name(self) -> str:
        """Label and identity: what people and folders call this job."""
        job = self.prepared.job
        label = re.sub(r"[^\w.+-]+", "-", job.label.replace("=", ""))
        return "-".join([label, *([job.role] if job.role != "timed" else []), self.prepared.identity])


def title(job: Job, swept: Mapping[str, str]) -> str:
    """A job's label, and its values on the axes that the label leaves out: `llada k=16 temperature=0.7 seed=2`.

    A job that the sweep plans by itself says so: `llama temperature=0.2 (curve)`.

    Args:
        job: to be named.
        swept: the axes on which it differs from others of its sweep, with its values.
    """
    told = labelled(asdict(job.model.decoder))
    by_key = {about.key or name: name for name, about in options(type(job.model.decoder)).items()}
    more = [
        f"{key.removeprefix('model.decoder.')}={value}"
        for key, value in swept.items()
        if key not in ("model", "steps") and by_key.get(key.removeprefix("model.decoder.")) not in told
    ]
    when = " first" if job.retiming == "before" else ""
    when = f" {job.retiming} candidate {job.retiming_number}" if job.retiming_number else when
    return " ".join([job.label, *more]) + ROLE_SUFFIX[job.role].replace(")", f"{when})")


_OF_THE_SWEEP = ("tracking", "reuse", "dry_run", "sweep", "isolation", "timeout_s")
"""Settings of which a sweep has one value: the first job's would be used, whatever the others say."""


def expand(overrides: Iterable[Any]) -> list[tuple[tuple[str, ...], dict[str, str]]]:
    """The grid spanned by parsed Hydra overrides: the cells' overrides and their values on the swept axes.

    Raises:
        ConfigError: for sweeps that are no list of values (intervals).
    """
    axes: dict[str, list[str]] = {}
    swept: list[str] = []
    for override in overrides:
        key = override.get_key_element()
        if key == "experiment" and override.is_sweep_override():
            raise ConfigError("experiment: one recipe at a time; a recipe brings its own sweep")
        if key.partition(".")[0] == "parity" and override.is_sweep_override():
            raise ConfigError(f"{key}: one plan a sweep, it is written down before the first job; give one value")
        if key.partition(".")[0] in _OF_THE_SWEEP and override.is_sweep_override():
            raise ConfigError(f"{key}: it holds for the whole sweep; give one value")
        if not override.is_sweep_override():
            axes[key] = [f"{key}={override.get_value_element_as_str()}" if not override.is_delete() else key]
            continue
        if not override.is_discrete_sweep():
            raise ConfigError(f"{key}: give a list of values (a,b,c), not an interval")
        axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        swept.append(key)
    return [
        (cell, {key: _unquoted(text.partition("=")[2]) for key, text in zip(axes, cell, strict=True) if key in swept})
        for cell in itertools.product(*axes.values())
    ]


def _unquoted(value: str) -> str:
    """A value without the quotes of Hydra's grammar."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0])
    return value


def build(
    grid: Sequence[tuple[tuple[str, ...], dict[str, str]]], compose: Callable[[list[str]], Any], *, here: bool = True
) -> list[Cell]:
    """Compose, build and check every cell; merge equal ones; order by model, autoregressive ones first.

    Args:
        grid: each cell's overrides, and its values on the swept axes.
        compose: makes the configuration of overrides.
        here: the jobs run on this machine (`job.prepare`).

    Raises:
        UsageError: for the first wrong cell, with its values in front.
    """
    compose = composed_once(compose)
    made: list[tuple[dict[str, str], Prepared, set[str]]] = []
    undecided: list[Job] = []
    left_open: list[bool] = []  # whether a job leaves the engine open
    for overrides, swept in grid:
        try:
            tree = compose(overrides)
            job = build_job(tree)
            prepared = prepare_job(job, here=here)
            undecided += [prepared.job] if job.workload.prompts is None else []
        except UsageError as error:
            judge = isinstance(error, JudgeError)  # then the other axes have no part in it
            where = [f"{key}={value}" for key, value in swept.items() if not judge or _names_judge(key)]
            said = f"{error}{_perhaps_one(grid, error)}"
            raise type(error)(f"[{' '.join(where)}] {said}" if len(grid) > 1 and where else said) from error
        made.append((swept, prepared, unread_options(tree, job)))
        left_open.append(job.hardware.engine == "auto")
    cells: dict[str, Cell] = {}
    on_one_engine = engines.on_one([prepared for _, prepared, _ in made], left_open)
    for (swept, _, unread), prepared in zip(made, on_one_engine, strict=True):
        known = cells.get(prepared.identity)
        if known is None:
            cells[prepared.identity] = Cell(swept=swept, prepared=prepared, unread=frozenset(unread))
        else:
            common = common_axes(known.swept, swept)
            cells[prepared.identity] = replace(
                known, swept=common, merged=known.merged + 1, unread=known.unread & unread
            )
    _require_equal_roles(list(cells.values()))
    _require_equal_counts(undecided)
    order = list(dict.fromkeys(cell.prepared.checkpoint.digest for cell in cells.values()))
    return sorted(
        cells.values(),
        key=lambda cell: (cell.family == "diffusion", order.index(cell.prepared.checkpoint.digest)),
    )


def common_axes(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """The values that two cells of one job share: an axis on which equal jobs differ is one that they do not read."""
    return {key: value for key, value in one.items() if other.get(key) == value}


def _perhaps_one(grid: Sequence[tuple[tuple[str, ...], dict[str, str]]], error: UsageError) -> str:
    """A hint for a path that a comma has cut into a sweep of paths."""
    cut = [key for key in grid[0][1] if str(error).startswith(f"{key}=") and "does not exist" in str(error)]
    if not cut:
        return ""
    whole = ",".join(dict.fromkeys(swept[cut[0]] for _, swept in grid))
    return f"; a path that holds a comma stands in quotes: {typed(cut[0], whole)}"


def notes(cells: Sequence[Cell]) -> list[str]:
    """What a person may have meant otherwise: options that no job reads, and keys of a workload's lines."""
    unread = frozenset.intersection(*(cell.unread for cell in cells)) - {"steps"} if cells else frozenset()
    readers: dict[str, list[str]] = {}
    for kind, model in _MODELS.items():
        for key in sorted(unread & keys_of(DECODERS[kind])):
            if not any(key in known for known in readers.values()):
                readers.setdefault(model, []).append(key)
    found = [f"Note: no job here reads {', '.join(keys)} (model={model} does)" for model, keys in readers.items()]
    prepared = [cell.prepared for cell in cells]
    return found + list(
        dict.fromkeys(f"Note: {note}" for item in prepared for note in (*item.notes, *item.workload.notes))
    )


_MODELS = {
    "autoregressive": "llama",
    "diffusion": "llada",
    "transformers": "llama_generate",
    "server": "llama_server",
    "diffusion_server": "llada_server",
}
"""The choice of conf/model that has a way of generating text."""


def _names_judge(key: str) -> bool:
    return key.partition(".")[0] in ("metric", "pair", "judges")


def _require_equal_counts(jobs: Iterable[Job]) -> None:
    """Refuse jobs that would be compared and whose null of `workload.prompts` came out as different numbers."""
    counts: dict[str, int] = {}
    for job in jobs:
        where = f"{job.hardware.device} {replace(job.workload, prompts=None)}"
        if counts.setdefault(where, job.workload.count) != job.workload.count:
            raise ConfigError(
                "workload.prompts is null, which means more prompts for a bundled checkpoint than for another; "
                f"set one for all: workload.prompts={PROMPTS}"
            )


def _require_equal_roles(cells: Sequence[Cell]) -> None:
    """Refuse a sweep that asks one family in its chat template and the other never: nothing could be compared.

    A server that stands apart is asked as it likes; one whose word counts, as every other side.
    """
    asked: dict[str, dict[str, set[bool]]] = {}
    vouched: dict[str, set[bool]] = {}
    for cell in cells:
        workload, decoder = cell.prepared.workload.digest, cell.prepared.job.model.decoder
        chat = bool(cell.prepared.job.model.chat)
        if isinstance(decoder, ServerConfig):
            if not decoder.trust_same_hardware:
                continue
            vouched.setdefault(workload, set()).add(chat)
        asked.setdefault(workload, {}).setdefault(decoder.family, set()).add(chat)
    for workload, roles in vouched.items():
        if len(set.union(roles, *asked[workload].values())) > 1:
            raise ConfigError(
                "trust_same_hardware=true makes a server one more side, but not all sides get a chat template; set "
                "server.api and diffusion_server.api (completions: plain, chat: template) and model.chat to the same"
            )
    for families in asked.values():
        if len(families) > 1 and not set.intersection(*families.values()):
            chatting, plain = sorted(families, key=lambda family: True not in families[family])
            raise ConfigError(
                f"the {chatting} side gets its chat template, the {plain} side has none or is told not to use it; "
                "add model.chat=false for plain prompts on both, or give both an instruction-tuned checkpoint"
            )


def entry(
    cell: Cell, uri: str, sweep: str, parent: str, axis: Sequence[int], expected_s: float | None = None
) -> plan_file.Entry:
    """What the plan's file holds of a cell.

    Args:
        cell: of the plan.
        uri: of the store, absolute.
        sweep: name of the sweep's folder.
        parent: MLflow run id of the sweep.
        axis: K.
        expected_s: seconds that it probably takes.
    """
    job = cell.prepared.job
    return plan_file.Entry(
        identity=cell.prepared.identity,
        title=cell.title,
        job=replace(job, tracking=replace(job.tracking, uri=uri)),
        notes=cell.prepared.notes,
        context=JobContext(sweep=sweep, parent=parent, steps_axis=tuple(axis), swept=cell.swept),
        expected_s=expected_s,
        taken=cell.reused is not None,
    )


def steps_axis(cells: Iterable[Cell]) -> list[int]:
    """K: the diffusion steps of the sweep, over which a model without steps is drawn flat."""
    return sorted({steps for cell in cells if (steps := cell.prepared.job.model.decoder.steps) is not None})


def axes(cells: Sequence[Cell]) -> dict[str, str]:
    """The axes of the sweep with their values, for people: `{"model": "llama, llada", "k": "8, 16"}`."""
    from llmbench import tracking

    models = [cell.prepared.job.model.name for cell in cells]
    return tracking.axes(models, steps_axis(cells), [cell.swept for cell in cells])


def reuse(cells: Sequence[Cell], policy: str, roots: Iterable[Path], here: Callable[[Cell], Environment]) -> list[Cell]:
    """Take over finished jobs from earlier runs under `roots`.

    Only Records of the same identity count, made on the same device with the same threads, package versions and
    commit; with uncommitted changes a commit says nothing, so only an interrupted sweep is then taken up. Where a probe
    chooses the threads, those of the Records stand: of several numbers the one that most of them have.

    Args:
        cells: the plan.
        policy: `interrupted` (sweeps that did not end: the same command goes on where it stopped), `all` (also jobs
            that ran alone), or `none`.
        roots: folders of sweeps and single jobs.
        here: the environment in which a cell would run now.
    """
    if policy == "none":
        return list(cells)
    wanted = {cell.prepared.identity for cell in cells}
    found: dict[str, Record] = {}
    for path in _record_files(roots, wanted):  # a later Record replaces an earlier one
        if policy == "interrupted" and state.ended(path.parent.parent):
            found.pop(_named(path), None)  # a sweep that ended has used up what an earlier one had left
            continue
        with contextlib.suppress(RecordError):  # another format or a damaged file: measure again
            earlier = record.load(path)
            if earlier.status == "finished" and earlier.identity in wanted:
                found[earlier.identity] = earlier
    fitting = [replace(cell, reused=_fitting(found.get(cell.prepared.identity), cell, here, policy)) for cell in cells]
    return _with_equal_threads(fitting)


def _with_equal_threads(cells: Sequence[Cell]) -> list[Cell]:
    """The plan without Records of another number of threads than most, where the number was a probe's choice."""
    chosen = [
        cell.reused.environment.threads for cell in cells if cell.reused and cell.prepared.job.leaves_threads_open
    ]
    most = max(chosen, key=chosen.count, default=0)
    return [
        replace(cell, reused=None)
        if cell.reused and cell.prepared.job.leaves_threads_open and cell.reused.environment.threads != most
        else cell
        for cell in cells
    ]


def _record_files(roots: Iterable[Path], wanted: set[str]) -> list[Path]:
    """Records under `roots` that may be of these identities, oldest run first."""
    begun: dict[Path, str] = {}
    for root in dict.fromkeys(root.resolve() for root in roots):
        of_sweeps = [path for path in root.glob(f"*/*/{RECORD_FILE}") if _named(path) in wanted]
        begun |= {path: state.started(path.parent.parent) for path in of_sweeps}
        # the folder of a job that ran alone names no identity
        begun |= {path: path.parent.name for path in root.glob(f"*/{RECORD_FILE}")}
    return sorted(begun, key=lambda path: (begun[path], str(path)))


def _named(path: Path) -> str:
    """The identity in the name of a sweep's job's folder."""
    return path.parent.name.rpartition("-")[2]


def recorded(cells: Sequence[Cell], roots: Iterable[Path], device_name: str) -> dict[str, Record]:
    """The newest finished Record under `roots` of every cell's identity that was made on a device of this name."""
    found: dict[str, Record] = {}
    wanted = {cell.prepared.identity for cell in cells}
    for path in reversed(_record_files(roots, wanted)):
        if _named(path) in found:
            continue
        with contextlib.suppress(RecordError):
            earlier = record.load(path)
            fits = earlier.status == "finished" and earlier.environment.device_name == device_name
            if fits and earlier.identity in wanted:
                found.setdefault(earlier.identity, earlier)
    return found


def _fitting(earlier: Record | None, cell: Cell, here: Callable[[Cell], Environment], policy: str) -> Record | None:
    """An earlier Record, if measuring again here and now would be the same experiment."""
    if earlier is None:
        return None
    if policy == "all" and isinstance(cell.prepared.job.model.decoder, ServerConfig):
        return None  # behind the same address may be another server by now
    then, now = earlier.environment, here(cell)
    if policy == "all" and (then.git_dirty or now.git_dirty):
        return None
    if not now.device_name:  # planned on another machine than it runs on
        known = {key: then.versions.get(key) for key in now.versions}
        return earlier if (known, then.git_commit) == (now.versions, now.git_commit) else None
    keys = ("device_name", "versions", "git_commit")
    job = cell.prepared.job
    if job.hardware.threads is not None and not job.threads_probed:
        threads = then.threads == now.threads
    else:  # a launcher may have left a worker fewer; what is timed on a GPU or a server needs none
        threads = then.threads <= now.threads or not job.leaves_threads_open
    return earlier if threads and all(getattr(then, key) == getattr(now, key) for key in keys) else None


def forwards(cell: Cell) -> int | None:
    """Most forward passes that generation of this job makes, over all passes that run on any device.

    None for a server, whose forwards nobody knows.
    """
    decoder = cell.prepared.job.model.decoder
    if isinstance(decoder, ServerConfig):
        return None
    per_batch = decoder.forwards if isinstance(decoder, Diffusion) else decoder.max_new_tokens
    return per_batch * sum(generations(cell.prepared, most=True))


def generations(prepared: Prepared, *, most: bool = False) -> tuple[int, ...]:
    """How often a job generates each of its batches, over all passes that run on any device; with `most`, at most."""
    job, batches = prepared.job, len(prepared.partition)
    if job.role == "curve":
        return (1,) * batches
    repeats = job.timing.most_repeats if most else job.timing.repeats
    more = job.timing.warmup + repeats - 1 + job.timing.token_timing_repeats
    repeated = min(job.timing.batches, batches)
    others = 0 if job.role == "retimed" else 1
    return (1 + more,) * repeated + (others,) * (batches - repeated)
