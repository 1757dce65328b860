"""Chunks of HTTP/1.1 bodies (RFC 9112, 7.1), as far as they can be passed on as they came: framing and all."""

from __future__ import annotations

from collections.abc import Callable

TakeChunk = Callable[[bytes], bool]
"""Is offered a read that may be one whole chunk with its framing; whether it has taken it."""

MOST_BYTES = 4 * 1024
"""Of a chunk with its framing that is passed on in one step."""


def _size_lines() -> list[bytes]:
    lines = [b"\n"] * (MOST_BYTES + 1)
    for size in range(1, MOST_BYTES):
        line = b"%x\r\n" % size
        if (length := len(line) + size + 2) <= MOST_BYTES:
            lines[length] = line
    return lines


SIZE_LINES = _size_lines()
"""The line before a chunk by the length of the chunk with its framing; where none is so long, what is no such line.

Of all spellings of a size it is ours: one with capitals, zeros before it, blanks behind it, or an extension is no
client's to read.
"""
