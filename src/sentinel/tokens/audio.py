"""Audio that lies inline in a chat message: an estimate of its tokens from the length of the sound."""

from math import ceil
from typing import Final

from sentinel.tokens.image_size import decoded_prefix

# Source: OpenAI's guide "Managing costs" (Realtime): audio in user messages is 1 token per 100 ms.
TOKENS_PER_SECOND: Final = 10
# Bytes a second where the sound does not say: MP3 at the usual 128 kbit/s.
_MP3_BYTES_PER_SECOND: Final = 16_000
# Below this, a WAV header is a lie or noise; telephone sound has 8,000 bytes a second.
_LEAST_WAV_BYTES_PER_SECOND: Final = 4_000


def audio_tokens(data: str) -> int:
    """Return the estimated input tokens of base64 sound: a WAV by its header's byte rate, others as MP3 at 128 kbit/s.

    The provider's `usage` replaces the estimate. Source: see TOKENS_PER_SECOND.
    """
    return ceil(sound_seconds(data, _MP3_BYTES_PER_SECOND) * TOKENS_PER_SECOND)


def sound_seconds(data: str, bytes_per_second: int) -> float:
    """Return how long base64 sound is: a WAV by its header's byte rate, others by this one."""
    head = decoded_prefix(data, 0, 64)
    rate = bytes_per_second
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt ":
        rate = max(int.from_bytes(head[28:32], "little"), _LEAST_WAV_BYTES_PER_SECOND)
    return len(data) * 3 / 4 / rate
