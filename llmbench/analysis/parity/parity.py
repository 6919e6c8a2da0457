"""`Parity`: a verdict that says itself in words when it is printed."""

import functools
from typing import TYPE_CHECKING, Any

from llmbench.analysis.parity import sentences
from llmbench.analysis.parity.verdict import Verdict
from llmbench.errors import RecordError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class Parity(Verdict):
    """What one set of comparable Records says about parity; `print` shows it in words."""

    def __str__(self) -> str:
        """The verdict in words: status and result, the point estimate, the speed, and what to do next."""
        return "\n".join(sentences.lines(self))

    @property
    def where(self) -> str:
        """The conditions in words."""
        return sentences.where(self.conditions)

    @property
    def title(self) -> str:
        """The verdict in one line, with its margin."""
        return sentences.title(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Parity":
        """The inverse of `to_dict`.

        Raises:
            RecordError: when `data` is something else.
        """
        try:
            parsed: Parity = _adapter().validate_python(data)
        except ValueError as error:
            raise RecordError(f"not a parity verdict: {str(error).splitlines()[0]}") from error
        return parsed


@functools.cache
def _adapter() -> "TypeAdapter[Parity]":
    from pydantic import TypeAdapter

    return TypeAdapter(Parity)
