"""No token is served from any cache past its end: neither past what the governance says, nor past a JWT's own word.

About: `cache/token_records.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sentinel.cache import keys
from sentinel.cache.client_secrets import ClientSecretRecords
from sentinel.cache.subscription import SubscriptionCache
from sentinel.cache.token_records import TokenRecords
from sentinel.clock import now_ms
from sentinel.dev.zion import ZionSimulator
from sentinel.endpoints.endpoint import ClientSecret
from sentinel.error import InvalidApiKey, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser
from tests.support.memory_governance import MemoryGovernance
from tests.support.metering import Books, open_books
from tests.support.stack import Stack
from tests.support.surface import chat, post
from tests.support.waiting import until, wait_until


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        yield books


@pytest.fixture
async def governance() -> MemoryGovernance:
    return MemoryGovernance()


@pytest.fixture
async def cache(books: Books, governance: MemoryGovernance) -> AsyncIterator[SubscriptionCache]:
    cache = books.subscriptions(governance)
    yield cache
    await cache.close()


def jwt(**claims: Any) -> bytes:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return b"e30.%b.c2ln" % payload


async def over(moment_ms: int) -> None:
    """Wait until this moment is over, of the clock on the wall."""

    async def is_over() -> bool:
        return now_ms() > moment_ms

    await until(is_over)


async def kept(books: Books, token: bytes) -> list[int]:
    """How long Redis keeps the records of a token, fresh and stale; -2 where there are none."""
    digest = keys.token_digest(token)
    return [await books.store.client.pttl(key) for key in (keys.jwt(digest), keys.jwt_stale(digest))]


@pytest.mark.parametrize("kind", ["told", "jwt"])
@pytest.mark.parametrize("where", ["memory", "redis"])
async def test_it_is_refused_past_its_end(
    books: Books, cache: SubscriptionCache, governance: MemoryGovernance, kind: str, where: str
) -> None:
    """Served until then, also while the governance is away, and not a moment longer: not even as stale."""
    ends_ms = now_ms() // 1000 * 1000 + 2000
    token = jwt(exp=ends_ms // 1000, sub=f"{kind} {where}")
    governance.tokens[token.decode()] = AuthenticatedUser(
        "eve", "eve@corp.test", None, ends_ms if kind == "told" else None
    )
    assert (await cache.user(token)).id == "eve"
    governance.away = True
    served = cache if where == "memory" else books.subscriptions(governance)
    assert (await served.user(token)).id == "eve"
    assert all(0 < left <= 2000 for left in await kept(books, token))
    assert await books.store.client.pttl(keys.tokens("eve")) <= 2000
    await over(ends_ms)
    assert served.remembered(token) is None
    with pytest.raises(ZionUnavailable):
        await served.user(token)
    governance.away = False
    del governance.tokens[token.decode()]
    with pytest.raises(InvalidApiKey):
        await served.user(token)
    await served.close()


@pytest.mark.parametrize(
    ("claims", "told_ms", "bound_ms"),
    [
        ({"exp": 10**10}, None, 900_000),
        ({"exp": 10**10}, 60_000, 60_000),
        ({"exp": "soon"}, None, 900_000),
        ({}, 60_000, 60_000),
        ({"left": 30}, 60_000, 30_000),
        ({"left": 60}, 30_000, 30_000),
    ],
    ids=str,
)
async def test_the_sooner_end_counts(
    books: Books,
    cache: SubscriptionCache,
    governance: MemoryGovernance,
    claims: dict[str, Any],
    told_ms: int | None,
    bound_ms: int,
) -> None:
    """A token can only shorten what the governance says; what is no number shortens nothing."""
    now = now_ms()
    if "left" in claims:
        claims = {"exp": now / 1000 + claims["left"]}
    token = jwt(**claims, of=str(told_ms))
    ends_ms = None if told_ms is None else now + told_ms
    governance.tokens[token.decode()] = AuthenticatedUser("fay", "fay@corp.test", None, ends_ms)
    user = await cache.user(token)
    fresh, stale = await kept(books, token)
    assert bound_ms - 10_000 < stale <= bound_ms
    assert fresh <= min(bound_ms, 300_000)
    assert cache.remembered(token) == user
    assert user.expires_at_ms is None or user.expires_at_ms <= now + max(bound_ms, 10**13)


@pytest.mark.parametrize("ended", ["jwt", "told"])
async def test_what_has_ended_is_not_kept(
    books: Books, cache: SubscriptionCache, governance: MemoryGovernance, ended: str
) -> None:
    """The governance's live answer counts, whose clock and leeway are its own; each request asks it."""
    token = jwt(exp=now_ms() // 1000 - 5) if ended == "jwt" else b"sk-ended"
    user = AuthenticatedUser("gus", "gus@corp.test", None, None if ended == "jwt" else now_ms() - 5000)
    governance.tokens[token.decode()] = user
    assert (await cache.user(token)).id == "gus"
    assert cache.remembered(token) is None
    assert await kept(books, token) == [-2, -2]
    assert await books.store.command("ZRANGE", keys.tokens("gus"), 0, -1) == []
    del governance.tokens[token.decode()]
    with pytest.raises(InvalidApiKey):
        await cache.user(token)


async def test_what_an_older_version_has_kept(books: Books, governance: MemoryGovernance) -> None:
    """Is read; the token's own end counts for it, too. What we keep, an older version reads."""
    digest = keys.token_digest(b"sk-old")
    await books.store.command("SET", keys.jwt(digest), b'{"id":"old","email":"old@corp.test"}')
    cache = books.subscriptions(governance)
    assert await cache.user(b"sk-old") == AuthenticatedUser("old", "old@corp.test")
    ended = jwt(exp=now_ms() // 1000 - 5)
    for key in (keys.jwt, keys.jwt_stale):
        await books.store.command("SET", key(keys.token_digest(ended)), b'{"id":"old","email":"old@corp.test"}')
    governance.away = True
    with pytest.raises(ZionUnavailable):
        await cache.user(ended)
    records = TokenRecords(books.store, 300, 300, optional=False)
    for user in (AuthenticatedUser("a", "b"), AuthenticatedUser("a", "b", ("gpt-*",), now_ms() + 60_000)):
        assert await records.keep(digest, user)
        assert await records.fresh(digest, b"sk-old") == user
        stored = msgspec.json.decode(await books.store.command("GET", keys.jwt(digest)))
        assert (stored["id"], stored["email"]) == ("a", "b")
        assert user.expires_at_ms is not None or list(stored) == ["id", "email"]
    await cache.close()


async def test_a_client_secret_ends_with_its_users_token(books: Books) -> None:
    """Whatever the provider says of it; and when its user was to be forgotten."""
    secrets = ClientSecretRecords(books.store)
    user = AuthenticatedUser("hal", "hal@corp.test", ("gpt-realtime*",), now_ms() + 30_000)
    await secrets.record(user, ClientSecret("ek_1", now_ms() // 1000 + 3600))
    assert await books.store.client.pttl(keys.client_secret(keys.token_digest(b"ek_1"))) <= 30_000
    found = await secrets.user_of(b"ek_1")
    assert found is not None
    assert (found.id, found.allowed_models) == ("hal", ("gpt-realtime*",))
    await TokenRecords(books.store, 300, 300, optional=False).forget("hal")
    assert await secrets.user_of(b"ek_1") is None
    await secrets.record(user, ClientSecret("ek_2", now_ms() // 1000 + 3600))
    assert await secrets.user_of(b"ek_2") is not None


@pytest.mark.parametrize("away", [False, True])
def test_over_http(stack: Stack, away: bool) -> None:
    """A token that ends is refused within its second, in a process that served it a moment before."""
    sentinel = stack.sentinel()
    user, _ = stack.user(f"ending-{away}@corp.test")
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
    stack.simulators.zion.add_token(user, f"sk-ending-{away}", ends.isoformat().replace("+00:00", "Z"))
    assert post(sentinel, f"sk-ending-{away}", chat("[[tokens=1]]")).status == 200
    if away:
        stack.simulators.zion.faults.set(status=503)
    try:
        wait_until(lambda: datetime.now(UTC) > ends, "the end")
        answer = post(sentinel, f"sk-ending-{away}", chat("[[tokens=1]]"))
    finally:
        stack.simulators.zion.faults.clear()
    assert answer.status == (503 if away else 401)
    assert datetime.now(UTC) < ends + timedelta(seconds=3)
    sentinel.kill()
