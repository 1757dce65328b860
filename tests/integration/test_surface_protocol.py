"""What is wrong below HTTP's semantics: slow, huge and malformed heads, pipelines, and clients that never finish."""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import ExitStack

import pytest

from tests.support.client import events
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, chat, head, is_closed, post, read_answer, send
from tests.support.waiting import AT_ONCE_SECONDS, PATIENCE_SECONDS, wait_until


@pytest.fixture(scope="module")
def hasty(stack: Stack) -> SentinelProcess:
    """One that waits for heads for so short a time that it can be waited for."""
    return stack.sentinel(REQUEST_HEADER_TIMEOUT_SECONDS="0.5")


def whole(token: str, body: bytes) -> bytes:
    return head(headers=[f"authorization: Bearer {token}", f"content-length: {len(body)}"]) + body


@pytest.mark.parametrize("size", [70_000, 1_000_000])
def test_a_huge_token_gets_its_answer(sentinel: SentinelProcess, size: int) -> None:
    """Headers of a megabyte are 431 within a second, for a client that sends all of it before it reads."""
    started = time.monotonic()
    answer = send(sentinel, "POST", CHAT, "x" * size, chat())
    assert answer.is_error(431, "request_headers_too_large")
    assert answer.headers["connection"] == "close"
    assert time.monotonic() - started < AT_ONCE_SECONDS


def test_a_huge_head_is_refused_however_it_comes(sentinel: SentinelProcess) -> None:
    """A long URL, many small headers, and an endless header in small pieces are all 431."""
    many = [f"x-{index}: {'y' * 50}" for index in range(2000)]
    for data in (head("/" + "a" * 70_000, "GET"), head(headers=many)):
        with raw_connection(sentinel) as connection:
            connection.sendall(data)
            assert read_answer(connection).is_error(431, "request_headers_too_large")
    with raw_connection(sentinel) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(20):
            connection.sendall(b"y" * 4096)
        answer = read_answer(connection)
    assert answer.is_error(431, "request_headers_too_large")
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_head_below_the_bound_passes(sentinel: SentinelProcess) -> None:
    """60 KB of headers are odd, but fine."""
    assert send(sentinel, "GET", "/health/live", X_Odd="y" * 60_000).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %b2\r\n\r\n{}" % (b"0" * 5000),
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
    ids=range(12),
)
def test_what_is_no_http_gets_a_400(sentinel: SentinelProcess, data: bytes) -> None:
    """Malformed and ambiguous requests are told so in OpenAI's shape, with a request id."""
    with raw_connection(sentinel) as connection:
        connection.sendall(data)
        answer = read_answer(connection)
        assert answer.is_error(400, "invalid_json")
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_malformed_chunk_ends_its_request(sentinel: SentinelProcess, token: str) -> None:
    """A body whose framing breaks is 400, whether or not the request was already being served."""
    lines = [f"authorization: Bearer {token}", "transfer-encoding: chunked", "user-agent: malformed-chunk"]
    with raw_connection(sentinel) as connection:
        connection.sendall(head(headers=lines))
        connection.sendall(b"5\r\nhello\r\nzz\r\n")
        assert read_answer(connection).is_error(400, "invalid_json")
        assert is_closed(connection)

    def told() -> list[tuple[int, str, str]]:
        ended = [line for line in sentinel.ended(0) if line["user_agent"] == "malformed-chunk"]
        return [(line["status"], line["outcome"], line["error"]) for line in ended]

    assert wait_until(told, "its line") == [(400, "refused", "invalid_json")]


def test_a_slow_head_is_408(hasty: SentinelProcess) -> None:
    """A head that drips in is cut off after REQUEST_HEADER_TIMEOUT_SECONDS, with an answer."""
    with raw_connection(hasty) as connection:
        started = time.monotonic()
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-slow: ")
        answer = read_answer(connection)
        assert 0.3 < time.monotonic() - started < AT_ONCE_SECONDS
        assert answer.is_error(408, "request_timeout")
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_drip_does_not_reset_the_clock(hasty: SentinelProcess) -> None:
    """A byte now and then does not keep a head alive."""
    with raw_connection(hasty) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: ")

        def refused() -> bool:
            connection.sendall(b"y")
            connection.settimeout(0.05)
            try:
                return b" 408 " in connection.recv(65536)
            except TimeoutError:
                return False

        wait_until(refused, "the refusal")


def test_a_slow_second_head_is_408_too(hasty: SentinelProcess) -> None:
    """The clock also runs for the second request of a connection."""
    with raw_connection(hasty) as connection:
        connection.sendall(head("/health/live", "GET"))
        assert read_answer(connection).status == 200
        connection.sendall(b"GET /health")
        assert read_answer(connection).is_error(408, "request_timeout")


def test_a_connection_that_was_opened_ahead_is_kept(hasty: SentinelProcess) -> None:
    """The clock for heads starts with the first byte of one, however late that comes; then it runs."""
    with raw_connection(hasty) as connection, raw_connection(hasty) as slow:
        deadline = time.monotonic() + 1.2
        wait_until(lambda: time.monotonic() >= deadline)
        connection.sendall(head("/health/live", "GET"))
        assert read_answer(connection).status == 200
        started = time.monotonic()
        slow.sendall(b"\r\nG")
        assert read_answer(slow).is_error(408, "request_timeout")
        assert 0.3 < time.monotonic() - started < AT_ONCE_SECONDS


def test_a_connection_between_requests_is_kept(hasty: SentinelProcess) -> None:
    """The clock for heads does not run between two requests: keep-alive connections stay."""
    connection = http.client.HTTPConnection("127.0.0.1", hasty.port, timeout=PATIENCE_SECONDS)
    for pause in (0.0, 1.0):
        deadline = time.monotonic() + pause
        wait_until(lambda: time.monotonic() >= deadline)  # noqa: B023 (waited for at once)
        connection.request("GET", "/health/live")
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
        port = connection.sock.getsockname()[1]
    assert connection.sock.getsockname()[1] == port
    connection.close()


@pytest.mark.parametrize("in_one_write", [True, False])
def test_a_long_answer_is_not_cut_by_the_clock_for_heads(
    hasty: SentinelProcess, token: str, in_one_write: bool
) -> None:
    """Once a head is there its clock stands still, also when head and body came in one packet."""
    body = json.dumps(chat("[[tokens=8 delay=0.2]]", stream=True)).encode()
    start, rest = whole(token, body)[: -len(body)], body
    with raw_connection(hasty) as connection:
        if in_one_write:
            connection.sendall(start + rest)
        else:
            connection.sendall(start)
            connection.sendall(rest)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert events(answer.read())[-1] == "[DONE]"


def test_garbage_behind_a_request_does_not_end_up_in_its_answer(sentinel: SentinelProcess, token: str) -> None:
    """What follows a request and is no HTTP ends the connection; it adds no bytes to the answer under way."""
    body = json.dumps(chat("[[tokens=9 delay=0.1]]", stream=True)).encode()
    with raw_connection(sentinel) as connection:
        connection.sendall(whole(token, body))
        data = connection.recv(65536)
        assert data.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GARBAGE\r\n\r\n")
        while piece := connection.recv(65536):
            data += piece
    assert data.count(b"HTTP/1.1") == 1


def test_pipelined_requests_are_answered_in_order(sentinel: SentinelProcess, token: str) -> None:
    """Two requests in one packet get two answers, in order."""
    with raw_connection(sentinel) as connection:
        first = whole(token, json.dumps(chat("[[tokens=1 first_delay=0.2]]")).encode())
        connection.sendall(first + head("/health/live", "GET", ["connection: close"]))
        data = b""
        while piece := connection.recv(65536):
            data += piece
    assert data.count(b"HTTP/1.1 200") == 2
    assert data.index(b"chat.completion") < data.index(b'{"status":"healthy"}')


def test_a_client_that_asks_first_is_told_to_go_on(sentinel: SentinelProcess, token: str) -> None:
    """`Expect: 100-continue` gets its 100 from a good request and the refusal instead from a stranger."""
    body = json.dumps(chat("[[tokens=1]]")).encode()
    lines = ["expect: 100-continue", f"content-length: {len(body)}"]
    with raw_connection(sentinel) as connection:
        connection.sendall(head(headers=[f"authorization: Bearer {token}", *lines]))
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).status == 200
    with raw_connection(sentinel) as connection:
        connection.sendall(head(headers=lines))
        assert read_answer(connection).is_error(401, "missing_api_key")


def test_a_chunked_body_is_read_however_it_is_cut(sentinel: SentinelProcess, token: str) -> None:
    """Chunks of one byte, in packets of their own, are one body; the next request of the connection is read, too."""
    body = json.dumps(chat("[[tokens=1]]")).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with raw_connection(sentinel) as connection:
        for _ in range(2):
            connection.sendall(head(headers=[f"authorization: Bearer {token}", "transfer-encoding: chunked"]))
            for start in range(0, len(chunks), 50):
                connection.sendall(chunks[start : start + 50])
            assert read_answer(connection).json["object"] == "chat.completion"


@pytest.mark.parametrize("size", [100, 150_000, 250_000, 500_000])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_noticed_after_a_body_of_any_size(
    stack: Stack, sentinel: SentinelProcess, token: str, size: int, stream: bool
) -> None:
    """The provider's connection ends soon after the client's, also where the body came late and in one large piece."""
    text = f"{'word ' * (size // 5)}[[tokens=900 first_delay=0.1 delay=0.05]]"
    body = json.dumps(chat(text, stream=stream)).encode()
    with raw_connection(sentinel) as connection:
        billed = len(stack.simulators.openai.billed)
        lines = [f"authorization: Bearer {token}", f"content-length: {len(body)}", "expect: 100-continue"]
        connection.sendall(head(headers=lines))
        assert b" 100 " in connection.recv(65536)  # Now somebody waits for the body.
        connection.sendall(body)
        wait_until(lambda: len(stack.simulators.openai.billed) > billed, "the provider at work")
    wait_until(lambda: stack.simulators.openai.billed[-1].state == "cancelled", "the end at the provider")


def test_an_upgrade_is_not_followed(sentinel: SentinelProcess) -> None:
    """A request for a WebSocket is served as what it is besides."""
    answer = send(sentinel, "GET", "/health/live", Connection="Upgrade", Upgrade="websocket")
    assert answer.status == 200


def test_many_half_open_heads_block_nobody(sentinel: SentinelProcess, token: str) -> None:
    """200 connections that dawdle in their heads take nothing from a client that does not."""
    with ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", sentinel.port)))
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nx: ")
        started = time.monotonic()
        assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
        assert time.monotonic() - started < AT_ONCE_SECONDS
