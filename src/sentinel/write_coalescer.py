"""The write coalescer of an event loop: writes to sockets that are held back until the end of the loop's turn.

A write to a socket whose reader sleeps wakes it, which costs the writer as much as the write itself. Done one after the
other, the first write wakes the reader and the others find it awake: 5% more requests a second (docs/performance.md).
"""

from __future__ import annotations

import asyncio
from functools import lru_cache


class WriteCoalescer:
    """Collects writes until the loop has run all callbacks that are ready now, then writes them in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writes: list[tuple[asyncio.WriteTransport, bytes]] = []

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Write `data` at the end of this turn. Call `flush` before closing the transport earlier than that."""
        if not self._writes:
            self._loop.call_soon(self.flush)
        self._writes.append((transport, data))

    def flush(self) -> None:
        """Write what has been collected, now. What is for a closed transport is dropped."""
        writes, self._writes = self._writes, []
        for transport, data in writes:
            if not transport.is_closing():
                transport.write(data)


write_coalescer = lru_cache(maxsize=4)(WriteCoalescer)
"""The coalescer of an event loop: the same one for everybody, so that writes of all connections leave together."""
