"""The server that goes away and comes back."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel.dev.exchange import Exchange
from sentinel.dev.server import Server
from tests.support.client import ask
from tests.support.waiting import PATIENCE_SECONDS, wait_until


async def greet(scope: Any, receive: Any, send: Any) -> None:
    exchange = Exchange(scope, receive, send)
    assert await exchange.read()
    match exchange.path:
        case "/hang":
            await exchange.pause(None)
        case "/half":
            await exchange.begin(200, [("content-length", "10")])
            await exchange.write(b"hello")
            await exchange.cut()
        case _:
            await exchange.answer(200, exchange.raw or b"hello")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(greet) as server:
        yield server


def test_answers_and_has_a_url(server: Server) -> None:
    """A started server answers at its url."""
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert ask("GET", server.url + "/").body == b"hello"
    assert "date" in ask("GET", server.url + "/").headers


def test_stop_refuses_and_cuts_open_answers(server: Server) -> None:
    """After a stop the port refuses, and a client in mid-answer finds its connection closed."""
    hanging = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    hanging.request("GET", "/hang")
    wait_until(lambda: server.is_answering)
    server.stop()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        hanging.getresponse()
    hanging.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)


def test_comes_back_on_the_same_port(server: Server) -> None:
    """However often it is stopped and started, the port stays."""
    port = server.port
    for _ in range(5):
        server.stop()
        assert not server.running
        server.start()
        assert server.port == port
        assert ask("GET", server.url + "/").body == b"hello"


def test_stopping_twice_is_no_mistake_and_starting_twice_is(server: Server) -> None:
    """Stop is idempotent; a second start would take the port from the first."""
    with pytest.raises(RuntimeError, match="runs already"):
        server.start()
    server.stop()
    server.stop()


def test_a_taken_port_is_an_error(server: Server) -> None:
    """A port that somebody listens on is not shared."""
    with pytest.raises(OSError, match="in use"):
        Server(greet, port=server.port).start()


def test_cut_lets_earlier_bytes_out(server: Server) -> None:
    """What was written before a cut arrives, the rest does not."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/half")
    with pytest.raises(http.client.IncompleteRead) as cut:
        connection.getresponse().read()
    connection.close()
    assert cut.value.partial == b"hello"


def test_a_large_body_arrives_whole(server: Server) -> None:
    """Bodies far above the server's read buffer are read to the end."""
    body = bytes(range(256)) * 20_000
    assert ask("POST", server.url + "/", raw=body).body == body


def test_leaves_no_thread_behind() -> None:
    """A stopped server has no thread."""
    before = threading.active_count()
    with Server(greet):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_cuts_and_departures_are_not_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """What a test does on purpose is no news: neither a cut by us nor a client that leaves writes a log line."""
    with pytest.raises(http.client.IncompleteRead):
        ask("GET", server.url + "/half")
    hanging = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    hanging.request("GET", "/hang")
    wait_until(lambda: server.is_answering)
    hanging.close()
    wait_until(lambda: not server.is_answering)
    server.stop()
    assert not caplog.records
