"""Streams whose events are mostly base64: images, and sound. They pass as they come, whatever their size.

An event of an image has megabytes, and nobody here needs them: what is read of each event is what remains without its
base64. So nothing is held but the end of what came: the blank line of an event whose beginning the client has already,
which makes it an event, leaves last of all once the usage that it tells is durable.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from typing import Any, Final

from sentinel.proxy.meter import StreamFormat, StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.sse import data_of, last_end, split_events
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import NOTHING, Usage

MOST_READ_BYTES: Final = 64 * 1024
"""Of an event without its base64: a hundred times what real ones have. What is longer is charged as unread."""

_LEAST_ENCODED: Final = 64
"""Bytes of base64: longer than any word that is read, such as ids, names, numbers."""
_ALPHABET: Final = (string.ascii_letters + string.digits + "+/=_-").encode()
_STEP_BYTES: Final = 16 * 1024
_DONE: Final = b"[DONE]"
_LINE_ENDS: Final = b"\r\n"
_NEVER: Final = re.compile(rb"(?!)")


def without_encoded(data: bytes) -> bytes:
    """JSON without the base64 in its strings; in small steps, for each holds up all threads."""
    if len(data) <= _STEP_BYTES:
        return _step_without(data)
    return b"".join(_step_without(data[at : at + _STEP_BYTES]) for at in range(0, len(data), _STEP_BYTES))


def _step_without(data: bytes) -> bytes:
    # A hundred times as fast as a pattern.
    pieces = data.split(b'"')
    return b'"'.join([b"" if len(each) >= _LEAST_ENCODED and _is_encoded(each) else each for each in pieces])


def _is_encoded(text: bytes) -> bool:
    return not text.translate(None, _ALPHABET)


class EncodedMeter(StreamMeter):
    """The meter of one such stream. A format's own says what an event is, and what has been delivered with it.

    told: what events have told of usage, all together. has_ended: a last event has come.
    """

    __slots__ = ("_coming", "_held", "_inside", "_left_out", "_plain", "_read_so_far", "_unreadable", "told")

    def __init__(self, model: str, redactor: Redactor) -> None:
        super().__init__(
            model,
            StreamFormat(
                read_event=lambda _: None,
                read_answer=lambda _: None,
                usage_of=lambda _: NOTHING,
                is_only_usage=None,
                is_last=lambda _: False,
                mark=_NEVER,
                envelope_mark=_NEVER,
            ),
            withhold_usage=False,
            redactor=redactor,
        )
        self._plain, self._held, self._read_so_far = redactor.plain, b"", b""
        self._inside = self._unreadable = False
        self._left_out = 0
        self._coming: int | None = None
        self.told: Usage | None = None

    @abstractmethod
    def note(self, kind: str, fields: dict[str, Any], size: int) -> bool:
        """Note an event of this type, and of so many bytes with its base64; whether it is the last."""

    @abstractmethod
    def note_unread(self, size: int) -> None:
        """Charge what cannot be read, of so many bytes."""

    @property
    def held_bytes(self) -> int:
        """Of an event that has not come whole."""
        return len(self._held) + len(self._read_so_far)

    @property
    def is_inside(self) -> bool:
        """Whether the client has a part of an event whose end has not come."""
        return self._inside

    @property
    def unfinished(self) -> bytes:
        """Nothing: what follows the last event is in its trail."""
        return b""

    def hold_whole(self) -> None:
        """Nothing is held for a limit: all that an answer may cost was reserved."""

    def cut(self, data: bytes) -> bytes:
        """All of it: events pass in pieces."""
        return data

    def inspect(self, block: bytes) -> bytes:
        """What the client may have of what came; the end of what may be a last event waits, as a begun key does."""
        data = self._plain(self._held + block)
        self._held = b""
        given: list[bytes] = []
        events = split_events(data)
        for position, event in enumerate(events):
            if last_end(event) < len(event):
                given.append(self._begun_event(event))
            elif self._is_last_event(event):
                body = event.rstrip(_LINE_ENDS)
                given.append(body)
                self.done, self.trail = event[len(body) :], b"".join(events[position + 1 :])
                break
            else:
                given.append(event)
        return b"".join(given)

    def _begun_event(self, piece: bytes) -> bytes:
        """What passes of an event that has not come whole."""
        end = min(len(piece.rstrip(_LINE_ENDS)), max(0, len(piece) - self._most_begun))
        piece, self._held = piece[:end], piece[end:]
        self._keep(piece)
        self._inside = self._inside or bool(piece)
        return piece

    def _keep(self, piece: bytes) -> None:
        rest = without_encoded(piece)
        self._left_out += len(piece) - len(rest)
        self._read_so_far += rest
        if len(self._read_so_far) > MOST_READ_BYTES:
            # It may have come in pieces that are shorter than what is taken for base64.
            rest = without_encoded(self._read_so_far)
            self._left_out += len(self._read_so_far) - len(rest)
            self._read_so_far = rest
        if len(self._read_so_far) > MOST_READ_BYTES:
            self._left_out += len(self._read_so_far)
            self._read_so_far, self._unreadable = b"", True

    def _is_last_event(self, end: bytes) -> bool:
        """Read an event, whose end this is."""
        self._keep(end)
        event, size, unreadable = self._read_so_far, self._left_out, self._unreadable
        self._read_so_far, self._left_out = b"", 0
        self._inside = self._unreadable = False
        data = data_of(event)
        if data is None and not unreadable:
            return False
        if data is not None and data.startswith(_DONE):
            return True
        fields = None if unreadable or data is None else parse(data)
        if not isinstance(fields, dict):
            self.malformed += 1
            self.note_unread(size + len(event))
            return False
        kind = fields.get("type")
        if kind == "error" or fields.get("error"):
            self.failed = True
            return False
        return self.note(kind if isinstance(kind, str) else "", fields, size + len(event))

    def rest(self) -> bytes:
        """At the end of a stream: what the client may have of an event without its blank line; usually nothing."""
        if self.done:
            return b""
        held, self._held = self._held, b""
        event = self._read_so_far + held
        if not event.strip():
            return held
        self.broke_off = parse(data_of(event) or b"") is None
        if self.broke_off:
            return b"\n\n" if self._inside else b""
        if self._is_last_event(held):
            self.done = held + b"\n\n"
            return b""
        return held + b"\n\n"

    def charge(self, tokens: int) -> None:
        """So many output tokens more are delivered with the block that has the end of this event."""
        self._coming = tokens + (self._coming or 0)

    def delivered(self, block: bytes) -> None:  # noqa: ARG002
        """Note that the client gets this block, and with it what its events were charged."""
        if self._coming is not None:
            self._generated = True
            self._delivered.feed_unread(self._coming)
            self._coming = None

    def tell(self, usage: Usage) -> None:
        """An event tells of usage; that of several adds up."""
        if usage == NOTHING:
            return
        self.told = self.usage = usage if self.told is None else self.told.plus(usage)

    @property
    def usage_is_final(self) -> bool:
        """Whether usage was told for all there is."""
        return self.told is not None

    def end(self) -> int:
        """The output tokens delivered; the last event has been read."""
        self.delivered(self.done)
        return self.count()

    def lacks_end(self) -> bool:
        """Whether a stream has ended without an event that it may end with, and without an error."""
        return not (self.done or self.failed or self.told is not None)
