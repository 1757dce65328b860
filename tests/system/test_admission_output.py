"""The output side: the provider is told what is left, a stream ends where the tokens end, what came is billed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from itertools import count
from typing import Any

import pytest
from toktok import _encoding

from tests.support.client import Answer
from tests.support.crowd import crowd, post
from tests.support.said import said_by
from tests.support.scripted import ScriptedProvider, words
from tests.support.stack import SentinelProcess, Stack, sdk
from tests.support.surface import (
    COMPLETIONS,
    GENERATE,
    MESSAGES,
    NATIVE,
    RESPONSES,
    SOCKET,
    asked,
    chat,
    maximum,
    streaming,
)
from tests.support.waiting import until, wait_until

DEFAULT_OUTPUT = 60
TEXTS = (COMPLETIONS, RESPONSES, MESSAGES, GENERATE, NATIVE, SOCKET)
"""Beside the chat."""
REQUIRED = {COMPLETIONS: {"max_tokens": 700}, MESSAGES: {"max_tokens": 700}}
"""Where an answer without a maximum is short, or is refused."""
_numbers = count(1)


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    """A Sentinel that reserves little for streams without a bound, so that they outgrow it."""
    return stack.sentinel(DEFAULT_OUTPUT_TOKENS=str(DEFAULT_OUTPUT))


class Caller:
    """A user with so many output tokens left."""

    def __init__(self, stack: Stack, sentinel: SentinelProcess, output: int | None) -> None:
        self.stack, self.sentinel = stack, sentinel
        self.email = f"output{next(_numbers)}@corp.test"
        _, self.token = stack.user(self.email, limits={"ai_output_tokens": output})

    async def chat(self, text: str, **fields: Any) -> Answer:
        return await post(self.sentinel, self.token, chat(text, **fields))

    async def chats(self, number: int, text: str, **fields: Any) -> list[Answer]:
        return await crowd([self.sentinel], self.token, [chat(text, **fields)] * number)

    async def ask(self, path: str, text: str, stream: bool, **fields: Any) -> Answer:
        body = asked(path, text, **fields, **fields_of(path, stream))
        return await post(self.sentinel, self.token, body, streaming(path, stream))

    def told(self, answer: Answer) -> dict[str, Any]:
        """The body that the provider got for this request."""
        calls = list(self.stack.simulators.openai.calls)
        id_ = answer.headers["x-request-id"]
        return next(dict(call.body) for call in calls if call.raw and call.headers.get("x-request-id") == id_)

    def booked(self, requests: int = 1) -> int:
        """The output tokens that Zion has booked, once it has booked so many requests."""
        return self.stack.booked(requests, self.email)["ai_output_tokens"]


def tokens(text: str) -> int:
    return int(_encoding("o200k_base").count(text))


async def head_of(stream: Any, count: int) -> Any:
    """The first chunks of a stream, which can be read on afterwards."""
    for _ in range(count):
        yield await anext(stream)


@pytest.fixture
def caller_with(stack: Stack, sentinel: SentinelProcess) -> Any:
    """Makes a user with so many output tokens left."""
    return lambda output: Caller(stack, sentinel, output)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("asked", [21, 2**31 - 1])
async def test_the_maximum_is_lowered_to_what_is_left(caller_with: Any, stream: bool, field: str, asked: int) -> None:
    """In the field in which the client gave it; the provider ends the answer there, and that is booked."""
    caller = caller_with(20)
    answer = await caller.chat("[[tokens=50]]", stream=stream, **{field: asked})
    assert answer.status == 200
    told = caller.told(answer)
    assert told[field] == 20
    assert {"max_tokens", "max_completion_tokens"} & set(told) == {field}
    finish = answer.finish_reasons if stream else [answer.json["choices"][0]["finish_reason"]]
    assert finish == ["length"]
    assert caller.booked() == 20
    refused = await caller.chat("[[tokens=1]]", stream=stream, **{field: asked})
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert refused.error["details"] == {
        "limit_type": "quota", "metric": "ai_output_tokens", "limit": 20, "used": 20, "remaining": 0,
        "reset_at": refused.error["details"]["reset_at"],
    }  # fmt: skip


def fields_of(path: str, stream: bool) -> dict[str, Any]:
    return {} if path in (GENERATE, SOCKET) else {"stream": stream}


def maximum_in(body: dict[str, Any]) -> Any:
    """What a provider was told, in any format."""
    told = body.get("generationConfig", body)
    names = ("maxOutputTokens", "max_output_tokens", "max_completion_tokens", "max_tokens")
    return [told[name] for name in names if name in told]


@pytest.mark.parametrize(
    ("path", "stream"), [*((path, True) for path in TEXTS), *((path, False) for path in TEXTS if path != SOCKET)]
)
async def test_the_maximum_is_lowered_in_every_format(caller_with: Any, path: str, stream: bool) -> None:
    """To what is left; the answer ends there in good order, that is booked, and nothing is left."""
    caller = caller_with(20)
    answer = await caller.ask(path, "[[tokens=50]]", stream, **maximum(path, 50))
    assert maximum_in(caller.told(answer)) == [20]
    said = said_by(answer)
    assert (tokens(said.text), said.is_whole, said.is_cut) == (20, True, True)
    assert caller.booked() == 20
    refused = await caller.ask(path, "[[tokens=1]]", stream, **maximum(path, 50))
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")


@pytest.mark.parametrize("path", TEXTS)
async def test_a_stream_of_every_format_grows_and_ends(caller_with: Any, path: str) -> None:
    """It outgrows what was reserved; where the tokens end it ends in its format's way, though its provider goes on."""
    caller = caller_with(500)
    answer = await caller.ask(path, "[[tokens=200]]", True, **maximum(path, 400))
    said = said_by(answer)
    assert (tokens(said.text), said.is_whole, said.is_cut) == (200, True, False)
    assert caller.booked() == 200
    answer = await caller.ask(path, "[[tokens=900 ignores_max]]", True, **maximum(path, 900))
    said = said_by(answer)
    assert (tokens(said.text), said.is_whole, said.is_cut) == (300, True, True)
    assert caller.booked(2) == 500


@pytest.mark.parametrize("path", [path for path in TEXTS if path != SOCKET])
async def test_whole_answers_of_every_format_cannot_overdraw(caller_with: Any, path: str) -> None:
    """In a crowd each is told a maximum, and all together stay within what was left."""
    caller = caller_with(1000)
    asked = (caller.ask(path, "[[tokens=700]]", False, **REQUIRED.get(path, {})) for _ in range(20))
    answers = await asyncio.gather(*asked)
    passed = [answer for answer in answers if answer.status == 200]
    assert passed
    assert {answer.status for answer in answers} <= {200, 429}
    assert sum(sum(maximum_in(caller.told(answer))) for answer in passed) <= 1000
    assert caller.booked(len(passed)) == sum(tokens(said_by(answer).text) for answer in passed) <= 1000


@pytest.mark.parametrize("asked", [7, 20])
async def test_a_maximum_that_fits_stays(caller_with: Any, asked: int) -> None:
    """Enough is left, so the body goes on as it came."""
    caller = caller_with(20)
    body = chat("[[tokens=50]]", max_tokens=asked)
    answer = await post(caller.sentinel, caller.token, body)
    assert caller.told(answer) == body
    assert caller.booked() == asked


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 2**31 - 1}], ids=["no maximum", "absurd maximum"])
async def test_without_a_limit_nothing_is_told(caller_with: Any, fields: dict[str, Any]) -> None:
    """A user whose output is not limited gets what the provider gives."""
    caller = caller_with(None)
    answer = await caller.chat("[[tokens=300]]", **fields)
    assert caller.told(answer) == chat("[[tokens=300]]", **fields)
    assert caller.booked() == 300


async def test_several_choices_share_what_is_left(caller_with: Any) -> None:
    """Three choices of 20 tokens get 6 each; with 2 left there is nothing for a third."""
    caller = caller_with(20)
    answer = await caller.chat("[[tokens=50]]", n=3, max_tokens=50)
    assert caller.told(answer)["max_tokens"] == 6
    assert caller.booked() == 18
    assert (await caller.chat("[[tokens=5]]", n=3, max_tokens=50)).status == 429
    assert (await caller.chat("[[tokens=5]]", n=2, max_tokens=50)).status == 200
    assert caller.booked(2) == 20


async def test_a_legacy_completion_is_lowered_too(caller_with: Any) -> None:
    """Its maximum is 16 where it names none, and best_of choices count."""
    caller = caller_with(10)
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": "[[tokens=50]]"}
    answer = await post(caller.sentinel, caller.token, body, "/v1/completions")
    assert caller.told(answer)["max_tokens"] == 10
    assert caller.booked() == 10


@pytest.mark.parametrize("with_usage", [False, True])
async def test_a_stream_outgrows_its_reservation(caller_with: Any, with_usage: bool) -> None:
    """It is extended as it goes, to its end: nothing is told to the provider, nothing is cut."""
    caller = caller_with(5000)
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    answer = await caller.chat("[[tokens=3000]]", stream=True, **options)
    assert tokens(answer.text) == 3000
    assert (answer.finish_reasons, answer.events[-1]) == (["stop"], "[DONE]")
    assert not {"max_tokens", "max_completion_tokens"} & set(caller.told(answer))
    assert caller.booked() == 3000


@pytest.mark.parametrize("with_usage", [False, True])
async def test_a_stream_ends_cleanly_where_the_tokens_end(caller_with: Any, with_usage: bool) -> None:
    """finish_reason `length` and `[DONE]`, usage if wanted; delivered, told, booked and left agree to the token."""
    caller = caller_with(500)
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    answer = await caller.chat("[[tokens=20000]]", stream=True, **options)
    assert answer.status == 200
    assert (answer.finish_reasons, answer.events[-1]) == (["length"], "[DONE]")
    assert tokens(answer.text) == 500
    usages = [event["usage"] for event in answer.events[:-1] if event.get("usage")]
    assert [usage["completion_tokens"] for usage in usages] == ([500] if with_usage else [])
    assert caller.booked() == 500
    assert (await caller.chat("[[tokens=1]]")).status == 429


async def test_the_provider_is_left_when_the_tokens_end(caller_with: Any, stack: Stack) -> None:
    """A stream that would go on for an hour is closed at once, and the SDK sees an ordinary end."""
    caller = caller_with(100)
    async with sdk(caller.sentinel, caller.token) as client:
        stream = await client.chat.completions.create(**chat("[[tokens=100000 delay=0.002]]", stream=True))
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    bill = list(stack.simulators.openai.billed)[-1]
    wait_until(lambda: bill.state == "cancelled", "the end at the provider")
    assert bill.completion_tokens < 1000
    assert caller.booked() == 100


async def test_streams_share_what_is_left(caller_with: Any) -> None:
    """Ten streams that each want all of it: together they get exactly what was left, each ends cleanly."""
    caller = caller_with(2000)
    answers = await caller.chats(10, "[[tokens=1500 delay=0.0005]]", stream=True)
    passed = [answer for answer in answers if answer.status == 200]
    assert all(answer.events[-1] == "[DONE]" for answer in passed)
    delivered = sum(tokens(answer.text) for answer in passed)
    assert caller.booked(len(passed)) == delivered
    assert delivered == 2000


@pytest.mark.parametrize("number", [1, 30])
async def test_whole_answers_without_a_maximum_cannot_overdraw(caller_with: Any, number: int) -> None:
    """Alone and in a crowd: each is told a maximum, and all together stay within what was left."""
    caller = caller_with(1000)
    answers = await caller.chats(number, "[[tokens=700]]")
    passed = [answer for answer in answers if answer.status == 200]
    assert passed
    maxima = [caller.told(answer)["max_completion_tokens"] for answer in passed]
    assert min(maxima) > 0
    assert sum(maxima) <= 1000
    assert caller.booked(len(passed)) == sum(answer.json["usage"]["completion_tokens"] for answer in passed) <= 1000


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 200}, {"model": "o3"}, {"n": 2}], ids=str)
async def test_a_provider_that_knows_no_maximum_is_left_where_the_tokens_end(
    caller_with: Any, fields: dict[str, Any]
) -> None:
    """It was told what is left, and goes on; the stream ends cleanly there all the same."""
    caller = caller_with(50)
    answer = await caller.chat("[[tokens=300 ignores_max]]", stream=True, **fields)
    assert caller.told(answer).keys() & {"max_tokens", "max_completion_tokens"}
    assert set(answer.finish_reasons) == {"length"}
    assert answer.events[-1] == "[DONE]"
    assert caller.booked() == 50


async def test_a_provider_that_knows_no_streams(caller_with: Any) -> None:
    """Its whole answer passes, and is booked as what it is."""
    caller = caller_with(1000)
    answer = await caller.chat("[[tokens=30 no_stream]]", stream=True, max_tokens=50)
    assert answer.json["usage"]["completion_tokens"] == 30
    assert caller.booked() == 30


@pytest.mark.parametrize(("model", "stream"), [("gpt-4o", False), ("gpt-4", False), ("o3", True)])
async def test_an_answer_that_may_be_as_long_as_its_model_can_is_not_told_so(
    caller_with: Any, model: str, stream: bool
) -> None:
    """The model bounds it. To name that bound would fail where prompt and maximum exceed the context window."""
    caller = caller_with(10**9)
    answer = await caller.chat("[[tokens=5]]", model=model, stream=stream)
    assert answer.status == 200
    assert not caller.told(answer).keys() & {"max_tokens", "max_completion_tokens"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_model_that_thinks_unseen_is_told_a_maximum(caller_with: Any, stream: bool) -> None:
    """We cannot see its tokens as they grow, so the provider must know where they end."""
    caller = caller_with(400)
    answer = await caller.chat("[[tokens=900]]", model="o3", stream=stream)
    told = caller.told(answer)["max_completion_tokens"]
    assert 0 < told <= 400
    assert caller.booked() == told


async def test_an_open_end_leaves_something_to_others(caller_with: Any) -> None:
    """A whole answer without a maximum takes a quarter of what is left, so that others pass beside it."""
    caller = caller_with(1000)
    slow = asyncio.create_task(caller.chat("I am the slow one [[tokens=5 first_delay=1]]"))
    calls = caller.stack.simulators.openai.calls
    await until(lambda: any(b"I am the slow one" in call.raw for call in list(calls)), "it at the provider")
    answers = await caller.chats(3, "[[tokens=5]]")
    assert [answer.status for answer in (*answers, await slow)] == [200] * 4


async def test_a_refusal_of_the_provider_returns_the_output(caller_with: Any) -> None:
    """What a failed request had reserved is there again at once."""
    caller = caller_with(100)
    for _ in range(5):
        assert (await caller.chat("[[status=400]]", max_tokens=100)).status == 400
    assert (await caller.chat("[[tokens=100]]", max_tokens=100)).status == 200
    assert caller.booked() == 100


async def test_reservations_follow_what_a_user_needs(stack: Stack) -> None:
    """With 3,000 tokens left, a user of short answers has room for many streams at once as soon as that is known."""
    with ScriptedProvider() as provider:
        sentinel = stack.sentinel(DEFAULT_OUTPUT_TOKENS="1000", OPENAI_API_URL=provider.url)
        caller = Caller(stack, sentinel, 3000)

        async def at_once(admitted: int) -> None:
            """Of twenty, so many are admitted while none has ended; then they end."""
            gate, seen = threading.Event(), len(provider.posts())
            provider.streams(*words(10), b"data: [DONE]\n\n", late=gate)
            asked = [asyncio.create_task(caller.chat("Go on", stream=True)) for _ in range(20)]
            done = asyncio.gather(*asked)
            try:
                await until(lambda: sum(task.done() for task in asked) >= 20 - admitted, "the refusals")
                await until(lambda: len(provider.posts()) - seen >= admitted, "the others at the provider")
            finally:
                gate.set()
            answers = await done
            assert Counter(answer.status for answer in answers) == +Counter({200: admitted, 429: 20 - admitted})
            assert all(answer.text.split() == ["word"] * 10 for answer in answers if answer.status == 200)

        await at_once(3)
        provider.streams(*words(10), b"data: [DONE]\n\n")
        await caller.chats(3, "Go on", stream=True)
        await at_once(20)


async def test_a_stream_outlives_a_redis_that_stumbles(caller_with: Any, stack: Stack) -> None:
    """It hangs for longer than a call may wait; the stream waits for its next tokens, and is whole in the end."""
    caller = caller_with(5000)
    async with sdk(caller.sentinel, caller.token) as client:
        stream = await client.chat.completions.create(**chat("[[tokens=1500 delay=0.001]]", stream=True))
        texts = [chunk.choices[0].delta.content or "" async for chunk in head_of(stream, 20)]
        stack.store.pause()
        try:
            await asyncio.sleep(0.8)
        finally:
            stack.store.resume()
        texts += [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert tokens("".join(texts)) == 1500
    assert caller.booked() == 1500
