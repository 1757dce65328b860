"""Serves the ASGI application with uvicorn, and adds what uvicorn lacks: bounds on slow and huge request heads.

The application says in its lifespan state, as `head_seconds` and `body_seconds`, how long these may take. It finds the
connection of a request in the scope's extensions, as `sentinel.connection`; under another server it is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Any

import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.supervisors import Multiprocess

from sentinel.config import ConfigError, Settings
from sentinel.error import AppError, HeadersTooLarge, InvalidJson, RequestTimeout, body_of, headers_of
from sentinel.proxy.headers import lines_of
from sentinel.proxy.logging import new_request_id
from sentinel.turn import end_of_turn

log = structlog.get_logger()

MOST_HEAD_BYTES = 64 * 1024
"""Request line and headers together. nginx takes 32 KB, and no JWT that anybody uses is over 16 KB."""

KEEP_ALIVE_SECONDS = 75
_LINGER_SECONDS = 1.0
_DEFAULT_HEAD_SECONDS = 10.0
_DEFAULT_BODY_SECONDS = 30.0
_DEFAULT_STALL_SECONDS = 60.0
_BACKLOG = 4096
_MOST_FILES = 65_536
"""Open files of a process: 30,000 streams, with a socket on either side. A process that holds more has other limits."""
_PR_SET_PDEATHSIG = 1


class BoundedHttpProtocol(HttpToolsProtocol):
    """Uvicorn's httptools protocol with a deadline and a size limit for the head of a request.

    A head is open from its first byte to its blank line. What is wrong before the application is asked is answered
    here, in OpenAI's shape and with a request id.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_open = False
        self._head_bytes = 0
        self._read_bytes = 0
        self._heads = 0
        self._head_timer: TimerHandle | None = None
        self._head_too_large = False
        self._body_open = False
        self._refused = False
        self._stall_timer: TimerHandle | None = None
        self._idle_timer: TimerHandle | None = None
        self._idle_since = 0.0
        self.turn = end_of_turn(self.loop)
        self.gone = False
        self.on_gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a connection that sends nothing is closed like one that sends too slowly."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell whoever is serving the client."""
        self._disarm()
        self._unwatch_reader()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    def pause_writing(self) -> None:
        """The client reads too slowly: whoever serves it waits, as long as it reads at all."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._unwatch_reader()
        super().resume_writing()

    def _watch_reader(self) -> None:
        seconds = self.app_state.get("stall_seconds", _DEFAULT_STALL_SECONDS)
        unread = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(seconds, self._look_at_reader, unread)

    def _unwatch_reader(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _look_at_reader(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._watch_reader()
        else:
            # Closing in good order would wait for the client to read the rest.
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a head that stays unfinished is on the clock, one that is too large is refused."""
        if self._refused:
            return
        begins_in_head, heads = not self._body_open, self._heads
        self._read_bytes = len(data)
        super().data_received(data)
        if self.transport.is_closing() or not self._head_open:
            return
        # Where another request ended in these bytes, how many of them are of this head is not known.
        self._head_bytes += len(data) if begins_in_head and heads == self._heads else 1
        if self._head_bytes > MOST_HEAD_BYTES:
            self.refuse(HeadersTooLarge("The request line and headers are too large."))
        elif self._head_timer is None:
            self._arm()

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._head_open = True

    def on_headers_complete(self) -> None:
        """The head is there; one that came in a single read is measured here."""
        came = self._head_bytes + self._read_bytes
        self._head_open, self._head_bytes, self._body_open = False, 0, True
        self._heads += 1
        self._disarm()
        if came > MOST_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MOST_HEAD_BYTES:
                self._head_too_large = True
                raise _TooLarge
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        connection = ClientConnection(self, cycle)
        cycle.scope["extensions"] = {"sentinel.connection": connection}  # type: ignore[dict-item]
        connection.task = self.loop.create_task(cycle.run_asgi(app))
        connection.task.add_done_callback(connection.end)
        self.tasks.add(connection.task)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        super().on_message_complete()
        self._body_open = False

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for it, but not for ever; nor for the rest of a body that was answered."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._wait_idle()
        if self._body_open:
            seconds = self.app_state.get("body_seconds", _DEFAULT_BODY_SECONDS)
            self.loop.call_later(seconds, self._stop_reading, self.cycle)

    def _wait_idle(self) -> None:
        # Uvicorn sets a timer after each answer, and stops it with each request.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(KEEP_ALIVE_SECONDS, self._look_at_idle)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = 0.0

    def _look_at_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since == 0.0:
            return
        left = self._idle_since + KEEP_ALIVE_SECONDS - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._look_at_idle)
        else:
            self.timeout_keep_alive_handler()

    def _stop_reading(self, cycle: Any) -> None:
        if self._body_open and self.cycle is cycle:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's name)
        """Malformed HTTP, told in OpenAI's shape."""
        if self.transport.is_closing():
            return
        if self._head_too_large:
            self.refuse(HeadersTooLarge("The request line and headers are too large."))
        else:
            self.refuse(InvalidJson("This is not a valid HTTP/1.1 request."))

    def refuse(self, error: AppError) -> None:
        """Answer and close. What still comes is thrown away for a moment: a reset would take the answer along."""
        self._refused, self._head_open = True, False
        self._disarm()
        if self._is_answering():
            # Our answer would end up inside of another one.
            self.transport.close()
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            # Its body broke off; nobody shall wait for the rest.
            cycle.disconnected = True
            cycle.message_event.set()
        request_id = new_request_id()
        log.info("refused before it was a request", request_id=request_id, status=error.status, error=error.code)
        body = body_of(error)
        headers = [
            *headers_of(error),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
            (b"content-length", b"%d" % len(body)),
        ]
        # As an answer that is whole, and may be waiting for the end of the turn.
        self.turn.write(self.transport, STATUS_LINE[error.status] + lines_of(headers) + b"\r\n" + body)
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def shutdown(self) -> None:
        """The server stops: an answer that is whole goes out before its connection is closed."""
        self.turn.flush()
        super().shutdown()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        if self.pipeline:
            return True
        return cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body)

    def _arm(self) -> None:
        seconds = self.app_state.get("head_seconds", _DEFAULT_HEAD_SECONDS)
        self._head_timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._head_open:
            self.refuse(RequestTimeout("The request head came too slowly."))
        else:
            self.transport.close()


class ClientConnection:
    """One request's hold on its connection: ASGI's `receive` and `send` without their messages and coroutines.

    `send_head` puts the head of an answer and its first piece into one write. uvicorn writes them apart, which is a
    system call more, and checks every header with regular expressions. Ours come from constants, numbers and the
    provider's answer, which has been through an HTTP parser.
    """

    __slots__ = ("_cycle", "_protocol", "_transport", "task")

    def __init__(self, protocol: BoundedHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._transport = protocol.transport
        self.task: asyncio.Task[None] | None = None

    def end(self, task: asyncio.Task[None]) -> None:
        """The request is over. No circle of references shall be left for the collector of garbage."""
        self._protocol.tasks.discard(task)
        self._cycle.scope.pop("extensions", None)
        self.task = None

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self._protocol.gone

    def on_gone(self, tell: Callable[[], None] | None) -> None:
        """Whom to tell when the connection is closed."""
        # uvicorn has paused reading after a large body, and an unread socket does not tell that its client has left.
        self._protocol.flow.resume_reading()
        self._protocol.on_gone = tell

    @property
    def body_is_there(self) -> bool:
        """Whether the whole body has come."""
        return not self._cycle.more_body

    def take_body(self) -> bytes:
        """What has come of the body."""
        body, self._cycle.body = bytes(self._cycle.body), bytearray()
        return body

    @property
    def is_full(self) -> bool:
        """Whether the client should read before it gets more."""
        return self._protocol.flow.write_paused

    async def has_room(self) -> None:
        """Wait until the client has read, or has left."""
        await self._protocol.flow.drain()

    def send_head(self, status: int, lines: bytes, body: bytes, length: int | None, *, close: bool, more: bool) -> None:
        """The head of an answer, and the first piece of its body. length: of the body, None = to be seen.

        lines: headers, none of which is about the connection or the body's length.
        """
        cycle = self._cycle
        if length is None:
            cycle.chunked_encoding, framing = True, b"transfer-encoding: chunked\r\n"
        else:
            cycle.chunked_encoding, framing = False, b"content-length: %d\r\n" % length
        if close:
            cycle.keep_alive = False
        if not cycle.keep_alive:
            framing += b"connection: close\r\n"
        cycle.response_started, cycle.waiting_for_100_continue = True, False
        self._send(b"%b%b%b\r\n" % (STATUS_LINE[status], lines, framing), body, head=True, more=more)

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        """A further piece of the body."""
        cycle = self._cycle
        if not more or not cycle.chunked_encoding:
            self._send(b"", piece, head=False, more=more)
        elif piece and not cycle.disconnected:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _send(self, data: bytes, body: bytes, *, head: bool, more: bool) -> None:
        cycle = self._cycle
        if cycle.disconnected:
            return
        if not cycle.chunked_encoding:
            data += body
        else:
            if body:
                data += b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                data += b"0\r\n\r\n"
        if head and not more and cycle.keep_alive:
            self._protocol.turn.write(self._transport, data)
        else:
            # A chunk shall not wait, and a close would not.
            self._transport.write(data)
        if not more:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                self._transport.close()
            cycle.on_response()


class _TooLarge(httptools.HttpParserError):
    """Raised inside the parser's callback."""


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
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_seconds)),
    )


def listener_for(settings: Settings) -> socket.socket:
    """A socket bound to SENTINEL_HOST and SENTINEL_PORT; it refuses connections until the server listens on it.

    Raises ConfigError where the address cannot be had.
    """
    host, port = settings.sentinel_host, settings.sentinel_port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or "no such address"
        raise ConfigError([f"SENTINEL_HOST, SENTINEL_PORT: cannot listen on {host} port {port}: {reason}"]) from error
    return listener


def serve(settings: Settings, path: str) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status. Raises ConfigError for an address that cannot be had.

    path: the import string of a function that makes the application.
    """
    allow_many_files()
    listener = listener_for(settings)
    config = config_for(path, settings, factory=True)
    if settings.sentinel_workers == 1:
        return run(uvicorn.Server(config), listener)
    # prometheus-client reads this where it is imported, that is in the workers, which inherit it.
    with tempfile.TemporaryDirectory(prefix="sentinel-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # noqa: TID251 (a message to a library, not a setting)
        supervisor = Multiprocess(config, sockets=[listener])
        supervisor.run()
    # A worker that a signal ended has a negative code; one that could not start, a positive one.
    return max(0, *(process.exitcode or 0 for process in supervisor.processes))


def allow_many_files() -> None:
    """Let this process, and the workers that it starts, have as many open files as the hard limit allows.

    The soft limit is 1024 in most places, for the sake of programs that call select(); clients that connect and say
    nothing would keep all others out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        # Some systems have a maximum that getrlimit does not tell; fewer files are no reason not to start.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(server: uvicorn.Server, listener: socket.socket) -> int:
    """Run a server in this process until a signal has ended it in good order; returns the exit status."""
    # Once all is done uvicorn sends itself the signal that it was ended by. An orderly end is no death by signal.
    for number in HANDLED_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
    server.run(sockets=[listener])
    return 0


def die_with_parent() -> None:
    """End this worker when its supervisor is killed: a worker of nobody would hold the port (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and os.getppid() != supervisor.pid:
        # It was killed before we asked to be told.
        raise SystemExit(1)
