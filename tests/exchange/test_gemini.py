"""Streams of Gemini as providers really send them: read, charged and ended as they should be.

Each test says what arrives, what must leave, and what is charged. About: `endpoints/gemini_stream.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.endpoints.generate_content import StreamGenerateContentEndpoint
from sentinel.error import UpstreamError
from sentinel.proxy.array_client import ArrayClientSide
from sentinel.proxy.client import ClientSide
from tests.exchange.driver import KEEP_ALIVE_SECONDS, Client, Gate, Stage

EVENTS = StreamGenerateContentEndpoint("v1beta", "models/gpt-4o-mini", b"alt=sse")
ARRAY = StreamGenerateContentEndpoint("v1beta", "models/gpt-4o-mini")
CONTENTS = [{"parts": [{"text": "Say hello"}]}]


def client(*, array: bool = False, **fields: Any) -> Client:
    return Client(side=ArrayClientSide if array else ClientSide, contents=CONTENTS, **fields)


def answer(*words: str, reason: str | None = None, usage: tuple[int, int] | None = None) -> dict[str, Any]:
    ended = {} if reason is None else {"finishReason": reason}
    told = {} if usage is None else {"promptTokenCount": usage[0], "candidatesTokenCount": usage[1]}
    parts = [{"text": f" {word}"} for word in words]
    return {"candidates": [{"content": {"parts": parts}, **ended}], "responseId": "r", "usageMetadata": told}


def event(*words: str, **more: Any) -> bytes:
    return b"data: " + json.dumps(answer(*words, **more)).encode() + b"\n\n"


ERROR = b'data: {"error":{"code":503,"message":"Overloaded","status":"UNAVAILABLE"}}\n\n'
_SAID = ("one", "two", "three", "four", "five", "six", "seven", "eight")
WORDS = [event(word, usage=(9, number)) for number, word in enumerate(_SAID, 1)]
LAST = event("nine", reason="STOP", usage=(9, 12))


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


async def run(
    stage: Stage, asks: Client, *pieces: bytes | Exception | Gate, endpoint: StreamGenerateContentEndpoint = EVENTS
) -> tuple[int, int] | None:
    """Input and output tokens that an exchange was charged with, None = nothing at all."""
    stage.provider.pieces = list(pieces)
    await stage.exchange(asks, endpoint).run()
    records = await stage.settled()
    return next(((i, o) for _, i, o in records.values()), None)


def told(got: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(b"data: ")) for line in got.split(b"\n") if line.startswith(b"data: ")]


async def test_every_byte_passes_wherever_it_is_cut(stage: Stage) -> None:
    """The last event with the rest, for the books are written before it."""
    whole = b"".join([*WORDS, LAST])
    for size in (1, 7, 64, len(whole)):
        asks = client()
        await run(stage, asks, *(whole[at : at + size] for at in range(0, len(whole), size)))
        assert asks.got == whole
        assert (stage.ended[-1].input_tokens, stage.ended[-1].output_tokens) == (9, 12)
        assert stage.ended[-1].finish_reason == "STOP"


async def test_the_last_event_waits(stage: Stage) -> None:
    """Until the provider's stream has ended, and its usage is durable; no other does."""
    asks, gate = client(), Gate()
    stage.provider.pieces = [WORDS[0], LAST, gate]
    task = stage.tasks.start(stage.exchange(asks, EVENTS).run(), "exchange")
    await gate.reached.wait()
    assert (asks.got, asks.complete) == (WORDS[0], False)
    gate.opened.set()
    await task
    assert (asks.got, asks.watched_to_the_end) == (WORDS[0] + LAST, False)


@pytest.mark.parametrize("before", [[], [event(usage=(25, 0))]])
@pytest.mark.parametrize("end", [[ERROR], [], [UpstreamError("x")]])
async def test_what_breaks_before_anything_is_generated_is_free(
    stage: Stage, before: list[bytes], end: list[bytes | Exception]
) -> None:
    """Also where the input has been told; the client gets one error, the provider's or ours."""
    asks = client()
    assert await run(stage, asks, *before, *end) is None
    assert ["error" in each for each in told(asks.got)].count(True) == 1
    assert "error" in told(asks.got)[-1]
    assert stage.ended[-1].outcome == "broken"


@pytest.mark.parametrize("end", [[ERROR], [], [UpstreamError("x")], [LAST[:20]], [WORDS[3][:-2]]])
async def test_what_breaks_later_costs_what_was_delivered(stage: Stage, end: list[bytes | Exception]) -> None:
    """No end is forged."""
    asks = client()
    charged = await run(stage, asks, *WORDS[:3], *end)
    assert charged == (9, 4 if end == [WORDS[3][:-2]] else 3)
    assert "error" in told(asks.got)[-1]
    assert b"finishReason" not in asks.got


async def test_what_breaks_after_the_last_event_is_told(stage: Stage) -> None:
    """The client has had what was held, and pays for what the provider tells."""
    asks = client()
    assert await run(stage, asks, WORDS[0], LAST, UpstreamError("x")) == (9, 12)
    assert "error" in told(asks.got)[-1]


async def test_a_limit_ends_a_stream(stage: Stage) -> None:
    """Only what was delivered is charged."""
    await stage.limit(6)
    asks = client()
    assert await run(stage, asks, *WORDS, LAST) == (9, 6)
    assert told(asks.got)[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert len(told(asks.got)) == 7
    assert stage.ended[-1].outcome == "limit"


async def test_a_limit_may_be_in_the_last_event(stage: Stage) -> None:
    """The client gets another one in its place."""
    await stage.limit(2)
    asks = client()
    assert await run(stage, asks, *WORDS[:2], LAST) == (9, 2)
    *_, last = told(asks.got)
    assert (last["candidates"][0]["finishReason"], b"nine" in asks.got) == ("MAX_TOKENS", False)
    assert last["usageMetadata"] == {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11}


async def test_an_array_is_ended_at_a_limit(stage: Stage) -> None:
    """As valid JSON."""
    await stage.limit(3)
    stage.provider.header_lines = b"content-type: application/json\r\n"
    items = [answer(word) for word in ("one", "two", "three", "four", "five")]
    array = json.dumps(items, indent=1).encode()
    for size in (9, len(array)):
        asks = client(array=True)
        await stage.limit(3)
        pieces = [array[at : at + size] for at in range(0, len(array), size)]
        await run(stage, asks, *pieces, endpoint=ARRAY)
        *got, last = json.loads(asks.got)
        assert got[: len(items)] == items[: len(got)]
        assert last["candidates"][0]["finishReason"] == "MAX_TOKENS"
        break


async def test_the_end_of_an_array_is_an_error_where_it_broke(stage: Stage) -> None:
    """And valid JSON, too."""
    asks = client(array=True)
    stage.provider.header_lines = b"content-type: application/json\r\n"
    array = json.dumps([answer("one"), answer("two")]).encode()
    charged = await run(stage, asks, array[:-1], UpstreamError("x"), endpoint=ARRAY)
    assert charged is not None
    assert charged[1] == 2
    one, two, last = json.loads(asks.got)
    assert ([one, two], last["error"]["status"]) == ([answer("one"), answer("two")], "UNAVAILABLE")


@pytest.mark.parametrize("array", [False, True])
async def test_a_whole_answer_for_who_was_told_to_expect_a_stream(stage: Stage, array: bool) -> None:
    """A blank line kept it waiting, for Google's SDK takes a comment for data."""
    gate = stage.provider.gate = Gate()
    asks = client(array=array, slow=False)
    stage.provider.header_lines = b"content-type: application/json\r\n"
    stage.provider.body = json.dumps(answer("hi", reason="STOP", usage=(5, 1))).encode()
    exchange = stage.exchange(asks, ARRAY if array else EVENTS)
    task = stage.tasks.start(exchange.run(), "exchange")
    await gate.reached.wait()
    for now in (monotonic(), monotonic() + KEEP_ALIVE_SECONDS):
        stage.keepalive.look(list(stage.keepalive.open), now)
    assert asks.got == b"\n"
    gate.opened.set()
    await task
    assert next(iter((await stage.settled()).values())) == (1, 5, 1)
    items = json.loads(asks.got) if array else told(asks.got)
    assert items == [answer("hi", reason="STOP", usage=(5, 1))]
