"""What the server does with its address."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from sentinel.config import ConfigError, Settings
from sentinel.dev.ports import free_port
from sentinel.server.listeners import listeners_for
from tests.support.waiting import PATIENCE_SECONDS

CROWD = 64
TURNS = 10


def _settings(port: int) -> Settings:
    return Settings(
        zion_api_url="http://127.0.0.1:1", zion_api_key="k", openai_api_key="k", sentinel_host="127.0.0.1",
        sentinel_port=port,
    )  # fmt: skip


def test_a_crowd_is_accepted_in_few_turns_of_the_loop() -> None:
    """A turn takes long under load, and libuv accepts one connection in each for each listening socket."""
    accepted: list[asyncio.Protocol] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, _: asyncio.BaseTransport) -> None:
            accepted.append(self)

    async def crowd() -> int:
        listeners = listeners_for(_settings(free_port()))
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Protocol, sock=listener, backlog=CROWD) for listener in listeners]
        clients = [socket.create_connection(listeners[0].getsockname(), timeout=PATIENCE_SECONDS) for _ in range(CROWD)]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        came = len(accepted)
        for client in clients:
            client.close()
        for server in servers:
            server.close()
        return came

    assert uvloop.run(crowd()) == CROWD


def test_an_address_in_use_is_told() -> None:
    """By the names of the settings."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError) as failure:
        listeners_for(_settings(other.getsockname()[1]))
    assert "SENTINEL_HOST, SENTINEL_PORT" in str(failure.value)
