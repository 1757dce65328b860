"""Allow-lists: what is not named stays on its side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.headers import by_name, pairs_of, to_client, to_provider

PASSED = {b"accept", b"user-agent", b"openai-beta", b"idempotency-key"}
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


@given(st.dictionaries(names, st.sampled_from([b"a", b"b c", b""]), max_size=12))
def test_only_named_headers_reach_the_provider(headers: dict[bytes, bytes]) -> None:
    """The allowed ones, a content type, and our own request id; each of them once."""
    sent = pairs_of(to_provider(headers, b"req_1"))
    expected = {n: v for n, v in headers.items() if n in PASSED} | {b"content-type": b"application/json"}
    assert sorted(sent) == sorted((expected | {b"x-request-id": b"req_1"}).items())


def test_only_named_headers_reach_the_client() -> None:
    """However they are spelled; the provider's own id comes apart."""
    headers = {b"Content-Type": b"text/json", b"Set-Cookie": b"a=1", b"X-Request-ID": b"req_9", b"retry-after": b"3"}
    assert to_client(headers) == (b"content-type: text/json\r\nretry-after: 3\r\n", b"req_9")


def test_headers_of_one_name_are_one_list() -> None:
    """RFC 9110, 5.3; absent is absent, empty is empty."""
    assert by_name([(b"a", b"1"), (b"a", b"2"), (b"b", b""), (b"a", b"3")]) == {b"a": b"1, 2, 3", b"b": b""}
    assert by_name([(b"a", b"1"), (b"b", b"")]) == {b"a": b"1", b"b": b""}
