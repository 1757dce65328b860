"""Writes of one turn of the loop leave together at its end."""

from __future__ import annotations

import asyncio

from sentinel.write_coalescer import write_coalescer


class Transport(asyncio.WriteTransport):
    """Notes what is written, also in a list that it shares with others."""

    def __init__(self, name: str, order: list[tuple[str, bytes]]) -> None:
        super().__init__()
        self.name, self.order = name, order
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.order.append((self.name, bytes(data)))

    def is_closing(self) -> bool:
        return self.closed


async def test_writes_wait_for_the_end_of_the_turn_and_keep_their_order() -> None:
    """Also those to several transports; what was closed meanwhile gets nothing."""
    order: list[tuple[str, bytes]] = []
    first, second, gone = (Transport(name, order) for name in ("first", "second", "gone"))
    coalescer = write_coalescer(asyncio.get_running_loop())
    coalescer.write(first, b"1")
    coalescer.write(gone, b"2")
    coalescer.write(second, b"3")
    coalescer.write(first, b"4")
    gone.closed = True
    early = list(order)
    await asyncio.sleep(0)
    assert (early, order) == ([], [("first", b"1"), ("second", b"3"), ("first", b"4")])


async def test_a_flush_writes_now_and_once() -> None:
    """For whoever closes a transport before the turn ends."""
    order: list[tuple[str, bytes]] = []
    coalescer = write_coalescer(asyncio.get_running_loop())
    coalescer.write(Transport("first", order), b"1")
    coalescer.flush()
    early = list(order)
    await asyncio.sleep(0)
    assert early == order == [("first", b"1")]
