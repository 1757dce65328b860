"""Answers in Gemini's format for clients that speak chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from sentinel.error import UpstreamError
from sentinel.proxy.translation.chat_of_gemini import ChatOfGemini, answer
from sentinel.proxy.translation.chat_to_gemini import ChatToGemini
from tests.support.transcripts import GEMINI_OWN, GEMINI_TEXT, GEMINI_TOOLS, GEMINI_USAGE_LAST
from tests.support.translations import assert_same_however_cut, chunks_of, completion_of, told

CALL = {"functionCall": {"id": "g1", "name": "weather", "args": {"a": 1}}, "thoughtSignature": "c2ln"}
USAGE = {
    "promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 5,
    "totalTokenCount": 18,
}  # fmt: skip


def candidate(*parts: Any, reason: Any = "STOP", index: int = 0) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, "index": index}


def generated(*candidates: Any, **fields: Any) -> bytes:
    head = {"responseId": "r1", "modelVersion": "gemini-3-pro", "usageMetadata": USAGE}
    return json.dumps({"candidates": list(candidates), **head, **fields}).encode()


def translated(body: bytes) -> ChatCompletion:
    return ChatCompletion.model_validate_json(answer(200, body, 5), strict=True)


def stream(*bodies: bytes) -> bytes:
    return b"".join(b"data: %b\n\n" % body for body in bodies)


def test_a_whole_answer() -> None:
    """Thoughts, texts, calls with their signatures, usage with what was cached and thought."""
    completion = translated(
        generated(
            candidate(
                {"text": "hm", "thought": True}, {"text": "on"}, {"text": "e"}, CALL, {"functionCall": {"name": "g"}}
            )
        )
    )
    assert (completion.id, completion.created, completion.model) == ("r1", 5, "gemini-3-pro")
    said = completion.choices[0].message
    assert (said.content, said.model_extra) == ("one", {"reasoning_content": "hm"})
    assert [call.model_dump() for call in said.tool_calls or []] == [
        {
            "id": "g1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"a":1}'},
            "extra_content": {"google": {"thought_signature": "c2ln"}},
        },
        {"id": "call_r1_0_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    usage = completion.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 8, 18)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 5


def test_several_candidates_are_choices() -> None:
    """In the order of their numbers; whole, and as a stream."""
    completion = translated(generated(candidate({"text": "b"}, index=1), candidate({"text": "a"})))
    assert [(choice.index, choice.message.content) for choice in completion.choices] == [(0, "a"), (1, "b")]
    pieces = [
        generated(candidate({"text": "a"}, reason=None), candidate({"text": "b"}, index=1)),
        generated(candidate({"text": "c"}), usageMetadata=None),
    ]
    completion = completion_of(told(ChatOfGemini(5, wants_usage=False), stream(*pieces)))
    assert [(choice.message.content, choice.finish_reason) for choice in completion.choices] == [
        ("ac", "stop"),
        ("b", "stop"),
    ]


@pytest.mark.parametrize(("parallel", "expected"), [(None, ["f", "g", "h"]), (True, ["f", "g", "h"]), (False, ["f"])])
def test_calls_that_are_not_to_be_parallel(parallel: bool | None, expected: list[str]) -> None:
    """Google cannot be told so: of each choice the first is told, whole and as a stream."""
    ask: dict[str, Any] = {"model": "gemini-3-pro", "messages": [], "parallel_tool_calls": parallel}
    translation = ChatToGemini(json.dumps(ask).encode(), 5)
    f, g, h = ({"functionCall": {"name": name}} for name in "fgh")
    whole = generated(candidate(f, g, h), candidate(f, g, h, index=1))
    events = stream(generated(candidate(f, g, reason=None), candidate(f, g, h, index=1)), generated(candidate(h)))
    answers = (
        ChatCompletion.model_validate_json(translation.answer(200, whole), strict=True),
        completion_of(told(translation.stream(), events)),
    )
    for completion in answers:
        assert [choice.finish_reason for choice in completion.choices] == ["tool_calls", "tool_calls"]
        for choice in completion.choices:
            calls = [call.function.name for call in choice.message.tool_calls or [] if call.type == "function"]
            assert calls == expected


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"), (None, "stop"), ("FINISH_REASON_UNSPECIFIED", "stop"), ("OTHER", "stop"),
        ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter"),
    ],
)  # fmt: skip
def test_why_it_ended(reason: Any, expected: str) -> None:
    """In chat's words."""
    assert translated(generated(candidate({"text": "a"}, reason=reason))).choices[0].finish_reason == expected


def test_a_prompt_that_is_blocked() -> None:
    """A choice that was filtered, whole and as a stream."""
    body = generated(promptFeedback={"blockReason": "SAFETY"})
    for completion in (translated(body), completion_of(told(ChatOfGemini(5, wants_usage=False), stream(body)))):
        assert completion.choices[0].finish_reason == "content_filter"
        assert not completion.choices[0].message.content


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"candidates":5}', b'{"candidates":[5]}', b'{"promptFeedback":{"blockReason":""}}'],
)
def test_what_cannot_be_read_is_the_providers_failure(body: bytes) -> None:
    """Nothing is made up."""
    with pytest.raises(UpstreamError):
        answer(200, body, 5)


@pytest.mark.parametrize("content", [None, {}, {"parts": None}, {"parts": [5, {"functionCall": 5}]}])
def test_a_candidate_without_parts_says_nothing(content: Any) -> None:
    """It has ended all the same."""
    completion = translated(generated({"content": content, "finishReason": "MAX_TOKENS", "index": "0"}))
    assert (completion.choices[0].message.content, completion.choices[0].finish_reason) == ("", "length")


@pytest.mark.parametrize("status", [200, 400])
def test_an_error(status: int) -> None:
    """In OpenAI's shape, with the provider's words."""
    body = b'{"error":{"code":400,"message":"no","status":"INVALID_ARGUMENT"}}'
    assert json.loads(answer(status, body, 5))["error"]["message"] == "no"


def test_a_stream_of_text() -> None:
    """Also the text in the event that ends it; usage is what the last events come to."""
    stream_told = told(ChatOfGemini(5, wants_usage=True), b"".join(GEMINI_TEXT.data()))
    completion = completion_of(stream_told)
    assert completion.choices[0].message.content == " one two"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == GEMINI_TEXT.usage
    assert chunks_of(stream_told)[-1].choices == []


def test_a_stream_of_calls() -> None:
    """A call comes whole; calls have numbers of their own, and ids."""
    completion = completion_of(told(ChatOfGemini(5, wants_usage=False), b"".join(GEMINI_TOOLS.data())))
    said = completion.choices[0].message
    assert (said.model_extra or {})["reasoning_content"] == " three"
    assert completion.choices[0].finish_reason == "tool_calls"
    two = [generated(candidate(CALL, reason=None)), generated(candidate({"functionCall": {"name": "g"}}))]
    completion = completion_of(told(ChatOfGemini(5, wants_usage=False), stream(*two)))
    calls = [call for call in completion.choices[0].message.tool_calls or [] if call.type == "function"]
    assert [(call.id, call.function.arguments) for call in calls] == [("g1", '{"a":1}'), ("call_r1_0_1", "{}")]
    assert (calls[0].model_extra or {})["extra_content"] == {"google": {"thought_signature": "c2ln"}}


def test_usage_behind_the_end_counts() -> None:
    """It comes in an event of its own."""
    completion = completion_of(told(ChatOfGemini(5, wants_usage=True), b"".join(GEMINI_USAGE_LAST.data())))
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == GEMINI_USAGE_LAST.usage
    assert completion.choices[0].finish_reason == "length"


@pytest.mark.parametrize("transcript", GEMINI_OWN)
def test_a_stream_is_the_same_however_it_is_cut(transcript: Any) -> None:
    """At any byte."""
    assert_same_however_cut(lambda: ChatOfGemini(5, wants_usage=True), b"".join(transcript.data()))


def test_a_candidate_ends_once() -> None:
    """Whatever follows."""
    body = generated(candidate({"text": "a"}))
    out = told(ChatOfGemini(5, wants_usage=False), stream(body, body))
    assert out.count(b'"finish_reason":"stop"') == 1


def test_a_stream_that_breaks_off() -> None:
    """Without any event, or with a candidate that has not ended."""
    open_one = generated(candidate({"text": "a"}), candidate({"text": "b"}, reason=None, index=1))
    for broken in (b"", stream(open_one)):
        out = told(ChatOfGemini(5, wants_usage=True), broken)
        assert b"ended before" in out
        assert b"[DONE]" not in out


def test_a_stream_that_is_cut_at_a_limit() -> None:
    """Each choice that is open ends by `length`; so does one that has not begun."""
    translator = ChatOfGemini(5, wants_usage=True)
    two = generated(candidate({"text": "a"}), candidate({"text": "b"}, reason=None, index=1))
    completion = completion_of(translator.feed(stream(two)) + translator.cut())
    assert [choice.finish_reason for choice in completion.choices] == ["stop", "length"]
    assert completion_of(ChatOfGemini(5, wants_usage=False).cut()).choices[0].finish_reason == "length"


def test_an_error_midway() -> None:
    """As the last event."""
    out = ChatOfGemini(5, wants_usage=True).feed(
        stream(b'{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}')
    )
    assert json.loads(out.removeprefix(b"data: "))["error"]["message"] == "busy"
