"""Which headers pass: allow-lists, for what is not named here stays on its side (P4).

To the provider go only what its API knows and our request id; the client's token, cookies and addresses never do. To
the client go what describes the body and the provider's timing; its organisation, cookies and rate limits do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from operator import itemgetter

from sentinel.error import Header

_TO_PROVIDER = tuple(
    (name, name + b": ") for name in (b"accept", b"user-agent", b"openai-beta", b"anthropic-version", b"anthropic-beta")
)
"""Beside `content-type`, which says what a body was read as, whatever the client calls it."""
JSON = b"application/json"
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
_WITH_ANY_BODY = (
    b"content-type",
    b"accept",
    b"range",
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    b"user-agent",
    b"openai-beta",
    b"anthropic-version",
    b"anthropic-beta",
)
"""To the provider, of a request that is passed through: its body is whatever the client says."""
_OF_ANY_BODY = TO_CLIENT | {
    b"accept-ranges",
    b"allow",
    b"cache-control",
    b"content-disposition",
    b"content-language",
    b"content-range",
    b"etag",
    b"expires",
    b"last-modified",
    b"openai-poll-after-ms",
}
"""To the client, of the answer to such a request; `location` is looked at."""
UPSTREAM_ID = b"x-request-id"
_UPSTREAM_IDS = (UPSTREAM_ID, b"request-id")
"""Ours on the way to the provider, the provider's on the way back, where Anthropic's is called `request-id`; the client
gets that as x-upstream-request-id."""
EXPOSED = (
    b"x-request-id, x-upstream-request-id, retry-after, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-input-tokens, x-ratelimit-remaining-input-tokens, x-ratelimit-reset-input-tokens, "
    b"x-ratelimit-limit-output-tokens, x-ratelimit-remaining-output-tokens, x-ratelimit-reset-output-tokens, "
    b"x-sentinel-quota-remaining-requests, x-sentinel-quota-remaining-input-tokens, "
    b"x-sentinel-quota-remaining-output-tokens, x-sentinel-limited-by, x-sentinel-overhead-ms, x-sentinel-cost-usd, "
    b"x-sentinel-degraded, "
    b"x-sentinel-provider, "
    b"x-sentinel-model, x-sentinel-tier, "
    b"request-id, anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, "
    b"anthropic-ratelimit-requests-reset, anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, "
    b"anthropic-ratelimit-tokens-reset, anthropic-ratelimit-input-tokens-limit, "
    b"anthropic-ratelimit-input-tokens-remaining, anthropic-ratelimit-input-tokens-reset, "
    b"anthropic-ratelimit-output-tokens-limit, anthropic-ratelimit-output-tokens-remaining, "
    b"anthropic-ratelimit-output-tokens-reset"
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


def to_provider(headers: Mapping[bytes, bytes], request_id: bytes, user: str, content_type: bytes = JSON) -> bytes:
    """The headers that accompany a request of this user to the provider, without its key. Names are lower case.

    content_type: of the body as it was read.

    All users share one account there, so a user's idempotency key is made the user's own: two who choose the same one
    have two, and neither gets the other's answer (P7).
    """
    header_lines = b"x-request-id: " + request_id + b"\r\ncontent-type: " + content_type + b"\r\n"
    for name, begin in _TO_PROVIDER:
        if name in headers:
            header_lines += begin + headers[name] + b"\r\n"
    if _IDEMPOTENCY_KEY in headers:
        header_lines += b"%b: %b\r\n" % (_IDEMPOTENCY_KEY, _own_key(headers[_IDEMPOTENCY_KEY], user))
    return header_lines


def passed_to_provider(headers: Mapping[bytes, bytes], request_id: bytes, user: str) -> bytes:
    """The same for a request that is passed through, whose body is of any type."""
    pairs = [(UPSTREAM_ID, request_id), *((name, headers[name]) for name in _WITH_ANY_BODY if name in headers)]
    if _IDEMPOTENCY_KEY in headers:
        pairs.append((_IDEMPOTENCY_KEY, _own_key(headers[_IDEMPOTENCY_KEY], user)))
    return lines_of(pairs)


_VERSIONS = (
    (b"/messages", b"anthropic-version: 2023-06-01\r\n"),
    (b"/threads", b"openai-beta: assistants=v2\r\n"),
)
"""Of Anthropic's API, and of OpenAI's assistants."""


def of_our_own(path: bytes, request_id: str) -> bytes:
    """The headers of a request that no client has sent. Some paths answer nobody who tells no version."""
    version = next((line for begin, line in _VERSIONS if path.startswith(begin)), b"")
    return b"%b: %b\r\n%b" % (UPSTREAM_ID, request_id.encode(), version)


def query_to_provider(query: bytes, names: Collection[bytes]) -> bytes:
    """What passes of a query, with its `?`: the parameters of these names, as they came. Others may hold a key."""
    passing = [each for each in query.split(b"&") if each.partition(b"=")[0] in names]
    return b"?" + b"&".join(passing) if passing else b""


def _own_key(key: bytes, user: str) -> bytes:
    """A key that is the same for the same user and key; of one length, and it tells of neither."""
    return hashlib.sha256(hashlib.sha256(user.encode()).digest() + key).hexdigest().encode()


_MOST_HEADS = 128
"""Heads of answers of which is remembered what passes, 64 KB each at most. A provider's have a few forms."""


@lru_cache(maxsize=_MOST_HEADS)
def _passing(names: tuple[bytes, ...]) -> tuple[bytes, Callable[[Mapping[bytes, bytes]], object], bytes | None]:
    """Of a head with these names: the form of the lines that pass, what picks their values, the name of the id."""
    passing = [name for name in names if name.lower() in TO_CLIENT]
    form = b"".join(b"%b: %%b\r\n" % name.lower() for name in passing)
    ids = [name for name in names if name.lower() in _UPSTREAM_IDS]
    return form, itemgetter(*passing) if passing else _nothing, ids[-1] if ids else None


def _nothing(_: Mapping[bytes, bytes]) -> tuple[()]:
    return ()


def to_client(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes | None]:
    """The provider's headers that accompany its answer, and its id of the request. Names may be in any case."""
    # Which of them pass is the same for all heads with the same names.
    form, values, name_of_id = _passing(tuple(headers))
    return form % values(headers), None if name_of_id is None else headers[name_of_id]


def passed_to_client(headers: Mapping[bytes, bytes], url: bytes) -> bytes:
    """The provider's headers that accompany an answer of any type. url: the provider's.

    A redirection to the provider itself leads here instead: its address is no affair of the client's.
    """
    pairs = [(name.lower(), value) for name, value in headers.items()]
    passing = [pair for pair in pairs if pair[0] in _OF_ANY_BODY]
    passing += [(name, _location_here(value, url)) for name, value in pairs if name == b"location"]
    return lines_of(passing)


def _location_here(location: bytes, url: bytes) -> bytes:
    """Where a client is led; a place at the provider by the path that it has here."""
    for base in (url, b"/" + url.split(b"/", 3)[3] if url.count(b"/") > 2 else b""):
        if base and (location == base or location.startswith((base + b"/", base + b"?"))):
            return b"/v1" + location[len(base) :]
    origin = b"/".join(url.split(b"/", 3)[:3])
    return b"/" + location[len(origin) :].lstrip(b"/") if location.startswith(origin + b"/") else location


def lines_of(headers: Iterable[Header]) -> bytes:
    """Headers as they go over the wire, each with its line end."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def pairs_of(header_lines: bytes) -> list[Header]:
    """The opposite of `lines_of`."""
    pairs = (line.partition(b": ") for line in header_lines.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in pairs]
