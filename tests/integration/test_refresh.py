"""Users who have changed: after a refresh, or a revocation, that holds in all processes within a second.

About: `middleware/refresh.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sentinel.cache import keys
from sentinel.cache.subscription import SubscriptionCache
from sentinel.dev.zion import ZionSimulator
from sentinel.error import InvalidApiKey
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import Quota, Reservation
from sentinel.middleware import rate_limiter
from sentinel.middleware.refresh import MOST_USERS, refresh_users, revoke_user
from tests.support.client import Answer
from tests.support.memory_governance import MemoryGovernance
from tests.support.metering import Books, open_books
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat, post, send
from tests.support.waiting import AT_ONCE_SECONDS, until, wait_until

KEY = "operators-key"
WITHIN_SECONDS = 1.0


@pytest.fixture(scope="module")
def both(stack: Stack) -> list[SentinelProcess]:
    """Two processes on one Redis, which remember for long."""
    return [stack.sentinel(ADMIN_KEY=KEY) for _ in range(2)]


def refresh(sentinel: SentinelProcess, *users: str) -> Answer:
    return send(sentinel, "POST", "/admin/users/refresh", KEY, {"users": list(users)})


def ask(sentinel: SentinelProcess, token: str) -> Answer:
    return post(sentinel, token, chat("[[tokens=1]]"))


def known_to_both(both: list[SentinelProcess], token: str) -> None:
    """Both have the token in memory."""
    for sentinel in both:
        assert [ask(sentinel, token).status for _ in range(2)] == [200, 200]


WAYS: dict[str, Callable[[SentinelProcess, str], Answer]] = {
    "one": lambda sentinel, user: send(sentinel, "POST", f"/admin/users/{user}/refresh", KEY),
    "many": lambda sentinel, user: refresh(sentinel, "nobody-here", user),
    "revoke": lambda sentinel, user: send(sentinel, "POST", f"/admin/users/{user}/revoke", KEY),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", ["revoked token", "disabled user", "another plan", "limits", "deleted user"])
def test_it_holds_in_all_processes(stack: Stack, both: list[SentinelProcess], way: str, change: str) -> None:
    """A revoked token, a disabled or deleted user, another plan, less quota: within a second of the answer."""
    name = f"{way}-{change.replace(' ', '-')}"
    email, zion = f"{name}@corp.test", stack.simulators.zion
    user, token = stack.user(email, limits={"ai_requests": 100})
    known_to_both(both, token)
    stack.booked(4, email)
    match change:
        case "revoked token":
            zion.revoke(token)
        case "disabled user":
            user.status = "forbidden"
        case "another plan":
            user.allowed_models = ["claude-*"]
        case "limits":
            user.limits["ai_requests"] = 1
        case "deleted user":
            # Somebody else has the address, and nobody the id.
            zion.add_user(email, external_id=f"{name}-2", status="revoked")
            user.external_id, user.id = f"{name}-gone", f"{name}-gone"
    # Nothing of it is known before.
    assert ask(both[1], token).status == 200
    answer = WAYS[way](both[0], name)
    assert answer.status == (404 if (way, change) == ("one", "deleted user") else 200)
    expected = {
        "revoked token": (401, "invalid_api_key"),
        "disabled user": (403, "access_denied"),
        "another plan": (403, "model_not_allowed"),
        "limits": (429, "insufficient_quota"),
        "deleted user": (401, "invalid_api_key"),
    }[change]

    def refused(sentinel: SentinelProcess) -> bool:
        found = ask(sentinel, token)
        return found.status != 200 and (found.status, found.error["code"]) == expected

    began = time.monotonic()
    wait_until(lambda: all(map(refused, both)), expected[1], seconds=WITHIN_SECONDS)
    assert time.monotonic() - began < WITHIN_SECONDS


def test_what_the_answer_tells(stack: Stack, both: list[SentinelProcess]) -> None:
    """How many were named, are known here, and have their limits anew; and what went wrong with whom."""
    tokens = {name: stack.user(f"{name}@corp.test")[1] for name in ("told-1", "told-2", "told-3")}
    for token in tokens.values():
        assert ask(both[0], token).status == 200
    zion = stack.simulators.zion
    gone = zion.user("told-3@corp.test")
    gone.external_id, gone.id = "told-3-gone", "told-3-gone"
    zion.add_user("told-3@corp.test", external_id="told-3-other")
    before = len(zion.calls)
    told = refresh(both[0], "told-1", "told-2", "told-3", "stranger", "told-1").json
    assert told == {"users": 5, "known": 3, "refreshed": 2, "errors": {"told-3": "user_not_found"}}
    asked_about = [call.path for call in list(zion.calls)[before:] if "/limits/" in call.path]
    assert sorted(path.rpartition("/")[2] for path in asked_about) == ["told-1", "told-2", "told-3"]


def test_a_governance_that_is_away(stack: Stack, both: list[SentinelProcess]) -> None:
    """Tokens are forgotten all the same: they are asked about anew, and nothing old serves them."""
    user, token = stack.user("away@corp.test")
    known_to_both(both, token)
    stack.simulators.zion.faults.set(status=503)
    try:
        answer = refresh(both[0], "away")
        assert (answer.status, answer.json["errors"]) == (200, {"away": "service_unavailable"})
        wait_until(lambda: ask(both[1], token).status == 503, "both to forget", seconds=WITHIN_SECONDS)
    finally:
        stack.simulators.zion.faults.clear()
    assert user.status == "active"
    assert ask(both[1], token).status == 200


def test_a_revocation_asks_nobody(stack: Stack, both: list[SentinelProcess]) -> None:
    """And the next request asks for the token and the limits."""
    _, token = stack.user("asks@corp.test")
    known_to_both(both, token)
    zion = stack.simulators.zion
    before = len(zion.calls)
    answer = send(both[0], "POST", "/admin/users/asks/revoke", KEY)
    assert answer.json == {"user": "asks", "revoked": True, "known": True}
    assert not any(call.path.startswith("/api/v1/limits") for call in list(zion.calls)[before:])
    assert ask(both[0], token).status == 200
    paths = [call.path for call in list(zion.calls)[before:]]
    assert {"/api/v1/users/me", "/api/v1/limits/external/asks"} <= set(paths)
    nobody = send(both[0], "POST", "/admin/users/not-here/revoke", KEY)
    assert nobody.json == {"user": "not-here", "revoked": True, "known": False}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"users":[]}',
        b'{"users":"ana"}',
        b'{"users":[1]}',
        b'{"users":[""]}',
        json.dumps({"users": ["u" * 257]}).encode(),
        json.dumps({"users": [f"u{number}" for number in range(MOST_USERS + 1)]}).encode(),
    ],
    ids=lambda body: body[:20].decode(),
)
def test_what_cannot_be_read(both: list[SentinelProcess], body: bytes) -> None:
    """Is refused, with the field at fault."""
    assert send(both[0], "POST", "/admin/users/refresh", KEY, body).is_error(400, "invalid_type", param="users")


def test_who_may(stack: Stack, both: list[SentinelProcess], token: str) -> None:
    """The operator alone; a body is bounded."""
    for path in ("/admin/users/refresh", "/admin/users/ana/revoke"):
        assert send(both[0], "POST", path, token, b'{"users":["a"]}').is_error(401, "invalid_api_key")
        assert send(both[0], "POST", path, None, b'{"users":["a"]}').is_error(401, "missing_api_key")
    large = b'{"users":["' + b"a" * 600_000 + b'"]}'
    assert send(both[0], "POST", "/admin/users/refresh", KEY, large).is_error(413, "request_too_large")


def test_a_thousand_strangers_cost_next_to_nothing(stack: Stack, both: list[SentinelProcess]) -> None:
    """Nobody is asked about them, and other requests go on beside it."""
    began = time.monotonic()
    told = refresh(both[0], *(f"stranger-{number}" for number in range(MOST_USERS))).json
    assert told == {"users": MOST_USERS, "known": 0, "refreshed": 0, "errors": {}}
    assert time.monotonic() - began < 10 * AT_ONCE_SECONDS
    assert not any("stranger-" in call.path for call in list(stack.simulators.zion.calls))


# -------------------------------------------------------------------------------------------------- step by step


class Gated(MemoryGovernance):
    """A governance whose answers wait: what it has found out by then is told later."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None
        self.waiting = 0
        self.most = 0

    async def _at_the_gate(self) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        if self.gate is not None:
            await self.gate.wait()
        self.waiting -= 1

    async def identify(self, token: str) -> AuthenticatedUser:
        found = await super().identify(token)
        await self._at_the_gate()
        return found

    async def limits(self, user: str) -> Quota:
        found = await super().limits(user)
        await self._at_the_gate()
        return found


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        yield books


@pytest.fixture
def governance() -> Gated:
    return Gated()


@pytest.fixture
async def caches(books: Books, governance: Gated) -> AsyncIterator[list[SubscriptionCache]]:
    """Of two processes; nobody listens, but for what a test starts."""
    made = [books.subscriptions(governance) for _ in range(2)]
    yield made
    for cache in made:
        await cache.close()


async def asked(governance: Gated, count: int) -> None:
    async def so_many() -> bool:
        return governance.waiting == count

    await until(so_many)


@pytest.mark.parametrize("which", [0, 1], ids=["here", "in another process"])
async def test_what_was_asked_before_is_not_kept(
    books: Books, governance: Gated, caches: list[SubscriptionCache], which: int
) -> None:
    """An answer from before a token was revoked may come after: it is neither remembered, nor shared, nor in Redis."""
    token = governance.add("ivy")
    governance.gate = asyncio.Event()
    early = asyncio.create_task(caches[which].user(token.encode()))
    await asked(governance, 1)
    del governance.tokens[token]
    await caches[0].forget_users(["ivy"])
    if which == 0:
        # Who asks now does not wait for what was asked before.
        with pytest.raises(InvalidApiKey):
            await caches[0].user(token.encode())
    governance.gate.set()
    assert (await early).id == "ivy"
    assert await books.store.command("GET", keys.jwt(keys.token_digest(token.encode()))) is None
    for cache in caches:
        assert cache.remembered(token.encode()) is None
        with pytest.raises(InvalidApiKey):
            await cache.user(token.encode())


async def test_limits_asked_for_before(books: Books, governance: Gated, caches: list[SubscriptionCache]) -> None:
    """They do not come after those of a refresh."""
    governance.add("jay", (5, -1, -1))
    governance.gate = asyncio.Event()
    early = asyncio.create_task(caches[0].fetch_limits("jay", 0))
    await asked(governance, 1)
    governance.granted["jay"] = (3, -1, -1)
    await caches[0].forget_users(["jay"])
    governance.gate.set()
    await caches[0].refresh_limits("jay", -1)
    await early
    assert (await books.ledger.view("jay")).limit == (3, -1, -1)


async def test_all_who_are_named_at_once_are_forgotten(governance: Gated, caches: list[SubscriptionCache]) -> None:
    """By one look at what is in memory; nobody else is, and the event loop goes on meanwhile."""
    listening = asyncio.create_task(caches[1].listen())
    names = [f"many-{number}" for number in range(200)]
    tokens = [governance.add(name).encode() for name in (*names, "other")]
    for start in range(0, len(tokens), 50):
        await asyncio.gather(*(caches[1].user(token) for token in tokens[start : start + 50]))

    async def forgotten() -> bool:
        known = await caches[0].forget_users(names)
        assert len(known) == len(names)
        return [caches[1].remembered(token) is None for token in tokens] == [True] * 200 + [False]

    await until(forgotten)
    listening.cancel()


async def test_limits_are_asked_for_at_bounded_concurrency(
    books: Books, governance: Gated, caches: list[SubscriptionCache]
) -> None:
    """Sixteen at once; who has no account is not asked about, and an error of one stops none of the others."""
    names = [f"crowd-{number}" for number in range(60)]
    for name in names:
        governance.add(name)
        await books.ledger.refresh(name, Quota(), 0)
    del governance.granted["crowd-7"]
    governance.gate = asyncio.Event()
    refreshing = asyncio.create_task(refresh_users([*names, "stranger"], caches[0], books.ledger))
    await asked(governance, 16)
    governance.gate.set()
    told = await refreshing
    assert (told.known, told.refreshed, told.errors) == (60, 59, {"crowd-7": "user_not_found"})
    assert governance.most == 16


async def test_a_revoked_user_gets_nothing_before_limits_are_asked_for(
    books: Books, governance: Gated, caches: list[SubscriptionCache]
) -> None:
    """Also where they were fresh, in the account and in Redis."""
    governance.add("kim", (10, -1, -1))
    asks: list[Any] = [Reservation(f"req_kim_{n}", "kim", "kim@corp.test", "m", 1, 1) for n in range(3)]
    assert (await rate_limiter.reserve(asks[0], books.ledger, caches[0])).admitted
    assert not await revoke_user("nobody", caches[0])
    assert await revoke_user("kim", caches[0])
    assert await books.store.command("GET", keys.limits("kim")) is None
    assert not (await books.ledger.reserve(asks[1])).quota_known
    governance.granted["kim"] = (1, -1, -1)
    verdict = await rate_limiter.reserve(asks[2], books.ledger, caches[0])
    assert not verdict.admitted
