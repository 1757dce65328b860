"""The requests of a campaign, of every kind that applications send, and what their clients see of them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.stack import SentinelProcess
from tests.support.surface import (
    CHAT,
    COMPACT,
    COMPLETIONS,
    EMBEDDINGS,
    GENERATE,
    GENERATIONS,
    MESSAGES,
    MODERATIONS,
    NATIVE,
    RESPONSES,
    STREAM_GENERATE,
    TRANSCRIPTIONS,
    encoded,
    form,
)
from tests.support.talks import LAST, talk

MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1")
"""Sentinel counts exactly for these, so that what was cut can be compared with what the provider bills."""
FILES, BATCHES = "/v1/files", "/v1/batches"
REALTIME = "/v1/realtime?model=gpt-realtime"
LAST_EVENTS = (*("response.completed", "response.incomplete", "response.done", "message_stop", "transcript.text.done"),)
_FILE = b"a line of a file\n" * 1000
_TEXT: Any = {"type": "realtime", "output_modalities": ["text"]}


class Kind(NamedTuple):
    """What is asked for. weight: how often. in_background: the provider goes on, whoever leaves.

    requests: as how many it is billed. counted_more: our own count of its input, which stands in where the provider's
    is not told, is so much above that.
    """

    name: str
    weight: int
    path: str
    stream: bool = False
    in_background: bool = False
    counted_more: int = 0
    requests: int = 1


FILE, SOCKET = Kind("file", 2, FILES), Kind("socket", 3, RESPONSES, stream=True)
SPEECH = Kind("realtime", 3, REALTIME, stream=True, counted_more=8)
BATCHED = Kind("batch", 2, BATCHES, in_background=True, requests=3)
KINDS = (
    Kind("chat", 5, CHAT),
    Kind("chat stream", 12, CHAT, stream=True),
    Kind("completion stream", 1, COMPLETIONS, stream=True),
    Kind("response", 2, RESPONSES),
    Kind("response stream", 4, RESPONSES, stream=True),
    Kind("background", 3, RESPONSES, in_background=True),
    Kind("background stream", 2, RESPONSES, stream=True, in_background=True),
    Kind("message", 2, MESSAGES, counted_more=1),
    Kind("message stream", 3, MESSAGES, stream=True, counted_more=1),
    Kind("gemini", 1, GENERATE, counted_more=4),
    Kind("gemini stream", 2, STREAM_GENERATE, stream=True, counted_more=4),
    Kind("native", 1, NATIVE),
    Kind("native stream", 1, NATIVE, stream=True),
    Kind("compaction", 1, COMPACT),
    Kind("embedding", 2, EMBEDDINGS),
    Kind("moderation", 1, MODERATIONS),
    Kind("image", 1, GENERATIONS),
    Kind("transcript", 1, TRANSCRIPTIONS),
    Kind("transcript stream", 2, TRANSCRIPTIONS, stream=True, counted_more=1),
    FILE,
    SOCKET,
    SPEECH,
    BATCHED,
)


@dataclass
class Request:
    """One request as its client saw it. got: output tokens that came. left: the client closed its connection midway.

    complete: the whole answer is there, and must be told. lasts: it has begun what goes on without its client, and
    must be told, too. passes: it costs itself alone. counted_more, requests: as of its kind. began, ended: when, in
    monotonic seconds.
    """

    email: str
    kind: str
    passes: bool = False
    counted_more: int = 0
    requests: int = 1
    id: str = ""
    status: int = 0
    complete: bool = False
    lasts: bool = False
    left: bool = False
    got: int = 0
    began: float = 0.0
    ended: float = 0.0
    answer: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def must_be_told(self) -> bool:
        """Whether its whole cost is owed."""
        return self.complete or self.lasts


@dataclass
class Order:
    """What a client asks for: `text` has what the simulator is to do. leaves_after: so many tokens of a stream.

    file: what is uploaded; of a batch the id of its requests.
    """

    kind: Kind
    text: str
    model: str
    leaves_after: int | None = None
    file: bytes = _FILE


def draw(chance: random.Random) -> Order:
    """The next request of a client."""
    kind = chance.choices(KINDS, [kind.weight for kind in KINDS])[0]
    orders = f"tokens={chance.randint(1, 40)} delay={chance.choice([0, 0, 0.01, 0.05])}"
    if chance.random() < 0.1:
        orders += f" break_after={chance.randint(1, 5)}"
    if kind is BATCHED and chance.random() < 0.5:
        orders += " no_usage"
    leaves_after = chance.randint(1, 10) if kind.stream and chance.random() < 0.1 else None
    return Order(kind, f"[[{orders}]]", chance.choice(MODELS), leaves_after)


def file_of(order: Order) -> Order:
    """The upload of what a batch is to ask for."""
    body = {"model": order.model, "messages": [{"role": "user", "content": order.text}]}
    line = json.dumps({"custom_id": "1", "method": "POST", "url": CHAT, "body": body}) + "\n"
    return Order(FILE, "", order.model, file=line.encode() * order.kind.requests)


async def ask(sentinel: SentinelProcess, token: str, order: Order, request: Request) -> None:
    """Send it, and read what comes, as far as the client wants it. Raises what breaks connections."""
    if order.kind is SOCKET:
        await _talk(sentinel, token, order, request)
        return
    if order.kind is SPEECH:
        await _speak(sentinel, token, order, request)
        return
    body, kind = _body(order)
    path = order.kind.path.replace("gpt-4o-mini", order.model)
    await _call(sentinel.port, f"POST {path}", _lines(token, kind), body, request, order)


async def fetch(sentinel: SentinelProcess, token: str, path: str, request: Request) -> None:
    """Look at what another request has made. Raises what breaks connections."""
    await _call(sentinel.port, f"GET {path}", _lines(token, "text/plain"), b"", request, None)


def _body(order: Order) -> tuple[bytes, str]:
    kind, fields = order.kind, dict[str, Any]()
    if kind is FILE:
        return form([("purpose", "user_data")], "file", order.file)
    if kind is BATCHED:
        body = {"input_file_id": order.file.decode(), "endpoint": CHAT, "completion_window": "24h"}
        return json.dumps(body).encode(), "application/json"
    if kind.in_background:
        fields["background"] = True
    if kind.stream:
        fields["stream"] = True
    if kind.path in (CHAT, RESPONSES, MESSAGES, COMPACT):
        fields["model"] = order.model
    return encoded(kind.path, order.text, **fields)


def _lines(token: str, kind: str) -> list[str]:
    return [
        *("host: x", f"authorization: Bearer {token}", "connection: close", f"content-type: {kind}"),
        "anthropic-version: 2023-06-01",
    ]


async def _call(port: int, start: str, lines: list[str], body: bytes, request: Request, order: Order | None) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = [f"{start} HTTP/1.1", *lines, f"content-length: {len(body)}", "", ""]
        writer.write("\r\n".join(head).encode() + body)
        await _read_head(reader, request)
        if request.status != 200:
            return
        if order is not None and order.kind.stream:
            await _read_stream(reader, request, order)
        else:
            request.answer = json.loads(await reader.read())
            request.complete = True
    finally:
        writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader, request: Request) -> None:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    request.status, request.id = int(lines[0].split()[1]), headers.get("x-request-id", "")


async def _read_stream(reader: asyncio.StreamReader, request: Request, order: Order) -> None:
    async for line in _lines_of(reader):
        if line == b"data: [DONE]":
            request.complete = True
        elif line.startswith(b"data: {"):
            _see(request, json.loads(line[6:]), order)
        if request.complete or request.left:
            return


async def _lines_of(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a body in chunks. Raises ValueError or EOFError where it breaks off."""
    rest = b""
    while size := int(await reader.readline(), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield line


def _see(request: Request, event: dict[str, Any], order: Order) -> None:
    """One event, or message, of an answer in any format."""
    request.lasts |= order.kind.in_background
    request.got += _says_something(event)
    request.complete = _is_last(event)
    request.left = not request.complete and order.leaves_after is not None and request.got >= order.leaves_after


def _says_something(event: dict[str, Any]) -> bool:
    for choice in event.get("choices") or ():
        return bool((choice.get("delta") or {}).get("content") or choice.get("text"))
    for candidate in event.get("candidates") or ():
        return any(part.get("text") for part in candidate.get("content", {}).get("parts", ()))
    return event.get("type") in ("response.output_text.delta", "content_block_delta", "transcript.text.delta")


def _is_last(event: dict[str, Any]) -> bool:
    """Of a format that does not end with `[DONE]`."""
    if any(candidate.get("finishReason") for candidate in event.get("candidates") or ()):
        return True
    return event.get("type") in LAST_EVENTS


async def _talk(sentinel: SentinelProcess, token: str, order: Order, request: Request) -> None:
    """A response over a WebSocket of its own, whose handshake has the request's id at the provider."""
    async with talk(sentinel, token, open_timeout=5) as one:
        assert one.socket.response is not None
        request.id = one.socket.response.headers["x-request-id"]
        await one.create(order.text, model=order.model)
        while not (request.complete or request.left):
            message = await one.hear()
            if message["type"] in LAST and not _is_last(message):
                request.status = request.status or message.get("status", 0)
                return
            request.status = 200
            _see(request, message, order)
        if request.left:
            one.socket.transport.abort()


async def _speak(sentinel: SentinelProcess, token: str, order: Order, request: Request) -> None:
    """A response of a realtime session of its own."""
    async with talk(sentinel, token, order.kind.path, open_timeout=5) as one:
        assert one.socket.response is not None
        request.id = one.socket.response.headers["x-request-id"]
        await one.say(type="session.update", session=_TEXT)
        await one.say(type="response.create", response={"instructions": order.text})
        while not (request.complete or request.left):
            message = await one.hear()
            if message["type"] == "error":
                return
            if message["type"].startswith("response."):
                request.status = 200
                _see(request, message, order)
        if request.left:
            one.socket.transport.abort()
