"""docs/zion.md shows what goes over the wire: what the client sends, and what it makes of each answer."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sentinel.error import AccessDenied, InvalidApiKey, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser, Outcome, PlainAnswer, Report
from sentinel.governance.tiers import TierModel
from sentinel.limits.policy import Cost, Quota
from sentinel.zion.client import ZionClient
from tests.support.memory_governance import Item, plain
from tests.support.strangers import stranger

PAGE = (Path(__file__).parents[2] / "docs/zion.md").read_text().partition("## Every call in full")[2]
KEY = "3f0c9a7be1d24c58a6f1f5f0a2b7c9d4"
NO_BATCHES = "HTTP/1.1 404 Not Found", "", ""
ADDED_BY_ANY_CLIENT = {"host", "accept", "accept-encoding", "content-length"}


@dataclass(frozen=True)
class Message:
    """A request or an answer. start: its first line; body: the JSON, None without one."""

    start: str
    headers: dict[str, str]
    body: Any

    @classmethod
    def of(cls, text: str) -> Message:
        head, _, body = text.replace("\r\n", "\n").partition("\n\n")
        start, *lines = head.strip().split("\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return cls(start, headers, json.loads(body) if body.strip() else None)


def _sections() -> dict[str, tuple[str, list[str]]]:
    """Each call's request and answers, by the heading."""
    sections = {}
    for part in PAGE.split("\n### ")[1:]:
        request, *answers = re.findall(r"^```http\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        sections[part.partition("\n")[0]] = (request, answers)
    return sections


SECTIONS = _sections()

MOMENT_MS = 1_770_114_030_456
ANA = Item("ext-7", "ana@corp.test", "gpt-4o-mini", Cost(2, 62, 14), MOMENT_MS)
BO = Item("ext-8", "bo@corp.test", "", Cost(1, 0, 0), MOMENT_MS + 546)
ONE = Item("ext-7", "ana@corp.test", "gpt-4o-mini", Cost(1, 31, 7), MOMENT_MS)


async def _report_one(zion: ZionClient) -> Report:
    """To a Zion that has just said that it takes no batches."""
    assert (await zion.report([ONE], KEY)).outcome is Outcome.SPLIT
    return await zion.report([ONE], KEY)


Call = Callable[[ZionClient], Coroutine[Any, Any, Any]]
CALLS: dict[str, Call] = {
    "Who is calling": lambda zion: zion.identify("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2lnbmF0dXJl"),
    "What they may spend": lambda zion: zion.limits("ext-7"),
    "Which models serve a tier": lambda zion: zion.tiers(),
    "What they did spend": lambda zion: zion.report([ANA, BO], KEY),
    "The same one by one": _report_one,
}


def _ms(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return round(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp() * 1000)


async def _error(asked: Coroutine[Any, Any, Any]) -> tuple[type[Exception], float | None]:
    with pytest.raises((InvalidApiKey, AccessDenied, ZionUnavailable)) as caught:
        await asked
    return caught.type, caught.value.retry_after_seconds


async def _report(asked: Coroutine[Any, Any, Report]) -> Report:
    return plain(await asked)


async def _itself(asked: Coroutine[Any, Any, Any]) -> Any:
    return await asked


UNDERSTOOD: dict[str, list[tuple[Callable[[Any], Coroutine[Any, Any, Any]], Any]]] = {
    "Who is calling": [
        (_itself, AuthenticatedUser("ext-7", "ana@corp.test")),
        (_itself, AuthenticatedUser("ext-7", "ana@corp.test", ("gpt-4o*", "claude-*"), _ms(2026, 3, 1))),
        (_error, (InvalidApiKey, None)),
        (_error, (AccessDenied, None)),
        (_error, (ZionUnavailable, 7.0)),
    ],
    "What they may spend": [
        (_itself, Quota((500, -1, 80_000), (12, 1500, 90_000), (_ms(2026, 3, 1),) * 3)),
        (
            _itself,
            Quota((500, -1, 80_000), (12, 0, 90_000), (_ms(2026, 2, 4), 0, 0), told=(True, False, True)),
        ),
        (_error, (AccessDenied, None)),
        (_error, (ZionUnavailable, 5)),
    ],
    "Which models serve a tier": [
        (
            _itself,
            {
                "simple": [TierModel("openai", "m-small", 1), TierModel("openai", "m-tiny", 1)],
                "moderate": [TierModel("openai", "m-medium", 4)],
                "complex": [],
            },
        ),
        (_error, (ZionUnavailable, 2.0)),
    ],
    "What they did spend": [
        (
            _report,
            Report(
                Outcome.TAKEN,
                [
                    PlainAnswer(True, used=(14, 1562, 90_014), limits=(500, -2, 80_000)),
                    PlainAnswer(False, "user unknown"),
                ],
                "status 200",
            ),
        ),
        (_report, Report(Outcome.REFUSED, (), "status 413")),
        (_report, Report(Outcome.LATER, (), "status 503", 30.0)),
    ],
    "The same one by one": [
        (
            _report,
            Report(
                Outcome.TAKEN,
                [PlainAnswer(True, used=(15, 1593, 90_021), limits=(500, -2, 80_000))],
                "status 200",
            ),
        ),
        (_report, Report(Outcome.REFUSED, (), "status 400")),
    ],
}
EXAMPLES = [(name, i) for name, (_, answers) in SECTIONS.items() for i in range(len(answers))]


def test_each_example_has_its_meaning_here() -> None:
    """A call or an answer that is added to the page is added to this test, too."""
    assert {name: len(answers) for name, (_, answers) in SECTIONS.items()} == {
        name: len(meanings) for name, meanings in UNDERSTOOD.items()
    }
    assert set(CALLS) == set(SECTIONS)


@pytest.mark.parametrize(("name", "number"), EXAMPLES, ids=str)
async def test_the_page_shows_what_is_sent_and_what_is_understood(name: str, number: int) -> None:
    """The documented answer, given to the documented request, means what the page says."""
    request, answers = SECTIONS[name]
    received: list[str] = []

    def answer(connection: socket.socket) -> None:
        received.append(_whole(connection))
        takes_no_batches = CALLS[name] is _report_one and len(received) == 1
        head, _, body = NO_BATCHES if takes_no_batches else answers[number].partition("\n\n")
        length = f"\ncontent-length: {len(body)}\nconnection: close\n\n"
        connection.sendall(f"{head.strip()}{length}".replace("\n", "\r\n").encode() + body.encode())

    read, meaning = UNDERSTOOD[name][number]
    with stranger(answer) as port:
        zion = ZionClient(f"http://127.0.0.1:{port}", "zion-key")
        try:
            assert await read(CALLS[name](zion)) == meaning
        finally:
            await zion.close()
    sent, shown = Message.of(received[-1]), Message.of(request)
    assert (sent.start, sent.body) == (shown.start, shown.body)
    assert {n: v for n, v in sent.headers.items() if n not in ADDED_BY_ANY_CLIENT} == shown.headers


def _whole(connection: socket.socket) -> str:
    """A request, head and body."""
    text = b""
    while b"\r\n\r\n" not in text or len(text.partition(b"\r\n\r\n")[2]) < _length(text):
        text += connection.recv(65_536)
    return text.decode()


def _length(text: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", text, re.IGNORECASE)
    return int(found[1]) if found else 0
