"""The client of the benchmark's streams asks again where it is refused for the moment (`bench/stream_client.py`)."""

from __future__ import annotations

import asyncio

import pytest

from bench import stream_client

_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}"
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\n{}"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


async def run(answers: list[bytes]) -> stream_client.Streamed:
    """One stream, from a server that gives these answers in turn."""
    left, closed = iter(answers), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                writer.write(next(left))
        except ConnectionError:
            pass  # The client leaves without a word, as it does with streams.
        finally:
            writer.close()
            closed.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(30):
            try:
                return await asyncio.to_thread(stream_client.run, port, 1, 0.1, settle_seconds=0.0)
            finally:
                await closed.wait()


async def test_a_stream_refused_for_the_moment_is_opened_all_the_same() -> None:
    """One moment in which the store is away does not cost a part of the benchmark; how often it was is told."""
    assert (await run([_REFUSED, _REFUSED, _STREAM])).refused == 2


async def test_any_other_refusal_ends_the_part() -> None:
    with pytest.raises(RuntimeError, match="Forbidden"):
        await run([_FORBIDDEN])
