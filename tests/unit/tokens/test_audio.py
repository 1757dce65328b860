import base64

import pytest

from sentinel.tokens.audio import audio_tokens


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
