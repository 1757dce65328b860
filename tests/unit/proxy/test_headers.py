"""Allow-lists: what is not named stays on its side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.headers import TO_PROVIDER, to_provider, value_of

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
        *TO_PROVIDER,
    ]
)


@given(st.lists(st.tuples(names, st.binary(min_size=1, max_size=5)), max_size=12))
def test_only_named_headers_reach_the_provider(headers: list[tuple[bytes, bytes]]) -> None:
    """The allowed ones in order, a content type, and our own request id once."""
    sent = to_provider(headers, "req_1")
    assert [header for header in sent if header in headers] == [h for h in headers if h[0] in TO_PROVIDER]
    assert {name for name, _ in sent} <= TO_PROVIDER | {b"x-request-id"}
    assert [value for name, value in sent if name == b"x-request-id"] == [b"req_1"]
    assert value_of(sent, b"content-type") is not None


def test_a_missing_content_type_is_json() -> None:
    """What has been read as JSON is sent as JSON."""
    assert value_of(to_provider([], "req_1"), b"content-type") == b"application/json"
    assert value_of(to_provider([(b"content-type", b"text/json")], "req_1"), b"content-type") == b"text/json"


def test_the_first_of_two_headers_counts() -> None:
    """Absent is None, empty is empty."""
    headers = [(b"a", b"1"), (b"a", b"2"), (b"b", b"")]
    assert (value_of(headers, b"a"), value_of(headers, b"b"), value_of(headers, b"c")) == (b"1", b"", None)
