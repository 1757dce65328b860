"""Answers in a content coding that we did not ask for: read, billed and passed on as what they are without it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest

from sentinel.dev.accounts import SimUser
from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post
from tests.unit.proxy.test_content_coding import ENCODERS

USAGE = {"prompt_tokens": 21, "completion_tokens": 17, "total_tokens": 38}
WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"content": "one two"}, "finish_reason": "stop"}], "usage": USAGE}
).encode()
WORDS = [
    b"data: " + json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": word}}]}).encode() + b"\n\n"
    for word in (" one", " two")
]
DONE = b"data: [DONE]\n\n"
STREAM = b"".join(WORDS) + b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n" + DONE

number = itertools.count()
coded = pytest.mark.parametrize(("coding", "encode"), ENCODERS.values(), ids=ENCODERS)


def booked(stack: Stack, user: SimUser) -> tuple[int, int]:
    """Input and output tokens of the one request that was booked."""
    used = stack.booked(1, user.email)
    return used["ai_input_tokens"], used["ai_output_tokens"]


@pytest.fixture(scope="module")
def sentinel(stack: Stack, provider: ScriptedProvider) -> SentinelProcess:
    return stack.sentinel(OPENAI_API_URL=provider.url)


@coded
def test_a_whole_answer(
    stack: Stack, provider: ScriptedProvider, sentinel: SentinelProcess, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    """The client, which asked for none either, gets it without the coding."""
    user, token = stack.user(f"whole-{next(number)}@corp.test")
    provider.says(encode(WHOLE), headers=[("content-encoding", coding)])
    answer = post(sentinel, token, chat())
    assert (answer.status, answer.body) == (200, WHOLE)
    assert "content-encoding" not in answer.headers
    assert booked(stack, user) == (21, 17)


@coded
def test_a_stream(
    stack: Stack, provider: ScriptedProvider, sentinel: SentinelProcess, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    """However it is cut."""
    user, token = stack.user(f"stream-{next(number)}@corp.test")
    whole = encode(STREAM)
    provider.streams(*(whole[at : at + 7] for at in range(0, len(whole), 7)), headers=[("content-encoding", coding)])
    answer = post(sentinel, token, chat(stream=True))
    assert (answer.status, answer.body) == (200, b"".join(WORDS) + DONE)
    assert "content-encoding" not in answer.headers
    assert booked(stack, user) == (21, 17)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("coding", ["gzip", "zstd", "foo"])
def test_one_that_cannot_be_read(
    stack: Stack, provider: ScriptedProvider, sentinel: SentinelProcess, coding: str, stream: bool
) -> None:
    """A broken answer, and free."""
    user, token = stack.user(f"broken-{next(number)}@corp.test")
    (provider.streams if stream else provider.says)(b"no such thing", headers=[("content-encoding", coding)])
    answer = post(sentinel, token, chat(stream=stream))
    # A stream has begun by then, unless its coding is unknown.
    assert answer.status == (200 if stream and coding != "foo" else 502)
    assert b'"upstream_error"' in answer.body
    assert DONE not in answer.body
    # Another request of the same user comes behind it.
    provider.says(WHOLE)
    assert post(sentinel, token, chat()).status == 200
    assert booked(stack, user) == (21, 17)
