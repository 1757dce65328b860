"""`proxy/transport/upload.py`: bodies are sent as they come, framed, no faster than they are taken, and never twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.provider import ProviderRequest
from sentinel.proxy.transport.answer import HttpError
from sentinel.proxy.transport.http1 import Http1Client
from tests.integration.test_http1_kept import ANSWER, Peer, client_of
from tests.support.waiting import PATIENCE_SECONDS, until

PIECE, PIECES = b"x" * 65_536, 320


class Body:
    """A body of these pieces. asked: how many were wanted so far. ended: nobody will want more."""

    is_whole = False

    def __init__(self, pieces: Sequence[bytes], length: int | None, error: Exception | None = None) -> None:
        self.pieces, self.length, self.error = pieces, length, error
        self.asked = 0
        self.ended = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                self.asked += 1
                yield piece
            if self.error is not None:
                raise self.error
        finally:
            self.ended.set()


async def until_closed(connection: socket.socket) -> bytes:
    """All that still comes over this connection."""

    def read() -> bytes:
        data = b""
        while piece := connection.recv(1 << 20):
            data += piece
        return data

    return await asyncio.to_thread(read)


async def upload(client: Http1Client, body: Body) -> bytes:
    answer = await client.upload(b"POST", b"/x", b"", body)
    return await answer.read_all(1 << 20)


@dataclass
class Upload:
    """An upload on its way. connection: the provider's end, which nobody has read from; answer: what it gets for it."""

    client: Http1Client
    peer: Peer
    connection: socket.socket
    answer: asyncio.Task[bytes]

    async def asked(self) -> bytes:
        """The body, as the provider gets it."""
        return await asyncio.to_thread(self.peer.asked, self.connection)

    async def answered(self) -> bytes:
        """The same after the provider's answer."""
        self.connection.sendall(ANSWER)
        return await self.answer


@asynccontextmanager
async def uploading(body: Body) -> AsyncIterator[Upload]:
    """A provider that has accepted the connection, over which this body comes."""
    with Peer() as peer:
        client = client_of(peer)
        answer = asyncio.create_task(upload(client, body))
        yield Upload(client, peer, await asyncio.to_thread(peer.accept), answer)
        await client.close()


def large() -> Body:
    """More than buffers hold."""
    return Body([PIECE] * PIECES, PIECES * len(PIECE))


async def test_a_body_of_a_known_length_is_counted() -> None:
    """And the connection serves the next request."""
    async with uploading(Body([b"ab", b"", b"cde"], 5)) as up:
        assert await up.asked() == b"abcde"
        assert await up.answered() == b"hello"
        again = asyncio.create_task(up.client.send(b"POST", b"/x", b"", b"next"))
        assert await up.asked() == b"next"
        up.connection.sendall(ANSWER)
        assert (await again).status == 200


async def test_a_body_of_an_unknown_length_goes_in_chunks() -> None:
    """Empty pieces would end it, so they are left out."""
    async with uploading(Body([b"ab", b"", b"x" * 17], None)) as up:
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await asyncio.to_thread(up.connection.recv, 1000)
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"content-length" not in head
        assert body == b"2\r\nab\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
        assert await up.answered() == b"hello"


async def test_a_slow_provider_holds_up_the_client() -> None:
    """Of 20 MB no more is asked for than buffers hold, until the provider reads."""
    body = large()
    async with uploading(body) as up:
        asked = -1
        async with asyncio.timeout(PATIENCE_SECONDS):
            while body.asked == 0 or body.asked != asked:
                asked = body.asked
                await asyncio.sleep(0.2)
        assert 0 < asked < PIECES
        assert len(await up.asked()) == PIECES * len(PIECE)
        assert await up.answered() == b"hello"


async def test_an_early_answer_ends_the_upload() -> None:
    """The client's body is wanted no more, and what is left of it is not taken for another request."""
    body = large()
    async with uploading(body) as up:
        await until(lambda: body.asked, "the beginning of the body")
        up.connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        assert await up.answer == b"big"
        async with asyncio.timeout(PATIENCE_SECONDS):
            await body.ended.wait()
        assert body.asked < PIECES
        assert len(up.client._idle) == 0


@pytest.mark.parametrize("length", [4, 6])
async def test_a_body_of_another_length_than_told_breaks_the_request(length: int) -> None:
    """The provider must not take it for whole, nor what is too much of it for another request."""
    async with uploading(Body([b"abc", b"de"], length)) as up:
        with pytest.raises(HttpError, match="another length"):
            await up.answer
        assert b"de" not in (await until_closed(up.connection)).partition(b"\r\n\r\n")[2] or length == 6


class _Gone(Exception):
    """What a client's side raises."""


async def test_a_client_that_leaves_ends_the_request() -> None:
    """What reading the body raised comes to the caller as it is; the provider sees a connection that breaks."""
    async with uploading(Body([b"abc"], None, _Gone())) as up:
        with pytest.raises(_Gone):
            await up.answer
        assert not (await until_closed(up.connection)).endswith(b"0\r\n\r\n")


async def test_a_provider_that_leaves_ends_the_upload() -> None:
    """The request fails, and nobody waits for the rest of the body."""
    body = large()
    async with uploading(body) as up:
        await until(lambda: body.asked, "the beginning of the body")
        up.connection.close()
        with pytest.raises(HttpError):
            await up.answer
        async with asyncio.timeout(PATIENCE_SECONDS):
            await body.ended.wait()


async def test_a_provider_gets_a_streamed_body() -> None:
    """Through the port, over a fresh connection, with our key."""
    with Peer() as peer:
        provider = OpenAIProvider(
            f"http://127.0.0.1:{peer.port}/v1",
            "sk-ours",
            connect_timeout_seconds=5,
            idle_timeout_seconds=10,
            keepalive_seconds=60,
        )
        request = ProviderRequest(b"/files", b"content-type: text/plain\r\n", Body([b"ab", b"c"], 3))
        task = asyncio.create_task(provider.stream(request, _no_room))
        connection = await asyncio.to_thread(peer.accept)
        assert await asyncio.to_thread(peer.asked, connection) == b"abc"
        assert request.sent
        connection.sendall(ANSWER)
        assert (await (await task).whole()).body == b"hello"
        await provider.close()


async def _no_room(count: int) -> None:
    raise AssertionError(count)
