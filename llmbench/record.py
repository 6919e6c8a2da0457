"""What does one job leave behind? Read this first.

A `Record` is the hinge of the project. Left of it a job measures; right of it analysis, tracking, reports and
notebooks read nothing else. So it holds *raw* material: every output, every batch's time in every repeat, sums per
prompt; all metrics can be computed from it again, also ones that do not exist yet. `metrics` holds the values that
`llmbench.metrics` computed when the job ended, under the keys of `llmbench.metrics.keys.METRICS`.

Absent is None (or a missing key): never 0, never NaN. Units are in the names. Everything is frozen. This module imports
neither torch nor mlflow: a report is rebuilt on a laptop.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge

from llmbench.errors import RecordError
from llmbench.system.files import write_atomic

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

# Format history. A format that was released keeps a recorded file as a fixture when the next one comes.
# 1: first.
# 2: outputs without text: `Output.prompt`, `Output.text`, `utf8_bytes` of outputs and timings may be None; reads 1.
# 3: `context`, `traceback`; the settings of `_RENAMED` have their new names; reads 1 and 2.
# 4: `role`, `process`, `device_uuid`, `Output.document`; of a PromptScore entropy at prefixes, NLL under other prompts
#    and under a second judge, shared 4-grams; repetition over the whole text; reads 1 to 3.
# 5: the engine "graph" is called "fused"; reads 1 to 4.
FORMAT_VERSION = 5
READABLE = (1, 2, 3, 4, 5)

Family = Literal["autoregressive", "diffusion"]
Subject = Literal["output", "human", "shuffled", "prompt_tail", "empty"]
Role = Literal["timed", "curve", "retimed"]
"""What a job is for: a full measurement; a point of the baseline's curve (one pass, texts alone); a baseline that was
timed again in the process that timed the candidates (times alone)."""

ROLE_SUFFIX: dict[Role, str] = {"timed": "", "curve": " (curve)", "retimed": " (timed again)"}
"""What stands behind the name of a job of each role, for people."""

Amount = Annotated[float, Ge(0)]
"""A time, a duration, an energy or a rate."""

Count = Annotated[int, Ge(0)]
"""How many, or bytes."""

_NUMBERS: "ConfigDict" = {"allow_inf_nan": False}
"""A file that holds NaN or infinity here is refused when it is read."""

_KEEP_ODD: "ConfigDict" = {"ser_json_inf_nan": "strings"}
"""NaN and infinity as "NaN" and "Infinity": valid JSON, and not the null of a sum that was never taken."""

N = TypeVar("N", int, float)

FLOORS: tuple[Subject, ...] = ("shuffled", "prompt_tail", "empty")
"""The texts a working metric must rank below real ones; the best of the three is the metric's floor."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What the model wrote for one prompt in the first timed repeat: the text that is scored."""

    prompt_id: str
    task: str
    prompt: str | None  # None: random tokens (synthetic prompts)
    text: str | None  # None: random weights write no text
    batch: Count
    tokens: Count  # N_i: tokens before the first stop token, at most G; with dummy weights nothing stops
    utf8_bytes: Count | None  # of `text`
    stopped: bool  # a stop token was produced
    document: str | None = None  # from which the prompt was taken: prompts of one document are a cluster


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One batch in one repeat of the timed pass."""

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    batch: Count
    repeat: Count
    e2e_ms: Amount  # CUDA: event pair; CPU: monotonic host clock
    e2e_wall_ms: Amount  # the same region by the host clock
    prefill_ms: Amount | None  # AR: until the first output token is final
    forwards: (
        Count | Amount | None
    )  # NFE; guidance counts twice; of a server the mean over its rows, None where unknown
    tokens: Count  # sum of N_i over the batch
    utf8_bytes: Count | None  # of the batch's outputs; None where they have no text
    throttled: bool | None = None  # None where the device does not tell
    longest_row: Count | None = None  # of a server: tokens of it with its stop token, where all were seen


@dataclass(frozen=True, kw_only=True)
class Marks:
    """One repeat of the marked pass: when each token (AR) or denoising step (diffusion) of a batch was final."""

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    batch: Count
    repeat: Count
    at_ms: tuple[Amount, ...]  # since t_start, one per forward
    first_text: Count | None = None  # forwards until the first text is final and can be shown


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Why no further repeat was made, where `timing.until` decided that."""

    repeats: int  # that were made
    half_width: float | None  # of the 95 % interval of L_e2e, relative to its median; None without an interval
    until: float  # what was asked for
    reason: Literal["narrow", "most repeats"]  # the interval was narrow enough, or `timing.until_repeats` were made


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """Memory, energy and clocks of one job. Fields that the device cannot tell are None."""

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    model_reserved_bytes: Count | None = None
    setup_peak_reserved_bytes: Count | None = None
    peak_reserved_bytes: Count | None = None
    peak_allocated_bytes: Count | None = None
    device_used_bytes: Count | None = None
    peak_rss_bytes: Count | None = None  # CPU runs only
    reserved_trace_bytes: tuple[Count, ...] = ()  # after prefill and each later token, or after each step
    allocated_trace_bytes: tuple[Count, ...] = ()  # in live tensors, at the same times
    profiled_e2e_ms: Amount | None = None
    kernel_ms: Amount | None = None  # time in which at least one kernel runs, in that same profiled pass
    energy_joules: Amount | None = None
    energy_window_s: Amount | None = None
    energy_tokens: Count | None = None  # valid output tokens generated inside the window
    energy_utf8_bytes: Count | None = None
    sm_clock_mhz_before: Count | None = None
    sm_clock_mhz_after: Count | None = None
    throttle_reasons: tuple[str, ...] | None = None  # () = read and none active
    # highest mean share of the multiprocessors that another process had over the timed pass
    other_sm_percent: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class ForwardShape:
    """The size of one forward pass, as the decoder asked for it.

    `rows` sequences, `queries` new positions each, attending to `keys` positions (themselves included); the output
    head computed at `logits` positions of each row. `padding` of the keys of all rows together are no text; where a
    forward reads whole sequences (queries = keys), neither are as many queries. `causal`: whether each query sees
    nothing behind itself, and keys and values are kept; None is as the model always does.
    """

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    rows: Count
    queries: Count
    keys: Count
    logits: Count
    padding: Count = 0
    causal: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ForwardCost:
    """The least work of `count` equal forwards: floating-point operations and bytes that must move."""

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    shape: ForwardShape
    count: Count
    flops: Amount  # of one forward
    bytes: Amount  # of one forward


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What this device can do at most, measured in the same run."""

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    flops_per_s: Amount
    bytes_per_s: Amount
    last_level_cache_bytes: Count | None
    judged: bool  # False when the weights fit in about 4x the last-level cache: bandwidth does not bound them


@dataclass(frozen=True, kw_only=True)
class PromptScore:
    """Sums of one prompt for one text: the model's output, the human reference, or a floor text.

    NLL under the judge given the prompt; diversity over the first m judge tokens. Values are pure functions of sums of
    these. A damaged judge gives sums that are no numbers: they are kept as they are, for a verdict to name them.
    """

    __pydantic_config__: ClassVar["ConfigDict"] = _KEEP_ODD

    prompt_id: str
    subject: Subject
    utf8_bytes: int
    nll_nats: float | None = None
    judged_tokens: int | None = None
    entropy_nats: float | None = None
    bigrams: int | None = None
    distinct_bigrams: int | None = None
    diversity_tokens: int | None = None  # judge tokens looked at, at most m
    text_tokens: int | None = None  # judge tokens of the whole text, without a stop token; None before format 4
    # of the whole text (before format 4: of the `diversity_tokens`), inside a 4-gram that occurs more than once
    repeated_tokens: int | None = None
    entropy_prefixes: tuple[tuple[int, float], ...] = ()  # (m, nats): entropy of the first m judge tokens, m rising
    other_nll_nats: tuple[float, float] | None = None  # NLL of the same text given each of two other prompts
    shared_4grams: float | None = None  # share of the output's 4-grams that occur in outputs of other prompts
    second_nll_nats: float | None = None  # under `metric.perplexity.second_judge`
    second_judged_tokens: int | None = None
    bertscore_precision: float | None = None
    bertscore_recall: float | None = None
    bertscore_f1: float | None = None
    correct: bool | None = None  # where an answer can be checked


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Negative log-likelihood of held-out text under the model itself: exact (AR) or an upper bound (diffusion)."""

    __pydantic_config__: ClassVar["ConfigDict"] = _KEEP_ODD

    nll_nats: float
    utf8_bytes: int
    bound: bool
    standard_error_nats: float | None  # Monte-Carlo error of the bound
    texts: int | None = None  # None in Records older than these two fields
    scored_tokens: int | None = None  # the model's own: all but the first of each text


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a Record was made. `versions` maps package to version."""

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    device: str  # "cpu", "cuda"
    device_name: str  # "NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) ..."
    driver: str | None
    threads: Count
    load_average: Amount | None  # 1 minute, at the start of the job; a busy machine explains a slow one
    python: str
    platform: str
    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None
    device_uuid: str | None = None  # of the card; None where the device has none
    others_timing: Count | None = None  # other cards of this host on which llmbench timed when the job began


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """What a sweep tells one of its jobs. It changes nothing that is measured and is no part of a job's identity."""

    sweep: str | None = None  # name of the sweep's folder; None for a job that ran alone
    parent: str | None = None  # MLflow run id of the sweep
    steps_axis: tuple[int, ...] = ()  # K: every number of diffusion steps that the sweep planned
    swept: dict[str, str] = field(default_factory=dict)  # this job's values on the axes on which jobs differ


@dataclass(frozen=True, kw_only=True)
class Record:
    """One job: what was asked, under which conditions, what came out. See the module docstring."""

    __pydantic_config__: ClassVar["ConfigDict"] = _NUMBERS

    identity: str  # hash of what the job builds; names the folder
    model: str  # "llama", "llada": the side
    family: Family
    steps: Count | None  # diffusion steps k; None for a model that has none
    status: Literal["finished", "failed", "missing"]  # missing: stands for a planned job that has not run, never saved
    reason: str | None  # one line, when failed
    traceback: str | None = None  # when failed by an error that nobody foresaw
    started_at: str  # ISO 8601, UTC
    duration_s: Amount
    config: dict[str, Any]  # fully resolved
    conditions: dict[str, str]  # what must agree before this Record is compared with another
    role: Role = "timed"
    # host, and process id with its start time, or in a process of its own the sweep and block that started it: within
    # one, the baseline before and after the candidates shows what has drifted; "" in older Records
    process: str = ""
    signatures: dict[str, str]  # checkpoint, workload, judges, encoder, likelihood: name and content hash
    environment: Environment
    partition: tuple[tuple[str, ...], ...] = ()  # prompt ids of each batch
    outputs: tuple[Output, ...] = ()
    timings: tuple[Timing, ...] = ()
    stopping: Stopping | None = None  # None: a fixed number of repeats
    marks: tuple[Marks, ...] = ()
    tokenize_ms: Amount | None = None  # mean over batches
    setup_s: Amount | None = None  # making the engine ready for every shape: fusing, compiling, capturing
    canvas: Count | None = None  # G
    block_length: Count | None = None  # diffusion
    device_use: DeviceUse = field(default_factory=DeviceUse)
    forward_costs: tuple[ForwardCost, ...] = ()  # of the first repeated batch
    other_forward_costs: tuple[tuple[ForwardCost, ...], ...] = ()  # of each other one; () also in older Records
    repeated_batches: tuple[Count, ...] = ()  # the fixed part of the partition that repeats > 0 run
    ceilings: Ceilings | None = None
    scores: tuple[PromptScore, ...] = ()
    likelihood: Likelihood | None = None
    notes: tuple[str, ...] = ()  # what a reader must know before trusting a number
    metrics: dict[str, float] = field(default_factory=dict)
    context: JobContext = field(default_factory=JobContext)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Refuse what is not a number; a value that cannot be computed is absent instead."""
        for key, value in self.metrics.items():
            if not math.isfinite(value):
                raise RecordError(f"metric {key} of job {self.identity} is {value}; absent values must be left out")

    @property
    def side(self) -> str:
        """The label without k: what all Records of one curve share."""
        from llmbench.config.decoders import job_label

        return job_label(self.model, self.family, None, self.config.get("model", {}).get("decoder", {}))

    @property
    def draft(self) -> str | None:
        """What proposed tokens for its forwards to verify: "lookup", "model", "llada"; None where nothing did."""
        drafted: str | None = self.config.get("model", {}).get("decoder", {}).get("draft")
        return drafted

    @property
    def label(self) -> str:
        """The job's name for people: `llama`, `llama transformers static`, `llada k=16`, `llada dual k=16`."""
        return self.side if self.steps is None else f"{self.side} k={self.steps}"

    def to_json(self) -> bytes:
        """Serialise, exactly and readably; the last key is a checksum of all that stands before it."""
        text = _adapter().dump_json(self, indent=1)
        return text.removesuffix(_END) + _CHECKSUM % hashlib.sha256(text).hexdigest().encode() + _END

    def save(self, folder: Path) -> Path:
        """Write `record.json` into `folder`, whole or not at all. Raises OSError where it cannot be written."""
        return write_atomic(folder / "record.json", self.to_json())


def total(sizes: Iterable[N | None]) -> N | None:
    """The sum of sizes; None when one of them is absent."""
    known = list(sizes)
    return None if None in known else sum((size for size in known if size is not None), start=0)


def sorted_records(records: Iterable[Record]) -> list[Record]:
    """Full measurements first (models without steps, then by model, steps and identity), then the other roles."""
    roles = list(ROLE_SUFFIX)
    key = lambda item: (roles.index(item.role), item.steps is not None, item.model, item.steps or 0, item.identity)  # noqa: E731
    return sorted(records, key=key)


def timed(records: Iterable[Record]) -> list[Record]:
    """The full measurements alone: without points of the baseline's curve and baselines that were timed again."""
    return [record for record in records if record.role == "timed"]


def from_server(record: Record) -> bool:
    """Whether a server wrote it (`model=llama_server`): by wall clock, on hardware that is not known."""
    return record.conditions.get("engine") == "server"


def load(path: Path) -> Record:
    """Read a Record from a file. Raises RecordError when it is missing, damaged or of another format."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error


def parse(data: bytes) -> Record:
    """Read a Record from JSON. Raises RecordError."""
    from pydantic import ValidationError

    try:
        values = json.loads(data)
        version = values.get("format_version")
        if version not in READABLE:
            raise RecordError(
                f"record format {version}, this llmbench reads up to {FORMAT_VERSION}; use the version that wrote it"
            )
        if "checksum" in values and not _is_unchanged(data):
            raise RecordError("the checksum does not agree: the file was changed or damaged after it was written")
        if version < FORMAT_VERSION:
            data = json.dumps(_renamed(values)).encode()
        return _adapter().validate_json(data)
    except RecursionError as error:
        raise RecordError("not a record: JSON: nested too deeply") from error
    except (ValueError, AttributeError) as error:  # ValidationError is a ValueError
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "JSON"
        raise RecordError(f"not a record: {where}: {str(error).splitlines()[0]}") from error


_END = b"\n}"
_CHECKSUM = b',\n "checksum": "%b"'


def _is_unchanged(data: bytes) -> bool:
    """Whether the checksum at the end of a Record's JSON is that of the text without it."""
    found = re.fullmatch(rb'(.*),\n "checksum": "([0-9a-f]{64})"\n}\s*', data, re.DOTALL)
    return found is not None and hashlib.sha256(found[1] + _END).hexdigest().encode() == found[2]


_RENAMED = {
    "same_hardware": "trust_same_hardware",
    "marked_repeats": "token_timing_repeats",
    "forced_tokens_per_forward": "fixed_tokens_per_forward",
    "endpoint": "server",
    "scale": "pair",
    "looks": "planned_analyses",
}
"""What settings were called before format 3, as keys of a configuration and as `decoding.KEY` of the conditions."""

_RENAMED_VALUES = {"endpoint": "server", "graph": "fused"}
"""What decoders were called before format 3, and engines before format 5."""


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """A Record of an earlier format with the settings' new names."""

    def of_config(item: Any) -> Any:
        if isinstance(item, dict):
            return {_RENAMED.get(key, key): of_config(value) for key, value in item.items()}
        return item

    conditions = {"second_judge": "none"} if "judge" in values.get("conditions", {}) else {}
    for key, value in values.get("conditions", {}).items():
        room, dot, leaf = key.rpartition(".")
        named = _RENAMED_VALUES.get(value, value) if key in ("engine", "decoding.kind") else value
        conditions[f"{room}{dot}{_RENAMED.get(leaf, leaf)}"] = named
    config = of_config(values.get("config", {}))
    for room, key in ((config.get("model", {}).get("decoder", {}), "kind"), (config.get("hardware", {}), "engine")):
        if room.get(key) in _RENAMED_VALUES:
            room[key] = _RENAMED_VALUES[room[key]]
    return values | {"conditions": conditions, "config": config}


@functools.cache
def _adapter() -> "TypeAdapter[Record]":
    """Pydantic's reader and writer of Record: strict types from the dataclasses above, no second schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(Record)
