"""Audio, inline in a chat message, uploaded, or made by a model: an estimate of its tokens from the sound's length."""

from math import ceil
from typing import Final

from sentinel.tokens.image_size import decoded_prefix
from sentinel.tokens.models import MAX_NAME_CHARS, longest_match

# Source: OpenAI's guide "Managing costs" (Realtime): audio in user messages is 1 token per 100 ms.
TOKENS_PER_SECOND: Final = 10
# Bytes a second where the sound does not say: MP3 at the usual 128 kbit/s.
_MP3_BYTES_PER_SECOND: Final = 16_000
# What a model says: 1 token per 50 ms. Source: the same.
SPOKEN_TOKENS_PER_SECOND: Final = 20
# Speech is 12 to 16 bytes of text a second in any script; numbers and the like take longer.
_SPOKEN_BYTES_PER_SECOND: Final = 8
# Bytes a second of what /v1/audio/speech makes, all mono, 24 kHz. Uncompressed by its format; else the least that the
# usual encoders are set to.
_SPOKEN_RATES: Final = {"pcm": 48_000, "wav": 48_000, "flac": 12_000, "mp3": 8_000, "aac": 6_000, "opus": 3_000}
# The longest transcript. Source: platform.openai.com/docs/models/gpt-4o-transcribe, "max output tokens".
_TRANSCRIPT_CEILINGS: Final = {"gpt-4o-transcribe": 2_000, "gpt-4o-mini-transcribe": 2_000}
# Of models whose ceiling is not published: what the fastest speakers say in a sound of 16 kbit/s.
_LEAST_BYTES_PER_SECOND: Final = 2_000
_WORDS_PER_SECOND: Final = 5
# Whisper's window of 30 s, the least that it looks at, gives as much at most (openai/whisper, n_text_ctx).
_LEAST_TRANSCRIPT: Final = 448
# Below this, a WAV header is a lie or noise; telephone sound has 8,000 bytes a second.
_LEAST_WAV_BYTES_PER_SECOND: Final = 4_000


def audio_tokens(data: str) -> int:
    """Return the estimated input tokens of base64 sound: a WAV by its header's byte rate, others as MP3 at 128 kbit/s.

    The provider's `usage` replaces the estimate. Source: see TOKENS_PER_SECOND.
    """
    return ceil(sound_seconds(data, _MP3_BYTES_PER_SECOND) * TOKENS_PER_SECOND)


def sound_seconds(data: str, bytes_per_second: int) -> float:
    """Return how long base64 sound is: a WAV by its header's byte rate, others by this one."""
    return _seconds(decoded_prefix(data, 0, 64), len(data) * 3 / 4, bytes_per_second)


def file_tokens(head: bytes, size: int) -> int:
    """Return the same of a sound file that begins so. size: bytes."""
    return ceil(_seconds(head, size, _MP3_BYTES_PER_SECOND) * TOKENS_PER_SECOND)


def seconds_tokens(seconds: float) -> int:
    """Return the input tokens of a sound of this length."""
    return ceil(seconds * TOKENS_PER_SECOND)


def transcript_ceiling(model: str, size: int) -> int:
    """Return the most output tokens of a transcript, or a translation, of files of so many bytes in all."""
    ceiling = longest_match(_TRANSCRIPT_CEILINGS, model[:MAX_NAME_CHARS], 0)
    return ceiling or max(_LEAST_TRANSCRIPT, ceil(size / _LEAST_BYTES_PER_SECOND * _WORDS_PER_SECOND))


def spoken_ceiling(model: str, text: str, speed: float) -> int:
    """Return the most output tokens of this text, read aloud at this speed; 0 for a model whose sound is not billed."""
    if not is_sound_billed(model):
        return 0
    seconds = len(text.encode("utf-8", "surrogatepass")) / (_SPOKEN_BYTES_PER_SECOND * speed)
    return 1 + ceil(seconds * SPOKEN_TOKENS_PER_SECOND)


def is_sound_billed(model: str) -> bool:
    """Say whether `model` bills the sound that it makes, and not only the text that it reads aloud."""
    return not model.startswith("tts-1")


def spoken_tokens(form: str, size: int) -> int:
    """Return the output tokens of so many bytes of sound that a model has made, at most. form: as the request names it.

    Compressed sound is taken for as long as it can be.
    """
    return ceil(size / _SPOKEN_RATES.get(form, _SPOKEN_RATES["opus"]) * SPOKEN_TOKENS_PER_SECOND)


def _seconds(head: bytes, size: float, bytes_per_second: int) -> float:
    rate = bytes_per_second
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt ":
        rate = max(int.from_bytes(head[28:32], "little"), _LEAST_WAV_BYTES_PER_SECOND)
    return size / rate
