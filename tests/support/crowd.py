"""Many requests at once over plain sockets: cheaper than an SDK, so that the crowd really is one."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support import surface
from tests.support.stack import SentinelProcess, Stack


class Answer(surface.Answer):
    """What came back. body: of a stream all its bytes, without HTTP's chunks."""

    @property
    def events(self) -> list[Any]:
        """The events of a stream, the last one is `[DONE]` as text."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        """The text that a stream delivered."""
        choices = [choice for event in self.events if event != "[DONE]" for choice in event.get("choices", [])]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def finish_reasons(self) -> list[str]:
        """The finish reasons of a stream, in order."""
        choices = [choice for event in self.events if event != "[DONE]" for choice in event.get("choices", [])]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


async def post(
    sentinel: SentinelProcess, token: str, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> Answer:
    """One request over a connection of its own, read to the end."""
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: sentinel\r\nauthorization: Bearer {token}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", sentinel.port)
    try:
        writer.write(head.encode() + payload)
        raw = await reader.read()
    finally:
        writer.close()
    return _answer(raw)


def _answer(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while body:
            size, _, rest = body.partition(b"\r\n")
            pieces.append(rest[: int(size, 16)])
            body = rest[int(size, 16) + 2 :]
        body = b"".join(pieces)
    return Answer(int(first.split()[1]), headers, body)


async def crowd(sentinels: Sequence[SentinelProcess], token: str, bodies: Iterable[dict[str, Any]]) -> list[Answer]:
    """All requests at once, in turn to each of the processes."""
    return await asyncio.gather(*(post(sentinels[n % len(sentinels)], token, body) for n, body in enumerate(bodies)))


async def until(condition: Callable[..., Any], what: str, seconds: float = 30.0) -> Any:
    """`wait_until` for tests that have an event loop; the condition may be a coroutine function."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come within {seconds} s"
        await asyncio.sleep(0.02)


def start_all(stack: Stack, count: int, **settings: str) -> list[SentinelProcess]:
    """So many Sentinels with the same settings, started side by side."""
    sentinels = [stack.sentinel(settings, start=False) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(SentinelProcess.start, sentinels))
