"""How fast, and how well, does a server write? One job behind OpenAI's HTTP interface, of either family.

The same prompts in the same partition go out as text, the B requests of a batch together. A batch has a latency like
any other: from sending its requests until its last stream is complete, by the host's clock. That region holds what
L_e2e of a local model leaves out: HTTP, the server's queue, text to ids and back.

    prefill    until every row of the batch has shown its first text: the time to first token of the last row
    token gap  between the tokens of one stream, each row by itself; absent unless every piece is exactly one token
    tokens     the received text in the tokens of the checkpoint that the configuration names; the server's own count
               is a check, and a note says where it differs
    F          of L_itl: tokens of the longest row, its stop token included; the server's forwards are not known
    NFE        of a diffusion model, where the engine counts its forwards (`forward_counter`)

Where tokens were written that are no text (reasoning, tool calls, or what the count alone shows), a note counts them,
and nothing is said of the times of single tokens: prefill, first text, L_itl and token gaps are absent.

Memory, energy, clocks, roofline, likelihood and text to ids cannot be measured over HTTP: they are absent. Stamps come
from the timed pass, because reading the stream is part of it; there is no marked pass. Every request has a `seed`, with
which most servers repeat their text.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmbench.config.servers import DiffusionServer, ServerDecoder
from llmbench.job import generation_result, openai_client, server_notes
from llmbench.job.forward_counter import ForwardCounter
from llmbench.job.generation_result import GenerationResult
from llmbench.job.server_batch import ServerBatch, token_marks
from llmbench.measure import passes
from llmbench.measure.probes import Probe
from llmbench.measure.timing import OnStep
from llmbench.metrics import performance

if TYPE_CHECKING:
    from llmbench.job.prepared import Prepared


def require(settings: ServerDecoder | DiffusionServer) -> None:
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
    assert isinstance(settings, (ServerDecoder, DiffusionServer))
    diffusion = settings if isinstance(settings, DiffusionServer) else None
    engine = diffusion.preset if diffusion else None
    files, prompts, plan = prepared.checkpoint, prepared.workload.prompts, prepared.job.timing
    answered: list[ServerBatch] = []
    tick("connect", 0, 1)
    with openai_client.Client(settings) as client:
        identity = client.identify()
        counter = ForwardCounter(client, engine.counters if engine else None)

        def ticked(phase: str, done: int, total: int) -> None:
            if phase == "timed" and done < total:
                counter.begin()
            tick(phase, done, total)

        def answer(batch: int, on_step: OnStep | None, other: int = 0) -> ServerBatch:
            first = ((prepared.job.seed + other) * 1_000_003 + batch) * prepared.job.batch
            requests = [
                _request(settings, identity.model, prompts[index].text, first + row)
                for row, index in enumerate(prepared.partition[batch])
            ]
            replies = client.complete(requests, None if on_step is None else lambda: on_step(0))
            made = ServerBatch(
                replies=replies,
                files=files,
                canvas=settings.canvas,
                one_by_one=diffusion is None,
                count_forwards=lambda: counter.made(replies),
            )
            answered.append(made)
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
                tick=ticked,
            )
        other = answer(0, None, other=1) if settings.stochastic else None
    first_pass = measured.first_pass
    notes = [*server_notes.measured(where := f"{identity.software or 'a server'} at {settings.origin}", settings)]
    notes += [*measured.notes, *(counter.notes() if diffusion and not curve else [])]
    timings, marks, absent = measured.timings, *token_marks(first_pass, () if diffusion else repeated)
    if any(made.hidden for made in answered):
        timings = tuple(replace(timing, prefill_ms=None, longest_row=None) for timing in timings)
        marks, absent = (), server_notes.hidden(first_pass)
    if plan.token_timing_repeats:
        notes += absent
    else:
        marks = ()
    notes += server_notes.ignores_seed(other, first_pass[0]) if other else []
    notes += server_notes.queue(answered, engine.widens if engine else "")
    notes += server_notes.canvas(first_pass) if diffusion else []
    notes += server_notes.counts(prepared, first_pass)
    return GenerationResult(
        outputs=generation_result.outputs(prompts, prepared.partition, [made.texts for made in first_pass]),
        timings=timings,
        stopping=measured.stopping,
        marks=marks,
        repeated_batches=repeated,
        notes=tuple(notes),
        conditions={"device_name": where, "decoding.served_model": identity.model},
        signatures={"server": f"{identity.model} by {where}"},
    )


def conditions(settings: ServerDecoder | DiffusionServer) -> dict[str, str]:
    """Conditions of a server's job that are known before it runs; its hardware is not.

    `extra` stands among them where there is some; `api` does as `decoding.chat`.
    """
    shaping: dict[str, Any] = {"extra": settings.extra} if settings.extra else {}
    described = {"url": settings.base, "trust_same_hardware": settings.trust_same_hardware} | shaping
    decoding = {f"decoding.{key}": str(value) for key, value in described.items()}
    return {"device_name": f"a server at {settings.origin}", "engine": "server", "clock": "wall"} | decoding


def _request(settings: ServerDecoder | DiffusionServer, model: str, prompt: str, seed: int) -> dict[str, Any]:
    """One request's JSON. Every row has a seed of its own, as every row of a local batch has its own noise."""
    asked = {"messages": [{"role": "user", "content": prompt}]} if settings.api == "chat" else {"prompt": prompt}
    return {
        "model": model,
        **asked,
        "max_tokens": settings.canvas,
        "temperature": settings.temperature,
        **({"top_p": settings.top_p} if isinstance(settings, ServerDecoder) or settings.top_p != 1 else {}),
        **({} if settings.top_k is None else {"top_k": settings.top_k}),
        "seed": seed % 2**31,
        **settings.extra,
        **(_steps(settings) if isinstance(settings, DiffusionServer) else {}),
    }


def _steps(settings: DiffusionServer) -> dict[str, Any]:
    """The field that tells k, beside what `extra` has in the same place."""
    if settings.sent_steps is None:
        return {}
    place, _, leaf = settings.sent_steps.rpartition(".")
    return {place: {**settings.extra.get(place, {}), leaf: settings.steps}} if place else {leaf: settings.steps}
