"""Connections that the HTTP/1.1 client keeps, and providers that close them, at rest or just as they are used."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import subprocess
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop

from sentinel.error import ServiceUnavailable, UpstreamError
from sentinel.proxy.openai import OpenAIProvider
from sentinel.proxy.provider import ProviderRequest
from sentinel.proxy.transport.answer import ConnectFailed, HttpError
from sentinel.proxy.transport.dialer import Dialer
from sentinel.proxy.transport.http1 import Http1Client
from tests.support.sockets import close, nodelay_of_ends, reset
from tests.support.waiting import PATIENCE_SECONDS, until, wait_until

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Peer:
    """A provider made of bare sockets; all it does is done by the test, step by step, while its event loop waits."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE_SECONDS)
        self.connections: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(PATIENCE_SECONDS)
        self.connections.append(connection)
        return connection

    def asked(self, connection: socket.socket) -> bytes:
        """The next request on this connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.rpartition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._more(connection)
        return body

    @staticmethod
    def _more(connection: socket.socket) -> bytes:
        piece = connection.recv(65536)
        assert piece, "the client has closed"
        return piece

    def nobody_connects(self) -> bool:
        self.listener.settimeout(0)
        try:
            self.listener.accept()
        except BlockingIOError:
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.connections:
            connection.close()
        self.listener.close()


def client_of(peer: Peer, keep_seconds: float = 60) -> Http1Client:
    return Http1Client(f"http://127.0.0.1:{peer.port}", connect_seconds=5, idle_seconds=10, keep_seconds=keep_seconds)


async def post(client: Http1Client, body: bytes = b"{}", **more: Any) -> bytes:
    answer = await client.send(b"POST", b"/x", b"", body, **more)
    assert answer.status == 200
    return await answer.read_all(1 << 20)


async def kept(client: Http1Client, peer: Peer) -> socket.socket:
    """The provider's end of a connection that has served a request and rests."""
    task = asyncio.create_task(post(client, b"first"))
    connection = await asyncio.to_thread(peer.accept)
    assert await asyncio.to_thread(peer.asked, connection) == b"first"
    connection.sendall(ANSWER)
    assert await task == b"hello"
    return connection


LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
ENDS = pytest.mark.parametrize("end", [close, reset])


def run(factory: Any, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(work, 30))


@LOOPS
@ENDS
@pytest.mark.parametrize("when", ["before it is used", "when the request has come", "when half of it has come"])
def test_a_kept_connection_that_dies_is_replaced(factory: Any, end: Any, when: str) -> None:
    """Closed or reset before a byte of the answer: the request goes out once more, whole; the caller sees nothing."""
    body = b"x" * (8_000_000 if when.startswith("when half") else 10)

    async def scene() -> None:
        with Peer() as peer:
            client, note = client_of(peer), ProviderRequest(b"", b"", body)
            connection = await kept(client, peer)
            if when.startswith("before"):
                # The event loop has had no turn to hear of it when the request is written.
                end(connection)
            task = asyncio.create_task(post(client, body, note=note))
            if when.startswith("when the"):
                assert await asyncio.to_thread(peer.asked, connection) == body
                end(connection)
            elif when.startswith("when half"):
                assert await asyncio.to_thread(connection.recv, 1000)
                end(connection)
            fresh = await asyncio.to_thread(peer.accept)
            assert await asyncio.to_thread(peer.asked, fresh) == body
            fresh.sendall(ANSWER)
            assert await task == b"hello"
            assert note.sent
            # The fresh one is kept as any other.
            task = asyncio.create_task(post(client, b"third"))
            assert await asyncio.to_thread(peer.asked, fresh) == b"third"
            fresh.sendall(ANSWER)
            assert await task == b"hello"
            await client.close()

    run(factory, scene())


@LOOPS
@ENDS
def test_a_fresh_connection_that_dies_is_not_replaced(factory: Any, end: Any) -> None:
    """Neither the first of all, nor the one that took the place of a dead one: the provider may be at work already."""

    async def scene() -> None:
        with Peer() as peer:
            client = client_of(peer)
            task = asyncio.create_task(post(client, b"first"))
            connection = await asyncio.to_thread(peer.accept)
            await asyncio.to_thread(peer.asked, connection)
            end(connection)
            with pytest.raises(HttpError):
                await task
            resting = await kept(client, peer)
            end(resting)
            task = asyncio.create_task(post(client, b"second"))
            fresh = await asyncio.to_thread(peer.accept)
            assert await asyncio.to_thread(peer.asked, fresh) == b"second"
            end(fresh)
            with pytest.raises(HttpError):
                await task
            assert peer.nobody_connects()
            await client.close()

    run(factory, scene())


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nconte", ANSWER[:-1]])
@ENDS
async def test_an_answer_that_has_begun_is_not_asked_for_again(begun: bytes, end: Any) -> None:
    """A byte of it is enough: the provider is at work, and bills it."""
    with Peer() as peer:
        client = client_of(peer)
        connection = await kept(client, peer)
        task = asyncio.create_task(post(client, b"second"))
        assert await asyncio.to_thread(peer.asked, connection) == b"second"
        connection.sendall(begun)
        end(connection)
        with pytest.raises(HttpError):
            await task
        assert peer.nobody_connects()
        await client.close()


async def test_silence_on_a_kept_connection_is_not_asked_again() -> None:
    """A provider that thinks for too long is no dead connection."""
    with Peer() as peer:
        client = Http1Client(f"http://127.0.0.1:{peer.port}", connect_seconds=5, idle_seconds=0.3, keep_seconds=60)
        connection = await kept(client, peer)
        task = asyncio.create_task(post(client, b"second"))
        assert await asyncio.to_thread(peer.asked, connection) == b"second"
        with pytest.raises(HttpError, match="too long"):
            await task
        assert peer.nobody_connects()
        await client.close()


async def test_no_second_connection_to_be_had() -> None:
    """The dead connection's request fails as one that found no connection, and the provider's adapter tries again."""
    with Peer() as peer:
        client = client_of(peer)
        reset(await kept(client, peer))
        peer.listener.close()
        with pytest.raises(ConnectFailed):
            await post(client)
        await client.close()


async def _ignore(_: Any) -> None:
    return


@pytest.mark.parametrize("all_are_open", [False, True])
async def test_where_files_are_short_clients_hear_when_to_come_back(
    monkeypatch: pytest.MonkeyPatch, all_are_open: bool
) -> None:
    """Whether we see it coming or the system says so; the provider is not asked again at once."""
    tries = 0

    async def connect(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Dialer, "connect", connect)
    provider = OpenAIProvider(
        "http://127.0.0.1:1",
        "key",
        connect_timeout_seconds=5,
        idle_timeout_seconds=5,
        keepalive_seconds=60,
        has_room=lambda: all_are_open,
    )
    with pytest.raises(ServiceUnavailable) as told:
        await provider.post(ProviderRequest(b"/x", b"", b"{}"), _ignore, _ignore)
    assert told.value.retry_after_seconds == 1
    assert tries == all_are_open
    assert provider.connections == 0
    await provider.close()


async def test_after_a_failed_connect_no_kept_connection_is_tried() -> None:
    """Else a request could be written to one dead connection after another."""
    with Peer() as peer:
        url = f"http://127.0.0.1:{peer.port}"
        provider = OpenAIProvider(url, "key", connect_timeout_seconds=5, idle_timeout_seconds=5, keepalive_seconds=60)

        def ask() -> asyncio.Task[Any]:
            return asyncio.create_task(provider.post(ProviderRequest(b"/x", b"", b"{}"), _ignore, _ignore))

        tasks = [ask(), ask()]
        for connection in [await asyncio.to_thread(peer.accept) for _ in tasks]:
            await asyncio.to_thread(peer.asked, connection)
            connection.sendall(ANSWER)
        for task in tasks:
            assert (await task).status == 200
        peer.listener.close()
        task = ask()
        # One of the two gets the request; which one, the client knows.
        asked = await asyncio.to_thread(_first_asked, peer.connections)
        reset(asked)
        with pytest.raises(UpstreamError):
            await task
        (other,) = (connection for connection in peer.connections if connection is not asked)
        await provider.close()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.to_thread(other.recv, 1000) == b""


def _first_asked(connections: list[socket.socket]) -> socket.socket:
    def found() -> socket.socket | None:
        for connection in connections:
            connection.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                if connection.recv(1000):
                    return connection
        return None

    asked: socket.socket = wait_until(found, "a request")
    for connection in connections:
        connection.settimeout(PATIENCE_SECONDS)
    return asked


async def test_giving_up_between_two_tries_and_in_the_second() -> None:
    """A caller who leaves at any moment leaves no connection behind: not the dead one, not the new one."""
    for turns in range(1, 16):
        with Peer() as peer:
            client = client_of(peer)
            reset(await kept(client, peer))
            task = asyncio.create_task(post(client, b"second"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not nodelay_of_ends(peer.port), "the end of its connections")
            await client.close()


async def test_a_connection_that_has_rested_too_long_is_not_used() -> None:
    """Its age is looked at when it is used: on a busy machine the ticker that closes it may be late."""
    with Peer() as peer:
        client = client_of(peer, keep_seconds=0.2)
        old = await kept(client, peer)
        time.sleep(0.3)  # noqa: ASYNC251 (so the ticker is late)
        task = asyncio.create_task(post(client, b"second"))
        fresh = await asyncio.to_thread(peer.accept)
        assert await asyncio.to_thread(peer.asked, fresh) == b"second"
        fresh.sendall(ANSWER)
        assert await task == b"hello"
        with contextlib.suppress(ConnectionError):
            assert await asyncio.to_thread(old.recv, 1000) == b""
        await client.close()


async def test_a_connection_that_nobody_uses_is_closed() -> None:
    """By the ticker, when it has rested for long enough."""
    with Peer() as peer:
        client = client_of(peer, keep_seconds=0.2)
        connection = await kept(client, peer)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.to_thread(connection.recv, 1000) == b""
        await client.close()


async def test_keeping_none() -> None:
    """With 0 seconds each request has a connection of its own."""
    with Peer() as peer:
        client = client_of(peer, keep_seconds=0)
        for _ in range(2):
            await kept(client, peer)
        assert len(peer.connections) == 2
        await client.close()


# ------------------------------------------------------------------------------------------------------- TCP_NODELAY


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for localhost that vouches for itself, in one file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", file, "-out", f"{file}.crt"], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@LOOPS
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_small_requests_leave_at_once(
    factory: Any, scheme: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TCP_NODELAY is set towards the provider, also below TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"first")
        writer.write(ANSWER)
        await reader.read()
        writer.close()

    async def scene() -> None:
        tls = None
        if scheme == "https":
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        client = Http1Client(f"{scheme}://localhost:{port}", connect_seconds=5, idle_seconds=10, keep_seconds=60)
        assert await post(client, b"first") == b"hello"
        assert nodelay_of_ends(port) == [1]
        await client.close()
        server.close()

    run(factory, scene())
