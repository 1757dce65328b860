"""A provider's refusal of what was told to be a stream, as formats with error events of their own tell it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sentinel.tokens.loose import parse

_MOST_TOLD_BYTES: Final = 1000


def refusal_of(body: bytes) -> tuple[Any, dict[str, Any] | None, str]:
    """What a provider said, its `error` if that is an object, and else what there is to tell of it."""
    said = parse(body)
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict):
        return said, error, ""
    told = error if isinstance(error, str) else body[:_MOST_TOLD_BYTES].decode("utf-8", "replace")
    return said, None, told or "The model provider refused the request."


def refusal_event(body: bytes) -> bytes:
    """A provider's refusal as the only event of a stream: its own error, or what it said in the shape of one."""
    _, error, told = refusal_of(body)
    shaped = error or {"message": told, "type": "invalid_request_error", "param": None, "code": None}
    return b"data: %b\n\n" % msgspec.json.encode({"error": shaped})
