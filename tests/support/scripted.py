"""A provider that answers what a test wrote down, write by write, and keeps what it was sent, byte for byte."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sentinel.dev.exchange import Call, Exchange
from sentinel.dev.server import Server

MODELS = b'{"object":"list","data":[{"id":"gpt-4o-mini","object":"model","created":1,"owned_by":"system"}]}'
EVENTS = "text/event-stream"
_BETWEEN_WRITES_SECONDS = 0.002  # Without it the reader may get two writes at once.


@dataclass(frozen=True)
class Script:
    """One answer: its writes, and whether the connection is cut after them instead of an orderly end.

    gate: after the first write nothing more is sent before this event is set. late: before it nothing is sent at all.
    """

    writes: Sequence[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: Iterable[tuple[str, str]] = ()
    cut: bool = False
    gate: threading.Event | None = None
    late: threading.Event | None = None


def words(number: int) -> list[bytes]:
    """Chunks of one token each."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    choice = {"index": 0, "delta": {"content": " word"}, "finish_reason": None}
    return [b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"] * number


class ScriptedProvider:
    """Answers every POST with `script`, and GET /v1/models with `models`.

    refuses: values of the header Authorization for which a POST gets 401.
    """

    def __init__(self) -> None:
        self.script = Script([b"{}"])
        self.models = Script([MODELS])
        self.calls: list[Call] = []
        self.refuses: set[str] = set()
        self._server = Server(self._app)

    @property
    def url(self) -> str:
        """What goes into OPENAI_API_URL."""
        return f"{self._server.url}/v1"

    def says(self, *writes: bytes, **more: Any) -> None:
        """Answer with one whole body from now on."""
        self.script = Script(writes, **more)

    def streams(self, *writes: bytes, **more: Any) -> None:
        """Answer with a stream from now on."""
        self.script = Script(writes, content_type=EVENTS, **more)

    def posts(self) -> list[Call]:
        """The requests so far that carried a body."""
        return [call for call in self.calls if call.method == "POST"]

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        if not await exchange.read():
            return
        self.calls.append(exchange.record())
        script = self.script if exchange.method == "POST" else self.models
        if exchange.method == "POST" and exchange.headers.get("authorization") in self.refuses:
            script = Script([b"{}"], status=401)
        if not await _opened(exchange, script.late):
            return
        await exchange.begin(script.status, script.headers, script.content_type)
        for write in script.writes:
            await exchange.write(write)
            if not await exchange.pause(_BETWEEN_WRITES_SECONDS) or not await _opened(exchange, script.gate):
                return
        await (exchange.cut() if script.cut else exchange.end())

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


async def _opened(exchange: Exchange, gate: threading.Event | None) -> bool:
    """Wait until the test opens the gate; False if the client leaves before."""
    while gate is not None and not gate.is_set():
        if not await exchange.pause(_BETWEEN_WRITES_SECONDS):
            return False
    return True
