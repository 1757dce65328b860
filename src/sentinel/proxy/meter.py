"""What a stream has cost so far, read from a copy of its bytes.

Most chunks are only kept for later: their text is taken apart in one go, every few kilobytes, or when the reservation
could be near its end, or when somebody asks. What the client gets are the provider's bytes, less the usage chunk that
we asked for and the client did not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sentinel.proxy.redaction import NO_SECRET, Redactor
from sentinel.proxy.sse import EventBuffer, bytes_outside, data_of, last_end, split_events
from sentinel.tokens.delivered import DeliveredText
from sentinel.tokens.loose import Reading, Text, parse
from sentinel.tokens.usage import NOTHING, Usage

MOST_PENDING_BYTES = 16 * 1024
"""Raw bytes kept before their text is taken out: bounds the memory of a stream, and each step to about 0.2 ms."""

MOST_READ_BYTES = 8 * 1024 * 1024
"""Of one event. What is longer is charged by its bytes."""

_TELLS_ERROR = re.compile(rb"(?:\A|[\r\n])(?:event: ?error|error:)")
"""An event of that name, and a field of it, as llama.cpp has had (llama.cpp#14566)."""
DONE = b"[DONE]"
"""How the data of a stream's last event begins, in most formats."""
_WHITE_SPACE = b" \t\r\n\xef\xbb\xbf"
"""And the bytes of a BOM."""


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What the meter must know of a format's events.

    read_event, read_answer: what the data of one event, and a whole answer to who asked for a stream, say; None for
    what is no JSON object. usage_of: what the data of an event tells of usage, whether or not the client gets it.
    is_only_usage: whether it tells nothing else; None where nobody asks for such an event. is_last: whether it ends a
    stream that must not end without; None for streams whose end is `[DONE]`, if anything.
    mark: found in whatever tells usage, or is last. envelope_mark: found in the first event of which a stream that is
    ended early takes its envelope. read_run: the texts of a block of events that bring text and say nothing else, as
    the last one surely does; it says None of any other block, and is None for a format that has no such blocks.
    """

    read_event: Callable[[bytes], Reading | None]
    read_answer: Callable[[bytes], Reading | None]
    usage_of: Callable[[bytes], Usage]
    is_only_usage: Callable[[bytes], bool] | None
    is_last: Callable[[bytes], bool] | None
    mark: re.Pattern[bytes]
    envelope_mark: re.Pattern[bytes]
    read_run: Callable[[bytes], list[Text] | None] | None = None


@cache
def _search(mark: re.Pattern[bytes]) -> Callable[[bytes], re.Match[bytes] | None]:
    """One for all streams, so that it is in the processor's cache."""
    return mark.search


class StreamMeter:
    """Bytes of the provider in, bytes for the client out, and on request the tokens that went by.

    stream_format: of its events.
    withhold_usage: the client did not ask for the usage chunk, so it does not get it.
    redactor: takes the provider's key out of events.
    failed: the provider told of an error. broke_off: the stream ended inside of an event. first: the first events of
    which one has the envelope. finished: why each choice that has ended did; call `count` before. done: the last event.
    trail: what came after it. notable: finds what needs a closer look in events; so does the provider's key, of which
    `mark` is a part. passed: events that the client has got without a look; they are appended to this.
    """

    __slots__ = (
        "_begins_inside",
        "_begun",
        "_buffer",
        "_delivered",
        "_format",
        "_generated",
        "_given_bytes",
        "_has_ended",
        "_is_last",
        "_is_only_usage",
        "_last",
        "_most_begun",
        "_pending",
        "_read_bytes",
        "_redact",
        "_text_at",
        "_too_long",
        "_usage_at",
        "broke_off",
        "done",
        "failed",
        "finished",
        "first",
        "malformed",
        "mark",
        "model",
        "notable",
        "passed",
        "trail",
        "usage",
    )  # fmt: skip

    def __init__(
        self, model: str, stream_format: StreamFormat, *, withhold_usage: bool, redactor: Redactor = NO_SECRET
    ) -> None:
        # The end of a piece of an event, where the provider's key may begin.
        self._begun = b""
        self._buffer = EventBuffer()
        self._delivered = DeliveredText(model)
        self._format = stream_format
        self._is_last, self.notable = stream_format.is_last, _search(stream_format.mark)
        self._is_only_usage = stream_format.is_only_usage if withhold_usage else None
        self.finished: dict[int, str] = {}
        self.first = b""
        self._generated = False
        self.model = model
        # In one piece: where each block stays by itself, its memory is not there for the next one, and what is read
        # and written meanwhile leaves the processor's cache (docs/performance.md).
        self._pending, self.passed = bytearray(), bytearray()
        self.mark, self._redact, self._most_begun = redactor.mark, redactor.plain, redactor.most_begun
        # Positions in the bytes that the client gets: so much was given out, and read; here the last usage came, and
        # the last text ended.
        self._given_bytes = self._read_bytes = self._usage_at = self._text_at = 0
        self._begins_inside = self._has_ended = self._too_long = False
        self._last: Any = None
        self.usage = NOTHING
        self.done = self.trail = b""
        self.failed = self.broke_off = False
        self.malformed = 0

    @property
    def held_bytes(self) -> int:
        """Of an event that has not come whole."""
        return self._buffer.held_bytes

    @property
    def is_inside(self) -> bool:
        """Whether the client has a part of an event whose end has not come."""
        return self._buffer.is_inside

    @property
    def is_done(self) -> bool:
        """Whether the stream's last event has come."""
        return bool(self.done)

    @property
    def waiting_bytes(self) -> int:
        """What is yet to be read."""
        return len(self._pending) + len(self.passed)

    def hold_whole(self) -> None:
        """Give out no event in pieces, as far as its copy may be read: a limit must be decided before it leaves."""
        self._buffer.most_held_bytes = MOST_READ_BYTES

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the provider; return what the client may have of them, whole events only.

        An event that is too long to be held comes in pieces. `[DONE]` is held back in `done`: the exchange is not done
        before its usage is durable.
        """
        return self.inspect(self.cut(data))

    def cut(self, data: bytes) -> bytes:
        """The first half of `feed`, which takes next to no time: the whole events so far."""
        self._begins_inside = self._buffer.is_inside
        return self._buffer.feed(data)

    def inspect(self, block: bytes) -> bytes:
        """The other half of `feed`, which takes 1 ms for a megabyte."""
        if not block:
            return block
        self._absorb()
        if not self._begins_inside and not self._buffer.is_inside:
            return self._inspect(block)
        if self._buffer.is_inside:
            return self._inspect_piece(block, self._most_begun)
        last = split_events(block)[0]
        return self._inspect_piece(last, 0) + self._inspect(block[len(last) :])

    def _inspect_piece(self, piece: bytes, most_begun: int) -> bytes:
        """What the client may have of a piece of an event; what may be the beginning of a key waits for the next."""
        piece = self._redact(self._begun + piece)
        end = max(0, len(piece) - most_begun)
        self._begun = piece[end:]
        self._given_bytes += end
        return piece[:end]

    def rest(self) -> bytes:
        """At the end of a stream: what the client may have of an event without its blank line; usually nothing.

        An event that broke off in its middle is dropped, and `broke_off` says so: nobody could read it.
        """
        if self.done:
            return b""
        self._absorb()
        rest = self._buffer.rest()
        self._begins_inside = False
        self._has_ended = not self._buffer.is_inside or self._is_whole_answer()
        if not self._has_ended:
            self.broke_off = True
            return b"\n\n"
        self.broke_off = not self._is_readable(rest)
        if self.broke_off or (self._is_last is not None and self._says_nothing(rest)):
            return b""
        rest = self._inspect_piece(b"", 0) + self._inspect(rest)
        # What follows an event that is not the last is an error of ours.
        return rest + b"\n\n" if self._is_last is not None and data_of(rest) else rest

    def _is_readable(self, rest: bytes) -> bool:
        """Whether a last event without its blank line came whole: what it has for data is JSON, or the end."""
        data = data_of(rest)
        return not data or data.startswith(DONE) or parse(data) is not None

    @staticmethod
    def _says_nothing(rest: bytes) -> bool:
        """Whether a last event without its blank line broke off before its data; a whole answer needs none."""
        return not data_of(rest) and not rest.lstrip(_WHITE_SPACE).startswith(b"{")

    def _is_whole_answer(self) -> bool:
        return self._pending.lstrip()[:1] == b"{"

    def _inspect(self, block: bytes) -> bytes:
        if not block:
            return block
        # `find`, for `in` makes an exception first for whatever is no number.
        if self.mark is not None and block.find(self.mark) >= 0:
            block = self._redact(block)
        if not self.first and self._format.envelope_mark.search(block) is not None:
            self.first = block
        if block.find(DONE) >= 0 or self.notable(block) is not None:
            return self._sift(block)
        self._given_bytes += len(block)
        return block

    def may_pass(self) -> bool:
        """Whether whole events may pass in which there is nothing notable, with no look at them.

        Not before the first event with an envelope, nor behind a part of an event.
        """
        return bool(self.first) and not self._buffer.held_bytes and not self._buffer.is_inside

    def _absorb(self) -> None:
        """What has passed was given out, and delivered."""
        if self.passed:
            self._given_bytes += len(self.passed)
            self._pending += self.passed
            self.passed.clear()

    def delivered(self, block: bytes) -> None:
        """Note that the client gets this block."""
        self._absorb()
        self._pending += block
        # An event that comes in pieces is read when it is whole.
        if len(self._pending) > (MOST_READ_BYTES if self._buffer.is_inside else MOST_PENDING_BYTES):
            self._take_apart()

    def _sift(self, block: bytes) -> bytes:
        kept = []
        events = split_events(block)
        for position, event in enumerate(events):
            data = data_of(event)
            if data is None:
                kept.append(event)
            elif data.startswith(DONE):
                # The body ends with it; whatever follows is for nobody.
                self.done = event
                break
            elif self.notable(data) is None:
                kept.append(event)
            elif self._is_last is not None and self._is_last(data):
                self._note_usage(data, self._given_bytes + sum(map(len, kept)))
                self.done, self.trail = event, b"".join(events[position + 1 :])
                break
            else:
                if self._is_only_usage is None or not self._is_only_usage(data):
                    kept.append(event)
                self._note_usage(data, self._given_bytes + sum(map(len, kept)))
        block = b"".join(kept)
        self._given_bytes += len(block)
        return block

    def _note_usage(self, data: bytes, at: int) -> None:
        usage = self._format.usage_of(data)
        if usage != NOTHING:
            self.usage = self.usage.merged(usage)
            self._usage_at = at

    @property
    def usage_is_final(self) -> bool:
        """Whether no text came after the last usage; call `count` before."""
        return self.usage != NOTHING and self._text_at <= self._usage_at

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended; call `count` before."""
        return next(iter(list(self.finished.values())), None)

    def has_finished(self, choices: int) -> bool:
        """Whether each of so many choices has its finish reason: only usage can follow. Call `count` before."""
        return len(self.finished) >= choices

    @property
    def generated(self) -> bool:
        """Whether the provider has generated anything, or said that it has; call `count` before."""
        return bool(self._text_at or self._generated or self.usage.output_tokens)

    @property
    def is_broken(self) -> bool:
        """Whether a stream that has ended told of an error, or of nothing at all; call `count` before."""
        return self.failed or not (self.done or self.generated or self.usage != NOTHING)

    def note_last(self, said: Any) -> None:
        """Note what the event says that is read now; a limit may keep it from the client, but not the one before it.

        For formats whose streams end at a limit with events that depend on what the client has.
        """
        self.deliver_last()
        self._last = said

    def deliver_last(self) -> None:
        """The client has the last event, too."""
        said, self._last = self._last, None
        if said is not None:
            self.has_delivered(said)

    def has_delivered(self, said: Any) -> None:
        """The client has the event that says so."""

    @property
    def kept_bytes(self) -> int:
        """Of what was delivered, for the events that end the stream at a limit."""
        return 0

    @property
    def may_trail(self) -> bool:
        """Whether anything may follow the last event: where that is no `[DONE]`, one may."""
        return self._is_last is not None and self.is_done and data_of(self.done) != DONE

    def lacks_end(self) -> bool:
        """Whether a stream has ended without the event that it must end with, and without an error."""
        self.count()
        return self._is_last is not None and not (self.done or self.failed or self.finished)

    @property
    def unfinished(self) -> bytes:
        """What has come of an event that has not come whole."""
        return self._buffer.rest()

    def end_with(self, trail: bytes) -> None:
        """Give out what came after the last event with it."""
        self.done += self._redact(trail)

    def end(self) -> int:
        """Note that the client is to get the last event, too; the output tokens delivered with it."""
        self.count()
        if self.done:
            self._read_bytes += len(self.done)
            self._read(self.done)
        return self._delivered.count()

    def take_back(self, finished: dict[int, str]) -> None:
        """The client does not get the last event: to it only these choices have ended."""
        self.finished = finished

    def could_exceed(self, tokens: int) -> bool:
        """Whether more than `tokens` may have been delivered; cheap, and never wrong when it says no."""
        return self.upper_bound() > tokens

    def upper_bound(self) -> int:
        """No fewer tokens than have been delivered: those that are counted, and a token for each byte that is not."""
        return self._delivered.upper_bound() + self.waiting_bytes

    def fits(self, tokens: int) -> bool:
        """Whether no more than `tokens` have been delivered; counts only where that is not clear."""
        if self.could_exceed(tokens) and self.waiting_bytes and tokens > 0:
            self.count()
        return not self.could_exceed(tokens)

    def roughly(self) -> int:
        """About how many tokens have been delivered: what is not counted yet has as many for its bytes as what is."""
        counted = self._delivered.upper_bound()
        return counted + self.waiting_bytes * counted // self._read_bytes if self._read_bytes else self.waiting_bytes

    def count(self) -> int:
        """The output tokens delivered so far, exactly."""
        self._absorb()
        if self._pending:
            self._take_apart()
        return self._delivered.count()

    def measure(self, block: bytes) -> int:
        """Note that the client gets this block; the output tokens delivered with it."""
        self.delivered(block)
        return self.count()

    def _take_apart(self) -> None:
        block = bytes(self._pending)
        # An event that the client has in part cannot be read yet, nor can the client.
        end = len(block) if self._has_ended else last_end(block)
        whole = block[:end]
        for event in () if self._is_run(whole) else split_events(whole):
            self._read_bytes += len(event)
            if self._too_long:
                self._too_long = False
                self._charge_bytes(len(event))
            else:
                self._read(event)
        rest = block[end:]
        if len(rest) > MOST_READ_BYTES or (rest and self._too_long):
            self._read_bytes += len(rest)
            self._too_long = True
            self._charge_bytes(len(rest))
            rest = b""
        self._pending = bytearray(rest)

    def _is_run(self, block: bytes) -> bool:
        """Read a block of events that bring text and nothing else in one go; False, and nothing is read, for others."""
        read = self._format.read_run
        texts = None if read is None or self._too_long else read(block)
        if texts is None:
            return False
        self._delivered.feed(texts)
        self._read_bytes += len(block)
        self._text_at = self._read_bytes
        return True

    def _charge_bytes(self, unread: int) -> None:
        self._delivered.feed_unread(unread)
        self._text_at = self._read_bytes

    def _read(self, event: bytes) -> None:
        is_error = event.find(b"error") >= 0 and _TELLS_ERROR.search(event) is not None
        self.failed = self.failed or is_error
        data = data_of(event)
        read = self._format.read_event
        if data is None:
            # It may be a whole answer to who asked for a stream.
            read, data = self._format.read_answer, event.strip(_WHITE_SPACE)
            if not data.startswith(b"{"):
                if not is_error and (unread := bytes_outside(event)):
                    self.malformed += 1
                    self._charge_bytes(unread)
                return
        elif data.startswith(DONE):
            return
        reading = read(data) if data else Reading()
        if reading is None:
            self.malformed += 1
            if not is_error:
                self._charge_bytes(len(data))
            return
        if reading.texts:
            self._delivered.feed(reading.texts)
            self._text_at = self._read_bytes
        if reading.usage is not NOTHING and reading.usage != NOTHING:
            self.usage = self.usage.merged(reading.usage)
            self._usage_at = max(self._usage_at, self._read_bytes)
        if reading.finished:
            self.finished.update(reading.finished)
        self._generated = self._generated or reading.is_generated
        self.failed = self.failed or reading.failed
