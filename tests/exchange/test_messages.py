"""Streams of Anthropic's messages as providers really send them: read, charged and ended as they should be.

Each test says what arrives, what must leave, and what is charged. About: `endpoints/message_stream.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.endpoints.messages import MESSAGES
from sentinel.error import UpstreamError
from tests.exchange.driver import KEEP_ALIVE_SECONDS, Client, Gate, Stage

ENDED = {"stop_reason": "end_turn", "stop_sequence": None}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def start(**usage: int) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    return event("message_start", message=message)


def text(word: str, index: int = 0) -> bytes:
    return event("content_block_delta", index=index, delta={"type": "text_delta", "text": f" {word}"})


BEGUN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
CLOSED = event("content_block_stop", index=0)
STOP = event("message_stop")
OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
WORDS = [text(word) for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")]


def client(**fields: Any) -> Client:
    """Of a model whose counts are exact, so that they can be told here."""
    return Client(stream=True, max_tokens=1000, **fields)


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


async def run(stage: Stage, asks: Client, *pieces: bytes | Exception | Gate, **provider: Any) -> tuple[int, int] | None:
    """Input and output tokens that an exchange was charged with, None = nothing at all."""
    stage.provider.pieces = list(pieces)
    for name, value in provider.items():
        setattr(stage.provider, name, value)
    await stage.exchange(asks, MESSAGES).run()
    records = await stage.settled()
    return next(((i, o) for _, i, o in records.values()), None)


def names(got: bytes) -> list[str]:
    return [name.decode() for name in re.findall(rb"^event: (\w+)", got, re.MULTILINE)]


async def test_every_byte_passes_wherever_it_is_cut(stage: Stage) -> None:
    """The last event with the rest, for the books are written before it."""
    pieces = [start(input_tokens=9, output_tokens=1), event("ping"), BEGUN, *WORDS, CLOSED]
    whole = b"".join([*pieces, event("message_delta", delta=ENDED, usage={"output_tokens": 12}), STOP])
    for size in (1, 7, 64, len(whole)):
        asks = client()
        cut = [whole[at : at + size] for at in range(0, len(whole), size)]
        await run(stage, asks, *cut)
        assert asks.got == whole
        assert (stage.ended[-1].input_tokens, stage.ended[-1].output_tokens) == (9, 12)
        assert stage.ended[-1].finish_reason == "end_turn"


async def test_usage_comes_in_pieces(stage: Stage) -> None:
    """10 beside 80 and 10 of the cache are 100; what the end does not repeat stays."""
    first = start(input_tokens=10, cache_read_input_tokens=80, cache_creation_input_tokens=10, output_tokens=1)
    last = event(
        "message_delta", delta=ENDED, usage={"output_tokens": 7, "output_tokens_details": {"thinking_tokens": 5}}
    )
    assert await run(stage, client(), first, BEGUN, WORDS[0], CLOSED, last, STOP) == (100, 7)
    assert (stage.ended[-1].cached_tokens, stage.ended[-1].reasoning_tokens) == (80, 5)


async def test_without_usage_our_counts_are_charged(stage: Stage) -> None:
    """Of the request, and of what was delivered in blocks of any kind."""
    tool = event("content_block_start", index=1, content_block={"type": "tool_use", "name": " f", "input": {}})
    part = event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": " a b"})
    thought = event("content_block_delta", index=2, delta={"type": "thinking_delta", "thinking": " a b c"})
    signed = event("content_block_delta", index=2, delta={"type": "signature_delta", "signature": "long " * 50})
    pieces = [start(), BEGUN, *WORDS, CLOSED, tool, part, thought, signed]
    charged = await run(stage, client(), *pieces, event("message_delta", delta=ENDED), STOP)
    assert charged == (9, 10 + 1 + 2 + 3)
    assert stage.ended[-1].tokens_from == "count"


@pytest.mark.parametrize("before", [[], [start(input_tokens=25, output_tokens=4)], [start(input_tokens=25), BEGUN]])
@pytest.mark.parametrize("end", [[OVERLOADED], [], [UpstreamError("x")]])
async def test_what_breaks_before_anything_is_generated_is_free(
    stage: Stage, before: list[bytes], end: list[bytes | Exception]
) -> None:
    """Also where the input has been told; the client gets one error, the provider's or ours."""
    asks = client()
    assert await run(stage, asks, *before, *end) is None
    assert names(asks.got)[-1:] == ["error"]
    assert names(asks.got).count("error") == 1
    assert stage.ended[-1].outcome == "broken"


@pytest.mark.parametrize(
    "end",
    [[OVERLOADED], [], [UpstreamError("x")], [b"event: content_bl"], [b"event: ping\ndata: {}"], [OVERLOADED[:-2]]],
)
async def test_what_breaks_later_costs_what_was_delivered(stage: Stage, end: list[bytes | Exception]) -> None:
    """No end is forged."""
    asks = client()
    assert await run(stage, asks, start(input_tokens=25, output_tokens=4), BEGUN, *WORDS[:3], *end) == (25, 3)
    *_, last, nothing = asks.got.split(b"\n\n")
    name, data = last.split(b"\n")
    assert (name, nothing, json.loads(data.removeprefix(b"data: "))["type"]) == (b"event: error", b"", "error")
    assert names(asks.got).count("error") == 1
    assert b"message_stop" not in asks.got


async def test_usage_without_the_last_event_is_no_end(stage: Stage) -> None:
    """The stream broke off, and what was told is charged."""
    asks, last = client(), event("message_delta", delta=ENDED, usage={"output_tokens": 12})
    assert await run(stage, asks, start(input_tokens=25), BEGUN, WORDS[0], CLOSED, last) == (25, 12)
    assert names(asks.got)[-1] == "error"


async def test_a_limit_ends_a_stream(stage: Stage) -> None:
    """Its open block is closed, and only what was delivered is charged."""
    await stage.limit(6)
    asks = client()
    assert await run(stage, asks, start(input_tokens=25), BEGUN, *WORDS, CLOSED, STOP) == (25, 6)
    assert names(asks.got)[-4:] == ["content_block_delta", "content_block_stop", "message_delta", "message_stop"]
    assert b'"stop_reason":"max_tokens"' in asks.got
    assert b'"output_tokens":6' in asks.got
    assert stage.ended[-1].outcome == "limit"


async def test_a_block_that_does_not_fit_was_never_begun(stage: Stage) -> None:
    """So it is not closed: to the SDK it would be one that is not there."""
    await stage.limit(2)
    tool = event(
        "content_block_start", index=1, content_block={"type": "tool_use", "name": " one two three", "input": {}}
    )
    asks = client()
    assert await run(stage, asks, start(input_tokens=25), BEGUN, *WORDS[:2], CLOSED, tool, STOP) == (25, 2)
    assert names(asks.got)[-4:] == ["content_block_delta", "content_block_stop", "message_delta", "message_stop"]
    assert asks.got.count(b"event: content_block_stop") == 1


async def test_a_whole_message_for_who_was_told_to_expect_a_stream(stage: Stage) -> None:
    """A comment kept it waiting; the SDK finds the message in events."""
    body = {"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn"}
    gate = stage.provider.gate = Gate()
    asks = client(slow=False)
    stage.provider.header_lines = b"content-type: application/json\r\n"
    stage.provider.body = json.dumps({**body, "usage": {"input_tokens": 5, "output_tokens": 1}}).encode()
    task = stage.tasks.start(stage.exchange(asks, MESSAGES).run(), "exchange")
    await gate.reached.wait()
    for now in (monotonic(), monotonic() + KEEP_ALIVE_SECONDS):
        stage.keepalive.look(list(stage.keepalive.open), now)
    gate.opened.set()
    await task
    assert next(iter((await stage.settled()).values())) == (1, 5, 1)
    assert asks.got.startswith(b": keep-alive")
    assert names(asks.got) == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
