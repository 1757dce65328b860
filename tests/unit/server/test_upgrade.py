"""A connection that goes on in another protocol, over real sockets: a toy protocol that echoes in capitals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from sentinel.config import Settings
from sentinel.server.serve import config_for
from tests.support.waiting import PATIENCE_SECONDS, until

OFFER = b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: echo\r\n"
GRACE_SECONDS = 1


class Echo(asyncio.Protocol):
    """Echoes in capitals."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.over = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())

    def connection_lost(self, _: Exception | None) -> None:
        self.over.set()


class App:
    """Takes `echo` at /echo, once `go` is set; answers anything else, and /declined, with the path."""

    def __init__(self) -> None:
        self.asked, self.go, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.go.set()
        self.accepted: list[bool] = []
        self.cancelled = False

    def takes(self, scope: dict[str, Any]) -> bool:
        return (b"upgrade", b"echo") in scope["headers"] and scope["path"] in ("/echo", "/declined")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["takes_upgrade"] = self.takes
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        request = scope["extensions"]["sentinel.connection"]
        if scope["path"] != "/echo" or not request.can_upgrade:
            body = scope["path"].encode()
            request.send_head(200, b"", body, len(body), close=False, more=False)
            return
        self.asked.set()
        try:
            await self.go.wait()
            echo = Echo()
            self.accepted.append(request.accept_upgrade(b"upgrade: echo\r\n", echo))
            if self.accepted[-1]:
                await echo.over.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.over.set()


@asynccontextmanager
async def served(app: App) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """A server with this application, and its port."""
    settings = Settings(
        zion_api_url="http://127.0.0.1:1", zion_api_key="k", openai_api_key="k", shutdown_grace_seconds=GRACE_SECONDS
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config_for(app, settings))
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield server, listener.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE_SECONDS + GRACE_SECONDS)


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


@pytest.fixture
async def app() -> App:
    return App()


@pytest.mark.parametrize("behind", [b"", b"one "])
async def test_an_application_takes_the_connection(app: App, behind: bytes) -> None:
    """It gets what came behind the head, too, and the connection ends with the client."""
    async with served(app) as (server, port), client_of(port) as (reader, writer):
        writer.write(OFFER + b"\r\n" + behind)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"upgrade: echo\r\nconnection: Upgrade\r\n" in head
        writer.write(b"two")
        assert await reader.readexactly(len(behind) + 3) == behind.upper() + b"TWO"
        writer.write_eof()
        assert await reader.read() == b""
        await app.over.wait()
        await until(lambda: not (server.server_state.connections or server.server_state.tasks))


async def test_what_comes_while_the_application_decides_is_kept(app: App) -> None:
    """In order, also where it is more than is read at once."""
    app.go.clear()
    much = bytes(range(ord("a"), ord("z") + 1)) * 20_000
    async with served(app) as (_, port), client_of(port) as (reader, writer):
        writer.write(OFFER + b"\r\nfirst ")
        await app.asked.wait()
        writer.write(much)
        app.go.set()
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(6 + len(much)) == b"FIRST " + much.upper()


async def test_an_offer_behind_other_requests_is_taken_in_its_turn(app: App) -> None:
    """After their answers."""
    async with served(app) as (_, port), client_of(port) as (reader, writer):
        writer.write(b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n" + OFFER + b"\r\nbehind")
        assert (await reader.readuntil(b"/first")).startswith(b"HTTP/1.1 200 ")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(6) == b"BEHIND"


@pytest.mark.parametrize(
    "offer",
    [
        OFFER.replace(b"/echo", b"/declined"),
        OFFER.replace(b"upgrade: echo", b"upgrade: other"),
        OFFER + b"content-length: 3\r\n",
    ],
    ids=["declined", "unknown", "with-body"],
)
async def test_an_offer_that_nobody_takes_is_plain_http(app: App, offer: bytes) -> None:
    """The connection goes on, with the request that came behind."""
    body = b"abc" if b"content-length" in offer else b""
    path = offer.split(b" ")[1]
    async with served(app) as (_, port), client_of(port) as (reader, writer):
        writer.write(offer + b"\r\n" + body + b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n")
        for answer in (path, b"/next"):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(answer)) == answer


@pytest.mark.parametrize("reset", [True, False])
async def test_a_client_may_leave_while_the_application_decides(app: App, reset: bool) -> None:
    """After a reset there is nothing to take; after a mere end the other protocol hears of that."""
    app.go.clear()
    async with served(app) as (server, port), client_of(port) as (_, writer):
        writer.write(OFFER + b"\r\n")
        await app.asked.wait()
        if reset:
            writer.transport.abort()
            await until(lambda: not server.server_state.connections)
        else:
            writer.write_eof()
            await until(lambda: any(getattr(one, "half_closed", None) for one in server.server_state.connections))
        app.go.set()
        await app.over.wait()
        assert app.accepted == [not reset]
        await until(lambda: not (server.server_state.connections or server.server_state.tasks))


async def test_a_shutdown_waits_for_it_and_then_ends_it(app: App) -> None:
    """It counts as an open request until the end of the grace."""
    async with served(app) as (server, port), client_of(port) as (reader, writer):
        writer.write(OFFER + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        server.should_exit = True
        loop = asyncio.get_running_loop()
        asked = loop.time()
        await until(lambda: not server.servers[0].is_serving())
        writer.write(b"still")
        assert await reader.readexactly(5) == b"STILL"
        assert not app.cancelled
        assert await reader.read() == b""
        assert loop.time() - asked >= GRACE_SECONDS * 0.9
        assert app.cancelled
