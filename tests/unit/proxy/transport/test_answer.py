"""Who takes what comes of an answer, and when chunks may be taken past that."""

from __future__ import annotations

import asyncio

from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.transport.answer import Http1Answer


class Source:
    """A connection over which nothing comes by itself."""

    take_chunk: TakeChunk | None = None

    def takes_chunks(self) -> bool:
        return self.take_chunk is not None

    def more(self) -> asyncio.Future[None]:
        self.waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return self.waiter

    def resume(self) -> None: ...

    def abort(self) -> None: ...


def takes(_: bytes) -> bool:
    return True


async def flowing(source: Source, answer: Http1Answer) -> asyncio.Task[bytes | None]:
    """Pieces are taken, but for those of one byte, and so are chunks."""
    flow = asyncio.create_task(answer.flow(lambda piece: piece if len(piece) == 1 else None, takes))
    await asyncio.sleep(0)
    assert source.takes_chunks()
    return flow


async def test_no_chunk_passes_what_is_left() -> None:
    """It may come before the task has been woken that is to deliver what came before it."""
    source = Source()
    answer = Http1Answer(source)
    flow = await flowing(source, answer)
    answer.came(b"taken")
    assert answer.pass_on()
    assert source.takes_chunks()
    answer.came(b"x")
    assert not answer.pass_on()
    assert not source.takes_chunks()
    source.waiter.set_result(None)
    assert await flow == b"x"


async def test_the_next_answer_s_chunks_are_not_ours() -> None:
    """A connection is used again by others."""
    source = Source()
    answer = Http1Answer(source)
    flow = await flowing(source, answer)
    answer.end()
    assert not source.takes_chunks()
    source.waiter.set_result(None)
    assert await flow is None
