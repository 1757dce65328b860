"""The events of Anthropic's messages: metered, ended at a limit, and made of what came in one piece."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from sentinel.endpoints.message_stream import MessagesMeter, answer, ending, refusal
from sentinel.tokens.usage import Usage

START: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
USAGE = {"input_tokens": 10, "cache_read_input_tokens": 80, "output_tokens": 1}
STREAM: list[tuple[str, dict[str, Any]]] = [
    ("message_start", {"message": {**START, "stop_reason": None, "stop_sequence": None, "usage": USAGE}}),
    ("ping", {}),
    ("content_block_start", {"index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
    ("content_block_delta", {"index": 0, "delta": {"type": "thinking_delta", "thinking": " one"}}),
    ("content_block_delta", {"index": 0, "delta": {"type": "signature_delta", "signature": "abc"}}),
    ("content_block_stop", {"index": 0}),
    ("content_block_start", {"index": 1, "content_block": {"type": "text", "text": ""}}),
    ("content_block_delta", {"index": 1, "delta": {"type": "text_delta", "text": " two"}}),
    ("content_block_stop", {"index": 1}),
    ("content_block_start", {"index": 2, "content_block": {"type": "tool_use", "id": "t", "name": " f", "input": {}}}),
    ("content_block_delta", {"index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}}),
    ("content_block_stop", {"index": 2}),
    ("message_delta", {"delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 40}}),
    ("message_stop", {}),
]


def event(kind: str, fields: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


EVENTS = [event(*each) for each in STREAM]


def put_together(stream: bytes) -> Any:
    """The message that Anthropic's SDK makes of a stream."""
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    message: Any = None
    bufs: dict[int, bytes] = {}
    names = re.findall(rb"^event: (\w+)\n", stream, re.MULTILINE)
    data = re.findall(rb"^data: (.*)\n", stream, re.MULTILINE)
    assert len(names) == len(data) == stream.count(b"\n\n")
    for name, each in zip(names, data, strict=True):
        assert json.loads(each)["type"] == name.decode()
        if name != b"ping":
            message = accumulate_event(event=adapter.validate_json(each), current_snapshot=message, json_bufs=bufs)
    assert names[-1] == b"message_stop"
    return message


def metered(stream: bytes) -> MessagesMeter:
    meter = MessagesMeter("gpt-4o")
    meter.delivered(meter.feed(stream))
    meter.delivered(meter.rest())
    meter.count()
    return meter


def test_a_stream_is_metered() -> None:
    """Its last event is held back, whatever comes after it; text is counted, usage read from both places."""
    meter = metered(b"".join(EVENTS) + b"event: ping\ndata: {}\n\n")
    assert (meter.done, meter.count()) == (EVENTS[-1], 8)
    assert (meter.usage.prompt_tokens, meter.usage.output_tokens, meter.usage_is_final) == (90, 40, True)
    assert (meter.finish_reason, meter.is_broken, meter.lacks_end(), meter.malformed) == ("tool_use", False, False, 0)
    assert meter.has_finished(1)


def test_nothing_of_a_stream_is_withheld() -> None:
    """Usage is told without being asked for, and beside something else."""
    meter = MessagesMeter("gpt-4o")
    assert meter.feed(b"".join(EVENTS)) == b"".join(EVENTS[:-1])


@pytest.mark.parametrize("kept", range(len(EVENTS)))
def test_a_stream_without_its_last_event_is_cut(kept: int) -> None:
    """Wherever it ends. What is only begun has generated nothing."""
    meter = metered(b"".join(EVENTS[:kept]))
    assert (meter.lacks_end(), meter.generated) == (True, kept > 3)


@pytest.mark.parametrize(
    ("rest", "given", "broke_off"),
    [
        (b"", b"", False),
        (b"event: content_bl", b"", False),
        (b'event: ping\ndata: {"ty', b"", True),
        (b"event: ping\ndata: {}", b"event: ping\ndata: {}\n\n", False),
    ],
)
def test_an_event_that_has_not_ended_is_dropped_or_closed(rest: bytes, given: bytes, broke_off: bool) -> None:
    """An error of ours follows it, which must be an event of its own."""
    meter = MessagesMeter("gpt-4o")
    assert meter.feed(EVENTS[0] + rest) == EVENTS[0]
    assert (meter.rest(), meter.broke_off, meter.lacks_end()) == (given, broke_off, True)


def test_an_error_ends_a_stream() -> None:
    """It is not cut then."""
    meter = metered(EVENTS[0] + event("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}}))
    assert (meter.lacks_end(), meter.is_broken, meter.generated) == (False, True, False)


def test_a_text_that_speaks_of_the_last_event_is_text() -> None:
    """Only an event of that type is the last."""
    said = event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": '"type":"message_stop"'}})
    meter = metered(said + b"event: x\ndata: message_stop\n\n")
    assert (meter.is_done, meter.malformed) == (False, 1)


@pytest.mark.parametrize("kept", range(len(EVENTS)))
def test_the_end_at_a_limit_is_a_message_to_the_sdk(kept: int) -> None:
    """Wherever it comes: what is open is closed, and nothing else. The event that was too much has begun nothing."""
    meter = metered(b"".join(EVENTS[: kept + 1]))
    meter.end()
    stream = b"".join(EVENTS[:kept]) + ending(meter, Usage(90, 3))
    message = put_together(stream)
    finished = kept == 13
    assert message.stop_reason == ("tool_use" if finished else "max_tokens")
    assert message.usage.output_tokens == (40 if finished else 3)
    assert stream.count(b"event: content_block_start\n") == len(message.content)
    assert stream.count(b"event: content_block_stop\n") == len(message.content)
    if 0 < kept < 13:
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (10, 80)


def test_what_cannot_be_read_takes_nothing_back() -> None:
    """Where it is too much, the client has all that came before it."""
    meter = metered(b"".join(EVENTS[:3]) + b"data: {nonsense\n\n")
    assert meter.open == (-1, 0)
    stream = b"".join(EVENTS[:3]) + ending(meter, Usage(90, 3))
    assert put_together(stream).stop_reason == "max_tokens"


@pytest.mark.parametrize(("reason", "lacks"), [("end_turn", False), (None, True)])
def test_a_whole_message_needs_no_last_event(reason: str | None, lacks: bool) -> None:
    """It came instead of a stream; one that does not say why it ended is no whole one."""
    meter = metered(json.dumps({**START, "stop_reason": reason}).encode())
    assert (meter.lacks_end(), meter.open) == (lacks, ())


WHOLE = {
    **START,
    "content": [
        {"type": "thinking", "thinking": "one", "signature": "abc"},
        {"type": "text", "text": "two", "citations": None},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": [1]}},
        {"type": "redacted_thinking", "data": "abc"},
    ],
    "stop_reason": "stop_sequence",
    "stop_sequence": "END",
    "usage": {"input_tokens": 5, "output_tokens": 9},
}


def test_a_whole_message_as_a_stream() -> None:
    """The SDK makes the same message of it; text is in deltas, where applications look for it."""
    stream = answer(json.dumps(WHOLE).encode())
    message = put_together(stream).to_dict()
    assert {name: message[name] for name in WHOLE} == WHOLE
    assert stream.count(b"event: content_block_delta\n") == 4


def test_an_odd_message_as_a_stream() -> None:
    """Blocks of tomorrow, and those that lack what they should have."""
    content = [{"type": "of_tomorrow", "words": "a"}, {"type": "text"}, {"type": "tool_use", "name": "f"}]
    stream = answer(json.dumps({**START, "content": content}).encode())
    assert [
        json.loads(each)["content_block"] for each in re.findall(rb'data: (.*"content_block".*)\n', stream)
    ] == content
    assert b"delta" not in stream.replace(b"message_delta", b"").replace(b'"delta":{"stop_reason":null', b"")


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, b'{"type":"error","error":{"type":"a","message":"b"},"request_id":"r"}', "a", "b"),
        (400, b'{"error":{"type":"a","message":"b"}}', "a", "b"),
        (404, b'{"error":"b"}', "not_found_error", "b"),
        (413, b"much", "request_too_large", "much"),
        (429, b"slow", "rate_limit_error", "slow"),
        (422, b"", "invalid_request_error", "The model provider refused the request."),
        (529, b"busy", "api_error", "busy"),
    ],
)
def test_a_refusal_as_the_last_event(status: int, body: bytes, kind: str, message: str) -> None:
    """The provider's own error, or what it said in the shape of one."""
    name, data, *_ = refusal(status, body).split(b"\n")
    told = json.loads(data.removeprefix(b"data: "))
    assert (name, told["type"]) == (b"event: error", "error")
    assert (told["error"]["type"], told["error"]["message"]) == (kind, message)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"type":"error","error":{"type":"a","message":"b"}}', b'{"id":"x"}']
)
def test_what_is_no_message_is_an_error_to_the_client(body: bytes) -> None:
    """It cannot be said in events."""
    assert answer(body).startswith(b"event: error\n")
