"""What all translators of streams do alike."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.error import UpstreamError
from sentinel.proxy.translation import chat_of_gemini, chat_of_messages, messages_of_chat, responses_of_chat
from sentinel.proxy.translation.chat_of_gemini import ChatOfGemini
from sentinel.proxy.translation.chat_of_messages import ChatOfMessages
from sentinel.proxy.translation.messages_of_chat import MessagesOfChat
from sentinel.proxy.translation.pair import MOST_HELD_BYTES, StreamTranslator
from sentinel.proxy.translation.responses_to_chat import ResponsesToChat
from tests.support.transcripts import ALL, GEMINI_OWN, GEMINI_TEXT, MESSAGE_TEXT, MESSAGES, OPENAI, Transcript
from tests.support.translations import spoilt, told

KINDS: list[tuple[Any, bytes]] = [
    (lambda: ChatOfMessages(1, wants_usage=True), b"".join(MESSAGE_TEXT.data())),
    (lambda: MessagesOfChat(1, shows_thinking=True), b"".join(OPENAI.data())),
]
KINDS.append((lambda: ChatOfGemini(1, wants_usage=True), b"".join(GEMINI_TEXT.data())))
KINDS.append((lambda: ResponsesToChat(b'{"model":"m","input":"one"}', 1).stream(), b"".join(OPENAI.data())))
NAMES = ["messages->chat", "chat->messages", "gemini->chat", "chat->responses"]
EACH = pytest.mark.parametrize(("make", "stream"), KINDS, ids=NAMES)


@EACH
def test_nothing_follows_the_last_event(make: Any, stream: bytes) -> None:
    """Whatever comes, and whoever asks."""
    translator: StreamTranslator = make()
    assert told(translator, stream)
    assert translator.feed(stream) == translator.end() == translator.cut() == translator.fail(502, "no") == b""


@EACH
def test_a_stream_that_breaks_off_ends_with_an_error(make: Any, stream: bytes) -> None:
    """Never as if it were whole; what came of it stays."""
    translator: StreamTranslator = make()
    begun = translator.feed(stream[: stream.index(b" two")])
    assert b" one" in begun
    assert b"ended before" in translator.end()
    assert translator.ended


@EACH
@pytest.mark.parametrize("error", ['{"message":"busy"}', '"busy"'])
def test_an_error_midway_is_the_last_event(make: Any, stream: bytes, error: str) -> None:
    """In the client's shape."""
    translator: StreamTranslator = make()
    told = translator.feed(b'data: {"type":"error","error":%b}\n\n' % error.encode())
    assert b'"message":"busy"' in told
    assert told.count(b"data: ") == 1
    assert translator.end() == b""


@EACH
def test_comments_pings_and_what_is_no_json_say_nothing(make: Any, stream: bytes) -> None:
    """Nor does JSON of another shape."""
    translator: StreamTranslator = make()
    assert (
        translator.feed(b': hold on\n\nevent: ping\ndata: {"type":"ping"}\n\ndata: {\n\ndata: [1]\n\ndata:\n\n') == b""
    )
    assert not translator.ended


@EACH
def test_an_event_that_is_too_large_is_an_error(make: Any, stream: bytes) -> None:
    """Memory is bounded."""
    translator: StreamTranslator = make()
    assert translator.feed(b"data: " + b"x" * MOST_HELD_BYTES) != b""
    assert translator.ended


@EACH
def test_a_last_event_without_a_blank_line_counts(make: Any, stream: bytes) -> None:
    """SDKs read it, too."""
    assert told(make(), stream.rstrip(b"\n")) == told(make(), stream)


CHATS = [transcript for name, transcript in ALL.items() if name != "completion"]
ODD_STREAMS = [(make, each) for (make, _), each in zip(KINDS, (MESSAGES, CHATS, GEMINI_OWN, CHATS), strict=True)]
COMPLETION = {
    "id": "x", "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    "choices": [
        {
            "index": 0, "finish_reason": "stop", "stop_reason": None,
            "message": {
                "content": "a", "reasoning": "r", "refusal": None,
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
            },
        }
    ],
}  # fmt: skip
WHOLE: list[tuple[Any, dict[str, Any]]] = [
    (
        lambda body: chat_of_messages.answer(200, body, 1),
        {
            "id": "m", "model": "m", "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 2},
            "content": [
                {"type": "text", "text": "a"}, {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
            ],
        },
    ),
    (lambda body: messages_of_chat.answer(200, body, shows_thinking=True), COMPLETION),
    (lambda body: responses_of_chat.answer(200, body, {}, {}), COMPLETION),
    (
        lambda body: chat_of_gemini.answer(200, body, 1),
        {
            "responseId": "r", "modelVersion": "g", "promptFeedback": {"blockReason": "OTHER"},
            "candidates": [
                {"index": 0, "finishReason": "STOP",
                 "content": {"parts": [{"text": "a"}, {"functionCall": {"args": {}}, "thoughtSignature": "s"}]}}
            ],
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "whole"), WHOLE, ids=("messages", "chat", "chat->responses", "gemini"))
@given(st.data())
def test_no_answer_is_too_odd(answer: Any, whole: dict[str, Any], data: st.DataObject) -> None:
    """What cannot be read is the provider's failure, and never ours; what can is JSON."""
    with contextlib.suppress(UpstreamError):
        json.loads(answer(json.dumps(spoilt(whole, data)).encode()))


@pytest.mark.parametrize(("make", "transcripts"), ODD_STREAMS, ids=NAMES)
@given(st.data())
def test_no_event_is_too_odd(make: Any, transcripts: list[Transcript], data: st.DataObject) -> None:
    """It costs itself alone, or ends the stream in good order."""
    transcript = data.draw(st.sampled_from(transcripts))
    position = data.draw(st.integers(0, len(transcript.events) - 1))
    events = [
        spoilt(event, data) if at == position and isinstance(event, dict) else event
        for at, event in enumerate(transcript.events)
    ]
    translator: StreamTranslator = make()
    assert told(translator, b"".join(transcript.data(events)))
    assert translator.ended
