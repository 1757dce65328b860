"""What is particular to speech: its text is input, and sound output of models that bill it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.endpoints.endpoint import NO_OUTPUT
from sentinel.endpoints.speech import SPEECH
from sentinel.error import InvalidType, MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import NOTHING, Usage

COUNTER = TokenCounter()


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o-mini-tts", "input": "hello world", "voice": "alloy", **fields}).encode()


def test_the_text_is_counted_and_forgotten() -> None:
    """With the instructions; what it can cost stays."""
    request = SPEECH.read(body(instructions="be kind"))
    assert SPEECH.count(request, COUNTER) == 4
    bound = SPEECH.bound(request)
    SPEECH.forget_prompt(request)
    assert (request.texts, SPEECH.bound(request)) == ([], bound)


def test_the_most_that_it_can_cost_is_reserved() -> None:
    """Slower speech is longer; where the text alone is billed, it is nothing."""
    bound = SPEECH.bound(SPEECH.read(body()))
    assert (bound.default_max, bound.least_max, bound.grows_in_sight) == (29, 29, False)
    assert SPEECH.bound(SPEECH.read(body(speed=0.5))).default_max == 56
    assert SPEECH.bound(SPEECH.read(body(model="tts-1-hd"))) is NO_OUTPUT


def test_sound_costs_by_its_length() -> None:
    """A second of PCM has 48,000 bytes; what is compressed, or unknown, is taken for as long as it can be."""
    for form, tokens in (("pcm", 20), ("wav", 20), ("mp3", 120), ("new", 320)):
        assert SPEECH.passed_tokens(SPEECH.read(body(response_format=form)), 48_000) == tokens
    assert SPEECH.passed_tokens(SPEECH.read(body(model="tts-1")), 48_000) == 0
    assert SPEECH.read(body()).form == "mp3"


@pytest.mark.parametrize(("form", "streams"), [("sse", True), ("audio", False), (None, False)])
def test_a_stream_of_events_is_asked_for_by_its_format(form: str | None, streams: bool) -> None:
    """All else are bytes."""
    assert SPEECH.read(body(stream_format=form)).stream is streams


@pytest.mark.parametrize(
    ("fields", "param"), [({"input": 7}, "input"), ({"speed": 9}, "speed"), ({"model": "m" * 300}, "model")]
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    """Before anything is spent."""
    with pytest.raises(InvalidType) as raised:
        SPEECH.read(body(**fields))
    assert raised.value.param == param
    with pytest.raises(MissingParameter):
        SPEECH.read(b'{"model":"m"}')


@pytest.mark.parametrize(
    ("voice", "found"),
    [("alloy", []), ("voice_1", ["voice_1"]), ({"id": "voice_1"}, ["voice_1"]), ({"id": "odd"}, ["odd"]), (7, [])],
)
def test_a_voice_that_somebody_has_made_is_theirs(voice: Any, found: list[str]) -> None:
    """Those of all go by their names."""
    assert [reference.id for reference in SPEECH.ids.found_in(body(voice=voice))] == found


def test_what_is_no_sound_is_read() -> None:
    """An error costs nothing; usage is told."""
    reading = SPEECH.read_answer(b'{"error":{"message":"no"}}')
    assert reading is not None
    assert (reading.failed, reading.is_generated) == (True, False)
    reading = SPEECH.read_answer(b'{"usage":{"input_tokens":1,"output_tokens":2}}')
    assert reading is not None
    assert reading.usage == Usage(1, 2)
    reading = SPEECH.read_answer(b"\xff\xf3")
    assert reading is not None
    assert (reading.usage, reading.is_generated) == (NOTHING, True)


def test_sound_may_become_a_stream() -> None:
    """For who was told to expect one; a refusal is an event."""
    assert SPEECH.as_stream(b"\xff") == (
        b'data: {"type":"speech.audio.delta","audio":"/w=="}\n\ndata: {"type":"speech.audio.done"}\n\n'
    )
    assert SPEECH.as_stream(b'{"error":{"message":"no"}}') == b'data: {"error":{"message":"no"}}\n\n'
    assert SPEECH.refusal_as_stream(400, b"no").startswith(b'data: {"error":{"message":"no"')
