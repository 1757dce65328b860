"""Chunks of HTTP/1.1 bodies (RFC 9112, 7.1), as far as they can be passed on as they came: framing and all."""

from __future__ import annotations

from collections.abc import Callable

TakeChunk = Callable[[bytes], bool]
"""Is offered a read that may be one whole chunk with its framing; whether it has taken it."""

_MOST_DIGITS = 3
"""Of a size: up to 4 KB are passed on in one step."""


def inside_of(data: bytes) -> bytes | None:
    """What is inside of these bytes, if they are one whole chunk, spelled as we would spell it; else None.

    That is what nearly every read of a stream is. A size in another spelling (capitals, zeros before it, blanks
    behind it, an extension) is no client's to read.
    """
    start = data.find(b"\r\n", 0, _MOST_DIGITS + 2)
    # Without the line ends of the size, and of the chunk.
    size = len(data) - start - 4
    if start < 0 or size <= 0 or data[:start] != b"%x" % size or not data.endswith(b"\r\n"):
        return None
    return data[start + 2 : -2]
