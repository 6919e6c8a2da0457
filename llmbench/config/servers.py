"""What a server is told, and how it is reached: one dataclass for each family, and the way of generating behind it."""

import dataclasses
import re
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, StrictBool
from pydantic.dataclasses import dataclass

from llmbench.config.diffusion_engines import ENGINES, DiffusionEngine, EngineName
from llmbench.config.options import STRICT, Count, NonNegative, OneByOne, Option, Positive, Share, option

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


def _require_one_place(settings: "ServerDecoder | DiffusionServer") -> None:
    """Refuse a filter of the distribution that is set twice, or set and left out."""
    if settings.top_k is not None and "top_k" in settings.extra:
        raise ValueError("extra.top_k and top_k set the same thing; leave one of them out")
    if "top_p" in settings.leave_out and settings.top_p != 1:
        raise ValueError(f"leave_out: top_p is {settings.top_p:g} and cannot be left out; set top_p=1.0")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ServerDecoder(ServerConfig, OneByOne):
    """Whatever a server does with a prompt (`job.server`): a baseline whose weights and device are elsewhere."""

    kind: Literal["server"] = option("server", implementation=True)

    def __post_init__(self) -> None:
        """Refuse what a server's text does not show, and one thing set twice."""
        super().__post_init__()
        _require_one_place(self)
        if self.ignore_stop:
            raise ValueError("ignore_stop: a server's text does not show where it stopped; use ignore_stop=false")


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
    top_p: Share = option(1.0, key="top_p", label="top_p")
    top_k: Count | None = option(None, key="top_k", label="top_k")

    def __post_init__(self) -> None:
        """Take the address of this k."""
        super().__post_init__()
        _require_one_place(self)
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
