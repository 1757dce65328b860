"""Talks over a WebSocket with Sentinel, by a client that is not ours: messages are JSON objects both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.stack import SentinelProcess
from tests.support.waiting import PATIENCE_SECONDS

LAST = ("response.completed", "response.incomplete", "response.failed", "error")
"""The types of a response's last message."""


class Talk:
    """One open WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, **fields: Any) -> None:
        """Send one message."""
        await self.socket.send(json.dumps(fields))

    async def hear(self) -> dict[str, Any]:
        """The next message. Fails where none comes in time."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return dict(json.loads(await self.socket.recv()))

    async def hear_until(self, *types: str) -> list[dict[str, Any]]:
        """All messages up to the first of one of these types."""
        heard = [await self.hear()]
        while heard[-1]["type"] not in types:
            heard.append(await self.hear())
        return heard

    async def ask(self, text: Any = "Say hello", **fields: Any) -> list[dict[str, Any]]:
        """A response from its first message to its last."""
        await self.create(text, **fields)
        return await self.hear_until(*LAST)

    async def create(self, text: Any = "Say hello", **fields: Any) -> None:
        """Ask for a response."""
        await self.say(**{"type": "response.create", "model": "gpt-4o-mini", "input": text, **fields})

    async def ended(self) -> tuple[int, str]:
        """How the other side closes: code and reason; 1006 where it does not say. What comes before is dropped."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with contextlib.suppress(Exception):
                while True:
                    await self.socket.recv()
            await self.socket.wait_closed()
        return self.socket.close_code or 0, self.socket.close_reason or ""


@contextlib.asynccontextmanager
async def talk(
    sentinel: SentinelProcess, token: str | None, path: str = "/v1/responses", **options: Any
) -> AsyncIterator[Talk]:
    """An open WebSocket. Raises InvalidStatus where it is refused. options: as the library has them."""
    headers = dict(options.pop("additional_headers", {}))
    if token is not None:
        headers.setdefault("Authorization", f"Bearer {token}")
    url = f"ws://127.0.0.1:{sentinel.port}{path}"
    options = {"proxy": None, "max_size": None, "open_timeout": PATIENCE_SECONDS, "close_timeout": 1, **options}
    async with connect(url, additional_headers=headers, **options) as socket:
        yield Talk(socket)


def text_of(messages: list[dict[str, Any]]) -> str:
    """What was said in pieces."""
    return "".join(message["delta"] for message in messages if message["type"] == "response.output_text.delta")
