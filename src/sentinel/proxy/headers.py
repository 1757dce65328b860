"""Which headers pass: allow-lists, for what is not named here stays on its side (P4).

To the provider go only what its API knows and our request id; the client's token, cookies and addresses never do. To
the client go what describes the body and the provider's timing; its organisation, cookies and rate limits do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from sentinel.error import Header

_TO_PROVIDER = (b"accept", b"user-agent", b"openai-beta")
"""Beside `content-type`: whatever the client calls its body, it was read as JSON, so that is what it is."""
_IDEMPOTENCY_KEY = b"idempotency-key"
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
    b"x-sentinel-quota-remaining-requests, x-sentinel-quota-remaining-input-tokens, "
    b"x-sentinel-quota-remaining-output-tokens, x-sentinel-limited-by, x-sentinel-overhead-ms, x-sentinel-degraded"
)
EVENT_STREAM = b"content-type: text/event-stream; charset=utf-8\r\n"
STREAM = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


def by_name(headers: Collection[Header]) -> dict[bytes, bytes]:
    """Headers by their names; those of one name are one list (RFC 9110, 5.3)."""
    named = dict(headers)
    if len(named) < len(headers):
        lists: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            lists.setdefault(name, []).append(value)
        named = {name: b", ".join(values) for name, values in lists.items()}
    return named


def to_provider(headers: Mapping[bytes, bytes], request_id: bytes, user: str) -> bytes:
    """The headers that accompany a request of this user to the provider, without its key. Names are lower case.

    All users share one account there, so a user's idempotency key is made the user's own: two who choose the same one
    have two, and neither gets the other's answer (P7).
    """
    lines = b"%b: %b\r\ncontent-type: application/json\r\n" % (UPSTREAM_ID, request_id)
    for name in _TO_PROVIDER:
        if name in headers:
            lines += b"%b: %b\r\n" % (name, headers[name])
    if _IDEMPOTENCY_KEY in headers:
        lines += b"%b: %b\r\n" % (_IDEMPOTENCY_KEY, _own_key(headers[_IDEMPOTENCY_KEY], user))
    return lines


def _own_key(key: bytes, user: str) -> bytes:
    """A key that is the same for the same user and key; of one length, and it tells of neither."""
    return hashlib.sha256(hashlib.sha256(user.encode()).digest() + key).hexdigest().encode()


_MOST_SPELLINGS = 1024
_ID = b"%b"
_form_of: dict[bytes, bytes] = {}
"""By the name of a provider's header, as it was spelled: the form of its line here, `_ID`, or nothing if it stays."""


def _learn_form(spelled: bytes) -> bytes:
    name = spelled.lower()
    form = b"%b: %%b\r\n" % name if name in TO_CLIENT else _ID if name == UPSTREAM_ID else b""
    if len(_form_of) < _MOST_SPELLINGS:
        _form_of[spelled] = form
    return form


def to_client(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes | None]:
    """The provider's headers that accompany its answer, and its `x-request-id`. Names may be in any case."""
    lines, upstream_id, known = b"", None, _form_of.get
    for name, value in headers.items():
        form = known(name)
        if form is None:
            form = _learn_form(name)
        if form is _ID:
            upstream_id = value
        elif form:
            lines += form % value
    return lines, upstream_id


def lines_of(headers: Iterable[Header]) -> bytes:
    """Headers as they go over the wire, each with its line end."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def pairs_of(lines: bytes) -> list[Header]:
    """The opposite of `lines_of`."""
    pairs = (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in pairs]
