"""A provider's refusal of what was told to be a stream, as formats with error events of their own tell it."""

from __future__ import annotations

from typing import Any, Final

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
