"""Serves the ASGI application with uvicorn, and adds what uvicorn lacks: bounds on slow and huge request heads.

The application says in its lifespan state, as `head_seconds`, how long a head may take.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from asyncio import TimerHandle
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from sentinel.config import Settings
from sentinel.error import AppError, HeadersTooLarge, InvalidJson, RequestTimeout, body_of

MOST_HEAD_BYTES = 64 * 1024
"""Request line and headers together. nginx takes 32 KB, and no JWT that anybody uses is over 16 KB."""

KEEP_ALIVE_SECONDS = 75
_LINGER_SECONDS = 1.0
_BACKLOG = 4096
_PR_SET_PDEATHSIG = 1


class BoundedHttpProtocol(HttpToolsProtocol):
    """Uvicorn's httptools protocol with a deadline and a size limit for the head of a request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a connection that sends nothing is closed like one that sends too slowly."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a head that stays unfinished is on the clock, one that is too large is refused."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if not self._in_head:
            self._disarm()
        elif self._head_bytes > MOST_HEAD_BYTES:
            self.refuse(HeadersTooLarge("The request line and headers are too large."))
        elif self._head_bytes and self._head_timer is None:
            self._arm()

    def on_message_begin(self) -> None:
        """A new head starts."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head is there; one that came in a single read is measured here."""
        self._in_head = False
        self._head_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MOST_HEAD_BYTES:
            raise _TooLarge
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes belong to another head."""
        super().on_message_complete()
        self._in_head = True

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's name)
        """Malformed HTTP, told in OpenAI's shape."""
        if self.transport.is_closing():
            return
        if not self._in_head and self._head_bytes == 0 and self.headers and _size(self.headers) > MOST_HEAD_BYTES:
            self.refuse(HeadersTooLarge("The request line and headers are too large."))
        else:
            self.refuse(InvalidJson("This is not a valid HTTP/1.1 request."))

    def refuse(self, error: AppError) -> None:
        """Answer and close. What still comes is thrown away for a moment: a reset would take the answer along."""
        self._refused = True
        self._disarm()
        body = body_of(error)
        head = f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(self.app_state.get("head_seconds", 10.0), self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or not self._in_head:
            return
        if self._head_bytes:
            self.refuse(RequestTimeout("The request head came too slowly."))
        else:
            self.transport.close()


class _TooLarge(httptools.HttpParserError):
    """Raised inside the parser's callback."""


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def config_for(app: Any, settings: Settings, *, factory: bool = False) -> uvicorn.Config:
    """Uvicorn's settings for ours."""
    return uvicorn.Config(
        app,
        factory=factory,
        host=settings.sentinel_host,
        port=settings.sentinel_port,
        workers=settings.sentinel_workers,
        loop="uvloop",
        http="sentinel.server:BoundedHttpProtocol",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_seconds)),
    )


def serve(settings: Settings, path: str) -> None:
    """Serve until SIGTERM or SIGINT. path: the import string of a function that makes the application."""
    config = config_for(path, settings, factory=True)
    if settings.sentinel_workers == 1:
        uvicorn.Server(config).run()
        return
    # prometheus-client reads this where it is imported, that is in the workers, which inherit it.
    with tempfile.TemporaryDirectory(prefix="sentinel-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # noqa: TID251 (a message to a library, not a setting)
        Multiprocess(config, sockets=[config.bind_socket()]).run()


def die_with_parent() -> None:
    """End this worker when its supervisor is killed: a worker of nobody would hold the port (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
