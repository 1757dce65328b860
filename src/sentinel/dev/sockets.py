"""The simulator's WebSockets: GET /v1/responses and GET /v1/realtime, on bare ASGI.

A response over a WebSocket is the answer that the same request has as a stream, each event a message; what is not
stored may be gone on from on the same connection. Faults hit the handshake, directives one response, as over HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

import msgspec

from sentinel.dev import realtime
from sentinel.dev.clock import unix_seconds
from sentinel.dev.directive import Ordered
from sentinel.dev.exchange import Call
from sentinel.dev.responses import ResponseEnvelope, messages_of
from sentinel.dev.server import CONNECTION
from sentinel.dev.validation import Refused, error_body, trouble_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send

    from sentinel.dev.faults import Faults

RESPONSES = "/v1/responses"
_LEAVES = {"type": "websocket.disconnect", "code": 1006}


class Simulator(Protocol):
    """What a socket needs of the simulator."""

    calls: Any
    billed: Any
    secrets: realtime.Secrets
    faults: Faults
    models: frozenset[str]
    api_key: str

    def demand_api_key(self, headers: dict[str, str]) -> None:
        """Raises Refused without our key."""

    async def complete(self, exchange: Any, kept: dict[str, list[dict[str, Any]]] | None = None) -> None:
        """Answer a request that generates text."""


class SocketClient:
    """One client's WebSocket. path, query, headers: of the handshake. messages: what has come, None when it left."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.subprotocols: list[str] = scope.get("subprotocols", [])
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._transport: asyncio.Transport = scope["extensions"][CONNECTION]
        self._receive = receive
        self._send = send

    def record(self, message: bytes) -> Call:
        """One message as a call, for tests to look at."""
        return Call("GET", self.path, self.query, self.headers, message, unix_seconds())

    async def accept(self) -> None:
        """Go on as a WebSocket."""
        chosen = next((name for name in self.subprotocols if name == "realtime"), None)
        await self._send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})

    async def refuse(self, status: int, body: bytes) -> None:
        """Answer the handshake in plain HTTP."""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def read(self) -> None:
        """Take what comes until the client leaves."""
        message = await self._receive()
        while message["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                text = message.get("text")
                self.messages.put_nowait(message["bytes"] if text is None else text.encode())
            message = await self._receive()
        self.gone.set()
        self.messages.put_nowait(None)

    async def send(self, message: bytes) -> bool:
        """Send a message; False if the client has left."""
        if self.gone.is_set() or self._transport.is_closing():
            return False
        await self._send({"type": "websocket.send", "text": message.decode()})
        await asyncio.sleep(0)
        return True

    async def close(self, code: int, reason: str) -> None:
        """Close in good order."""
        if not self.gone.is_set():
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def pause(self, seconds: float | None) -> bool:
        """Wait, at most until the client leaves; None waits for just that. True if it is still there."""
        try:
            async with asyncio.timeout(seconds):
                await self.gone.wait()
        except TimeoutError:
            return not self._transport.is_closing()
        return False

    def cut(self) -> None:
        """Close the connection abruptly."""
        self._transport.abort()


class _Answer:
    """One message as a request, whose answer goes out as messages: an `Exchange` to what answers it."""

    def __init__(self, client: SocketClient, body: dict[str, Any]) -> None:
        self.client = client
        self.path, self.headers = RESPONSES, client.headers
        self.raw = msgspec.json.encode({**body, "stream": True})

    async def pause(self, seconds: float | None) -> bool:
        return await self.client.pause(seconds)

    async def writable(self) -> bool:
        return not self.client.gone.is_set()

    async def begin(self, *_: Any) -> None:
        """A stream of messages has no head."""

    async def write(self, data: bytes) -> None:
        for line in data.split(b"\n"):
            if line.startswith(b"data: "):
                await self.client.send(line[6:])

    async def answer(self, status: int, body: bytes, _: Iterable[Any] = ()) -> None:
        error = msgspec.json.decode(body)["error"]
        await self.client.send(msgspec.json.encode({"type": "error", "status": status, "error": error}))

    async def end(self) -> None:
        """The last event is the end."""

    async def cut(self) -> None:
        self.client.cut()


async def serve(simulator: Simulator, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one WebSocket, from its handshake on."""
    client = SocketClient(scope, receive, send)
    await receive()
    simulator.calls.append(client.record(b""))
    fault = simulator.faults.take(client.path)
    if fault is not None:
        await asyncio.sleep(fault.delay_seconds)
        if fault.drop:
            client.cut()
            return
        if fault.status is not None:
            await client.refuse(fault.status, fault.body or trouble_of(fault.status).body)
            return
    session = simulator.secrets.session_of(client.headers.get("authorization", ""))
    try:
        if client.path != realtime.PATH or session is None:
            simulator.demand_api_key(client.headers)
        known = client.path in (RESPONSES, realtime.PATH)
        refused = None if known else Refused(404, f"Invalid URL (GET {client.path})")
    except Refused as error:
        refused = error
    if refused is not None:
        await client.refuse(refused.status, refused.body)
        return
    await client.accept()
    reading = asyncio.get_running_loop().create_task(client.read())
    try:
        if client.path == RESPONSES:
            await _responses(simulator, client)
        else:
            session = session or realtime.new_session({}, asked_model(client.query) or realtime.MODELS[0])
            await realtime.RealtimeSession(client, session, simulator.billed.append).run()
    finally:
        reading.cancel()


async def _responses(simulator: Simulator, client: SocketClient) -> None:
    """Answer one message after the other."""
    kept: dict[str, list[dict[str, Any]]] = {}
    while (message := await client.messages.get()) is not None:
        simulator.calls.append(client.record(message))
        try:
            body = msgspec.json.decode(message)
        except msgspec.DecodeError:
            body = {}
        if body.pop("type", None) != "response.create":
            await _Answer(client, {}).answer(400, error_body("Unknown message type.", code="unknown_message"))
            continue
        if body.pop("generate", True) is False:
            await _prewarm(client, body, kept)
            continue
        answer = _Answer(client, body)
        try:
            await simulator.complete(answer, kept)
        except Refused as refused:
            await answer.answer(refused.status, refused.body)
        except Ordered as ordered:
            await answer.answer(ordered.status, trouble_of(ordered.status).body)


async def _prewarm(client: SocketClient, body: dict[str, Any], kept: dict[str, list[dict[str, Any]]]) -> None:
    """A response that says nothing, and costs nothing."""
    envelope = ResponseEnvelope(f"resp_{secrets.token_hex(24)}", body.get("model", ""), int(unix_seconds()), body, 0)
    kept[envelope.id] = messages_of(body)
    created = envelope.response("in_progress")
    done = envelope.response("completed", usage=envelope.usage(0, 0))
    for number, (kind, response) in enumerate((("created", created), ("completed", done))):
        event = {"type": f"response.{kind}", "sequence_number": number, "response": response}
        await client.send(msgspec.json.encode(event))


def asked_model(query: str) -> str:
    """The model that a handshake names."""
    return next(iter(parse_qs(query).get("model", [])), "")
