"""What a provider says in one piece to a client that has been told meanwhile that a stream is coming, as events.

A comment that kept the stream alive has gone out with status 200 and the content type of a stream, so a refusal can
only be an event, and a whole answer is one chunk: SDKs read `data:` lines and nothing else.
"""

from __future__ import annotations

from typing import Any

import msgspec

_MOST_TOLD_BYTES = 1000
_BOM = b"\xef\xbb\xbf"
_DONE = b"data: [DONE]\n\n"
_Object = dict[str, msgspec.Raw]
_object = msgspec.json.Decoder(_Object)
_objects = msgspec.json.Decoder(list[_Object])


def refusal(status: int, body: bytes) -> bytes:
    """A provider's refusal as the stream's last event: its own error, or what it said in the shape of one."""
    try:
        if _has(_object.decode(body), "error"):
            return _event(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # No JSON at all; it is told as text.
        pass
    error = {
        "message": body[:_MOST_TOLD_BYTES].decode("utf-8", "replace") or "The model provider refused the request.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
        "details": {"status": status},
    }
    return _event(msgspec.json.encode({"error": error}))


def answer(body: bytes) -> bytes:
    """A whole answer as a stream of one chunk, and its end. What is not understood stays as it is."""
    body = body.removeprefix(_BOM)
    try:
        fields = _object.decode(body)
        # An error ends a stream by itself.
        end = b"" if _has(fields, "error") else _DONE
        return _event(msgspec.json.encode(_chunk(fields))) + end
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _event(body) + _DONE


def _chunk(fields: _Object) -> dict[str, Any]:
    """The chunk that says what this answer says: `message` is `delta`, and calls of tools have an index."""
    chunk: dict[str, Any] = dict(fields)
    if bytes(fields.get("object", b"")) == b'"chat.completion"':
        chunk["object"] = "chat.completion.chunk"
    if "choices" in fields:
        chunk["choices"] = [_choice(choice) for choice in _objects.decode(fields["choices"])]
    return chunk


def _choice(fields: _Object) -> dict[str, Any]:
    choice: dict[str, Any] = {("delta" if name == "message" else name): value for name, value in fields.items()}
    if "message" in fields:
        delta: dict[str, Any] = dict(_object.decode(fields["message"]))
        if _has(delta, "tool_calls"):
            delta["tool_calls"] = [
                {"index": index, **call} for index, call in enumerate(_objects.decode(delta["tool_calls"]))
            ]
        choice["delta"] = delta
    return choice


def _has(fields: dict[str, Any], name: str) -> bool:
    return bytes(fields.get(name, b"null")) != b"null"


def _event(data: bytes) -> bytes:
    """An event with this data: on one line where it is JSON, for not all clients join lines."""
    try:
        lines = [msgspec.json.format(data, indent=-1)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lines = data.splitlines()
    return b"".join(b"data: %b\n" % line for line in lines) + b"\n"
