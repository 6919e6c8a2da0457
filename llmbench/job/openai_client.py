"""How is a server asked for text, and when did each piece of it arrive? The client of OpenAI's HTTP interface.

`Client.complete` sends the requests of one batch together, each on a connection of its own, and reads the streams as
they come (server-sent events): an arrival is stamped by the monotonic host clock when its bytes are read, in one event
loop, so that a row's stamp waits for no thread. The batch is complete when its last stream is. Connections are kept
for the next batch, but never so long that the server may have closed them (uvicorn: 5 s): a POST that fails on a stale
connection cannot be repeated.

aiohttp is the client because vLLM's own benchmark uses it, MLflow depends on it in any case, and it hands out bytes as
they arrive; `requests` waits for a full buffer where a server does not send chunks.

Text is what counts as output. What else a stream may bring (reasoning, tool calls) is counted by its kind, and is no
text. Where the server offers it, it is asked for its count of tokens with every piece (`continuous_usage_stats`): only
then is it known how many tokens a piece holds, and which tokens had no text.

Every failure is one `ServerError`, in one line. The key comes from OPENAI_API_KEY, goes into one header, and is removed
from every message of a server; redirects are not followed, because they would pass the key on.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmbench.config.servers import ServerConfig
from llmbench.errors import ServerError
from llmbench.job.reply import Reply, take

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

KEY = "OPENAI_API_KEY"

CONNECT_S = 10.0
KEEP_S = 2.0
LINE_BYTES = 2**20
SOFTWARE = ("vllm", "sglang", "llamacpp")
"""Values of `owned_by` that name the software; other servers write an owner there."""

COUNTS_EVERY_PIECE = ("vllm", "sglang")
"""Software that takes `continuous_usage_stats`; where an older version refuses it, the request goes out without."""

LONGEST_TOKEN = 256
"""Characters; 128 blanks are one token for LLaMA-3."""

SHOWN = 200
"""Most characters of a server's message that an error repeats."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How a server describes itself."""

    model: str  # its id
    software: str  # "vllm 0.11.0", "sglang"; "" if unknown


class Client:
    """One server, for one job. Close it, or use it in `with`.

    Args:
        server: where and how.
    """

    def __init__(self, server: ServerConfig) -> None:
        self._server = server
        self._key = os.environ.get(KEY, "").strip()
        self._runner = asyncio.Runner()
        self._session: ClientSession | None = None
        self._counts_every_piece = False

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            self._runner.run(self._session.close())
            self._session = None
        self._runner.close()

    def identify(self) -> Identity:
        """The model that is asked for, by name or because it is the only one, and the server's software.

        Raises:
            ServerError: no server, no model, or several and none is named.
        """
        return self._runner.run(self._identify())

    def complete(self, requests: Sequence[Mapping[str, Any]], on_first: Callable[[], None] | None) -> list[Reply]:
        """Send the requests of a batch together and read their streams to the end.

        Args:
            requests: their JSON, without `stream`, under OpenAI's names; settings of the server rename and drop fields.
            on_first: called once, when every stream has brought its first text or has ended without any.

        Raises:
            ServerError: any of them was refused, broke off or made no sense.
        """
        return self._runner.run(self._complete(requests, on_first))

    def counters(self, names: Sequence[str]) -> list[float] | None:
        """Counters of the server's page of metrics (Prometheus text), each summed over its labels; None without them.

        Args:
            names: of the counters.
        """
        return self._runner.run(self._counters(names))

    # ------------------------------------------------------------------------------------------------------------

    async def _counters(self, names: Sequence[str]) -> list[float] | None:
        found: dict[str, float] = {}
        try:
            async with (
                _Translated(self, None),
                self._open().get(f"{self._server.origin}/metrics", allow_redirects=False) as response,
            ):
                await self._require_ok(response)
                page = (await response.read()).decode(errors="replace")
            for line in page.splitlines():
                name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
                if name in names:
                    value = rest.rpartition("}")[2] if "{" in line else rest
                    found[name] = found.get(name, 0.0) + float(value.split()[0])
        except (ServerError, ValueError, IndexError):
            return None
        return [found[name] for name in names] if found.keys() >= set(names) else None

    async def _identify(self) -> Identity:
        answer = await self._get(f"{self._server.base}/models")
        try:
            listed = {str(item["id"]): str(item.get("owned_by") or "") for item in answer["data"]}
        except (TypeError, KeyError, AttributeError):
            raise self._error("does not list its models at /models; is the url right?") from None
        model = self._server.served_model
        if model is None and len(listed) != 1:
            names = self._shown(", ".join(listed)) or "none"
            raise self._error(f"lists {len(listed)} models ({names}); set {self._server.group}.served_model to one")
        model = model or next(iter(listed))
        try:
            version = str((await self._get(f"{self._server.origin}/version"))["version"])
        except (ServerError, TypeError, KeyError):
            version = ""
        owner = listed.get(model, "")
        self._counts_every_piece = owner in COUNTS_EVERY_PIECE
        software = f"{owner if owner in SOFTWARE else ''} {version}".strip()
        return Identity(model=model, software=self._shown(software))

    async def _get(self, url: str) -> Any:
        def body() -> Any:
            return self._open().get(url, allow_redirects=False)

        async with _Translated(self, None), body() as response:
            await self._require_ok(response)
            try:
                return json.loads(await response.read())
            except (ValueError, RecursionError):
                raise self._error(f"answers {url.removeprefix(self._server.origin)} with what is no JSON") from None

    async def _complete(
        self, requests: Sequence[Mapping[str, Any]], on_first: Callable[[], None] | None
    ) -> list[Reply]:
        self._open()
        await asyncio.sleep(0)  # let the loop see which kept connections the server has closed
        waiting = len(requests)

        def arrived() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0 and on_first is not None:
                on_first()

        begin = time.perf_counter_ns()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._stream(request, begin, arrived)) for request in requests]
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            if isinstance(first, _RefusedFieldsError) and self._counts_every_piece:
                self._counts_every_piece = False
                return await self._complete(requests, on_first)
            raise first from None
        return [task.result() for task in tasks]

    async def _stream(self, request: Mapping[str, Any], begin: int, arrived: Callable[[], None]) -> Reply:
        """One request; calls `arrived` once, at its first text or at its end."""
        chat = self._server.api == "chat"
        url = f"{self._server.base}/{'chat/completions' if chat else 'completions'}"
        reply, ended = Reply(), False
        async with (
            _Translated(self, reply),
            self._open().post(url, json=self._body(request), allow_redirects=False) as response,
        ):
            await self._require_ok(response)
            if response.content_type != "text/event-stream":
                raise self._error(f"answers with {response.content_type}, not with a stream of events")
            async for event in self._events(response):
                if event == "[DONE]":
                    ended = True  # and on to the end of the body: only then is the connection kept
                    continue
                piece = self._read(event, reply)
                now = (time.perf_counter_ns() - begin) / 1e6
                if (reply.completion_tokens or 0) > (reply.counts[-1][1] if reply.counts else 0):
                    reply.counts.append((now, reply.completion_tokens or 0))
                if piece:
                    reply.text += piece
                    reply.pieces_ms.append(now)
                    if len(reply.pieces_ms) == 1:
                        arrived()
                    if len(reply.text) > LONGEST_TOKEN * request["max_tokens"]:
                        raise self._error(
                            f"does not stop at max_tokens={request['max_tokens']}: {len(reply.text)} characters"
                        )
        reply.end_ms = (time.perf_counter_ns() - begin) / 1e6
        # the halves of a character may come one by one, and one may never come
        reply.text = reply.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if not ended and reply.finish is None:
            raise self._error(f"ended the stream in the middle, after {_pieces(reply)}")
        if not reply.pieces_ms:
            arrived()
        return reply

    def _body(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request as this server takes it."""
        settings = self._server
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        if self._counts_every_piece:
            body["stream_options"]["continuous_usage_stats"] = True
        body[settings.max_tokens_field] = body.pop("max_tokens")
        return {name: value for name, value in body.items() if name not in settings.leave_out}

    async def _events(self, response: "ClientResponse") -> AsyncIterator[str]:
        """The data of every event, without comments and keep-alives."""
        rest = b""
        async for received in response.content.iter_any():
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                name, _, value = line.rstrip(b"\r").partition(b":")
                if name == b"data":
                    yield value.strip().decode(errors="replace")
            if len(rest) > LINE_BYTES:
                raise self._error(f"sent a line of more than {LINE_BYTES} bytes")

    def _read(self, event: str, reply: Reply) -> str:
        """Take one event into the reply; its text."""
        try:
            data = json.loads(event)
            if error := data.get("error"):
                message = error.get("message", error) if isinstance(error, dict) else error
                raise self._error(f"failed after {_pieces(reply)}: {self._shown(message)}")
            return take(data, reply, chat=self._server.api == "chat")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise self._error(f"sent what is no piece of a completion: {self._shown(event)}") from None

    def _open(self) -> "ClientSession":
        """The session, made inside the running loop."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S),
                timeout=aiohttp.ClientTimeout(total=self._server.timeout_s, sock_connect=CONNECT_S),
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            )
        return self._session

    async def _require_ok(self, response: "ClientResponse") -> None:
        """Refuse an answer that is not 200, with the server's message and advice."""
        if response.status == 200:
            return
        group, whole = self._server.group, _message(await response.content.read(LINE_BYTES))
        message, kind = self._shown(whole), ServerError
        if response.status in (401, 403):
            advice = f"it refuses the key in {KEY}" if self._key else f"it wants a key: set {KEY}"
        elif response.status == 404:
            advice = f"is {group}.url right (it ends on /v1 as a rule), and does the server have {group}.served_model?"
        elif 300 <= response.status < 400:
            advice = f"it points to another address; set {group}.url to that"
        elif response.status in (400, 422):
            advice, kind = self._advice(whole), _RefusedFieldsError
        else:
            advice = ""
        details = "; ".join(part for part in (message, advice) if part)
        said = f"answers {response.status} to {response.url.path}{details and f': {details}'}"
        raise kind(f"server {self._server.origin} {said}")

    def _advice(self, message: str) -> str:
        """What to set where a server refuses a field and names it."""
        settings = self._server
        if "max_tokens" in message and settings.max_tokens_field == "max_tokens":
            return f"if it wants the other name: {settings.group}.max_tokens_field=max_completion_tokens"
        if "max_completion_tokens" in message and settings.max_tokens_field != "max_tokens":
            return f"if it wants the other name: {settings.group}.max_tokens_field=max_tokens"
        named = [name for name in ("stream_options", "seed", "top_p") if name in message]
        if not named:
            return ""
        left_out = ",".join(sorted({*settings.leave_out, *named}))
        return f"to send it without: {settings.group}.leave_out=[{left_out}]"

    def _error(self, message: str) -> ServerError:
        return ServerError(f"server {self._server.origin} {message}")

    def _shown(self, message: object) -> str:
        """A server's message: one line, not too long, without the key."""
        text = " ".join(str(message).split())
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class _RefusedFieldsError(ServerError):
    """The server refuses the request as it was written."""


class _Translated:
    """`async with`: what aiohttp raises becomes a ServerError that says how much of the reply had come."""

    def __init__(self, client: Client, reply: Reply | None) -> None:
        self._client, self._reply = client, reply

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import aiohttp

        if not isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
            return
        server = self._client._server
        after = f"after {_pieces(self._reply)}" if self._reply is not None else "before it answered"
        if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
            cause = getattr(error, "os_error", None)
            why = f" ({cause.strerror or cause})" if cause else f" within {CONNECT_S:g} s"
            message = f"cannot be reached{why}; start the server, or set {server.group}.url"
        elif isinstance(error, TimeoutError):
            message = f"was not done within {server.timeout_s:g} s, {after}; raise {server.group}.timeout_s"
        elif isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, OSError)):
            message = f"broke the connection {after}"
        else:
            message = f"does not speak HTTP as it should, {after} ({type(error).__name__}: {error})"
        raise self._client._error(self._client._shown(message)) from None


def _pieces(reply: Reply) -> str:
    count = len(reply.pieces_ms)
    return f"{count} piece{'' if count == 1 else 's'} of text"


def _message(body: bytes) -> str:
    """The message in an error's body: OpenAI's, FastAPI's, or the body itself."""
    text = body.decode(errors="replace")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(data, dict):
        return text
    message = data.get("error") or data.get("detail") or data.get("message") or text
    return str(message.get("message", message) if isinstance(message, dict) else message)
