"""Silent providers, and such that close connections: what clients and the official SDK see of it, over real sockets."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
import uvicorn

from sentinel.config import Settings
from sentinel.dev.ports import free_port
from sentinel.server.listeners import listeners_for
from sentinel.server.serve import config_for
from tests.support.scripted import MODELS, ScriptedProvider
from tests.support.sockets import close, nodelay_of_ends, reset
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, chat, head, post
from tests.support.waiting import PATIENCE_SECONDS, wait_until

COMMENT = b": keep-alive\n"
SILENCE_SECONDS = 0.2
LEASE_SECONDS = 1
USAGE = {"prompt_tokens": 21, "completion_tokens": 17, "total_tokens": 38}
DONE = b"data: [DONE]\n\n"
WHOLE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()


def delta(text: str, number: int) -> bytes:
    """An event with an id, as some gateways send it."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", "choices": choices}
    return f"id: {number}\ndata: {json.dumps(chunk)}\n\n".encode()


EVENTS = [delta("Hello", 1), delta(" world", 2)]
LAST = b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}).encode()


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(
        OPENAI_API_URL=provider.url,
        STREAM_KEEPALIVE_SECONDS=str(SILENCE_SECONDS),
        LEASE_SECONDS=str(LEASE_SECONDS),
        RATE_LIMITS="ai_requests=1000/60s",
    )


class _Tapped(httpx2.SyncByteStream):
    def __init__(self, stream: Any, tap: Any) -> None:
        self._stream, self._tap = stream, tap

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._tap(piece)
            yield piece

    def close(self) -> None:
        self._stream.close()


class Watching(httpx2.BaseTransport):
    """What an SDK reads passes through here; opens the gate after so many keep-alives."""

    def __init__(self, gate: threading.Event, after: int) -> None:
        self._inner = httpx2.HTTPTransport()
        self._gate, self._after = gate, after
        self.got = b""

    def _tap(self, piece: bytes) -> None:
        self.got += piece
        if self.got.count(COMMENT) >= self._after:
            self._gate.set()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        response.stream = _Tapped(response.stream, self._tap)
        return response

    def close(self) -> None:
        self._inner.close()


@contextlib.contextmanager
def watched_sdk(sentinel: SentinelProcess, token: str, watching: Watching) -> Iterator[openai.OpenAI]:
    http_client = httpx2.Client(transport=watching, timeout=30)
    with openai.OpenAI(base_url=f"{sentinel.url}/v1", api_key=token, max_retries=0, http_client=http_client) as client:
        yield client


@pytest.mark.parametrize("where", ["late", "gate"])
def test_the_sdk_reads_a_stream_with_silences(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, where: str
) -> None:
    """Before the head, and after an event with an id; for longer than a lease lasts; booked once."""
    email = f"{where}@corp.test"
    _, token = stack.user(email)
    gate = threading.Event()
    provider.streams(*EVENTS, LAST + b"\n\n", DONE, **{where: gate})
    watching = Watching(gate, after=round(2 * LEASE_SECONDS / SILENCE_SECONDS))
    with watched_sdk(sentinel, token, watching) as client:
        stream = client.chat.completions.create(**chat(stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "Hello world"
    assert watching.got.replace(COMMENT, b"") == b"".join(EVENTS) + DONE
    booked = stack.booked(1, email)
    assert (booked["ai_requests"], booked["ai_input_tokens"], booked["ai_output_tokens"]) == (1, 21, 17)


@contextlib.contextmanager
def asking(sentinel: SentinelProcess, token: str, **fields: Any) -> Iterator[http.client.HTTPResponse]:
    """A request whose answer has begun."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    ) as connection:
        connection.request("POST", CHAT, json.dumps(chat(**fields)).encode(), headers)
        with connection.getresponse() as answer:
            yield answer


def test_the_head_that_comes_before_the_providers(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider
) -> None:
    """It is a stream's, with everything that Sentinel knows by then."""
    _, token = stack.user("head@corp.test")
    gate = threading.Event()
    provider.streams(*EVENTS, DONE, late=gate)
    with asking(sentinel, token, stream=True) as answer:
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["x-ratelimit-limit"] == "1000"
        assert answer.headers["x-accel-buffering"] == "no"
        assert float(answer.headers["x-sentinel-overhead-ms"]) < 1000 * SILENCE_SECONDS
        assert answer.readline() == COMMENT
        gate.set()
        assert answer.read().replace(COMMENT, b"") == b"".join(EVENTS) + DONE


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("", bytes), ("identity", bytes)])
def test_a_coded_stream_after_the_head(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    """It is passed on without its coding, so the lines before and between are lines."""
    _, token = stack.user("coded@corp.test")
    gate = threading.Event()
    provider.streams(encode(b"".join(EVENTS) + DONE), late=gate, headers=[("content-encoding", coding)])
    with asking(sentinel, token, stream=True) as answer:
        assert answer.readline() == COMMENT
        gate.set()
        assert answer.read().replace(COMMENT, b"") == b"".join(EVENTS) + DONE


def ended_with(sentinel: SentinelProcess, outcome: str) -> dict[str, Any]:
    """The log line of the last request that ended so."""
    found = wait_until(lambda: [at for at in sentinel.ended() if at["outcome"] == outcome], "the log line")
    line: dict[str, Any] = found[-1]
    return line


def test_a_failure_after_the_head_is_the_sdks_error(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider
) -> None:
    """A refusal reaches the SDK as an error with the provider's words; free, and the log tells it."""
    _, token = stack.user("refused@corp.test")
    gate = threading.Event()
    provider.says(b'{\n  "error": {"message": "too long", "code": "context_length"}\n}', status=400, late=gate)
    with watched_sdk(sentinel, token, Watching(gate, after=1)) as client:
        stream = client.chat.completions.create(**chat(stream=True))
        with pytest.raises(openai.APIError, match="too long"):
            list(stream)
    line = ended_with(sentinel, "upstream_error")
    assert (line["status"], line["error"], line["tokens_from"]) == (200, None, "none")


def test_a_whole_answer_after_the_head_is_read_by_the_sdk(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider
) -> None:
    """A provider that knows no streams and thinks for long: its text arrives, and its usage is booked."""
    _, token = stack.user("whole@corp.test")
    gate = threading.Event()
    provider.says(WHOLE, late=gate)
    with watched_sdk(sentinel, token, Watching(gate, after=1)) as client:
        chunks = list(client.chat.completions.create(**chat(stream=True)))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["Hello"]
    assert stack.booked(1, "whole@corp.test")["ai_output_tokens"] == 17


def test_blanks_before_a_whole_answer_arrive_at_once(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider
) -> None:
    """While the provider is still at work; the SDK reads the answer behind them."""
    _, token = stack.user("blank@corp.test")
    gate = threading.Event()
    provider.says(b"\n", b"\r\n  ", WHOLE[:50], WHOLE[50:], gate=gate)
    with asking(sentinel, token) as answer:
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.read(1) == b"\n"
        assert not gate.is_set()
        gate.set()
        assert answer.read() == b"\r\n  " + WHOLE
    with openai.OpenAI(base_url=f"{sentinel.url}/v1", api_key=token, max_retries=0) as client:
        assert client.chat.completions.create(**chat()).choices[0].message.content == "Hello"
    booked = stack.booked(2, "blank@corp.test")
    assert (booked["ai_input_tokens"], booked["ai_output_tokens"]) == (42, 34)


@pytest.mark.parametrize("cut", [True, False])
def test_a_broken_answer_behind_blanks_is_none(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, cut: bool
) -> None:
    """The client sees that it has not come whole, and pays nothing."""
    _, token = stack.user("broken@corp.test")
    gate = threading.Event()
    provider.says(b"\n", WHOLE[:50], cut=cut, gate=gate)
    with asking(sentinel, token) as answer:
        # Behind the first blank: one that comes together with the break is no beginning of an answer.
        assert answer.read(1) == b"\n"
        gate.set()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    line = ended_with(sentinel, "broken")
    assert (line["status"], line["error"], line["tokens_from"]) == (200, "upstream_error", "none")


# ------------------------------------------------------------------------------------------------- kept connections


class Forgetful:
    """A provider that ends its second POST's connection without an answer, in this way."""

    def __init__(self, end: Any, stream: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._end = end
        body = b"".join([EVENTS[0], LAST, b"\n\n", DONE]) if stream else WHOLE
        kind = b"text/event-stream" if stream else b"application/json"
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)
        self.posts: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(65536):
                if request.startswith(b"POST"):
                    self.posts.append(request)
                    if len(self.posts) == 2:
                        self._end(connection)
                        return
                    connection.sendall(self._answer)
                else:
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(MODELS), MODELS))

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("end", [close, reset])
def test_a_kept_connection_that_dies_costs_nothing(stack: Stack, end: Any, stream: bool) -> None:
    """The provider is asked once more; the user's request is reserved and booked once."""
    email = f"kept-{end.__name__}-{stream}@corp.test"
    _, token = stack.user(email)
    with contextlib.closing(Forgetful(end, stream)) as provider:
        sentinel = stack.sentinel(
            OPENAI_API_URL=provider.url, UPSTREAM_KEEPALIVE_SECONDS="60", RATE_LIMITS="ai_requests=10/60s"
        )
        answers = [post(sentinel, token, chat(stream=stream)) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["9", "8"]
        assert len(provider.posts) == 3
        assert provider.posts[1] == provider.posts[2]
        booked = stack.booked(2, email)
        assert (booked["ai_requests"], booked["ai_input_tokens"], booked["ai_output_tokens"]) == (2, 42, 34)
        assert [line["outcome"] for line in sentinel.ended(2)] == ["ok", "ok"]
        wait_until(lambda: sentinel.metric("sentinel_requests_in_flight") == 0, "the end of all reservations")
        sentinel.stop()


# ----------------------------------------------------------------------------------------------------- small chunks

CHUNKS, CHUNK_BYTES, EVERY_SECONDS = 64, 60, 0.02
ROUNDS = 10
PROMPT_SECONDS = 0.01
"""A delayed acknowledgement takes 40 ms, and would hold up all chunks but a few."""


class Dripping:
    """A provider that sends small events, and notes when."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.sent: list[float] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = connection.recv(65536)
            if not request.startswith(b"POST"):
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            for number in range(CHUNKS):
                time.sleep(EVERY_SECONDS)
                self.sent.append(time.monotonic())
                connection.sendall(b"data: %b\n\n" % (b'{"n":%d}' % number).ljust(CHUNK_BYTES - 8))

    def close(self) -> None:
        self._listener.close()


def test_small_chunks_arrive_at_once(stack: Stack) -> None:
    """64 of 60 bytes, 20 ms apart: each within a few milliseconds; none waits for the next, or an acknowledgement."""
    with contextlib.closing(Dripping()) as provider:
        sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
        _, token = stack.user("drip@corp.test")
        # A busy machine holds up some of them; what holds up all of them does so each time.
        late: list[float] = []
        for _ in range(ROUNDS):
            late = lateness(sentinel, token, provider)
            if statistics.median(late) < PROMPT_SECONDS and sum(s > 2 * PROMPT_SECONDS for s in late) < CHUNKS // 4:
                return
    raise AssertionError(late)


def lateness(sentinel: SentinelProcess, token: str, provider: Dripping) -> list[float]:
    """How long after it was sent each chunk came."""
    body = json.dumps(chat(stream=True)).encode()
    provider.sent.clear()
    with raw_connection(sentinel) as connection:
        connection.sendall(head(headers=[f"authorization: Bearer {token}", f"content-length: {len(body)}"]) + body)
        came: list[float] = []
        got = b""
        while len(came) < CHUNKS:
            piece = connection.recv(65536)
            assert piece
            got += piece
            came += [time.monotonic()] * (got.count(b"data: ") - len(came))
    return [after - before for before, after in zip(provider.sent, came, strict=True)]


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Waits, so that its connection stays."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
    await receive()


def test_small_answers_leave_at_once() -> None:
    """TCP_NODELAY is set towards clients."""
    settings = Settings(
        zion_api_url="http://127.0.0.1:1", zion_api_key="k", openai_api_key="k", sentinel_host="127.0.0.1",
        sentinel_port=free_port(),
    )  # fmt: skip
    server = uvicorn.Server(config_for(_app, settings))
    listeners = listeners_for(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": listeners})
    thread.start()
    try:
        wait_until(lambda: server.started, "the server")
        with socket.create_connection(("127.0.0.1", settings.sentinel_port), timeout=PATIENCE_SECONDS) as client:
            port = client.getsockname()[1]
            # It is set right after the connection is accepted.
            wait_until(lambda: nodelay_of_ends(port) == [1], "TCP_NODELAY")
    finally:
        server.should_exit = True
        thread.join(10)
