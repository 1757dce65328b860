"""A client's connection: requests in, answers out in the same order. What uvicorn's server wants of a protocol.

Why not uvicorn's own protocol: it lacks bounds on slow and huge request heads, and what it does for a request was the
largest part of one that was not ours (docs/adr/0009).

The application says in its lifespan state what the modules of this room ask for: how long a client may take
(timeouts.py), how an error looks (refusal.py), which upgrades it takes (upgrade.py); as `on_refused` who is told of
what was refused before it was a request, as `memory` what all connections together may hold (memory_budget.py), and as
`serve_at_once` which function serves a request without a scope (request.py). For all others it finds the request in the
scope's extensions, as `sentinel.connection`, which is ASGI's `receive` and `send` without their messages; under another
server it is not there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from sentinel.error import AppError, HeadersTooLarge, InvalidJson, RequestTimeout, ServiceUnavailable
from sentinel.memory_budget import UNCOUNTED_BYTES, MemoryBudget
from sentinel.proxy.logging import RequestContext
from sentinel.server import refusal, upgrade
from sentinel.server.half_close import HalfClosed, can_be_watched
from sentinel.server.head import path_in
from sentinel.server.protocol import RequestReader
from sentinel.server.refusal import Refusal
from sentinel.server.request import CONTINUE, Serve, ServedRequest
from sentinel.server.timeouts import Timeouts
from sentinel.write_coalescer import write_coalescer

MOST_WAITING = 64
"""Requests that were sent before the answer to the first of them was read. No client that is known sends two."""

_LINGER_SECONDS = 1.0


def _in_asgi(_: ServedRequest) -> None:
    """What an application that says nothing else wants."""


class Input(Enum):
    """What is done with the bytes that come."""

    PARSED = "they are requests"
    HELD = "they may be another protocol's; the application has not decided yet"
    DISCARDED = "the last answer is out"


PARSED, HELD, DISCARDED = Input


class HttpConnection(asyncio.Protocol):
    """One connection.

    address, state: for the scopes of its requests. client: the address of the other side. served: the request that is
    being answered; those behind it wait. on_stall: told when the client shall get nothing more for now.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.writes = write_coalescer(self.loop)
        self.transport: asyncio.Transport
        self.flow: FlowControl
        self.address: dict[str, Any]
        self.client: str | None
        self.server_state = server_state
        self.state = app_state
        self.memory: MemoryBudget = app_state.get("memory") or app_state.setdefault("memory", MemoryBudget())
        self.timeouts = Timeouts(self, self.loop, app_state)
        self.half_closed: HalfClosed | None = None
        self.offered: ServedRequest | None = None
        self.served: ServedRequest | None = None
        self._waiting: deque[ServedRequest] = deque()
        self._app = config.loaded_app
        self._serve_at_once: Serve = app_state.get("serve_at_once", _in_asgi)
        self._resting = self.memory.resting
        self._reader = RequestReader(self)
        self._input = PARSED
        self._held = b""
        self.on_stall: Callable[[], None] | None = None

    # -------------------------------------------------------------------------------------------------- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection that has not been used yet may rest as one between two requests: clients open some ahead."""
        # uvloop's transports are no subclass of asyncio's.
        self.transport = tcp = cast("asyncio.Transport", transport)
        self.flow = FlowControl(tcp)
        scheme = "https" if is_ssl(tcp) else "http"
        peer = get_remote_addr(tcp)
        self.address = {"server": get_local_addr(tcp), "client": peer, "scheme": scheme}
        self.client = peer[0] if peer else None
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self._rest()
        self.memory.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        """Stop the timers, and tell whoever is serving the client."""
        self.server_state.connections.discard(self)
        self.memory.closed(self)
        self.timeouts.close()
        self._unwatch_half_close()
        self.flow.resume_writing()
        if self.on_stall is not None:
            self.on_stall()
            self.on_stall = None
        for request in (self.served, *self._waiting):
            if request is not None:
                request.lost()
        # These and the parser know this connection, and the collector of garbage shall not have to part them.
        self._waiting.clear()
        self.served = self.offered = None
        self._reader.close()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._input is PARSED:
            self._reader.feed(data)
        elif self._input is HELD and self.offered is not None:
            self.hold(self.offered, data)

    def eof_received(self) -> bool:
        """The client sends nothing more. Requests that have come whole are answered, if it can be seen leaving."""
        # Answers that are ready go out before the connection is closed.
        self.writes.flush()
        if self.half_closed is not None:
            return True
        last = self._end_with_whole()
        # Clients of HTTP/1.0 cannot be asked whether they are there, and proxies that speak it (nginx does, unless told
        # otherwise) close when their own client leaves.
        if last is None or last.version == "1.0" or not can_be_watched(self.transport):
            return False
        self.half_closed = HalfClosed(self.loop, self.transport, self._probe)
        return True

    def _probe(self) -> None:
        if self.served is not None and not self.served.started:
            self.transport.write(CONTINUE)

    def _unwatch_half_close(self) -> None:
        if self.half_closed is not None:
            self.half_closed.stop()
            self.half_closed = None

    def pause_writing(self) -> None:
        """The client reads too slowly: whoever serves it waits, as long as it reads at all."""
        self.flow.pause_writing()
        if self.on_stall is not None:
            self.on_stall()
        self.timeouts.start_slow_read()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.timeouts.stop_slow_read()
        self.flow.resume_writing()

    # ---------------------------------------------------------------------------------------------------- requests

    def head_begins(self) -> None:
        """The first byte of a head has come."""
        self.timeouts.stop_idle()
        self._resting.pop(self, None)

    def request_came(self, request: ServedRequest) -> None:
        """A head is whole: serve its request, at once or in its turn. Raises Refusal where too many wait already."""
        if self.served is None:
            self._serve(request)
            return
        if len(self._waiting) == MOST_WAITING:
            raise Refusal(InvalidJson("This is not a valid HTTP/1.1 request."))
        self.flow.pause_reading()
        self._waiting.append(request)

    def _serve(self, request: ServedRequest) -> None:
        self.served = request
        task = request.task = self.loop.create_task(request.run(self._app, self._serve_at_once))
        self.server_state.tasks.add(task)

    def answered(self, request: ServedRequest) -> None:
        """Go on to the next request, or wait for it, but not for ever; nor for the rest of a body that was answered."""
        self.server_state.total_requests += 1
        self.served = None
        is_read = self._reader.request is request
        if not request.keep_alive:
            if is_read or self._held or self._input is DISCARDED:
                self._linger()
            else:
                self.transport.close()
        elif not self.transport.is_closing():
            if self._waiting:
                self._serve(self._waiting.popleft())
            else:
                self._rest()
            if is_read:
                self.timeouts.start_body(request)
            if self.offered is request:
                self._decline_upgrade()
            self.resume_reading()

    def _rest(self) -> None:
        """Nothing is asked on this connection."""
        self.timeouts.start_idle()
        self._resting[self] = None

    def resume_reading(self) -> None:
        """Read on, unless requests wait that were sent without waiting for their turn, or much of what may be none."""
        # Nearly always nothing has paused it.
        if not self.flow.read_paused or self._waiting or len(self._held) > UNCOUNTED_BYTES:
            return
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_reading(self) -> None:
        """Read no further."""
        self.flow.pause_reading()

    # ----------------------------------------------------------------------------------------------------- upgrades

    def hold(self, request: ServedRequest, data: bytes) -> None:
        """Parse nothing until the application has decided about the upgrade that this request offers."""
        self._input, self.offered = HELD, request
        self._held += data
        if len(self._held) > UNCOUNTED_BYTES:
            request.count(len(data))
            self.flow.pause_reading()

    def hand_over(self, head: bytes, protocol: asyncio.Protocol) -> None:
        """Go on in another protocol. head: of the 101."""
        self.server_state.total_requests += 1
        self.transport.write(head)
        self.offered, held, self._held = None, self._held, b""
        has_ended = self.half_closed is not None
        self._unwatch_half_close()
        self.flow.resume_reading()
        upgrade.hand_over(self, protocol, held, has_ended=has_ended)

    def _decline_upgrade(self) -> None:
        held, self._held = self._held, b""
        self._input, self.offered = PARSED, None
        self._reader.restart()
        if held:
            self.data_received(held)

    # --------------------------------------------------------------------------------------------------------- ends

    def shutdown(self) -> None:
        """The server stops: an answer that is whole goes out before its connection is closed."""
        self.writes.flush()
        if self.served is None:
            self.transport.close()
        else:
            for request in (self.served, *self._waiting):
                request.keep_alive = False
            if self.served.on_shutdown is not None:
                self.served.on_shutdown()

    def give_way(self) -> None:
        """There are too many connections."""
        if self._reader.head_is_open:
            self.give_up_head()
        self._resting.pop(self, None)
        self._hang_up()

    def give_up_head(self) -> None:
        """There are too many bytes of unfinished heads, and this one is the oldest."""
        self.memory.head_ended(self)
        self.refuse(ServiceUnavailable("Too many requests are unfinished.", retry_after_seconds=1))

    def head_timed_out(self) -> None:
        """The head timeout is over."""
        if not self.transport.is_closing():
            self.refuse(RequestTimeout("The request head came too slowly."))

    def body_timed_out(self, request: ServedRequest) -> None:
        """The body timeout of an answered request is over, which may have come whole."""
        if self._reader.request is request:
            self.transport.close()

    def trailers_are_too_large(self) -> None:
        """Trailers, or extensions of chunks, do not end."""
        if self._waiting:
            self.refuse(HeadersTooLarge("The trailers are too large."))
        else:
            self._hang_up()

    def _end_with_whole(self) -> ServedRequest | None:
        """Make the last request that has come whole the last one of this connection; None where there is none.

        What is behind it gets no answer.
        """
        if self._waiting and not self._waiting[-1].body_is_there:
            self._waiting.pop().lost()
        last = self._waiting[-1] if self._waiting else self.served
        if last is None or not last.body_is_there:
            return None
        last.keep_alive, self._reader.request = False, None
        return last

    def refuse(self, error: AppError) -> None:
        """Answer and close. What still comes is thrown away for a moment: a reset would take the answer along."""
        self._input = DISCARDED
        self.timeouts.stop_head()
        self.memory.head_ended(self)
        self._reader.restart()
        served = self.served
        if self._end_with_whole() is not None:
            # Those before it have their answers first; it has none, for its sender may take that for one of theirs.
            self._note_refusal(None, error)
            self.resume_reading()
            return
        has_had_its_answer = served is None and self._reader.request is not None
        if has_had_its_answer or (served is not None and served.started):
            self._hang_up()
            return
        if served is not None:
            # Its body broke off; nobody shall wait for the rest.
            served.break_off()
        request_id = self._note_refusal(served, error)
        path = path_in(self._reader.url) if served is None else served.path
        answer = refusal.answer_of(error, request_id, refusal.renderer_for(self.state, path))
        self._reader.url, self._reader.headers = b"", []
        # As an answer that is whole, and may be waiting for the end of the turn.
        self.writes.write(self.transport, answer)
        self._linger()

    def _note_refusal(self, served: ServedRequest | None, error: AppError) -> str:
        """Have the request's one log line tell of it; returns the request's id."""
        context = None if served is None else served.context
        if context is not None:
            # The application is at it, and writes the line when it learns that nothing more will come.
            context.status, context.error_code = error.status, error.code
            return context.id
        context = refusal.context_of(error, self._reader.url, self._reader.headers, self.address["client"])
        if served is not None:
            served.context = context
        tell: Callable[[RequestContext], None] | None = self.state.get("on_refused")
        if tell is not None:
            tell(context)
        return context.id

    def _linger(self) -> None:
        """Close, but not yet: with bytes unread that would reset the connection, and take our answer along."""
        self._input = DISCARDED
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _hang_up(self) -> None:
        """Close, after answers that are whole."""
        self.writes.flush()
        self.transport.close()
