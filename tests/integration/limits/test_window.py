"""The sliding window of the live script, at moments that the test gives: strict, usable, and true about the wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.limits.policy import Cost, Policy, Reservation, Verdict
from tests.support.arrivals import NO_QUOTA, START_MS, USER, Arrive, History, Step, ask_of, policy_of, stories
from tests.support.metering import patient_store

LIMITS = {"ai_requests": 5, "ai_input_tokens": 100, "ai_output_tokens": 150}
SECONDS = 60
_ids = count(1)


@dataclass
class Live:
    """The scripts in Redis as the ledger of a History. Each has a user of its own."""

    runner: asyncio.Runner
    ledger: RedisLedger

    def __post_init__(self) -> None:
        self.user = f"{USER}-{next(_ids)}"
        self.ledger.now_ms = START_MS
        self.runner.run(self.ledger.refresh(self.user, NO_QUOTA, 0))

    def mine(self, ask: Reservation) -> Reservation:
        return Reservation(
            f"{self.user}-{ask.id}",
            self.user,
            ask.email,
            ask.model,
            ask.input_tokens,
            ask.output_tokens,
            ask.least_output,
        )

    def reserve(self, ask: Reservation, now_ms: int) -> Verdict:
        self.ledger.now_ms = now_ms
        return self.runner.run(self.ledger.reserve(self.mine(ask)))

    def settle(self, ask: Reservation, spent: Cost, started_ms: int, now_ms: int) -> object:
        self.ledger.now_ms = now_ms
        return self.runner.run(self.ledger.settle(self.mine(ask), spent, started_ms))

    def extend(self, ask: Reservation, held: int, more: int, started_ms: int, now_ms: int) -> int:
        self.ledger.now_ms = now_ms
        holds = self.runner.run(self.ledger.extend(self.mine(ask), held, more, 0, started_ms))
        assert holds is not None
        return holds - held

    def stored(self) -> bytes:
        async def get() -> bytes:
            return bytes(await self.ledger.store.command("GET", keys.account_keys(self.user).account))

        return self.runner.run(get())


@dataclass
class Scripts:
    """Makes live ledgers on one connection."""

    runner: asyncio.Runner
    store: Store

    def live(self, policy: Policy) -> Live:
        return Live(self.runner, RedisLedger(self.store, policy))

    def history(self) -> History:
        return History(self.live(policy_of(*((name, limit, SECONDS) for name, limit in LIMITS.items()))))


@pytest.fixture(scope="module")
def scripts(store_url: str) -> Iterator[Scripts]:
    """One event loop and one connection for the whole module."""
    with asyncio.Runner() as runner:

        async def opened() -> Store:
            store = patient_store(store_url)
            await store.start()
            return store

        store = runner.run(opened())
        yield Scripts(runner, store)
        runner.run(store.close())


live_settings = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@live_settings
@given(story=stories(SECONDS))
def test_no_interval_holds_more_than_the_limit(scripts: Scripts, story: list[tuple[int, Step]]) -> None:
    """Whatever arrives when, is extended and settled: every interval of the window's length keeps every limit."""
    played = scripts.history()
    played.play(story)
    for dimension, limit in enumerate(LIMITS.values()):
        assert played.most(dimension, SECONDS * 1000) <= limit


@live_settings
@given(before=stories(SECONDS), behind_ms=st.integers(1, 200_000), after=stories(SECONDS))
def test_a_clock_that_goes_back_admits_no_more(
    scripts: Scripts, before: list[tuple[int, Step]], behind_ms: int, after: list[tuple[int, Step]]
) -> None:
    """A replica with a slower clock takes over: in real time the limits hold all the same."""
    played = scripts.history()
    played.play(before)
    played.behind_ms = behind_ms
    played.play(after)
    for dimension, limit in enumerate(LIMITS.values()):
        assert played.most(dimension, SECONDS * 1000) <= limit


@live_settings
@given(story=stories(SECONDS), inputs=st.integers(0, 100))
def test_the_wait_is_the_first_moment_that_fits(scripts: Scripts, story: list[tuple[int, Step]], inputs: int) -> None:
    """Refused requests change not one byte, and are admitted after their wait, not a slice before."""
    played = scripts.history()
    played.play(story)
    live = played.ledger
    assert isinstance(live, Live)
    refused = ask_of(0, inputs, 200)
    verdict = live.reserve(refused, played.now_ms)
    if verdict.blocker is None:
        return
    wait, before = verdict.blocker.wait_ms, live.stored()
    assert wait is not None
    for early in (wait, wait // 2, SECONDS * 1000 // 60, 1):
        if early <= wait:
            assert not live.reserve(refused, played.now_ms + wait - early).admitted
    assert live.stored() == before
    assert live.reserve(refused, played.now_ms + wait).admitted


@pytest.mark.parametrize("seconds", [1, 60])
def test_nearly_all_of_the_limit_is_usable(scripts: Scripts, seconds: int) -> None:
    """Under constant demand of three times the limit at least 58/60 of it is admitted."""
    live, limit, windows = scripts.live(policy_of(("ai_requests", 60, seconds))), 60, 10
    moments = [START_MS + n * seconds * 1000 // (3 * limit) for n in range(3 * limit * windows)]
    assert (
        sum(live.reserve(ask_of(n), moment).admitted for n, moment in enumerate(moments)) >= windows * limit * 58 / 60
    )


def test_a_clock_that_goes_back_locks_nobody_out(scripts: Scripts) -> None:
    """However far it goes back, the user waits for one window at most, though they keep asking meanwhile."""
    played = scripts.history()
    while played.arrive(Arrive(0, 0)).admitted:
        pass
    played.behind_ms = 365 * 86_400_000
    for _ in range(61):
        assert not played.arrive(Arrive(0, 0)).admitted
        played.now_ms += 1000
    assert played.arrive(Arrive(0, 0)).admitted


def test_the_clock_is_that_of_redis(scripts: Scripts) -> None:
    """Without a moment from the test Redis gives it, and it is told with the verdict, in milliseconds."""
    live = scripts.live(policy_of())
    live.ledger.now_ms = 0

    async def time() -> list[int]:
        return [int(part) for part in await scripts.store.command("TIME")]

    before = scripts.runner.run(time())
    verdict = scripts.runner.run(live.ledger.reserve(live.mine(ask_of(1))))
    after = scripts.runner.run(time())
    assert before[0] * 1000 + before[1] // 1000 <= verdict.now_ms <= after[0] * 1000 + after[1] // 1000
