"""OpenAI's responses over a WebSocket: GET /v1/responses. What a client asks is a message, and so is each event.

A message `response.create` has the fields of POST /v1/responses beside its type; the answer's events are those of its
stream, each a message of its own. So within Sentinel they are a stream of server-sent events, and everything that is
decided of a stream is decided here the same way; this file has the few differences, and turns the one into the other.
Source: OpenAI API reference, "Responses: WebSocket events"; openai/codex, codex-api, responses_websocket.rs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from sentinel.endpoints.responses import ResponsesEndpoint, ResponsesRequest
from sentinel.endpoints.responses_stream import ResponsesMeter
from sentinel.error import AppError, Header, InvalidType, UnsupportedParameter, body_of
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.sse import data_of
from sentinel.tokens.loose import parse
from sentinel.tokens.responses_answer import LAST

CREATE: Final = "response.create"
_TOLD_LEAST: Final = 400
"""The status of an error that does not tell any."""
_STATUSES: Final = range(400, 600)
_NOT_TOLD: Final = frozenset((b"content-type", b"www-authenticate"))


class _Create(Struct, gc=False):
    """What is decided on beside the fields of the HTTP request."""

    type: str | None = None
    generate: bool | None = None
    response: msgspec.Raw = msgspec.Raw()


class _Event(Struct, gc=False):
    type: str | None = None


class _Error(Struct, gc=False):
    type: str | None = None
    status: int | None = None
    status_code: int | None = None


_create = msgspec.json.Decoder(_Create)
_event = msgspec.json.Decoder(_Event)
_error = msgspec.json.Decoder(_Error)


class ResponseCreate(ResponsesRequest):
    """What is decided on of a message. generates: or else the model is only made ready for the next one."""

    generates: bool = True


class ResponseCreateEndpoint(ResponsesEndpoint):
    """A response of a WebSocket: a stream, whatever the message says."""

    def read(self, body: bytes) -> ResponseCreate:
        """The request in a message. Raises InvalidJson, InvalidType, MissingParameter, UnsupportedParameter."""
        request = super().read(body)
        if request.background:
            raise UnsupportedParameter(
                "Unsupported parameter: 'background' is not supported over WebSockets. Use POST.", param="background"
            )
        try:
            create = _create.decode(body)
        except msgspec.ValidationError as error:
            raise InvalidType("Invalid type for 'generate': expected a boolean.", param="generate") from error
        if create.type != CREATE:
            raise UnsupportedParameter(
                f"Unsupported parameter: 'type' must be '{CREATE}'; other messages are not supported by this proxy.",
                param="type",
            )
        if create.response:
            raise UnsupportedParameter(
                "Unsupported parameter: 'response'. Its fields belong beside 'type'.", param="response"
            )
        generates = create.generate is not False
        return ResponseCreate(request.model, True, request.client_max, request.chat, generates=generates)

    def meter(self, request: ResponsesRequest, redactor: Redactor) -> ResponsesMeter:
        """The meter of the response, which gives out no event in pieces: each is a message."""
        meter = super().meter(request, redactor)
        StreamMeter.hold_whole(meter)
        return meter

    def created(self, told: bytes) -> tuple[str, ...]:
        """As over HTTP; and a response that is not kept (`store`) may be gone on from as long as its socket is open."""
        created = super().created(told)
        event = parse(data_of(told) or told)
        response = event.get("response") if isinstance(event, dict) else None
        id_ = response.get("id") if isinstance(response, dict) else None
        return (id_, *created) if isinstance(id_, str) and id_ not in created else created

    def render_event(self, error: AppError, meter: StreamMeter | None, request_id: str) -> bytes:
        """An error as the last event of a stream, with the status that Codex looks for."""
        event = msgspec.json.decode(data_of(super().render_event(error, meter, request_id)) or b"{}")
        return event_of(msgspec.json.encode({**event, "status": error.status}))


RESPONSE_CREATE = ResponseCreateEndpoint()


def kind_of(message: bytes) -> str | None:
    """The type of a message; None where it has none that can be read."""
    try:
        return _event.decode(message).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = parse(message)
    kind = found.get("type") if isinstance(found, dict) else None
    return kind if isinstance(kind, str) else None


def is_last(message: bytes) -> bool:
    """Whether the message of a provider ends its response."""
    kind = kind_of(message)
    return kind is not None and (kind in LAST or kind == "error")


def event_of(message: bytes) -> bytes:
    """A message as an event of a stream; white space between its values may be spelled otherwise, and nothing else."""
    # No string of JSON has a line end in it, so what has one is between values.
    if message.find(b"\r") >= 0:
        message = message.replace(b"\r", b" ")
    if message.find(b"\n") >= 0:
        message = message.replace(b"\n", b"\ndata: ")
    return b"data: " + message + b"\n\n"


def messages_of(events: Iterable[bytes]) -> list[bytes]:
    """Events of a stream as messages. What is no data (a comment) is none."""
    return [data for event in events if (data := data_of(event))]


def status_of(message: bytes) -> int | None:
    """The HTTP status of a message that is an error; None for any other."""
    if message.find(b'"error"') < 0:
        return None
    try:
        error = _error.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if error.type != "error":
        return None
    told = error.status or error.status_code or _TOLD_LEAST
    return told if told in _STATUSES else _TOLD_LEAST


def refusal(status: int, headers: Iterable[Header], body: bytes) -> bytes:
    """An HTTP answer that refuses a request as the message that says the same; one that is such a message stays."""
    said = parse(body)
    if isinstance(said, dict) and said.get("type") == "error":
        return body
    error = said.get("error") if isinstance(said, dict) else None
    told: dict[str, Any] = {"type": "error", "status": status, "error": error or {"message": "The request failed."}}
    shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name not in _NOT_TOLD}
    return msgspec.json.encode({**told, "headers": shown} if shown else told)


def error_message(error: AppError) -> bytes:
    """An error of ours as a message."""
    return refusal(error.status, error.headers, body_of(error))
