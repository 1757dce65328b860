"""The token in the headers of a request."""

from __future__ import annotations

import pytest

from sentinel.error import InvalidApiKey, MissingApiKey
from sentinel.middleware.auth import MOST_TOKEN_BYTES, bearer_token, token_of


@pytest.mark.parametrize("value", [b"Bearer a.b-c_d", b"bearer a.b-c_d", b"BEARER   a.b-c_d ", b"  Bearer a.b-c_d"])
def test_the_token_is_what_follows_the_scheme(value: bytes) -> None:
    """The scheme in any case, with any number of spaces."""
    assert bearer_token(value) == b"a.b-c_d"


@pytest.mark.parametrize(
    "value", [None, b"", b"Bearer", b"Bearer ", b"Basic abc", b"abc", b"Bearerabc", b"Token Bearer abc"]
)
def test_no_token_is_missing(value: bytes | None) -> None:
    """Another scheme is as good as none."""
    with pytest.raises(MissingApiKey):
        bearer_token(value)


@pytest.mark.parametrize("token", [b"a b", b"a\tb", b"\xc3\xa9", b"a\x7f", b"x" * (MOST_TOKEN_BYTES + 1)])
def test_what_no_header_could_carry_on_is_invalid(token: bytes) -> None:
    """Spaces, control characters, other than ASCII, and megabytes."""
    with pytest.raises(InvalidApiKey):
        bearer_token(b"Bearer " + token)


def test_the_longest_token_is_taken() -> None:
    """The bound itself is good."""
    assert len(bearer_token(b"Bearer " + b"x" * MOST_TOKEN_BYTES)) == MOST_TOKEN_BYTES


@pytest.mark.parametrize("name", [b"x-api-key", b"api-key", b"x-goog-api-key"])
def test_other_formats_have_headers_of_their_own(name: bytes) -> None:
    """They are looked at where Authorization has no bearer token, and checked alike."""
    assert token_of({name: b" a.b "}) == b"a.b"
    assert token_of({name: b"theirs", b"authorization": b"Basic abc"}) == b"theirs"
    assert token_of({name: b"theirs", b"authorization": b"Bearer "}) == b"theirs"
    assert token_of({name: b"theirs", b"authorization": b"Bearer ours"}) == b"ours"
    with pytest.raises(MissingApiKey):
        token_of({name: b" "})
    with pytest.raises(InvalidApiKey):
        # Two headers of one name are one list.
        token_of({name: b"one, two"})
