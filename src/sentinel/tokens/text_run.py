"""Runs of stream events that bring text and nothing else, read in one go: a third of what reading each by itself takes.

Nearly all of a stream is such runs. Their data are made one JSON array, so that one call reads them all. An event of
another shape, a comment, or a line that not all of them have makes that fail; then each event is read by itself
(answer.py, message_answer.py, responses_answer.py), which knows all shapes.
"""

from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

_strings = msgspec.json.Decoder(list[str]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

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
    except _UNREADABLE:
        return None
    # An event of which a comma parts two values is none that anybody reads.
    return events if len(events) == block.count(between) + 1 else None


def alike(block: bytes, mark: bytes, decoder: "msgspec.json.Decoder[list[T]]") -> tuple[T, list[str]] | None:
    """What the first event of a block says, and what string stands behind `mark` in each, where nothing else differs.

    None where that is not so, or not clear. That is what most providers' events are like, whose text alone changes: a
    third of what `events_of` takes, for the texts are one JSON array of strings.
    """
    *events, rest = block.split(b"\n\n")
    if rest or not events:
        return None
    first = events[0]
    start = first.find(mark) + len(mark)
    end = first.find(b'"', start)
    before, behind = first[:start], first[end:]
    if start < len(mark) or end < 0 or first.find(mark, start) >= 0 or min(map(len, events)) < start + len(behind):
        return None
    stop = -len(behind)
    texts = [event[start:stop] for event in events if event.startswith(before) and event.endswith(behind)]
    if len(texts) < len(events):
        return None
    try:
        strings = _strings(b'["%b"]' % b'","'.join(texts))
    except _UNREADABLE:
        return None
    # A text in which a quote ends it would be several.
    said = events_of(first + b"\n\n", decoder) if len(strings) == len(events) else None
    return None if said is None else (said[0], strings)
