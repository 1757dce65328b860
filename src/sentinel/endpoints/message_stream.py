"""The events of Anthropic's messages: for the meter, for the end at a limit, and for what came in one piece.

Source: Anthropic's API reference, "Streaming messages". The SDKs take no event without its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sentinel.endpoints.refusal import refusal_of
from sentinel.proxy.meter import StreamFormat, StreamMeter
from sentinel.proxy.redaction import NO_SECRET, Redactor
from sentinel.tokens.loose import Reading, Text, parse
from sentinel.tokens.message_answer import MESSAGE, read_message, read_message_event, read_run
from sentinel.tokens.usage import NOTHING, Usage

_LAST: Final = "message_stop"
_LAST_MARK: Final = _LAST.encode()
_MARK: Final = re.compile(rb'"usage"\s*:\s*\{|"message_stop"')
_START: Final = re.compile(rb'"message_start"')
_GROWING: Final = {
    "text": (("text", "text_delta", "text"),),
    "thinking": (("thinking", "thinking_delta", "thinking"), ("signature", "signature_delta", "signature")),
}
"""Types of blocks of which a stream has an empty one first: the fields that come later, and the deltas they come in."""
_TYPES_OF_REFUSALS: Final = {404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}


def _is_last(data: bytes) -> bool:
    if data.find(_LAST_MARK) < 0:
        return False
    fields = parse(data)
    return isinstance(fields, dict) and fields.get("type") == _LAST


def _usage_of(data: bytes) -> Usage:
    reading = read_message_event(data)
    return NOTHING if reading is None else reading.usage


class MessagesMeter(StreamMeter):
    """The meter of one stream, which knows what the client has of it, but for the last event: that may be too much.

    open: the parts that have been begun and not ended, in their order. has_told_end: also why the message ended.
    """

    __slots__ = ("_is_whole", "has_told_end", "open")

    def __init__(self, model: str, redactor: Redactor = NO_SECRET) -> None:
        self._is_whole = self.has_told_end = False
        self.open: tuple[int, ...] = ()
        stream_format = StreamFormat(
            read_event=self._read_event,
            read_run=self._read_run,
            read_answer=self._read_answer,
            usage_of=_usage_of,
            is_only_usage=None,
            is_last=_is_last,
            mark=_MARK,
            envelope_mark=_START,
        )
        super().__init__(model, stream_format, withhold_usage=False, redactor=redactor)

    def lacks_end(self) -> bool:
        """Whether a stream has ended without its last event and without an error; why a message ended is not enough."""
        self.count()
        return not (self.done or self.failed or self._is_whole)

    def has_delivered(self, said: Reading) -> None:
        """The client has the event that says so."""
        if said.begun or said.ended:
            self.open = (*(part for part in self.open if part not in said.ended), *said.begun)
        self.has_told_end = self.has_told_end or bool(said.finished)

    def _read_event(self, data: bytes) -> Reading | None:
        reading = read_message_event(data)
        self.note_last(reading)
        return reading

    def _read_run(self, block: bytes) -> list[Text] | None:
        texts = read_run(block)
        if texts is not None:
            # It says neither that a part has begun or ended, nor why the message has.
            self.note_last(Reading())
        return texts

    def _read_answer(self, data: bytes) -> Reading | None:
        reading = read_message(data)
        self._is_whole = self._is_whole or (reading is not None and bool(reading.finished))
        return reading


def ending(meter: MessagesMeter, usage: Usage) -> bytes:
    """The events that end a stream cleanly at a limit. usage: what is charged.

    The event that came last from the provider is the one that the client does not get.
    """
    events: list[bytes] = []
    if MESSAGE not in meter.open:
        # The first event was too much already, or there was none.
        events.append(_event("message_start", message=_begun(meter.model, usage)))
    events += [_event("content_block_stop", index=index) for index in meter.open if index != MESSAGE]
    if not meter.has_told_end:
        told = meter.usage
        figures = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        if told.adds_cache:
            figures |= {
                "input_tokens": told.uncached_tokens,
                "cache_creation_input_tokens": told.cache_write_tokens,
                "cache_read_input_tokens": told.cached_tokens,
            }
        events.append(_event("message_delta", delta=_ended("max_tokens"), usage=figures))
    return b"".join([*events, _event(_LAST)])


def answer(body: bytes) -> bytes:
    """A whole message as a stream, and its end. What is not understood is an error to the client."""
    message = parse(body)
    if not isinstance(message, dict) or message.get("type") == "error" or "content" not in message:
        return refusal(200, body)
    usage = message.get("usage") or {}
    events = [_event("message_start", message={**message, "content": [], **_ended(None)})]
    for index, block in enumerate(message["content"]):
        events += _events_of_block(index, block)
    ended = _ended(message.get("stop_reason"), message.get("stop_sequence"))
    events += [_event("message_delta", delta=ended, usage=usage), _event(_LAST)]
    return b"".join(events)


def refusal(status: int, body: bytes) -> bytes:
    """A provider's refusal as the stream's last event: its own error, or what it said in the shape of one."""
    said, error, told = refusal_of(body)
    if error is not None:
        return _event("error", **{**said, "type": "error"})
    kind = _TYPES_OF_REFUSALS.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")
    return _event("error", error={"type": kind, "message": told})


def _events_of_block(index: int, block: Any) -> Iterator[bytes]:
    kind = block.get("type") if isinstance(block, dict) else None
    begun, deltas = block, []
    if kind in _GROWING:
        growing = [each for each in _GROWING[kind] if each[0] in block]
        begun = {**block, **{field: "" for field, _, _ in growing}}
        deltas = [{"type": delta, name: block[field]} for field, delta, name in growing]
    elif kind is not None and kind.endswith("tool_use") and "input" in block:
        begun = {**block, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": msgspec.json.encode(block["input"]).decode()}]
    yield _event("content_block_start", index=index, content_block=begun)
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def _begun(model: str, usage: Usage) -> dict[str, Any]:
    """A message of ours, of which nothing has been said."""
    figures = {"input_tokens": usage.prompt_tokens, "output_tokens": 0}
    message = {"id": "msg_sentinel", "type": "message", "role": "assistant", "model": model, "content": []}
    return {**message, **_ended(None), "usage": figures}


def _ended(reason: Any, sequence: Any = None) -> dict[str, Any]:
    return {"stop_reason": reason, "stop_sequence": sequence}


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
