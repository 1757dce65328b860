"""Requests out of a connection's bytes: the callbacks of httptools' parser, and the bounds on what is unfinished.

A head is open from its first byte to its blank line. What is wrong with one is raised here as a `Refusal`, and answered
by the connection (connection.py). Trailers are not looked at, except that they must end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from sentinel.error import Header, HeadersTooLarge, InvalidJson, ServiceUnavailable
from sentinel.memory_budget import UNCOUNTED_BYTES
from sentinel.proxy.headers import by_name
from sentinel.server import head, upgrade
from sentinel.server.head import MOST_HEAD_BYTES
from sentinel.server.refusal import Refusal
from sentinel.server.request import ServedRequest

if TYPE_CHECKING:
    from sentinel.server.connection import HttpConnection

_MOST_DIGITS = 20
"""Of a content-length. No body has more; the parser takes any number of zeros, and Python reads no more than 4,300."""


class RequestReader:
    """Reads the requests of one connection. `close` must be called: this, its parser and the connection form a cycle.

    request: the one whose body is being read. head_is_open: some of a head has come, and not all of it. url, headers:
    those of the head that is open, or was the last one.
    """

    __slots__ = (
        "_connection",
        "_head_bytes",
        "_heads",
        "_host",
        "_offering",
        "_parser",
        "_read_bytes",
        "_rereads_head",
        "_silent_bytes",
        "_target",
        "_without_upgrade",
        "head_is_open",
        "headers",
        "request",
        "url",
    )

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._parser = self._new_parser()
        self.request: ServedRequest | None = None
        self.url = b""
        self.headers: list[Header] = []
        self.head_is_open = False
        self._head_bytes = 0
        self._read_bytes = 0
        self._silent_bytes = 0
        """Since something of a request was last made out: trailers, and extensions of chunks, come in silence."""
        self._heads = 0
        self._host: bytes | None = None
        self._target: tuple[bytes, tuple[str, bytes, bytes]] = b"", ("", b"", b"")
        """Host and target of the last head; nearly always the next one has the same."""
        self._offering: ServedRequest | None = None
        self._without_upgrade: bytes | None = None
        self._rereads_head = False

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # An answer to the first of two requests may say that it is the last; what follows is then not looked at.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def close(self) -> None:
        """The connection is closed."""
        self.request = self._offering = None
        del self._parser, self._connection

    def restart(self) -> None:
        """Forget what the parser holds of what has come; what comes next is the beginning of a request."""
        self._parser = self._new_parser()
        self.head_is_open = False

    def feed(self, data: bytes) -> None:
        """Parse what has come. A head that stays unfinished is timed, and one that is too large is refused."""
        begins_in_head, heads = self.request is None, self._heads
        self._read_bytes = len(data)
        self._silent_bytes += len(data)
        connection = self._connection
        self._parse(data)
        if self._silent_bytes > MOST_HEAD_BYTES and self.request is not None:
            connection.trailers_are_too_large()
        if not self.head_is_open or connection.transport.is_closing():
            return
        # Where another request ended in these bytes, how many of them are of this head is not known.
        self._head_bytes += len(data) if begins_in_head and heads == self._heads else 1
        if self._head_bytes > MOST_HEAD_BYTES:
            connection.refuse(HeadersTooLarge("The request line and headers are too large."))
        else:
            connection.timeouts.start_head()
            connection.memory.head_grew(connection, self._head_bytes)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            refusal = error.__context__
            if self._connection.transport.is_closing():
                return
            if isinstance(refusal, Refusal):
                self._connection.refuse(refusal.error)
            else:
                self._connection.refuse(_malformed())
        except httptools.HttpParserUpgrade as upgraded:
            # The parser takes the request to end with its head, and what follows for another protocol.
            rest = data[upgraded.args[0] :]
            if self._offering is not None:
                offering, self._offering = self._offering, None
                self._connection.hold(offering, rest)
                return
            # Nobody takes the offer (Java's client makes it with each request, for HTTP/2). A new parser reads the
            # request's framing again, and with it the body, which must not be taken for a request.
            framing, self._without_upgrade = self._without_upgrade or b"", None
            self._parser, self._rereads_head = self._new_parser(), True
            self._parse(framing + rest)

    # ----------------------------------------------------------------------------------------- callbacks of the parser

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        if not self._rereads_head:
            self.url, self.headers, self.head_is_open = b"", [], True
            self._connection.head_begins()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self.head_is_open:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole; one that came in a single read is measured here."""
        self._silent_bytes = 0
        if self._rereads_head:
            self._rereads_head = False
            return
        connection, parser, headers = self._connection, self._parser, self.headers
        came = self._head_bytes + self._read_bytes
        if self._head_bytes:
            connection.memory.head_ended(connection)
        self.head_is_open, self._head_bytes = False, 0
        self._heads += 1
        connection.timeouts.stop_head()
        if came > MOST_HEAD_BYTES and head.size_of(self.url, headers) > MOST_HEAD_BYTES:
            raise Refusal(HeadersTooLarge("The request line and headers are too large."))
        version = parser.get_http_version()
        named = by_name(headers)
        host, length = named.get(b"host"), named.get(b"content-length", b"")
        if host is None or host != self._host or len(named) < len(headers) or len(length) > _MOST_DIGITS:
            self._look_closer(length, version)
        if came > UNCOUNTED_BYTES and connection.memory.is_full:
            raise Refusal(_no_room())
        if self._target[0] != self.url:
            self._target = self.url, head.target_of(self.url)
        method, keep_alive = parser.get_method().decode("ascii"), version != "1.0" and parser.should_keep_alive()
        request = ServedRequest(connection, method, self._target[1], version, headers, named, keep_alive)
        connection.request_came(request)
        if came > UNCOUNTED_BYTES:
            request.count(min(came, MOST_HEAD_BYTES))
        self.request = request
        if parser.should_upgrade():
            if upgrade.is_taken(request.scope):
                self._offering = request
            else:
                self._without_upgrade = upgrade.framing_of(headers)

    def _look_closer(self, length: bytes, version: str) -> None:
        hosts = [value for name, value in self.headers if name == b"host"]
        if not head.names_one_host(hosts, version) or len(length) > _MOST_DIGITS:
            raise Refusal(_malformed())
        self._host = hosts[0] if hosts else None

    def on_body(self, piece: bytes) -> None:
        """A piece of a body."""
        request, self._silent_bytes = self.request, 0
        if request is None:
            return
        size = request.came(piece)
        if size > UNCOUNTED_BYTES:
            connection = self._connection
            if request.claim is None and connection.memory.is_full:
                raise Refusal(_no_room())
            request.count(len(piece))
            if size > HIGH_WATER_LIMIT:
                connection.pause_reading()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self._without_upgrade is not None:
            return
        request, self.request, self._silent_bytes = self.request, None, 0
        if request is not None:
            request.has_come()


def _malformed() -> InvalidJson:
    return InvalidJson("This is not a valid HTTP/1.1 request.")


def _no_room() -> ServiceUnavailable:
    return ServiceUnavailable("Too many requests are in memory.", retry_after_seconds=1)
