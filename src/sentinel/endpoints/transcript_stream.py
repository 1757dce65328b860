"""The stream of POST /v1/audio/transcriptions: its meter, and the events that Sentinel ends it with.

Source: OpenAI API reference, "Create transcription", "Stream events".
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from sentinel.endpoints.refusal import refusal_event
from sentinel.proxy.meter import StreamFormat, StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.loose import Reading, parse
from sentinel.tokens.transcript import DELTA, DONE, TranscriptTexts, read_transcript, usage_of
from sentinel.tokens.usage import NOTHING, Usage

_MARK: Final = re.compile(rb'"usage"\s*:\s*\{|"type"\s*:\s*"transcript\.text\.done"')
_NEVER: Final = re.compile(rb"(?!)")
MOST_KEPT_CHARS: Final = 1024 * 1024
"""Of one stream, to be repeated at a limit: more than anybody says in a file that is taken."""


def _is_last(data: bytes) -> bool:
    event = parse(data)
    return isinstance(event, dict) and event.get("type") == DONE


def _usage_of(data: bytes) -> Usage:
    event = parse(data)
    return usage_of(event) if isinstance(event, dict) else NOTHING


class TranscriptMeter(StreamMeter):
    """The meter of one stream, which knows what the client has. said: that, for its last event tells it as a whole."""

    __slots__ = ("_keeps", "_kept_chars", "_texts", "said")

    def __init__(self, model: str, redactor: Redactor) -> None:
        self._texts = TranscriptTexts()
        self._keeps, self._kept_chars = False, 0
        self.said: list[str] = []
        stream_format = StreamFormat(
            read_event=self._read_event,
            read_answer=read_transcript,
            usage_of=_usage_of,
            is_only_usage=None,
            is_last=_is_last,
            mark=_MARK,
            envelope_mark=_NEVER,
        )
        super().__init__(model, stream_format, withhold_usage=False, redactor=redactor)

    @property
    def kept_bytes(self) -> int:
        """Of what the client has, to be repeated at a limit."""
        return self._kept_chars

    def hold_whole(self) -> None:
        """The stream may be ended at a limit."""
        super().hold_whole()
        self._keeps = True

    def has_delivered(self, said: str) -> None:
        """The client has this text."""
        self.said.append(said)

    def _read_event(self, data: bytes) -> Reading | None:
        reading = self._texts.read(data)
        said = "" if reading is None else "".join(text.piece for text in reading.texts)
        self._kept_chars += len(said)
        if self._keeps and self._kept_chars <= MOST_KEPT_CHARS:
            self.note_last(said)
        return reading


def ending(meter: TranscriptMeter, usage: Usage) -> bytes:
    """The event that ends a stream cleanly at a limit: the text so far. usage: what is charged.

    The event that came last from the provider is the one that the client does not get.
    """
    told = {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    return _event({"type": DONE, "text": "".join(meter.said), "usage": told})


def answer(body: bytes) -> bytes:
    """A whole answer as a stream: its text in one piece."""
    value = parse(body)
    text = value.get("text") if isinstance(value, dict) else body.decode("utf-8", "replace")
    if not isinstance(text, str):
        return refusal_event(body)
    usage = {"usage": value["usage"]} if isinstance(value, dict) and "usage" in value else {}
    delta = _event({"type": DELTA, "delta": text}) if text else b""
    return delta + _event({"type": DONE, "text": text, **usage})


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(fields)
