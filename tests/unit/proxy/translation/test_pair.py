"""What all translators of streams do alike."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel.proxy.translation.chat_of_gemini import ChatOfGemini
from sentinel.proxy.translation.chat_of_messages import ChatOfMessages
from sentinel.proxy.translation.messages_of_chat import MessagesOfChat
from sentinel.proxy.translation.pair import MOST_HELD_BYTES, StreamTranslator
from sentinel.proxy.translation.responses_to_chat import ResponsesToChat
from tests.support.transcripts import GEMINI_TEXT, MESSAGE_TEXT, OPENAI
from tests.support.translations import told

KINDS: list[tuple[Any, bytes]] = [
    (lambda: ChatOfMessages(1, wants_usage=True), b"".join(MESSAGE_TEXT.data())),
    (lambda: MessagesOfChat(1, shows_thinking=True), b"".join(OPENAI.data())),
]
KINDS.append((lambda: ChatOfGemini(1, wants_usage=True), b"".join(GEMINI_TEXT.data())))
KINDS.append((lambda: ResponsesToChat(b'{"model":"m","input":"one"}', 1).stream(), b"".join(OPENAI.data())))
EACH = pytest.mark.parametrize(
    ("make", "stream"), KINDS, ids=["messages->chat", "chat->messages", "gemini->chat", "chat->responses"]
)


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
