"""Leases of real processes: killed, paused or just slow, they give back what they held, and bill what they used."""

from __future__ import annotations

import asyncio
import json
import signal
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import redis

from sentinel.cache import keys
from tests.support.client import Answer, read
from tests.support.crowd import post
from tests.support.scripted import ScriptedProvider, words
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import chat, head
from tests.support.waiting import PATIENCE_SECONDS, until

LEASE_SECONDS = 2.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Short leases, and two slots for each user."""
    with Stack(LEASE_SECONDS=str(LEASE_SECONDS), RATE_LIMITS="concurrency=2") as stack:
        yield stack


@pytest.fixture(scope="module")
def other(stack: Stack) -> SentinelProcess:
    """A process that nothing happens to."""
    return stack.sentinel()


@asynccontextmanager
async def streaming(sentinel: SentinelProcess, token: str, prompt: str) -> AsyncIterator[list[str]]:
    """A stream that is read in the background; gives the texts that have come so far."""
    texts: list[str] = []

    async def read() -> None:
        async with sdk(sentinel, token) as client:
            async for chunk in await client.chat.completions.create(**chat(prompt, stream=True)):
                texts.extend(choice.delta.content or "" for choice in chunk.choices)

    reading = asyncio.create_task(read())
    try:
        await until(lambda: texts, "the first chunk")
        yield texts
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def noted(client: redis.Redis, leases: bytes) -> int:
    """The output that the one open request has delivered by its last checkpoint."""
    found: dict[bytes, bytes] = client.hgetall(leases)  # type: ignore[assignment]  # Decoding is off.
    return next((int(struct.unpack_from("<10d", packed)[5]) for packed in found.values()), -1)


async def small(sentinel: SentinelProcess, token: str) -> Answer:
    return await post(sentinel, token, chat("[[tokens=1]]", max_tokens=1))


async def test_a_killed_process_gives_back_what_it_held(stack: Stack, other: SentinelProcess) -> None:
    """Slots and tokens return when the lease ends, not before; what its stream had delivered is booked, once."""
    victim = stack.sentinel()
    email = "killed@corp.test"
    _, token = stack.user(email, limits={"ai_output_tokens": 100_000})
    whole = asyncio.create_task(post(victim, token, chat("[[tokens=5 first_delay=60]]", max_tokens=100)))
    async with streaming(victim, token, "[[tokens=5000 delay=0.01]]") as texts:
        await until(lambda: len(texts) > 250, "some chunks")
        victim.kill()
        killed = time.monotonic()
        refused = await small(other, token)
        assert (refused.status, refused.error["details"]["metric"]) == (429, "concurrency")
        await asyncio.gather(whole, return_exceptions=True)
        statuses: list[int] = []

        async def admitted() -> bool:
            statuses.append((await small(other, token)).status)
            return statuses[-1] != 429

        await until(admitted, "the end of the lease")
        assert statuses[-1] == 200
        assert time.monotonic() - killed > LEASE_SECONDS / 3
        # By now all has been read that the kernel had.
        delivered = len([text for text in texts if text])
    booked = await asyncio.to_thread(stack.booked, 2, email)
    assert booked["ai_requests"] == 2
    # The last checkpoint is about a second old at most, that is 100 tokens.
    assert delivered - 200 <= booked["ai_output_tokens"] - 1 <= delivered + 50


async def test_the_lease_expirer_ends_leases_of_users_who_stay_away(stack: Stack, other: SentinelProcess) -> None:
    """Nobody asks for this user any more, and still what was delivered is booked."""
    victim = stack.sentinel()
    email = "away@corp.test"
    _, token = stack.user(email)
    async with streaming(victim, token, "[[tokens=5000 delay=0.02]]") as texts:
        await until(lambda: len(texts) > 70, "some chunks")
        victim.kill()
    booked = await asyncio.to_thread(stack.booked, 1, email)
    assert booked["ai_requests"] == 1
    assert booked["ai_output_tokens"] >= 20


async def test_a_redis_that_was_away_for_long_does_not_free_what_living_requests_hold() -> None:
    """Their leases have ended in the meantime, and nobody could renew them."""
    with Stack(LEASE_SECONDS="1", RATE_LIMITS="concurrency=2") as stack:
        sentinel = stack.sentinel()
        _, token = stack.user("ana@corp.test")
        assert (await small(sentinel, token)).status == 200
        asked = [chat("[[tokens=1 first_delay=7]]", max_tokens=1)] * 2
        slow = [asyncio.create_task(post(sentinel, token, body)) for body in asked]
        await until(lambda: len(stack.simulators.openai.billed) == 3, "both at the provider")
        await asyncio.to_thread(stack.store.kill)
        await asyncio.sleep(2.5)  # More than a lease; that is what this is about.
        await asyncio.to_thread(stack.store.start)
        statuses, status = set(), 503
        while not any(task.done() for task in slow):
            statuses.add(status)
            status = (await small(sentinel, token)).status
        assert statuses - {503} == {429}
        assert [answer.status for answer in await asyncio.gather(*slow)] == [200, 200]
        assert (await small(sentinel, token)).status == 200


async def test_a_stream_may_outlive_its_lease(stack: Stack, other: SentinelProcess) -> None:
    """While it lives its slot is taken, for many times the lease, and it is booked once, in full."""
    email = "long@corp.test"
    _, token = stack.user(email)
    prompt = "[[tokens=100 delay=0.05]]"
    async with streaming(other, token, prompt), streaming(other, token, prompt):
        started = time.monotonic()
        while time.monotonic() - started < 2.2 * LEASE_SECONDS:
            assert (await small(other, token)).status == 429
            await asyncio.sleep(0.2)
        booked = await asyncio.to_thread(stack.booked, 2, email)
    assert (booked["ai_requests"], booked["ai_output_tokens"]) == (2, 200)
    assert (await small(other, token)).status == 200


async def test_a_paused_process_bills_once(stack: Stack, other: SentinelProcess) -> None:
    """Stopped beyond its lease it loses its slot; resumed, its stream goes on, and is booked to the token."""
    victim = stack.sentinel()
    email = "paused@corp.test"
    _, token = stack.user(email)
    async with streaming(victim, token, "[[tokens=200 delay=0.02]]") as texts:
        await until(lambda: len(texts) > 60, "some chunks")
        victim.signal(signal.SIGSTOP)
        try:
            partly = await asyncio.to_thread(stack.booked, 1, email)
            assert 0 < partly["ai_output_tokens"] < 200
        finally:
            victim.signal(signal.SIGCONT)
        await until(lambda: stack.used(email)["ai_output_tokens"] >= 200, "the rest of the stream")
    await asyncio.to_thread(victim.stop)
    used = stack.used(email)
    assert (used["ai_requests"], used["ai_output_tokens"]) == (1, 200)
    assert len([text for text in texts if text]) == 200


@pytest.mark.parametrize("others", [160, 60])
async def test_a_process_that_was_stopped_delivers_nothing_that_others_have(
    stack: Stack, other: SentinelProcess, others: int
) -> None:
    """Stopped beyond its lease, others are admitted; resumed, its stream gets what they left, and no token more."""
    limit, at_first = 200, 40
    email = f"stopped{others}@corp.test"
    user, token = stack.user(email, limits={"ai_output_tokens": limit})
    gate = threading.Event()
    with ScriptedProvider() as provider:
        provider.streams(b"".join(words(at_first)), b"".join(words(400)), b"data: [DONE]\n\n", gate=gate)
        victim = stack.sentinel(OPENAI_API_URL=provider.url)
        async with streaming(victim, token, "Go on") as texts:
            leases = keys.account_keys(user.external_id or "").leases
            with redis.Redis.from_url(stack.store.url) as client:
                await until(lambda: noted(client, leases) == at_first, "the checkpoint")
            victim.signal(signal.SIGSTOP)
            try:
                partly = await asyncio.to_thread(stack.booked, 1, email)
                assert partly["ai_output_tokens"] == at_first
                gate.set()
                answer = await post(other, token, chat(f"[[tokens={others}]]", max_tokens=others))
                assert answer.status == 200
            finally:
                victim.signal(signal.SIGCONT)
            ended = await asyncio.to_thread(victim.ended)
            assert (ended[0]["outcome"], ended[0]["output_tokens"]) == ("limit", limit - others)
            await until(lambda: len(texts) >= limit - others, "the rest of the stream")
        assert len([text for text in texts if text]) == limit - others
        await asyncio.to_thread(victim.stop)
    assert stack.used(email)["ai_output_tokens"] == limit


async def follow(sentinel: SentinelProcess, token: str, body: dict[str, Any], begun: asyncio.Event) -> Answer:
    """A request over a connection of its own. begun: set once something of the answer is there."""
    content = json.dumps(body).encode()
    lines = ["connection: close", f"authorization: Bearer {token}", f"content-length: {len(content)}"]
    async with asyncio.timeout(PATIENCE_SECONDS * 2):
        reader, writer = await asyncio.open_connection("127.0.0.1", sentinel.port)
        writer.write(head(headers=lines) + content)
        first = await reader.read(1)
        begun.set()
        answer = read(first + await reader.read())
        writer.close()
        return answer


WHOLE = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":'
    b'"assistant","content":" word"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1}}'
)
ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'


@pytest.mark.parametrize("kind", ["whole", "stream", "begun"])
@pytest.mark.parametrize("taken", [True, False])
async def test_a_request_whose_place_others_have_is_not_answered(
    stack: Stack, other: SentinelProcess, taken: bool, kind: str
) -> None:
    """Stopped beyond its lease before anything was generated, the last request of a quota may be somebody else's."""
    email = f"{kind}-{taken}@corp.test"
    user, token = stack.user(email, limits={"ai_requests": 1})
    gate = threading.Event()
    with ScriptedProvider() as provider, redis.Redis.from_url(stack.store.url) as store:
        if kind == "whole":
            provider.says(WHOLE, late=gate)
        elif kind == "stream":
            provider.streams(b"".join(words(40)), b"data: [DONE]\n\n", late=gate)
        else:
            provider.streams(ROLE, b"".join(words(40)), b"data: [DONE]\n\n", gate=gate)
        victim = stack.sentinel(OPENAI_API_URL=provider.url)
        begun = asyncio.Event()
        asking = asyncio.create_task(follow(victim, token, chat("Go on", stream=kind != "whole"), begun))
        await until(provider.posts, "the request at the provider")
        if kind == "begun":
            await until(begun.is_set, "the beginning of the answer")
        victim.signal(signal.SIGSTOP)
        try:
            leases = keys.account_keys(user.external_id or "").leases
            await until(lambda: store.hlen(leases) == 0, "the end of its lease")
            if taken:
                assert (await small(other, token)).status == 200
            gate.set()
        finally:
            victim.signal(signal.SIGCONT)
        answer = await asking
        ended = await asyncio.to_thread(victim.ended)
        await asyncio.to_thread(victim.stop)
    if not taken:
        assert (answer.status, ended[0]["outcome"], ended[0]["input_tokens"]) == (200, "ok", 9)
    elif kind == "begun":
        assert (answer.status, b" word" in answer.body) == (200, False)
        assert json.loads(answer.body.split(b"data: ")[-1])["error"]["code"] == "service_unavailable"
    else:
        assert answer.is_error(503, "service_unavailable", "server_error")
        assert answer.headers["retry-after"] == "1"
    assert ended[0]["output_tokens"] == (0 if taken else ended[0]["output_tokens"])
    booked = await asyncio.to_thread(stack.booked, 1, email)
    assert booked["ai_requests"] == 1
    assert (await small(other, token)).error["code"] == "insufficient_quota"


async def test_a_process_that_stops_orderly_leaves_nothing(stack: Stack, other: SentinelProcess) -> None:
    """After SIGTERM no slot waits for its lease."""
    victim = stack.sentinel(SHUTDOWN_GRACE_SECONDS="0")
    _, token = stack.user("orderly@corp.test")
    prompt = "[[tokens=5000 delay=0.02]]"
    async with streaming(victim, token, prompt), streaming(victim, token, prompt):
        assert (await small(other, token)).status == 429
        assert await asyncio.to_thread(victim.stop) == 0
        assert (await small(other, token)).status == 200


def test_the_sdk_sees_a_rate_limit_while_slots_are_taken(stack: Stack, other: SentinelProcess) -> None:
    """The official client raises its RateLimitError, with what a program needs to know."""
    _, token = stack.user("sdk@corp.test")

    async def both() -> openai.RateLimitError:
        slow = chat("[[tokens=2 first_delay=1]]", max_tokens=2)
        async with sdk(other, token) as client:
            results = await asyncio.gather(
                *(client.chat.completions.create(**slow) for _ in range(3)), return_exceptions=True
            )
        errors = [result for result in results if isinstance(result, openai.RateLimitError)]
        assert len(errors) == 1
        return errors[0]

    error = asyncio.run(both())
    assert error.code == "rate_limit_exceeded"
    assert error.response.headers["retry-after"] == "1"
