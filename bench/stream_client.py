"""Opens streams and times their chunks: the delay from the stamp that the provider wrote to its arrival here."""

from __future__ import annotations

import asyncio
import gc
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvloop

from bench import messages
from bench.latency import Span
from bench.stream_server import STAMP, STAMP_DIGITS

OPEN_AT_ONCE = 50
OPEN_SECONDS = 60.0
SETTLE_SECONDS = 1.0
CLOSE_SECONDS = 0.5
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came within the measured seconds. lives: of each timed chunk, from its stamp to its arrival.

    refused: how often a stream was refused for the moment, before it was opened.
    """

    chunks: int
    seconds: float
    lives: list[Span]
    refused: int


class _Seen:
    """The chunks of all streams. A stamp that is cut in two by a read is counted, but not timed."""

    def __init__(self, *, without_stamps: bool) -> None:
        self._without_stamps = without_stamps
        self.open = 0
        self.ended = 0
        self.refused = 0
        self.refusal = b""
        self.chunks = 0
        self.sent_us, self.came_us = array("q"), array("q")
        self.changed = asyncio.Event()

    def started(self) -> None:
        self.open += 1
        self.changed.set()

    def take(self, data: bytes) -> None:
        if self._without_stamps:
            self.chunks += data.count(b"\n\n")
            return
        now_us = time.monotonic_ns() // 1000
        at = data.find(STAMP)
        while at >= 0:
            self.chunks += 1
            start = at + len(STAMP)
            stamp = data[start : start + STAMP_DIGITS]
            if len(stamp) == STAMP_DIGITS:
                self.sent_us.append(int(stamp))
                self.came_us.append(now_us)
            at = data.find(STAMP, start)

    def forget(self) -> None:
        self.chunks = 0
        del self.sent_us[:], self.came_us[:]

    def lives(self) -> list[Span]:
        return [Span(sent / 1e6, came / 1e6) for sent, came in zip(self.sent_us, self.came_us, strict=True)]

    async def wait_for(self, count: int) -> None:
        """Until so many streams have begun. Raises RuntimeError if one is refused or ends."""
        while self.open < count:
            if self.ended:
                raise RuntimeError(f"{self.ended} streams ended, one with {self.refusal[-300:]!r}")
            self.changed.clear()
            await self.changed.wait()


class _Client(asyncio.Protocol):
    """One stream. Refused for the moment (503), it asks again; any other refusal is noted, as a stream that ended."""

    def __init__(self, request: bytes, seen: _Seen) -> None:
        self._request = request
        self._seen = seen
        self._started = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._started:
            self._seen.take(data)
        elif data.startswith(b"HTTP/1.1 200"):
            self._started = True
            self._seen.started()
            self._seen.take(data)
        elif data.startswith(b"HTTP/1.1 503"):
            # Where a machine stands still for a moment the store is away; that must not cost all other figures.
            self._seen.refused += 1
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self.transport.write, self._request)
        else:
            self._seen.refusal = data
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._seen.ended += 1
        self._seen.changed.set()


async def _open(port: int, streams: int, seen: _Seen, path: str) -> list[_Client]:
    """Open the streams, some at once, as users in turn."""
    loop = asyncio.get_running_loop()
    body = messages.stream(path)
    clients: list[_Client] = []
    for number in range(streams):
        client = _Client(messages.http_request(port, number % messages.USERS, body, path), seen)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        clients.append(client)
        if len(clients) % OPEN_AT_ONCE == 0:
            await seen.wait_for(len(clients))
    await seen.wait_for(streams)
    return clients


async def _measure(
    port: int, streams: int, seconds: float, look: Callable[[], None], path: str, settle_seconds: float
) -> Streamed:
    loop = asyncio.get_running_loop()
    seen = _Seen(without_stamps=path != messages.CHAT)
    async with asyncio.timeout(OPEN_SECONDS):
        clients = await _open(port, streams, seen, path)
    await asyncio.sleep(settle_seconds)
    # Looking through ten thousand streams for garbage would make each chunk seem late.
    gc.freeze()
    look()
    seen.forget()
    started = loop.time()
    await asyncio.sleep(seconds)
    chunks, took = seen.chunks, loop.time() - started
    look()
    streamed = Streamed(chunks, took, seen.lives(), seen.refused)
    if seen.ended:
        raise RuntimeError(f"{seen.ended} of {streams} streams ended by themselves")
    for client in clients:
        client.transport.abort()
    gc.unfreeze()
    await asyncio.sleep(CLOSE_SECONDS)
    return streamed


def run(
    port: int,
    streams: int,
    seconds: float,
    look: Callable[[], None] = lambda: None,
    path: str = messages.CHAT,
    settle_seconds: float = SETTLE_SECONDS,
) -> Streamed:
    """Open the streams and count for so many seconds; `look` is called before and after. Raises if a stream ends.

    Those of another path than that of chat are not timed. settle_seconds: from the last stream's begin to counting.
    """
    return uvloop.run(_measure(port, streams, seconds, look, path, settle_seconds))
