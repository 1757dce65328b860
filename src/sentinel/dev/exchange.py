"""One HTTP request and its answer, on bare ASGI: the simulators stand on the other side of benchmarks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from sentinel.dev.clock import unix_seconds
from sentinel.dev.server import CONNECTION, Connection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

    Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it arrived, for tests to look at.

    headers: names in lower case, several values of one name joined by ", ". at: Unix seconds.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    raw: bytes
    at: float

    @property
    def body(self) -> Any:
        """The body as decoded JSON; None if it is empty or no JSON."""
        try:
            return msgspec.json.decode(self.raw)
        except msgspec.DecodeError:
            return None

    def as_json(self) -> dict[str, Any]:
        """The same for the control routes; a body that is no JSON is given as text."""
        body = self.body
        if body is None and self.raw:
            body = self.raw.decode("utf-8", "replace")
        return {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": self.headers,
            "body": body,
            "at": self.at,
        }


class Exchange:
    """Reads one request, writes one answer, and notices when the client leaves."""

    __slots__ = ("_connection", "_receive", "_send", "headers", "method", "path", "query", "raw")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._connection: Connection = scope["extensions"][CONNECTION]
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers: dict[str, str] = _headers(scope)
        self.raw = b""

    async def read(self) -> bool:
        """Read the whole body into `raw`; False if the client left before its end."""
        parts: list[bytes] = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return False
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        self._connection.keep_reading()
        self.raw = b"".join(parts)
        return True

    def record(self) -> Call:
        """The request as a value; call it after `read`."""
        return Call(self.method, self.path, self.query, self.headers, self.raw, unix_seconds())

    async def pause(self, seconds: float | None) -> bool:
        """Wait, at most until the client leaves; None waits for just that. True if the client is still there."""
        try:
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return not self._connection.gone or await self._leave()
        return False

    async def answer(
        self, status: int, body: bytes, headers: Headers = (), content_type: str = "application/json"
    ) -> None:
        """Answer in one piece."""
        await self.begin(status, (("content-length", str(len(body))), *headers), content_type)
        await self._send({"type": "http.response.body", "body": body})

    async def answer_json(self, status: int, value: object, headers: Headers = ()) -> None:
        """Answer with `value` as JSON."""
        await self.answer(status, msgspec.json.encode(value), headers)

    async def begin(self, status: int, headers: Headers = (), content_type: str = "application/json") -> None:
        """Send status and headers; `write` and `end` follow."""
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        encoded.append((b"content-type", content_type.encode("latin-1")))
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def writable(self) -> bool:
        """Wait for room in the send buffer; False if the client has gone. The next `write` then does not wait."""
        return await self._connection.writable() or await self._leave()

    async def write(self, data: bytes) -> None:
        """Send a part of the body, as a write of its own on the wire."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        await asyncio.sleep(0)  # uvloop joins what one turn writes; this also lets it notice a client that leaves.

    async def end(self) -> None:
        """End the body as HTTP wants it."""
        await self._send({"type": "http.response.body", "body": b""})

    async def cut(self) -> None:
        """Close the connection abruptly, after the bytes written so far have left."""
        await self._connection.cut()
        await self._leave()

    async def _leave(self) -> bool:
        """Return False once the server, too, has noticed that the connection is closed; before, it would complain."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        return False


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
