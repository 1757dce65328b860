"""Tokens of the Zion simulator."""

from __future__ import annotations

import pytest

from sentinel.dev.jwt import InvalidToken, issue_token, read_token

SECRET = b"secret"


def test_round_trip() -> None:
    """What was signed is read."""
    assert read_token(SECRET, issue_token(SECRET, {"sub": "a", "exp": 11}), now=10) == {"sub": "a", "exp": 11}


def test_known_vector() -> None:
    """The example of RFC 7519's debugger, so that real JWT libraries read our tokens."""
    token = issue_token(b"your-256-bit-secret", {"sub": "1234567890", "name": "John Doe", "iat": 1516239022})
    assert token.startswith("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4g")
    assert token.endswith(".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c")


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c", "..", "é.é.é", "a.b.!!"])
def test_malformed(token: str) -> None:
    """Nonsense is refused, not crashed upon."""
    with pytest.raises(InvalidToken):
        read_token(SECRET, token, now=0)


def test_forged_and_expired() -> None:
    """Another secret, another payload and the past are refused."""
    token = issue_token(SECRET, {"exp": 10})
    with pytest.raises(InvalidToken, match="expired"):
        read_token(SECRET, token, now=10)
    with pytest.raises(InvalidToken, match="signature"):
        read_token(b"other", token, now=0)
    head, _, signature = token.split(".")
    payload = issue_token(SECRET, {"exp": 99}).split(".")[1]
    with pytest.raises(InvalidToken, match="signature"):
        read_token(SECRET, f"{head}.{payload}.{signature}", now=0)
