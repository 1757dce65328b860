"""Events of any shape: whatever a provider sends, what can be read of it is read, and nothing is raised."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel.tokens.loose import parse, read_loosely


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":NaN}', "nan"),
        (b'{"a":-Infinity}', "-inf"),
        (b'\xef\xbb\xbf{"a":1}', "1"),
        (b'{"a":"\xff"}', "\ufffd"),
        (b'{"a":"b\nc"}', "b\nc"),
    ],
)
def test_json_is_read_as_sdks_read_it(data: bytes, value: str) -> None:
    """They do not mind what the standard forbids."""
    assert str(parse(data)["a"]) == value


@pytest.mark.parametrize("data", [b"", b"{", b"no", b"[" * 100_000])
def test_what_is_no_json_is_none(data: bytes) -> None:
    assert parse(data) is None


def test_an_event_that_is_nested_too_deeply_is_none() -> None:
    """It is not read in part: nobody would know how much is missing."""
    event: dict[str, Any] = {"text": "a"}
    for _ in range(100_000):
        event = {"content": event}
    assert read_loosely(event) is None
