"""A process that has seen hundreds of thousands of users, tokens and models has not grown by them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Answer
from tests.support.metering import other_zion
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "200000"))
CLIENTS = 16
LOOKS = 10
MOST_GROWTH_MB = 15.0
"""From a third of the requests on, when every cache has met its bound (docs/scaling.md)."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(REQUESTS / 50 + 300)]


def resident_mb(sentinel: SentinelProcess) -> float:
    """Memory of the process."""
    pages = int(Path(f"/proc/{sentinel.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def provider(scope: Any, receive: Any, send: Any) -> None:
    """Has every model; says one word."""
    asked = b""
    while (message := await receive()).get("more_body"):
        asked += message["body"]
    body = json.loads(asked + message["body"]) if scope["method"] == "POST" else {"stream": False}
    usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
    choice = {"index": 0, "finish_reason": "stop"}
    if body["stream"]:
        kind, event = b"text/event-stream", {"choices": [{**choice, "delta": {"content": "word"}}], "usage": usage}
        answer = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(event).encode()
    else:
        kind, whole = b"application/json", {"choices": [{**choice, "message": {"content": "word"}}], "usage": usage}
        answer = json.dumps(whole).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": answer})


def test_memory_does_not_grow_with_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """Each request is of another user with another token, for another model; every fourth is a stream."""
    times = {"JWT_CACHE_TTL_SECONDS": "5", "CACHE_STALE_SECONDS": "5"}
    with other_zion(provider) as url, Stack(RATE_LIMITS="ai_requests=100/60s", **times) as stack:
        sentinel = stack.sentinel(OPENAI_API_URL=f"{url}/v1")

        def answer_to(number: int, token: str) -> Answer:
            return post(sentinel, token, chat("one word", model=f"model-{number}", stream=number % 4 == 0))

        def run(numbers: range) -> None:
            for number in numbers:
                _, token = stack.user(f"user-{number}@corp.test")
                # The simulators share a core with all of us, and may be late.
                while (found := answer_to(number, token)).status == 503:
                    pass
                assert found.status == 200, found

        looks = [resident_mb(sentinel)]
        for look in range(LOOKS):
            first, last = REQUESTS * look // LOOKS, REQUESTS * (look + 1) // LOOKS
            with ThreadPoolExecutor(CLIENTS) as clients:
                list(clients.map(run, [range(first + n, last, CLIENTS) for n in range(CLIENTS)]))
            looks.append(resident_mb(sentinel))
            # What the simulators write down is not what is measured.
            stack.simulators.zion.calls.clear()
        with capsys.disabled():
            print(f"\n{REQUESTS:,} users, MB of memory: {' '.join(f'{look:.0f}' for look in looks)}")  # noqa: T201
        assert looks[-1] - looks[1 + LOOKS // 3] < MOST_GROWTH_MB
        assert sentinel.metric("sentinel_usage_lost_total") == 0
