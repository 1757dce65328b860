"""Our two sides of a WebSocket, over real sockets: towards a provider, through proxies and TLS, and what goes wrong.

About: `proxy/transport/websocket.py`, `proxy/openai_socket.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.utils import accept_key

from sentinel.dev.simulators import Simulators, start_simulators
from sentinel.egress import Egress, TlsFiles, parse_proxy
from sentinel.error import ServiceUnavailable, UpstreamError, UpstreamNotReached, UpstreamTimeout
from sentinel.memory_budget import MemoryBudget
from sentinel.proxy.openai_socket import OpenAISockets
from sentinel.proxy.provider import Message, Socket, SocketRefused, SocketRequest
from tests.support.relays import Certificates, ForwardProxy, Relay
from tests.support.waiting import until

CREDENTIALS = "Basic dXM6cEBzcw=="  # us:p@ss
KEY = "sk-provider-key-of-some-length"
Serve = Callable[[ServerConnection], Any]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def simulators() -> Iterator[Simulators]:
    with start_simulators() as simulators:
        yield simulators


def sockets_to(url: str, key: str = KEY, **options: Any) -> OpenAISockets:
    given = {"connect_timeout_seconds": 2, "ping_seconds": 0.0, "answers": MemoryBudget(), **options}
    return OpenAISockets(url, key, **given)


async def heard(one: Socket) -> Message | None:
    """The next message; None where it has ended."""

    def taken() -> tuple[Message | None] | None:
        message = one.take()
        return (message,) if message is not None or one.ended else None

    return (await until(taken, "a message"))[0]


@contextlib.asynccontextmanager
async def provider(handler: Serve, **options: Any) -> AsyncIterator[str]:
    """A server of another library's, and its URL."""
    async with serve(handler, "127.0.0.1", 0, max_size=None, **options) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1"


@contextlib.asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """A server that answers the handshake, and nothing else any more."""
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line[19:] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key: "))
        lines = ["upgrade: websocket", "connection: upgrade", f"sec-websocket-accept: {accept_key(key)}"]
        writer.write("\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode())
        await over.wait()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        over.set()


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def asked(path: bytes = b"/realtime?model=m") -> SocketRequest:
    return SocketRequest(path, [(b"x-request-id", b"req_1")])


class TestTheWay:
    @pytest.mark.parametrize("proxied", [None, "http", "https"])
    @pytest.mark.parametrize("tls", [False, True])
    async def test_to_the_provider(
        self, simulators: Simulators, certificates: Certificates, *, proxied: str | None, tls: bool
    ) -> None:
        """Directly, or through a forward proxy, which sees no key of a provider behind TLS."""
        port = simulators.openai_server.port
        with contextlib.ExitStack() as exits:
            name = "api.test" if proxied else "127.0.0.1"
            if tls:
                port = exits.enter_context(Relay(port, certificates.server(name))).port
            url = f"{'https' if tls else 'http'}://{name}{'' if proxied else f':{port}'}/v1"
            egress = Egress(None, TlsFiles(certificates.ca))
            proxy = None
            if proxied:
                own = certificates.server("127.0.0.1") if proxied == "https" else None
                proxy = exits.enter_context(ForwardProxy({f"{name}:{443 if tls else 80}": port}, own, CREDENTIALS))
                through = parse_proxy(f"{proxied}://us:p%40ss@127.0.0.1:{proxy.port}")
                egress = Egress(through, TlsFiles(certificates.ca))
            sockets = sockets_to(url, simulators.openai_key, egress=egress)
            one = await sockets.open(asked())
            assert (await heard(one) or Message(b"")).data.startswith(b'{"type":"session.created"')
            if proxy is not None:
                assert (simulators.openai_key.encode() in b"".join(proxy.heads)) is not tls
            one.close()
            await until(lambda: not sockets.connections, "the end of the connection")

    async def test_says_what_it_wants(self, simulators: Simulators) -> None:
        """Our key, or the client's secret; path, query and headers as they are given."""
        sockets = sockets_to(simulators.openai_url, simulators.openai_key)
        one = await sockets.open(asked())
        one.abort()
        call = simulators.openai.calls[-1]
        assert (call.path, call.query) == ("/v1/realtime", "model=m")
        assert call.headers["authorization"] == f"Bearer {simulators.openai_key}"
        assert (call.headers["x-request-id"], "sec-websocket-extensions" in call.headers) == ("req_1", False)
        secret = simulators.openai.secrets.make("/v1/realtime/client_secrets", {})["value"]
        two = await sockets.open(SocketRequest(b"/realtime", [], secret.encode()))
        two.abort()
        assert simulators.openai.calls[-1].headers["authorization"] == f"Bearer {secret}"


class TestRefusals:
    async def test_a_status_is_told_without_our_key(self) -> None:
        """Whatever the body has of it."""

        def refuse(connection: ServerConnection, request: Any) -> Any:
            return connection.respond(418, f"not with {request.headers['authorization']}")

        async with provider(echo, process_request=refuse) as url:
            with pytest.raises(SocketRefused) as refused:
                await sockets_to(url).open(asked())
        assert refused.value.answer.status == 418
        assert refused.value.answer.body == b"not with Bearer [redacted]"

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (b"what?\r\n\r\n", UpstreamError),
            (b"", UpstreamError),
            (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", UpstreamError),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", SocketRefused),
            (b"HTTP/1.1 503 Away\r\n\r\nuntil the end", SocketRefused),
        ],
    )
    async def test_of_what_is_no_provider(self, answer: bytes, error: type[Exception]) -> None:
        """No HTTP, no WebSocket, no word."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            sockets = sockets_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
            with pytest.raises(error):
                await sockets.open(asked())
            await until(lambda: not sockets.connections, "the end of the connection")

    async def test_without_a_provider(self) -> None:
        """Nobody listens; nobody answers; there may be no further connection."""
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
            sockets = sockets_to(url, connect_timeout_seconds=0.2)
            with pytest.raises(UpstreamTimeout):
                await sockets.open(asked())
            with pytest.raises(ServiceUnavailable):
                await sockets_to(url, has_room=lambda: False).open(asked())
        with pytest.raises(UpstreamNotReached):
            await sockets_to(url).open(asked())

    async def test_when_cancelled(self) -> None:
        """Nothing stays open."""
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            sockets = sockets_to(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1")
            opening = asyncio.create_task(sockets.open(asked()))
            await until(lambda: sockets.connections, "a connection")
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            await until(lambda: not sockets.connections, "the end of the connection")


class TestMessages:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 65_537, 3_000_000])
    async def test_of_any_size(self, size: int) -> None:
        """Text and binary."""
        async with provider(echo) as url:
            one = await sockets_to(url).open(asked())
            for is_text in (True, False):
                one.send(b"x" * size, is_text=is_text)
                assert await heard(one) == Message(b"x" * size, is_text)
            one.close()

    async def test_in_fragments(self) -> None:
        """One message, with pings in between."""

        async def pieces(connection: ServerConnection) -> None:
            async def text() -> AsyncIterator[str]:
                yield "one "
                await connection.ping()
                yield "two "
                yield ""

            await connection.send(text())

        async with provider(pieces) as url:
            one = await sockets_to(url).open(asked())
            assert await heard(one) == Message(b"one two ")

    async def test_that_are_too_large_end_it(self) -> None:
        """The other side is told why."""
        codes = []

        async def much(connection: ServerConnection) -> None:
            await connection.send("x" * 2_000)
            await connection.wait_closed()
            codes.append(connection.close_code)

        async with provider(much) as url:
            one = await sockets_to(url, most_message_bytes=1_000).open(asked())
            assert await heard(one) is None
            await until(lambda: codes, "the end")
        assert codes == [1009]

    async def test_wait_where_nobody_takes_them(self) -> None:
        """The other side is held up, and what waits is bounded and counted."""
        sent = 0

        async def flood(connection: ServerConnection) -> None:
            nonlocal sent
            while True:
                await connection.send("x" * 10_000)
                sent += 1

        answers = MemoryBudget()
        async with provider(flood) as url:
            one = await sockets_to(url, answers=answers).open(asked())
            seen = -1

            def rests() -> bool:
                nonlocal seen
                before, seen = seen, sent
                return 0 < seen == before

            await until(rests, "the other side to be held up")
            assert 0 < answers.held_bytes < 600_000
            before = sent
            for _ in range(500):
                assert await heard(one) == Message(b"x" * 10_000)
            assert sent > before
            one.abort()
            await until(lambda: not answers.held_bytes, "what was held to be released")

    async def test_short_ones_wait_for_the_end_of_a_long_one(self) -> None:
        """What is sent meanwhile does not come into its middle."""
        async with provider(echo) as url:
            one = await sockets_to(url).open(asked())
            long = Message(b"x" * 2_000_000, is_text=False)
            delivering = asyncio.create_task(one.deliver(long))
            await asyncio.sleep(0)
            one.send(b"short")
            one.ping()
            await delivering
            assert [await heard(one), await heard(one)] == [long, Message(b"short")]

    async def test_a_long_one_that_is_given_up_ends_it(self) -> None:
        """Nobody could read what follows."""
        async with provider(echo) as url:
            one = await sockets_to(url).open(asked())
            delivering = asyncio.create_task(one.deliver(Message(b"x" * 2_000_000)))
            await asyncio.sleep(0)
            delivering.cancel()
            await until(lambda: one.ended, "the end")


class TestTheEnd:
    async def test_is_told_by_code_and_reason(self) -> None:
        """Of either side."""
        ends = []

        async def wait(connection: ServerConnection) -> None:
            with contextlib.suppress(Exception):
                if await connection.recv() == "close":
                    await connection.close(4001, "enough")
            await connection.wait_closed()
            ends.append((connection.close_code, connection.close_reason))

        async with provider(wait) as url:
            sockets = sockets_to(url)
            one, two = await sockets.open(asked()), await sockets.open(asked())
            one.send(b"close")
            assert await heard(one) is None
            assert (one.close_code, one.close_reason) == (4001, "enough")
            two.close(1008, "r" * 200)
            two.send(b"too late")
            await until(lambda: len(ends) == 2, "both ends")
            assert ends[1] == (1008, "r" * 123)
            await until(lambda: not sockets.connections, "the end of the connections")

    @pytest.mark.parametrize(("code", "sent"), [(1006, 1011), (1005, 1000), (999, 1000), (3000, 3000)])
    async def test_a_code_that_may_not_be_sent_is_another(self, code: int, sent: int) -> None:
        """1006 says that nothing was said."""
        ends = []

        async def wait(connection: ServerConnection) -> None:
            await connection.wait_closed()
            ends.append(connection.close_code)

        async with provider(wait) as url:
            one = await sockets_to(url).open(asked())
            one.close(code)
            one.close(code)
            await until(lambda: ends, "the end")
        assert ends == [sent]

    async def test_of_who_answers_no_close_comes_all_the_same(self) -> None:
        """After a moment."""
        async with deaf() as url:
            sockets = sockets_to(url)
            one = await sockets.open(asked())
            one.close()
            await until(lambda: not sockets.connections, "the end of the connection")

    async def test_of_who_answers_no_ping_is_seen(self) -> None:
        """TCP says nothing of a machine that is gone."""
        async with deaf() as url:
            one = await sockets_to(url, ping_seconds=0.1).open(asked())
            await until(lambda: one.ended, "the end")
            assert one.close_code == 1006
