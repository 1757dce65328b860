"""Which headers pass: allow-lists, for what is not named here stays on its side (P4).

To the provider go only what its API knows and our request id; the client's token, cookies and addresses never do. To
the client go what describes the body and the provider's timing; its organisation, cookies and rate limits do not.
"""

from __future__ import annotations

from collections.abc import Iterable

from sentinel.error import Header

TO_PROVIDER = frozenset({b"content-type", b"accept", b"user-agent", b"openai-beta", b"idempotency-key"})
TO_CLIENT = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"openai-processing-ms",
        b"openai-version",
    }
)
UPSTREAM_ID = b"x-request-id"
"""Ours on the way to the provider, the provider's on the way back; the client gets that as x-upstream-request-id."""
EXPOSED = (
    b"x-request-id, x-upstream-request-id, retry-after, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-input-tokens, x-ratelimit-remaining-input-tokens, x-ratelimit-reset-input-tokens, "
    b"x-ratelimit-limit-output-tokens, x-ratelimit-remaining-output-tokens, x-ratelimit-reset-output-tokens, "
    b"x-sentinel-overhead-ms, x-sentinel-degraded"
)
STREAM: tuple[Header, ...] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


def to_provider(headers: Iterable[Header], request_id: str) -> list[Header]:
    """The headers that accompany a request to the provider, without its key. Names are lower case."""
    passed, typed = [], False
    for header in headers:
        if header[0] in TO_PROVIDER:
            passed.append(header)
            typed = typed or header[0] == b"content-type"
    if not typed:
        # The body has been read as JSON by now, so that is what it is.
        passed.append((b"content-type", b"application/json"))
    passed.append((UPSTREAM_ID, request_id.encode()))
    return passed


def lines_of(headers: Iterable[Header]) -> bytes:
    """Headers as they go over the wire, each with its line end."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def pairs_of(lines: bytes) -> list[Header]:
    """The opposite of `lines_of`."""
    pairs = (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in pairs]


def value_of(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The value of the first header of this lower-case name."""
    for key, value in headers:
        if key == name:
            return value
    return None
