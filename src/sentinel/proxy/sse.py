"""Server-sent events: bytes cut anywhere in, whole events out. The bytes themselves are never changed.

Source: WHATWG HTML, 9.2.6 "Interpreting an event stream": an event ends at a blank line; lines end with LF, CRLF or CR.
OpenAI and all who imitate it use LF; CRLF is taken too. A lone CR ends no line here: nobody sends it.
"""

from __future__ import annotations

MOST_HELD_BYTES = 256 * 1024
"""A longer event is relayed in pieces: it is an image or the like, never a usage chunk."""


class EventBuffer:
    """Holds the unfinished event at the end of what came, and gives out what is whole."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the whole events so far, possibly none, byte for byte."""
        if not self._held and data.endswith(b"\n\n"):
            return data
        data = self._held + data
        end = max(_after_last(data, b"\n\n"), _after_last(data, b"\r\n\r\n"))
        if end == 0 and len(data) > MOST_HELD_BYTES:
            end = len(data)
        self._held = data[end:]
        return data[:end]

    @property
    def held_bytes(self) -> int:
        """What is unfinished."""
        return len(self._held)

    def rest(self) -> bytes:
        """The unfinished event at the end of the stream, usually nothing."""
        return self._held


def _after_last(data: bytes, mark: bytes) -> int:
    at = data.rfind(mark)
    return at + len(mark) if at >= 0 else 0


def split_events(block: bytes) -> list[bytes]:
    """The events of a block of whole events, each with its blank line; their concatenation is the block."""
    events = []
    start = 0
    while start < len(block):
        lf, crlf = block.find(b"\n\n", start), block.find(b"\r\n\r\n", start)
        ends = [end for end in (lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0) if end]
        end = min(ends, default=len(block))
        events.append(block[start:end])
        start = end
    return events


def data_of(event: bytes) -> bytes | None:
    """The data of one event, its lines joined by LF; None where it has none (a comment, an id)."""
    if event.startswith(b"data:") and event.find(b"\n") >= len(event) - 2:
        return event[5:].strip()
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
