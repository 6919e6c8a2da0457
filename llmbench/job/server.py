"""How fast, and how well, does a server write? One job behind OpenAI's HTTP interface, as a further baseline.

The same prompts in the same partition go out as text, the B requests of a batch together. A batch has a latency like
any other: from sending its requests until its last stream is complete, by the host's clock. That region holds what
L_e2e of a local model leaves out: HTTP, the server's queue, text to ids and back.

    prefill    until every row of the batch has shown its first text: the time to first token of the last row
    token gap  between the tokens of one stream, each row by itself; absent unless every piece is exactly one token
    tokens     the received text in the tokens of the checkpoint that the configuration names; the server's own count
               is a check, and a note says where it differs
    F          of L_itl: tokens of the longest row, its stop token included; the server's forwards are not known

Where tokens were written that are no text (reasoning, tool calls, or what the count alone shows), a note counts them,
and nothing is said of the times of single tokens: prefill, first text, L_itl and token gaps are absent.

Memory, energy, clocks, roofline, likelihood and text to ids cannot be measured over HTTP: they are absent. Stamps come
from the timed pass, because reading the stream is part of it; there is no marked pass. Every request has a `seed`, with
which most servers repeat their text.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from llmbench.checkpoints.files import CheckpointFiles
from llmbench.checkpoints.load import ValidText
from llmbench.config.decoders import ServerDecoder
from llmbench.job import generation_result, openai_client
from llmbench.job.generation_result import GenerationResult
from llmbench.measure import passes
from llmbench.measure.probes import Probe
from llmbench.measure.timing import OnStep
from llmbench.metrics import performance
from llmbench.record import Marks

if TYPE_CHECKING:
    from llmbench.job.prepared import Prepared

CHARACTER_TOKENS = 4
"""A character has at most so many bytes, and so many tokens may come before there is text."""

OTHER_TOKENIZER = 1.5
"""Tokens that a server may count for one our tokenizer finds in its text; where it counts more, some are hidden."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerBatch:
    """The replies of one batch. Tokens are counted when they are first read, which is outside the timed region."""

    replies: Sequence[openai_client.Reply]
    files: CheckpointFiles
    canvas: int  # G

    @functools.cached_property
    def ids(self) -> list[list[int]]:
        """Every row's text in the checkpoint's own tokens, at most G."""
        encode = self.files.tokenizer
        return [encode(reply.text, add_special_tokens=False)["input_ids"][: self.canvas] for reply in self.replies]

    @functools.cached_property
    def tokens(self) -> torch.Tensor:
        """Ids [B, <= G], padded behind the text."""
        width = max(map(len, self.ids))
        padded = [row + [self.files.pad_id] * (width - len(row)) for row in self.ids]
        return torch.tensor(padded, dtype=torch.int64)

    @property
    def nfe(self) -> float | None:
        """Forwards: not known."""
        return None

    @property
    def longest_row(self) -> int | None:
        """F: tokens of the longest row, the stop token included; None where the first piece held several."""
        if any((reply.first_tokens or 1) > 1 for reply in self.replies):
            return None
        rows = zip(self.replies, self.ids, strict=True)
        return max(1, *(reply.completion_tokens or len(ids) + (reply.finish == "stop") for reply, ids in rows))

    @property
    def hidden(self) -> bool:
        """Whether tokens were written that are no text."""
        return any(itertools.starmap(_hides, zip(self.replies, self.ids, strict=True)))

    @property
    def first_text(self) -> int:
        """The first piece is text."""
        return 1

    @property
    def texts(self) -> list[ValidText]:
        """The valid text of every row: all of it, because a server sends nothing after the stop token."""
        return [
            ValidText(
                text=reply.text, tokens=len(ids), utf8_bytes=len(reply.text.encode()), stopped=reply.finish == "stop"
            )
            for reply, ids in zip(self.replies, self.ids, strict=True)
        ]

    @property
    def size(self) -> tuple[int, int]:
        """Tokens and UTF-8 bytes of the batch."""
        return sum(map(len, self.ids)), sum(len(reply.text.encode()) for reply in self.replies)


def require(settings: ServerDecoder) -> None:
    """Refuse a server that would not answer a job: one token is asked for, as the job will ask.

    Raises:
        ServerError: it cannot be reached, refuses the key or the model, or does not stream.
    """
    with openai_client.Client(settings) as client:
        client.complete([{**_request(settings, client.identify().model, "1 2 3", 0), "max_tokens": 1}], None)


def generate(prepared: "Prepared", tick: passes.Tick) -> GenerationResult:
    """Measure a server with a job's prompts.

    Raises:
        ServerError: it did not answer, or not to the end.
    """
    settings = prepared.job.model.decoder
    assert isinstance(settings, ServerDecoder)
    files, prompts, plan = prepared.checkpoint, prepared.workload.prompts, prepared.job.timing
    answered: list[ServerBatch] = []
    tick("connect", 0, 1)
    with openai_client.Client(settings) as client:
        identity = client.identify()

        def answer(batch: int, on_step: OnStep | None, other: int = 0) -> ServerBatch:
            first = ((prepared.job.seed + other) * 1_000_003 + batch) * prepared.job.batch
            requests = [
                _request(settings, identity.model, prompts[index].text, first + row)
                for row, index in enumerate(prepared.partition[batch])
            ]
            replies = client.complete(requests, None if on_step is None else lambda: on_step(0))
            answered.append(made := ServerBatch(replies=replies, files=files, canvas=settings.canvas))
            return made

        batches = len(prepared.partition)
        curve = prepared.job.role == "curve"
        repeated = () if curve else tuple(range(min(plan.batches, batches)))
        if curve:
            measured = passes.write(answer, batches=batches, tick=tick)
        else:
            measured = passes.measure(
                answer,
                batches=batches,
                repeated=repeated,
                plan=replace(plan, token_timing_repeats=0),
                probe=Probe(),  # nothing of a server's device can be read
                marks_first=True,
                valid=lambda batch, made: made.size,
                half_width=performance.relative_half_width,
                tick=tick,
            )
        doubts = _ignores_seed(answer(0, None, other=1), measured.first_pass[0]) if settings.stochastic else []
    timings, (marks, absent) = measured.timings, _marks(measured.first_pass, repeated)
    if any(made.hidden for made in answered):
        timings = tuple(replace(timing, prefill_ms=None, longest_row=None) for timing in timings)
        marks, absent = (), _hidden(measured.first_pass)
    if not plan.token_timing_repeats:
        marks = ()
    where = f"{identity.software or 'a server'} at {settings.origin}"
    return GenerationResult(
        outputs=generation_result.outputs(prompts, prepared.partition, [made.texts for made in measured.first_pass]),
        timings=timings,
        stopping=measured.stopping,
        marks=marks,
        repeated_batches=repeated,
        notes=(*_notes(where, settings), *measured.notes, *absent, *doubts, *_counts(prepared, measured.first_pass)),
        conditions={"device_name": where, "decoding.served_model": identity.model},
        signatures={"server": f"{identity.model} by {where}"},
    )


def conditions(settings: ServerDecoder) -> dict[str, str]:
    """Conditions of a server's job that are known before it runs; its hardware is not.

    `extra` stands among them where there is some; `api` does as `decoding.chat`.
    """
    shaping: dict[str, Any] = {"extra": settings.extra} if settings.extra else {}
    described = {"url": settings.base, "trust_same_hardware": settings.trust_same_hardware} | shaping
    decoding = {f"decoding.{key}": str(value) for key, value in described.items()}
    return {"device_name": f"a server at {settings.origin}", "engine": settings.kind, "clock": "wall"} | decoding


def _request(settings: ServerDecoder, model: str, prompt: str, seed: int) -> dict[str, Any]:
    """One request's JSON. Every row has a seed of its own, as every row of a local batch has its own noise."""
    asked = {"messages": [{"role": "user", "content": prompt}]} if settings.api == "chat" else {"prompt": prompt}
    return {
        "model": model,
        **asked,
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        **({} if settings.top_k is None else {"top_k": settings.top_k}),
        "seed": seed % 2**31,
        **settings.extra,
    }


def _marks(first_pass: Sequence[ServerBatch], repeated: Sequence[int]) -> tuple[tuple[Marks, ...], list[str]]:
    """When the tokens of every stream of the repeated batches came, or the reason why that is not known.

    All or none: rows whose pieces happen to be single tokens would stand for the slow ones.
    """
    rows = [
        (batch, *row)
        for batch in repeated
        for row in zip(first_pass[batch].replies, first_pass[batch].ids, strict=True)
    ]
    times = [(batch, _token_times(reply, ids)) for batch, reply, ids in rows if reply.pieces_ms]
    marks = [Marks(batch=batch, repeat=0, at_ms=tuple(at)) for batch, at in times if at is not None]
    if len(marks) == len(times):
        return tuple(marks), []
    pieces = sum(len(reply.pieces_ms) for _, reply, _ in rows)
    tokens = sum(reply.completion_tokens or len(ids) for _, reply, ids in rows)
    return (), [f"latency/token_gap_ms is absent: {tokens} tokens came in {pieces} pieces"]


def _token_times(reply: openai_client.Reply, ids: Sequence[int]) -> list[float] | None:
    """When each token of a row came; where the server counts none, every piece must be one of the text's tokens."""
    if reply.completion_tokens is None and len(reply.pieces_ms) == len(ids):
        return reply.pieces_ms
    return reply.token_times_ms


def _hides(reply: openai_client.Reply, ids: Sequence[int]) -> bool:
    """Whether a row holds tokens that are no text, as far as the server tells."""
    silent, told = reply.silent_tokens or 0, reply.completion_tokens or 0
    beyond = told > OTHER_TOKENIZER * len(ids) + CHARACTER_TOKENS
    return bool(reply.other or reply.reasoning_tokens or beyond) or silent >= CHARACTER_TOKENS


def _hidden(first_pass: Sequence[ServerBatch]) -> list[str]:
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


def _notes(where: str, settings: ServerDecoder) -> list[str]:
    """Notes on how a server is measured."""
    hardware = (
        "on this machine's device according to server.trust_same_hardware"
        if settings.trust_same_hardware
        else "on unknown hardware, so no verdict uses it"
    )
    notes = [f"{where}, by wall clock over HTTP, text to ids included, {hardware}"]
    if settings.extra.get("ignore_eos"):
        notes.append("extra.ignore_eos: text after a stop token counts as output")
    return notes


def _ignores_seed(other: ServerBatch, first: ServerBatch) -> list[str]:
    """A note if other seeds gave the same texts at a temperature above 0: the server ignores temperature or seed.

    Transformers' server, for one, samples only where the checkpoint's generation_config.json says `do_sample`.
    """
    if [reply.text for reply in other.replies] != [reply.text for reply in first.replies]:
        return []
    return ["other seeds wrote the same texts: the server seems to ignore the temperature (or the seed)"]


def _counts(prepared: "Prepared", first_pass: Sequence[ServerBatch]) -> list[str]:
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
        notes.append(f"the server took {cached} prompt tokens from its prefix cache: L_prefill is too short")
    return notes
