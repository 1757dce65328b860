"""Answers in chat's format for clients that speak Anthropic's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message

from sentinel.error import UpstreamError
from sentinel.proxy.translation.messages_of_chat import MessagesOfChat, answer
from tests.support.transcripts import ALL, OPENAI, OPENAI_TOOLS, Transcript
from tests.support.translations import assert_same_however_cut, message_of, told

CHATS = {name: transcript for name, transcript in ALL.items() if name != "completion"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
USAGE = {
    "prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35,
    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 4},
}  # fmt: skip


def completion(message: Any, reason: str | None = "stop", **choice: Any) -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": reason, **choice}]
    envelope = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**envelope, "choices": choices, "usage": USAGE}).encode()


def translated(body: bytes, *, shows_thinking: bool = True) -> Message:
    """What Anthropic's SDK reads."""
    return Message.model_validate_json(answer(200, body, shows_thinking=shows_thinking), strict=True)


def stream_of(*deltas: dict[str, Any], reason: str = "stop", **choice: Any) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason, **choice}]}
    return b"".join(f"data: {json.dumps({'id': 'x', **each})}\n\n".encode() for each in (*chunks, end))


def of_stream(stream: bytes) -> Message:
    return message_of(told(MessagesOfChat(7, shows_thinking=True), stream + b"data: [DONE]\n\n"))


def piece(index: int, arguments: str, id_: str = "", name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"tool_calls": [{"index": index, **({"id": id_} if id_ else {}), "function": function}]}


def test_a_whole_completion() -> None:
    """Thoughts, texts, calls and usage, each where clients of this format look for them."""
    said = {"role": "assistant", "content": " two", "reasoning_content": " one", "tool_calls": [CALL]}
    message = translated(completion(said, "tool_calls"))
    assert (message.id, message.model, message.stop_reason) == ("chatcmpl-1", "m", "tool_use")
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "thinking", "thinking": " one", "signature": ""},
        {"type": "text", "text": " two"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
    ]
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (6, 20, 4)
    assert usage.output_tokens == 5


def test_thoughts_that_the_client_does_not_want_to_see() -> None:
    """`display: omitted`."""
    said = {"role": "assistant", "content": "two", "reasoning": "one"}
    assert [block.type for block in translated(completion(said), shows_thinking=False).content] == ["text"]
    stream = stream_of({"reasoning": "one"}, {"content": "two"})
    message = message_of(told(MessagesOfChat(7, shows_thinking=False), stream))
    assert [block.type for block in message.content] == ["text"]


ENDS = pytest.mark.parametrize(
    ("reason", "said", "choice", "expected"),
    [
        ("stop", {"content": "x"}, {}, ("end_turn", None)),
        (None, {"content": "x"}, {}, ("end_turn", None)),
        ("new", {"content": "x"}, {}, ("end_turn", None)),
        ("length", {"content": "x"}, {}, ("max_tokens", None)),
        ("tool_calls", {"tool_calls": [CALL]}, {}, ("tool_use", None)),
        ("stop", {"tool_calls": [CALL]}, {}, ("tool_use", None)),
        ("content_filter", {"content": "x"}, {}, ("refusal", None)),
        ("stop", {"refusal": "no"}, {}, ("refusal", None)),
        ("stop", {"content": "x"}, {"stop_reason": "END"}, ("stop_sequence", "END")),
        ("stop", {"content": "x"}, {"stop_reason": 128}, ("end_turn", None)),
    ],
)


@ENDS
def test_why_it_ended(reason: str, said: dict[str, Any], choice: dict[str, Any], expected: tuple[str, Any]) -> None:
    """In Anthropic's words; that of a stop sequence where the provider tells it."""
    message = translated(completion(said, reason, **choice))
    assert (message.stop_reason, message.stop_sequence) == expected


@ENDS
def test_why_a_stream_ended(
    reason: str | None, said: dict[str, Any], choice: dict[str, Any], expected: tuple[str, Any]
) -> None:
    """Just so."""
    message = of_stream(stream_of(said, reason=reason or "stop", **choice))
    assert (message.stop_reason, message.stop_sequence) == expected


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices":[]}', b'{"choices":[5]}', b'{"choices":[{}]}'])
def test_what_cannot_be_read_is_the_providers_failure(body: bytes) -> None:
    """Nothing is made up."""
    with pytest.raises(UpstreamError):
        answer(200, body, shows_thinking=True)


def test_arguments_that_are_no_json() -> None:
    """A call that a limit has cut off cannot be made; any other is the provider's failure."""
    broken = {**CALL, "function": {"name": "f", "arguments": '{"a'}}
    message = translated(completion({"content": "x", "tool_calls": [CALL, broken]}, "length"))
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.stop_reason == "max_tokens"
    with pytest.raises(UpstreamError):
        translated(completion({"tool_calls": [broken]}, "tool_calls"))


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error")]
)
def test_an_error(status: int, kind: str) -> None:
    """In Anthropic's shape, with the provider's words."""
    body = b'{"error":{"message":"no","type":"x","param":null,"code":"y"}}'
    expected = {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": None}
    assert json.loads(answer(status, body, shows_thinking=True)) == expected
    assert json.loads(answer(status, b"nonsense", shows_thinking=True))["error"]["message"] == "nonsense"


def test_an_error_inside_of_a_success() -> None:
    """Stays an error."""
    assert json.loads(answer(200, b'{"error":"no"}', shows_thinking=True))["error"]["message"] == "no"


@pytest.mark.parametrize("name", CHATS)
def test_streams_of_all_providers(name: str) -> None:
    """Anthropic's SDK puts the same message together, whatever fields a provider uses."""
    transcript = CHATS[name]
    stream = told(MessagesOfChat(7, shows_thinking=True), b"".join(transcript.data()))
    if transcript is OPENAI_TOOLS:
        # Its arguments are words, and no JSON.
        assert stream.count(b'"partial_json":" one"') == stream.count(b'"partial_json":" two"') == 1
        return
    message = message_of(stream)
    words = "".join(getattr(block, block.type, "") for block in message.content)
    assert words == " one two"
    usage = message.usage
    assert (usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens) == transcript.usage
    assert message.stop_reason == ("tool_use" if name == "ollama" else "end_turn")


@pytest.mark.parametrize("name", CHATS)
def test_a_stream_is_the_same_however_it_is_cut(name: str) -> None:
    """At any byte."""
    stream = b"".join(CHATS[name].data())
    assert_same_however_cut(lambda: MessagesOfChat(7, shows_thinking=True), stream)


@pytest.mark.parametrize("transcript", [OPENAI, OPENAI_TOOLS])
def test_a_stream_without_done_is_whole_all_the_same(transcript: Transcript) -> None:
    """Where it has said why it ended; its usage may come after that."""
    whole = told(MessagesOfChat(7, shows_thinking=True), b"".join(transcript.data()))
    assert told(MessagesOfChat(7, shows_thinking=True), b"".join(transcript.data()[:-1])) == whole


def test_done_without_a_reason_is_no_end() -> None:
    """It broke off."""
    out = told(
        MessagesOfChat(7, shows_thinking=True), stream_of({"content": "x"}).split(b"\n\n")[0] + b"\n\ndata: [DONE]\n\n"
    )
    assert b"event: error\n" in out
    assert b"message_stop" not in out


def test_the_input_is_told_first_as_it_was_counted() -> None:
    """And last as the provider says, or as it was counted where that says nothing."""
    out = told(MessagesOfChat(7, shows_thinking=True), b"".join(OPENAI.data()))
    assert b'"input_tokens":7' in out.split(b"\n\n")[0]
    assert message_of(out).usage.input_tokens == 21
    assert of_stream(stream_of({"content": "x"})).usage.input_tokens == 7


def test_calls_in_parallel_may_be_told_in_turns() -> None:
    """Each piece goes to the block of its call; text may come between."""
    message = of_stream(
        stream_of(
            {"content": "one"},
            piece(0, "", "a", "f"),
            piece(1, "", "b", "g"),
            piece(0, '{"x":'),
            {"content": "two"},
            piece(1, "{}"),
            piece(0, "1}"),
            reason="tool_calls",
        )
    )
    assert [block.model_dump(include={"text", "id", "name", "input"}) for block in message.content] == [
        {"text": "one"},
        {"id": "a", "name": "f", "input": {"x": 1}},
        {"id": "b", "name": "g", "input": {}},
        {"text": "two"},
    ]


def test_a_stream_that_is_cut_at_a_limit() -> None:
    """Ends cleanly, with what was open closed, also before its first event or after its reason."""
    translator = MessagesOfChat(7, shows_thinking=True)
    message = message_of(translator.feed(b"".join(OPENAI.data()[:2])) + translator.cut())
    assert message.stop_reason == "max_tokens"
    assert message_of(MessagesOfChat(7, shows_thinking=True).cut()).content == []
    translator = MessagesOfChat(7, shows_thinking=True)
    assert message_of(translator.feed(stream_of({"content": "x"})) + translator.cut()).stop_reason == "end_turn"


def test_an_error_midway() -> None:
    """Anthropic's SDK raises on it."""
    translator = MessagesOfChat(7, shows_thinking=True)
    translator.feed(stream_of({"content": "x"})[:60])
    out = translator.fail(529, "busy")
    assert out.startswith(b"event: error\n")
    assert json.loads(out.split(b"data: ")[1]) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "busy"},
        "request_id": None,
    }
