"""Allow-lists: what is not named stays on its side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.headers import (
    TO_CLIENT,
    UPSTREAM_ID,
    by_name,
    pairs_of,
    passed_to_client,
    passed_to_provider,
    query_to_provider,
    to_client,
    to_provider,
)

PASSED = {b"accept", b"user-agent", b"openai-beta", b"anthropic-version", b"anthropic-beta"}
names = st.sampled_from(
    [
        b"authorization",
        b"cookie",
        b"x-forwarded-for",
        b"x-api-key",
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"accept-encoding",
        b"openai-organization",
        b"x-request-id",
        b"x-custom",
        b"content-type",
        b"content-encoding",
        *PASSED,
    ]
)
spelled = st.sampled_from(
    [b"Content-Type", b"content-type", b"X-Request-Id", b"x-request-id", b"Retry-After", b"CF-Ray"],
)


@given(st.dictionaries(names, st.sampled_from([b"a", b"b c", b""]), max_size=12))
def test_only_named_headers_reach_the_provider(headers: dict[bytes, bytes]) -> None:
    """The allowed ones, a content type, and our own request id; each of them once."""
    sent = pairs_of(to_provider(headers, b"req_1", "ana"))
    expected = {n: v for n, v in headers.items() if n in PASSED} | {b"content-type": b"application/json"}
    assert sorted(sent) == sorted((expected | {b"x-request-id": b"req_1"}).items())


def test_only_named_parameters_reach_the_provider() -> None:
    """As they came; another may hold a key."""
    names = {b"beta"}
    assert query_to_provider(b"key=a&beta=true&%62eta=x&beta&", names) == b"?beta=true&beta"
    assert query_to_provider(b"key=a", names) == query_to_provider(b"beta=1", ()) == b""


def test_an_idempotency_key_is_its_users_own() -> None:
    """The same for the same user and key, another for another of either, however the two are put together."""

    def key(user: str, value: bytes) -> bytes:
        return dict(pairs_of(to_provider({b"idempotency-key": value}, b"req_1", user)))[b"idempotency-key"]

    assert key("ana", b"1") == key("ana", b"1")
    assert len({key("ana", b"1"), key("bob", b"1"), key("ana", b"2"), key("an", b"a1"), key("ana1", b"")}) == 5
    assert b"ana@corp.test" not in key("ana@corp.test", b"1")
    assert len(key("ana", b"x" * 60_000)) == 64


def test_only_named_headers_reach_the_client() -> None:
    """However they are spelled; the provider's own id comes apart."""
    headers = {b"Content-Type": b"text/json", b"Set-Cookie": b"a=1", b"X-Request-ID": b"req_9", b"retry-after": b"3"}
    assert to_client(headers) == (b"content-type: text/json\r\nretry-after: 3\r\n", b"req_9")
    assert to_client({b"Request-Id": b"req_8"})[1] == b"req_8"


@given(st.lists(st.dictionaries(spelled, st.sampled_from([b"a", b"%b", b""]), max_size=6), max_size=4))
def test_heads_with_the_same_names_have_their_own_values(heads: list[dict[bytes, bytes]]) -> None:
    """Whatever heads came before: each passes the allowed ones, in its own order and with its own values."""
    for headers in heads:
        lines, upstream_id = to_client(headers)
        assert pairs_of(lines) == [(n.lower(), v) for n, v in headers.items() if n.lower() in TO_CLIENT]
        ids = [value for name, value in headers.items() if name.lower() == UPSTREAM_ID]
        assert upstream_id == (ids[-1] if ids else None)


def test_what_accompanies_a_body_of_any_type() -> None:
    """On both ways: what tells of the body, and of parts of it; no secret, cookie or organisation."""
    asked = {b"content-type": b"a/b", b"range": b"bytes=0-1", b"cookie": b"c", b"openai-organization": b"o"}
    lines = dict(pairs_of(passed_to_provider({**asked, b"idempotency-key": b"1"}, b"req_1", "ana")))
    assert lines.keys() == {b"x-request-id", b"content-type", b"range", b"idempotency-key"}
    assert lines[b"idempotency-key"] != b"1"
    assert b"idempotency-key" not in passed_to_provider(asked, b"req_1", "ana")
    told = {b"ETag": b"e", b"Content-Disposition": b"inline", b"Set-Cookie": b"c", b"Connection": b"close"}
    assert passed_to_client(told, b"http://p.test/v1") == b"etag: e\r\ncontent-disposition: inline\r\n"


@pytest.mark.parametrize(
    ("location", "here"),
    [
        (b"http://p.test:1/base/v1/files/1?a", b"/v1/files/1?a"),
        (b"http://p.test:1/base/v1", b"/v1"),
        (b"/base/v1/files", b"/v1/files"),
        (b"http://p.test:1/elsewhere", b"/elsewhere"),
        (b"http://p.test:1//elsewhere", b"/elsewhere"),
        (b"/base/v12/files", b"/base/v12/files"),
        (b"https://store.test/blob", b"https://store.test/blob"),
        (b"files/1", b"files/1"),
    ],
)
def test_a_redirection_to_the_provider_leads_here(location: bytes, here: bytes) -> None:
    """Any other is left as it is."""
    assert passed_to_client({b"Location": location}, b"http://p.test:1/base/v1") == b"location: %b\r\n" % here


def test_a_provider_without_a_path() -> None:
    """Has no prefix to be taken away."""
    assert passed_to_client({b"location": b"/files"}, b"http://p.test") == b"location: /files\r\n"


def test_headers_of_one_name_are_one_list() -> None:
    """RFC 9110, 5.3; absent is absent, empty is empty."""
    assert by_name([(b"a", b"1"), (b"a", b"2"), (b"b", b""), (b"a", b"3")]) == {b"a": b"1, 2, 3", b"b": b""}
    assert by_name([(b"a", b"1"), (b"b", b"")]) == {b"a": b"1", b"b": b""}
