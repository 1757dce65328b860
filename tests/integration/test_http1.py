"""The HTTP/1.1 client against real sockets: every shape of answer, cut anywhere, and every way to break."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sentinel.proxy.transport.answer import MOST_UNREAD_BYTES, ConnectFailed, HttpError, IdleTimeout, OpenFilesExceeded
from sentinel.proxy.transport.http1 import Http1Client
from tests.support.damage import chunk_of
from tests.support.waiting import PATIENCE_SECONDS

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
COUNTED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
PADDED = CHUNKED.replace(b"2\r\n", b"2;a=b\r\n").replace(b"3\r\n", b"3  \r\n").replace(b"0\r\n", b"0 ;a\r\n")
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nhello"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + COUNTED


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """One request as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    sizes = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(sizes[0] if sizes else 0)


@contextlib.asynccontextmanager
async def serving(
    serve: Serve, *, has_room: Callable[[], bool] = lambda: True, **timeouts: float
) -> AsyncIterator[Http1Client]:
    """A client of a server that does with each connection what `serve` says."""
    open_ends: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ends.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Http1Client(
        f"http://127.0.0.1:{port}/v1",
        connect_seconds=timeouts.get("connect", 5),
        idle_seconds=timeouts.get("idle", 10),
        keep_seconds=timeouts.get("keep", 4),
        has_room=has_room,
    )
    try:
        yield client
    finally:
        await client.close()
        server.close()
        if open_ends:
            await asyncio.wait(open_ends, timeout=PATIENCE_SECONDS)


async def post(client: Http1Client, body: bytes = b"{}") -> bytes:
    answer = await client.send(b"POST", b"/x", b"accept: */*\r\n", body)
    assert answer.status == 200
    return await answer.read_all(1 << 20)


def always(answer: bytes, *, close: bool = False) -> Serve:
    """A server that gives this answer to every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(answer)
            await writer.drain()
            if close:
                return

    return serve


@pytest.mark.parametrize(
    "answer", [COUNTED, CHUNKED, PADDED, CONTINUED], ids=["counted", "chunked", "padded", "continued"]
)
async def test_any_cut_gives_the_same_answer(answer: bytes) -> None:
    """An answer in two writes, cut at every byte in turn, over one kept connection, is the same answer."""
    cuts = iter(range(1, len(answer)))
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await request_of(reader)
            cut = next(cuts)
            writer.write(answer[:cut])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(answer[cut:])
            await writer.drain()

    async with serving(serve) as client:
        for _ in range(1, len(answer)):
            assert await post(client) == b"hello"
    assert connections == 1


FLOWING = (b"first\n\n", b"5\r\nhello\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"hello\r\n" + b"x" * 14)
"""Pieces of a body that look like framing, some with a part of their size."""


async def test_any_cut_of_chunks_that_are_taken_whole_gives_the_same_body() -> None:
    """Chunks that come in one read are taken with their framing, all others are parsed: in any order, nothing is lost.

    Each chunk is cut in three in every way, in writes of their own, with whole chunks around it.
    """
    frames = [*map(chunk_of, FLOWING), b"006 ;a=b\r\npadded\r\n"]
    bodies = [*FLOWING, b"padded"]
    head, end = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n"
    wires = iter(frames)
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            frame = next(wires)
            cuts = itertools.combinations_with_replacement(range(len(frame) + 1), 2)
            cut = (piece for i, j in cuts for piece in (frame[:i], frame[i:j], frame[j:], frames[0]) if piece)
            for piece in (head + frames[0], frames[0], *cut, end):
                writer.write(piece)
                # In the first turn of the loop the client is told that there is something; then it reads.
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    def take_chunk(chunk: bytes) -> bool:
        nonlocal taken
        piece = chunk.partition(b"\r\n")[2][:-2]
        if chunk != chunk_of(piece):
            return False
        taken += 1
        got.append(piece)
        return True

    def take(piece: bytes) -> None:
        got.append(piece)

    async with serving(serve) as client:
        for frame, body in zip(frames, bodies, strict=True):
            got: list[bytes] = []
            before, cuts = taken, (len(frame) + 1) * (len(frame) + 2) // 2
            answer = await client.send(b"POST", b"/x", b"", b"{}")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (rest := await answer.flow(take, take_chunk)) is not None:
                    got.append(rest)
            assert b"".join(got) == bodies[0] * 2 + (body + bodies[0]) * cuts
            assert taken - before > cuts // 2
        assert client.connections == 1


async def test_a_body_without_length_ends_with_its_connection() -> None:
    """RFC 9112, 6.3: the close is the end, and the connection is not used again."""
    async with serving(always(ENDLESS, close=True)) as client:
        assert await post(client) == b"hello"
        assert await post(client) == b"hello"


async def test_the_request_is_what_was_asked_for() -> None:
    """Path, host, headers, length and body arrive as given."""
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request_of(reader))
        writer.write(COUNTED)

    async with serving(serve) as client:
        await post(client, b'{"a": 1}')
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x HTTP/1.1"
    assert lines[1].startswith(b"host: 127.0.0.1:")
    assert lines[2:] == [b"accept: */*", b"content-length: 8"]
    assert body == b'{"a": 1}'


async def test_a_crowd_shares_connections_without_mixing_answers() -> None:
    """Each of many concurrent callers gets the answer to their own request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = (await request_of(reader)).partition(b"\r\n\r\n")[2]
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with serving(serve) as client:

        async def caller(number: int) -> None:
            for turn in range(20):
                body = b"%d-%d" % (number, turn)
                assert await post(client, body) == body

        await asyncio.gather(*(caller(number) for number in range(50)))


async def test_connection_close_is_obeyed() -> None:
    """An answer that says `connection: close` is the last of its connection."""
    answer = COUNTED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    async with serving(always(answer)) as client:
        assert await post(client) == b"hello"
        assert await post(client) == b"hello"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"this is no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(1000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 200_000 + b"\r\n",
    ],
    ids=["closed", "short", "chunk cut", "head cut", "no http", "huge header", "many headers", "many trailers"],
)
async def test_a_broken_answer_is_an_error(broken: bytes) -> None:
    """Whatever breaks, the caller hears of it, and the client goes on."""
    async with serving(always(broken, close=True)) as client:
        with pytest.raises(HttpError):
            await post(client)
        with pytest.raises(HttpError):
            await post(client)


async def test_trailers_are_not_headers_of_the_next_answer() -> None:
    """Though both come over one connection; chunks' trailers are nobody's."""
    answers = iter([CHUNKED.replace(b"\r\n0\r\n", b"\r\n0\r\nretry-after: 99\r\nx-request-id: t\r\n"), COUNTED])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(next(answers))

    async with serving(serve) as client:
        assert await post(client) == b"hello"
        answer = await client.send(b"POST", b"/x", b"", b"{}")
        assert not {b"retry-after", b"x-request-id"} & set(answer.headers)
        assert await answer.read_all(100) == b"hello"


async def test_where_files_are_short_no_connection_is_made() -> None:
    """That is told apart from a provider's failure; and kept ones are used."""
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(COUNTED[:-1])
            await go_on.wait()
            writer.write(COUNTED[-1:])

    async with serving(serve, has_room=lambda: client.connections < 2) as client:
        answers = [await client.send(b"POST", b"/x", b"", b"{}") for _ in range(2)]
        assert client.connections == 2
        with pytest.raises(OpenFilesExceeded):
            await post(client)
        go_on.set()
        for answer in answers:
            assert await answer.read_all(100) == b"hello"
        assert await post(client) == b"hello"
        assert client.connections == 2


async def test_no_connection_is_told_apart() -> None:
    """Only where nothing was sent may the caller try again."""
    client = Http1Client("http://127.0.0.1:1", connect_seconds=1, idle_seconds=1, keep_seconds=4)
    with pytest.raises(ConnectFailed):
        await post(client)
    await client.close()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe"], ids=["head", "body"])
async def test_silence_is_a_time_out(start: bytes) -> None:
    """The idle time counts between two reads, before the head and within the body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(start)
        await reader.read()

    async with serving(serve, idle=0.2) as client:
        with pytest.raises(IdleTimeout):
            await post(client)


async def test_a_reader_who_rests_holds_the_provider_back() -> None:
    """What waits unread is bounded, and nothing is lost when reading goes on, however late."""
    sent = 0
    total = 20 * MOST_UNREAD_BYTES

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with serving(serve, idle=0.3) as client:
        answer = await client.send(b"POST", b"/x", b"", b"")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.4)
        assert sent < total
        got = 0
        while (piece := await answer.read()) is not None:
            assert len(piece) <= 4 * MOST_UNREAD_BYTES
            got += len(piece)
        assert got == total


async def test_blanks_are_taken_as_they_come() -> None:
    """White space before the rest of a body, also where it piles up meanwhile; then the rest is read whole."""
    taken, piled_up = asyncio.Event(), asyncio.Event()
    rest = b' {"a":1}\n'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n\n\r\n")
        await taken.wait()
        writer.transport.set_write_buffer_limits(0)
        for _ in range(64):
            writer.write(b"%x\r\n%b\r\n" % (MOST_UNREAD_BYTES, b" " * MOST_UNREAD_BYTES))
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except TimeoutError:
                piled_up.set()
                await writer.drain()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))

    async with serving(serve) as client:
        answer = await client.send(b"POST", b"/x", b"", b"{}")
        assert await answer.read_blank() == b"\n"
        taken.set()
        await piled_up.wait()
        size = 0
        while blank := await answer.read_blank():
            size += len(blank)
        assert size + len(await answer.read_all(100)) == 64 * MOST_UNREAD_BYTES + len(rest)


async def test_giving_up_closes_the_connection() -> None:
    """A caller who is cancelled, or closes an unfinished answer, takes the connection along."""
    came, closed = asyncio.Queue[None](), asyncio.Queue[None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
        came.put_nowait(None)
        try:
            await reader.read()
        finally:
            closed.put_nowait(None)

    async with serving(serve) as client:
        answer = await client.send(b"POST", b"/x", b"", b"")
        await came.get()
        answer.close()
        await asyncio.wait_for(closed.get(), PATIENCE_SECONDS)
        task = asyncio.create_task(post(client))
        await came.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.get(), PATIENCE_SECONDS)


async def test_unasked_bytes_end_a_resting_connection() -> None:
    """What a provider sends between two answers belongs to none."""
    second = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(COUNTED)
        if not second.is_set():
            second.set()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged")
        await reader.read()

    async with serving(serve) as client:
        assert await post(client) == b"hello"
        assert await post(client) == b"hello"
