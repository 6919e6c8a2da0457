"""A server with OpenAI's interface in a process of its own: the other side of the wire for tests of the client.

    python tests/text_server.py FOLDER MODE

It streams a fixed text, token by token of the bundled LLaMA's tokenizer, over real HTTP. FOLDER gets `port` once it
listens, and for every POST a line of `requests.jsonl` (path, headers, body, port of the client). MODE says what goes
wrong, if anything:

    ok            TEXT, up to max_tokens; usage; [DONE]
    together=N    as ok, but no answer begins before N requests are there: only requests that are made at once end
    sampled       as ok, from another place of the text for every seed
    clumps        eight tokens a piece
    miscounts     says twice the tokens, and three more of the prompt
    caches        says that it had five tokens of the prompt already
    silent        a stop token at once: no text
    dies          after half of the pieces the process ends
    dies-at=N     in the middle of the N-th completion
    truncated     after half of the pieces the stream ends, as HTTP wants it, without a finish reason
    malformed     a piece that is no JSON
    strange       a piece whose text is a number
    error         an error in the stream, which names the key that was sent
    deep          a piece that is nested too deeply
    halves        a character in two halves, piece by piece, and one half more
    flood         text that does not stop at max_tokens
    endless       a line without an end
    hangs         after half of the pieces nothing more
    key=K         401 without the key K, and the answer names the key that was sent
    elsewhere     a redirect
    plain         JSON in place of a stream
    models=a,b    lists these models
    broken        500
    vllm          lists its model as vLLM's, has a version, and counts its tokens with every piece when it is asked to
    vllm=old      likewise, but refuses to count
    vllm=drafts   likewise, pieces of one and three tokens by turns
    vllm=hides    likewise, and the first half of its tokens has no text
    refuses=F     400 where the request has field F
    chat          answers /v1/chat/completions alone
    thinks=N      as chat, and the first N tokens are reasoning
    calls         as chat, and the second half calls a tool
    loose         as chat: parts, null deltas, chunks without choices, a last one without a delta
"""

import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from serving import LLAMA, TEXT

FOLDER, MODE = Path(sys.argv[1]), sys.argv[2]
NAME, _, VALUE = MODE.partition("=")
CHAT = NAME in ("chat", "thinks", "calls", "loose")


def pieces(tokenizer: Tokenizer, start: int, count: int) -> list[str]:
    """What a streaming detokenizer sends: the text that each token adds, nothing while a character is incomplete."""
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids[start : start + count]
    sent, made = "", []
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end])
        made.append("" if text.endswith("\ufffd") else text[len(sent) :])
        sent += made[-1]
    return made


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokenizer = Tokenizer.from_file(str(LLAMA))
    lock = threading.Lock()
    asked = 0
    barrier = threading.Barrier(int(VALUE) if NAME == "together" else 1)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/version" and NAME == "vllm":
            self.answer(200, {"version": "0.11.2"})
        elif self.path == "/v1/models" and self.allowed():
            names = VALUE.split(",") if NAME == "models" else ["tiny"]
            owner = "vllm" if NAME == "vllm" else "somebody"
            self.answer(200, {"object": "list", "data": [{"id": name, "owned_by": owner} for name in names]})
        elif self.path != "/v1/models":
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            Handler.asked += 1
            number = Handler.asked
            with (FOLDER / "requests.jsonl").open("a") as file:
                asked = {"path": self.path, "headers": dict(self.headers), "body": body, "from": self.client_address[1]}
                file.write(json.dumps(asked) + "\n")
        if not self.allowed():
            return
        refused = VALUE if NAME == "refuses" else "continuous_usage_stats" if (NAME, VALUE) == ("vllm", "old") else None
        if refused and refused in {**body, **body.get("stream_options", {})}:
            self.answer(400, {"error": {"message": f"Unsupported parameter: '{refused}'."}})
        elif self.path != ("/v1/chat/completions" if CHAT else "/v1/completions"):
            self.answer(404, {"detail": "Not Found"})
        elif NAME == "elsewhere":
            self.send_response(307)
            self.send_header("Location", "http://127.0.0.1:9/v1/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif NAME == "broken":
            self.answer(500, {"error": {"message": "out of memory\non device 0"}})
        elif body["model"] not in ("tiny", "a", "b"):
            self.answer(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        elif NAME == "plain":
            self.answer(200, {"choices": [{"text": TEXT}]})
        else:
            self.stream(body, number)

    def allowed(self) -> bool:
        sent = (self.headers["Authorization"] or "none").removeprefix("Bearer ")
        if NAME != "key" or sent == VALUE:
            return True
        self.answer(401, {"error": {"message": f"Incorrect API key provided: {sent}."}})
        return False

    def stream(self, body: dict[str, Any], number: int) -> None:
        most = body.get("max_tokens") or body["max_completion_tokens"]
        if most > 1:  # one token is what is asked for before a sweep
            self.barrier.wait(20)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(": hello\n\n")
        start = body["seed"] % 20 if NAME == "sampled" else 0
        made = [] if NAME == "silent" else pieces(self.tokenizer, start, most)
        counting = NAME == "vllm" and body.get("stream_options", {}).get("continuous_usage_stats")
        sent = 0
        for place, group in enumerate(grouped(made)):
            if 2 * place >= len(made) > 1 and self.misbehaves(number):
                return
            sent += len(group)
            hidden = VALUE == "hides" and 2 * sent <= len(made)
            usage = {"usage": {"completion_tokens": sent}} if counting else {}
            self.event({"choices": [self.choice("" if hidden else "".join(group), None, place, len(made))], **usage})
        stopped = len(made) < most
        if NAME == "loose":
            self.event({"usage": None})
            self.event({"choices": None})
            self.event({"choices": [{"index": 0, "finish_reason": None, "delta": None}]})
            self.event({"choices": [{"index": 0, "finish_reason": "stop" if stopped else "length"}]})
        else:
            self.event({"choices": [self.choice("", "stop" if stopped else "length")]})
        prompt = body.get("prompt") or body["messages"][0]["content"]
        usage = {
            "prompt_tokens": len(self.tokenizer.encode(prompt).ids) + 3 * (NAME == "miscounts"),
            "completion_tokens": (len(made) + stopped) * (2 if NAME == "miscounts" else 1),
            "prompt_tokens_details": {"cached_tokens": 5} if NAME == "caches" else None,
        }
        self.event({"choices": [], "usage": usage})
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def choice(self, text: str, finish: str | None, place: int = 0, count: int = 0) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": text}
        if NAME == "thinks" and text and place < int(VALUE):
            delta = {"reasoning_content": text, "reasoning": text, "content": None}
        elif NAME == "calls" and text and 2 * place >= count:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        elif NAME == "loose" and text:
            delta = {"content": [{"type": "text", "text": text}]}
        return {"index": 0, "finish_reason": finish, **({"delta": delta} if CHAT else {"text": text})}

    def misbehaves(self, number: int) -> bool:
        """Go wrong in the middle of a stream; whether it ends here."""
        if NAME == "dies" or (NAME == "dies-at" and number == int(VALUE)):
            os._exit(1)
        if NAME == "truncated":
            self.chunk("")
        elif NAME == "malformed":
            self.chunk('data: {"choices": [{"te\n\n')
        elif NAME == "strange":
            self.event({"choices": [{"index": 0, "text": 7}]})
        elif NAME == "deep":
            self.chunk(f"data: {'[' * 100_000}\n\n")
        elif NAME == "halves":
            self.chunk(
                "".join(f'data: {{"choices": [{{"text": "\\u{half}"}}]}}\n\n' for half in ("d83d", "de00", "d83d"))
            )
            return False
        elif NAME == "flood":
            for _ in range(1000):
                self.event({"choices": [self.choice(TEXT, None)]})
        elif NAME == "error":
            self.event({"error": {"message": f"engine dead, {self.headers['Authorization']}"}})
        elif NAME == "endless":
            for _ in range(40):
                self.chunk("x" * 2**16)
        elif NAME == "hangs":
            threading.Event().wait(60)
        else:
            return False
        return True

    def event(self, data: dict[str, Any]) -> None:
        self.chunk(f"data: {json.dumps(data, ensure_ascii=False)}\n\n")

    def chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def answer(self, status: int, data: dict[str, Any]) -> None:
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def grouped(made: list[str]) -> Iterator[list[str]]:
    """The tokens of every piece."""
    sizes = itertools.cycle({"clumps": [8], "vllm=drafts": [1, 3]}.get(MODE, [1]))
    start = 0
    while start < len(made):
        yield made[start : (start := start + next(sizes))]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:  # a client that has seen enough
        pass


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Handler) as server:
        partial = FOLDER / "port.partial"
        partial.write_text(str(server.server_port))
        partial.replace(FOLDER / "port")
        server.serve_forever()
