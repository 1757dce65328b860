"""One side of a WebSocket (RFC 6455) as an asyncio protocol: whole messages in, whole messages out.

The frames are those of the `websockets` library, without its I/O. Messages that come wait here until they are taken: as
long as there are many bytes of them the other side is not read from, so a reader that is slow holds up whoever writes
to it. Pings are answered here, a side that is silent is pinged, and one that answers no ping is given up.

Absent: extensions. Nobody needs compressed frames, and a compressed one can be of any size.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import EXTERNAL_CLOSE_CODES, Close, CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CLOSING, OPEN, SEND_EOF, Protocol, Side
from websockets.uri import WebSocketURI, parse_uri

from sentinel.memory_budget import UNCOUNTED_BYTES, Claim
from sentinel.proxy.provider import Message
from sentinel.proxy.transport.fragments import LONG_BYTES, Fragmenter
from sentinel.tasks import pause

MOST_WAITING_BYTES = 64 * 1024
"""Of messages that nobody has taken; beyond it the other side is not read from."""
CLOSE_SECONDS = 2.0
"""So long the other side may take to answer a close frame, and a slow one to read what was sent before it."""
UNANSWERED_PINGS = 4
"""After so many in a row the other side is gone, whatever TCP says."""
_MOST_JOINED_BYTES = 1024 * 1024
"""Of a message that came in fragments; a longer one is put together beside the event loop."""
_MOST_REASON_BYTES = 123
"""Of a close frame (RFC 6455, 5.5)."""

_BLANK_LINE = b"\r\n\r\n"

_quiet = logging.getLogger("sentinel.websocket")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
_quiet.setLevel(logging.WARNING)


class _Incoming:
    """A message that has come; its data is there once that is put together."""

    __slots__ = ("data", "is_text")

    def __init__(self, data: bytes | None, is_text: bool) -> None:
        self.data = data
        self.is_text = is_text


class HandshakeRefused(Exception):
    """The other side has answered the handshake with something else than 101; None where that was no HTTP."""

    def __init__(self, response: Response | None) -> None:
        super().__init__("the handshake of a WebSocket was refused")
        self.response = response


class WebSocket(asyncio.Protocol):
    """One side. on_news is called whenever a message may be taken, there is room to write, or it has ended.

    ping_seconds: after so long a silence the other side is pinged, 0 = never. claim: counts what is held of messages.
    came: when something came last, by the loop's clock. ended: no message comes any more, and none can be sent.
    """

    def __init__(self, protocol: Protocol, *, ping_seconds: float = 0.0, claim: Claim | None = None) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self.ended = False
        self.came = 0.0
        self._protocol = protocol
        self.claim = claim
        self._ping_seconds = ping_seconds
        self._unanswered = 0
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._messages: deque[_Incoming] = deque()
        self._fragments = Fragmenter()
        self._sending = asyncio.Lock()
        self._behind: list[Message] = []
        self._waiting_bytes = self._taken_bytes = self._counted_bytes = 0
        self._parts: list[bytes] = []
        self._part_bytes = 0
        self._is_text = True
        self._reading = True
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()

    # -------------------------------------------------------------------------------------------------- for its user

    def take(self) -> Message | None:
        """The next message; None while there is none. What was taken before is held no more."""
        self._taken_bytes = 0
        message = None
        if self._messages and (data := self._messages[0].data) is not None:
            message = Message(data, self._messages.popleft().is_text)
            self._waiting_bytes -= len(data)
            self._taken_bytes = len(data)
        self._count()
        self._read_on()
        return message

    @property
    def is_full(self) -> bool:
        """Whether the other side should read before it gets more."""
        return not self._room.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the connection is closed."""
        return self._transport is None

    def send(self, data: bytes, *, is_text: bool = True) -> None:
        """Send a message, which waits in memory where `is_full`. Does nothing once it has ended."""
        if self._sending.locked():
            # In the middle of a long one.
            self._behind.append(Message(data, is_text))
        elif self._is_open:
            (self._protocol.send_text if is_text else self._protocol.send_binary)(data)
            self._flush()

    async def deliver(self, message: Message) -> None:
        """Send a message of any length, each piece of it when the other side has read what was before."""
        async with self._sending:
            if len(message.data) <= LONG_BYTES:
                await self._room.wait()
                self._send_piece(message, 0, len(message.data))
            else:
                await self._deliver_long(message)
        behind, self._behind = self._behind, []
        for short in behind:
            self.send(short.data, is_text=short.is_text)

    async def _deliver_long(self, message: Message) -> None:
        try:
            for start in range(0, len(message.data), LONG_BYTES):
                await self._room.wait()
                self._send_piece(message, start, start + LONG_BYTES)
                await pause(0)
        except BaseException:
            # What was begun can be read by nobody.
            self.abort()
            raise

    def _send_piece(self, message: Message, start: int, end: int) -> None:
        if not self._is_open:
            return
        piece, is_last = message.data[start:end], end >= len(message.data)
        if start:
            self._protocol.send_continuation(piece, is_last)
        elif message.is_text:
            self._protocol.send_text(piece, is_last)
        else:
            self._protocol.send_binary(piece, is_last)
        self._flush()

    @property
    def _is_open(self) -> bool:
        return self._protocol.state is OPEN and self._transport is not None

    def ping(self) -> None:
        """Ask for a sign of life, which is one, too."""
        if self._is_open:
            self._protocol.send_ping(b"")
            self._flush()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin to close; done when the other side has answered, or after a moment. May be called again."""
        if not self._is_open:
            return
        if code not in EXTERNAL_CLOSE_CODES and not 3000 <= code < 5000:
            code = CloseCode.INTERNAL_ERROR if code == CloseCode.ABNORMAL_CLOSURE else CloseCode.NORMAL_CLOSURE
        self._protocol.send_close(code, reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore"))
        self._resume()
        self._flush()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def close_code(self) -> int:
        """How the other side closed; 1006 where it did not say."""
        return self._received.code

    @property
    def close_reason(self) -> str:
        """Why the other side closed, in its words."""
        return self._received.reason

    @property
    def _received(self) -> Close:
        return self._protocol.close_rcvd or Close(CloseCode.ABNORMAL_CLOSURE, "")

    # ------------------------------------------------------------------------------------------------- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self.came = self._loop.time()
        if self._ping_seconds:
            self._start_timer(self._ping_seconds, self._look)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self.came = self._loop.time()
        self._unanswered = 0
        self._protocol.receive_data(self._fragments.feed(data))
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame_came(event)
        self._flush()
        self._count()
        self._read_on()

    def _frame_came(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._end()
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            data = bytes(frame.data)
            if frame.opcode is not Opcode.CONT:
                self._is_text = frame.opcode is Opcode.TEXT
            if self._parts or not frame.fin:
                self._parts.append(data)
                self._part_bytes += len(data)
            if not frame.fin:
                return
            parts, self._parts, self._part_bytes = self._parts or [data], [], 0
            self._message_came(parts)

    def _message_came(self, parts: list[bytes]) -> None:
        size = sum(map(len, parts))
        self._waiting_bytes += size
        incoming = _Incoming(None, self._is_text)
        self._messages.append(incoming)
        if size <= _MOST_JOINED_BYTES:
            incoming.data = parts[0] if len(parts) == 1 else b"".join(parts)
            self.on_news()
            return

        def joined(work: asyncio.Future[bytes]) -> None:
            incoming.data = work.result()
            self.on_news()

        self._loop.run_in_executor(None, b"".join, parts).add_done_callback(joined)

    def eof_received(self) -> bool:
        """The other side sends nothing more."""
        self._protocol.receive_eof()
        self._flush()
        return False

    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        self._room.clear()

    def resume_writing(self) -> None:
        """The other side has caught up."""
        self._room.set()
        self.on_news()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's name)
        """The connection is closed."""
        self._protocol.receive_eof()
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._room.set()
        self._end()

    # ------------------------------------------------------------------------------------------------------- within

    def _end(self) -> None:
        self.ended = True
        self.on_news()

    def _flush(self) -> None:
        """Write what the protocol has to say."""
        if self._transport is None:
            return
        ends = False
        for piece in self._protocol.data_to_send():
            if piece == SEND_EOF:
                ends = True
            else:
                self._transport.write(piece)
        if ends:
            self._transport.close()
        # A client waits for the server to close (RFC 6455, 7.1.1), and who has sent a close frame for another one; but
        # not for ever.
        if not self._is_closing and self._protocol.state is CLOSING:
            self._is_closing = True
            self._start_timer(CLOSE_SECONDS, self.abort)

    def _start_timer(self, seconds: float, act: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, act)

    def _look(self) -> None:
        """Whether the other side is still there."""
        silent = self._loop.time() - self.came
        if self._protocol.state is not OPEN:
            return
        if silent >= self._ping_seconds and self._reading:
            if self._unanswered >= UNANSWERED_PINGS:
                self.abort()
                return
            self._unanswered += 1
            self.ping()
        self._start_timer(
            self._ping_seconds if silent >= self._ping_seconds else self._ping_seconds - silent, self._look
        )

    @property
    def _held_bytes(self) -> int:
        unread = self._protocol.reader.buffer
        return len(unread) + self._part_bytes + self._waiting_bytes + self._taken_bytes

    def _count(self) -> None:
        """What is held counts, once it is more than a connection costs by itself."""
        if self.claim is not None:
            held = self._held_bytes
            counted = held if held > UNCOUNTED_BYTES else 0
            if counted != self._counted_bytes:
                self.claim.took(counted - self._counted_bytes)
                self._counted_bytes = counted

    def _read_on(self) -> None:
        if self._waiting_bytes > MOST_WAITING_BYTES:
            self._pause()
        elif self.claim is not None and self._counted_bytes:
            self.claim.read_on(self)
        else:
            self._resume()

    def _pause(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._unanswered = 0
            self.came = self._loop.time()
            self._transport.resume_reading()

    # What the memory budget asks of a connection.

    def resume_reading(self) -> None:
        """There is room for more."""
        if self._waiting_bytes <= MOST_WAITING_BYTES:
            self._resume()

    def pause_reading(self) -> None:
        """There is no room for more."""
        self._pause()

    def give_up_head(self) -> None:
        """It has none."""

    def give_way(self) -> None:
        """Others need the place."""
        self.abort()


def server_side(most_bytes: int, ping_seconds: float) -> WebSocket:
    """The side that has answered a handshake with 101. most_bytes: of a message; a longer one closes it with 1009."""
    return WebSocket(Protocol(Side.SERVER, max_size=most_bytes, logger=_quiet), ping_seconds=ping_seconds)


class ClientWebSocket(WebSocket):
    """The side that asks for the handshake. opened: done when that was answered; raises HandshakeRefused, OSError."""

    def __init__(
        self,
        request: OpeningRequest,
        most_bytes: int,
        *,
        ping_seconds: float,
        claim: Claim | None,
    ) -> None:
        self._handshake = ClientProtocol(request.uri, max_size=most_bytes, logger=_quiet)
        super().__init__(self._handshake, ping_seconds=ping_seconds, claim=claim)
        self._request = request
        self._last = b""
        self.opened: asyncio.Future[Response] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        super().connection_made(transport)
        asked = self._handshake.connect()
        asked.path = self._request.target
        for name, value in self._request.headers:
            asked.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._handshake.send_request(asked)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of the answer to the handshake first."""
        if self.opened.done():
            super().data_received(data)
            return
        # Frames may come right behind the head, but not before the connection is a WebSocket.
        end = (self._last + data).find(_BLANK_LINE) + len(_BLANK_LINE) - len(self._last)
        end = end if end >= len(_BLANK_LINE) - len(self._last) else len(data)
        self._last = (self._last + data)[-len(_BLANK_LINE) + 1 :]
        self._protocol.receive_data(data[:end])
        events = self._protocol.events_received()
        if self._handshake.handshake_exc is None and not events and data[end:]:
            # A refusal, with a body.
            self._protocol.receive_data(data[end:])
            events = self._protocol.events_received()
        if self._handshake.handshake_exc is not None:
            self._refuse(self._handshake.handshake_exc)
        elif events:
            self.opened.set_result(cast("Response", events[0]))
            self._flush()
            super().data_received(data[end:])

    def eof_received(self) -> bool:
        """The other side sends nothing more; the body of its answer may end so."""
        if not self.opened.done():
            self._protocol.receive_eof()
            self._refuse(self._handshake.handshake_exc)
            return False
        return super().eof_received()

    def _refuse(self, error: Exception | None) -> None:
        self.opened.set_exception(HandshakeRefused(error.response if isinstance(error, InvalidStatus) else None))
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        super().connection_lost(exc)
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("closed in the handshake"))
        # It may be that nobody waits any more.
        if not self.opened.cancelled():
            self.opened.exception()


class OpeningRequest:
    """What is asked for in a handshake. url: of http or https. target: as it stands in the request line."""

    def __init__(self, url: str, target: str, headers: list[tuple[bytes, bytes]]) -> None:
        self.uri: WebSocketURI = parse_uri(url.replace("http", "ws", 1))
        self.target = target
        self.headers = headers
