"""What the server does by the clock, on a connection that is none.

About: `server/protocol.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.server import ServerState

from sentinel.config import Settings
from sentinel.memory_budget import SMALL_BYTES
from sentinel.server.connection import MOST_WAITING, HttpConnection
from sentinel.server.request import ServedRequest
from sentinel.server.serve import config_for
from tests.support.waiting import PATIENCE_SECONDS

REQUEST = b"GET / HTTP/1.1\r\nhost: sentinel\r\n\r\n"
IDLE_SECONDS = 0.2


class Transport:
    """Takes what is written, and can be closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.answered = asyncio.Event()
        self.written = b""
        self.paused = False

    def write(self, data: bytes) -> None:
        self.written += data
        self.answered.set()

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def get_extra_info(self, _: str) -> None:
        return None

    def set_protocol(self, _: asyncio.BaseProtocol) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


seen: list[dict[str, Any]] = []
"""Scopes of the requests that were served."""


async def echo_app(scope: Any, receive: Any, __: Any) -> None:
    """Answers at once, `/body` with the body; `/stream` in pieces of unknown length."""
    seen.append(scope)
    request, body = scope["extensions"]["sentinel.connection"], b""
    if scope["path"] == "/body":
        more = True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
    length = None if scope["path"] == "/stream" else len(body)
    request.send_head(200, b"", body, length, close=False, more=False)


@pytest.fixture
async def connection() -> tuple[HttpConnection, Transport]:
    return _connected()


def _connected(**state: Any) -> tuple[HttpConnection, Transport]:
    seen.clear()
    settings = Settings(zion_api_url="http://127.0.0.1:1", zion_api_key="k", openai_api_key="k")
    config = config_for(echo_app, settings)
    config.load()
    protocol, transport = (
        HttpConnection(config, ServerState(), {"keep_alive_seconds": IDLE_SECONDS, **state}),
        Transport(),
    )
    protocol.connection_made(transport)  # type: ignore[arg-type]
    return protocol, transport


async def _answered(protocol: HttpConnection, transport: Transport) -> float:
    transport.answered.clear()
    protocol.data_received(REQUEST)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await transport.answered.wait()
    return asyncio.get_running_loop().time()


async def test_a_connection_is_closed_once_it_has_been_idle(
    connection: tuple[HttpConnection, Transport],
) -> None:
    """Not before: each request starts the time anew, though one timer serves for many of them."""
    protocol, transport = connection
    began = last = await _answered(protocol, transport)
    # A busy machine may make a pause of this that is long enough.
    while last < began + 2 * IDLE_SECONDS and not transport.is_closing():
        last = await _answered(protocol, transport)
        await asyncio.sleep(IDLE_SECONDS / 20)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await transport.closed.wait()
    assert asyncio.get_running_loop().time() - last >= IDLE_SECONDS * 0.99


async def test_a_connection_that_was_not_used_is_closed_like_an_idle_one(
    connection: tuple[HttpConnection, Transport],
) -> None:
    """Clients open some ahead of need. An empty line is no use of it."""
    protocol, transport = connection
    opened = asyncio.get_running_loop().time()
    protocol.data_received(b"\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await transport.closed.wait()
    assert asyncio.get_running_loop().time() - opened >= IDLE_SECONDS * 0.9
    assert transport.written == b""


async def test_a_connection_that_is_served_is_not_idle(connection: tuple[HttpConnection, Transport]) -> None:
    """However long the answer takes."""
    protocol, transport = connection
    await _answered(protocol, transport)
    protocol.data_received(REQUEST[:-2])
    await asyncio.sleep(2 * IDLE_SECONDS)
    assert not transport.is_closing()
    protocol.connection_lost(None)


async def _served(count: int) -> None:
    """Let the loop turn until all is done that can be."""
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(seen) == count


async def test_a_connection_is_idle_though_something_came_late(
    connection: tuple[HttpConnection, Transport],
) -> None:
    """A body that ends after its answer, and an empty line, begin no request that would stop the time."""
    protocol, transport = connection
    protocol.data_received(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhe")
    await _served(1)
    protocol.data_received(b"llo")
    protocol.data_received(b"\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await transport.closed.wait()


@pytest.mark.parametrize("cut", [0, 1, 10])
async def test_the_body_of_a_request_for_another_protocol_is_no_request(
    connection: tuple[HttpConnection, Transport], cut: int
) -> None:
    """Java asks for HTTP/2 with each request. The parser knows no body of such a one."""
    protocol, transport = connection
    hidden = b"GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n"
    asks = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAA\r\n"
    head = b"POST /body HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n" % (asks, len(hidden))
    whole = head + hidden + REQUEST
    protocol.data_received(whole[: len(head) + cut])
    protocol.data_received(whole[len(head) + cut :])
    await _served(2)
    assert [scope["path"] for scope in seen] == ["/body", "/"]
    assert transport.written.count(b"HTTP/1.1 200") == 2
    assert hidden in transport.written


async def test_trailers_are_no_headers_and_have_an_end(connection: tuple[HttpConnection, Transport]) -> None:
    """What comes behind a chunked body cannot say who is calling, nor fill the memory."""
    protocol, transport = connection
    chunked = b"POST /body HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
    protocol.data_received(chunked + b"authorization: Bearer other\r\n\r\n")
    await _served(1)
    assert b"authorization" not in dict(seen[0]["headers"])
    protocol.data_received(chunked)
    for _ in range(20):
        protocol.data_received(b"x: yyyyyyyy\r\n" * 1000)
    assert transport.is_closing()


async def test_requests_that_do_not_wait_for_answers_have_an_end(
    connection: tuple[HttpConnection, Transport],
) -> None:
    """Those that wait hold up reading, and too many of them end the connection, after their answers."""
    protocol, transport = connection
    protocol.data_received(REQUEST * 3)
    held_up = transport.paused
    await _served(3)
    assert (held_up, transport.paused) == (True, False)
    assert transport.written.count(b"HTTP/1.1 200") == 3
    protocol.data_received(REQUEST * 1000)
    await _served(3 + 1 + MOST_WAITING)
    assert transport.written.count(b"HTTP/1.1 200") == 3 + 1 + MOST_WAITING
    async with asyncio.timeout(PATIENCE_SECONDS):
        await transport.closed.wait()


async def test_http_1_0_gets_no_chunks(connection: tuple[HttpConnection, Transport]) -> None:
    """RFC 9112, 6.1: the end of the connection is the end of the body."""
    protocol, transport = connection
    protocol.data_received(b"GET /stream HTTP/1.0\r\n\r\n")
    await _served(1)
    assert transport.written.endswith(b"connection: close\r\n\r\n")
    assert b"chunked" not in transport.written
    assert transport.is_closing()


async def test_a_large_head_that_finds_the_memory_full_is_told(
    connection: tuple[HttpConnection, Transport],
) -> None:
    """It is 503, as for a body; small ones pass."""
    protocol, transport = connection
    claims = [protocol.memory.claim() for _ in range(protocol.memory.most_bytes // SMALL_BYTES)]
    for claim in claims:
        claim.took(SMALL_BYTES)
    await _answered(protocol, transport)
    transport.answered.clear()
    protocol.data_received(REQUEST[:-2] + b"x: %b\r\n\r\n" % (b"y" * 10_000))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await transport.answered.wait()
    assert b"HTTP/1.1 503 " in transport.written
    for claim in claims:
        claim.release()


async def test_what_the_application_serves_at_once_needs_no_scope() -> None:
    """It gets the request itself; what it leaves is served in ASGI."""
    at_once: list[ServedRequest] = []

    async def answer(request: ServedRequest) -> None:
        at_once.append(request)
        request.send_head(200, b"", b"", 0, close=False, more=False)

    protocol, transport = _connected(serve_at_once=lambda request: answer(request) if request.path == "/now" else None)
    for target in (b"/now?a=1", b"/later"):
        transport.answered.clear()
        protocol.data_received(b"GET %b HTTP/1.1\r\nHost: a\r\nX-Name: one\r\nx-name: two\r\n\r\n" % target)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await transport.answered.wait()
    assert [(one.method, one.path, one.version) for one in at_once] == [("GET", "/now", "1.1")]
    assert at_once[0].headers == {b"host": b"a", b"x-name": b"one, two"}
    assert [(scope["path"], scope["headers"][1:]) for scope in seen] == [
        ("/later", [(b"x-name", b"one"), (b"x-name", b"two")])
    ]
