"""What the ways of generating text can be told: one dataclass each, which checks itself on construction.

Every option is one field here, with its default and what follows from it (`Option`). Labels, identity, help, forecast
and the conditions of a comparison read that; nothing else lists options.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import SplitResult, urlsplit

from pydantic import ConfigDict, Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

from llmbench.config.diffusion_engines import ENGINES, DiffusionEngine, EngineName

STRICT = ConfigDict(extra="forbid")

Count = Annotated[StrictInt, Field(ge=1)]
CountOrZero = Annotated[StrictInt, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]

Family = Literal["autoregressive", "diffusion"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """What follows from a decoder's option."""

    key: str | None = None  # at the top of the configuration, for every model; None: model.decoder.NAME alone
    own_key: str | None = None  # the same for this way alone; unless it is null it counts instead of `key`
    label: str | None = None  # how a job's name calls it away from its default; "" shows the value alone
    implementation: bool = False  # it says with which code a text is generated, and not which text
    skips_work: bool = False  # away from its default the number or size of forwards depends on what is written


def option(
    default: Any,
    *,
    key: str | None = None,
    own_key: str | None = None,
    label: str | None = None,
    implementation: bool = False,
    skips_work: bool = False,
) -> Any:
    """A field of a decoder with its default and what follows from it; arguments as in `Option`."""
    about = Option(key=key, own_key=own_key, label=label, implementation=implementation, skips_work=skips_work)
    return dataclasses.field(default=default, metadata={"option": about})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _OneByOne:
    """What every way of writing one token after the other is told."""

    max_new_tokens: Count = option(64, key="canvas")
    temperature: NonNegative = option(0.7, key="temperature")  # 0 is greedy
    top_p: Share = option(1.0, key="top_p")  # draw from the most probable tokens that hold this share
    top_k: Count | None = option(None, key="top_k", label="top_k")  # draw from the k most probable tokens
    ignore_stop: StrictBool = option(False, key="ignore_stop")  # generate max_new_tokens whatever is said

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
class _Drafting(_OneByOne):
    """Speculative decoding: something proposes tokens, one forward verifies them. The text stays the model's own."""

    # lookup: n-grams of prompt and output; model: a smaller checkpoint; llada: a diffusion model, a block at a time
    draft: Literal["lookup", "model", "llada"] | None = option(
        None, key="draft", label="draft", implementation=True, skips_work=True
    )
    draft_tokens: Annotated[StrictInt, Field(ge=1, le=31)] = option(7, key="draft_tokens", implementation=True)
    draft_checkpoint: str | None = option(None, key="draft_checkpoint", implementation=True)  # of model and llada

    def __post_init__(self) -> None:
        """Forget what the chosen draft does not read, so that equal jobs are one; refuse a draft without weights."""
        read = _READ_BY_DRAFT[self.draft]
        for item in dataclasses.fields(self):
            if item.name in _READ_BY_DRAFT["llada"] - read:
                object.__setattr__(self, item.name, item.default)
        if "draft_checkpoint" in read and not self.draft_checkpoint:
            raise ValueError(
                f"draft={self.draft} needs a checkpoint; add draft_checkpoint=/path/to/folder, or hub:ORG/NAME"
            )


_READ_BY_DRAFT: dict[str | None, frozenset[str]] = {
    None: frozenset(),
    "lookup": frozenset({"draft_tokens", "fixed_accepted_tokens"}),
    "model": frozenset({"draft_tokens", "fixed_accepted_tokens", "draft_checkpoint"}),
    "llada": frozenset({"draft_tokens", "fixed_accepted_tokens", "draft_checkpoint", "draft_steps"}),
}
"""The options of each draft."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Autoregressive(_Drafting):
    """One token after the other, from a KV cache (`llmbench.decoding.autoregressive`, `speculation` with a draft)."""

    kind: Literal["autoregressive"] = option("autoregressive", implementation=True)
    stop_check_every: Count = option(
        8, implementation=True
    )  # forwards between two checks whether every row has stopped
    draft_steps: Count = option(1, key="draft_steps", implementation=True)  # llada: forwards for a block
    # accept so many, whatever the text: what dummy weights need
    fixed_accepted_tokens: CountOrZero | None = option(
        None, key="fixed_accepted_tokens", label="accepted", implementation=True
    )

    def __post_init__(self) -> None:
        """Refuse more of anything than there are drafted tokens."""
        super().__post_init__()
        for name in ("draft_steps", "fixed_accepted_tokens"):
            if (value := getattr(self, name) or 0) > self.draft_tokens:
                raise ValueError(f"{name} {value} exceeds draft_tokens {self.draft_tokens}; lower it")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Transformers(_Drafting):
    """Transformers' own `generate`, a second baseline (`llmbench.decoding.generate`)."""

    kind: Literal["transformers"] = option("transformers", implementation=True)
    # static: of full length from the start; compiles on CUDA
    cache: Literal["dynamic", "static"] = option("dynamic", label="", implementation=True)

    def __post_init__(self) -> None:
        """Refuse what `generate` cannot draft with."""
        super().__post_init__()
        if self.draft == "llada":
            raise ValueError("Transformers drafts with lookup or model; for draft=llada use model=llama")
        if self.draft is not None and self.cache == "static":
            raise ValueError("Transformers drafts with its dynamic cache alone; use model.decoder.cache=dynamic")


_OWN_FIELDS = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "canvas"),
    "temperature": "temperature",
    "seed": "seed",
    "top_p": "top_p",
    "model": "server.served_model",
    **dict.fromkeys(("prompt", "messages"), "workload"),
    **dict.fromkeys(("stream", "stream_options", "n", "best_of", "echo", "suffix"), ""),
}
"""Fields of a request that are set by something else, and by what; "" = not to be changed."""


def _require_address(url: str) -> None:
    """Refuse an address that is none, or holds a secret."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("the url must be like http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("the url must be an address alone; a key goes into the environment as OPENAI_API_KEY")


_SECRET = re.compile("api_?key|authorization|password|secret", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServerConfig:
    """A server that speaks OpenAI's HTTP interface: vLLM, SGLang, `transformers serve`. Dials: `server.*`.

    The key is read from the environment (OPENAI_API_KEY) when a request is made, and stands nowhere else.
    """

    url: str = option("http://localhost:8000/v1", implementation=True)
    served_model: str | None = option(None, implementation=True)  # None: the one that the server lists
    api: Literal["completions", "chat"] = "completions"  # the prompt as it is, or as a message in the chat template
    timeout_s: Positive = 600.0  # of one output, from the request to its last token
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # what the request calls the canvas
    leave_out: list[Literal["seed", "stream_options", "top_p"]] = Field(default_factory=list)  # what the server refuses
    # more fields of every request; they stand in the Record
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, metadata={"option": Option(implementation=True)})
    # the user's word: it runs on this device, serves the checkpoint that the model names, and what `extra` and its own
    # defaults add leaves the text's distribution as it is; a verdict may then rest on it
    trust_same_hardware: StrictBool = option(False, implementation=True)

    def __post_init__(self) -> None:
        """Refuse addresses that are none or carry a secret, and fields that are set elsewhere."""
        _require_address(self.url)
        for key in filter(_SECRET.search, self.extra):
            raise ValueError(f"extra.{key}: every Record shows extra; put a key into the environment as OPENAI_API_KEY")
        for key in sorted(self.extra.keys() & _OWN_FIELDS.keys()):
            instead = _OWN_FIELDS[key]
            raise ValueError(f"extra.{key} is not for extra; {f'set {instead}' if instead else 'leave it out'}")

    @property
    def group(self) -> str:
        """Where these settings stand in the configuration."""
        return "server"

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
class ServerDecoder(ServerConfig, _OneByOne):
    """Whatever a server does with a prompt (`job.server`): a baseline whose weights and device are elsewhere."""

    kind: Literal["server"] = option("server", implementation=True)

    def __post_init__(self) -> None:
        """Refuse what a server's text does not show, and one thing set twice."""
        super().__post_init__()
        if self.top_k is not None and "top_k" in self.extra:
            raise ValueError("extra.top_k and top_k set the same thing; leave one of them out")
        if "top_p" in self.leave_out and self.top_p != 1:
            raise ValueError(f"leave_out: top_p is {self.top_p:g} and cannot be left out; set top_p=1.0")
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

    kind: Literal["diffusion"] = "diffusion"
    steps: Count = option(64, key="steps")  # k, over all blocks; see also `idle_steps`
    canvas: Count = option(64, key="canvas")  # G
    # left out: the canvas, which is pure diffusion; smaller fills block after block, left to right
    block_length: Count = option(None, key="block_length")
    # of the float64 Gumbel noise; 0 is argmax
    temperature: NonNegative = option(0.7, key="temperature", own_key="diffusion_temperature")
    top_k: Count | None = option(None, key="top_k", label="top_k")  # propose one of the k most probable tokens
    # what later steps of a block take over from its first
    cache: Literal["none", "prefix", "dual"] = option("none", key="cache", label="", skips_work=True)
    # also commit every candidate at least so probable
    threshold: Share | None = option(None, key="threshold", label="threshold", skips_work=True)
    # also commit the n most probable while the n-th has 1 - factor / (n + 1)
    factor: Positive | None = option(None, key="factor", label="factor", skips_work=True)
    # commit so many, whatever the text: what dummy weights need
    fixed_tokens_per_forward: Count | None = option(
        None, key="fixed_tokens_per_forward", label="fixed", skips_work=True
    )
    remasking: Literal["low_confidence", "random"] = option("low_confidence", key="remasking", label="remasking")
    cfg_scale: NonNegative = option(0.0, key="cfg_scale", label="cfg_scale")  # > 0 doubles the forwards
    # no further block once every row has a stop token; needs several blocks
    early_stop: StrictBool = option(False, key="early_stop", label="early_stop", skips_work=True)
    confidence_dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    suppress_eos: StrictBool = False  # the official `logits_eos_inf`
    late_eos: StrictBool = False  # the official `confidence_eos_eot_inf`: stop tokens are committed last

    def __post_init__(self) -> None:
        """Refuse schedules that do not divide, and rules that contradict each other."""
        if self.block_length is None:
            object.__setattr__(self, "block_length", self.canvas)
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DiffusionServerConfig(ServerConfig):
    """A server of a diffusion model. Dials: `diffusion_server.*`."""

    url: str = option("http://localhost:8001/v1", implementation=True)
    engine: EngineName | None = None  # whose way of setting k and counting forwards it has (`diffusion_engines`)
    steps_field: str | None = None  # the field of a request that holds k, in place of the engine's
    urls: dict[Annotated[int, Field(ge=1)], str] | None = None  # by k, where k belongs to the server

    def __post_init__(self) -> None:
        """Refuse addresses that are none, and k set in two ways."""
        super().__post_init__()
        for url in (self.urls or {}).values():
            _require_address(url)
        if self.urls and self.steps_field is not None:
            raise ValueError("steps_field sends k with a request, urls has a server for each k; leave one of them out")

    @property
    def group(self) -> str:
        """Where these settings stand in the configuration."""
        return "diffusion_server"

    @property
    def preset(self) -> DiffusionEngine | None:
        """What is known of the engine."""
        return None if self.engine is None else ENGINES[self.engine]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DiffusionServer(DiffusionServerConfig):
    """Whatever a server of a diffusion model does with a prompt; `url` is that of k, where `urls` has it."""

    kind: Literal["diffusion_server"] = option("diffusion_server", implementation=True)
    steps: Count = option(64, key="steps")  # k, as the engine counts it
    canvas: Count = option(64, key="canvas")
    temperature: NonNegative = option(0.7, key="temperature", own_key="diffusion_temperature")
    top_k: Count | None = option(None, key="top_k", label="top_k")

    def __post_init__(self) -> None:
        """Take the address of this k."""
        super().__post_init__()
        if self.top_k is not None and "top_k" in self.extra:
            raise ValueError("extra.top_k and top_k set the same thing; leave one of them out")
        if not self.urls:
            return
        if self.steps not in self.urls:
            known = ", ".join(map(str, sorted(self.urls)))
            raise ValueError(f"steps {self.steps} has no server: diffusion_server.urls has {known}")
        object.__setattr__(self, "url", self.urls[self.steps])
        object.__setattr__(self, "urls", {self.steps: self.url})  # another k's server is no part of this job

    @property
    def family(self) -> Literal["diffusion"]:
        """The kind of model that can be decoded like this."""
        return "diffusion"

    @property
    def stochastic(self) -> bool:
        """Whether the seed changes the output."""
        return self.temperature > 0

    @property
    def sent_steps(self) -> str | None:
        """The field of a request that holds k; None where the server has it."""
        if self.urls:
            return None
        return self.steps_field or (self.preset.steps_field if self.preset else None)

    def require_steps(self) -> None:
        """Refuse a server that would not be told k.

        Raises:
            ValueError: says what to set.
        """
        if self.urls or self.sent_steps:
            return
        by_k = f"diffusion_server.urls='{{{self.steps}: \"{self.url}\"}}'"
        if self.preset is None:
            raise ValueError(
                f"how is k set? diffusion_server.engine={'|'.join(ENGINES)}, or diffusion_server.steps_field=FIELD of "
                f"a request, or a server for each k: {by_k}"
            )
        raise ValueError(
            f"{self.engine} takes k when it starts ({self.preset.sets_steps}); give a server for each k: {by_k}"
        )


DecoderConfig = Autoregressive | Transformers | ServerDecoder | Diffusion | DiffusionServer

DECODERS: dict[str, type] = {
    get_args(kind.__annotations__["kind"])[0]: kind
    for kind in (Autoregressive, Transformers, ServerDecoder, Diffusion, DiffusionServer)
}
"""Every way of generating text by its kind."""

SERVERS: dict[str, tuple[type, type]] = {
    "server": (ServerConfig, ServerDecoder),
    "diffusion_server": (DiffusionServerConfig, DiffusionServer),
}
"""The settings at the top of the configuration that describe a server, and the way of generating that reads them."""


def options(kind: type) -> dict[str, Option]:
    """The options of one way of generating text, by field."""
    return {item.name: item.metadata.get("option", Option()) for item in dataclasses.fields(kind)}


@functools.cache
def shared_keys() -> dict[str, Any]:
    """The options at the top of the configuration, which every model may be told, with their defaults."""
    found: dict[str, Any] = {}
    for kind in DECODERS.values():
        for item in dataclasses.fields(kind):
            about = item.metadata.get("option", Option())
            if about.key is not None:
                found.setdefault(about.key, item.default)
            if about.own_key is not None:
                found.setdefault(about.own_key, None)
    return found


@functools.cache
def implementation_conditions(family: Family) -> frozenset[str]:
    """The conditions of a Record that say with which code a model of a family wrote, and not what."""
    kinds = [kind for kind in DECODERS.values() if kind().family == family]
    names = {name for kind in kinds for name, about in options(kind).items() if about.implementation}
    return frozenset(f"decoding.{name}" for name in names)


@functools.cache
def label_conditions() -> frozenset[str]:
    """The conditions of a Record that its label tells where they are not at their defaults."""
    return frozenset(
        f"decoding.{name}"
        for kind in DECODERS.values()
        for name, about in options(kind).items()
        if about.label is not None
    )


def labelled(decoder: Mapping[str, Any]) -> dict[str, str]:
    """What a job's name tells of its decoder: by option, the words for it.

    Args:
        decoder: its settings, as a Record has them; those of an unknown kind tell nothing.
    """
    kind = DECODERS.get(decoder.get("kind", ""))
    words = {}
    for item in dataclasses.fields(kind) if kind else ():
        about, value = item.metadata.get("option", Option()), decoder.get(item.name, item.default)
        if about.label is not None and value != item.default:
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            words[item.name] = f"{about.label}={shown}" if about.label else shown
    return words


def job_label(model: str, family: Family, steps: int | None, decoder: Mapping[str, Any]) -> str:
    """A job's name for people: the model, how it is decoded where that is not its family's own way, and k.

    Args:
        model: the side.
        family: its family; a decoder of that name needs no mention.
        steps: k, or None.
        decoder: its settings.
    """
    kind = decoder.get("kind", family)
    way = "server" if kind in SERVERS else kind
    words = [model, *([way] if way != family else []), *labelled(decoder).values()]
    return " ".join(words if steps is None else [*words, f"k={steps}"])
