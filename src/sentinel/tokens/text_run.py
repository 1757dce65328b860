"""Runs of stream events that bring text and nothing else, read in one go: a third of what reading each by itself takes.

Nearly all of a stream is such runs. Their data are made one JSON array, so that one call reads them all. An event of
another shape, a comment, or a line that not all of them have makes that fail; then each event is read by itself
(answer.py, message_answer.py, responses_answer.py), which knows all shapes.
"""

from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

_MOST_BEFORE_DATA: Final = 200
"""Bytes of the lines before an event's data, such as its name."""


def events_of(block: bytes, decoder: "msgspec.json.Decoder[list[T]]") -> list[T] | None:
    """What the events of a block say, if each has the lines before its data that the first has; None if unclear.

    decoder: of a list of what such an event says.
    """
    start = block.find(b"data: ", 0, _MOST_BEFORE_DATA) + len(b"data: ")
    before = block[:start]
    if start < len(b"data: ") or not block.endswith(b"\n\n") or block.find(b"\r") >= 0 or before.find(b"error") >= 0:
        return None
    between = b"\n\n" + before
    try:
        events = decoder.decode(b"[%b]" % block[start:-2].replace(between, b","))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # An event of which a comma parts two values is none that anybody reads.
    return events if len(events) == block.count(between) + 1 else None
