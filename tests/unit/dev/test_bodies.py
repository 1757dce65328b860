"""OpenAI's JSON and events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from sentinel.dev.bodies import Envelope, cut_in_two, events, usage, usage_event, whole
from sentinel.dev.directive import NONE, Directive
from sentinel.dev.reply import call_tool, encoding_of, say

CHAT = Envelope(
    "chatcmpl-0123456789abcdef01234567", "gpt-4o", 1_760_000_000, chat=True, logprobs=False, include_usage=False
)
TEXT = replace(CHAT, id="cmpl-1", chat=False)
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}


def chunks(*args: Any) -> list[Any]:
    return [msgspec.json.decode(event.data.removeprefix(b"data: ")) for event in events(*args)]


def test_a_whole_chat_answer_has_every_field() -> None:
    """The fields that OpenAI sends are all there, those that clients forget included."""
    reply = say(NONE, 0, None)
    body = msgspec.json.decode(whole(CHAT, [reply], usage(10, 13)))
    assert list(body) == ["id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "usage"]
    (choice,) = body["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert body["usage"]["total_tokens"] == 23
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_usage_can_be_left_out() -> None:
    """An answer without usage has no such field."""
    assert "usage" not in msgspec.json.decode(whole(CHAT, [say(NONE, 0, None)], None))


def test_the_chunks_of_a_chat() -> None:
    """Role first, then a word each, then the reason; `usage: null` only if usage was asked for."""
    first, *middle, last = chunks(CHAT, [say(NONE, 0, None)], NONE)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [chunk["choices"][0]["delta"] for chunk in middle[:2]] == [{"content": "Hello"}, {"content": "!"}]
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert all("usage" not in chunk for chunk in (first, *middle, last))
    asked = replace(CHAT, include_usage=True)
    assert all(chunk["usage"] is None for chunk in chunks(asked, [say(NONE, 0, None)], NONE))
    final = msgspec.json.decode(usage_event(asked, usage(1, 2)).removeprefix(b"data: "))
    assert (final["choices"], final["usage"]["total_tokens"]) == ([], 3)


def test_choices_take_turns() -> None:
    """Chunks of several choices are interleaved."""
    replies = [say(Directive(tokens=2), 0, None), say(Directive(tokens=2), 1, None)]
    indexes = [chunk["choices"][0]["index"] for chunk in chunks(CHAT, replies, NONE)]
    assert indexes == [0, 1] * 4


def test_a_streamed_tool_call() -> None:
    """Id and name come first, the arguments in fragments that join to the whole."""
    reply = call_tool(encoding_of("gpt-4o"), TOOL, None)
    _, opening, *fragments, last = chunks(CHAT, [reply], NONE)
    (call,) = opening["choices"][0]["delta"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert (call["index"], call["type"], call["function"]) == (0, "function", {"name": "f", "arguments": ""})
    texts = [chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for chunk in fragments]
    assert len(texts) > 2
    assert "".join(texts) == '{"a":"Paris"}' == reply.text
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    whole_call = msgspec.json.decode(whole(CHAT, [reply], None))["choices"][0]["message"]["tool_calls"][0]
    assert (whole_call["id"], whole_call["function"]["arguments"]) == (call["id"], reply.text)


def test_legacy_completions() -> None:
    """Text instead of messages and deltas."""
    reply = say(Directive(tokens=3), 0, None)
    body = msgspec.json.decode(whole(TEXT, [reply], None))
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", " The river bends")
    *words, last = chunks(TEXT, [reply], NONE)
    assert [chunk["choices"][0]["text"] for chunk in words] == [" The", " river", " bends"]
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("", "stop")


def test_logprobs() -> None:
    """Asked-for log probabilities come with each token."""
    asked = replace(CHAT, logprobs=True)
    body = msgspec.json.decode(whole(asked, [say(NONE, 0, None)], None))
    assert [entry["token"] for entry in body["choices"][0]["logprobs"]["content"]][:2] == ["Hello", "!"]
    assert chunks(asked, [say(NONE, 0, None)], NONE)[1]["choices"][0]["logprobs"]["content"][0]["bytes"] == [*b"Hello"]


def test_interludes_cost_nothing() -> None:
    """A padded event and a malformed line carry no tokens and change no text."""
    orders = Directive(tokens=4, big_event=70_000, bad_line=True)
    plain, odd = ([*events(CHAT, [say(orders, 0, None)], d)] for d in (NONE, orders))
    assert sum(event.tokens for event in odd) == sum(event.tokens for event in plain) == 4
    extra = [event for event in odd if event.data not in {same.data for same in plain}]
    assert len(extra) == 2
    assert len(extra[0].data) > 70_000
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(extra[1].data.removeprefix(b"data: "))


def test_where_events_are_cut() -> None:
    """Inside the line, or inside a character; an event without such a character is not cut."""
    assert 0 < cut_in_two(b"data: {}\n\n", "line") < 8
    data = "data: né\n\n".encode()
    with pytest.raises(UnicodeDecodeError):
        data[: cut_in_two(data, "utf8")].decode()
    assert cut_in_two(b"data: {}\n\n", "utf8") == 0
