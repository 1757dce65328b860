"""What the server does by the clock, on a connection that is none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn.server import ServerState

from sentinel import connection as connections
from sentinel.config import Settings
from sentinel.connection import HttpProtocol
from sentinel.server import config_for

REQUEST = b"GET / HTTP/1.1\r\nhost: sentinel\r\n\r\n"
IDLE_SECONDS = 0.2


class _Transport:
    """Takes what is written, and can be closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.answered = asyncio.Event()

    def write(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 200")
        self.answered.set()

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def get_extra_info(self, _: str) -> None:
        return None

    def resume_reading(self) -> None:
        return


async def _app(scope: Any, _: Any, __: Any) -> None:
    scope["extensions"]["sentinel.connection"].send_head(200, b"", b"", 0, close=False, more=False)


@pytest.fixture
async def connection(monkeypatch: pytest.MonkeyPatch) -> tuple[HttpProtocol, _Transport]:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", IDLE_SECONDS)
    settings = Settings(zion_api_url="http://127.0.0.1:1", zion_api_key="k", openai_api_key="k")
    config = config_for(_app, settings)
    config.load()
    protocol, transport = HttpProtocol(config, ServerState(), {}), _Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]
    return protocol, transport


async def _answered(protocol: HttpProtocol, transport: _Transport) -> float:
    transport.answered.clear()
    protocol.data_received(REQUEST)
    async with asyncio.timeout(5):
        await transport.answered.wait()
    return asyncio.get_running_loop().time()


async def test_a_connection_is_closed_once_it_has_been_idle(
    connection: tuple[HttpProtocol, _Transport],
) -> None:
    """Not before: each request starts the time anew, though one timer serves for many of them."""
    protocol, transport = connection
    began = last = await _answered(protocol, transport)
    while last < began + 2 * IDLE_SECONDS:
        assert not transport.is_closing()
        last = await _answered(protocol, transport)
        await asyncio.sleep(IDLE_SECONDS / 20)
    async with asyncio.timeout(5):
        await transport.closed.wait()
    assert asyncio.get_running_loop().time() - last >= IDLE_SECONDS * 0.99


async def test_a_connection_that_is_served_is_not_idle(connection: tuple[HttpProtocol, _Transport]) -> None:
    """However long the answer takes."""
    protocol, transport = connection
    await _answered(protocol, transport)
    protocol.data_received(REQUEST[:-2])
    await asyncio.sleep(2 * IDLE_SECONDS)
    assert not transport.is_closing()
    protocol.connection_lost(None)
    assert protocol._idle_timer is None or protocol._idle_timer.cancelled()
