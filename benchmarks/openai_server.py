"""A small server with OpenAI's completions over this project's own decoders: the other side for tests and `http_cost`.

    python -m benchmarks.openai_server --checkpoint bundled:llada --steps 8 --port 8000

It is no product: one model, one batch at a time, no chat, no authentication. Requests that ask for the same settings
and arrive within a few milliseconds of each other are one batch, in the order of their seeds: a client that sends a
batch gets the tokens that a local job writes (at temperature 0; noise belongs to a batch here, and to a row there).

Text is sent as it becomes final: token by token, or block by block. Counters of `/metrics` are those of vLLM, whose
drafts are denoising steps of a sequence, and whose accepted tokens are those that were committed.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from llmbench import decoding
from llmbench.checkpoints.load import Checkpoint, load_checkpoint
from llmbench.checkpoints.resolve import resolve_checkpoint
from llmbench.config.decoders import Autoregressive, Diffusion
from llmbench.config.job import HardwareConfig
from llmbench.measure import device

FIELDS = {
    *("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stream", "stream_options"),
    *("vllm_xargs", "num_denoising_steps"),
}
"""Of a request; any other is refused, as a strict server does."""

PROMPT_TOKENS, TOKENS = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
REQUESTS = "vllm:request_success_total"
DRAFTS, ACCEPTED = "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_accepted_tokens_total"

REFUSED = "every one of model, prompt, max_tokens and stream=true is needed, and no other fields"


@dataclass(eq=False)
class Row:
    """One request, from its arrival to its last token."""

    ids: list[int]
    settings: Autoregressive | Diffusion
    seed: int
    counts_every_piece: bool
    events: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    text: str = ""  # sent so far
    tokens: int = 0  # written so far, the stop token included
    finish: str | None = None


@dataclass(kw_only=True)
class Options:
    """How a server answers."""

    steps: int | None = None  # k of requests that name none (diffusion)
    block_length: int | None = None
    batch: int | None = None  # a batch is whole with so many requests; None: when no more come
    window_s: float = 0.02  # for so long after the last one more may come
    one_by_one: bool = False  # a batch is a queue, as where max_running_requests is 1
    owner: str = "vllm"
    counters: bool = True
    cached_tokens: int | None = None  # what it says of a prefix cache
    round_to: int = 1  # the canvas is rounded up to a multiple of it, as engines do to their blocks
    greedy: bool = False  # whatever temperature is asked for


class Model:
    """A checkpoint with its engine; decodes one batch at a time, in a thread that may wait for the device."""

    def __init__(self, source: str, hardware: HardwareConfig) -> None:
        where = device.resolve(hardware)
        self.hardware = where
        self.checkpoint: Checkpoint = load_checkpoint(resolve_checkpoint(source), where, "real")
        self.family = next(iter(self.checkpoint.files.modes))
        self.engine = Watched(self.checkpoint.engine("eager" if where.engine == "eager" else "fused", self.family))

    def decode(self, rows: Sequence[Row], loop: asyncio.AbstractEventLoop) -> int:
        """Write the outputs of a batch into the events of its rows; forwards made, guidance counted twice."""
        files, settings = self.checkpoint.files, rows[0].settings
        decoder = decoding.build(
            settings,
            stop_ids=files.stop_ids,
            pad_id=files.pad_id,
            mask_id=files.mask_id,
            mode=files.mode(self.family),
        )
        batch = self.checkpoint.to_device([row.ids for row in rows])
        width = batch.ids.shape[1]

        def written(step: int) -> list[list[int]]:
            if not isinstance(settings, Diffusion):
                tokens: list[list[int]] = self.engine.loop.tokens[:, : step + 1].tolist()
                return tokens
            canvas = self.engine.loop.canvas[:, width:]
            block = settings.block
            final = (canvas != files.mask_id).view(len(rows), -1, block).all(-1).all(0).tolist()
            blocks: list[list[int]] = canvas[:, : block * [*final, False].index(False)].tolist()
            return blocks

        def on_step(step: int) -> None:
            for row, ids in zip(rows, written(step), strict=True):
                self._send(row, ids, loop)

        made = decoder.generate(self.engine, batch, seed=rows[0].seed, on_step=on_step)
        for row in rows:
            row.finish = row.finish or "length"
        return made.nfe

    def _send(self, row: Row, ids: list[int], loop: asyncio.AbstractEventLoop) -> None:
        """What is final and was not sent yet; half a character waits for its other half."""
        if row.finish is not None:
            return
        stops = self.checkpoint.stop_ids
        valid = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        stopped = valid < len(ids)
        text = self.checkpoint.files.text_behind(row.ids, ids[:valid])
        whole = stopped or len(ids) >= row.settings.canvas or not text.endswith("\ufffd")
        piece = text[len(row.text) :] if whole else ""
        if valid + stopped > row.tokens:
            row.text, row.tokens = row.text + piece, valid + stopped
            loop.call_soon_threadsafe(row.events.put_nowait, {"text": piece, "tokens": row.tokens})
        if stopped:
            row.finish = "stop"


class Watched:
    """An engine whose loop can be looked at while a decoder works on it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.loop: Any = None

    def reuse(self, key: Any, make: Any) -> Any:
        """As the engine does; the loop is kept."""
        self.loop = self._engine.reuse(key, make)
        return self.loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Server:
    """The HTTP side: checks requests, gathers batches, sends events."""

    def __init__(self, model: Model, options: Options) -> None:
        self._model, self._options = model, options
        self._waiting: list[Row] = []
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1)
        self._tasks: set[asyncio.Task[None]] = set()
        # 0 is written too: a client reads the counters before its first request
        own = (DRAFTS, ACCEPTED) if model.family == "diffusion" else ()
        self.counters: dict[str, int] = dict.fromkeys((PROMPT_TOKENS, TOKENS, REQUESTS, *own), 0)

    def app(self) -> web.Application:
        """Its addresses."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.post("/v1/completions", self._complete),
            ]
        )
        return app

    async def _models(self, request: web.Request) -> web.Response:
        item = {"id": self._model.checkpoint.files.name, "object": "model", "owned_by": self._options.owner}
        return web.json_response({"object": "list", "data": [item]})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0"})

    async def _metrics(self, request: web.Request) -> web.Response:
        if not self._options.counters:
            raise web.HTTPNotFound
        label = f'{{engine="0",model_name="{self._model.checkpoint.files.name}"}}'
        lines = [f"# TYPE {name} counter\n{name}{label} {float(count)}" for name, count in self.counters.items()]
        return web.Response(text="\n".join(lines) + "\n")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        try:
            row, usage = self._row(await request.json())
        except (ValueError, TypeError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            return web.json_response({"error": {"message": why, "code": 400}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._enter(row)
        finish = None
        while finish is None:
            event = await row.events.get()
            if "error" in event:
                await _event(response, {"error": {"message": event["error"]}})
                break
            finish = event.get("finish")
            counted = (
                {"usage": self._usage(row, event["tokens"])} if "tokens" in event and row.counts_every_piece else {}
            )
            choice = {"index": 0, "text": event.get("text", ""), "finish_reason": finish}
            await _event(response, {"object": "text_completion", "choices": [choice], **counted})
        if usage:
            await _event(response, {"choices": [], "usage": self._usage(row, row.tokens)})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _usage(self, row: Row, tokens: int) -> dict[str, Any]:
        cached = self._options.cached_tokens
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        return {"prompt_tokens": len(row.ids), "completion_tokens": tokens, **details}

    def _row(self, body: dict[str, Any]) -> tuple[Row, bool]:
        """A request, checked, and whether it asks for usage.

        Raises:
            ValueError: it asks for what is not there.
        """
        if unknown := sorted(body.keys() - FIELDS):
            raise ValueError(f"Extra inputs are not permitted: {', '.join(unknown)}")
        if not isinstance(body.get("prompt"), str) or "max_tokens" not in body or body.get("stream") is not True:
            raise ValueError(REFUSED)
        if body.get("model") != self._model.checkpoint.files.name:
            raise ValueError(f"The model `{body.get('model')}` does not exist.")
        extra, asked = body.get("vllm_xargs") or {}, body.get("stream_options") or {}
        steps = extra.pop("diffusion_max_steps", body.get("num_denoising_steps"))
        if extra:
            raise ValueError(f"vllm_xargs: unknown {', '.join(extra)}")
        settings = self._settings(body, steps)
        ids = self._model.checkpoint.files.tokenize(body["prompt"])
        row = Row(ids, settings, int(body.get("seed") or 0), bool(asked.get("continuous_usage_stats")))
        return row, bool(asked.get("include_usage"))

    def _settings(self, body: dict[str, Any], steps: int | None) -> Autoregressive | Diffusion:
        most = -(-body["max_tokens"] // self._options.round_to) * self._options.round_to
        temperature = 0.0 if self._options.greedy else body.get("temperature", 1.0)
        shared = {"temperature": temperature, "top_p": body.get("top_p", 1.0), "top_k": body.get("top_k")}
        if self._model.family != "diffusion":
            if steps is not None:
                raise ValueError("an autoregressive model has no denoising steps")
            return TypeAdapter(Autoregressive).validate_python(shared | {"max_new_tokens": most})
        options = self._options
        block = min(options.block_length or most, most)
        own = {"canvas": most, "steps": steps or options.steps or most, "block_length": block}
        return TypeAdapter(Diffusion).validate_python(shared | own)

    # ------------------------------------------------------------------------------------------------------------

    def _enter(self, row: Row) -> None:
        """Let a request wait for those that belong to its batch."""
        self._waiting.append(row)
        if self._timer is not None:
            self._timer.cancel()
        if len(self._waiting) == self._options.batch:
            self._gather()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._options.window_s, self._gather)

    def _gather(self) -> None:
        waiting, self._waiting = sorted(self._waiting, key=lambda row: row.seed), []
        batches: dict[Any, list[Row]] = {}
        for number, row in enumerate(waiting):
            batches.setdefault(number if self._options.one_by_one else row.settings, []).append(row)
        for batch in batches.values():
            task = asyncio.get_running_loop().create_task(self._decode(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _decode(self, rows: list[Row]) -> None:
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self._thread, self._model.decode, rows, loop)
        except Exception as error:  # the client gets it, and the next batch its turn
            for row in rows:
                row.events.put_nowait({"error": f"{type(error).__name__}: {error}"})
            return
        self.counters[PROMPT_TOKENS] += sum(len(row.ids) for row in rows)
        self.counters[TOKENS] += sum(row.tokens for row in rows)
        self.counters[REQUESTS] += len(rows)
        if self._model.family == "diffusion":
            self.counters[DRAFTS] += made * len(rows)
            self.counters[ACCEPTED] += sum(row.settings.canvas for row in rows)
        for row in rows:  # counted before the client knows that it has all
            row.events.put_nowait({"finish": row.finish})


async def _event(response: web.StreamResponse, data: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(data)}\n\n".encode())


async def serve(server: Server, port: int, port_file: Path | None) -> None:
    """Answer until the process ends.

    Args:
        server: what answers.
        port: 0 takes a free one.
        port_file: gets the port once it listens.
    """
    runner = web.AppRunner(server.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    listening = runner.addresses[0][1]
    print(f"http://127.0.0.1:{listening}/v1", flush=True)
    if port_file is not None:
        partial = port_file.with_suffix(".partial")
        partial.write_text(str(listening))
        partial.replace(port_file)
    await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openai_server", description=__doc__)
    parser.add_argument("--checkpoint", default="bundled:llama", help="of either family, as model.checkpoint takes it")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="gets the port once the server listens")
    parser.add_argument("--steps", type=int, help="k of requests that name none (diffusion)")
    parser.add_argument("--block-length", type=int, help="of the canvas (diffusion); left out: all of it")
    parser.add_argument("--batch", type=int, help="so many requests are a batch; left out: those that come together")
    parser.add_argument("--window-ms", type=float, default=20.0, help="for how long more of a batch may come")
    parser.add_argument("--one-by-one", action="store_true", help="answer one request after the other")
    parser.add_argument("--owner", default="vllm", help="what /v1/models says; vllm: the client asks for more counts")
    parser.add_argument("--no-counters", action="store_true", help="without /metrics")
    parser.add_argument("--cached-tokens", type=int, help="what the server says of a prefix cache")
    parser.add_argument("--round-to", type=int, default=1, help="round the canvas up to a multiple of this")
    parser.add_argument("--greedy", action="store_true", help="ignore the temperature")
    given = parser.parse_args(arguments)
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    hardware = HardwareConfig(device=given.device, dtype=given.dtype, threads=given.threads)
    options = Options(
        steps=given.steps,
        block_length=given.block_length,
        batch=given.batch,
        window_s=given.window_ms / 1000,
        one_by_one=given.one_by_one,
        owner=given.owner,
        counters=not given.no_counters,
        cached_tokens=given.cached_tokens,
        round_to=given.round_to,
        greedy=given.greedy,
    )
    asyncio.run(serve(Server(Model(given.checkpoint, hardware), options), given.port, given.port_file))


if __name__ == "__main__":
    main()
