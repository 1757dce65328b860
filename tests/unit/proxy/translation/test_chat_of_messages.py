"""Answers in Anthropic's format for clients that speak chat; `proxy/translation/chat_events.py`, too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from sentinel.error import UpstreamError
from sentinel.proxy.translation.chat_of_messages import ChatOfMessages, answer
from tests.support.transcripts import MESSAGE_CALL, MESSAGE_TEXT, MESSAGES
from tests.support.translations import assert_same_however_cut, chunks_of, completion_of, told

BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": " three", "signature": "AbC="},
    {"type": "redacted_thinking", "data": "xyz"},
    {"type": "text", "text": " one"},
    {"type": "text", "text": " two", "citations": None},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"a": 1}, "caller": {"type": "direct"}},
    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
    {"type": "unheard_of"},
]
USAGE = {
    "input_tokens": 1, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 40,
    "output_tokens_details": {"thinking_tokens": 30},
}  # fmt: skip


def message(content: Any, reason: str | None = "end_turn", **fields: Any) -> bytes:
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": content}
    return json.dumps({**whole, "stop_reason": reason, "stop_sequence": None, "usage": USAGE, **fields}).encode()


def translated(body: bytes) -> ChatCompletion:
    """What OpenAI's SDK reads."""
    return ChatCompletion.model_validate_json(answer(200, body, 5), strict=True)


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def test_a_whole_message() -> None:
    """Texts, thoughts, calls and usage each where clients of chat look for them."""
    completion = translated(message(BLOCKS, "tool_use"))
    assert (completion.id, completion.created, completion.model) == ("msg_1", 5, "claude")
    said = completion.choices[0].message
    assert said.content == " one two"
    assert said.model_extra == {"reasoning_content": " three", "thinking_blocks": BLOCKS[:2]}
    calls = [call for call in said.tool_calls or [] if call.type == "function"]
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("toolu_1", "weather", '{"a":1}'),
        ("toolu_2", "weather", "{}"),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (31, 40, 71)
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens_details.cache_write_tokens) == (20, 10)
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 30


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), (None, "stop"), ("new", "stop"),
        ("max_tokens", "length"), ("model_context_window_exceeded", "length"), ("refusal", "content_filter"),
    ],
)  # fmt: skip
def test_why_it_ended(reason: str | None, expected: str) -> None:
    """In chat's words."""
    completion = translated(message([{"type": "text", "text": "one"}], reason))
    assert completion.choices[0].finish_reason == expected
    assert completion.choices[0].message.tool_calls is None


@pytest.mark.parametrize(("content", "expected"), [([], ""), ([5], ""), ([BLOCKS[4]], None)])
def test_a_message_without_text(content: Any, expected: str | None) -> None:
    """None where there are calls, as at OpenAI."""
    assert translated(message(content)).choices[0].message.content == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (429, "rate_limit_error"), (529, "server_error")],
)
def test_an_error(status: int, kind: str) -> None:
    """In OpenAI's shape, with the provider's words."""
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}'
    error = {"message": "Overloaded", "type": kind, "param": None, "code": None}
    assert json.loads(answer(status, body, 5)) == {"error": error}


def test_an_error_that_is_no_json() -> None:
    """Its text is the message."""
    assert json.loads(answer(400, b"nonsense", 5))["error"]["message"] == "nonsense"


def test_an_error_inside_of_a_success() -> None:
    """Stays an error."""
    assert "error" in json.loads(answer(200, b'{"type":"error","error":{"message":"no"}}', 5))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"content":"one"}'])
def test_what_cannot_be_read_is_the_providers_failure(body: bytes) -> None:
    """Nothing is made up."""
    with pytest.raises(UpstreamError):
        answer(200, body, 5)


@pytest.mark.parametrize("transcript", MESSAGES)
def test_a_stream(transcript: Any) -> None:
    """OpenAI's SDK puts the same message together, with usage at the end."""
    stream = told(ChatOfMessages(5, wants_usage=True), b"".join(transcript.data()))
    completion = completion_of(stream)
    assert completion.choices[0].message.content == " one two"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == transcript.usage
    assert [chunk.usage for chunk in chunks_of(stream)[:-1]] == [None] * (len(chunks_of(stream)) - 1)


def test_a_stream_with_thoughts_and_calls() -> None:
    """Thoughts as they come, and once more signed; a call begins with its name."""
    completion = completion_of(told(ChatOfMessages(5, wants_usage=False), b"".join(MESSAGE_CALL.data())))
    said = completion.choices[0].message
    assert said.model_extra is not None
    assert said.model_extra["reasoning_content"] == " three"
    assert said.model_extra["thinking_blocks"] == [BLOCKS[0]]
    call = (said.tool_calls or [])[0]
    assert call.type == "function"
    assert (call.id, call.function.name, call.function.arguments) == ("toolu_1", "weather", " four")
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage is None


def test_usage_is_told_only_to_who_asked() -> None:
    """Then with no choice beside it, in the last chunk."""
    stream = b"".join(MESSAGE_TEXT.data())
    assert b'"usage"' not in told(ChatOfMessages(5, wants_usage=False), stream)
    assert chunks_of(told(ChatOfMessages(5, wants_usage=True), stream))[-1].choices == []


@pytest.mark.parametrize("transcript", MESSAGES)
def test_a_stream_is_the_same_however_it_is_cut(transcript: Any) -> None:
    """At any byte."""
    assert_same_however_cut(lambda: ChatOfMessages(5, wants_usage=True), b"".join(transcript.data()))


def test_calls_in_parallel_have_numbers_of_their_own() -> None:
    """Blocks of text are not counted; arguments may be none, or all there from the beginning."""
    begun = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    stream = b"".join(
        [
            event("message_start", message={"id": "m", "model": "c"}),
            event("content_block_start", index=0, content_block={"type": "text", "text": "hi"}),
            event("content_block_stop", index=0),
            event("content_block_start", index=1, content_block=begun),
            event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": ""}),
            event("content_block_stop", index=1),
            event("content_block_start", index=2, content_block={**begun, "id": "b", "input": {"x": 1}}),
            event("content_block_stop", index=2),
            event("content_block_start", index=3, content_block={**begun, "id": "c"}),
            event("content_block_delta", index=3, delta={"type": "input_json_delta", "partial_json": '{"y":2}'}),
            event("content_block_stop", index=3),
            event("content_block_start", index=4, content_block={"type": "redacted_thinking", "data": "z"}),
            event("content_block_stop", index=4),
            event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 3}),
            event("message_delta", delta=None),
            event("message_stop"),
        ]
    )
    completion = completion_of(told(ChatOfMessages(5, wants_usage=True), stream))
    calls = completion.choices[0].message.tool_calls or []
    assert [(call.id, call.function.arguments) for call in calls if call.type == "function"] == [
        ("a", "{}"), ("b", '{"x":1}'), ("c", '{"y":2}'),
    ]  # fmt: skip
    assert completion.choices[0].message.content == "hi"
    assert (completion.choices[0].message.model_extra or {})["thinking_blocks"] == [
        {"type": "redacted_thinking", "data": "z"}
    ]


def test_a_stream_that_does_not_say_why_it_ended() -> None:
    """It has ended by itself."""
    completion = completion_of(told(ChatOfMessages(5, wants_usage=False), event("message_stop")))
    assert completion.choices[0].finish_reason == "stop"


def test_a_stream_without_its_last_event_but_with_its_reason_is_whole() -> None:
    """Nothing is missing of the answer."""
    translator = ChatOfMessages(5, wants_usage=False)
    out = translator.feed(b"".join(MESSAGE_TEXT.data()[:-1]))
    assert not translator.ended
    assert completion_of(out + translator.end()).choices[0].finish_reason == "stop"


def test_a_stream_that_is_cut_at_a_limit() -> None:
    """Ends cleanly, with the usage so far."""
    translator = ChatOfMessages(5, wants_usage=True)
    completion = completion_of(translator.feed(b"".join(MESSAGE_TEXT.data()[:4])) + translator.cut())
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].message.content == " one"
    assert completion.usage is not None


def test_an_error_midway() -> None:
    """OpenAI's SDK raises on it; no `[DONE]` follows."""
    translator = ChatOfMessages(5, wants_usage=True)
    translator.feed(b"".join(MESSAGE_TEXT.data()[:4]))
    out = translator.feed(event("error", error={"type": "overloaded_error", "message": "Overloaded"}))
    error = {"message": "Overloaded", "type": "server_error", "param": None, "code": None}
    assert json.loads(out.removeprefix(b"data: ")) == {"error": error}
    assert translator.end() == b""


def test_events_of_other_shapes_say_nothing() -> None:
    """A broken event costs itself alone."""
    translator = ChatOfMessages(5, wants_usage=True)
    for fields in (
        {"type": "message_start", "message": 1},
        {"type": "content_block_start", "index": "0", "content_block": {}},
        {"type": "content_block_delta", "index": 0, "delta": 1},
        {"type": "content_block_delta", "index": 0, "delta": {"partial_json": "{}"}},
        {"type": "content_block_stop", "index": 7},
        {"type": "unheard_of"},
    ):
        assert translator.feed(f"data: {json.dumps(fields)}\n\n".encode()) == b""
