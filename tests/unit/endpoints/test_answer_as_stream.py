"""A provider's answer in one piece, told as events."""

from __future__ import annotations

import json

import pytest

from sentinel.endpoints import answer_as_stream

DONE = b"data: [DONE]\n\n"


def test_a_whole_chat_answer_is_a_chunk() -> None:
    """`message` becomes `delta`, and calls of tools get the index by which SDKs put them together; all else stays."""
    body = b"""{
      "object": "chat.completion", "created": 1.50, "new": [1e400],
      "choices": [
        {"index": 0, "message": {"content": null, "tool_calls": [{"id": "a"}, {"id": "b", "index": 7}]}, "x": 1.0},
        {"index": 1, "message": {"content": "hi", "tool_calls": null}},
        {"index": 2, "text": "legacy"}
      ]
    }"""
    assert (
        answer_as_stream.answer(body)
        == (
            b'data: {"object":"chat.completion.chunk","created":1.50,"new":[1e400],"choices":['
            b'{"index":0,"delta":{"content":null,"tool_calls":[{"index":0,"id":"a"},{"index":7,"id":"b"}]},"x":1.0},'
            b'{"index":1,"delta":{"content":"hi","tool_calls":null}},'
            b'{"index":2,"text":"legacy"}]}\n\n'
        )
        + DONE
    )


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"object": "text_completion", "choices": []}', b'{"object":"text_completion","choices":[]}'),
        (b'{"choices": 5}', b'{"choices":5}'),
        (b'{"choices": [{"message": "x"}]}', b'{"choices":[{"message":"x"}]}'),
        (b'{"choices": [{"message": {"tool_calls": "x"}}]}', b'{"choices":[{"message":{"tool_calls":"x"}}]}'),
        (b"[]", b"[]"),
        (b'\xef\xbb\xbf{"choices": []}', b'{"choices":[]}'),
    ],
)
def test_what_has_another_shape_stays_as_it_is(body: bytes, told: bytes) -> None:
    """But for the line ends and blanks between its parts."""
    assert answer_as_stream.answer(body) == b"data: " + told + b"\n\n" + DONE


def test_an_error_inside_a_200_has_no_end() -> None:
    """As an error event of a stream."""
    assert answer_as_stream.answer(b'{"error": {"message": "x"}}') == b'data: {"error":{"message":"x"}}\n\n'
    assert answer_as_stream.answer(b'{"error": null, "choices": []}') == b'data: {"error":null,"choices":[]}\n\n' + DONE


def test_what_is_no_json_keeps_its_lines() -> None:
    """NaN is no JSON, and SDKs read it."""
    assert answer_as_stream.answer(b'{"a":\r\nNaN}') == b'data: {"a":\ndata: NaN}\n\n' + DONE


@pytest.mark.parametrize("body", [b'{"error": null, "detail": "x"}', b'{"detail": "x"}', b"x\xff", b"[" * 100_000, b""])
def test_a_refusal_without_an_error_gets_one(body: bytes) -> None:
    """SDKs raise for an event with `error` alone; what was said is its message, up to a length."""
    event = answer_as_stream.refusal(418, body)
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    error = json.loads(event[6:])["error"]
    assert error["message"]
    assert len(error["message"]) <= 1000
    assert (error["type"], error["details"]) == ("invalid_request_error", {"status": 418})


def test_a_refusal_passes_as_it_is() -> None:
    """On one line."""
    assert answer_as_stream.refusal(400, b'{\r\n "error":\n {"n": 1.50}}\n') == b'data: {"error":{"n":1.50}}\n\n'
