"""Transcripts: in every form that there is, and in those that there are not."""

from __future__ import annotations

import pytest

from sentinel.tokens.transcript import TranscriptTexts, read_transcript, usage_of
from sentinel.tokens.usage import NOTHING, Details, Usage


def said(body: bytes) -> str:
    reading = read_transcript(body)
    assert reading is not None
    return "".join(text.piece for text in reading.texts)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"text":"one two"}', "one two"),
        (b"one two\n", "one two\n"),
        (b"", ""),
        (b"1\n00:00:00,000 --> 00:00:02,000\none\n\n2\n00:00:02,000 --> 00:00:04,000\n12\n", "one\n\n12"),
        (b"WEBVTT\n\n00:00.000 --> 00:02.000\none", "\none"),
        (b'{"text":"one","segments":[{"text":"one"}],"words":[{"word":"one"}],"task":"transcribe"}', "one"),
        (b'{"segments":[{"text":"one"},{"text":" two"},{"text":7},7],"duration":2}', "one two"),
        (b'{"segments":"odd"}', ""),
        (b'{"text":["one"]}', "one"),
        (b'{"text":"one","transcript":" two"}', "one two"),
        (b'{"text":"one","error":{"message":"no"}}', ""),
        (b"\xffone", "�one"),
        (b"[1]", "[1]"),
    ],
)
def test_what_is_said_is_found(body: bytes, text: str) -> None:
    """And what is only around it is not."""
    assert said(body) == text


def test_an_empty_transcript_is_one() -> None:
    """Silence costs its input; an error costs nothing; what nobody can read is none."""
    for body, is_generated in ((b'{"text":""}', True), (b"", True), (b'{"error":"no"}', False)):
        reading = read_transcript(body)
        assert reading is not None
        assert reading.is_generated is is_generated
    assert read_transcript(b'{"text":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}") is None


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        ({"usage": {"type": "tokens", "input_tokens": 4, "output_tokens": 5}}, Usage(4, 5)),
        ({"usage": {"type": "duration", "seconds": 2.01}}, Usage(21, details=Details(21))),
        ({"duration": 3.0}, Usage(30, details=Details(30))),
        ({"usage": {"seconds": 1e30}}, Usage(2**53)),
        ({"usage": {"seconds": -1}}, NOTHING),
        ({"usage": {"seconds": True}}, NOTHING),
        ({"usage": {"seconds": "2"}}, NOTHING),
        ({"usage": {"seconds": float("nan")}}, NOTHING),
        ({"usage": []}, NOTHING),
        ({}, NOTHING),
    ],
)
def test_usage_is_in_tokens_or_in_seconds(value: dict[str, object], usage: Usage) -> None:
    """A second is ten tokens of input, and all of them are sound."""
    found = usage_of(value)
    assert found.prompt_tokens == min(usage.prompt_tokens, found.prompt_tokens) or usage == NOTHING
    assert (found == NOTHING) == (usage == NOTHING)
    if usage.prompt_tokens < 100:
        assert found == usage


def test_a_text_that_comes_in_several_ways_counts_once() -> None:
    """Deltas, segments, the whole; whatever says more adds what is new."""
    texts = TranscriptTexts()

    def new(data: bytes) -> str:
        reading = texts.read(data)
        assert reading is not None
        return "".join(text.piece for text in reading.texts)

    assert new(b'{"type":"transcript.text.delta","delta":"one"}') == "one"
    assert new(b'{"type":"transcript.text.segment","text":"one two"}') == " two"
    assert new(b'{"type":"transcript.text.delta","delta":" two"}') == ""
    assert new(b'{"type":"transcript.text.done","text":"one two three"}') == " three"
    assert new(b'{"type":"transcript.text.done","text":7,"content":" four"}') == "7 four"
    assert new(b'{"type":7,"delta":" five"}') == " five"
    assert new(b'{"type":["x"],"speaker":"A"}') == ""
    assert texts.read(b"[]") is None
    assert texts.read(b'{"type":"x","a":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}") is None
    failed = texts.read(b'{"type":"transcript.text.delta","delta":"one","error":{"message":"no"}}')
    assert failed is not None
    assert failed.failed
