"""What is read of answers in Anthropic's format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.tokens.loose import Kind, Reading, Text
from sentinel.tokens.message_answer import MESSAGE, read_message, read_message_event
from sentinel.tokens.usage import NOTHING, Usage, read_usage_beside_cache


def event(kind: str, **fields: Any) -> Reading:
    reading = read_message_event(json.dumps({"type": kind, **fields}).encode())
    assert reading is not None
    return reading


def delta(kind: str, **fields: Any) -> list[Text]:
    return event("content_block_delta", index=2, delta={"type": kind, **fields}).texts


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"type": "text_delta", "text": " a"}, [Text(0, Kind.CONTENT, 2, " a")]),
        ({"type": "thinking_delta", "thinking": " a"}, [Text(0, Kind.REASONING, 2, " a")]),
        ({"type": "thinking_delta", "thinking": " a", "estimated": None}, [Text(0, Kind.REASONING, 2, " a")]),
        ({"type": "input_json_delta", "partial_json": '{"a'}, [Text(0, Kind.ARGUMENTS, 2, '{"a')]),
        ({"type": "input_json_delta", "partial_json": {"a": 1}}, [Text(0, Kind.ARGUMENTS, 2, '{"a":1}')]),
        ({"type": "signature_delta", "signature": "abc"}, []),
        ({"type": "citations_delta", "citation": {"cited_text": "abc"}}, []),
        ({"type": "text_delta", "text": ""}, []),
        ({"type": "of_tomorrow", "words": " a"}, [Text(0, Kind.OTHER, 2, " a")]),
    ],
)
def test_deltas(fields: dict[str, Any], texts: list[Text]) -> None:
    """All that is generated, whatever its field; signatures and citations are not."""
    assert event("content_block_delta", index=2, delta=fields).texts == texts


def test_what_is_beside_a_delta_is_read() -> None:
    """A field of another type costs only itself."""
    reading = event("content_block_delta", index="x", delta={"text": " a"}, usage={"output_tokens": 7})
    assert (reading.texts, reading.usage.output_tokens) == ([Text(0, Kind.CONTENT, 0, " a")], 7)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"type": "text", "text": ""}, []),
        ({"type": "text", "text": "a"}, ["a"]),
        ({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}, ["f"]),
        ({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}, ["f", '{"a":1}']),
        ({"type": "redacted_thinking", "data": "abc"}, []),
        ({"type": "web_search_tool_result", "tool_use_id": "t", "content": [{"title": "a"}]}, []),
    ],
)
def test_a_block_may_begin_with_what_it_says(block: dict[str, Any], said: list[str]) -> None:
    """A tool's name is generated; what a server's tool has found is not."""
    begun = event("content_block_start", index=1, content_block=block)
    assert ([text.piece for text in begun.texts], begun.begun, begun.ended) == (said, (1,), ())
    whole = read_message(json.dumps({"content": [block]}).encode())
    assert whole is not None
    assert [text.piece for text in whole.texts] == said


def test_the_parts_of_a_stream() -> None:
    """They begin and end by their numbers, and the message itself has one."""
    start = event("message_start", message={"content": [], "usage": {"input_tokens": 5, "output_tokens": 3}})
    assert (start.begun, start.usage, start.is_generated) == ((MESSAGE,), Usage(5, adds_cache=True), False)
    assert event("content_block_stop", index=1).ended == (1,)
    last = event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 9})
    assert (last.finished, last.usage.output_tokens, last.texts) == ([(0, "end_turn")], 9, [])
    assert event("ping") == Reading()


@pytest.mark.parametrize("told", [{"type": "error", "error": {}}, {"error": {"message": "Overloaded"}}])
def test_errors(told: dict[str, Any]) -> None:
    """They are no text, in a stream and as a whole answer."""
    for read in (read_message_event, read_message):
        reading = read(json.dumps(told).encode())
        assert reading is not None
        assert (reading.failed, reading.is_generated) == (True, False)


@pytest.mark.parametrize(
    ("message", "texts", "reason"),
    [
        (
            {"content": [{"type": "text", "text": "a"}], "usage": {"output_tokens": 2}, "stop_reason": "end_turn"},
            0,
            "end_turn",
        ),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "stop_reason": ""}, 2, None),
        ({"content": "a"}, 1, None),
        ({"content": ""}, 0, None),
        ({"content": 5}, 0, None),
        ({"content": ["a", None]}, 0, None),
    ],
)
def test_whole_messages(message: dict[str, Any], texts: int, reason: str | None) -> None:
    """Their texts are read where usage does not tell the output."""
    reading = read_message(json.dumps(message).encode())
    assert reading is not None
    assert len(reading.texts) == texts
    assert [word for _, word in reading.finished] == ([reason] if reason else [])


@pytest.mark.parametrize("data", [b"", b"5", b"[]", b'"a"', b"<html>", b'{"delta":' + b'{"a":' * 100_000])
def test_what_is_no_object_is_none(data: bytes) -> None:
    """And what is nested too deeply."""
    assert read_message(data) is None
    assert read_message_event(data) is None


def test_what_is_nested_deeply_is_none() -> None:
    """It may be JSON, yet nobody can walk through it."""
    data = b'{"type":"content_block_delta","delta":{"words":' + b'{"a":' * 600 + b'"a"' + b"}" * 600 + b"}}"
    assert read_message_event(data) is None


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (
            {"input_tokens": 10, "cache_read_input_tokens": 80, "cache_creation_input_tokens": 10},
            Usage(100, 0, 0, 80, 10, 0, True),
        ),
        ({"input_tokens": 0, "cache_read_input_tokens": 80}, Usage(80, 0, 0, 80, 0, 0, True)),
        ({"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}, Usage(0, 9, 0, 0, 0, 4, True)),
        ({"input_tokens": "5", "output_tokens": -1, "cache_read_input_tokens": None}, NOTHING),
        ({}, NOTHING),
        (None, NOTHING),
    ],
)
def test_usage(told: Any, usage: Usage) -> None:
    """The input is the sum of three."""
    assert read_usage_beside_cache(told) == usage


def test_usage_in_pieces() -> None:
    """Each figure by itself, the larger one; zeros and absences tell nothing."""
    pieces = [
        {"input_tokens": 10, "output_tokens": 1},
        {"input_tokens": 0, "cache_read_input_tokens": 80, "output_tokens": 7},
        {"cache_creation_input_tokens": 5, "output_tokens": 3},
    ]
    usage = NOTHING
    for piece in pieces:
        usage = usage.merged(read_usage_beside_cache(piece))
    assert (usage.prompt_tokens, usage.output_tokens, usage.uncached_tokens) == (95, 7, 10)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "delta", "content_block", "message", "usage", "content", "index", "text", "input", "error"]
                ),
                x,
            )
        ),
    )
)
def test_nothing_raises(value: Any) -> None:
    """Whatever a provider sends."""
    for kind in ("message_start", "content_block_start", "content_block_delta", "message_delta", None):
        data = json.dumps({**value, "type": kind} if isinstance(value, dict) else value).encode()
        read_message_event(data)
        read_message(data)
