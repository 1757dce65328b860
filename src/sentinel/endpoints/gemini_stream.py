"""The events of Gemini's streams: for the meter, for the end at a limit, and for what came in one piece.

Each event is a whole answer with what is new; no event says that it is the last one. So once a candidate has told why
it ended, each event is held until another follows it: the one that none follows leaves after usage is durable.
Source: Google's API reference, "Stream response".
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from sentinel.endpoints.gemini import status_word
from sentinel.proxy.meter import StreamFormat, StreamMeter
from sentinel.proxy.redaction import NO_SECRET, Redactor
from sentinel.proxy.sse import data_of, split_events
from sentinel.tokens.gemini_answer import read_event, read_generated, read_usage
from sentinel.tokens.loose import parse
from sentinel.tokens.usage import Usage

_MOST_TOLD_BYTES: Final = 1000
_ENDED: Final = re.compile(
    rb'"(?:finish|block)(?:R|_r)eason"\s*:\s*"(?!"|FINISH_REASON_UNSPECIFIED|BLOCK_REASON_UNSPECIFIED)'
)
_CANDIDATES: Final = re.compile(rb'"candidates"')
_ENVELOPE: Final = ("modelVersion", "responseId", "createTime")


class GeminiMeter(StreamMeter):
    """The meter of one stream, which holds what may be its last event."""

    __slots__ = ("_held", "_told_end")

    def __init__(self, model: str, redactor: Redactor = NO_SECRET) -> None:
        self._held = b""
        self._told_end = False
        stream_format = StreamFormat(
            read_event=read_event,
            read_answer=read_generated,
            usage_of=read_usage,
            is_only_usage=None,
            is_last=None,
            mark=_ENDED,
            envelope_mark=_CANDIDATES,
        )
        super().__init__(model, stream_format, withhold_usage=False, redactor=redactor)
        # A picture is one event, and may be the last.
        self.hold_whole()

    @property
    def held_bytes(self) -> int:
        """Of an event that has not come whole, and of one that may be the last."""
        return self._buffer.held_bytes + len(self._held)

    @property
    def may_trail(self) -> bool:
        """Never: a stream is read to its end to know its last event."""
        return False

    def rest(self) -> bytes:
        """At the end of a stream: what the client may have of an event without its blank line. The last is `done`."""
        held = self._release()
        rest = held + super().rest() + self._release()
        if self.broke_off or self.done:
            # What was held is whole, and not the last.
            return rest
        if self._told_end:
            rest, self.done = _parted(rest)
            return rest
        # What follows is an error of ours.
        return rest + b"\n\n" if data_of(rest) else rest

    def lacks_end(self) -> bool:
        """Whether a stream has ended without telling why, and without an error."""
        self.count()
        return not (self._told_end or self.done or self.finished or self.failed)

    def may_pass(self) -> bool:
        """Not once a candidate has ended: each event may be the last."""
        return not self._told_end and super().may_pass()

    def _inspect_piece(self, piece: bytes, most_begun: int) -> bytes:
        return self._release() + super()._inspect_piece(piece, most_begun)

    def _inspect(self, block: bytes) -> bytes:
        block = super()._inspect(block)
        self._told_end = self._told_end or _ENDED.search(block) is not None
        if not self._told_end or self.done:
            return self._release() + block
        given, self._held = _parted(self._held + block)
        if data := data_of(self._held):
            # It counts although the client may not live to get it.
            self._note_usage(data, self._given_bytes)
        return given

    def _release(self) -> bytes:
        held, self._held = self._held, b""
        return held


def _parted(block: bytes) -> tuple[bytes, bytes]:
    """Events before the last one that says something, and that one with whatever follows it."""
    events = split_events(block)
    last = next((place for place in reversed(range(len(events))) if data_of(events[place])), len(events))
    return b"".join(events[:last]), b"".join(events[last:])


def ending(meter: GeminiMeter, choices: int, usage: Usage) -> bytes:
    """The event that ends a stream cleanly at a limit, with the envelope of those before. usage: what is charged."""
    open_choices = [index for index in range(max(1, choices)) if index not in meter.finished]
    candidates = [
        {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": index}
        for index in open_choices
    ]
    figures = {
        "promptTokenCount": usage.prompt_tokens,
        "candidatesTokenCount": usage.completion_tokens,
        "totalTokenCount": usage.prompt_tokens + usage.completion_tokens,
    }
    envelope = _envelope(meter.first) or {"modelVersion": meter.model}
    return _event({"candidates": candidates, "usageMetadata": figures, **envelope})


def answer(body: bytes) -> bytes:
    """A whole answer as a stream; a list of answers has an event for each."""
    said = parse(body)
    if isinstance(said, list):
        return b"".join(_event(each) for each in said)
    return _event(said) if isinstance(said, dict) else refusal(200, body)


def refusal(status: int, body: bytes) -> bytes:
    """A provider's refusal as the stream's last event: its own error, or what it said in the shape of one."""
    said = parse(body)
    if isinstance(said, list) and said:
        said = said[0]
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict):
        return _event({"error": {"code": status, "status": status_word(status), **error}})
    told = error if isinstance(error, str) else body[:_MOST_TOLD_BYTES].decode("utf-8", "replace")
    message = told or "The model provider refused the request."
    return _event({"error": {"code": status, "message": message, "status": status_word(status)}})


def _envelope(block: bytes) -> dict[str, Any]:
    """What all events of a stream have in common, from the first of these that has it."""
    for event in split_events(block):
        fields = parse(data_of(event) or b"")
        if isinstance(fields, dict) and "candidates" in fields:
            return {name: fields[name] for name in _ENVELOPE if name in fields}
    return {}


def _event(fields: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(fields)
