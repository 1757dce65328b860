"""What has ended is freed at once: the garbage collector, which stops the event loop while it works, finds nothing."""

from __future__ import annotations

import gzip
import http.client
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import collector
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import CHAT, chat, post, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

TIMES = 20
FEW = TIMES // 2
"""The first time of something may leave a few cycles behind: what is generated, imported, remembered."""


class Collected:
    """A Sentinel whose garbage collector is asked by the test."""

    def __init__(self, stack: Stack) -> None:
        self.sentinel: SentinelProcess = stack.sentinel(start=False)
        self.sentinel.command = [sys.executable, str(Path(collector.__file__)), str(self.sentinel.folder)]
        self.sentinel.start()

    def garbage(self) -> dict[str, int]:
        """What has ended in a cycle since the last time."""
        answer = self.sentinel.folder / collector.ANSWER
        answer.unlink(missing_ok=True)
        (self.sentinel.folder / collector.ASK).touch()
        wait_until(answer.exists, "the garbage collector")
        found: dict[str, int] = json.loads(answer.read_text())
        return found


@pytest.fixture(scope="module")
def collected(stack: Stack) -> Collected:
    return Collected(stack)


def leave(sentinel: SentinelProcess, token: str) -> None:
    """Go away in the middle of a stream."""
    connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    body = json.dumps(chat("[[tokens=500 delay=0.01]]", stream=True))
    connection.request("POST", CHAT, body, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    answer.close()
    connection.close()


def coded(sentinel: SentinelProcess, token: str) -> Any:
    body = gzip.compress(json.dumps(chat("[[tokens=5]]" + "word " * 4_000)).encode())
    return post(sentinel, token, body, Content_Encoding="gzip")


REQUESTS: dict[str, Callable[[SentinelProcess, str], Any]] = {
    "whole": lambda sentinel, token: post(sentinel, token, chat("[[tokens=5]]")),
    "stream": lambda sentinel, token: post(sentinel, token, chat("[[tokens=5]]", stream=True)),
    "large": lambda sentinel, token: post(sentinel, token, chat("[[tokens=5]]" + "word " * 4_000, stream=True)),
    "coded": coded,
    "client leaves": leave,
    "stream breaks": lambda sentinel, token: post(sentinel, token, chat("[[tokens=50 cut=5]]", stream=True)),
    "provider fails": lambda sentinel, token: post(sentinel, token, chat("[[status=500]]")),
    "provider refuses": lambda sentinel, token: post(sentinel, token, chat("[[status=400]]", stream=True)),
    "no JSON": lambda sentinel, token: post(sentinel, token, b"{"),
    "unknown token": lambda sentinel, _: post(sentinel, "nobody", chat()),
    "unknown path": lambda sentinel, token: post(sentinel, token, b"{}", "/nowhere"),
    "operations": lambda sentinel, token: [
        send(sentinel, "GET", path, token) for path in ("/health", "/metrics", "/v1/models", "/sentinel/quota")
    ],
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_leaves_no_cycle(stack: Stack, collected: Collected, kind: str) -> None:
    """Neither do its connection, the provider's, nor an error: however it ends."""
    _, token = stack.user(f"{kind.replace(' ', '-')}@corp.test")
    REQUESTS[kind](collected.sentinel, token)
    idle(collected)
    collected.garbage()
    for _ in range(TIMES):
        REQUESTS[kind](collected.sentinel, token)
    idle(collected)
    found = {name: count for name, count in collected.garbage().items() if count > FEW}
    assert found == {}


def idle(collected: Collected) -> None:
    """Wait until every request has ended."""
    wait_until(lambda: collected.sentinel.metric("sentinel_requests_in_flight") == 0, "the end of all requests")
