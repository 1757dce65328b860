"""What stands between Sentinel and its servers in real networks: TLS in front of a server, and a forward proxy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from pathlib import Path
from typing import Self

import trustme


class Certificates:
    """One authority, what it issues, and the same as files: ca.pem, client.pem and client.key in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.ca, self.cert, self.key = str(folder / "ca.pem"), str(folder / "client.pem"), str(folder / "client.key")
        self._authority.cert_pem.write_to_path(self.ca)
        client = self._authority.issue_cert("sentinel.test")
        client.cert_chain_pems[0].write_to_path(self.cert)
        client.private_key_pem.write_to_path(self.key)

    def server(self, *names: str, client: bool = False) -> ssl.SSLContext:
        """The TLS of a server of these names; client: one that wants to see a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        if client:
            self._authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Relay:
    """Takes connections, perhaps over TLS, and passes their bytes on to a server of this machine.

    target: its port, which may be set later. connections: how many it has passed on.
    """

    def __init__(self, target: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._listening = threading.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def _run(self) -> None:
        # A client that does not like our certificate is no news.
        self._loop.set_exception_handler(lambda *_: None)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._ended.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            if not writer.is_closing():
                writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await self._pass_on(reader, writer)
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> None:
        self.connections += 1
        await self._join(reader, writer, self.target, first)

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, first: bytes = b""
    ) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(to_writer)
        to_writer.write(first)
        await asyncio.gather(_pump(reader, to_writer), _pump(to_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


class ForwardProxy(Relay):
    """A forward proxy. It alone knows where hosts are: `hosts` has a port of this machine for each host and port.

    heads: the heads of what it was asked. credentials: what Proxy-Authorization must say; None: nobody is asked.
    refusal: what is answered to everything, as it goes over the wire; None: nothing is refused.
    """

    def __init__(
        self, hosts: dict[str, int], tls: ssl.SSLContext | None = None, credentials: str | None = None
    ) -> None:
        super().__init__(tls=tls)
        self.hosts = hosts
        self.heads: list[bytes] = []
        self.credentials = credentials
        self.refusal: bytes | None = None

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.connections += 1
        self.heads.append(head)
        method, target, _ = head.split(b" ", 2)
        if self.refusal is not None:
            writer.write(self.refusal)
        elif self.credentials and f"proxy-authorization: {self.credentials}\r\n".encode() not in _lower_names(head):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        elif method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 proxy.test\r\n\r\n")
            await self._join(reader, writer, self.hosts[target.decode()])
            return
        else:
            host, _, path = target.removeprefix(b"http://").partition(b"/")
            assert target.startswith(b"http://"), target
            name = host.decode() if b":" in host else f"{host.decode()}:80"
            await self._join(reader, writer, self.hosts[name], head.replace(target, b"/" + path, 1))
            return
        await writer.drain()


def _lower_names(head: bytes) -> bytes:
    lines = [line.partition(b":") for line in head.split(b"\r\n")]
    return b"\r\n".join(name.lower() + colon + value for name, colon, value in lines)
