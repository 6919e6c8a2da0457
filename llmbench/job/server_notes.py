"""What a reader must know of a server before trusting its numbers, as far as its answers show it."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llmbench.config.servers import ServerConfig
from llmbench.job.reply import Reply
from llmbench.job.server_batch import ServerBatch

if TYPE_CHECKING:
    from llmbench.job.prepared import Prepared


def hidden(first_pass: Sequence[ServerBatch]) -> list[str]:
    """A note on what was written and is no text."""
    replies = [reply for made in first_pass for reply in made.replies]
    pieces: Counter[str] = sum((reply.other for reply in replies), Counter())
    found = [f"{count} pieces of {kind}" for kind, count in sorted(pieces.items())]
    if reasoning := sum(reply.reasoning_tokens or 0 for reply in replies):
        found.append(f"{reasoning} tokens of reasoning")
    if not found:
        found = [f"{sum(reply.completion_tokens or 0 for reply in replies)} tokens by the server's count"]
    texts = sum(made.size[0] for made in first_pass)
    return [
        f"not all that the server wrote is text: {', '.join(found)}, beside {texts} tokens of text, which alone count "
        "as output; prefill, first text, L_itl and token gaps are absent"
    ]


def measured(where: str, settings: ServerConfig) -> list[str]:
    """Notes on how a server is measured."""
    hardware = (
        f"on this machine's device according to {settings.group}.trust_same_hardware"
        if settings.trust_same_hardware
        else "on unknown hardware, so no verdict uses it"
    )
    notes = [f"{where}, by wall clock over HTTP, text to ids included, {hardware}"]
    if settings.extra.get("ignore_eos"):
        notes.append("extra.ignore_eos: text after a stop token counts as output")
    return notes


def ignores_seed(other: ServerBatch, first: ServerBatch) -> list[str]:
    """A note if other seeds gave the same texts at a temperature above 0: the server ignores temperature or seed.

    Transformers' server, for one, samples only where the checkpoint's generation_config.json says `do_sample`.
    """
    if [reply.text for reply in other.replies] != [reply.text for reply in first.replies]:
        return []
    return ["other seeds wrote the same texts: the server seems to ignore the temperature (or the seed)"]


def counts(prepared: "Prepared", first_pass: Sequence[ServerBatch]) -> list[str]:
    """Notes where the server counts other tokens: another tokenizer, a chat template, a BOS, other merges."""
    replies = [reply for made in first_pass for reply in made.replies]
    notes = []
    if all(reply.completion_tokens is not None for reply in replies):
        theirs = sum(reply.completion_tokens or 0 for reply in replies)
        ours = sum(made.size[0] for made in first_pass)
        stops = sum(reply.finish == "stop" for reply in replies)
        if not ours <= theirs <= ours + stops:
            notes.append(
                f"the server counts {theirs} output tokens, the checkpoint's tokenizer makes {ours} of the text "
                f"({stops} outputs stopped)"
            )
    if all(reply.prompt_tokens is not None for reply in replies):
        theirs = sum(reply.prompt_tokens or 0 for reply in replies)
        order = [index for members in prepared.partition for index in members]
        ours = sum(len(prepared.prompt_ids(index)) for index in order)
        if theirs != ours:
            notes.append(f"the server reads {theirs} prompt tokens, the checkpoint's tokenizer makes {ours}")
    if cached := sum(reply.cached_tokens or 0 for reply in replies):
        notes.append(f"the server took {cached} prompt tokens from its prefix cache: its times are too short")
    return notes


def queue(batches: Iterable[ServerBatch], widens: str = "") -> list[str]:
    """A note where the requests of a batch were answered one after the other.

    Every row then begins when the one before has ended, and ends a good part of a row's time later.

    Args:
        batches: that were answered.
        widens: what lets the server run them together.
    """
    several = [made.replies for made in batches if len(made.replies) > 1]
    if not several or not all(map(_in_turn, several)):
        return []
    cure = f"; start it with more ({widens})" if widens else ""
    return [f"the server answered the requests of a batch one after the other: L_e2e is that of a queue{cure}"]


IN_TURN = 0.2
"""By what share of the first row's time the end of each further row must be behind the one before."""


def _in_turn(replies: Sequence[Reply]) -> bool:
    ordered = sorted(replies, key=lambda reply: reply.end_ms)
    least = IN_TURN * ordered[0].end_ms
    return all(
        later.end_ms - earlier.end_ms >= least and (later.pieces_ms or [later.end_ms])[0] >= earlier.end_ms
        for earlier, later in itertools.pairwise(ordered)
    )


def canvas(batches: Iterable[ServerBatch]) -> list[str]:
    """A note where outputs that filled the canvas have another number of tokens than it, by the server's count."""
    made = [(item.canvas, reply) for item in batches for reply in item.replies if reply.finish == "length"]
    other = sorted({r.completion_tokens for asked, r in made if r.completion_tokens not in (None, asked)})
    if not other:
        return []
    asked = made[0][0]
    return [
        f"the server wrote {', '.join(map(str, other))} tokens where {asked} were asked for: it rounds the canvas to "
        "its own blocks; set canvas to what it writes"
    ]
