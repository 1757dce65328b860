"""Clients that say all they have to say and then only read, or send more than one request before they read.

About: `server/half_close.py`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import pytest

from tests.support import sockets
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import chat, head, read_answer
from tests.support.waiting import AT_ONCE_SECONDS, wait_until

GONE_SECONDS = AT_ONCE_SECONDS
"""Within which the provider hears that a client is gone."""
TOO_SLOW = b"GET / HTTP/1.1\r\nhost: too slow"
"""The time for a head ends before the first answer does."""


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(REQUEST_HEADER_TIMEOUT_SECONDS="0.5")


def whole(token: str, text: str, *lines: str, **fields: object) -> bytes:
    body = json.dumps(chat(text, **fields)).encode()
    return head(headers=[f"authorization: Bearer {token}", f"content-length: {len(body)}", *lines]) + body


def all_of(connection: socket.socket) -> bytes:
    """Everything until Sentinel ends the connection."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


class TestHalfClosed:
    """A client that has closed its sending side, as `nc -N` does."""

    @pytest.mark.parametrize("stream", [True, False])
    def test_gets_its_answer(self, sentinel: SentinelProcess, token: str, stream: bool) -> None:
        """Then the connection ends."""
        with raw_connection(sentinel) as connection:
            connection.sendall(whole(token, "[[tokens=4 delay=0.05]]", stream=stream))
            connection.shutdown(socket.SHUT_WR)
            data = all_of(connection)
        data = data.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        assert data.startswith(b"HTTP/1.1 200 ")
        assert data.count(b"HTTP/1.1") == 1
        assert (b"data: [DONE]" if stream else b'"chat.completion"') in data

    def test_gets_an_answer_that_is_there_at_once(self, sentinel: SentinelProcess) -> None:
        """Also where request and end come in one packet."""
        for _ in range(20):
            with raw_connection(sentinel) as connection:
                connection.sendall(head("/health/live", "GET"))
                connection.shutdown(socket.SHUT_WR)
                assert all_of(connection).startswith(b"HTTP/1.1 200 ")

    def test_gets_an_answer_that_is_long_in_coming(self, sentinel: SentinelProcess, token: str) -> None:
        """It may be asked by an interim answer whether it is there."""
        with raw_connection(sentinel) as connection:
            connection.sendall(whole(token, "[[tokens=1 first_delay=1.5]]"))
            connection.shutdown(socket.SHUT_WR)
            data = all_of(connection).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        assert data.startswith(b"HTTP/1.1 200 ")

    def test_gets_all_answers_of_a_pipeline(self, sentinel: SentinelProcess, token: str) -> None:
        """Those to whole requests: one that broke off gets none."""
        with raw_connection(sentinel) as connection:
            requests = whole(token, "[[tokens=1 first_delay=0.2]]") + head("/health/live", "GET")
            connection.sendall(requests + whole(token, "hi")[:-5])
            connection.shutdown(socket.SHUT_WR)
            assert all_of(connection).count(b"HTTP/1.1 200 ") == 2

    def test_in_mid_body_is_gone(self, sentinel: SentinelProcess, token: str) -> None:
        """The rest will never come."""
        with raw_connection(sentinel) as connection:
            connection.sendall(whole(token, "hi")[:-5])
            connection.shutdown(socket.SHUT_WR)
            assert all_of(connection) == b""

    @pytest.mark.parametrize("end", [sockets.close, sockets.reset])
    @pytest.mark.parametrize("half_first", [True, False])
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("directive", ["first_delay=30", "delay=0.1 tokens=900", "hang_after=3"])
    def test_is_noticed_when_it_leaves(
        self,
        stack: Stack,
        token: str,
        end: Callable[[socket.socket], None],
        half_first: bool,
        stream: bool,
        directive: str,
    ) -> None:
        """Before the head, between chunks, and while the provider is silent."""
        sentinel = stack.sentinels[0] if stack.sentinels else stack.sentinel()
        billed = stack.simulators.openai.billed
        seen = len(billed)
        with raw_connection(sentinel) as connection:
            connection.sendall(whole(token, f"[[{directive}]]", stream=stream))
            wait_until(lambda: len(billed) > seen, "the request at the provider")
            if half_first:
                connection.shutdown(socket.SHUT_WR)
                wait_until(lambda: billed[seen].state == "running")
            if stream and "first_delay" not in directive:
                assert connection.recv(65536)
            end(connection)
        wait_until(lambda: billed[seen].state == "cancelled", "the end at the provider", seconds=GONE_SECONDS)


class TestPipelines:
    """What comes behind a good request takes nothing from its answer."""

    @pytest.mark.parametrize(
        "second",
        [
            b"GARBAGE\r\n\r\n",
            b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /" + b"a" * 70_000,
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            TOO_SLOW,
            head("/health/live", "GET") * 100,
        ],
        ids=["garbage", "header", "no_host", "huge", "chunk", "slow", "many"],
    )
    @pytest.mark.parametrize("stream", [True, False])
    def test_the_first_answer_is_never_lost(
        self, sentinel: SentinelProcess, token: str, second: bytes, stream: bool
    ) -> None:
        """A second request that is malformed, huge, slow or one of too many ends the connection, after that answer."""
        seconds = 0.1 if second == TOO_SLOW else 0.01
        with raw_connection(sentinel) as connection:
            first = whole(token, f"[[tokens=8 delay={seconds} first_delay=0.2]]", stream=stream)
            connection.sendall(first + second)
            data = all_of(connection)
        assert data.startswith(b"HTTP/1.1 200 ")
        assert (b"data: [DONE]" if stream else b'"chat.completion"') in data

    def test_good_ones_before_a_bad_one_are_answered(self, sentinel: SentinelProcess, token: str) -> None:
        """Each of them, in order; the last says that it is the last."""
        good = whole(token, "[[tokens=1 first_delay=0.2]]") + head("/health/live", "GET") * 3
        with raw_connection(sentinel) as connection:
            connection.sendall(good + b"GARBAGE\r\n\r\n")
            data = all_of(connection)
        assert data.count(b"HTTP/1.1 200 ") == 4
        assert b"connection: close" in data[data.rindex(b"HTTP/1.1 200 ") :]


class TestHost:
    """RFC 9112, 3.2."""

    @pytest.mark.parametrize(
        "lines",
        [
            [],
            ["host: a", "host: a"],
            ["host: a", "Host: b"],
            ["host: a b"],
            ["host: a/b"],
            ["host: a, b"],
            ["host: u@a"],
        ],
        ids=range(7),
    )
    @pytest.mark.parametrize("path", ["/health/live", "/v1/chat/completions"])
    def test_a_request_has_one_host(self, sentinel: SentinelProcess, path: str, lines: list[str]) -> None:
        """None, two, and what is no host are 400."""
        with raw_connection(sentinel) as connection:
            connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
            assert read_answer(connection).is_error(400, "invalid_json")

    @pytest.mark.parametrize("value", ["", "a", "a:80", "a.b-c_d.test:8080", "[::1]:80", "xn--a"])
    def test_hosts_are_as_they_like(self, sentinel: SentinelProcess, value: str) -> None:
        """Names, addresses, ports, and nothing at all."""
        with raw_connection(sentinel) as connection:
            connection.sendall(f"GET /health/live HTTP/1.1\r\nhost: {value}\r\n\r\n".encode())
            assert read_answer(connection).status == 200

    def test_http_1_0_needs_none(self, sentinel: SentinelProcess) -> None:
        """But may not have two."""
        for lines, status in (("", b"200"), ("host: a\r\n", b"200"), ("host: a\r\nhost: a\r\n", b"400")):
            with raw_connection(sentinel) as connection:
                connection.sendall(f"GET /health/live HTTP/1.0\r\n{lines}\r\n".encode())
                assert all_of(connection).split()[1] == status


def test_a_silent_stream_without_keep_alives_ends_too(stack: Stack, token: str) -> None:
    """STREAM_KEEPALIVE_SECONDS=0 is about clients that are there."""
    sentinel, billed = stack.sentinel(STREAM_KEEPALIVE_SECONDS="0"), stack.simulators.openai.billed
    seen = len(billed)
    with raw_connection(sentinel) as connection:
        connection.sendall(whole(token, "[[hang_after=3]]", stream=True))
        assert connection.recv(65536)
    wait_until(lambda: billed[seen].state == "cancelled", "the end at the provider", seconds=GONE_SECONDS)


def test_a_client_of_http_1_0_that_leaves_is_noticed(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """It cannot be asked whether it is there, and proxies that speak 1.0 close when their own client leaves."""
    billed = stack.simulators.openai.billed
    seen = len(billed)
    with raw_connection(sentinel) as connection:
        connection.sendall(whole(token, "[[first_delay=30]]").replace(b"HTTP/1.1", b"HTTP/1.0"))
        wait_until(lambda: len(billed) > seen, "the request at the provider")
    wait_until(lambda: billed[seen].state == "cancelled", "the end at the provider", seconds=GONE_SECONDS)
