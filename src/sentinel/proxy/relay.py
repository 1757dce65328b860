"""A stream from the provider to the client: chunk by chunk as it comes, metered, ended when its limit is reached."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from sentinel.error import AppError
from sentinel.proxy.client import ClientSide
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.provider import ProviderStream
from sentinel.proxy.sse import split_events

EXTENSION_TOKENS = 1024
"""A stream that outgrows its reservation asks for this much more: one script call in about 1,000 chunks."""

_LAST_READ_SECONDS = 0.5

Extend = Callable[[int, int], Awaitable[int]]
"""(more, sent) -> output tokens added to the reservation."""


class Relay:
    """One stream. room: output tokens that may be delivered, None = any number; extend: asks for more room."""

    def __init__(self, client: ClientSide, meter: StreamMeter, room: int | None, extend: Extend) -> None:
        self.meter = meter
        self.at_limit = False
        self.moved = False
        self._client = client
        self._room = room
        self._extend = extend
        self._capped: int | None = None

    async def run(self, upstream: ProviderStream) -> None:
        """Relay until the provider's `[DONE]`, its end, or the limit. Raises UpstreamError, UpstreamTimeout."""
        while not self.meter.done and (data := await upstream.read()) is not None:
            await self._deliver(self.meter.feed(data))
            if self.at_limit:
                return
        await self._deliver(self.meter.rest())

    async def _deliver(self, block: bytes) -> None:
        if block and self._room is not None:
            block = await self._within(block, self._room)
        elif block:
            self.meter.delivered(block)
        if block:
            self.moved = True
            await self._client.write(block)

    async def _within(self, block: bytes, room: int) -> bytes:
        """The part of the block that the reservation covers, extended where possible."""
        if not self.meter.could_exceed(room - len(block)):
            self.meter.delivered(block)
            return block
        fits = []
        for event in split_events(block):
            before = self.meter.count()
            self.meter.delivered(event)
            after = self.meter.count()
            if after > room:
                room += await self._extend(max(EXTENSION_TOKENS, after - room), before)
                self._room = room
            if after > room:
                self.at_limit, self._capped = True, before
                break
            fits.append(event)
        return b"".join(fits)

    def sent(self) -> int:
        """Output tokens delivered so far, exactly; -1 before the first byte."""
        if self._capped is not None:
            return self._capped
        return self.meter.count() if self.moved else -1

    async def drain(self, upstream: ProviderStream) -> None:
        """Read on for the provider's usage although the client has left."""
        with contextlib.suppress(AppError):
            while not self.meter.done and (data := await upstream.read()) is not None:
                self.meter.feed(data)

    async def finish(self, upstream: ProviderStream) -> None:
        """Read the end of the provider's answer after its `[DONE]`, so that its connection can be used again."""
        with contextlib.suppress(TimeoutError, AppError):
            async with asyncio.timeout(_LAST_READ_SECONDS):
                while await upstream.read() is not None:
                    pass
