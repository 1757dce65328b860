"""Servers that are not what they should be: silent, hanging up, of another protocol, with a certificate of no use."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

Behaviour = Callable[[socket.socket], None]


@contextlib.contextmanager
def stranger(answer: Behaviour, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that does this with each connection, and then closes it; its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                connection = tls.wrap_socket(self.request, server_side=True) if tls else self.request
                answer(connection)
                connection.close()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def silence(connection: socket.socket) -> None:
    """Read on, and never answer."""
    while connection.recv(65_536):
        pass


def hang_up(connection: socket.socket) -> None:
    """Close as soon as something has come."""
    connection.recv(65_536)


def says(text: bytes) -> Behaviour:
    """Behaviour whatever comes with this."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(text)

    return answer


def http(status: int, body: bytes = b"{}", kind: str = "application/json") -> Behaviour:
    """Behaviour with a whole HTTP/1.1 message."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nlocation: https://elsewhere.test/\r\nconnection: close\r\n"
    return says(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


class Authority:
    """An authority and its certificates. file: its own, to be trusted by SSL_CERT_FILE."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.file = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def context(self, name: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
        """TLS of a server with a certificate for this name."""
        yesterday = datetime.now(UTC) - timedelta(days=1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(name, not_after=yesterday if expired else None).configure_cert(context)
        return context
