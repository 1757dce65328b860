"""When a token ends by its own word."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.jwt import ends_ms


def jwt(payload: bytes | dict[str, Any]) -> bytes:
    told = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return b"e30.%b.c2ln" % base64.urlsafe_b64encode(told).rstrip(b"=")


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (jwt({"exp": 1_800_000_000}), 1_800_000_000_000),
        (jwt({"exp": 1_800_000_000.5, "sub": "ana"}), 1_800_000_000_500),
        (jwt({"exp": 0}), 0),
        (jwt({"exp": -1}), -1000),
        (jwt({"exp": 10**30}), None),
        (jwt({"exp": "1800000000"}), None),
        (jwt({"exp": True}), None),
        (jwt({"exp": None}), None),
        (jwt({"exp": [1]}), None),
        (jwt({}), None),
        (jwt(b"[]"), None),
        (jwt(b'{"exp":1e999}'), None),
        (jwt(b'{"exp":NaN}'), None),
        (jwt(b"[" * 10_000), None),
        (jwt(b"\xff"), None),
        (b"e30.!!!!.c2ln", None),
        (b"e30.a.c2ln", None),
        (b"sk-sentinel-1", None),
        (b"a.b.c.d.e", None),
        (b"..", None),
        (b"", None),
    ],
)
def test_the_end_of_a_token(token: bytes, expected: int | None) -> None:
    """The number that a JWT has as its `exp`, whatever else it says; no other token has an end."""
    assert ends_ms(token) == expected


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_token_is_too_odd(payload: bytes, token: bytes) -> None:
    """Whatever strangers send."""
    for each in (jwt(payload), token):
        assert ends_ms(each) is None or isinstance(ends_ms(each), int)
