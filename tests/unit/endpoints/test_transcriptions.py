"""What is particular to transcripts: the length of a sound is input, and its text output."""

from __future__ import annotations

import pytest

from sentinel.endpoints.transcriptions import TRANSCRIPTIONS, TRANSLATIONS, TranscriptRequest
from sentinel.error import InvalidForm, InvalidType, MissingParameter
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import Details, Usage
from tests.support.surface import form

COUNTER = TokenCounter()


def read(*fields: tuple[str, str], model: str = "whisper-1", size: int = 160_000) -> TranscriptRequest:
    body, kind = form([("model", model), *fields], "file", b"\0" * size)
    return TRANSCRIPTIONS.read_typed(body, kind.encode())[0]


def test_the_sound_is_counted_by_its_length() -> None:
    """Ten tokens a second, and the prompt; then they are forgotten."""
    request = read(("prompt", "hello world"))
    assert TRANSCRIPTIONS.count(request, COUNTER) == 102
    bound = TRANSCRIPTIONS.bound(request)
    TRANSCRIPTIONS.forget_prompt(request)
    assert (request.files, request.prompt, TRANSCRIPTIONS.bound(request)) == ([], None, bound)
    assert TRANSCRIPTIONS.count(read(), COUNTER) == 100


@pytest.mark.parametrize(
    ("model", "size", "most"),
    [("whisper-1", 1, 448), ("whisper-1", 1_000_000, 2_500), ("gpt-4o-transcribe", 25_000_000, 2_000)],
)
def test_a_whole_one_reserves_the_longest(model: str, size: int, most: int) -> None:
    """That so much sound, or the model, can have."""
    bound = TRANSCRIPTIONS.bound(read(model=model, size=size))
    assert (bound.default_max, bound.least_max, bound.grows_in_sight) == (most, most, False)


def test_a_stream_grows_in_sight() -> None:
    """So it is ended where nothing is left."""
    bound = TRANSCRIPTIONS.bound(read(("stream", "true")))
    assert (bound.default_max, bound.grows_in_sight, bound.shows_its_cost) == (None, True, True)


def test_what_is_wrong_is_named() -> None:
    """As in JSON."""
    body, kind = form([("model", "whisper-1")], "sound")
    with pytest.raises(MissingParameter) as missing:
        TRANSCRIPTIONS.read_typed(body, kind.encode())
    assert missing.value.param == "file"
    with pytest.raises(InvalidType) as wrong:
        read(model="m" * 257)
    assert wrong.value.param == "model"
    with pytest.raises(InvalidForm):
        TRANSLATIONS.read(b"{}")


def test_answers_are_read_and_may_become_streams() -> None:
    """As its stream does it."""
    reading = TRANSLATIONS.read_answer(b'{"text":"one two","usage":{"type":"duration","seconds":2}}')
    assert reading is not None
    assert reading.usage == Usage(20, details=Details(input_audio=20))
    assert b"transcript.text.done" in TRANSLATIONS.as_stream(b'{"text":"one"}')
    assert TRANSLATIONS.refusal_as_stream(400, b"no").startswith(b'data: {"error"')
    request = read(("stream", "true"))
    meter = TRANSCRIPTIONS.meter(request, NO_SECRET)
    assert b"transcript.text.done" in TRANSCRIPTIONS.ending(request, meter, Usage(1, 2))
