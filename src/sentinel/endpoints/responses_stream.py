"""The stream of POST /v1/responses: its meter, and the events that Sentinel ends it with.

Every event has a name, a type and a number. Usage is in the last event, which is no `[DONE]`; a stream without a last
event broke off.
Source: OpenAI API reference, "Responses: streaming events".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from sentinel.endpoints.refusal import refusal_of
from sentinel.endpoints.responses_items import DeliveredItems, told
from sentinel.error import AppError, body_of
from sentinel.proxy.meter import StreamFormat, StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.sse import data_of, split_events
from sentinel.tokens.loose import Reading, Text, parse
from sentinel.tokens.responses_answer import (
    Event,
    ResponseTexts,
    is_last,
    merged,
    parse_event,
    parse_run,
    read_answer,
    usage_of,
)
from sentinel.tokens.usage import Usage

_MARK = re.compile(rb'"usage"\s*:\s*\{|"type"\s*:\s*"response\.(?:completed|incomplete|failed)"')
_CREATED = re.compile(rb'"type"\s*:\s*"response\.created"')
_LAST_TYPES = {"failed": "response.failed", "incomplete": "response.incomplete"}
"""The types of last events by the status of their response; that of all others is `response.completed`."""


class ResponsesMeter(StreamMeter):
    """The meter of one stream, which knows what has been said, and what the client has. items: that."""

    __slots__ = ("_texts", "items")

    def __init__(self, model: str, redactor: Redactor) -> None:
        self.items = DeliveredItems()
        self._texts = ResponseTexts()
        stream_format = StreamFormat(
            read_event=self._read_event,
            read_run=self._read_run,
            read_answer=read_answer,
            usage_of=usage_of,
            is_only_usage=None,
            is_last=is_last,
            mark=_MARK,
            envelope_mark=_CREATED,
        )
        super().__init__(model, stream_format, withhold_usage=False, redactor=redactor)

    @property
    def kept_bytes(self) -> int:
        """Of what the client has, to be repeated at a limit."""
        return self.items.kept_bytes

    def hold_whole(self) -> None:
        """The stream may be ended at a limit."""
        super().hold_whole()
        self.items.keeps = True

    def has_delivered(self, said: Event) -> None:
        """The client has this event."""
        self.items.deliver(said)

    def _read_event(self, data: bytes) -> Reading | None:
        event = parse_event(data)
        if event is None:
            return None
        self.note_last(event)
        self.items.note_size(len(data))
        return self._texts.read(event)

    def _read_run(self, block: bytes) -> list[Text] | None:
        events = parse_run(block)
        if events is None:
            return None
        *others, last = whole = events
        if others:
            before = merged(others)
            self.note_last(before)
            whole = [before, last]
        self.note_last(last)
        self.items.note_size(len(block))
        return self._texts.read_delta(merged(whole))


def ending(meter: ResponsesMeter, usage: Usage) -> bytes:
    """The events that end a stream cleanly at a limit: what is open is done, and the response is incomplete.

    usage: what is charged. The event that came last from the provider is the one that the client does not get.
    """
    events, items = meter.items.close()
    response = {
        **_created(meter),
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": items,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }
    return _numbered([*events, {"type": "response.incomplete", "response": response}], meter.items.sequence + 1)


def _created(meter: StreamMeter) -> dict[str, Any]:
    """The response as the provider's first event has it."""
    for event in split_events(meter.first):
        fields = parse(data_of(event) or b"")
        if isinstance(fields, dict) and isinstance(fields.get("response"), dict):
            return dict(fields["response"])
    return {"object": "response", "model": meter.model}


def error_event(error: AppError, meter: ResponsesMeter | None) -> bytes:
    """An error of ours as the last event of a stream; meter: of what came before it."""
    sequence = 0
    if meter is not None:
        meter.count()
        meter.deliver_last()
        sequence = meter.items.sequence + 1
    return _error_event(msgspec.json.decode(body_of(error))["error"], sequence)


def refusal(status: int, body: bytes) -> bytes:
    """A provider's refusal as a stream's only event: its own error, or what it said in the shape of one."""
    _, error, told = refusal_of(body)
    if error is None:
        error = {
            "message": told,
            "type": "invalid_request_error",
            "param": None,
            "code": None,
            "details": {"status": status},
        }
    return _error_event(error, 0)


def _error_event(error: dict[str, Any], sequence: int) -> bytes:
    """As the reference has it, and with `error` beside it, as OpenAI sends it and its SDK for Python looks for."""
    told_flat = {name: error.get(name) for name in ("code", "message", "param")}
    return _numbered([{"type": "error", **told_flat, "error": error}], sequence)


def answer(body: bytes) -> bytes:
    """A whole answer as a stream; one in another shape as its only event."""
    response = parse(body)
    if isinstance(response, dict) and isinstance(response.get("error"), dict) and "output" not in response:
        return _error_event(response["error"], 0)
    if not isinstance(response, dict) or not isinstance(response.get("output"), list):
        return b"".join(b"data: %b\n" % line for line in body.splitlines()) + b"\n"
    created = {**response, "status": "in_progress", "output": [], "usage": None}
    events = [{"type": f"response.{kind}", "response": created} for kind in ("created", "in_progress")]
    for index, item in enumerate(response["output"]):
        if isinstance(item, dict):
            events += told(item, index)
    last = _LAST_TYPES.get(str(response.get("status")), "response.completed")
    return _numbered([*events, {"type": last, "response": response}], 0)


def _numbered(events: Iterable[dict[str, Any]], start: int) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode({**event, "sequence_number": number}))
        for number, event in enumerate(events, start)
    )
