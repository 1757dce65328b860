"""Allow-lists: what is not named stays on its side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel.proxy.headers import TO_CLIENT, UPSTREAM_ID, by_name, pairs_of, query_to_provider, to_client, to_provider

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


def test_headers_of_one_name_are_one_list() -> None:
    """RFC 9110, 5.3; absent is absent, empty is empty."""
    assert by_name([(b"a", b"1"), (b"a", b"2"), (b"b", b""), (b"a", b"3")]) == {b"a": b"1, 2, 3", b"b": b""}
    assert by_name([(b"a", b"1"), (b"b", b"")]) == {b"a": b"1", b"b": b""}
