"""What came for one request: its text, when each piece of it arrived, and the counts that came with it.

Text is what counts as output. What else a piece may bring (reasoning, tool calls) is counted by its kind.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Reply:
    """What came for one request; times in milliseconds since the batch was sent."""

    text: str = ""  # exactly as received
    finish: str | None = None  # "stop", "length"
    pieces_ms: list[float] = field(default_factory=list)  # when each piece that is not empty arrived
    end_ms: float = 0.0
    prompt_tokens: int | None = None  # by the server's count
    completion_tokens: int | None = None
    cached_tokens: int | None = None  # of the prompt, taken from an earlier request's
    reasoning_tokens: int | None = None  # of the output, shown or not
    other: Counter[str] = field(default_factory=Counter)  # pieces that are no text, by kind: "reasoning", "tool call"
    counts: list[tuple[float, int]] = field(default_factory=list)  # when the count of output tokens rose, and to what

    @property
    def silent_tokens(self) -> int | None:
        """Tokens that had come, without text, before the first piece of text; None where they were not counted."""
        if not self._counted:
            return None
        return max((count for at, count in self.counts if at < self.pieces_ms[0]), default=0)

    @property
    def first_tokens(self) -> int | None:
        """Tokens that had come with the first piece of text, its own included; None where they were not counted."""
        if not self._counted:
            return None
        return max((count for at, count in self.counts if at <= self.pieces_ms[0]), default=0)

    @property
    def _counted(self) -> bool:
        """Whether pieces came with a count, and not the last one alone."""
        return bool(self.pieces_ms and self.counts) and self.counts[0][0] <= self.pieces_ms[0]

    @property
    def token_times_ms(self) -> list[float] | None:
        """When each output token came; None where a piece held several, or nobody says how many."""
        if not self.pieces_ms or self.other or self.reasoning_tokens or self.completion_tokens is None:
            return None
        if self._counted:
            rises = [count for _, count in self.counts]
            return [at for at, _ in self.counts] if rises == list(range(1, len(rises) + 1)) else None
        single = (self.completion_tokens, self.completion_tokens - (self.finish == "stop"))
        return self.pieces_ms if len(self.pieces_ms) in single else None


def take(data: Mapping[str, Any], reply: Reply, *, chat: bool) -> str:
    """Take one event of a stream into the reply; its text.

    Args:
        data: the event.
        reply: so far.
        chat: whether it is a chat's, with deltas.

    Raises:
        TypeError, KeyError, IndexError, AttributeError: it is no piece of a completion.
    """
    if usage := data.get("usage"):
        _take_usage(usage, reply)
    if not data.get("choices"):
        return ""
    choice = data["choices"][0]
    reply.finish = choice.get("finish_reason") or reply.finish
    piece = (choice.get("delta") if chat else choice) or {}
    text, kinds = _parts(piece.get("content" if chat else "text"))
    kinds |= {kind for name, kind in _OTHER.items() if piece.get(name)}
    reply.other.update(kinds)
    return text


_OTHER = {
    **dict.fromkeys(("reasoning_content", "reasoning", "reasoning_details"), "reasoning"),
    **dict.fromkeys(("tool_calls", "function_call"), "tool call"),
    "refusal": "refusal",
}
"""Fields of a piece that hold what is no text, and of which kind that is."""


def _parts(content: object) -> tuple[str, set[str]]:
    """The text of a piece, and the kinds of its parts that are none.

    Raises:
        TypeError: it is neither absent, nor text, nor a list of parts.
    """
    if content is None or isinstance(content, str):
        return content or "", set()
    if not isinstance(content, list):
        raise TypeError
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
    texts = [part.get("text") or "" for part in parts if part.get("type", "text") in ("text", "output_text")]
    kinds = {str(part["type"]) for part in parts if part.get("type", "text") not in ("text", "output_text")}
    return "".join(texts), {"reasoning" if kind == "thinking" else kind for kind in kinds}


def _take_usage(usage: Mapping[str, Any], reply: Reply) -> None:
    """The server's counts so far; what it does not tell stays as it was."""
    of_prompt = usage.get("prompt_tokens_details") or {}
    of_output = usage.get("completion_tokens_details") or {}
    for name, told in (
        ("prompt_tokens", usage.get("prompt_tokens")),
        ("completion_tokens", usage.get("completion_tokens")),
        ("cached_tokens", of_prompt.get("cached_tokens")),
        ("reasoning_tokens", of_output.get("reasoning_tokens")),
    ):
        if (count := _count(told)) is not None:
            setattr(reply, name, count)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
