"""Limits that are forgotten in the middle of a stream: it gets what it holds, and more once they are known again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import count

import openai
import pytest
import redis

from sentinel.cache import keys
from tests.support.scripted import ScriptedProvider, words
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import chat
from tests.support.waiting import until

HELD, AT_FIRST, WORDS = 50, 5, 1500
_numbers = count(1)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """Sends a few words at first, and all others, whatever it was told, when the test says so."""
    with ScriptedProvider() as provider:
        provider.streams(
            b"".join(words(AT_FIRST)),
            b"".join(words(WORDS - AT_FIRST)),
            b"data: [DONE]\n\n",
            gate=threading.Event(),
        )
        yield provider


@pytest.fixture
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(
        REDIS_DOWN="local", OPENAI_API_URL=provider.url, DEFAULT_OUTPUT_TOKENS=str(HELD), CACHE_STALE_SECONDS="0"
    )


def redis_is_killed(stack: Stack, user: str) -> None:
    stack.store.kill()


def everything_is_deleted(stack: Stack, user: str) -> None:
    with redis.Redis.from_url(stack.store.url) as client:
        client.flushall()


def the_account_is_deleted(stack: Stack, user: str) -> None:
    with redis.Redis.from_url(stack.store.url) as client:
        assert client.delete(keys.account_keys(user).account) == 1


Fault = Callable[[Stack, str], None]
FAULTS: list[Fault] = [redis_is_killed, everything_is_deleted, the_account_is_deleted]


async def delivered(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, limit: int, faults: list[Callable[[], None]]
) -> tuple[str, int, str | None]:
    """A stream of a user with so much output left, and faults in its middle: whose it is, its words, how it ended."""
    email = f"forgotten{next(_numbers)}@corp.test"
    _, token = stack.user(email, limits={"ai_output_tokens": limit})
    texts: list[str] = []
    finish: str | None = None
    gate = provider.script.gate
    assert gate is not None

    async def broken() -> None:
        await until(lambda: len(texts) == AT_FIRST, "the first words")
        for fault in faults:
            await asyncio.to_thread(fault)
        gate.set()

    breaking = asyncio.create_task(broken())
    async with sdk(sentinel, token) as client:
        try:
            async for chunk in await client.chat.completions.create(**chat("Go on", stream=True)):
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
                    texts += [choice.delta.content] if choice.delta.content else []
        except openai.APIError as error:
            finish = str(error.code)
    await breaking
    assert provider.posts()[-1].body["stream"]
    return email, len(texts), finish


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stream_ends_where_its_reservation_does(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, fault: Fault
) -> None:
    """The user has no more; the provider ignores the maximum that it was told. What came is booked."""
    number = f"forgotten{next(_numbers) + 1}"
    email, count_, finish = await delivered(stack, sentinel, provider, HELD, [lambda: fault(stack, number)])
    assert (count_, finish) == (HELD, "length")
    if fault is redis_is_killed:
        await asyncio.to_thread(stack.store.start)
    assert (await asyncio.to_thread(stack.booked, 1, email, 20))["ai_output_tokens"] == HELD


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stream_goes_on_once_the_limits_are_known_again(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, fault: Fault
) -> None:
    """Zion tells them again: whoever has tokens left gets them, to the last one, and pays for each."""
    number, limit = f"forgotten{next(_numbers) + 1}", 1200
    email, count_, finish = await delivered(stack, sentinel, provider, limit, [lambda: fault(stack, number)])
    assert (count_, finish) == (limit, "length")
    if fault is redis_is_killed:
        await asyncio.to_thread(stack.store.start)
    assert (await asyncio.to_thread(stack.booked, 1, email, 20))["ai_output_tokens"] == limit


@pytest.mark.parametrize("fault", [redis_is_killed, everything_is_deleted])
async def test_a_stream_breaks_where_nobody_knows_the_limits(
    stack: Stack, sentinel: SentinelProcess, provider: ScriptedProvider, fault: Fault
) -> None:
    """Zion is away, too: nothing is granted on limits that are not known, and that is an error, not an end."""
    number = f"forgotten{next(_numbers) + 1}"
    faults = [
        lambda: fault(stack, number),
        lambda: stack.simulators.zion.faults.set(status=500, path_prefix="/api/v1/limits"),
    ]
    try:
        email, count_, finish = await delivered(stack, sentinel, provider, 1200, faults)
    finally:
        stack.simulators.zion.faults.clear()
        if fault is redis_is_killed:
            await asyncio.to_thread(stack.store.start)
    assert AT_FIRST <= count_ <= HELD
    assert finish == "service_unavailable"
    assert (await asyncio.to_thread(stack.booked, 1, email, 20))["ai_output_tokens"] == count_
