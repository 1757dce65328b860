"""Server-sent events: bytes cut anywhere in, whole events out. The bytes themselves are never changed.

Source: WHATWG HTML, 9.2.6 "Interpreting an event stream": an event ends at a blank line; lines end with LF, CRLF or CR,
in any mixture; a BOM at the start of a stream is no part of its first line.
"""

from __future__ import annotations

import re
from itertools import pairwise

COMMENT = b": keep-alive\n"
"""One line, and no blank one: after an event with an `id:` openai-python takes that for an event without data."""

END_OF_EVENT = b"\n\n"
"""As nearly all providers spell it."""

MOST_HELD_BYTES = 256 * 1024
"""A longer event is relayed in pieces: it is an image or the like, never a usage chunk."""

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|(?<=\r)\r|\r(?!\Z))")
"""Two line ends. A CRLF is one, which is why the groups are atomic; and a CR behind an LF, as the last byte so far,
may be half of one."""
_MOST_BEFORE = 3
"""Bytes of a blank line that may have come before its last one."""
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b":", b"data:", b"event:", b"id:", b"retry:")


class EventBuffer:
    """Holds the unfinished event at the end of what came, and gives out what is whole.

    most_held_bytes: an unfinished event of more than this is given out as it is, and its rest as it comes.
    """

    __slots__ = ("_begun", "_pieces", "_tail", "held_bytes", "most_held_bytes")

    def __init__(self, most_held_bytes: int = MOST_HELD_BYTES) -> None:
        self.most_held_bytes = most_held_bytes
        self.held_bytes = 0
        self._pieces: list[bytes] = []
        self._tail = b""
        self._begun = False

    @property
    def is_inside(self) -> bool:
        """Whether the last bytes that were given out are of an event that has not ended."""
        return self._begun

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the whole events so far, possibly none, byte for byte."""
        if not self._tail and data.endswith(b"\n\n"):
            return data
        end = last_end(self._tail + data)
        if end:
            end -= len(self._tail)
            block = self._take() + data[:end]
            self._tail, self._begun = b"", False
            self._hold(data[end:])
            return block
        self._hold(data)
        if self._begun or self.held_bytes > self.most_held_bytes:
            self._begun = True
            held = self._take()
            # The line ends stay: what follows them may be another event.
            piece = held.rstrip(b"\r\n")
            if len(piece) < len(held):
                self._pieces, self.held_bytes = [held[len(piece) :]], len(held) - len(piece)
            return piece
        return b""

    def _hold(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self.held_bytes += len(data)
            self._tail = (self._tail + data)[-_MOST_BEFORE:] if len(data) < _MOST_BEFORE else data[-_MOST_BEFORE:]

    def _take(self) -> bytes:
        held = b"".join(self._pieces)
        self._pieces, self.held_bytes = [], 0
        return held

    def rest(self) -> bytes:
        """The unfinished event at the end of the stream, usually nothing."""
        return b"".join(self._pieces)


def last_end(data: bytes) -> int:
    """Where the last whole event in these bytes ends; 0 if none does."""
    # `find`, for `in` makes an exception first for whatever is no number: 1 us for each event near a limit.
    if data.find(b"\r") < 0:
        blank = data.rfind(b"\n\n")
        return blank + 2 if blank >= 0 else 0
    end = 0
    for found in _BLANK_LINE.finditer(data):
        end = found.end()
    return end


def split_events(block: bytes) -> list[bytes]:
    """The events of a block, each with its blank line; their concatenation is the block."""
    if block.find(b"\r") < 0:
        # Nearly always, and twenty times as fast.
        *events, rest = block.split(b"\n\n")
        events = [event + b"\n\n" for event in events]
    else:
        ends = [0, *(found.end() for found in _BLANK_LINE.finditer(block))]
        events = [block[start:end] for start, end in pairwise(ends)]
        rest = block[ends[-1] :]
    return [*events, rest] if rest else events


def data_of(event: bytes) -> bytes | None:
    """The data of one event, its lines joined by LF, without blanks at its ends; None where it has none (a comment)."""
    if event.startswith(b"data:") and event.find(b"\r") < 0 and event.find(b"\n") >= len(event) - 2:
        return event[5:].strip()
    lines = [line[5:].removeprefix(b" ") for line in event.removeprefix(_BOM).splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines).strip() if lines else None


def bytes_outside(event: bytes) -> int:
    """How many bytes stand in lines that are no comment and no field of an event: nobody knows what they are."""
    lines = event.removeprefix(_BOM).splitlines()
    return sum(len(line) for line in lines if not line.startswith(_FIELDS))
