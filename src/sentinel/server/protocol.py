"""A client's connection: HTTP/1.1 as uvicorn's server wants a protocol to speak it, with httptools' parser.

Why not uvicorn's own protocol: it lacks bounds on slow and huge request heads, and what it does for a request was the
largest part of one that was not ours (docs/adr/0009).

The application says in its lifespan state, as `head_seconds`, `body_seconds` and `stall_seconds`, how long a client may
take, as `on_refused` who is told of what was refused before it was a request, and as `memory` what all connections
together may hold (memory_budget.py). It finds the request in the scope's
extensions, as `sentinel.connection`, which is ASGI's `receive` and `send` without their messages; under another server
it is not there.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from sentinel.clock import monotonic
from sentinel.error import (
    AppError,
    Header,
    HeadersTooLarge,
    InvalidJson,
    RequestTimeout,
    ServiceUnavailable,
    body_of,
    headers_of,
)
from sentinel.memory_budget import UNCOUNTED_BYTES, MemoryBudget
from sentinel.proxy.headers import by_name, lines_of
from sentinel.proxy.logging import RequestContext, new_request_id, secrets_of
from sentinel.server.half_close import HalfClosed, can_be_watched
from sentinel.server.request import CONTINUE, STATUS_LINES, ServedRequest
from sentinel.write_coalescer import write_coalescer

MOST_HEAD_BYTES = 64 * 1024
"""Request line and headers together. nginx takes 32 KB, and no JWT that anybody uses is over 16 KB."""

MOST_WAITING = 64
"""Requests that were sent before the answer to the first of them was read. No client that is known sends two."""


KEEP_ALIVE_SECONDS = 75
"""So long a connection may rest, unused or between two requests: longer than the 60 s of most load balancers."""
_LINGER_SECONDS = 1.0
_HEAD_SECONDS, _BODY_SECONDS, _STALL_SECONDS = 10.0, 30.0, 60.0
"""Where the application does not say."""

_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+;=:\[\]]*")
"""A host and its port (RFC 9110, 7.2), as far as characters go; a comma is one in names alone, and for two hosts."""
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class HttpProtocol(asyncio.Protocol):
    """One connection: requests in, answers out in the same order.

    A head is open from its first byte to its blank line. What is wrong before the application is asked is answered
    here, in OpenAI's shape and with a request id.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.turn = write_coalescer(self.loop)
        self.transport: asyncio.Transport
        self.flow: FlowControl
        self.server_state = server_state
        self._app = config.loaded_app
        self._app_state = app_state
        self.memory: MemoryBudget = app_state.get("memory") or app_state.setdefault("memory", MemoryBudget())
        self._resting = self.memory.resting
        self._parser = self._new_parser()
        self._upgrade: bytes | None = None
        self._resumes = False
        self._url = b""
        self._headers: list[Header] = []
        self._hosts: list[bytes] | None = None
        self._head_open = False
        self._head_bytes = 0
        self._read_bytes = 0
        self._silent_bytes = 0
        self._heads = 0
        self._head_timer: TimerHandle | None = None
        self._head_too_large = False
        self._read: ServedRequest | None = None  # Its body is being read.
        self._served: ServedRequest | None = None  # It is being answered; those behind it wait.
        self._waiting: deque[ServedRequest] = deque()
        self._refused = False
        self._stall_timer: TimerHandle | None = None
        self._idle_timer: TimerHandle | None = None
        self._idle_since = 0.0
        self._body_timer: TimerHandle | None = None
        self.half_closed: HalfClosed | None = None

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # An answer to the first of two requests may say that it is the last; what follows is then not looked at.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # -------------------------------------------------------------------------------------------------- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection that has not been used yet may rest as one between two requests: clients open some ahead."""
        # uvloop's transports are no subclass of asyncio's.
        self.transport = tcp = cast("asyncio.Transport", transport)
        self.flow = FlowControl(tcp)
        scheme = "https" if is_ssl(tcp) else "http"
        self._address = {"server": get_local_addr(tcp), "client": get_remote_addr(tcp), "scheme": scheme}
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self._wait_idle()
        self.memory.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        """Stop the clock, and tell whoever is serving the client."""
        self.server_state.connections.discard(self)
        self.memory.closed(self)
        self._disarm()
        self._unwatch_reader()
        for timer in (self._idle_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        if self.half_closed is not None:
            self.half_closed.stop()
            self.half_closed = None
        self.flow.resume_writing()
        for request in (self._served, *self._waiting):
            if request is not None:
                request.lost()
        # These and the parser know this protocol, and the collector of garbage shall not have to part them.
        self._waiting.clear()
        self._served = self._read = None
        del self._parser

    def eof_received(self) -> bool:
        """The client sends nothing more. Requests that have come whole are answered, if it can be seen leaving."""
        # Answers that are ready go out before the connection is closed.
        self.turn.flush()
        if self.half_closed is not None:
            return True
        last = self._end_with_whole()
        # Clients of HTTP/1.0 cannot be asked whether they are there, and proxies that speak it (nginx does, unless told
        # otherwise) close when their own client leaves.
        if last is None or last.scope["http_version"] == "1.0" or not can_be_watched(self.transport):
            return False
        self.half_closed = HalfClosed(self.loop, self.transport, self._probe)
        return True

    def _end_with_whole(self) -> ServedRequest | None:
        """Make the last request that has come whole the last one of this connection; None where there is none.

        What is behind it gets no answer.
        """
        if self._waiting and self._waiting[-1].more_body:
            self._waiting.pop().lost()
        last = self._waiting[-1] if self._waiting else self._served
        if last is None or last.more_body:
            return None
        last.keep_alive, self._read = False, None
        return last

    def _probe(self) -> None:
        served = self._served
        if served is not None and not served.started:
            self.transport.write(CONTINUE)

    def pause_writing(self) -> None:
        """The client reads too slowly: whoever serves it waits, as long as it reads at all."""
        self.flow.pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._unwatch_reader()
        self.flow.resume_writing()

    def _watch_reader(self) -> None:
        seconds = self._app_state.get("stall_seconds", _STALL_SECONDS)
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
        begins_in_head, heads = self._read is None, self._heads
        self._read_bytes = len(data)
        self._silent_bytes += len(data)
        self._feed(data)
        if self._silent_bytes > MOST_HEAD_BYTES and self._read is not None:
            # Trailers, or extensions of chunks, that do not end.
            if self._waiting:
                self.refuse(HeadersTooLarge("The trailers are too large."))
            else:
                self._hang_up()
        if not self._head_open or self.transport.is_closing():
            return
        # Where another request ended in these bytes, how many of them are of this head is not known.
        self._head_bytes += len(data) if begins_in_head and heads == self._heads else 1
        if self._head_bytes > MOST_HEAD_BYTES:
            self.refuse(HeadersTooLarge("The request line and headers are too large."))
        else:
            if self._head_timer is None:
                self._arm()
            self.memory.head_grew(self, self._head_bytes)

    def give_up_head(self) -> None:
        """There are too many bytes of unfinished heads, and this one is the oldest."""
        self.memory.head_ended(self)
        self.refuse(ServiceUnavailable("Too many requests are unfinished.", retry_after_seconds=1))

    def give_way(self) -> None:
        """There are too many connections."""
        if self._head_open:
            self.give_up_head()
        self._resting.pop(self, None)
        self._hang_up()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._is_malformed(error)
        except httptools.HttpParserUpgrade as upgrade:
            # We speak no other protocol, and a client that asks for one (Java's does, for HTTP/2) goes on in this one.
            # The parser has left the body out, which must not be taken for a request.
            head, self._upgrade = self._upgrade or b"", None
            self._parser, self._resumes = self._new_parser(), True
            self._feed(head + data[upgrade.args[0] :])

    # ------------------------------------------------------------------------------------------------ for the parser

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        if not self._resumes:
            self._url, self._headers, self._head_open, self._idle_since = b"", [], True, 0.0
            self._resting.pop(self, None)

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are not looked at."""
        if self._head_open:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there; one that came in a single read is measured here."""
        self._silent_bytes = 0
        if self._resumes:
            self._resumes = False
            return
        came = self._head_bytes + self._read_bytes
        if self._head_bytes:
            self.memory.head_ended(self)
        self._head_open, self._head_bytes = False, 0
        self._heads += 1
        self._disarm()
        if came > MOST_HEAD_BYTES:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size > MOST_HEAD_BYTES:
                self._head_too_large = True
                raise _TooLarge
        version = self._parser.get_http_version()
        self._look_at_host(version)
        if self._parser.should_upgrade():
            framing = [h for h in self._headers if h[0] in (b"content-length", b"transfer-encoding")]
            self._upgrade = b"POST / HTTP/1.1\r\n" + lines_of(framing) + b"\r\n"
        if len(self._waiting) == MOST_WAITING:
            raise _TooMany
        keep_alive = version != "1.0" and self._parser.should_keep_alive()
        request = self._read = ServedRequest(self, self._scope(version), keep_alive)
        if came > UNCOUNTED_BYTES:
            if self.memory.is_full:
                raise _NoRoom
            request.count(min(came, MOST_HEAD_BYTES))
        if self._served is None:
            self._serve(request)
        else:
            self.flow.pause_reading()
            self._waiting.append(request)

    def _look_at_host(self, version: str) -> None:
        """RFC 9112, 3.2: there must be one, and only one."""
        hosts = [value for name, value in self._headers if name == b"host"]
        # Nearly always a connection's requests name the same one.
        if hosts == self._hosts:
            return
        if len(hosts) != 1 and (hosts or version != "1.0"):
            raise _NoHost
        if hosts and _HOST.fullmatch(hosts[0]) is None:
            raise _NoHost
        # Where there is none, that holds for this version only.
        self._hosts = hosts or None

    def _scope(self, version: str) -> dict[str, Any]:
        url = self._url
        if url.startswith(b"/") and b"#" not in url:
            raw_path, _, query = url.partition(b"?")
        else:
            parsed = httptools.parse_url(url)
            raw_path, query = parsed.path, parsed.query or b""
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            **self._address,
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state,
        }

    def _serve(self, request: ServedRequest) -> None:
        self._served = request
        task = request.task = self.loop.create_task(request.run(self._app))
        self.server_state.tasks.add(task)

    def on_body(self, piece: bytes) -> None:
        """A piece of a body."""
        request, self._silent_bytes = self._read, 0
        if request is None:
            return
        size = request.came(piece)
        if size > UNCOUNTED_BYTES:
            if request.claim is None and self.memory.is_full:
                raise _NoRoom
            request.count(len(piece))
            if size > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self._upgrade is not None:
            return
        request, self._read, self._silent_bytes = self._read, None, 0
        if request is not None:
            request.has_come()

    # ------------------------------------------------------------------------------------------------------- answers

    def answered(self, request: ServedRequest) -> None:
        """Go on to the next request, or wait for it, but not for ever; nor for the rest of a body that was answered."""
        self.server_state.total_requests += 1
        self._served = None
        reads = self._read is request
        if not request.keep_alive:
            if reads or self._refused:
                self._linger()
            else:
                self.transport.close()
        elif not self.transport.is_closing():
            if self._waiting:
                self._serve(self._waiting.popleft())
            else:
                self._wait_idle()
            self.resume_reading()
            if reads:
                seconds = self._app_state.get("body_seconds", _BODY_SECONDS)
                self._body_timer = self.loop.call_later(seconds, self._stop_reading, request)

    def resume_reading(self) -> None:
        """Read on, unless requests wait that were sent without waiting for their turn."""
        if not self._waiting and not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_reading(self) -> None:
        """Read no further."""
        self.flow.pause_reading()

    def _linger(self) -> None:
        """Close, but not yet: with bytes unread that would reset the connection, and take our answer along."""
        self._refused = True
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _hang_up(self) -> None:
        """Close, after answers that are whole."""
        self.turn.flush()
        self.transport.close()

    def _wait_idle(self) -> None:
        # One timer serves for many requests.
        self._idle_since = self.loop.time()
        self._resting[self] = None
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(KEEP_ALIVE_SECONDS, self._look_at_idle)

    def _look_at_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since == 0.0:
            return
        left = self._idle_since + KEEP_ALIVE_SECONDS - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._look_at_idle)
        else:
            self.transport.close()

    def _stop_reading(self, request: ServedRequest) -> None:
        if self._read is request:
            self.transport.close()

    def shutdown(self) -> None:
        """The server stops: an answer that is whole goes out before its connection is closed."""
        self.turn.flush()
        if self._served is None:
            self.transport.close()
        else:
            for request in (self._served, *self._waiting):
                request.keep_alive = False

    def _is_malformed(self, error: Exception) -> None:
        """Malformed HTTP, told in OpenAI's shape."""
        if self.transport.is_closing():
            return
        if self._head_too_large:
            self.refuse(HeadersTooLarge("The request line and headers are too large."))
        elif isinstance(error, httptools.HttpParserCallbackError) and isinstance(error.__context__, _NoRoom):
            self.refuse(ServiceUnavailable("Too many requests are in memory.", retry_after_seconds=1))
        else:
            self.refuse(InvalidJson("This is not a valid HTTP/1.1 request."))

    def refuse(self, error: AppError) -> None:
        """Answer and close. What still comes is thrown away for a moment: a reset would take the answer along."""
        self._refused, self._head_open = True, False
        self._disarm()
        self.memory.head_ended(self)
        # What it holds of what has come.
        self._parser = self._new_parser()
        served = self._served
        if self._end_with_whole() is not None:
            # Those before it have their answers first; it has none, for its sender may take that for one of theirs.
            self._note_refusal(None, error)
            self.resume_reading()
            return
        has_had_its_answer = served is None and self._read is not None
        if has_had_its_answer or (served is not None and served.started):
            self._hang_up()
            return
        if served is not None:
            # Its body broke off; nobody shall wait for the rest.
            served.break_off()
        request_id = self._note_refusal(served, error)
        body = body_of(error)
        headers = [
            *headers_of(error),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
            (b"content-length", b"%d" % len(body)),
        ]
        self._url, self._headers = b"", []
        # As an answer that is whole, and may be waiting for the end of the turn.
        self.turn.write(self.transport, STATUS_LINES[error.status] + lines_of(headers) + b"\r\n" + body)
        self._linger()

    def _note_refusal(self, served: ServedRequest | None, error: AppError) -> str:
        """Have the request's one log line tell of it; returns the request's id."""
        context: RequestContext | None = None if served is None else served.scope.get("context")
        if context is not None:
            # The application is at it, and writes the line when it learns that nothing more will come.
            context.status, context.error_code = error.status, error.code
            return context.id
        headers, client = by_name(self._headers), self._address["client"]
        path = unquote(self._url.partition(b"?")[0].decode("latin-1")) or None
        context = RequestContext(new_request_id(), None, monotonic(), method=None, path=path)
        context.client, context.agent = client[0] if client else None, headers.get(b"user-agent", b"")
        context.secrets = secrets_of(headers)
        context.status, context.error_code, context.outcome = error.status, error.code, "refused"
        tell: Callable[[RequestContext], None] | None = self._app_state.get("on_refused")
        if tell is not None:
            tell(context)
        return context.id

    def _arm(self) -> None:
        seconds = self._app_state.get("head_seconds", _HEAD_SECONDS)
        self._head_timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            # It is us who do not read.
            self._arm()
        else:
            self.refuse(RequestTimeout("The request head came too slowly."))


class _TooLarge(httptools.HttpParserError):
    """Raised inside the parser's callback."""


class _NoRoom(httptools.HttpParserError):
    """Raised inside the parser's callback."""


class _NoHost(httptools.HttpParserError):
    """Raised inside the parser's callback."""


class _TooMany(httptools.HttpParserError):
    """Raised inside the parser's callback."""
