import base64

import pytest

from sentinel.tokens.audio import (
    audio_tokens,
    file_tokens,
    is_sound_billed,
    seconds_tokens,
    spoken_ceiling,
    spoken_tokens,
    transcript_ceiling,
)


def wav(seconds: int, rate: int) -> str:
    head = b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(12) + rate.to_bytes(4, "little") + bytes(12)
    return base64.b64encode(head + bytes(seconds * rate)).decode()


def test_a_wav_costs_ten_tokens_a_second() -> None:
    """The header's byte rate gives the length of the sound."""
    assert audio_tokens(wav(6, 48_000)) in (60, 61)


def test_other_sound_counts_as_mp3() -> None:
    """At 128 kbit/s, 160,000 bytes are ten seconds."""
    assert audio_tokens(base64.b64encode(bytes(160_000)).decode()) in (100, 101)


@pytest.mark.parametrize("data", ["", "!", "é", "A", wav(0, 0), "UklGRg=="])
def test_hostile_sound_raises_nothing(data: str) -> None:
    """Broken headers and alphabets are counted somehow."""
    assert audio_tokens(data) >= 0


def test_a_file_costs_what_the_same_sound_costs_inline() -> None:
    """Its bytes are counted, and not their base64."""
    sound = base64.b64decode(wav(6, 48_000))
    assert file_tokens(sound[:64], len(sound)) in (60, 61)
    assert file_tokens(b"", 160_000) == 100
    assert seconds_tokens(2.01) == 21


@pytest.mark.parametrize(
    ("model", "size", "most"),
    [("gpt-4o-transcribe-diarize", 1, 2_000), ("whisper-1", 0, 448), ("gpt-transcribe", 25_000_000, 62_500)],
)
def test_a_transcript_has_a_longest(model: str, size: int, most: int) -> None:
    """As published, or by the size of the sound."""
    assert transcript_ceiling(model, size) == most


def test_sound_that_is_made_costs_twenty_tokens_a_second() -> None:
    """Of a model that bills it; before it is made it is as long as its text can be."""
    assert spoken_tokens("pcm", 96_000) == 40
    assert spoken_tokens("opus", 3_000) == spoken_tokens("unheard of", 3_000) == 20
    assert spoken_ceiling("gpt-4o-mini-tts", "word " * 16, 1) == 201
    assert spoken_ceiling("gpt-4o-mini-tts", "word " * 16, 2) == 101
    assert spoken_ceiling("gpt-4o-mini-tts", "\ud800", 1) == 9
    assert spoken_ceiling("tts-1", "word", 1) == 0
    assert [is_sound_billed(model) for model in ("tts-1-hd", "gpt-4o-mini-tts", "own-tts")] == [False, True, True]
