"""Chunks of HTTP/1.1 bodies (RFC 9112, 7.1), as far as they can be passed on as they came: framing and all."""

from __future__ import annotations

from collections.abc import Callable

TakeChunk = Callable[[bytes], bool]
"""Is offered a read that may be one whole chunk with its framing; whether it has taken it."""

_MOST_BYTES = 4 * 1024
"""Of a chunk with its framing that is passed on in one step."""


def _size_lines() -> list[bytes]:
    """The line before a chunk by the length of the chunk with its framing; where none is so long, what is no line."""
    lines = [b"\n"] * (_MOST_BYTES + 1)
    for size in range(1, _MOST_BYTES):
        line = b"%x\r\n" % size
        if (length := len(line) + size + 2) <= _MOST_BYTES:
            lines[length] = line
    return lines


_SIZE_LINES = _size_lines()


def inside_of(data: bytes) -> bytes | None:
    """What is inside of these bytes, if they are one whole chunk, spelled as we would spell it; else None.

    That is what nearly every read of a stream is. A size in another spelling (capitals, zeros before it, blanks
    behind it, an extension) is no client's to read.
    """
    length = len(data)
    if length > _MOST_BYTES:
        return None
    line = _SIZE_LINES[length]
    return data[len(line) : -2] if data.startswith(line) and data.endswith(b"\r\n") else None
