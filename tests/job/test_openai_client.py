"""What a client makes of a real server over a real socket: texts and stamps when all is well, one line when not."""

import json

import pytest
from tokenizers import Tokenizer

from llmbench.config.servers import ServerConfig
from llmbench.errors import ServerError
from llmbench.job import openai_client
from serving import LLAMA, TEXT, text_server

TEXT_START = " the old house stood alone on the hill"
KEY = "sk-very-secret-0123456789"


def ask(**more):
    return {"model": "tiny", "prompt": "Once", "max_tokens": 8, "temperature": 0, "seed": 0} | more


def refusal(url, *requests, **settings) -> str:
    with openai_client.Client(ServerConfig(url=url, **settings)) as client, pytest.raises(ServerError) as caught:
        client.complete(requests or [ask()], None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_text_comes_back_exactly_and_every_piece_is_stamped(tmp_path):
    with text_server(tmp_path) as server, openai_client.Client(ServerConfig(url=server.url)) as client:
        whole, short = client.complete([ask(max_tokens=500), ask(max_tokens=3)], None)
    tokenizer = Tokenizer.from_file(str(LLAMA))
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert whole.text == TEXT  # two-byte characters and line ends included
    assert (whole.finish, whole.completion_tokens) == ("stop", len(ids) + 1)
    assert (short.finish, short.completion_tokens) == ("length", 3)
    assert short.text == tokenizer.decode(ids[:3])
    assert short.prompt_tokens == len(tokenizer.encode("Once").ids)
    assert len(short.pieces_ms) == 3
    for reply in (whole, short):
        assert reply.pieces_ms == sorted(reply.pieces_ms)
        assert 0 < reply.pieces_ms[0] <= reply.pieces_ms[-1] <= reply.end_ms


def test_the_requests_of_a_batch_are_under_way_at_once(tmp_path):
    with text_server(tmp_path, "together=6") as server, openai_client.Client(ServerConfig(url=server.url)) as client:
        replies = client.complete([ask(seed=i) for i in range(6)], None)  # one after the other would wait for ever
        again = client.complete([ask(seed=i) for i in range(6)], None)  # on the kept connections
    assert len(replies) == len(again) == 6
    assert sorted(request["body"]["seed"] for request in server.requests) == sorted([*range(6)] * 2)
    assert all(request["body"]["stream"] for request in server.requests)


def test_connections_are_kept_for_the_next_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(openai_client, "KEEP_S", 60.0)
    with text_server(tmp_path, "together=3") as server, openai_client.Client(ServerConfig(url=server.url)) as client:
        for _ in range(3):
            client.complete([ask() for _ in range(3)], None)
    assert len(server.requests) == 9
    assert len({request["from"] for request in server.requests}) == 3


@pytest.mark.parametrize("mode", ["ok", "silent"])
def test_the_first_text_of_a_batch_is_announced_once_with_or_without_text(tmp_path, mode):
    calls = []
    with text_server(tmp_path, mode) as server, openai_client.Client(ServerConfig(url=server.url)) as client:
        replies = client.complete([ask(), ask()], lambda: calls.append("first"))
    assert calls == ["first"]
    assert [bool(reply.text) for reply in replies] == [mode == "ok"] * 2
    assert {reply.finish for reply in replies} == {"length" if mode == "ok" else "stop"}


def test_chat_sends_a_message_and_reads_deltas(tmp_path):
    with (
        text_server(tmp_path, "chat") as server,
        openai_client.Client(ServerConfig(url=server.url, api="chat")) as client,
    ):
        message = {"role": "user", "content": "Once"}
        (reply,) = client.complete([{**ask(), "prompt": None, "messages": [message]}], None)
    assert TEXT_START.startswith(reply.text) or reply.text.startswith(TEXT_START)
    assert server.requests[0]["path"] == "/v1/chat/completions"


def test_a_server_says_who_it_is(tmp_path):
    with text_server(tmp_path / "1", "vllm") as server, openai_client.Client(ServerConfig(url=server.url)) as client:
        assert client.identify() == openai_client.Identity(model="tiny", software="vllm 0.11.2")
    with text_server(tmp_path / "2", "models=a,b") as server:
        with openai_client.Client(ServerConfig(url=server.url)) as client, pytest.raises(ServerError) as caught:
            client.identify()
        assert "lists 2 models (a, b); set server.served_model" in str(caught.value)
        with openai_client.Client(ServerConfig(url=server.url, served_model="b")) as client:
            assert client.identify() == openai_client.Identity(model="b", software="")
        root = server.url.removesuffix("/v1")
        with openai_client.Client(
            ServerConfig(url=root, served_model="b")
        ) as client:  # /v1 is added where there is no path
            assert client.identify().model == "b"
        with openai_client.Client(ServerConfig(url=f"{root}/v2")) as client, pytest.raises(ServerError) as caught:
            client.identify()
        assert "answers 404 to /v2/models: Not Found; is server.url right" in str(caught.value)


WRONG = {
    "dies": "broke the connection after 4 pieces of text",
    "truncated": "ended the stream in the middle, after 4 pieces of text",
    "malformed": 'sent what is no piece of a completion: {"choices": [{"te',
    "strange": "sent what is no piece of a completion",
    "refuses=seed": "Unsupported parameter: 'seed'.; to send it without: server.leave_out=[seed]",
    "refuses=stream_options": "to send it without: server.leave_out=[stream_options]",
    "refuses=max_tokens": "server.max_tokens_field=max_completion_tokens",
    "deep": "sent what is no piece of a completion: [[[[",
    "flood": "does not stop at max_tokens=8: 2",
    "error": "failed after 4 pieces of text: engine dead",
    "endless": "sent a line of more than 1048576 bytes",
    "elsewhere": "answers 307 to /v1/completions: it points to another address",
    "plain": "answers with application/json, not with a stream of events",
    "broken": "answers 500 to /v1/completions: out of memory on device 0",
}


@pytest.mark.parametrize("mode", WRONG)
def test_what_goes_wrong_is_one_line(tmp_path, mode):
    with text_server(tmp_path, mode) as server:
        assert WRONG[mode] in refusal(server.url)


def test_halves_of_a_character_are_joined_or_replaced_so_that_the_text_can_be_read(tmp_path):
    with text_server(tmp_path, "halves") as server, openai_client.Client(ServerConfig(url=server.url)) as client:
        (reply,) = client.complete([ask()], None)
    assert "\U0001f600\ufffd" in reply.text
    assert reply.text.encode().decode() == reply.text


def test_one_bad_stream_ends_the_batch(tmp_path):
    with text_server(tmp_path, "ok") as server:
        said = refusal(server.url, ask(), ask(model="none"), ask())
    assert "answers 404 to /v1/completions: The model `none` does not exist." in said
    assert "server.served_model" in said


def test_a_stream_that_stands_still_is_given_up(tmp_path):
    with text_server(tmp_path, "hangs") as server:
        said = refusal(server.url, timeout_s=1.5)
    assert "was not done within 1.5 s, after 4 pieces of text; raise server.timeout_s" in said


def test_no_server_is_said_with_the_cure():
    assert "cannot be reached" in refusal("http://127.0.0.1:9/v1")
    assert "server.url" in refusal("http://no-such-host.invalid/v1")


def test_the_key_goes_into_the_header_and_nowhere_else(tmp_path, monkeypatch):
    with text_server(tmp_path / "key", f"key={KEY}") as server:
        monkeypatch.delenv(openai_client.KEY, raising=False)
        assert "answers 401" in (said := refusal(server.url))
        assert "it wants a key: set OPENAI_API_KEY" in said
        monkeypatch.setenv(openai_client.KEY, "sk-wrong-9876543210")
        assert "it refuses the key in OPENAI_API_KEY" in (said := refusal(server.url))
        assert "Incorrect API key provided: ***." in said  # the server had repeated it
        assert "sk-wrong" not in said
        monkeypatch.setenv(openai_client.KEY, f"{KEY}\n")  # as `export KEY=$(cat file)` does not, but files do
        with openai_client.Client(ServerConfig(url=server.url)) as client:
            (reply,) = client.complete([ask()], None)
        assert len(reply.pieces_ms) == 8
        assert KEY not in json.dumps(server.requests[-1]["body"])
    with text_server(tmp_path / "error", "error") as server:
        assert "engine dead, Bearer ***" in refusal(server.url)


def chat(*, client, **more):
    return client.complete([{**ask(**more), "prompt": None, "messages": [{"role": "user", "content": "Once"}]}], None)[
        0
    ]


def test_reasoning_and_tool_calls_are_counted_apart_and_are_no_text(tmp_path):
    tokens = Tokenizer.from_file(str(LLAMA)).encode(TEXT, add_special_tokens=False).ids
    for mode, other, text in (("thinks=6", {"reasoning": 6}, tokens[6:8]), ("calls", {"tool call": 4}, tokens[:4])):
        with (
            text_server(tmp_path / mode, mode) as server,
            openai_client.Client(ServerConfig(url=server.url, api="chat")) as client,
        ):
            reply = chat(client=client)
        assert dict(reply.other) == other
        assert reply.text.strip() == Tokenizer.from_file(str(LLAMA)).decode(text).strip()
        assert len(reply.pieces_ms) == len(text)
        assert reply.token_times_ms is None


def test_a_stream_without_deltas_texts_and_choices_is_read_to_its_end(tmp_path):
    with (
        text_server(tmp_path, "loose") as server,
        openai_client.Client(ServerConfig(url=server.url, api="chat")) as client,
    ):
        reply = chat(client=client)
    assert TEXT_START.startswith(reply.text)
    assert (len(reply.pieces_ms), reply.finish, reply.completion_tokens) == (8, "length", 8)


@pytest.mark.parametrize("field", ["seed", "stream_options", "max_tokens"])
def test_a_field_that_a_server_refuses_can_be_left_out_or_renamed(tmp_path, field):
    renamed = field == "max_tokens"
    settings = {"max_tokens_field": "max_completion_tokens"} if renamed else {"leave_out": [field]}
    with (
        text_server(tmp_path, f"refuses={field}") as server,
        openai_client.Client(ServerConfig(url=server.url, **settings)) as client,
    ):
        (reply,) = client.complete([ask()], None)
    assert len(reply.pieces_ms) == 8
    (body,) = (request["body"] for request in server.requests)
    assert field not in body
    assert body.get("max_completion_tokens") == (8 if renamed else None)


def test_tokens_are_timed_only_where_every_piece_is_one(tmp_path):
    """By the server's count with every piece, where it offers one; else pieces and tokens must be as many."""
    seen = {}
    for mode in ("ok", "clumps", "vllm", "vllm=old", "vllm=drafts", "vllm=hides"):
        with text_server(tmp_path / mode, mode) as server, openai_client.Client(ServerConfig(url=server.url)) as client:
            client.identify()
            (seen[mode],) = client.complete([ask()], None)
            asked = [request["body"]["stream_options"] for request in server.requests]
        wanted = {"include_usage": True} | ({"continuous_usage_stats": True} if mode.startswith("vllm") else {})
        assert asked == [wanted] + ([{"include_usage": True}] if mode == "vllm=old" else [])  # refused: once more
    timed = {mode: reply.token_times_ms and len(reply.token_times_ms) for mode, reply in seen.items()}
    assert timed == {"ok": 8, "clumps": None, "vllm": 8, "vllm=old": 8, "vllm=drafts": None, "vllm=hides": 8}
    assert [seen[mode].silent_tokens for mode in ("ok", "vllm", "vllm=old", "vllm=hides")] == [None, 0, None, 4]
    assert [seen[mode].first_tokens for mode in ("ok", "vllm", "vllm=drafts", "vllm=hides")] == [None, 1, 1, 5]
