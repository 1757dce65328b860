"""Opens connections to one origin: directly or through a forward proxy, with TLS to either where its URL says so.

An https origin is reached through a tunnel (CONNECT: RFC 9110, 9.3.6), an http origin by requests in absolute form
(RFC 9112, 3.2.2).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from sentinel.egress import Egress, ForwardProxy, TlsFiles

_MOST_HEAD_BYTES = 65_536

P = TypeVar("P", bound=asyncio.Protocol)


class ProxyRefused(ConnectionError):
    """The forward proxy does not let us through; the text has its status and nothing else."""


class Dialer:
    """Connects to the host of a URL. Making one reads the files of TLS. Raises OSError.

    before_path: what stands before the path in each request line; header_lines: headers for the proxy in each request.
    """

    def __init__(self, url: str, egress: Egress) -> None:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if tls else 80)
        self._tls = egress.tls.context() if tls else None
        self._proxy = egress.proxy
        # Our own certificate is for the provider, not for the proxy.
        self._proxy_tls = TlsFiles(egress.tls.ca_file).context() if egress.proxy and egress.proxy.tls else None
        self.before_path = self.header_lines = b""
        if egress.proxy and not tls:
            self.before_path = b"http://%b" % parts.netloc.encode("ascii")
            self.header_lines = _authorization(egress.proxy)

    async def connect(self, make: Callable[[], P]) -> P:
        """A protocol that `make` made, on a connection over which requests can be sent. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._proxy and self._tls:
            return await self._through_tunnel(self._proxy, self._tls, make)
        if self._proxy:
            _, protocol = await loop.create_connection(make, self._proxy.host, self._proxy.port, ssl=self._proxy_tls)
        else:
            _, protocol = await loop.create_connection(make, self._host, self._port, ssl=self._tls)
        return protocol

    async def _through_tunnel(self, proxy: ForwardProxy, tls: ssl.SSLContext, make: Callable[[], P]) -> P:
        loop = asyncio.get_running_loop()
        transport, answer = await loop.create_connection(
            lambda: _ConnectAnswer(loop), proxy.host, proxy.port, ssl=self._proxy_tls
        )
        try:
            host = f"[{self._host}]" if ":" in self._host else self._host
            target = f"{host}:{self._port}".encode("ascii")
            transport.write(b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (target, target, _authorization(proxy)))
            await answer.taken
            protocol = make()
            inner = await loop.start_tls(transport, protocol, tls, server_hostname=self._host)
        except BaseException:
            transport.abort()
            raise
        assert inner is not None
        protocol.connection_made(inner)
        return protocol


def _authorization(proxy: ForwardProxy) -> bytes:
    if proxy.authorization is None:
        return b""
    return b"proxy-authorization: %b\r\n" % proxy.authorization.encode("ascii")


class _ConnectAnswer(asyncio.Protocol):
    """Reads the head of the answer to CONNECT. taken: done when the tunnel stands; raises ProxyRefused."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.taken: asyncio.Future[None] = loop.create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head and len(self._head) <= _MOST_HEAD_BYTES:
            return
        words = self._head.partition(b"\r\n")[0].split(maxsplit=2)
        status = words[1] if len(words) > 1 and words[0].startswith(b"HTTP/1.") else b""
        if self.taken.done():
            return
        # Whoever we want to reach does not speak first: what comes behind the head is no tunnel.
        if len(status) == 3 and status.startswith(b"2") and self._head.endswith(b"\r\n\r\n"):
            self.taken.set_result(None)
        else:
            said = f"status {status.decode()}" if status.isdigit() else "no HTTP"
            self.taken.set_exception(ProxyRefused(f"the forward proxy answers CONNECT with {said}"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        if not self.taken.done():
            self.taken.set_exception(ProxyRefused("the forward proxy closes the connection"))
        # It may be that nobody waits any more.
        self.taken.exception()
