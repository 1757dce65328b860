"""What is passed through is admitted and booked like all else: crowds at a limit, Redis away, an end in the middle."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.integration.test_passthrough import KEY, Asked, RawProvider
from tests.support.client import Answer
from tests.support.crowd import post, start_all
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import STORES, send
from tests.support.waiting import wait_until

CROWD = 200


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> list[SentinelProcess]:
    return start_all(stack, 2, patient=True, RATE_LIMITS="ai_requests=50/1h")


async def crowd(fleet: list[SentinelProcess], token: str) -> list[Answer]:
    """All at once, in turn to each of the processes."""
    return await asyncio.gather(*(post(fleet[n % 2], token, {"name": "x"}, STORES) for n in range(CROWD)))


@pytest.mark.parametrize(("quota", "most"), [(None, 50), (40, 40)])
async def test_a_crowd_at_a_limit(stack: Stack, fleet: list[SentinelProcess], quota: int | None, most: int) -> None:
    """Window and quota admit what they have; so many objects there are, and each is its creator's."""
    email = f"crowd-{quota}@corp.test"
    _, token = stack.user(email, limits={"ai_requests": quota})
    before = len(stack.simulators.openai.objects.kept)
    answers = await crowd(fleet, token)
    made = [answer.json["id"] for answer in answers if answer.status == 200]
    assert len(made) == len(stack.simulators.openai.objects.kept) - before == most
    assert {answer.status for answer in answers} == {200, 429}
    assert stack.booked(most, email) == {"ai_requests": most, "ai_input_tokens": 0, "ai_output_tokens": 0}


def test_who_has_no_tokens_left(stack: Stack) -> None:
    """Begins nothing that may cost some, a batch neither; what is there is still seen, kept and deleted."""
    provider = RawProvider()
    usage = b'{"id": "w1", "usage": {"prompt_tokens": 1, "completion_tokens": 60}}'
    provider.answers(b"content-type: application/json\r\n", usage)
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url, OPENAI_API_KEY=KEY)
    _, token = stack.user("spent@corp.test", limits={"ai_output_tokens": 100})
    for status in (200, 200, 429, 429):
        assert send(sentinel, "POST", "/v1/widgets", token, {}).status == status
    for path in ("/v1/batches", "/v1/messages/batches", "/v1/threads/runs", "/v1/evals"):
        assert send(sentinel, "POST", path, token, {}).status == 429
    provider.answers(b"content-type: application/json\r\n", b'{"id": "w1"}')
    for method, path in (("GET", "/v1/widgets/w1"), ("POST", "/v1/files"), ("DELETE", "/v1/widgets/w1")):
        assert send(sentinel, method, path, token, {} if method == "POST" else None).status == 200
    sentinel.kill()


def test_without_redis(stack: Stack) -> None:
    """Nothing passes: neither whose it is nor what is left can be known; afterwards all is as it was."""
    sentinel = stack.sentinel()
    _, token = stack.user("away@corp.test")
    id_ = send(sentinel, "POST", STORES, token, {"name": "x"}).json["id"]
    calls = len(stack.simulators.openai.calls)
    stack.store.pause()
    try:
        for method, path in (("GET", f"{STORES}/{id_}"), ("POST", STORES), ("GET", "/v1/files")):
            answer = send(sentinel, method, path, token, {} if method == "POST" else None)
            assert answer.is_error(503, "service_unavailable", "server_error")
    finally:
        stack.store.resume()
    asked = list(stack.simulators.openai.calls)[calls:]
    assert [call for call in asked if call.path != "/v1/models"] == []
    wait_until(lambda: send(sentinel, "GET", f"{STORES}/{id_}", token).status == 200, "Redis to be back")
    sentinel.kill()


def test_an_end_in_the_middle_of_a_download(stack: Stack) -> None:
    """SIGTERM: it finishes, and is booked."""
    provider, gate = RawProvider(), threading.Event()

    def answer(asked: Asked) -> None:
        asked.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ncontent-length: 6\r\n\r\nabc")
        gate.wait(30)
        asked.connection.sendall(b"def")

    provider.handler = answer
    sentinel = stack.sentinel({"OPENAI_API_URL": provider.url, "OPENAI_API_KEY": KEY})
    _, token = stack.user("stays@corp.test")
    with raw_connection(sentinel) as connection:
        connection.sendall(f"GET /v1/widgets HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode())
        data = connection.recv(65_536)
        sentinel.signal(signal.SIGTERM)
        gate.set()
        while piece := connection.recv(65_536):
            data += piece
    assert data.endswith(b"abcdef")
    assert sentinel.stop() == 0
    assert stack.booked(1, "stays@corp.test")["ai_requests"] == 1
    provider.close()
