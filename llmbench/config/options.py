"""How an option of a decoder is declared, with its default and what follows from it; what several decoders share."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

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
class OneByOne:
    """What every way of writing one token after the other is told."""

    max_new_tokens: Count = option(64, key="canvas")
    temperature: NonNegative = option(0.7, key="temperature")  # 0 is greedy
    top_p: Share = option(1.0, key="top_p", label="top_p")  # draw from the most probable tokens that hold this share
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


def options(kind: type) -> dict[str, Option]:
    """The options of one way of generating text, by field."""
    return {item.name: item.metadata.get("option", Option()) for item in dataclasses.fields(kind)}
