"""An HTTP server in a thread of its own, which can vanish and come back on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from sentinel.dev.ports import free_port

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _HttpProtocol
except ImportError:  # pragma: no cover  httptools is a dependency of Sentinel; h11 is uvicorn's own.
    from uvicorn.protocols.http.h11_impl import H11Protocol as _HttpProtocol  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Receive, Scope, Send

CONNECTION = "sentinel.connection"  # The key in scope["extensions"] under which an app finds its `Connection`.

_KEEP_ALIVE_SECONDS = (
    75  # OpenAI's edge keeps idle connections about this long; 5 (uvicorn's) would close them in tests.
)
_DRAIN_SECONDS = 1.0  # How long `cut` waits for bytes written before it to leave; a stalled reader must not stop a cut.
_LINGER_SECONDS = 1.0  # After a stop, how long handlers get to notice that their client is gone.

_logger = logging.getLogger("sentinel.dev")


class Connection:
    """What an ASGI app may do to the connection under it, beyond what ASGI offers."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: _HttpProtocol) -> None:
        self._protocol = protocol

    @property
    def gone(self) -> bool:
        """Whether the client has closed the connection, or we have."""
        transport = self._protocol.transport
        return transport.is_closing()

    async def writable(self) -> bool:
        """Wait until the client takes more bytes; False if it has gone."""
        await self._protocol.flow.drain()
        return not self.gone

    def keep_reading(self) -> None:
        """Undo uvicorn's pause after a large body: unread sockets do not tell that the client has left."""
        self._protocol.flow.resume_reading()

    async def cut(self) -> None:
        """Close abruptly, without ending the answer, after what was written so far has left (at most a second)."""
        transport = self._protocol.transport
        # uvloop writes at the end of a turn, so bytes of this turn are not yet in the buffer that it reports.
        await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not transport.is_closing() and transport.get_write_buffer_size():  # noqa: ASYNC110  No event tells.
                    await asyncio.sleep(0.001)
        transport.abort()


class _Protocol(_HttpProtocol):
    """uvicorn's HTTP protocol, which also hands its connection to the app, and keeps no access log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        self.access_log = False
        app: ASGIApp = self.app
        extensions = {CONNECTION: Connection(self)}

        def with_connection(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            scope["extensions"] = extensions
            return app(scope, receive, send)

        self.app = with_connection


class _SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also hands its connection to the app."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        app: ASGIApp = self.app

        def with_connection(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            scope["extensions"] = {**scope.get("extensions", {}), CONNECTION: self.transport}
            return app(scope, receive, send)

        self.app = with_connection


class _Uvicorn(uvicorn.Server):
    """A uvicorn that stops at once, without signals and without log lines."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def run_until_stopped(self, listener: socket.socket, listening: threading.Event) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets=[listener])
        await self.on_tick(0)  # Sets the Date header.
        listening.set()
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), timeout=1)
            await self.on_tick(0)
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_LINGER_SECONDS)


class Server:
    """Runs an ASGI app on its own thread and event loop.

    port: 0 picks a free one at the first start; every later start uses the same.
    A server may be started and stopped any number of times.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uvicorn: _Uvicorn | None = None
        self._failures: list[BaseException] = []

    @property
    def port(self) -> int:
        """The port, 0 before the first start of a server that picks its own."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients on this machine reach it, without a slash at the end."""
        host = "127.0.0.1" if self._host == "0.0.0.0" else self._host
        return f"http://{host}:{self._port}"

    @property
    def is_answering(self) -> bool:
        """Whether there is a request that has not been answered to its end."""
        return self._uvicorn is not None and bool(self._uvicorn.server_state.tasks)

    @property
    def running(self) -> bool:
        """Whether it is between start and stop."""
        return self._thread is not None

    def start(self, timeout_seconds: float = 10.0) -> Self:
        """Return when connections are accepted.

        Raises RuntimeError if it runs already, OSError if the port is taken, TimeoutError past the time limit.
        """
        if self.running:
            raise RuntimeError("the server runs already")
        self._port = self._port or free_port(self._host)
        listener = _listen(self._host, self._port)
        listening = threading.Event()
        self._failures.clear()
        self._thread = threading.Thread(
            target=self._run, args=(listener, listening), name=f"server-{self._port}", daemon=True
        )
        self._thread.start()
        ready = listening.wait(timeout_seconds)
        if self._failures:
            self._thread = None
            raise RuntimeError("the server did not start") from self._failures[0]
        if not ready:
            raise TimeoutError(f"the server was not listening after {timeout_seconds} s")
        return self

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Go away at once: the port refuses, and every open connection is cut in mid-answer.

        Does nothing when stopped already. Raises TimeoutError if the thread does not end in time.
        """
        thread, loop, server = self._thread, self._loop, self._uvicorn
        if thread is None or loop is None or server is None:
            return
        with contextlib.suppress(RuntimeError):  # The loop has ended by itself.
            loop.call_soon_threadsafe(server.stopping.set)
        thread.join(timeout_seconds)
        if thread.is_alive():
            raise TimeoutError(f"the server was still running after {timeout_seconds} s")
        self._thread = self._loop = self._uvicorn = None

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, listener: socket.socket, listening: threading.Event) -> None:
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            ws=_SocketProtocol,
            ws_per_message_deflate=False,
            ws_ping_interval=None,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        try:
            with contextlib.closing(listener), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                self._loop = runner.get_loop()
                self._uvicorn = _Uvicorn(config)
                runner.run(self._uvicorn.run_until_stopped(listener, listening))
        except BaseException as failure:  # noqa: BLE001  A thread has nobody to raise to; `start` raises it.
            self._failures.append(failure)
        finally:
            listening.set()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections of the last run linger in TIME_WAIT; they must not keep us from our port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener
