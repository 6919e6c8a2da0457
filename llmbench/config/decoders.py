"""What the ways of generating text can be told: one dataclass each, which checks itself on construction.

`llmbench.config` makes them from `conf/model/decoder/*.yaml` and hands them on; a decoder takes its own.
"""

import re
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import ConfigDict, Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")

Count = Annotated[StrictInt, Field(ge=1)]
CountOrZero = Annotated[StrictInt, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _OneByOne:
    """What every way of writing one token after the other is told."""

    max_new_tokens: Count
    temperature: NonNegative  # 0 is greedy
    top_p: Share = 1.0
    ignore_stop: StrictBool = False  # generate max_new_tokens whatever is said

    @property
    def family(self) -> Literal["autoregressive"]:
        """The kind of model that can be decoded like this."""
        return "autoregressive"

    @property
    def canvas(self) -> int:
        """G: the most tokens that can come out."""
        return self.max_new_tokens

    @property
    def steps(self) -> None:
        """An autoregressive model has no diffusion steps."""
        return None

    @property
    def stochastic(self) -> bool:
        """Whether the seed changes the output."""
        return self.temperature > 0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Autoregressive(_OneByOne):
    """One token after the other, from a KV cache (`llmbench.decoding.autoregressive`)."""

    kind: Literal["autoregressive"]
    stop_check_every: Count = 8  # forwards between two host looks at "has every row stopped?"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Transformers(_OneByOne):
    """Transformers' own `generate`, a second baseline (`llmbench.decoding.generate`)."""

    kind: Literal["transformers"]
    cache: Literal["dynamic", "static"] = "dynamic"  # static: of full length from the start; compiles on CUDA


_OWN_FIELDS = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "canvas"),
    "temperature": "temperature",
    "seed": "seed",
    "top_p": "model.decoder.top_p",
    "model": "server.served_model",
    **dict.fromkeys(("prompt", "messages"), "workload"),
    **dict.fromkeys(("stream", "stream_options", "n", "best_of", "echo", "suffix"), ""),
}
"""Fields of a request that are set by something else, and by what; "" = not to be changed."""

_SECRET = re.compile("api_?key|authorization|password|secret", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Server:
    """A server that speaks OpenAI's HTTP interface: vLLM, SGLang, `transformers serve`. Dials: `server.*`.

    The key is read from the environment (OPENAI_API_KEY) when a request is made, and stands nowhere else.
    """

    url: str = "http://localhost:8000/v1"
    served_model: str | None = None  # None: the one that the server lists
    api: Literal["completions", "chat"] = "completions"  # the prompt as it is, or as a message in the chat template
    timeout_s: Positive = 600.0  # of one output, from the request to its last token
    extra: dict[str, Any] = Field(default_factory=dict)  # more fields of every request; they stand in the Record
    trust_same_hardware: StrictBool = False  # the user's word: it runs on this device, so a verdict may rest on it

    def __post_init__(self) -> None:
        """Refuse addresses that are none or carry a secret, and fields that are set elsewhere."""
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("the url must be like http://localhost:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("the url must be an address alone; a key goes into the environment as OPENAI_API_KEY")
        for key in filter(_SECRET.search, self.extra):
            raise ValueError(
                f"extra.{key}: extra stands in the Record; a key goes into the environment as OPENAI_API_KEY"
            )
        for key in sorted(self.extra.keys() & _OWN_FIELDS.keys()):
            instead = _OWN_FIELDS[key]
            raise ValueError(f"extra.{key} is not for extra; {f'set {instead}' if instead else 'leave it out'}")

    @property
    def base(self) -> str:
        """The address that paths are appended to; /v1 when the url has no path."""
        return self.url.rstrip("/") if self._parts.path.strip("/") else f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a Record calls the place."""
        return f"{self._parts.scheme}://{self._parts.netloc}"

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServerDecoder(Server, _OneByOne):
    """Whatever a server does with a prompt (`job.server`): a baseline whose weights and device are elsewhere."""

    kind: Literal["server"]

    def __post_init__(self) -> None:
        """Refuse what a text that comes over the wire does not show."""
        super().__post_init__()
        if self.ignore_stop:
            raise ValueError("ignore_stop: a server's text does not show where it stopped; use ignore_stop=false")


def even(masked: int, steps: int) -> list[int]:
    """How many tokens each of `steps` steps makes final: as even as possible, the remainder in the first steps.

    10 tokens in 4 steps are 3, 3, 2, 2, as in the official LLaDA sampler. With more steps than tokens the tail is 0;
    those steps still run a forward.
    """
    each, rest = divmod(masked, steps)
    return [each + (step < rest) for step in range(steps)]


def at_least(schedule: list[int], each: int) -> list[int]:
    """A schedule that makes at least `each` tokens final in every step, until none is left.

    4, 4, 4, 4 with at least 6 is 6, 6, 4.
    """
    left, counts = sum(schedule), list[int]()
    for count in schedule:
        if left:
            counts.append(min(left, max(each, count)))
            left -= counts[-1]
    return counts


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Diffusion:
    """Unmasking a canvas in denoising steps (`llmbench.decoding.diffusion`)."""

    kind: Literal["diffusion"]
    steps: Count  # k, over all blocks; with `threshold` or `factor` the most there can be; see also `idle_steps`
    canvas: Count  # G
    block_length: Count  # canvas = pure diffusion; smaller = block after block, left to right
    temperature: NonNegative  # of the float64 Gumbel noise; 0 is argmax
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    cfg_scale: NonNegative = 0.0  # classifier-free guidance; > 0 doubles the forwards
    confidence_dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    suppress_eos: StrictBool = False  # the official `logits_eos_inf`
    late_eos: StrictBool = False  # the official `confidence_eos_eot_inf`: stop tokens are committed last
    cache: Literal["none", "prefix", "dual"] = "none"  # what later steps of a block take over from its first
    threshold: Share | None = None  # also commit every candidate at least so probable
    factor: Positive | None = None  # also commit the n most probable while the n-th has 1 - factor / (n + 1)
    fixed_tokens_per_forward: Count | None = None  # commit so many, whatever the text: what dummy weights need
    early_stop: StrictBool = False  # no further block once every row has a stop token; needs several blocks

    def __post_init__(self) -> None:
        """Refuse schedules that do not divide, and rules that contradict each other."""
        if self.canvas % self.block_length:
            raise ValueError(f"block_length {self.block_length} must divide canvas {self.canvas}")
        blocks = self.canvas // self.block_length
        if self.steps % blocks:
            shape = f"canvas {self.canvas} / block_length {self.block_length}"
            raise ValueError(f"steps {self.steps} must be a multiple of the {blocks} blocks ({shape})")
        if self.threshold is not None and self.factor is not None:
            raise ValueError("threshold and factor are two rules for the same thing; set one of them to null")
        if self.adaptive and self.remasking == "random":
            raise ValueError("threshold and factor look at confidences; use remasking=low_confidence")
        if self.early_stop and blocks == 1:
            raise ValueError(
                f"early_stop looks between blocks, and block_length {self.block_length} makes one block of canvas "
                f"{self.canvas}; lower block_length, or use early_stop=false"
            )
        if self.fixed_tokens_per_forward is not None:
            self._refuse_what_would_not_be_forced(self.fixed_tokens_per_forward)

    def _refuse_what_would_not_be_forced(self, each: int) -> None:
        """Raise where another number of tokens than the forced one would become final."""
        given = f"fixed_tokens_per_forward {each}"
        if each > self.block_length:
            raise ValueError(
                f"{given} exceeds the block: {self.block_length} would run; use at most block_length "
                f"{self.block_length}, or raise block_length"
            )
        least = even(self.block_length, self._steps_of_a_block)[0]
        if each < least:
            raise ValueError(
                f"{given} is less than the schedule of steps {self.steps} commits anyway: {least} would run; use at "
                f"least {least}, or raise steps"
            )

    @property
    def _steps_of_a_block(self) -> int:
        return self.steps * self.block_length // self.canvas

    @property
    def schedule(self) -> list[int]:
        """How many tokens of a block each of its steps makes final, at least; as many steps as there can be.

        Where a rule or a forced number ends a block when it is full, no step is idle.
        """
        counts = even(self.block_length, self._steps_of_a_block)
        if self.fixed_tokens_per_forward is not None:
            return at_least(counts, self.fixed_tokens_per_forward)
        return at_least(counts, 1) if self.adaptive else counts

    @property
    def forwards(self) -> int:
        """Forward passes of one generation, guidance counted twice: the most there can be."""
        return len(self.schedule) * (self.canvas // self.block_length) * (2 if self.cfg_scale else 1)

    @property
    def idle_steps(self) -> int:
        """Steps that run a forward and make no token final, because their block has fewer tokens than steps.

        As in the official sampler. There are some exactly where k exceeds the canvas, whatever the block length; the
        text is then that of `steps` = `canvas`, later. Rules that end a block when it is full have none.
        """
        return self.schedule.count(0) * (self.canvas // self.block_length)

    @property
    def idle_phrase(self) -> str:
        """What that means, for people."""
        return (
            f"steps {self.steps} exceed the canvas of {self.canvas} tokens: {self.idle_steps} of the steps run and "
            f"make nothing final, so the text is that of steps={self.canvas}, only later; raise canvas or lower steps"
        )

    @property
    def rule(self) -> Literal["threshold", "factor"] | None:
        """What is asked to commit candidates ahead of the schedule."""
        return "threshold" if self.threshold is not None else "factor" if self.factor is not None else None

    @property
    def adaptive(self) -> bool:
        """Whether the number of forwards depends on what is written."""
        return self.fixed_tokens_per_forward is None and self.rule is not None

    @property
    def family(self) -> Literal["diffusion"]:
        """The kind of model that can be decoded like this."""
        return "diffusion"

    @property
    def stochastic(self) -> bool:
        """Whether the seed changes the output."""
        return self.temperature > 0 or self.remasking == "random"


DecoderConfig = Autoregressive | Transformers | ServerDecoder | Diffusion
