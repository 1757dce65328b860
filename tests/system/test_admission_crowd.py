"""Crowds over HTTP: one, two and four processes on one Redis admit exactly the limit, and bill what they admit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Answer
from tests.support.crowd import JSON, crowd, start_all
from tests.support.said import said_by
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import (
    COMPACT,
    COMPLETIONS,
    EMBEDDINGS,
    GENERATE,
    GENERATIONS,
    MESSAGES,
    MODERATIONS,
    NATIVE,
    OF_MEDIA,
    RESPONSES,
    SOCKET,
    SPEECH,
    STORES,
    TRANSCRIPTIONS,
    asked,
    chat,
    encoded,
    maximum,
    streaming,
)

CROWD = 500
OUTPUT = 7
PROMPT = f"[[tokens={OUTPUT}]]"
PROMPT_TOKENS = 12
LEAST = 16
"""The least maximum that responses may have."""
RATES = "ai_requests=50/1h"


TEXTS = (COMPLETIONS, RESPONSES, MESSAGES, GENERATE, NATIVE, SOCKET)
EVERYWHERE = [
    *((path, False) for path in (COMPLETIONS, RESPONSES, MESSAGES, GENERATE, NATIVE)),
    *((path, True) for path in (COMPLETIONS, RESPONSES, MESSAGES, GENERATE, NATIVE, SOCKET)),
    *((path, False) for path in (EMBEDDINGS, MODERATIONS, COMPACT, GENERATIONS, TRANSCRIPTIONS, SPEECH, STORES)),
]
"""All but the chat, which the other tests are about. In Gemini's format a stream has a path of its own."""


def email_of(what: str, path: str, stream: bool) -> str:
    return f"{what}{re.sub('[^a-zA-Z0-9]', '-', path)}{stream}@corp.test"


async def crowd_at(
    sentinels: list[SentinelProcess],
    token: str,
    path: str,
    stream: bool,
    text: str = PROMPT,
    size: int = 70,
    **fields: Any,
) -> list[Answer]:
    """A smaller crowd, of requests of another kind."""
    if path not in (EMBEDDINGS, *OF_MEDIA, COMPACT, STORES):
        fields["stream"] = stream
    path = streaming(path, stream)
    body, kind = (asked(path, text, **fields), JSON) if path == SOCKET else encoded(path, text, **fields)
    return await crowd(sentinels, token, [body] * size, path, kind)


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> list[SentinelProcess]:
    """Four processes on one Redis, with a window of 50 requests."""
    return start_all(stack, 4, patient=True, RATE_LIMITS=RATES)


@pytest.fixture(scope="module")
def limited() -> Iterator[tuple[Stack, list[SentinelProcess]]]:
    """Two processes whose other dimensions are limited."""
    with Stack(RATE_LIMITS="ai_input_tokens=1000000/1h,ai_output_tokens=350/1h,concurrency=50") as stack:
        yield stack, start_all(stack, 2, patient=True)


@pytest.fixture(scope="module")
def narrow(stack: Stack) -> list[SentinelProcess]:
    """Two processes on the same Redis, with 20 slots."""
    return start_all(stack, 2, patient=True, RATE_LIMITS="concurrency=20")


def admitted(answers: list[Answer], stream: bool) -> int:
    """How many passed; every other one was a 429, and every one that passed is whole."""
    passed = [answer for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} <= {200, 429}
    for answer in passed:
        if stream:
            assert answer.events[-1] == "[DONE]"
        else:
            assert answer.json["usage"]["completion_tokens"] == OUTPUT
    return len(passed)


def passed_whole(answers: list[Answer], path: str, output: int = OUTPUT) -> int:
    """The same of any format."""
    passed = [answer for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} <= {200, 429}
    if path in TEXTS:
        assert {(len(said.text.split()), said.is_whole) for said in map(said_by, passed)} <= {(output, True)}
    return len(passed)


def billed(stack: Stack, answers: list[Answer]) -> int:
    """How many of these requests the provider has seen."""
    ids = {answer.headers["x-request-id"] for answer in answers}
    return sum(bill.request_id in ids for bill in list(stack.simulators.openai.billed))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("processes", [1, 2, 4])
async def test_a_window_of_50_admits_50_of_500(
    stack: Stack, fleet: list[SentinelProcess], processes: int, stream: bool
) -> None:
    """The provider sees 50 requests, Zion books 50, and the others are told when to come back."""
    email = f"window{processes}{stream}@corp.test"
    _, token = stack.user(email)
    answers = await crowd(fleet[:processes], token, [chat(PROMPT, stream=stream)] * CROWD)
    assert admitted(answers, stream) == billed(stack, answers) == 50
    assert stack.booked(50, email) == {
        "ai_requests": 50, "ai_input_tokens": 50 * PROMPT_TOKENS, "ai_output_tokens": 50 * OUTPUT,
    }  # fmt: skip
    for answer in answers:
        assert answer.headers["x-ratelimit-limit"] == "50"
        assert 0 <= int(answer.headers["x-ratelimit-remaining"]) < 50
        if answer.status == 429:
            assert answer.error["code"] == "rate_limit_exceeded"
            assert answer.error["details"]["metric"] == "ai_requests"
            assert 3500 < int(answer.headers["retry-after"]) <= 3661


@pytest.mark.parametrize(("path", "stream"), EVERYWHERE)
async def test_a_window_of_50_is_one_on_every_endpoint(
    stack: Stack, fleet: list[SentinelProcess], path: str, stream: bool
) -> None:
    """Whatever is asked for, over two processes: 50 pass, and Zion books what the provider bills for them."""
    email = email_of("window", path, stream)
    _, token = stack.user(email)
    answers = await crowd_at(fleet[:2], token, path, stream)
    assert passed_whole(answers, path) == 50
    booked = stack.booked(50, email)
    assert booked["ai_requests"] == 50
    ids = {answer.headers["x-request-id"] for answer in answers}
    bills = [bill for bill in list(stack.simulators.openai.billed) if bill.request_id in ids]
    assert len(bills) == (0 if path == STORES else 50)
    if path != SPEECH:
        # It tells no usage.
        assert booked["ai_input_tokens"] == sum(bill.prompt_tokens for bill in bills)
        assert booked["ai_output_tokens"] == sum(bill.completion_tokens for bill in bills)
    for answer in answers:
        if answer.status == 429:
            assert answer.error["code"] == "rate_limit_exceeded"
            assert 3500 < int(answer.headers["retry-after"]) <= 3661


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"ai_requests": 40}, 40),
        ({"ai_input_tokens": 40 * PROMPT_TOKENS + PROMPT_TOKENS - 1}, 40),
        ({"ai_output_tokens": 40 * OUTPUT}, 40),
        ({"ai_requests": 45, "ai_input_tokens": 30 * PROMPT_TOKENS, "ai_output_tokens": 35 * OUTPUT}, 30),
    ],
    ids=["requests", "input", "output", "mixed"],
)
async def test_a_quota_admits_what_it_has(
    stack: Stack, fleet: list[SentinelProcess], limits: dict[str, int | None], most: int, stream: bool
) -> None:
    """Over four processes, in each dimension; Zion's books end at the limit, not beyond."""
    email = f"quota{'-'.join(map(str, limits.values()))}{stream}@corp.test"
    _, token = stack.user(email, limits=limits)
    answers = await crowd(fleet, token, [chat(PROMPT, stream=stream, max_tokens=OUTPUT)] * CROWD)
    assert admitted(answers, stream) == billed(stack, answers) == most
    assert stack.booked(most, email) == {
        "ai_requests": most, "ai_input_tokens": most * PROMPT_TOKENS, "ai_output_tokens": most * OUTPUT,
    }  # fmt: skip
    for answer in answers:
        if answer.status == 429:
            assert answer.error["code"] == answer.error["type"] == "insufficient_quota"
            assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("path", "stream"), EVERYWHERE)
async def test_a_quota_is_one_on_every_endpoint(
    stack: Stack, fleet: list[SentinelProcess], path: str, stream: bool
) -> None:
    """Of requests, and where text is generated of output: what it has is admitted, over two processes."""
    email = email_of("quota", path, stream)
    limits = {"ai_output_tokens": 20 * LEAST} if path in TEXTS else {"ai_requests": 20}
    _, token = stack.user(email, limits=limits)
    fields = maximum(path, LEAST) if path in TEXTS else {}
    answers = await crowd_at(fleet[:2], token, path, stream, f"[[tokens={LEAST}]]", **fields)
    assert passed_whole(answers, path, LEAST) == 20
    booked = stack.booked(20, email)
    assert booked["ai_requests"] == 20
    if path in TEXTS:
        assert booked["ai_output_tokens"] == 20 * LEAST
    for answer in answers:
        if answer.status == 429:
            assert answer.error["code"] == "insufficient_quota"
            assert answer.headers["x-should-retry"] == "false"


async def test_a_refused_crowd_spends_nothing(stack: Stack, fleet: list[SentinelProcess]) -> None:
    """Refused for their input, 200 requests leave the whole window of requests to those that fit."""
    _, token = stack.user("refused@corp.test", limits={"ai_input_tokens": 1000})
    large: dict[str, Any] = chat("word " * 2000)
    assert {answer.status for answer in await crowd(fleet, token, [large] * 200)} == {429}
    answers = await crowd(fleet, token, [chat(PROMPT)] * 60)
    assert admitted(answers, stream=False) == 50


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_fifty_at_once_and_no_more(limited: tuple[Stack, list[SentinelProcess]], stream: bool) -> None:
    """While 50 requests are open all others are refused; when they end, their slots are there again."""
    stack, sentinels = limited
    _, token = stack.user(f"slots{stream}@corp.test")
    slow = chat("[[tokens=3 first_delay=3]]", stream=stream, max_tokens=3)
    answers = await crowd(sentinels, token, [slow] * CROWD)
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == CROWD - 50
    assert {(r.error["code"], r.error["details"]["metric"], r.headers["retry-after"]) for r in refused} == {
        ("rate_limit_exceeded", "concurrency", "1")
    }
    again = await crowd(sentinels, token, [chat("[[tokens=3]]", stream=stream, max_tokens=3)] * 20)
    assert {answer.status for answer in again} == {200}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_window_of_output_tokens_is_kept(limited: tuple[Stack, list[SentinelProcess]], stream: bool) -> None:
    """Of 350 tokens 500 requests get 350 in all: what they ask for in whole, the last one what is left."""
    stack, sentinels = limited
    email = f"output{stream}@corp.test"
    _, token = stack.user(email)
    answers = await crowd(sentinels, token, [chat("[[tokens=9]]", stream=stream, max_tokens=9)] * CROWD)
    passed = [answer for answer in answers if answer.status == 200]
    assert len(passed) == 39
    assert stack.booked(39, email)["ai_output_tokens"] == 350
    assert {a.error["details"]["metric"] for a in answers if a.status == 429} <= {"ai_output_tokens", "concurrency"}


A_FEW = [
    *((COMPLETIONS, False), (RESPONSES, True), (MESSAGES, True)),
    *((GENERATE, True), (NATIVE, False), (SOCKET, True)),
]


@pytest.mark.parametrize(("path", "stream"), A_FEW)
async def test_slots_are_some_on_every_endpoint(
    stack: Stack, narrow: list[SentinelProcess], path: str, stream: bool
) -> None:
    """While 20 requests are open, at two processes, the others of 40 are refused."""
    _, token = stack.user(email_of("slots", path, stream))
    answers = await crowd_at(narrow, token, path, stream, "[[tokens=3 first_delay=2]]", 40)
    assert passed_whole(answers, path, 3) == 20
    assert {a.error["details"]["metric"] for a in answers if a.status == 429} == {"concurrency"}


@pytest.mark.parametrize(("path", "stream"), A_FEW)
async def test_a_window_of_output_is_one_on_every_endpoint(
    limited: tuple[Stack, list[SentinelProcess]], path: str, stream: bool
) -> None:
    """Of 350 tokens, for 25 each, 14 get theirs."""
    stack, sentinels = limited
    email = email_of("output", path, stream)
    _, token = stack.user(email)
    answers = await crowd_at(sentinels, token, path, stream, "[[tokens=25]]", 30, **maximum(path, 25))
    assert passed_whole(answers, path, 25) == 14
    assert stack.booked(14, email)["ai_output_tokens"] == 350
