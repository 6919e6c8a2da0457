"""What the ways of generating text can be told: one dataclass each, which checks itself on construction.

Every option is one field here, with its default and what follows from it (`Option`). Labels, identity, help, forecast
and the conditions of a comparison read that; nothing else lists options.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

from llmbench.config.options import (
    STRICT,
    Count,
    CountOrZero,
    Family,
    NonNegative,
    OneByOne,
    Option,
    Positive,
    Share,
    option,
    options,
)
from llmbench.config.schedules import at_least, even, over_timesteps
from llmbench.config.servers import DiffusionServer, DiffusionServerConfig, ServerConfig, ServerDecoder


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Drafting(OneByOne):
    """Speculative decoding: something proposes tokens, one forward verifies them. The text stays the model's own."""

    # lookup: n-grams of prompt and output; model: a smaller checkpoint; llada: a diffusion model, a block at a time;
    # self: the model itself in its diffusion mode
    draft: Literal["lookup", "model", "llada", "self"] | None = option(
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
    "self": frozenset({"draft_tokens", "fixed_accepted_tokens"}),
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
        if self.draft in ("llada", "self"):
            raise ValueError(f"Transformers drafts with lookup or model; for draft={self.draft} use model=llama")
        if self.draft is not None and self.cache == "static":
            raise ValueError("Transformers drafts with its dynamic cache alone; use model.decoder.cache=dynamic")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Diffusion:
    """Unmasking a canvas in denoising steps (`llmbench.decoding.diffusion`)."""

    kind: Literal["diffusion"] = "diffusion"
    steps: Count = option(64, key="steps")  # k, over all blocks; see also `idle_steps`
    canvas: Count = option(64, key="canvas")  # G
    # None: the model's own, or the canvas, which is pure diffusion; smaller fills block after block, left to right
    block_length: Count | None = option(None, key="block_length")
    # of the float64 Gumbel noise; 0 is argmax
    temperature: NonNegative = option(0.7, key="temperature", own_key="diffusion_temperature")
    top_p: Share = option(1.0, key="top_p", label="top_p")  # propose one of the most probable that hold this share
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
    # which proposals become final first: the most probable ones; those at positions with the largest margin of the best
    # token, or the least entropy; any; origin: each by itself with the same chance, which decides how many, too
    remasking: Literal["low_confidence", "random", "topk_margin", "entropy", "origin"] = option(
        "low_confidence", key="remasking", label="remasking"
    )
    # of the draw of positions from softmax(confidence / temperature); 0 takes the surest
    remasking_temperature: NonNegative = option(0.0, key="remasking_temperature", label="remasking_temperature")
    # from the model's own probabilities, or from those that tokens are drawn from: after temperature, top_p and top_k
    confidence: Literal["model", "sampling"] = option("model", key="confidence", label="confidence")
    # even: the same number; timesteps: int(left * (1 - s / t)) from time t to s, all in the last
    tokens_per_step: Literal["even", "timesteps"] = option("even", key="tokens_per_step", label="")
    cfg_scale: NonNegative = option(0.0, key="cfg_scale", label="cfg_scale")  # > 0 doubles the forwards
    # no further block once every row has a stop token; needs several blocks
    early_stop: StrictBool = option(False, key="early_stop", label="early_stop", skips_work=True)
    confidence_dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    suppress_eos: StrictBool = False  # the official `logits_eos_inf`
    late_eos: StrictBool = False  # the official `confidence_eos_eot_inf`: stop tokens are committed last

    def __post_init__(self) -> None:
        """Refuse schedules that do not divide, and rules that contradict each other."""
        if self.canvas % self.block:
            raise ValueError(f"block_length {self.block} must divide canvas {self.canvas}")
        blocks = self.canvas // self.block
        if self.steps % blocks:
            shape = f"canvas {self.canvas} / block_length {self.block}"
            raise ValueError(f"steps {self.steps} must be a multiple of the {blocks} blocks ({shape})")
        if self.threshold is not None and self.factor is not None:
            raise ValueError("threshold and factor are two rules for the same thing; set one of them to null")
        if self.adaptive and self.remasking != "low_confidence":
            raise ValueError("threshold and factor look at the tokens' probabilities; use remasking=low_confidence")
        if self.early_stop and self.block_length == self.canvas:
            raise ValueError(
                f"early_stop looks between blocks, and block_length {self.block} makes one block of canvas "
                f"{self.canvas}; lower block_length, or use early_stop=false"
            )
        self._refuse_what_a_rule_does_not_read()
        if self.fixed_tokens_per_forward is not None:
            self._refuse_what_would_not_be_forced(self.fixed_tokens_per_forward)

    def _refuse_what_a_rule_does_not_read(self) -> None:
        """Raise where an option would change nothing, or not what it says."""
        if self.remasking == "origin" and self.tokens_per_step != "timesteps":
            raise ValueError("remasking=origin makes tokens final with chance 1 - s/t; add tokens_per_step=timesteps")
        if self.remasking_temperature and self.remasking in ("random", "origin"):
            raise ValueError(f"remasking={self.remasking} has no confidence to draw from; use remasking_temperature=0")
        if self.remasking_temperature and self.adaptive:
            raise ValueError("threshold and factor make the surest final; use remasking_temperature=0")
        if self.late_eos and (self.confidence == "sampling" or self.remasking in ("topk_margin", "entropy")):
            raise ValueError(
                "late_eos lowers the model's probability of stop tokens; use confidence=model and "
                "remasking=low_confidence, or model.decoder.late_eos=false"
            )

    def _refuse_what_would_not_be_forced(self, each: int) -> None:
        """Raise where another number of tokens than the forced one would become final."""
        given = f"fixed_tokens_per_forward {each}"
        if each > self.block:
            raise ValueError(
                f"{given} exceeds the block: {self.block} would run; use at most block_length {self.block}, or raise "
                "block_length"
            )
        least = even(self.block, self.steps_of_a_block)[0]
        if each < least:
            raise ValueError(
                f"{given} is less than the schedule of steps {self.steps} commits anyway: {least} would run; use at "
                f"least {least}, or raise steps"
            )

    @property
    def block(self) -> int:
        """Tokens of a block."""
        return self.block_length or self.canvas

    @property
    def steps_of_a_block(self) -> int:
        """Denoising steps of a block."""
        return self.steps * self.block // self.canvas

    @property
    def schedule(self) -> list[int]:
        """How many tokens of a block each of its steps makes final, at least; as many steps as there can be.

        Where a rule or a forced number ends a block when it is full, no step is idle. Where chance decides, the last
        step alone makes a certain number final: all.
        """
        masked, steps = self.block, self.steps_of_a_block
        if self.fixed_tokens_per_forward is not None:
            return at_least(even(masked, steps), self.fixed_tokens_per_forward)
        if self.drawn_counts:
            return [0] * (steps - 1) + [masked]
        counts = over_timesteps(masked, steps) if self.tokens_per_step == "timesteps" else even(masked, steps)
        return at_least(counts, 1) if self.adaptive else counts

    @property
    def forwards(self) -> int:
        """Forward passes of one generation, guidance counted twice: the most there can be."""
        return len(self.schedule) * (self.canvas // self.block) * (2 if self.cfg_scale else 1)

    @property
    def idle_steps(self) -> int:
        """Steps that run a forward and make no token final, because the schedule has none for them.

        As in the official samplers. With the even schedule there are some exactly where k exceeds the canvas, whatever
        the block length; the text is then that of `steps` = `canvas`, later. Over timesteps the first of as many steps
        as tokens is one. Rules that end a block when it is full have none, and where chance decides nobody knows.
        """
        return 0 if self.drawn_counts else self.schedule.count(0) * (self.canvas // self.block)

    @property
    def idle_phrase(self) -> str:
        """What that means, for people."""
        if self.tokens_per_step == "timesteps":
            return (
                f"tokens_per_step=timesteps: {self.idle_steps} of {self.steps} steps run and make nothing final, as in "
                "Dream's own code"
            )
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
    def uneven(self) -> bool:
        """Whether rows may differ in how many of their tokens are final, so that the host does not know beforehand."""
        return self.adaptive or self.drawn_counts

    @property
    def drawn_counts(self) -> bool:
        """Whether chance decides how many tokens of a row a step makes final."""
        return self.fixed_tokens_per_forward is None and self.remasking == "origin"

    @property
    def family(self) -> Literal["diffusion"]:
        """The kind of model that can be decoded like this."""
        return "diffusion"

    @property
    def stochastic(self) -> bool:
        """Whether the seed changes the output."""
        return self.temperature > 0 or self.remasking in ("random", "origin") or self.remasking_temperature > 0


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
