"""What Redis knows of tokens: for a while, so many of a user, and nothing that an operator could not have forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sentinel.cache import keys
from sentinel.cache.subscription import SubscriptionCache
from sentinel.cache.token_records import MOST_TOKENS_OF_A_USER
from sentinel.dev.zion import ZionSimulator
from tests.support.metering import Books, open_books
from tests.support.waiting import until

TOKENS = 500
AT_ONCE = 50


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        yield books


def cache_of(books: Books, *, seconds: float) -> SubscriptionCache:
    """Tokens are known for so long, and as long again while Zion is away."""
    return SubscriptionCache(
        books.store,
        books.zion,
        books.ledger,
        jwt_ttl_seconds=seconds,
        limits_ttl_seconds=300,
        stale_seconds=seconds,
        redis_optional=False,
        on_stale=lambda: None,
    )


async def redis(books: Books, *command: Any) -> Any:
    return await books.store.command(*command)


async def names(books: Books, pattern: str) -> set[bytes]:
    """The keys of Redis that look so."""
    return set(await redis(books, "KEYS", pattern))


async def gone(books: Books, key: bytes) -> None:
    """Wait until Redis has forgotten it."""

    async def forgotten() -> bool:
        return not await redis(books, "EXISTS", key)

    await until(forgotten)


async def test_tokens_of_the_past_are_forgotten(books: Books) -> None:
    """A user who comes with a new token each time is known by those that still count, whatever their number was."""
    user = books.simulator.add_user("minter@corp.test", external_id="minter")
    cache = cache_of(books, seconds=0.25)
    for start in range(0, TOKENS, AT_ONCE):
        tokens = [books.simulator.token(user).encode() for _ in range(AT_ONCE)]
        await asyncio.gather(*(cache.user(token) for token in tokens))
        if start + AT_ONCE < TOKENS:
            await gone(books, keys.jwt_stale(keys.token_digest(tokens[-1])))
    assert await redis(books, "ZCARD", keys.tokens("minter")) <= AT_ONCE
    assert 0 < await redis(books, "PTTL", keys.tokens("minter")) <= 500
    await cache.close()


async def note_at_once(books: Books, user: str, count: int) -> None:
    """So many tokens of this user are known to Redis, and end before any that comes now."""
    seconds, _ = await redis(books, "TIME")
    digests = [keys.token_digest(b"%d" % number) for number in range(count)]
    async with books.store.client.pipeline() as commands:
        for digest in digests:
            commands.set(keys.jwt_stale(digest), b"{}", ex=500)
            commands.zadd(keys.tokens(user), {digest: int(seconds) * 1000 + 500_000})
        await commands.execute()


async def test_a_user_has_so_many_tokens(books: Books) -> None:
    """Beyond the bound the oldest are forgotten whole: none is known that nobody could have forgotten."""
    await note_at_once(books, "many", MOST_TOKENS_OF_A_USER - 20)
    user = books.simulator.add_user("many@corp.test", external_id="many")
    cache = cache_of(books, seconds=300)
    tokens = [books.simulator.token(user).encode() for _ in range(50)]
    for token in tokens:
        await cache.user(token)
    noted = set(await redis(books, "ZRANGE", keys.tokens("many"), 0, -1))
    assert len(noted) == MOST_TOKENS_OF_A_USER
    assert await names(books, "jwt:stale:*") == {keys.jwt_stale(digest) for digest in noted}
    # Those that came last are among those that stay.
    assert {keys.token_digest(token) for token in tokens} <= noted
    await cache.close()


async def test_all_tokens_of_a_user_are_forgotten(books: Books) -> None:
    """As many as there may be, in few writes; nobody else's; and none that is noted meanwhile stays unnoted."""
    users = [books.simulator.add_user(f"{name}@corp.test", external_id=name) for name in ("all", "other")]
    cache = cache_of(books, seconds=300)
    for user in users:
        tokens = [books.simulator.token(user).encode() for _ in range(MOST_TOKENS_OF_A_USER if user is users[0] else 3)]
        for start in range(0, len(tokens), AT_ONCE):
            await asyncio.gather(*(cache.user(token) for token in tokens[start : start + AT_ONCE]))
    late = books.simulator.token(users[0]).encode()
    await asyncio.gather(cache.forget_users(["all"]), cache.user(late))
    noted = set(await redis(books, "ZRANGE", keys.tokens("all"), 0, -1))
    others = set(await redis(books, "ZRANGE", keys.tokens("other"), 0, -1))
    assert noted <= {keys.token_digest(late)}
    assert len(others) == 3
    known = await names(books, "jwt:stale:*")
    assert known <= {keys.jwt_stale(digest) for digest in others | {keys.token_digest(late)}}
    if keys.jwt_stale(keys.token_digest(late)) in known:
        assert noted
    assert cache.remembered(tokens[0]) is not None
    await cache.close()


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"id":5}', b"\xff", None], ids=repr)
async def test_what_cannot_be_read_is_asked_anew(books: Books, broken: bytes | None) -> None:
    """Whatever stands in a token's place in Redis, also of another type (None): it keeps nobody out."""
    user = books.simulator.add_user("odd@corp.test", external_id="odd")
    token = books.simulator.token(user).encode()
    digest = keys.token_digest(token)
    for key in (keys.jwt(digest), keys.jwt_stale(digest)):
        await (redis(books, "RPUSH", key, "x") if broken is None else redis(books, "SET", key, broken))
    cache = cache_of(books, seconds=300)
    assert (await cache.user(token)).id == "odd"
    assert await redis(books, "GET", keys.jwt(digest)) is not None
    await cache.close()
